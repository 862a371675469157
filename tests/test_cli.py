"""The command line: what a person types, and what comes back."""

import errno
import getpass
import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import fewmask
from runs_fixtures import ROOT, TINY, command_runner, files_in, make_phantom, train, write_recipe

from pipeline import __version__, runs
from pipeline.commands import training
from pipeline.decisions import Decisions
from pipeline.engines.schedules import Schedule
from pipeline.reports.summary import summarise
from pipeline.runs.scoring import Scores

COMMANDS = (
    "check",
    "plan",
    "train",
    "validate",
    "predict",
    "evaluate",
    "compare",
    "export",
    "fetch",
    "simulate-labels",
    "prune",
    "phantom",
    "components",
    "join",
    "study",
    "doctor",
)


@pytest.fixture
def run(monkeypatch, capsys):
    return command_runner(monkeypatch, capsys)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_phantom(tmp_path_factory.mktemp("cli") / "phantom", labelled=2, unlabelled=1)


SCORES = Scores(summarise([]), Path("run"), ())


@pytest.fixture
def trains(monkeypatch):
    """What ``train`` was called with; nothing is trained."""
    calls = []
    monkeypatch.setattr(runs, "train", lambda *args, **options: calls.append((*args, options)) or SCORES)
    monkeypatch.setattr(training, "show_scores", lambda *_: None)
    return calls


def error_of(result):
    """The error of a user's mistake: exit code 2, one message, no traceback."""
    code, out, err = result
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("error: ") == 1
    assert "Traceback" not in err
    return err


# Help


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_has_an_example_of_it(run, command):
    code, out, err = run(command, "--help")
    assert (code, err) == (0, "")
    assert f"Example: fewmask {command}" in " ".join(out.replace("│", " ").split())


def test_help_lists_every_command(run):
    code, out, _ = run("--help")
    assert code == 0
    assert all(command in out for command in COMMANDS)


@pytest.mark.parametrize("words", [[], ["train"], ["predict", "run"], ["validate", "run", "--checkpoint", "bast"]])
def test_line_that_is_no_command_exits_2(run, words):
    code, _, err = run(*words)
    assert code == 2
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("word", "meant"), [("trian", "'train'"), ("Validate", "'validate'"), ("xyzzy", "check, fetch")]
)
def test_command_that_there_is_not_is_compared_with_those_that_there_are(run, word, meant):
    err = error_of(run(word, "--output", "x"))
    assert f"{word}: is no command" in err
    assert meant in err


def test_option_that_there_is_not_is_compared_with_the_commands_own(run):
    code, out, err = run("train", "recipe.yaml", "--outputt", "x")
    assert (code, out) == (2, "")
    assert "--output RUN" in err
    assert "Traceback" not in err
    assert "fewmask predict" not in err


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("check minne", "mine"),
        ("train minne", "mine"),
        ("train supervised dataset=minne", "mine"),
        ("train my-recpie.yaml dataset=mine", "my-recipe.yaml"),
        ("train supervise dataset=mine", "supervised"),
        ("study stduy.yaml --output s", "study.yaml"),
        ("study wrong.yaml --output s", "my-recipe.yaml"),
        ("validate orgna", "organ"),
        ("export orgna --output x.fewmask", "organ"),
        ("evaluate mine/lables mine/labels --output e", "mine/labels"),
        ("evaluate mien/labels mine/labels --output e", "mine/labels"),
        ("compare orgna organ --output c", "organ"),
        ("prune organ/cahce", "organ/cache"),
    ],
)
def test_misspelt_file_or_folder_is_compared_with_those_that_there_are(run, tmp_path, monkeypatch, words, meant):
    monkeypatch.chdir(tmp_path)
    for folder in ("mine/labels", "organ/cache"):
        Path(folder).mkdir(parents=True)
    Path("my-recipe.yaml").write_text("max_steps: 5\n")
    Path("study.yaml").write_text("{}\n")
    method = "{name: a, recipe: supervised}, {name: b, recipe: my-recpie.yaml}"
    Path("wrong.yaml").write_text(f"dataset: mine\nlabelled: [2]\nmethods: [{method}]\n")
    assert f"did you mean '{meant}'?" in error_of(run(*words.split()))


