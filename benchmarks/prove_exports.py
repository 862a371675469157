"""Proof that every export of a run gives the masks of `fewmask predict`, each in an environment of its own.

    python -m venv onnx && onnx/bin/pip install numpy nibabel onnxruntime
    python -m venv torch && torch/bin/pip install torch==2.13.0 numpy nibabel
    python -m venv monai && monai/bin/pip install torch==2.13.0 monai fire nibabel pytorch-ignite
    python benchmarks/prove_exports.py RUN SCANS --onnx onnx/bin/python --torch torch/bin/python \
        --monai monai/bin/python

Nothing of ours can be imported there. The programs of ``--format torch`` are what the script of ``--format onnx`` runs
in place of its graphs, by a module that passes them off as onnxruntime's. Printed are the voxels that differ of each
way, and the largest share of them in a scan; the exit code is 1 where it is over one in 10,000, or a grid differs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
MOST = 1e-4
# Stands for onnxruntime where PyTorch alone is: it opens the program of the same number.
STAND_IN = """import torch


class _Input:
    name = "image"


class InferenceSession:
    def __init__(self, path):
        self.module = torch.export.load(str(path.with_suffix(".pt2"))).module()

    def get_inputs(self):
        return [_Input]

    def run(self, _, given):
        with torch.no_grad():
            return [self.module(torch.from_numpy(given["image"])).numpy()]
"""


def run(*words: object, cwd: Path, path: Path | None = None) -> None:
    """Run a program that finds nothing of ours."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run([*map(str, words)], cwd=cwd, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, words))} failed:\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}")


def fewmask(*words: object) -> None:
    """Run one of our commands."""
    run(sys.executable, ROOT / "run.py", *words, "--quiet", cwd=ROOT)


def graphs(model: Path, given: argparse.Namespace, scans: list[Path], folder: Path) -> None:
    """Predict with the ONNX graphs and their script."""
    fewmask("export", model, "--format", "onnx", "--output", folder / "graphs", "--checkpoint", given.checkpoint)
    run(given.onnx, folder / "graphs" / "predict.py", *scans, "--output", folder / "onnx", cwd=folder)


def programs(model: Path, given: argparse.Namespace, scans: list[Path], folder: Path) -> None:
    """Predict with the programs of torch.export, by the same script."""
    if not (folder / "graphs").exists():
        fewmask("export", model, "--format", "onnx", "--output", folder / "graphs", "--checkpoint", given.checkpoint)
    fewmask("export", model, "--format", "torch", "--output", folder / "programs", "--checkpoint", given.checkpoint)
    for name in ("predict.py", "model.json"):
        shutil.copy(folder / "graphs" / name, folder / "programs" / name)
    (folder / "stand-in").mkdir()
    (folder / "stand-in" / "onnxruntime.py").write_text(STAND_IN)
    words = (given.torch, folder / "programs" / "predict.py", *scans, "--output", folder / "torch")
    run(*words, cwd=folder, path=folder / "stand-in")


def bundle(model: Path, given: argparse.Namespace, scans: list[Path], folder: Path) -> None:
    """Predict with the bundle, by MONAI's command line."""
    fewmask("export", model, "--format", "bundle", "--output", folder / "bundle", "--checkpoint", given.checkpoint)
    (folder / "scans").mkdir()
    for scan in scans:
        (folder / "scans" / scan.name).symlink_to(scan)
    words = (given.monai, "-m", "monai.bundle", "run", "--config_file", "configs/inference.json")
    places = ("--dataset_dir", folder / "scans", "--output_dir", folder / "monai")
    run(*words, *places, "--device", "$torch.device('cpu')", cwd=folder / "bundle")


def model_file(model: Path, given: argparse.Namespace, scans: list[Path], folder: Path) -> None:
    """Predict with the one-file model, by our own command."""
    fewmask("export", model, "--output", folder / "one.fewmask", "--checkpoint", given.checkpoint)
    fewmask("predict", folder / "one.fewmask", *scans, "--output", folder / "model")


def differences(scans: list[Path], own: Path, other: Path) -> dict[str, float]:
    """Return the number of voxels of all masks, and of those that differ, and the largest share in one scan."""
    voxels = differ = 0
    largest = 0.0
    for scan in scans:
        ours, theirs = (nib.load(folder / scan.name) for folder in (own, other))
        np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-3)
        count = int((np.asarray(ours.dataobj) != np.asarray(theirs.dataobj)).sum())
        size = int(np.prod(ours.shape))
        voxels += size
        differ += count
        largest = max(largest, count / size)
    return {"scans": len(scans), "voxels": voxels, "differ": differ, "largest_share": largest}


def main() -> int:
    """Export, predict in each environment that is named, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("scans", type=Path, help="folder of scans")
    parser.add_argument("--checkpoint", default="last")
    parser.add_argument("--most", type=int, default=20, help="so many scans at most")
    for name in ("onnx", "torch", "monai"):
        parser.add_argument(f"--{name}", type=Path, help="Python of an environment for it")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="two scans")
    given = parser.parse_args()
    scans = sorted(path.resolve() for path in given.scans.glob("*.nii*"))[: 2 if given.quick else given.most]
    for name in ("onnx", "torch", "monai"):
        # The path of an environment's interpreter is a link, and leads to it by its own name alone.
        setattr(given, name, getattr(given, name) and getattr(given, name).absolute())
    ways = {"model": model_file}
    ways |= {name: way for name, way in (("onnx", graphs), ("torch", programs), ("monai", bundle)) if vars(given)[name]}
    found = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model = given.run.resolve()
        fewmask("predict", model, *scans, "--output", folder / "own", "--checkpoint", given.checkpoint)
        for name, way in ways.items():
            way(model, given, scans, folder)
            found[name] = differences(scans, folder / "own", folder / name)
            print(f"{name}: {json.dumps(found[name])}", flush=True)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))
    return int(any(each["largest_share"] > MOST for each in found.values()))


if __name__ == "__main__":
    sys.exit(main())
