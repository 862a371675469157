"""Every file of a run, altered: read or refused in plain words, soon, and nothing replaced."""

import sys
import tempfile
from pathlib import Path

import alterations
import pytest
import torch
from alterations import FILES, Altered
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from worlds import command

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc to measure memory, and pipes")


def judge(found):
    wrong = [item for item in found if item.outcome not in ("read", "refused")]
    assert [(item.file, item.how, item.words, item.outcome, item.said[-500:]) for item in wrong] == []
    refused = [item for item in found if item.outcome == "refused"]
    assert all(item.said.count("error: ") == 1 and "remedy: " in item.said for item in refused)


def test_altered_file_is_read_or_refused_and_nothing_is_replaced(world, tmp_path):
    found = alterations.run(world, range(60), tmp_path)
    judge(found)
    assert len({item.file for item in found}) > 12
    assert sum(item.outcome == "refused" for item in found) > 12


CHECKPOINTS = [(kind, file) for kind, files in FILES.items() for file in files if file.endswith(".pt")]


@pytest.mark.parametrize("count", [30, pytest.param(10_000, marks=pytest.mark.slow)])
def test_altered_checkpoint_is_read_or_refused(world, tmp_path, count):
    @settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.sampled_from(CHECKPOINTS), st.randoms(use_true_random=False))
    def examine(checkpoint, rng):
        with tempfile.TemporaryDirectory(dir=tmp_path) as place:
            judge([alterations.examine_file(world, *checkpoint, rng, Path(place))])

    examine()


@pytest.mark.parametrize(
    "place",
    [("network", "model.0.conv.weight"), ("average", "model.0.conv.weight"), ("optimizer", "state", 0, "exp_avg")],
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_checkpoint_that_is_not_finite_is_not_resumed(world, tmp_path, place, value):
    path = world.copy("stopped", tmp_path / "run") / "checkpoints" / "last-000004.pt"
    state = torch.load(path, weights_only=True)
    held = state
    for key in place:
        held = held[key]
    held.view(-1)[0] = value
    alterations.save(state, path, listed=True)
    ended = command("train", world.recipe, "--resume", "--output", path.parents[1])
    assert ended.code == 2
    assert f"{'.'.join(map(str, place))} has values that are not finite" in ended.said
    path.unlink()
    assert command("train", world.recipe, "--resume", "--output", path.parents[1]).code == 0


@pytest.mark.parametrize("moment", ["step", "exp_avg", "exp_avg_sq"])
def test_checkpoint_without_a_moment_of_a_weight_is_refused(world, tmp_path, moment):
    path = world.copy("stopped", tmp_path / "run") / "checkpoints" / "last-000004.pt"
    state = torch.load(path, weights_only=True)
    del state["optimizer"]["state"][0][moment]
    alterations.save(state, path, listed=True)
    ended = command("train", world.recipe, "--resume", "--output", tmp_path / "run")
    assert ended.code == 2
    assert "of parameter 0 it holds" in ended.said


@pytest.mark.parametrize(("moment", "shape"), [("step", (4,)), ("exp_avg", ()), ("exp_avg_sq", (1,))])
def test_checkpoint_with_a_moment_of_another_shape_is_refused(world, tmp_path, moment, shape):
    path = world.copy("stopped", tmp_path / "run") / "checkpoints" / "last-000004.pt"
    state = torch.load(path, weights_only=True)
    state["optimizer"]["state"][0][moment] = torch.ones(shape)
    alterations.save(state, path, listed=True)
    ended = command("train", world.recipe, "--resume", "--output", tmp_path / "run")
    assert ended.code == 2
    assert f"{moment} of parameter 0 is not of the shape" in ended.said


@pytest.mark.slow
def test_thousands_of_altered_files(world, tmp_path):
    found = alterations.run(world, range(1000, 3000), tmp_path)
    judge(found)
    assert {item.file for item in found} == {f"{kind}/{file}" for kind, files in FILES.items() for file in files}


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        (lambda run: 1 / 0, "traceback"),
        (lambda run: (run / "split.json").write_text("{}"), "refused, and changed"),
        (lambda run: (run / "history.csv").unlink(), "refused, and changed"),
    ],
)
def test_harness_sees_what_must_not_be(world, tmp_path, monkeypatch, broken, expected):
    """A command that crashes, or that changes a file before it refuses."""
    from pipeline.errors import Problem, UserError

    def load_model(run, *_):
        broken(run)
        raise UserError("no", [Problem("x", "y", "z", "w")])

    monkeypatch.setattr("pipeline.runs.prediction.load_model", load_model)
    monkeypatch.setattr(alterations, "alter", lambda *_: "not at all")
    monkeypatch.setattr(alterations, "FILES", {"done": ("split.json",)})
    words = ["predict", tmp_path / "run", world.data / "imagesTs", "--output", tmp_path / "masks"]
    monkeypatch.setattr(alterations, "commands_for", lambda *_: words)
    found = alterations.examine(world, 0, tmp_path)
    assert isinstance(found, Altered)
    assert found.outcome.startswith(expected)
