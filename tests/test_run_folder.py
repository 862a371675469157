"""A run's folder: nothing of anybody else's is replaced or deleted, and what is refused can be mended."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from runs_fixtures import digest, state_of
from worlds import LAST, STOPPED, command, contents, make_dataset

from pipeline import runs
from pipeline.checkpoints import newest_checkpoint
from pipeline.errors import UserError
from pipeline.outputs import LIST
from pipeline.runs.folder import RunFolder

NEWEST = f"checkpoints/last-{LAST:06d}.pt"
BESIDE = """
import sys, time
from pathlib import Path
from pipeline.checkpoints import output_of
from pipeline.strict_json import write_json
from pipeline.runs.folder import SCORES
with output_of(Path(sys.argv[1])).writing(SCORES) as stage:
    write_json(stage / "summary.json", {})
    print("in", flush=True)
    sys.stdin.readline()
    write_json(stage / "cases.csv", {})
"""
HOLD = """
import sys
from pathlib import Path
from pipeline.files import locked
with locked(Path(sys.argv[1])):
    print("in", flush=True)
    sys.stdin.readline()
"""


def resumed(world, run, *words):
    return command("train", world.recipe, *words, "--resume", "--output", run)


def refused(ended, *texts):
    """See that a command was a user's mistake, and return what it said on one line."""
    said = " ".join(ended.said.split())
    assert ended.code == 2, ended.said
    assert "Traceback" not in said
    for text in texts:
        assert text in said
    return said


# Checkpoints without a run


def without_config(world, place):
    run = world.copy("done", place / "run")
    (run / "config.yaml").unlink()
    return run


def checkpoints_alone(world, place):
    world.copy("done/checkpoints", place / "run" / "checkpoints")
    return place / "run"


def linked_checkpoints(world, place):
    (place / "run").mkdir()
    (place / "run" / "checkpoints").symlink_to(world.copy("done", place / "theirs") / "checkpoints")
    return place / "run"


def without_list(world, place):
    run = place / "run"
    run.mkdir()
    for path in (world.base / "done").glob("[!.]*"):  # As `cp -r RUN/* NEW` does.
        shutil.copytree(path, run / path.name) if path.is_dir() else shutil.copy(path, run)
    return run


@pytest.mark.parametrize("words", [(), ("--resume",), ("--folds", 2), ("--folds", 2, "--resume")])
@pytest.mark.parametrize("make", [without_config, checkpoints_alone, linked_checkpoints, without_list])
def test_checkpoints_without_their_run_are_refused_and_stay(world, tmp_path, make, words):
    run = make(world, tmp_path)
    before = contents(tmp_path)
    ended = command("train", world.recipe, *words, "--output", run)
    refused(ended, "no-run", f"go on in a new folder: fewmask train {run / NEWEST} dataset=DATASET --output NEW")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("kind", ["done", "stopped"])
def test_run_that_goes_on_from_a_checkpoint_is_the_run_that_did_not_stop(world, tmp_path, kind):
    theirs = checkpoints_alone(world, tmp_path) if kind == "done" else world.copy(kind, tmp_path / "run")
    checkpoint = theirs / "checkpoints" / f"last-{STOPPED:06d}.pt"
    before = contents(theirs)
    words = [f"dataset={world.data}", f"data.cache={world.base / 'cache'}", "--output", tmp_path / "new"]
    ended = command("train", checkpoint, *words)
    assert ended.code == 0, ended.said
    assert digest(state_of(tmp_path / "new")) == digest(state_of(world.base / "done"))
    assert contents(theirs) == before
    history = (tmp_path / "new" / "history.csv").read_text().split()
    assert [line.split(",")[0] for line in history] == ["step", "5", "6"]
    assert command("train", checkpoint, *words, "--resume").code == 0
    refused(command("train", checkpoint, *words), "run-exists")


def test_new_run_keeps_what_it_goes_on_from_before_it_makes_a_step(world, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.runs.training.Training._count", lambda *_: 1 / 0)
    words = [f"dataset={world.data}", f"data.cache={world.base / 'cache'}", "--output", tmp_path / "new"]
    assert command("train", world.base / "stopped" / "checkpoints" / "last-000004.pt", *words).code is None
    state, before = state_of(tmp_path / "new"), state_of(world.base / "stopped")
    assert digest(state["network"]) == digest(before["network"])
    assert (state["step"], state["best"]) == (STOPPED, None)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((), "dataset: is not given, and a checkpoint does not tell"),
        (("dataset={data}", "--time-budget", "20m"), "time_budget: is for a training from its first step on"),
        (("dataset={data}", "--folds", "2"), "--folds: is for a training from its first step on"),
        (("dataset={data}", "network.options.channels=[8, 8]"), "does not fit the recipe's network"),
    ],
)
def test_what_no_run_can_go_on_with_is_refused(world, tmp_path, words, text):
    checkpoint = world.base / "done" / "checkpoints" / "last-000004.pt"
    told = [word.format(data=world.data) for word in words]
    ended = command("train", checkpoint, *told, "--output", tmp_path / "new")
    refused(ended, text)
    assert not list(tmp_path.rglob("*.pt"))


