"""Trainings of which the cases are drawn by a seed of their own, and those that nothing validates."""

import json

import pytest
import yaml
from commands import fewmask
from runs_fixtures import make_phantom, state_of, train, write_recipe

from pipeline import runs
from pipeline.data.layouts import Dataset
from pipeline.data.splits import without_validation
from pipeline.errors import UserError
from pipeline.reports.plots import draw_training
from pipeline.runs import reporting
from pipeline.runs.planning import prepare

SUPERVISED = [{"loss": "dice"}]
NONE = "data.validation=none"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("whole")


@pytest.fixture(scope="module")
def dataset(folder):
    return make_phantom(folder / "phantom", labelled=5, unlabelled=1)


@pytest.fixture(scope="module")
def listed(folder, dataset):
    """The same scans with a validation list and a test set."""
    content = json.loads((dataset / "dataset.json").read_text())
    entries = content["training"]
    path = dataset / "list.json"
    lists = {"training": entries[:3], "validation": entries[3:4], "test": [entries[4]["image"]]}
    path.write_text(json.dumps(lists))
    return path


@pytest.fixture(scope="module")
def whole(folder, listed):
    return train(folder, listed, "run", NONE, objective=SUPERVISED, max_steps=4)


def held_out(recipe, *overrides):
    return prepare(runs.read_recipe(recipe, overrides)).split.as_dict()["validation"]


# A seed of the split


def test_cases_are_drawn_by_the_seed_of_the_split_and_without_it_by_the_recipes(dataset, tmp_path):
    recipe = write_recipe(tmp_path, dataset)
    by_seed = {seed: held_out(recipe, f"seed={seed}") for seed in range(5)}
    assert len({tuple(cases) for cases in by_seed.values()}) > 1
    for seed, cases in by_seed.items():
        assert held_out(recipe, "seed=9", f"data.split_seed={seed}") == cases


def test_folds_are_drawn_by_the_seed_of_the_split(dataset, tmp_path):
    recipe = write_recipe(tmp_path, dataset)
    first = ["data.fold=[1, 5]"]
    by_seed = {seed: held_out(recipe, f"seed={seed}", *first) for seed in range(5)}
    assert len({tuple(cases) for cases in by_seed.values()}) > 1
    for seed, cases in by_seed.items():
        assert held_out(recipe, "seed=9", f"data.split_seed={seed}", *first) == cases


def test_trainings_of_two_seeds_have_one_split(dataset, tmp_path):
    how = {"objective": SUPERVISED, "max_steps": 2}
    one, other = (train(tmp_path, dataset, f"run{seed}", f"seed={seed}", "data.split_seed=1", **how) for seed in (1, 2))
    assert (one / "split.json").read_bytes() == (other / "split.json").read_bytes()
    assert state_of(one)["step"] == 2
    assert (one / "history.csv").read_bytes() != (other / "history.csv").read_bytes()


# Nothing validates


def test_every_mask_is_trained_on_those_of_the_validation_list_too(whole):
    split = json.loads((whole / "split.json").read_text())
    expected = [f"phantom_{n:03d}" for n in range(4)]
    assert split == {"labelled": expected, "unlabelled": [], "validation": [], "unlike": []}


def test_nothing_is_scored_and_no_checkpoint_is_best(whole):
    assert state_of(whole)["best"] is None
    assert not list((whole / "checkpoints").glob("best*"))
    assert not {"cases.csv", "summary.json", "report.html"} & {path.name for path in whole.iterdir()}
    assert (whole / "training.png").exists()
    assert (whole / "history.csv").read_text().count("\n") > 1


def test_the_picture_of_a_training_has_no_plot_of_a_validation_that_does_not_exist(listed, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(reporting, "draw_training", lambda _, terms, dice: drawn.append((set(terms), dice)))
    train(tmp_path, listed, "none", NONE, objective=SUPERVISED, max_steps=3)
    train(tmp_path, listed, "some", objective=SUPERVISED, max_steps=3)
    (terms, nothing), (_, dice) = drawn[0], drawn[-1]
    assert terms
    assert nothing is None
    assert dice


def test_the_loss_alone_is_drawn_larger(tmp_path):
    from matplotlib.figure import Figure

    counts = []
    with pytest.MonkeyPatch.context() as patch:
        subplots = Figure.subplots
        patch.setattr(Figure, "subplots", lambda self, *n, **how: counts.append(n) or subplots(self, *n, **how))
        for dice in (None, [], [(1, 0.5)]):
            draw_training(tmp_path / "p.png", {"dice": [(1, 1.0), (2, 0.5)]}, dice)
    assert counts == [(1, 1), (2, 1), (2, 1)]


def test_the_terminal_says_so_and_validating_it_is_refused_with_a_remedy(whole, listed, tmp_path):
    recipe = write_recipe(tmp_path, listed, objective=SUPERVISED, max_steps=2)
    done = fewmask("train", recipe, NONE, "--output", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "on every mask (data.validation is none)" in done.stdout
    assert "Dice" not in done.stdout
    before = sorted(whole.rglob("*"))
    done = fewmask("validate", whole)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert "was trained on every mask" in done.stderr
    assert "--dataset" in done.stderr
    assert sorted(whole.rglob("*")) == before


def test_another_dataset_validates_it(whole, folder):
    other = make_phantom(folder / "other", labelled=2, unlabelled=0, seed=5)
    scores = runs.validate(whole, other)
    assert scores.summary.n_cases == 2
    with pytest.raises(UserError, match="has no labelled case that the run was not trained on"):
        runs.validate(whole, whole.parent / "phantom" / "list.json")


def test_a_stopped_run_goes_on_to_the_same_end(whole, listed, tmp_path):
    train(tmp_path, listed, "run", NONE, objective=SUPERVISED, max_steps=4, resume=True)
    assert (tmp_path / "run" / "history.csv").read_bytes() == (whole / "history.csv").read_bytes()
    train(tmp_path, listed, "run", NONE, objective=SUPERVISED, max_steps=4, resume=True)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([NONE, "patience=2"], "patience looks at it"),
        ([NONE, "data.fold=[1, 2]"], "data.validation is none"),
        ([NONE, "data.split=s.json"], "data.split says who validates"),
        (["data.split=s.json", "data.split_seed=1"], "nothing is drawn where data.split names a file"),
        (["data.split_seed=-1"], "split_seed"),
        (["data.validation=some"], "held_out"),
    ],
)
def test_keys_that_contradict_each_other_are_refused(tmp_path, overrides, message):
    recipe = write_recipe(tmp_path, "data")
    with pytest.raises(UserError, match=message):
        runs.read_recipe(recipe, overrides)


def test_a_cross_validation_of_it_is_refused(listed, tmp_path):
    recipe = runs.read_recipe(write_recipe(tmp_path, listed, objective=SUPERVISED), [NONE])
    with pytest.raises(UserError, match="lets each part validate"):
        runs.cross_validate(recipe, tmp_path / "run", 2)
    assert not (tmp_path / "run").exists()


def test_a_dataset_with_nothing_to_train_on_is_refused():
    for with_labels in (True, False):
        with pytest.raises(UserError, match="is left to train on"):
            without_validation(Dataset(source="data", layout="folder", cases=()), with_labels=with_labels)


def test_the_plan_of_it_is_a_recipe_that_says_so(listed, tmp_path):
    recipe = runs.read_recipe(write_recipe(tmp_path, listed, objective=SUPERVISED), [NONE])
    runs.plan(recipe, tmp_path / "plan.yaml")
    assert yaml.safe_load((tmp_path / "plan.yaml").read_text())["data"]["validation"] == "none"
