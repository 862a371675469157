"""Fixtures that several test files share: small scans and small datasets, written when a test asks for them."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from registered import parts_restored

from pipeline.engines import steps
from pipeline.engines.step_output import PendingOutput
from pipeline.reports import figures

# The tensors of the tests are tiny, and several test processes share the cores.
torch.set_num_threads(1)

HIPPOCAMPUS = Path(__file__).resolve().parents[2] / "shared" / "data" / "Task04_Hippocampus"


# A loss that stops the process at a step, once, in the way that its environment asks for.
MORTAL = """
import os
import signal
from pathlib import Path

from pipeline.losses import LOSSES, LabelLoss


class Interrupted(Exception):
    pass


@LOSSES.register("mortal")
class MortalLoss(LabelLoss):
    \"\"\"The mean probability of a wrong class, until the process is killed.\"\"\"

    calls, stop = 0, Interrupted

    def forward(self, logits, labels):
        how, at = os.environ.get("DIE", "no 0").split()
        MortalLoss.calls += 1
        if MortalLoss.calls == int(at):
            if how == "raise":
                raise Interrupted
            os.kill(os.getpid(), getattr(signal, how))
        p = self.probabilities(logits)
        return 1 - (p * self.one_hot(labels, like=p)).sum(dim=1).mean()
"""


@pytest.fixture(scope="session", autouse=True)
def no_plugin_is_known(tmp_path_factory):
    """What plugins a user has named is kept where that user's own list is not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session", autouse=True)
def figures_are_small():
    """Hundreds of trainings draw their figures, and a large PNG takes six times as long as a small one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "ZOOM", 1)
        yield


@pytest.fixture(scope="module", autouse=True)
def no_part_of_a_plugin_stays():
    """Modules follow each other in one process, and may load plugins with parts of one name."""
    with parts_restored():
        yield


@pytest.fixture(scope="session")
def mortal(tmp_path_factory):
    """A plugin with that loss; one file, since one process may register it once."""
    path = tmp_path_factory.mktemp("plugins") / "mortal.py"
    path.write_text(MORTAL)
    return path


class Late(PendingOutput):
    """As on a CUDA device."""

    def __init__(self, *args):
        super().__init__(*args)
        self.late = True


@pytest.fixture
def late(monkeypatch):
    """Let the numbers of every step come a step late."""
    monkeypatch.setattr(steps, "PendingOutput", Late)


@pytest.fixture
def hippocampus():
    """The folder of the public Decathlon dataset, where this machine has it."""
    if not HIPPOCAMPUS.is_dir():
        pytest.skip(f"needs the Decathlon's hippocampus dataset in {HIPPOCAMPUS}")
    return HIPPOCAMPUS


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """Runs of every kind on a small dataset; what is to be damaged is copied first."""
    from worlds import make_world

    return make_world(tmp_path_factory.mktemp("world") / "world")


@pytest.fixture
def make_scan(tmp_path):
    """A function that writes an array as NIfTI, below ``tmp_path`` where the path is relative, and returns the path."""

    def make(path, array, affine=None, *, kind=nib.Nifti1Image):
        path = tmp_path / path
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(kind(np.asarray(array), np.eye(4) if affine is None else affine), path)
        return path

    return make


@pytest.fixture
def dataset_folder(tmp_path, make_scan):
    """A function that writes a small, sound Decathlon dataset of noise and square masks, and returns its folder.

    Case ``n`` is ``imagesTr/case_00n.nii.gz``; those without a mask come last, under ``imagesTs``.
    """

    def make(labelled=3, unlabelled=2, shape=(8, 9, 10), affine=None, name="dataset"):
        folder, rng = tmp_path / name, np.random.default_rng(0)
        listing = {"labels": {"0": "background", "1": "blob"}, "modality": {"0": "MRI"}, "training": [], "test": []}
        for number in range(labelled + unlabelled):
            file = f"case_{number:03d}.nii.gz"
            scan = rng.integers(1, 1000, size=shape, dtype=np.int16)
            if number >= labelled:
                make_scan(folder / "imagesTs" / file, scan, affine)
                listing["test"].append(f"./imagesTs/{file}")
                continue
            mask = np.zeros(shape, np.uint8)
            mask[2:5, 2:5, 2:6] = 1
            make_scan(folder / "imagesTr" / file, scan, affine)
            make_scan(folder / "labelsTr" / file, mask, affine)
            listing["training"].append({"image": f"./imagesTr/{file}", "label": f"./labelsTr/{file}"})
        (folder / "dataset.json").write_text(json.dumps(listing))
        return folder

    return make