# Whose files they are


@pytest.mark.parametrize(
    ("name", "words"),
    [
        *(
            (name, "train {recipe} --output {out}")
            for name in ("report.html", "cases.csv", "split.json", "config.yaml", "history.csv", "figures/dice.png")
        ),
        ("report.html", "train {recipe} --resume --output {out}"),
        ("index.json", "train {recipe} --folds 2 max_steps=1 --output {out}"),
        ("folds.json", "train {recipe} --folds 2 max_steps=1 --output {out}"),
        ("fold-2/cases.csv", "train {recipe} --folds 2 max_steps=1 --output {out}"),
        ("out-of-fold/report.html", "train {recipe} --folds 2 max_steps=1 --output {out}"),
        ("checkpoints/last-000003.pt.sha256", "train {recipe} --output {out}"),
        ("summary.json", "evaluate {labels} {labels} --output {out}"),
        ("figures/loss.svg", "evaluate {labels} {labels} --output {out}"),
        ("compare.csv", "compare {base}/scores {base}/scores-2 --output {out}"),
        ("report.html", "compare {base}/scores {base}/scores-2 --output {out}"),
        ("check.json", "check {data} --output {out}"),
        ("check.json", "check {base}/rounding --fix round-labels --output {out}"),
        ("annotate_next.csv", "predict {base}/done {data}/imagesTs --annotate-next --output {out}"),
        ("case_4.nii.gz", "predict {base}/done {data}/imagesTs --output {out}"),
        ("plan.yaml", "plan {recipe} --output {out}/plan.yaml"),
        ("imagesTr/notes.txt", "phantom {out}"),
    ],
)
@pytest.mark.parametrize("linked", [False, True])
def test_file_of_a_user_is_refused_before_anything_is_computed(world, tmp_path, monkeypatch, name, words, linked):
    def never(*_, **__):
        raise AssertionError("something was computed")

    for place in ("starting.prepare", "folds.check_dataset_of", "checking.survey", "planning.prepare"):
        monkeypatch.setattr(f"pipeline.runs.{place}", never)
    monkeypatch.setattr("pipeline.runs.evaluating.checked_pairs", never)
    monkeypatch.setattr("pipeline.runs.comparing.read_cases_csv", never)
    monkeypatch.setattr("pipeline.runs.prediction.load_model", never)
    out = tmp_path / "out"
    path = out / name
    path.parent.mkdir(parents=True)
    path.symlink_to(tmp_path / "elsewhere") if linked else path.write_text("a user's")
    before = contents(out)
    told = {"recipe": world.recipe, "out": out, "base": world.base, "data": world.data}
    ended = command(*words.format(labels=world.data / "labelsTr", **told).split())
    refused(ended, str(path) if "phantom" not in words and "--fix" not in words else str(out))
    assert contents(out) == before


@pytest.mark.parametrize(
    "words",
    [
        "evaluate {labels} {labels} --output {run}",
        "compare {base}/scores {base}/scores-2 --output {run}",
        "phantom {run}",
        "check {data} --fix round-labels --output {run}",
    ],
)
def test_folder_of_a_run_is_no_place_for_another_commands_files(world, tmp_path, words):
    run = world.copy("done", tmp_path / "run")
    before = contents(run)
    told = {"labels": world.data / "labelsTr", "base": world.base, "data": world.data, "run": run}
    refused(command(*words.format(**told).split()), str(run))
    assert contents(run) == before


@pytest.mark.parametrize(
    "words",
    [
        "evaluate {labels} {labels} --output {out}",
        "compare {base}/scores {base}/scores-2 --output {out}",
        "check {data} --output {out}",
        "validate {run}",
        "validate {run} --checkpoint best",
        "validate {run} --dataset {labelled}",
        "train {recipe} --resume --output {run}",
    ],
)
def test_command_writes_again_what_it_has_written(world, tmp_path, words):
    run, labelled = world.copy("done", tmp_path / "run"), make_dataset(tmp_path / "labelled", seed=1)
    told = {"labels": world.data / "labelsTr", "base": world.base, "data": world.data, "recipe": world.recipe}
    told |= {"run": run, "out": tmp_path / "out", "labelled": labelled}
    for _ in range(2):
        ended = command(*words.format(**told).split())
        assert ended.code == 0, ended.said


