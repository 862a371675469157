"""Every command of docs/coming-from.md: parsed by the real parser, and in the slow part run on a phantom."""

import functools
import importlib
import inspect
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from runs_fixtures import make_phantom

from pipeline import arguments, runs
from pipeline.data.layouts import read_dataset
from pipeline.errors import UserError

PAGE = Path(__file__).resolve().parents[1] / "docs" / "coming-from.md"
COMMANDS = [
    line
    for text in re.findall(r"`(fewmask [^`]+)`|^(fewmask .+)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    for line in text
    if line
]
# Small enough for seconds, where the command says nothing else.
SMALL = {
    "max_steps": "2",
    "validate_every": "2",
    "device": "cpu",
    "data.patch_size": "[16, 16, 16]",
    "data.batch_size": "1",
    "network.options.channels": "[4, 8, 8]",
}


def make_place(folder):
    """What the page's commands name: a dataset, its masks and scans, a split file and a list with folds."""
    data = make_phantom(folder / "data", labelled=6, unlabelled=0)
    cases = [case for case in read_dataset(data).cases if case.label]
    for name, files in (("labels", [case.label for case in cases[:3]]), ("scans", [c.images[0] for c in cases[:3]])):
        (folder / name).mkdir()
        for path in files:
            shutil.copy(path, folder / name)
    ids = [case.id for case in cases]
    splits = [{"train": ids[:3], "val": ids[3:]}, {"train": ids[3:], "val": ids[:3]}]
    (folder / "splits_final.json").write_text(json.dumps(splits))
    entries = [
        {"image": f"data/{c.images[0].relative_to(data)}", "label": f"data/{c.label.relative_to(data)}", "fold": n % 2}
        for n, c in enumerate(cases)
    ]
    (folder / "list.json").write_text(json.dumps({"training": entries}))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coming-from")
    make_place(folder)
    return folder


def taken(line, monkeypatch):
    """Return what the command of a line is called with."""
    importlib.import_module("pipeline.cli")  # Registers the commands.
    words = shlex.split(line)[1:]
    calls = []
    command = arguments.COMMANDS[words[0]]

    @functools.wraps(command)
    def record(*given, **named):
        calls.append(inspect.signature(command).bind(*given, **named).arguments)

    monkeypatch.setitem(arguments.COMMANDS, words[0], record)
    arguments.run_command(words)
    (call,) = calls
    return words[0], call


def test_there_are_commands_of_every_kind():
    assert {line.split()[1] for line in COMMANDS} >= {"train", "predict", "evaluate", "compare", "export", "check"}
    assert len(COMMANDS) > 40


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_page_is_one_that_the_program_takes(place, monkeypatch, line):
    monkeypatch.chdir(place)
    name, call = taken(line, monkeypatch)
    # A checkpoint's recipe is in the checkpoint, which is there once something was trained.
    if name in ("train", "plan") and call["source"].suffix != ".pt":
        overrides = [*call.get("overrides", ())]
        if call.get("time_budget"):
            overrides.append("time_budget=7200s")
        runs.read_request(call["source"], overrides, call.get("folds"), call.get("seeds"))


@pytest.mark.slow
def test_the_commands_of_the_page_run_one_after_the_other(tmp_path, monkeypatch):
    importlib.import_module("pipeline.cli")  # Registers the commands.
    make_place(tmp_path)
    monkeypatch.chdir(tmp_path)
    failed = []
    for line in COMMANDS:
        words = shlex.split(line)[1:]
        if "--time-budget" in words:
            continue  # How long it takes depends on the machine; tests/test_budget.py trains within one.
        if words[0] == "train":
            words = [word for word in words if not word.startswith("max_steps=")]
            given = {word.partition("=")[0] for word in words}
            small = {key: value for key, value in SMALL.items() if key not in given}
            if "data.dimensions=2" in words:
                small["data.patch_size"] = "[16, 16]"
            if given & {"network", "data.spacing_mm"} or ".pt" in line:
                small.pop("network.options.channels", None)
            words += [f"{key}={value}" for key, value in small.items()]
        try:
            arguments.run_command(words)
        except UserError as error:
            failed.append(f"{line}\n{error}")
    assert failed == []