def test_scan_that_is_not_there_is_no_file_of_another_kind(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scans").mkdir()
    make_phantom(tmp_path / "data")
    train(tmp_path, tmp_path / "data", "organ")
    code, _, err = run("predict", "organ", "scasn", "--output", "m")
    assert code == 2
    assert "there is no such file" in err
    assert "did you mean 'scans'?" in err


def test_version_is_the_packages(run):
    assert run("--version") == (0, f"fewmask {__version__}\n", "")


@pytest.mark.parametrize("option", ["-o", "--output"])
def test_output_has_a_short_name(run, dataset, tmp_path, option):
    assert run("check", dataset, option, tmp_path)[0] == 0
    assert (tmp_path / "check.json").is_file()


def test_quiet_leaves_errors_alone_and_ends_with_its_command(run, tmp_path):
    words = ["phantom", tmp_path / "new", "--labelled", "1", "--unlabelled", "1"]
    assert run("--quiet", *words) == run(*words[:1], tmp_path / "other", *words[2:], "--quiet") == (0, "", "")
    assert "it is there already" in error_of(run(*words, "--quiet"))
    code, out, _ = run("check", tmp_path / "new", "--output", tmp_path)
    assert code == 0
    assert "1 with masks" in out


def test_quiet_hides_progress_and_tables_of_a_whole_training(tmp_path, dataset):
    recipe = write_recipe(tmp_path, dataset, max_steps=2)
    done = fewmask("train", recipe, "-o", tmp_path / "run", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "run" / "report.html").is_file()


def documents(run, *lines):
    """What each line prints with ``--json``, by its command."""
    found = {}
    for words in lines:
        code, out, _ = run(*words, "--json", "--quiet")
        assert code == 0, words
        found[words[0]] = json.loads(out)
    return found


def test_json_is_one_document_in_place_of_sentences(run, dataset, tmp_path):
    labels = dataset / "labelsTr"
    found = documents(
        run,
        ["check", dataset],
        ["evaluate", labels, labels, "-o", tmp_path / "scores"],
        ["phantom", tmp_path / "another", "--labelled", 1, "--unlabelled", 0],
        ["components"],
        ["doctor"],
        ["--version"],
    )
    assert (found["check"]["sound"], len(found["check"]["cases"])) == (True, 3)
    assert found["evaluate"]["mean_dice"] == 1
    assert found["components"]["loss"]["ncut"]["options"]["radius"] == 4
    assert found["--version"] == {"version": __version__}


@pytest.mark.slow
def test_json_of_a_training_and_what_follows(run, dataset, tmp_path):
    recipe = write_recipe(tmp_path, dataset)
    place = tmp_path / "run"
    code, out, err = run("train", "--json", recipe, "-o", place)
    assert code == 0
    assert json.loads(out)["scores"][0]["mean_dice"] == json.loads((place / "summary.json").read_text())["mean_dice"]
    assert "held out" in err
    shutil.copytree(place, tmp_path / "other")
    found = documents(
        run,
        ["validate", place],
        ["predict", place, dataset / "imagesTs", "-o", tmp_path / "masks"],
        ["compare", place, tmp_path / "other", "-o", tmp_path / "compared"],
        ["export", place, "-o", tmp_path / "one.fewmask"],
        ["plan", recipe, "-o", tmp_path / "plan.yaml"],
        ["prune", place / "cache"],
    )
    assert found["validate"]["folder"] == str(place)
    assert found["predict"]["masks"] == [str(tmp_path / "masks" / "phantom_002.nii.gz")]
    assert found["plan"]["recipe"]["max_steps"] == TINY["max_steps"]


def test_json_of_a_mistake_has_every_problem(run, tmp_path, dataset):
    code, out, err = run("check", tmp_path / "none", "--json")
    assert (code, json.loads(out)["problems"][0]["where"]) == (2, str(tmp_path / "none"))
    assert err.startswith("error: ")
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "a.nii.gz").write_bytes(b"")
    code, out, err = run("check", tmp_path / "scans", "--json")
    assert (code, json.loads(out)["sound"], json.loads(out)["counts"]) == (2, False, {"empty-file": 1})


