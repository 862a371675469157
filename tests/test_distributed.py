"""Several processes that make one training: the same weights as one, and one end for all."""

import signal

import pytest
import ranks
import torch
from runs_fixtures import TINY, make_phantom, state_of, write_recipe

from pipeline import runs
from pipeline.engines.units import branches

SUPERVISED = {"objective": [{"loss": "dice"}, {"loss": "balanced_ce"}]}
# Values of four kinds: two streams, a teacher that follows, labels of another source, and a term that pools a batch.
SEMI = {
    "network": {"name": "unet", "options": {"channels": [4, 8], "num_res_units": 0, "dropout": 0.2}},
    "sources": [{"source": "mean_teacher"}, {"source": "copy_paste"}],
    "objective": [
        {"loss": "dice"},
        {"loss": "class_mean_ncut", "on": "all", "weight": 0.1, "options": {"radius": 2, "batch": True}},
        {"loss": "cross_entropy", "on": "unlabelled", "judges": "mixed_logits", "against": ["mixed_label"]},
        {"loss": "consistency", "on": "unlabelled", "weight": 0.5},
    ],
}


def recipe_of(folder, dataset, units, batch=2, **changes):
    data = TINY["data"] | {"batch_size": batch, "unlabelled_batch_size": batch, "units": units}
    return write_recipe(folder, dataset, data=data | changes.pop("data", {}), **changes)


def weights_of(run):
    return state_of(run)["network"]


def assert_same(one, other):
    first, second = weights_of(one), weights_of(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def train_alone(recipe, run, *overrides, **how):
    runs.train(runs.read_recipe(recipe, overrides), run, **how)
    return run


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_phantom(tmp_path_factory.mktemp("ranks") / "data", labelled=7, unlabelled=2)


@pytest.mark.parametrize("units", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("processes", [1, 2, 3, 4, 7])
def test_branches_of_all_processes_make_the_tree_whole(units, processes):
    shares = [(n * units // processes, (n + 1) * units // processes) for n in range(processes)]
    found = [branch for share in shares for branch in branches(0, units, *share)]
    assert [unit for first, last in found for unit in range(first, last)] == list(range(units))


def test_two_processes_train_as_one_does(tmp_path, dataset):
    recipe = recipe_of(tmp_path, dataset, 2, **SEMI)
    both = ranks.start(2, ranks.command, tmp_path, "train", str(recipe), "--output", str(tmp_path / "two"))
    train_alone(recipe, tmp_path / "one")
    assert ranks.wait_for(*both) == [0, 0], both[0].told + both[1].told
    assert_same(tmp_path / "one", tmp_path / "two")
    for name in ("history.csv", "validation.csv", "cases.csv", "config.yaml", "summary.json"):
        assert (tmp_path / "two" / name).read_text() == (tmp_path / "one" / name).read_text()
    assert "trained to step" in both[0].told
    assert both[1].told == ""


def train_words(recipe, run, *words):
    return ("train", str(recipe), "--output", str(run), *words)


@pytest.mark.parametrize(
    ("how", "codes", "who", "told"),
    [
        ("raise 5", [2, 2], 1, "On process 1 of 2"),
        ("SIGKILL 5", [2, -signal.SIGKILL], 0, "process 1 of 2 (counted from 0) has ended without a word"),
        ("SIGTERM 5", [143, 143], 0, "stopped; `train` goes on with --resume"),
    ],
    ids=["raise", "kill", "term"],
)
@pytest.mark.slow
def test_what_ends_one_process_ends_both_and_the_run_goes_on(tmp_path, dataset, mortal, how, codes, who, told):
    recipe = recipe_of(tmp_path, dataset, 2, plugins=[str(mortal)], objective=[{"loss": "mortal"}])
    run = tmp_path / "run"
    both = ranks.start(2, ranks.command, tmp_path, *train_words(recipe, run), environments={1: {"DIE": how}})
    assert ranks.wait_for(*both) == codes, both[0].told + both[1].told
    assert told in both[who].told
    assert both[1 - who].told.count("\n") <= 2
