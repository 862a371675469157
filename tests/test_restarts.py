"""Processes that torchrun starts again after one was killed, and the end of those that are done."""

import os
import subprocess
import sys
import threading
import time

import pytest
import ranks
from runs_fixtures import TINY, digest, make_phantom, state_of, write_recipe

from pipeline import attempts, distributed, heartbeats, runs
from pipeline.heartbeats import LOOKED, Heartbeats

# A loss that kills its process in the fifth step of the first attempt; one of two processes, as a variable says.
KILLER = '''
import os
import signal

from pipeline.losses import LOSSES, LabelLoss


@LOSSES.register("killer")
class KillerLoss(LabelLoss):
    """The mean probability of a wrong class."""

    calls = 0

    def forward(self, logits, labels):
        KillerLoss.calls += 1
        here = os.environ.get("RANK"), os.environ.get("TORCHELASTIC_RESTART_COUNT")
        if KillerLoss.calls == 5 and here == (os.environ.get("VICTIM"), "0"):
            os.kill(os.getpid(), signal.SIGKILL)
        p = self.probabilities(logits)
        return 1 - (p * self.one_hot(labels, like=p)).sum(dim=1).mean()
'''


@pytest.mark.parametrize(
    ("variables", "place"),
    [({"TORCHELASTIC_USE_AGENT_STORE": "True"}, "attempt://"), ({"TORCHELASTIC_USE_AGENT_STORE": "False"}, "env://")],
)
def test_only_a_store_that_outlives_an_attempt_is_divided(monkeypatch, variables, place):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert attempts.meeting_place() == place
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE")
    assert attempts.meeting_place() == "env://"


class SlowStore:
    """A store whose answers come late, as from a busy machine."""

    def __init__(self, store):
        self.store = store

    def add(self, key, amount):
        time.sleep(0.7)
        return self.store.add(key, amount)


def join_and_leave():
    with distributed.joined():
        distributed._group.hearts.store = SlowStore(distributed._group.hearts.store)
        time.sleep(0.5)
    sys.exit(sum(thread.daemon for thread in threading.enumerate()))


def test_no_thread_is_within_pytorch_when_a_process_ends(tmp_path):
    both = ranks.start(2, join_and_leave, tmp_path)
    assert ranks.wait_for(*both) == [0, 0], both[0].told + both[1].told


class Counts:
    """A store in which the last of four hearts does not beat, and of the others one looks late."""

    def __init__(self):
        self.counts = {}
        self.asked = 0

    def add(self, key, amount):
        self.counts[key] = self.counts.get(key, 0) + amount
        if key == LOOKED:
            self.asked += 1
            return self.counts[key] + 1 + (self.asked > 3)
        return self.counts[key] + (0 if key.endswith("/3") else time.monotonic())


def test_the_first_process_stays_with_the_store_until_all_that_are_left_have_looked(monkeypatch):
    monkeypatch.setattr(heartbeats, "SILENT_S", 0.05)
    monkeypatch.setattr(heartbeats, "BEAT_S", 0.01)
    for number, asked in ((0, 4), (1, 1)):
        store = Counts()
        assert Heartbeats(store=store, number=number, count=4).silent() == [3]
        assert store.asked == asked


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A recipe, and the digest of its weights after a training that nothing happened to."""
    folder = tmp_path_factory.mktemp("restarts")
    plugin = folder / "killer.py"
    plugin.write_text(KILLER)
    dataset = make_phantom(folder / "data", labelled=4, unlabelled=0)
    data = TINY["data"] | {"batch_size": 2, "units": 2}
    killer = {"plugins": [str(plugin)], "objective": [{"loss": "killer"}]}
    recipe = write_recipe(folder, dataset, data=data, max_steps=8, **killer)
    runs.train(runs.read_recipe(recipe), folder / "alone")
    return recipe, digest(state_of(folder / "alone"))


@pytest.mark.slow
@pytest.mark.parametrize(("victim", "store"), [(0, "shared"), (1, "shared"), (1, "new")])
def test_torchrun_goes_on_by_itself_after_a_kill(tmp_path, alone, victim, store):
    recipe, expected = alone
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--max-restarts", "1"]
    words = ["-m", "fewmask", "train", str(recipe), "--output", str(tmp_path / "run"), "--resume"]
    about = os.environ | {"VICTIM": str(victim), "OMP_NUM_THREADS": "1"}
    if store == "new":
        launcher.append("--standalone")
        about["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    done = subprocess.run([*launcher, *words], env=about, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert f"process {victim} of 2 (counted from 0) has ended without a word" in done.stderr
    assert "trained to step 8" in done.stderr
    assert digest(state_of(tmp_path / "run")) == expected
