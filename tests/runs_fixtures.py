"""What the tests of whole runs share: a tiny recipe and a phantom that takes a second to train on."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import yaml

from pipeline import runs
from pipeline.data.phantom import write_phantom

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


def fewmask(*words, **environment):
    """Run the command in a process of its own."""
    return subprocess.run(
        [sys.executable, ROOT / "run.py", *map(str, words)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        timeout=120,
    )


def files_in(folder):
    """Return what is in every file of a folder, to see that nothing was touched."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
