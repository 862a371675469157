"""What the tests of whole runs share: a tiny recipe and a phantom that takes a second to train on."""

import hashlib
import itertools
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml

from pipeline import cli, runs
from pipeline.checkpoints import newest_checkpoint
from pipeline.data.phantom import write_phantom
from pipeline.engines.steps import TrainingStep

ROOT = Path(__file__).resolve().parents[1]

# Seven steps of a network that is just large enough to be one.
TINY = {
    "seed": 3,
    "max_steps": 6,
    "device": "cpu",
    "precision": "float32",
    "validate_every": 3,
    "checkpoint_every": 2,
    "data": {
        "spacing_mm": [2.5, 2.5, 2.5],
        "patch_size": [16, 16, 16],
        "batch_size": 1,
        "unlabelled_batch_size": 1,
        "workers": 0,
    },
    "network": {"name": "unet", "options": {"channels": [4, 8], "num_res_units": 0}},
    "objective": [
        {"loss": "dice"},
        {"loss": "ncut", "on": "unlabelled", "weight": 0.1, "ramp": 0.4, "options": {"radius": 2}},
    ],
}

numbers = itertools.count()


def make_phantom(folder, labelled=4, unlabelled=2, seed=0):
    list(write_phantom(folder, labelled=labelled, unlabelled=unlabelled, seed=seed))
    return folder


def write_recipe(folder, dataset, **changes):
    path = folder / f"recipe_{next(numbers)}.yaml"
    path.write_text(yaml.safe_dump(TINY | {"dataset": str(dataset)} | changes))
    return path


def train(folder, dataset, run, *overrides, resume=False, **changes):
    """Train the tiny recipe, changed as asked for, and return the run's folder."""
    runs.train(runs.read_recipe(write_recipe(folder, dataset, **changes), overrides), folder / run, resume=resume)
    return folder / run


@contextmanager
def plug_pulled_at(step):
    """Let the training within end before a step is done, as if the plug was pulled."""
    update = TrainingStep.__call__

    def die(self, engine, batches):
        if engine.state.iteration == step:
            raise KeyError("the plug")
        return update(self, engine, batches)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyError, match="the plug"):
        patch.setattr(TrainingStep, "__call__", die)
        yield


def state_of(run, which="last"):
    """Return what the newest checkpoint of a run holds."""
    return newest_checkpoint(run, which).state


def digest(value):
    """Return the SHA-256 of all that a checkpoint holds and another run of the same recipe must hold too."""
    found = hashlib.sha256()

    def add(value):
        if isinstance(value, dict):
            for key in value:
                found.update(repr(key).encode())
                add(value[key])
        elif isinstance(value, torch.Tensor):
            found.update(f"{value.dtype} {tuple(value.shape)}".encode() + value.contiguous().numpy().tobytes())
        elif isinstance(value, (list, tuple)):
            for item in value:
                add(item)
        else:
            found.update(repr(value).encode())

    add({key: item for key, item in value.items() if key != "recipe"})
    return found.hexdigest()


def assert_same_run(one, other):
    for name in ("history.csv", "validation.csv", "cases.csv", "summary.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    for which in ("last", "best"):
        assert digest(state_of(one, which)) == digest(state_of(other, which)), which


def with_mortal(path):
    return {"plugins": [str(path)], "objective": [{"loss": "mortal"}, *TINY["objective"][1:]]}


def files_in(folder):
    """Return what is in every file of a folder, to see that nothing was touched."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def command_runner(monkeypatch, capsys):
    """Return a function that runs a command in this process and returns its exit code, output and errors."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["fewmask", *map(str, words)])
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = stop.code
        return code or 0, *capsys.readouterr()

    return run