def test_verbose_tells_where_an_error_arose(run, tmp_path):
    code, _, err = run("check", tmp_path / "none", "--verbose")
    assert code == 2
    assert err.index("Traceback") < err.index("UserError") < err.index("error: ")
    assert "Traceback" not in run("check", tmp_path / "none")[2]


def test_check_writes_a_file_only_where_one_is_asked_for(run, dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("check", dataset)[0] == 0
    assert list(tmp_path.iterdir()) == []
    err = error_of(run("check", dataset, "--fix", "round-label"))
    assert "did you mean 'round-labels'" in err
    assert "--output DIR" in err


ALLOWED_STEPS = ("--allow-change", "max_steps", "--verbose")


def test_training_says_before_what_it_will_do_and_after_what_to_do_next(run, dataset, tmp_path):
    recipe = write_recipe(tmp_path, dataset)
    place = tmp_path / "a run"
    code, out, err = run("train", recipe, "-o", place, "max_steps=30", "validate_every=15")
    assert code == 0
    device, steps, held_out, folder = err.splitlines()[:4]
    assert device == "device    cpu, float32, threads: 1"
    assert steps == "steps     30, a validation every 15; step 20 tells how long"
    assert re.fullmatch(r"held out  1 of 2 cases with masks \(1 of 2 patients\): phantom_00[01]", held_out)
    assert folder == f"folder    {place}"
    assert re.search(r"^step 20/30  [0-9.e-]+ s a step: about \d+ s to go, and the validations$", err, re.MULTILINE)
    assert out.splitlines()[-1].startswith(f"Next: fewmask predict '{place}' SCANS --output MASKS")
    again = run("train", recipe, "-o", place, "max_steps=31", "validate_every=15", "--resume", *ALLOWED_STEPS)
    assert "given in the recipe" in again[1]
    assert re.search(r"^\[ +[0-9.]+ s\] steps     31, of which 30 are done, .*; too few to", again[2], re.MULTILINE)
    again = run("train", recipe, "-o", place, "max_steps=31", "validate_every=15", "--resume")
    assert "device    " not in again[2]
    assert f"{place} has done all its 31 steps: nothing is left to train" in again[2]
    last = run("train", recipe, "-o", tmp_path / "short", "max_steps=2", "validate_every=15")
    assert "steps     2, a validation at the end; too few to tell how long" in last[2]


def test_check_says_how_to_train_on_what_it_was_told_of_the_layout(run, dataset, tmp_path):
    (tmp_path / "my scans").symlink_to(dataset / "imagesTr")
    (tmp_path / "masks").symlink_to(dataset / "labelsTr")
    options = ("--layout-option", "images=my scans", "--layout-option", "ignore=9")
    code, out, _ = run("check", tmp_path, "--layout", "folder", *options)
    assert code == 0
    *_, following, strokes = out.splitlines()
    told = shlex.split(following.removeprefix("Next: fewmask "))
    assert shlex.split(strokes.partition("fewmask ")[2]) == ["train", "scribbles", f"dataset={tmp_path}", *told[2:]]
    assert told == [
        "train",
        str(tmp_path),
        "layout=folder",
        "layout.options.images=my scans",
        "layout.options.ignore=9",
    ]
    assert runs.read_recipe(tmp_path, told[2:]).layout.options["images"] == "my scans"


def test_check_says_how_to_train_on_a_list_whose_files_are_elsewhere(run, dataset, tmp_path):
    shutil.copy(dataset / "dataset.json", tmp_path / "list.json")
    (tmp_path / "part.py").write_text("")
    told = ["--root", dataset, "--layout", "datalist", "--plugin", tmp_path / "part.py"]
    code, out, _ = run("check", tmp_path / "list.json", *told)
    assert code == 0
    words = shlex.split(out.splitlines()[-1].removeprefix("Next: fewmask train "))
    recipe = runs.read_recipe(Path(words[0]), words[1:])
    assert (recipe.root, [path.name for path in recipe.plugins]) == (dataset, ["part.py"])


def test_a_folder_of_scans_alone_is_told_to_be_one_to_predict(run, dataset):
    code, out, _ = run("check", dataset / "imagesTs")
    assert code == 0
    assert out.splitlines()[-1] == f"Next: fewmask predict RUN {dataset / 'imagesTs'} --output MASKS"
    assert "images/, and name the one above it" in error_of(
        run("train", "unsupervised", f"dataset={dataset / 'imagesTs'}")
    )


def test_dataset_behind_a_recipe_is_told_how_to_be_named(run, dataset):
    assert f"write dataset={dataset}" in error_of(run("train", "supervised", dataset))
    assert "write key=value" in error_of(run("train", "supervised", "nothing"))


def test_doctor_knows_versions_and_names_nobody(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    code, out, err = run("doctor")
    assert (code, err) == (0, "")
    lines = dict(re.split("  +", line, maxsplit=1) for line in out.splitlines())
    assert lines["fewmask"] == __version__
    assert lines["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert lines["variables"] == "OMP_NUM_THREADS=3"
    own = {str(tmp_path), str(Path.home()), tempfile.gettempdir(), platform.node(), getpass.getuser()}
    assert [word for word in own if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", out)] == []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {re.match(r"[\w-]+", name)[0] for name in project["dependencies"]} <= lines.keys()


BASH = shutil.which("bash")


@pytest.mark.skipif(BASH is None, reason="needs bash")
@pytest.mark.parametrize(("line", "offered"), [("fewmask va", "validate"), ("fewmask train --res", "--resume")])
def test_completion_of_the_shell_knows_commands_and_options(tmp_path, line, offered):
    script = fewmask("--tyro-print-completion", "bash").stdout
    words = line.split()
    ask = f"""
    COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; COMP_LINE='{line}'; COMP_POINT={len(line)}
    complete -p fewmask | sed 's/.*-F \\([^ ]*\\).*/\\1/' > {tmp_path}/name
    $(cat {tmp_path}/name) fewmask {words[-1]} {words[-2]}; echo "${{COMPREPLY[@]}}"
    """
    found = subprocess.run([BASH, "-c", script + ask], capture_output=True, text=True)
    assert offered in found.stdout.split(), found.stderr


# Overrides

RECIPE, OUTPUT, SEED, STEPS = "{recipe}", ("--output", "o=x"), "seed=9", "max_steps=5"
ALLOWED = ("seed", "data")
STRIDES = "network.options.strides=[[2, 2, 2]]"


@pytest.mark.parametrize(
    "words",
    [
        [RECIPE, SEED, STEPS, *OUTPUT],
        [RECIPE, *OUTPUT, SEED, STEPS],
        [RECIPE, SEED, *OUTPUT, STEPS],
        [SEED, RECIPE, *OUTPUT, STEPS],
        [*OUTPUT, RECIPE, SEED, STEPS],
        [*OUTPUT, SEED, RECIPE, STEPS],
        ["--output=o=x", SEED, STEPS, RECIPE],
        ["-o", "o=x", SEED, STEPS, RECIPE],
        ["--resume", RECIPE, SEED, *OUTPUT, STEPS],
        [RECIPE, SEED, STEPS, *OUTPUT, "--resume"],
        ["--allow-change", "seed", RECIPE, SEED, "--allow-change", "data", STEPS, *OUTPUT, "--resume"],
    ],
)
def test_key_and_value_may_stand_anywhere_on_the_line(run, trains, dataset, tmp_path, words):
    recipe = write_recipe(tmp_path, dataset)
    code, _, err = run("train", *(word.format(recipe=recipe) for word in words))
    begins = "o=x is not there, so there is nothing to go on with: a new run begins\n"
    assert (code, err) == (0, begins if "--resume" in words else "")
    ((made, output, options),) = trains
    assert (made.seed, made.max_steps, str(output)) == (9, 5, "o=x")
    assert options.pop("started") == training.STARTED
    assert (options.pop("start"), options.pop("decided")) == (None, Decisions())
    assert options == {"resume": "--resume" in words, "allow_change": ALLOWED if "--allow-change" in words else ()}


def test_a_time_budget_counts_more_than_the_recipes_own_steps(run, trains, dataset, tmp_path):
    recipe = write_recipe(tmp_path, dataset, max_steps=7)
    assert run("train", recipe, "--time-budget", "20m", "seed=3")[0] == 0
    assert (trains[0][0].max_steps, trains[0][0].time_budget, trains[0][0].seed) == ("auto", "20m", 3)


@pytest.mark.parametrize(("written", "read"), [("20min", "20m"), ("1h30m", "90m"), ("90s", "90s"), ("2 hours", "2h")])
def test_time_is_written_as_people_write_it(run, trains, dataset, tmp_path, written, read):
    recipe = write_recipe(tmp_path, dataset)
    assert run("train", recipe, "--time-budget", written)[0] == 0
    assert trains[0][0].time_budget == read


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--time-budget", "20"], "--time-budget: is '20'"),
        (["--time-budget", "1h30"], "--time-budget: is '1h30'"),
        (["--time-budget", "20m", "max_steps=7"], "--time-budget: goes not with max_steps="),
        (["time_budget=20m"], "max_steps is given"),
    ],
)
def test_a_time_that_is_none_or_beside_a_number_of_steps_is_refused(run, trains, dataset, tmp_path, words, says):
    assert says in error_of(run("train", write_recipe(tmp_path, dataset, max_steps=7), *words))
    assert not trains


def test_recipe_in_a_folder_with_an_equals_sign_is_found(run, trains, dataset, tmp_path):
    (tmp_path / "a=b").mkdir()
    recipe = write_recipe(tmp_path / "a=b", dataset)
    assert run("train", recipe, "seed=9")[0] == 0
    assert trains[0][0].seed == 9


def test_run_is_called_as_the_recipe_where_no_output_is_named(run, trains, dataset, tmp_path):
    recipe = write_recipe(tmp_path, dataset)
    run("train", recipe)
    assert str(trains[0][1]) == f"runs/{recipe.stem}"


def test_negative_value_of_a_key_is_no_option(run, dataset, tmp_path):
    err = error_of(run("train", write_recipe(tmp_path, dataset), "seed=-1"))
    assert "seed: expected greater than or equal to 0, not -1" in err


# Mistakes


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("train", "x", "--max-steps", "5"), "it is given as max_steps=VALUE"),
        (("train", "x", "--fold", "0"), "--fold is an option of nnU-Net's; here it is data.split_fold=N"),
        (("train", "x", "--folds", "all"), "data.validation=none trains on every mask"),
        (("train", "x", "--layout-option", "ignore=4"), "is layout.options.ignore=255 for train"),
        (("predict", "x", "y", "-o", "z", "--disable_tta"), "here it is --mirror off"),
        (("predict", "x", "y"), None),
    ],
)
def test_a_line_that_cannot_be_read_is_told_what_it_may_have_meant(run, words, hint):
    code, _, err = run(*words)
    assert code == 2
    assert (hint or "output") in err
    hints = ("here it is", "given as", "takes a number", "layout.options")
    assert any(words in err for words in hints) == (hint is not None)


