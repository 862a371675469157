"""Several processes that make one training: the same weights as one, and one end for all."""

import re
import signal
import sys
from types import SimpleNamespace

import pytest
import ranks
import torch
from runs_fixtures import TINY, assert_same_run, digest, make_phantom, state_of, write_recipe
from torch import nn

from pipeline import runs
from pipeline.data import cache as cache_module
from pipeline.data.cache import Cache
from pipeline.distributed import agree, from_first, joined, launched, rank, size
from pipeline.engines.units import UnitPass, branches, own_slots
from pipeline.errors import UserError
from pipeline.networks import to_channels_last
from pipeline.runs.refusals import refuse_mixing

MORTAL = [{"loss": "mortal"}, {"loss": "balanced_ce"}]
# A loss that is NaN in its fourth step.
UNDEFINED = """
from pipeline.losses import LOSSES, LabelLoss


@LOSSES.register("undefined")
class UndefinedLoss(LabelLoss):
    \"\"\"The mean probability of the background.\"\"\"

    calls = 0

    def forward(self, logits, labels):
        UndefinedLoss.calls += 1
        return self.probabilities(logits)[:, 0].mean() * (float("nan") if UndefinedLoss.calls == 4 else 1.0)
"""
# Two streams, dropout, a teacher that follows, mixed scans, and terms that count and pool over a batch.
SEMI = {
    "network": {"name": "unet", "options": {"channels": [4, 8], "num_res_units": 0, "dropout": 0.2}},
    "sources": [{"source": "mean_teacher"}, {"source": "copy_paste"}],
    "objective": [
        {"loss": "dice"},
        {"loss": "balanced_ce"},
        {"loss": "class_mean_ncut", "on": "all", "weight": 0.1, "options": {"radius": 2, "batch": True}},
        {"loss": "cross_entropy", "on": "unlabelled", "judges": "mixed_logits", "against": ["mixed_label"]},
        {"loss": "consistency", "on": "unlabelled", "weight": 0.5},
    ],
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_phantom(tmp_path_factory.mktemp("ranks") / "data", labelled=7, unlabelled=2)


def recipe_of(folder, dataset, units=2, batch=2, **changes):
    """A tiny recipe that holds out three cases, which two processes cannot share evenly."""
    data = {"batch_size": batch, "unlabelled_batch_size": batch, "units": units, "validation_fraction": 0.45}
    return write_recipe(folder, dataset, data=TINY["data"] | data, **changes)


def train_alone(recipe, run, **how):
    runs.train(runs.read_recipe(recipe), run, **how)
    return run


def words(recipe, run, *more):
    return ("train", str(recipe), "--output", str(run), *more)


def train_together(count, folder, recipe, run, *more, environments=None):
    """Run the command in several processes, and return them and their exit codes."""
    started = ranks.start(count, ranks.command, folder, *words(recipe, run, *more), environments=environments)
    return started, ranks.wait_for(*started, seconds=240)


@pytest.mark.parametrize("units", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("processes", [1, 2, 3, 4, 7])
def test_branches_of_all_processes_are_all_units_in_order(units, processes):
    shares = [(n * units // processes, (n + 1) * units // processes) for n in range(processes)]
    found = [branch for share in shares for branch in branches(0, units, *share)]
    assert [unit for first, last in found for unit in range(first, last)] == list(range(units))


def test_a_process_alone_has_every_slot_and_agrees_with_itself(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined():
        assert (rank(), size(), launched()) == (0, 1, 1)
        assert own_slots(6, 2, 3) == list(range(6))
        assert agree("one") == ["one"]
        assert from_first(lambda: "made") == "made"


@pytest.mark.parametrize(
    ("variables", "count"),
    [({"WORLD_SIZE": "4"}, 4), ({"SLURM_STEP_NUM_TASKS": "3"}, 3), ({"SLURM_NTASKS": "3"}, 1), ({"WORLD_SIZE": ""}, 1)],
)
def test_number_of_processes_is_the_launchers(monkeypatch, variables, count):
    for name in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert launched() == count


class Judge:
    """An objective of the logits of labelled scans."""

    def needed(self, batches, progress):
        return [("labelled", "logits")]

    def __call__(self, streams, progress):
        self.judged = streams["labelled"]["logits"]
        return self.judged.square().mean(), {}


def test_values_and_gradients_have_the_layout_of_what_another_process_sends():
    """Sums, of a loss or of a gradient's norm, follow the order of the memory, and it changed their last bits."""
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 3, 3))
    to_channels_last(network)
    in_units = UnitPass(
        units=2,
        parameters=list(network.parameters()),
        device=torch.device("cpu"),
        seeds=(1,),
        load=lambda batches: {"labelled": {"logits": network(batches["labelled"]["image"])}},
    )
    judge = Judge()
    total, _ = in_units.forward(judge, {"labelled": {"image": torch.randn(4, 2, 9, 9)}}, 0.5)
    assert not network(torch.randn(4, 2, 9, 9)).is_contiguous()
    assert judge.judged.is_contiguous()
    assert all(gradient.is_contiguous() for gradient in in_units.backward(total).values())


def test_units_that_do_not_divide_a_batch_are_refused(tmp_path, dataset):
    with pytest.raises(UserError, match="3 does not divide 4"):
        train_alone(recipe_of(tmp_path, dataset, units=3, batch=4), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "layer", [nn.BatchNorm3d(2), nn.SyncBatchNorm(2), nn.InstanceNorm3d(2, track_running_stats=True)]
)
def test_layers_with_statistics_of_a_batch_are_refused_in_units(layer):
    networks = [nn.Sequential(nn.Conv3d(1, 2, 1), layer)]
    refuse_mixing(SimpleNamespace(data=SimpleNamespace(units=1)), networks)
    refuse_mixing(SimpleNamespace(data=SimpleNamespace(units=2)), [nn.InstanceNorm3d(2)])
    with pytest.raises(UserError, match=type(layer).__name__):
        refuse_mixing(SimpleNamespace(data=SimpleNamespace(units=2)), networks)


def test_two_processes_train_and_validate_as_one_does(tmp_path, dataset):
    recipe = recipe_of(tmp_path, dataset, max_steps=4, validate_every=2, **SEMI)
    both, codes = train_together(2, tmp_path, recipe, tmp_path / "two")
    assert codes == [0, 0], both[0].told + both[1].told
    train_alone(recipe, tmp_path / "one")
    assert_same_run(tmp_path / "one", tmp_path / "two")
    assert (tmp_path / "two" / "config.yaml").read_text() == (tmp_path / "one" / "config.yaml").read_text()
    assert (tmp_path / "two" / "report.html").exists()
    assert "trained to step" in both[0].told
    assert both[1].told == ""


def prepare_noting(*words):
    """Run the command, and say on standard error which scans this process prepares and which entries it verifies."""
    prepare, is_sound = Cache._prepare, cache_module._is_sound

    def noted(cache, case):
        print("prepares", case.id, file=sys.stderr, flush=True)
        return prepare(cache, case)

    def verified(path):
        print("verifies", path.name, file=sys.stderr, flush=True)
        return is_sound(path)

    Cache._prepare, cache_module._is_sound = noted, verified
    ranks.command(*words)


@pytest.mark.slow
def test_each_scan_is_prepared_or_verified_by_one_process(tmp_path, dataset):
    recipe = recipe_of(tmp_path, dataset)
    for run, act in (("first", "prepares"), ("second", "verifies")):  # The second finds all of them prepared.
        given = words(recipe, tmp_path / run, f"data.cache={tmp_path / 'cache'}")
        both = ranks.start(2, prepare_noting, tmp_path, *given)
        assert ranks.wait_for(*both, seconds=240) == [0, 0], both[0].told + both[1].told
        names = [[line for line in rank.told.splitlines() if line.startswith(act)] for rank in both]
        entries = [*(tmp_path / "cache").glob("*.npz")]
        assert (len({*names[0], *names[1]}), {*map(len, names)}) == (len(entries), {len(entries) // 2})
        assert len(entries) == 6


@pytest.mark.parametrize(
    ("how", "codes", "who", "told"),
    [
        ("raise 5", [2, 2], 1, "On process 1 of 2"),
        ("SIGKILL 5", [2, -signal.SIGKILL], 0, "process 1 of 2 (counted from 0) has ended without a word"),
        ("SIGTERM 5", [143, 143], 0, "stopped; `train` goes on with --resume"),
    ],
    ids=["error", "kill", "signal"],
)
@pytest.mark.slow
def test_what_ends_one_process_ends_both_and_any_number_goes_on(tmp_path, dataset, mortal, how, codes, who, told):
    recipe = recipe_of(tmp_path, dataset, plugins=[str(mortal)], objective=MORTAL)
    both, ended = train_together(2, tmp_path, recipe, tmp_path / "run", environments={1: {"DIE": how}})
    assert ended == codes, both[0].told + both[1].told
    assert told in both[who].told
    assert "error" not in both[1 - who].told
    assert 0 < state_of(tmp_path / "run")["step"] <= 5
    three, ended = train_together(3, tmp_path, recipe, tmp_path / "run", "--resume")
    assert ended == [0, 0, 0], three[0].told
    train_alone(recipe, tmp_path / "alone")
    assert digest(state_of(tmp_path / "run")) == digest(state_of(tmp_path / "alone"))


@pytest.mark.slow
def test_a_run_of_two_processes_goes_on_in_one_with_its_own_units(tmp_path, dataset):
    recipe = recipe_of(tmp_path, dataset, units="auto", max_steps=4)
    _, codes = train_together(2, tmp_path, recipe, tmp_path / "run")
    assert codes == [0, 0]
    longer = runs.read_recipe(recipe, ("max_steps=6",))
    runs.train(longer, tmp_path / "run", resume=True, allow_change=("max_steps",))
    assert "units: 2" in (tmp_path / "run" / "config.yaml").read_text()
    assert state_of(tmp_path / "run")["step"] == 6


@pytest.mark.cuda
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices, between which NCCL exchanges")
def test_two_gpus_train_as_one_does(tmp_path, dataset):
    recipe = recipe_of(tmp_path, dataset, device="cuda", objective=[{"loss": "dice"}, {"loss": "balanced_ce"}])
    both, codes = train_together(2, tmp_path, recipe, tmp_path / "two")
    assert codes == [0, 0], both[0].told + both[1].told
    train_alone(recipe, tmp_path / "one")
    assert digest(state_of(tmp_path / "two")) == digest(state_of(tmp_path / "one"))


@pytest.mark.slow
def test_a_loss_that_is_nan_ends_both_with_one_message(tmp_path, dataset):
    plugin = tmp_path / "undefined.py"
    plugin.write_text(UNDEFINED)
    recipe = recipe_of(tmp_path, dataset, plugins=[str(plugin)], objective=[{"loss": "undefined"}])
    both, codes = train_together(2, tmp_path, recipe, tmp_path / "run")
    assert codes == [2, 2], both[0].told + both[1].told
    assert "not finite at step 4" in both[0].told
    assert both[1].told == ""
    assert state_of(tmp_path / "run")["step"] == 2  # That of the last checkpoint, which is kept.


@pytest.mark.slow
def test_patience_of_the_first_ends_all_at_the_same_step(tmp_path, dataset):
    recipe = recipe_of(tmp_path, dataset, max_steps=40, validate_every=2, patience=1)
    _, codes = train_together(2, tmp_path, recipe, tmp_path / "run")
    assert codes == [0, 0]
    assert "corrections" in (tmp_path / "run" / "config.yaml").read_text()
    assert state_of(tmp_path / "run")["step"] < 40


@pytest.mark.slow
def test_mistakes_are_told_once_and_folds_are_refused(tmp_path, dataset):
    recipe = recipe_of(tmp_path, dataset)
    for more, told in [(("--folds", "2"), "one training after the other"), (("max_steps=-1",), "max_steps")]:
        both, codes = train_together(2, tmp_path, recipe, tmp_path / "run", *more)
        assert codes == [2, 2]
        assert told in both[0].told
        assert both[1].told == ""
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_time_budget_is_kept_by_two_processes(tmp_path, dataset):
    recipe = recipe_of(tmp_path, dataset, units="auto", max_steps="auto", time_budget="60s")
    both, codes = train_together(2, tmp_path, recipe, tmp_path / "run")
    assert codes == [0, 0], both[0].told + both[1].told
    assert re.search(r"ends after|time budget 60s: \d+ steps", both[0].told)
    assert (tmp_path / "run" / "budget.json").exists()
