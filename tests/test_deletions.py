"""Folders in any state: no sound checkpoint and no file of anybody else's is ever gone."""

import re

import deletions
import pytest
from worlds import Ended, contents


def judge(world, found, before):
    assert [item for item in found if item[1] not in ("done", "refused")] == []
    after = contents(world.base)
    assert {name for name, content in before.items() if after.get(name) != content} == set()


def test_no_command_deletes_or_replaces_what_is_not_its_own(world, tmp_path):
    before = contents(world.base)
    found = deletions.run(world, range(40), tmp_path)
    judge(world, found, before)
    assert {outcome for _, outcome, _ in found} == {"done", "refused"}


@pytest.mark.slow
def test_no_command_does_in_500_states(world, tmp_path):
    before = contents(world.base)
    found = deletions.run(world, range(1000, 1500), tmp_path)
    judge(world, found, before)
    commands = {how.rpartition(": ")[2].split()[0] for how, _, _ in found}
    assert commands >= {"train", "validate", "predict", "evaluate", "compare", "check", "plan", "phantom", "prune"}


def test_harness_sees_a_checkpoint_and_a_file_that_go(world, tmp_path, monkeypatch):
    def clumsy(*words):
        for path in (tmp_path / "run").rglob("*"):
            if path.is_file():
                path.unlink()
        return Ended(2, "", 0.0, 0)

    monkeypatch.setattr(deletions, "RUNS", ("done",))
    monkeypatch.setattr(deletions, "command", clumsy)
    monkeypatch.setattr(deletions, "draw_command", lambda *_: ["train"])
    _, outcome, _ = deletions.examine(world, 0, tmp_path)
    assert re.search(r"the checkpoint run/checkpoints/\S+\.pt is gone", outcome)