def test_predict_without_scans_says_what_is_missing(run, tmp_path):
    assert "SCAN: is not given" in error_of(run("predict", tmp_path, "--output", tmp_path / "masks"))


def test_components_of_a_plugin_are_listed(run, tmp_path):
    plugin = tmp_path / "theirs.py"
    plugin.write_text(
        "from pipeline.losses import LOSSES, LabelLoss\n\n@LOSSES.register('listed_here')\nclass Theirs(LabelLoss):\n"
        '    """Of a plugin."""\n\n    def forward(self, logits, labels):\n        return logits.mean()\n'
    )
    assert "listed_here" not in run("components")[1]
    assert "  listed_here: Of a plugin." in run("components", "--plugin", plugin)[1].splitlines()


def test_mistakes_of_a_recipe_are_one_message(run, dataset, tmp_path):
    recipe = write_recipe(tmp_path, dataset, sead=1, objective=[{"loss": "balanced_cee"}])
    err = error_of(run("train", recipe, "max_steps=many", "--output", tmp_path / "run"))
    assert "with max_steps=many has 3 mistakes" in err
    assert "sead: there is no such key" in err
    assert "did you mean 'seed'?" in err
    assert "max_steps: expected 'auto' or a valid integer, not 'many'" in err
    assert "objective.0.loss: no loss is named 'balanced_cee'; did you mean 'balanced_ce'?" in err
    assert not (tmp_path / "run").exists()


