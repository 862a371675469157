"""Runs to damage: a small dataset, what every command makes of it, and the commands, called in this process."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
import yaml
from runs_fixtures import TINY

from pipeline import cli, terminal
from pipeline.interruption import Stopped

# Of a run, in steps: where it is stopped, and where it ends.
STOPPED, LAST = 4, 6
SHAPE = (14, 15, 16)


@dataclass
class Ended:
    """How a command ended.

    Attributes:
        code: Its exit code; None after an error that is no user's.
        said: What it wrote, or the traceback.
        seconds: Of the processor.
        peak_bytes: What it took beside what the process held before.
    """

    code: int | None
    said: str
    seconds: float
    peak_bytes: int


def command(*words: object) -> Ended:
    """Run a command in this process, as ``fewmask`` would."""
    text = io.StringIO()
    consoles = [terminal.OUT, terminal.ERR]
    files = [console._file for console in consoles]
    for console in consoles:
        console.file = text
    arguments, sys.argv = sys.argv, ["fewmask", *map(str, words)]
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")  # The peak begins anew.
    before, began = _memory("VmRSS"), time.process_time()
    try:
        cli.main()
        code: int | None = 0
    except SystemExit as stop:
        code = stop.code or 0  # type: ignore[assignment]
    except BaseException:
        code = None
        text.write(traceback.format_exc())
    finally:
        sys.argv = arguments
        for console, file in zip(consoles, files, strict=True):
            console._file = file
    return Ended(code, text.getvalue(), time.process_time() - began, max(0, _memory("VmHWM") - before))


def _memory(key: str) -> int:
    status = Path("/proc/self/status")
    return int(status.read_text().partition(f"{key}:")[2].split()[0]) * 1024 if status.exists() else 0


def make_dataset(folder: Path, labelled: int = 4, unlabelled: int = 1, seed: int = 0) -> Path:
    """Write a Decathlon folder of scans with a bright box, which is the label."""
    rng = np.random.default_rng(seed)
    listing: dict = {"labels": {"0": "background", "1": "box"}, "modality": {"0": "MRI"}, "training": [], "test": []}
    for number in range(labelled + unlabelled):
        name = f"case_{number}.nii.gz"
        mask = np.zeros(SHAPE, np.uint8)
        mask[3 : 8 + number % 3, 4:9, 5:11] = 1
        scan = (200 * mask + rng.integers(1, 100, SHAPE)).astype(np.int16)
        place = folder / ("imagesTr" if number < labelled else "imagesTs")
        for path, voxels in ((place / name, scan), (folder / "labelsTr" / name, mask)):
            if path.parent.name != "labelsTr" or number < labelled:
                path.parent.mkdir(parents=True, exist_ok=True)
                nib.save(nib.Nifti1Image(voxels, np.diag([2.5, 2.5, 2.5, 1])), path)
        entry = {"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"}
        listing["training" if number < labelled else "test"].append(
            entry if number < labelled else f"./imagesTs/{name}"
        )
    (folder / "dataset.json").write_text(json.dumps(listing))
    return folder


@dataclass(frozen=True)
class World:
    """A folder with a dataset and with runs.

    Attributes:
        base: Where all of it is.
    """

    base: Path

    @property
    def data(self) -> Path:
        """The dataset."""
        return self.base / "data"

    @property
    def recipe(self) -> Path:
        """The recipe of every run but ``other``, which has another seed."""
        return self.base / "recipe.yaml"

    def copy(self, name: str, place: Path) -> Path:
        """Copy a run, so that it can be damaged."""
        return Path(shutil.copytree(self.base / name, place, symlinks=True))


def make_world(base: Path) -> World:
    """Write the dataset and train: ``done``, ``other``, ``stopped``, ``crossed``; and evaluate into two folders.

    ``rounding`` is a dataset with a mask that ``check --fix round-labels`` repairs.
    """
    base.mkdir(parents=True, exist_ok=True)
    world = World(base)
    make_dataset(world.data)
    data = TINY["data"] | {"patch_size": [8, 8, 8], "cache": str(base / "cache")}
    recipe = TINY | {"dataset": str(world.data), "max_steps": LAST, "data": data, "objective": [{"loss": "dice"}]}
    world.recipe.write_text(yaml.safe_dump(recipe))
    for name, words in {"done": (), "other": ("seed=4",), "crossed": ("--folds", 2, "max_steps=2")}.items():
        ended = command("train", world.recipe, *words, "--output", base / name)
        assert ended.code == 0, ended.said
    stop_at(world, base / "stopped", STOPPED)
    for name in ("scores", "scores-2"):
        ended = command("evaluate", world.data / "labelsTr", world.data / "labelsTr", "--output", base / name)
        assert ended.code == 0, ended.said
    mask = world.copy("data", base / "rounding") / "labelsTr" / "case_0.nii.gz"
    image = nib.load(mask)
    nib.save(nib.Nifti1Image(image.get_fdata().astype(np.float32) * np.float32(0.9999), image.affine), mask)
    return world


def stop_at(world: World, run: Path, step: int) -> None:
    """Train, and be asked to end once so many steps are done."""
    from pipeline.runs.training import Training

    count = Training._count

    def counted(self: Training, done: int) -> None:
        count(self, done)
        if done == step:
            raise Stopped(143)

    Training._count = counted  # type: ignore[method-assign]
    try:
        assert command("train", world.recipe, "--output", run).code == 143
    finally:
        Training._count = count  # type: ignore[method-assign]


def contents(folder: Path) -> dict[str, bytes | str]:
    """Return what is in a folder: the bytes of files, the targets of links, the names of all else."""
    found: dict[str, bytes | str] = {}
    for place, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(place, name)
            key = str(path.relative_to(folder))
            if path.is_symlink():
                found[key] = f"link to {path.readlink()}"
            elif path.is_file():
                found[key] = path.read_bytes()
            else:
                found[key] = "folder" if path.is_dir() else "special"
    return found


torch.set_num_threads(1)