def test_scores_that_a_user_has_edited_are_not_replaced(world, tmp_path):
    run = world.copy("done", tmp_path / "run")
    with (run / "cases.csv").open("a") as stream:
        stream.write("a note of mine\n")
    before = contents(run)
    refused(command("validate", run), f"{run / 'cases.csv'}: was changed after it was written", "move it away")
    assert contents(run) == before
    (run / "cases.csv").rename(tmp_path / "mine.csv")
    assert command("validate", run).code == 0


def test_list_of_scans_to_annotate_may_grow_over_several_calls(world, tmp_path):
    for name in ("imagesTs", "imagesTr"):
        words = ("predict", world.base / "done", world.data / name, "--annotate-next", "--output", tmp_path / "masks")
        assert command(*words).code == 0
    assert "case_0" in (tmp_path / "masks" / "annotate_next.csv").read_text()


def test_comment_in_the_config_of_a_run_stays(world, tmp_path):
    run = world.copy("done", tmp_path / "run")
    told = "# the run that the paper is about\n" + (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(told)
    assert resumed(world, run).code == 0
    assert (run / "config.yaml").read_text() == told


def test_run_that_is_copied_with_its_list_goes_on(world, tmp_path):
    run = world.copy("stopped", tmp_path / "run")
    assert resumed(world, run).code == 0
    assert digest(state_of(run)) == digest(state_of(world.base / "done"))


# Checkpoints in a run


@pytest.mark.parametrize("name", ["last-000001.pt", NEWEST[12:], "last-000999.pt", "best-000005.pt"])
def test_checkpoint_of_another_run_is_refused_and_stays(world, tmp_path, name):
    run = world.copy("done", tmp_path / "run")
    shutil.copyfile(world.base / "other" / NEWEST, run / "checkpoints" / name)
    before = contents(run)
    remedy = f"fewmask train {run / 'checkpoints' / name} dataset=DATASET --output NEW"
    refused(resumed(world, run), "was not saved by this run", remedy)
    assert contents(run) == before


def test_run_goes_on_from_its_best_checkpoint_where_that_is_the_newest(world, tmp_path):
    run = world.copy("stopped", tmp_path / "run")
    (run / "checkpoints" / "last-000004.pt").unlink()
    before = (run / "checkpoints" / "best-000003.pt").read_bytes()
    assert newest_checkpoint(run, "last").state["step"] == 2
    assert RunFolder(run).newest_checkpoint().state["step"] == 3
    assert (run / "checkpoints" / "best-000003.pt").read_bytes() == before
    assert resumed(world, run).code == 0
    assert digest(state_of(run)) == digest(state_of(world.base / "done"))
    assert (run / "history.csv").read_bytes() == (world.base / "done" / "history.csv").read_bytes()
    assert (run / "validation.csv").read_bytes() == (world.base / "done" / "validation.csv").read_bytes()


def test_run_that_lost_its_last_checkpoint_at_the_end_saves_and_scores_it_again(world, tmp_path):
    run = world.copy("done", tmp_path / "run")
    (run / NEWEST).unlink()
    scores = (run / "cases.csv").read_bytes()
    assert resumed(world, run).code == 0
    assert digest(state_of(run)) == digest(state_of(world.base / "done"))
    assert (run / "cases.csv").read_bytes() == scores


def test_damaged_checkpoint_is_set_aside_and_the_run_goes_on(world, tmp_path):
    run = world.copy("stopped", tmp_path / "run")
    path = run / "checkpoints" / "last-000004.pt"
    path.write_bytes(path.read_bytes()[:-100])
    damaged = path.read_bytes()
    ended = resumed(world, run)
    assert "last-000004.pt: is damaged" in ended.said
    assert ended.code == 0
    assert path.with_name("last-000004.pt.damaged").read_bytes() == damaged
    assert digest(state_of(run)) == digest(state_of(world.base / "done"))


def test_run_without_a_sound_checkpoint_is_not_begun_anew(world, tmp_path):
    run = world.copy("done", tmp_path / "run")
    for path in (run / "checkpoints").glob("*.pt"):
        path.write_bytes(path.read_bytes()[:-100])
    before = contents(run)
    refused(resumed(world, run), "No last or best checkpoint")
    assert {name: content for name, content in contents(run).items() if name != LIST} == {
        name: content for name, content in before.items() if name != LIST
    }


# What is beside a training


def test_scores_that_are_being_written_stay_when_a_training_begins(world, tmp_path):
    run = world.copy("stopped", tmp_path / "run")
    words = [sys.executable, "-c", BESIDE, run]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "in\n"
        RunFolder(run).take()
        RunFolder(run).newest_checkpoint()
        other.stdin.write("\n")
        other.stdin.close()
        assert other.wait(60) == 0
    assert (run / "summary.json").read_text() == "{}\n"


@pytest.mark.parametrize("named", [True, False])
def test_cache_that_is_a_file_is_blamed_and_not_the_scans(world, tmp_path, named):
    place = tmp_path / "prepared" if named else tmp_path / "run" / "cache"
    place.parent.mkdir(exist_ok=True)
    place.write_text("a user's")
    told = place if named else "run"
    ended = command("train", world.recipe, f"data.cache={told}", "--output", tmp_path / "run")
    said = refused(ended, f"{place}: is a file, and prepared scans are to lie in it", "data.cache=DIR")
    assert "case_" not in said
    assert place.read_text() == "a user's"


def test_folder_called_stop_is_no_request_to_end(world, tmp_path):
    (tmp_path / "run" / "stop").mkdir(parents=True)
    assert command("train", world.recipe, "max_steps=2", "--output", tmp_path / "run").code == 0
    assert (tmp_path / "run" / "stop").is_dir()


def test_validation_that_cannot_be_reported_replaces_no_scores(world, tmp_path, monkeypatch):
    run = world.copy("done", tmp_path / "run")
    (run / "history.csv").write_text("no log\n")
    before = contents(run)
    monkeypatch.setattr("pipeline.runs.scoring.load_model", lambda *_: 1 / 0)
    refused(command("validate", run), f"{run / 'history.csv'}: is no log of a training")
    assert contents(run) == before


def test_recipe_of_a_user_in_the_folder_is_no_run(world, tmp_path):
    recipe = tmp_path / "config.yaml"
    recipe.write_text(world.recipe.read_text())
    refused(command("train", recipe, "--output", tmp_path), f"{recipe}: is there, and no run has written it here")
    refused(command("train", recipe, "--resume", "--output", tmp_path), f"{recipe}: is there")
    assert yaml.safe_load(recipe.read_text())["max_steps"] == LAST


def test_function_refuses_as_the_command_does(world, tmp_path):
    (tmp_path / "cases.csv").write_text("a user's")
    with pytest.raises(UserError, match="in-the-way"):
        runs.evaluate(world.data / "labelsTr", world.data / "labelsTr", tmp_path)
    assert [path.name for path in Path(tmp_path).iterdir()] == ["cases.csv"]


@pytest.mark.parametrize(
    "words", ["validate {run}", "validate {run} --dataset {data}", "train {recipe} --resume --output {run}"]
)
def test_figures_that_are_a_link_are_not_written_through(world, tmp_path, words):
    run = world.copy("stopped" if "train" in words else "done", tmp_path / "run")
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "dice.png").write_text("a user's")
    place = run / "figures"
    if "--dataset" in words:
        place = run / "validation" / world.data.name / "figures"
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(theirs)
    ended = command(*words.format(run=run, data=world.data, recipe=world.recipe).split())
    refused(ended, str(place))
    assert {path.name: path.read_text() for path in theirs.iterdir()} == {"dice.png": "a user's"}


@pytest.mark.parametrize("folds", [0, 2])
def test_another_run_may_begin_where_one_ended_before_its_first_step(tmp_path, folds):
    run = RunFolder(tmp_path)
    with run.output.writing(["config.yaml", "plugins.json"]) as stage:
        (stage / "config.yaml").write_text("seed: 0\n")
        (stage / "plugins.json").write_text("{}\n")
    run.refuse(resume=False, folds=folds)
    held = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    held.stdout.readline()
    with pytest.raises(UserError, match="another process is training"):
        run.forget_unbegun()
    assert run.holds_run
    held.communicate(b"\n")
    run.forget_unbegun()
    assert not run.holds_run
    assert not (tmp_path / "plugins.json").exists()


def test_a_run_that_has_made_a_step_is_kept(tmp_path):
    run = RunFolder(tmp_path)
    with run.output.writing(["config.yaml"]) as stage:
        (stage / "config.yaml").write_text("seed: 0\n")
    run.save("last", {"step": 1})
    run.forget_unbegun()
    assert run.holds_run
    with pytest.raises(UserError, match="add --resume"):
        run.refuse(resume=False)