def test_folder_that_holds_a_run_is_left_alone(run, dataset, tmp_path):
    recipe = write_recipe(tmp_path, dataset)
    words = ["train", recipe, "max_steps=1", "--output", tmp_path / "run"]
    assert run(*words)[0] == 0
    before = files_in(tmp_path / "run")
    assert "add --resume" in error_of(run(*words))
    assert files_in(tmp_path / "run") == before
    assert run(*words, "--resume")[0] == 0
    code, _, err = run("train", tmp_path / "run", "--resume")
    assert (code, "has done all its 1 steps" in err) == (0, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "none.yaml"], "none.yaml: there is no such file"),
        (["train", "{recipe}", "dataset=none"], "none: there is no such file or folder"),
        (["train", "{recipe}", "seed"], "seed: no key=value"),
        (["train", "{recipe}", "plugins=[none.py]"], "none.py: there is no such file"),
        (
            ["train", "{recipe}", "network.options.channels=[4, 8]", STRIDES.replace("2, 2, 2", "2, 2")],
            "network.options.strides: expected lists of 3 numbers",
        ),
        (
            ["train", "{recipe}", "data.patch_size=[15, 16, 16]", STRIDES],
            "data.patch_size: unet cannot take (15, 16, 16)",
        ),
        (["train", "{recipe}", "device=cuda:99"], "device: is cuda:99"),
        (["check", "none"], "none: there is no such file or folder"),
        (["validate", "none"], "there is no such run"),
        (["predict", "none", "{dataset}/..", "--output", "out"], "it holds phantom"),
        (["predict", "none", "{dataset}/imagesTs", "--output", "out"], "there is no such run"),
        (["evaluate", "none", "none", "--output", "out"], "none: is no folder"),
        (["phantom", "{dataset}"], "it is there already"),
        (["train", "{recipe}", "--output", "{recipe}"], "yaml: is a file"),
        (["predict", "none", "{dataset}/imagesTs", "--output", "{recipe}/masks"], "yaml: is a file"),
        (["evaluate", "{dataset}/labelsTr", "{dataset}/labelsTr", "--output", "{recipe}"], "yaml: is a file"),
        (["phantom", "new", "--labelled", "-1"], "--labelled: is -1"),
        (["check", "{dataset}", "--root", "none"], "none: is no folder, and paths of a list are to be in it"),
        (["check", "{dataset}/imagesTr", "--layout", "decathlon"], "dataset.json: cannot be read: No such file"),
        (["train", "{recipe}", "network.options.channels=[]"], "channels: expected at least 2 items, not []"),
        (["train", "{recipe}", "network.options.channels=[0, 0]"], "1 or at least 2 items, not [0, 0]"),
        (["train", "{recipe}", "device=mps"], "device: expected another form, not 'mps'"),
    ],
)
def test_users_mistake_exits_2_and_writes_nothing(run, dataset, tmp_path, monkeypatch, words, message):
    recipe = write_recipe(tmp_path, dataset)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert message in error_of(run(*(word.format(recipe=recipe, dataset=dataset) for word in words)))
    assert list((tmp_path / "here").iterdir()) == []


