"""Trainings of one recipe with several seeds: each its own run, mean and spread over them."""

import csv
import json
from statistics import mean, stdev

import pytest
from runs_fixtures import make_phantom, plug_pulled_at, write_recipe

from pipeline import runs
from pipeline.commands import training
from pipeline.console import show_seeds
from pipeline.errors import UserError
from pipeline.runs.comparing import trainings_in
from pipeline.studies import running
from pipeline.studies.seeds import train_seeds
from pipeline.studies.spreads import gather_seeds

PLAIN = {"objective": [{"loss": "dice"}], "max_steps": 2, "validate_every": 2}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seeds")
    make_phantom(folder / "data", labelled=5, unlabelled=0)
    write_recipe(folder, folder / "data", **PLAIN).rename(folder / "plain.yaml")
    return folder


@pytest.fixture(scope="module")
def done(place):
    training.train(place / "plain.yaml", seeds=3, output=place / "out")
    return place / "out"


def recipe_of(place, *overrides):
    return runs.read_recipe(place / "plain.yaml", overrides)


def mean_dice(run):
    return json.loads((run / "summary.json").read_text())["mean_dice"]


def test_each_seed_is_a_run_of_its_own_on_the_same_split(done):
    found = trainings_in(done)
    assert [run.name for run in found] == ["seed-3", "seed-4", "seed-5"]  # The recipe's own seed is 3.
    splits = {(run / "split.json").read_text() for run in found}
    assert len(splits) == 1
    assert len({(run / "history.csv").read_text() for run in found}) == 3
    assert len({mean_dice(run) for run in found}) == 3
    assert (done / "cache").is_dir()
    assert not any((run / "cache").exists() for run in found)


def test_the_first_is_the_run_that_the_recipe_makes_alone(done, place):
    alone = place / "alone"
    runs.train(recipe_of(place), alone)
    for name in ("history.csv", "split.json"):
        assert (alone / name).read_text() == (done / "seed-3" / name).read_text()


def test_mean_and_spread_are_those_of_the_summaries_in_the_terminal_and_the_tables(done, capsys):
    dice = [mean_dice(run) for run in trainings_in(done)]
    facts = json.loads((done / "seeds.json").read_text())
    assert facts["n"] == 3
    expected = {"mean": mean(dice), "std": stdev(dice), "min": min(dice), "max": max(dice)}
    assert facts["dice"] == pytest.approx(expected)
    rows = list(csv.DictReader((done / "seeds.csv").read_text().splitlines()))
    assert [int(row["seed"]) for row in rows] == [3, 4, 5]
    assert [float(row["dice"]) for row in rows] == pytest.approx(dice)
    by_class = {entry["name"]: entry for entry in facts["classes"]}
    summary = json.loads((done / "seed-4/summary.json").read_text())
    for entry in summary["classes"]:
        assert float(rows[1][f"dice of {entry['name']}"]) == pytest.approx(entry["metrics"]["dice"]["mean"])
        assert by_class[entry["name"]]["min"] <= entry["metrics"]["dice"]["mean"] <= by_class[entry["name"]]["max"]
    show_seeds(gather_seeds(done, range(3, 6)), done)
    told = capsys.readouterr().out
    assert f"{mean(dice):.3f} ± {stdev(dice):.3f}" in told
    assert f"Next: fewmask predict {done}/seed-3 SCANS" in told


def test_resumed_nothing_is_trained_again_and_a_seed_more_trains_alone(done, place, monkeypatch):
    trained = []
    monkeypatch.setattr(running, "train", lambda recipe, run, **how: trained.append((run.name, recipe.seed)))
    results = train_seeds(recipe_of(place), done, 4, resume=True)
    assert trained == [("seed-6", 6)]
    assert [row.seed for row in results] == [3, 4, 5]
    moved = write_recipe(place, place / "elsewhere", **PLAIN, tensorboard=True)  # Neither makes another training.
    assert [row.seed for row in train_seeds(runs.read_recipe(moved), done, 3, resume=True)] == [3, 4, 5]


@pytest.mark.slow
def test_a_killed_one_goes_on_and_ends_as_if_it_had_not_been(done, place, tmp_path):
    with plug_pulled_at(2):
        train_seeds(recipe_of(place), tmp_path / "out", 2)
    results = train_seeds(recipe_of(place), tmp_path / "out", 2, resume=True)
    assert [row.dice for row in results] == [mean_dice(done / f"seed-{seed}") for seed in (3, 4)]


def test_folders_with_other_trainings_are_refused(done, place, tmp_path):
    with pytest.raises(UserError, match="holds trainings of several seeds"):
        train_seeds(recipe_of(place), done, 3)
    with pytest.raises(UserError, match="holds trainings that differ in max_steps"):
        train_seeds(recipe_of(place, "max_steps=3"), done, 3, resume=True)
    with pytest.raises(UserError, match="this folder holds a run"):
        train_seeds(recipe_of(place), done / "seed-3", 2, resume=True)
    (tmp_path / "seeds.csv").write_text("mine")
    with pytest.raises(UserError, match=r"seeds\.csv"):
        train_seeds(recipe_of(place), tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["seeds.csv"]


@pytest.mark.parametrize(
    ("count", "override", "message"),
    [
        (1, "seed=3", "--seeds: is 1"),
        (2, "data.validation=none", "no training has a figure to compare"),
        (2, "seed=4294967295", "4294967295, and 2 follow"),
    ],
)
def test_what_cannot_be_repeated_is_refused(place, tmp_path, count, override, message):
    with pytest.raises(UserError, match=message):
        train_seeds(recipe_of(place, override), tmp_path / "out", count)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("more", [{"folds": 2}, {"allow_change": ("max_steps",)}])
def test_options_that_do_not_go_together_are_refused(place, tmp_path, more):
    with pytest.raises(UserError, match="goes not with --seeds"):
        training.train(place / "plain.yaml", seeds=2, output=tmp_path / "out", **more)
    assert not (tmp_path / "out").exists()


def test_a_failed_training_is_told_after_the_others_are_done(place, tmp_path, monkeypatch):
    tried = []

    def train(recipe, run, **how):
        tried.append(run.name)
        if recipe.seed == 3:
            raise UserError("The training diverged.", [])

    monkeypatch.setattr(running, "train", train)
    with pytest.raises(UserError, match="1 of 2 trainings failed") as caught:
        train_seeds(recipe_of(place), tmp_path / "out", 2)
    assert "seed-3: training" in str(caught.value)
    assert tried == ["seed-3", "seed-4"]


def test_a_time_budget_is_divided(place, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(running, "train", lambda recipe, run, **how: asked.append((recipe.time_budget, how["started"])))
    train_seeds(recipe_of(place, "max_steps=auto", "time_budget=100s"), tmp_path / "out", 4, started=1.5)
    assert asked == [("24.5s", 1.5), *[("24.5s", None)] * 3]


def test_a_comparison_of_methods_says_in_what_they_differ(place, done, tmp_path, capsys):
    training.train(place / "plain.yaml", ("optimizer.learning_rate=0.01",), seeds=2, output=tmp_path / "faster")
    capsys.readouterr()
    assert runs.compare(done, tmp_path / "faster", tmp_path / "compared").differ_in == ["optimizer.learning_rate"]
    said = "the first trainings of the two methods differ in optimizer.learning_rate\n"
    assert said in capsys.readouterr().err
    page = (tmp_path / "compared" / "report.html").read_text()
    assert "The first trainings of each differ in" in page
    runs.compare(done / "seed-3", [done / "seed-4", done / "seed-5"], tmp_path / "alike")
    assert "differ in" not in capsys.readouterr().err
