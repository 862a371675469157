"""Decisions stand beside a recipe, in files of this version and of the first ones."""

import pytest
import yaml
from runs_fixtures import TINY, assert_same_run, make_phantom, state_of, write_recipe
from worlds import command

import fewmask
from pipeline import runs
from pipeline.checkpoints import Checkpoint
from pipeline.decisions import Decisions, converted
from pipeline.errors import UserError
from pipeline.runs.stored import read_config, read_decisions, read_written_of

DECIDED = {"corrections": [[2, 4]], "threads": [[1, 1]]}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_phantom(tmp_path_factory.mktemp("decisions") / "phantom")


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    """A run that ends after 4 of 6 steps."""
    folder = tmp_path_factory.mktemp("run")
    ended = command("train", write_recipe(folder, dataset, decided=DECIDED), "--output", folder / "run")
    assert ended.code == 0, ended.said
    return folder / "run"


def test_a_run_writes_and_follows_what_was_decided(run):
    written = yaml.safe_load((run / "config.yaml").read_text())
    assert (written["max_steps"], written["decided"]) == (6, DECIDED)
    assert {"corrections", "threads"} & written.keys() == set()
    assert read_decisions(run) == Decisions(corrections=((2, 4),), threads=((1, 1),))
    assert state_of(run)["step"] == 4
    assert read_written_of(Checkpoint(run, state_of(run)))[1] == read_decisions(run)
    assert "decided:" in (run / "report.html").read_text()


def test_a_recipe_of_the_first_versions_trains_the_same(run, dataset, tmp_path):
    recipe = write_recipe(tmp_path, dataset, **DECIDED)
    assert command("train", recipe, "--output", tmp_path / "run").code == 0
    assert_same_run(tmp_path / "run", run)
    assert (tmp_path / "run" / "config.yaml").read_text() == (run / "config.yaml").read_text()


def old_form(path):
    """Write a run's config.yaml as the first versions did."""
    written = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(written | written.pop("decided")))


def test_a_run_of_the_first_versions_goes_on(dataset, tmp_path):
    recipe = write_recipe(tmp_path, dataset, decided=DECIDED)
    assert command("train", recipe, "--output", tmp_path / "run").code == 0
    old_form(tmp_path / "run" / "config.yaml")
    assert read_decisions(tmp_path / "run") == Decisions(corrections=((2, 4),), threads=((1, 1),))
    assert read_config(tmp_path / "run").max_steps == 6
    before = state_of(tmp_path / "run")["step"]
    for source in (recipe, tmp_path / "run" / "config.yaml"):
        ended = command("train", source, "--output", tmp_path / "run", "--resume")
        assert ended.code == 0, ended.said
    assert state_of(tmp_path / "run")["step"] == before == 4


def test_a_checkpoint_of_the_first_versions_holds_decisions(run):
    state = state_of(run)
    raw = yaml.safe_load(state["recipe"])
    old = Checkpoint(run, state | {"recipe": yaml.safe_dump(raw | raw.pop("decided"))})
    assert read_written_of(old) == read_written_of(Checkpoint(run, state))


def test_keys_that_earlier_versions_lacked_have_the_values_that_they_acted_by(run):
    raw = yaml.safe_load(state_of(run)["recipe"])
    kept = {key: value for key, value in raw["data"].items() if key not in ("units", "unlike", "crop_to_body")}
    old = Checkpoint(run, state_of(run) | {"recipe": yaml.safe_dump(raw | {"data": kept})})
    data = read_written_of(old)[0].data
    assert (data.units, data.unlike, data.crop_to_body, data.patch_size) == (1, "keep", False, (16, 16, 16))


def test_a_training_goes_on_from_a_checkpoint_with_what_was_decided(run, dataset, tmp_path):
    checkpoint = next((run / "checkpoints").glob("last-*2.pt"))
    words = (f"dataset={dataset}", "--output", tmp_path / "new")
    ended = command("train", checkpoint, *words)
    assert ended.code == 0, ended.said
    assert state_of(tmp_path / "new")["step"] == 4
    assert read_decisions(tmp_path / "new") == read_decisions(run)


def test_other_decisions_than_the_runs_own_are_refused_by_key(run, dataset, tmp_path):
    other = write_recipe(tmp_path, dataset, decided={"corrections": [[2, 5]]})
    ended = command("train", other, "--output", run, "--resume")
    assert ended.code == 2
    assert "decided.corrections.0.1: the run has 4, and now it would be 5" in ended.said


@pytest.mark.parametrize(
    ("decided", "told"),
    [
        ({"corrections": [[0, 3]]}, "decided.corrections"),
        ({"thread": []}, "decided.thread: there is no such key"),
        (3, "decided"),
    ],
)
def test_decisions_that_are_none_are_refused(dataset, tmp_path, decided, told):
    with pytest.raises(UserError, match=told):
        runs.read_request(write_recipe(tmp_path, dataset, decided=decided))


def test_every_mistake_of_recipe_and_decisions_is_told_at_once(tmp_path):
    recipe = write_recipe(tmp_path, tmp_path, seed=-1, decided={"threads": [[0, 0]]})
    with pytest.raises(UserError) as raised:
        runs.read_recipe(recipe)
    assert [problem.where for problem in raised.value.problems] == ["seed", "decided.threads.0.1"]


def test_a_plan_has_none(dataset, tmp_path):
    recipe = write_recipe(tmp_path, dataset, decided=DECIDED)
    runs.plan(runs.read_recipe(recipe), tmp_path / "plan.yaml")
    assert runs.read_request(tmp_path / "plan.yaml").decided == Decisions()


def test_old_and_new_keys_together_are_a_mistake():
    raw = {**TINY, "corrections": [], "decided": {}}
    assert converted(raw) == raw


def test_from_python_a_run_is_repeated_by_its_file_and_by_what_the_file_holds(run, tmp_path):
    config = run / "config.yaml"
    for number, source in enumerate((config, yaml.safe_load(config.read_text()))):
        fewmask.train(source, tmp_path / str(number))
        assert_same_run(tmp_path / str(number), run)