def test_training_that_diverges_is_one_message(run, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(Schedule, "__call__", lambda *_: 1e30)
    recipe = write_recipe(tmp_path, dataset)
    code, out, err = run("train", recipe, "--output", tmp_path / "run")
    before, _, message = err.partition("error: ")
    assert before.splitlines()[-1] == f"folder    {tmp_path / 'run'}"
    assert "not finite at step 2" in error_of((code, out, f"error: {message}"))


def test_signal_in_another_command_does_not_speak_of_train(run, monkeypatch, dataset, tmp_path):
    monkeypatch.setattr(runs, "predict", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
    code, _, err = run("predict", tmp_path, dataset / "imagesTs", "--output", tmp_path / "masks")
    assert (code, err) == (143, "stopped; no file is half-written\n")


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signal_says_how_to_go_on(run, monkeypatch, dataset, tmp_path, number, expected):
    monkeypatch.setattr(runs, "train", lambda *_, **__: signal.raise_signal(number))
    code, _, err = run("train", write_recipe(tmp_path, dataset))
    assert (code, err) == (expected, "stopped; `train` goes on with --resume\n")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/x"), "error: /x: Permission denied; check"),
        (OSError(errno.ENOSPC, "No space left on device"), "error: the disk: No space left on device; check"),
        (MemoryError(), "error: too little memory, here or on the GPU"),
        (torch.OutOfMemoryError("CUDA out of memory."), "error: too little memory, here or on the GPU"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
            "error: too little memory, here or on the GPU",
        ),
    ],
)
def test_machine_that_gives_out_is_one_message(run, monkeypatch, dataset, tmp_path, error, message):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(runs, "train", fail)
    assert error_of(run("train", write_recipe(tmp_path, dataset))).startswith(message)


def test_escape_sequences_in_names_reach_no_terminal(run, tmp_path):
    code, _, err = run("check", tmp_path / "a\x1b[2J\rb")
    assert code == 2
    assert "\x1b" not in err
    assert "a\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}b" in err


@pytest.mark.parametrize("variables", [{"COLUMNS": "0"}, {"MPLBACKEND": "none"}])
def test_odd_environment_hides_no_error_and_makes_none(tmp_path, dataset, variables):
    """A container may say that its terminal has no columns, and a notebook's backend is not everywhere."""
    found = fewmask("check", tmp_path / "none", **variables)
    assert (found.returncode, "there is no such file or folder" in found.stderr) == (2, True)
    labels = dataset / "labelsTr"
    found = fewmask("evaluate", labels, labels, "--output", tmp_path / "scores", **variables)
    assert (found.returncode, found.stderr) == (0, "")
    assert "report.html" in found.stdout


@pytest.mark.parametrize(
    "words", [["check", "a\x1b[2J"], ["evaluate", "a", "b", "c\x1b]0;x\x07"], ["predict", "\x9b2J"]]
)
def test_control_characters_of_the_line_reach_no_terminal(run, words):
    err = error_of(run(*words))
    assert "holds control characters" in err
    assert all(letter.isprintable() or letter == "\n" for letter in err)


def test_line_breaks_of_a_recipes_value_are_none(run, trains, dataset, tmp_path):
    recipe = write_recipe(tmp_path, dataset)
    assert run("train", recipe, "objective=\n- loss: dice\n", "--output", tmp_path / "run")[0] == 0
    assert [term.loss for term in trains[0][0].objective] == ["dice"]


@pytest.mark.parametrize("folds", [(), ("--folds", 2)])
def test_what_may_change_is_refused_where_nothing_is_resumed(run, dataset, tmp_path, folds):
    recipe = write_recipe(tmp_path, dataset)
    err = error_of(run("train", recipe, "--output", tmp_path / "run", "--allow-change", "zzz", *folds))
    assert "--allow-change: is for a run that is resumed" in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("buffered", ["", "1"])
@pytest.mark.parametrize("words", [["check", "{dataset}"], ["components"], ["--help"], ["train", "--help"]])
def test_program_that_nobody_reads_ends_without_a_word(dataset, tmp_path, words, buffered):
    """As with `| head`, but the reader is gone for certain."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, ROOT / "run.py", *(word.format(dataset=dataset) for word in words)]
    about = os.environ | {"PYTHONUNBUFFERED": buffered}
    ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=about)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, "")


def test_training_whose_reader_is_gone_saves_and_goes_on_later(dataset, tmp_path):
    recipe = write_recipe(tmp_path, dataset)
    reader, writer = os.pipe()
    os.close(reader)
    words = [sys.executable, ROOT / "run.py", "train", recipe, "--output", tmp_path / "run"]
    ended = subprocess.run(words, stdout=writer, stderr=writer)
    os.close(writer)
    assert ended.returncode == 141
    assert fewmask(*words[2:], "--resume").returncode == 0


def test_error_is_the_exit_code_where_nobody_reads_it(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    words = [sys.executable, ROOT / "run.py", "check", tmp_path / "none"]
    ended = subprocess.run(words, stdout=subprocess.PIPE, stderr=writer, text=True)
    os.close(writer)
    assert (ended.returncode, ended.stdout) == (2, "")


# What works


def test_check_describes_a_sound_dataset(run, dataset, tmp_path):
    code, out, err = run("check", dataset, "--output", tmp_path)
    assert (code, err) == (0, "")
    assert "2 with masks" in out
    assert "1 without masks" in out


def test_components_lists_names_and_options(run):
    code, out, _ = run("components")
    assert code == 0
    for text in ("dice:", "ncut:", "unet:", "dynunet:", "segresnet:", "decathlon:", "radius=4.0"):
        assert text in out


def test_names_that_look_like_markup_are_printed_as_they_are(run, tmp_path):
    code, _, err = run("check", tmp_path / "[red]a[/red]")
    assert code == 2
    assert "[red]a[/red]: there is no such file" in err


def test_whole_way_from_phantom_to_scores_in_processes_of_their_own(tmp_path):
    words = json.dumps(TINY["data"]["patch_size"]).replace(" ", "")
    commands = [
        ["phantom", tmp_path / "data", "--labelled", 2, "--unlabelled", 1],
        [
            *("train", ROOT / "configs" / "supervised.yaml", f"dataset={tmp_path / 'data'}", "max_steps=2"),
            *("network=unet", "network.options.channels=[4,8]", f"data.patch_size={words}", "device=cpu"),
            *("--output", tmp_path / "run"),
        ],
        ["predict", tmp_path / "run", tmp_path / "data" / "imagesTr", "--output", tmp_path / "masks"],
    ]
    for command in commands:
        done = fewmask(*command)
        assert done.returncode == 0, done.stderr
        assert "Warning" not in done.stderr
    assert len(list((tmp_path / "masks").glob("*.nii.gz"))) == 2
    scores = runs.evaluate(tmp_path / "masks", tmp_path / "data" / "labelsTr", tmp_path / "scores")
    assert scores.n_cases == 2
    assert scores.mean_dice is not None
    assert np.isfinite(scores.mean_dice)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("train", "scans", "--launcher-option", "gpus_per_node=1"), "--launcher-option: is for jobs"),
        (("plan", "scans", "dataset=elsewhere"), "dataset: is given twice: scans, and dataset=elsewhere"),
        (("train", "semisupervised", "--time_budget", "soon", "dataset=scans"), "--time-budget: is 'soon'"),
    ],
)
def test_what_is_given_twice_or_for_nothing_is_refused(run, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(make_phantom(tmp_path / "scans").parent)
    assert said in error_of(run(*words))
