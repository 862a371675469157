"""Plan five kinds of dataset, and print each plan beside nnU-Net's for the same files.

    python -m venv nnunet && nnunet/bin/pip install torch==2.13.0 nnunetv2==2.8.1
    python benchmarks/compare_plans.py --nnunet nnunet/bin/python --hippocampus data/Task04_Hippocampus

Four of the sets are generated: the phantom's bodies on grids as those of a brain (four channels, nothing outside the
head), a prostate (thick slices), single slices and an abdomen in CT. nnU-Net plans for 8 GB, its default, and so do we
for a GPU of 8 GB; the last column is our plan for two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.ndimage import zoom

from pipeline import config
from pipeline.data.check import Check
from pipeline.data.layouts import read_dataset
from pipeline.data.phantom import phantom_case
from pipeline.planning.hardware import Hardware
from pipeline.planning.plan import make_plan
from pipeline.reports.plans import brief
from pipeline.runs.components import COMPONENTS

GIB = 2**30
MACHINES = {
    "GPU, 8 GB": Hardware(device="cuda", bfloat16=True, cores=8, memory_bytes=8 * GIB),
    "2 cores": Hardware(device="cpu", bfloat16=True, cores=2, memory_bytes=24 * GIB),
}

NNUNET = """
import json, sys
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
if __name__ == "__main__":
    name = sys.argv[1]
    DatasetFingerprintExtractor(name, num_processes=1).run(overwrite_existing=True)
    plans = ExperimentPlanner(name).plan_experiment()
    print("PLANS " + json.dumps(plans, default=str))
"""


@dataclass(frozen=True)
class Kind:
    """A kind of dataset.

    Attributes:
        cases: How many to make.
        shape: Of a scan.
        spacing_mm: Of its voxels.
        channels: Names.
        masked: Whether there is nothing outside the body.
    """

    cases: int
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    channels: tuple[str, ...] = ("T2",)
    masked: bool = False


KINDS = {
    "brain": Kind(3, (240, 240, 155), (1.0, 1.0, 1.0), ("T1", "T1ce", "T2", "FLAIR"), masked=True),
    "thick slices": Kind(4, (384, 384, 24), (0.5, 0.5, 5.0)),
    "2-D": Kind(6, (512, 512, 1), (0.7, 0.7, 1.0), ("photo",)),
    "CT": Kind(3, (512, 512, 200), (0.8, 0.8, 2.5), ("CT",)),
}


def write_kind(folder: Path, kind: Kind) -> None:
    """Write a generated dataset as nnU-Net's raw layout."""
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    affine = np.diag([*kind.spacing_mm, 1.0])
    for number in range(kind.cases):
        image, label = (np.asanyarray(each.dataobj) for each in phantom_case(0, number))
        label = resized(label, kind.shape, order=0)
        scan = resized(image / np.quantile(image, 0.99), kind.shape, order=1)
        nib.save(nib.Nifti1Image(label.astype(np.uint8), affine), folder / "labelsTr" / f"case_{number}.nii")
        for channel, name in enumerate(kind.channels):
            voxels = scan ** (1 + 0.3 * channel) * 1000
            if name == "CT":
                voxels = np.where(scan < 0.1, -1000, (scan - 0.6) * 300)
            elif kind.masked:
                voxels = np.where(scan < 0.1, 0, voxels)
            path = folder / "imagesTr" / f"case_{number}_{channel:04d}.nii"
            nib.save(nib.Nifti1Image(np.rint(voxels).astype(np.int16), affine), path)
    write_list(folder, kind.channels, {"background": 0, "organ": 1, "nodule": 2}, kind.cases, ".nii")


def resized(voxels: np.ndarray, shape: tuple[int, int, int], order: int) -> np.ndarray:
    """Stretch a body over another grid; for one slice, take its middle."""
    if shape[2] == 1:
        voxels = voxels[:, :, voxels.shape[2] // 2, None]
    return zoom(voxels, np.divide(shape, voxels.shape), order=order, grid_mode=True, mode="nearest")


def write_list(folder: Path, channels: tuple[str, ...], labels: dict[str, int], cases: int, ending: str) -> None:
    content = {
        "channel_names": dict(enumerate(channels)),
        "labels": labels,
        "numTraining": cases,
        "file_ending": ending,
    }
    (folder / "dataset.json").write_text(json.dumps(content))


def link_hippocampus(source: Path, folder: Path) -> None:
    """Lay the labelled cases of the Decathlon's hippocampus out as nnU-Net wants them."""
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    listing = json.loads((source / "dataset.json").read_text())["training"]
    for entry in listing:
        name = Path(entry["image"]).name.removesuffix(".nii.gz")
        (folder / "imagesTr" / f"{name}_0000.nii.gz").symlink_to((source / entry["image"]).resolve())
        (folder / "labelsTr" / f"{name}.nii.gz").symlink_to((source / entry["label"]).resolve())
    write_list(folder, ("MRI",), {"background": 0, "anterior": 1, "posterior": 2}, len(listing), ".nii.gz")


def our_plan(folder: Path, hardware: Hardware) -> dict[str, str]:
    """Return our plan in words."""
    check = Check(read_dataset(folder))
    for _ in check:
        pass
    raw = config.read(config.shipped()["supervised"]) | {"dataset": str(folder)}
    plan = make_plan(config.parse(raw, "supervised", COMPONENTS), check.index(), hardware)
    data, options = plan.recipe.data, plan.recipe.network.options
    return {
        "spacing": brief(data.spacing_mm),
        "median shape": brief(plan.shape),
        "normalisation": brief(data.normalization),
        "patch": brief(data.patch_size),
        "batch": str(data.batch_size),
        "channels": brief(options["channels"]),
        "strides": brief(options["strides"]),
        "kernels": brief(options["kernels"]),
        "memory": f"{(plan.memory_bytes or 0) / 1e9:.1f} GB",
    }


def nnunet_plan(python: Path, raw: Path, name: str, work: Path) -> dict[str, str]:
    """Return nnU-Net's plan in the same words, its axes in the order of ours."""
    places = {"nnUNet_raw": raw, "nnUNet_preprocessed": work / "preprocessed", "nnUNet_results": work / "results"}
    environment = os.environ | {key: str(path) for key, path in places.items()}
    script = work / "nnunet_plan.py"
    script.write_text(NNUNET)
    done = subprocess.run([str(python), str(script), name], env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    plans = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("PLANS "))[6:])
    chosen = plans["configurations"].get("3d_fullres") or plans["configurations"]["2d"]
    order = plans["transpose_backward"]
    flat = len(chosen["patch_size"]) == 2

    def ours(values: list[float]) -> tuple[float, ...]:
        """From nnU-Net's transposed z, y, x to x, y, z."""
        return tuple(reversed(values if flat else [values[axis] for axis in order]))

    network = chosen["architecture"]["arch_kwargs"]
    return {
        "spacing": brief(tuple(round(value, 3) for value in ours(chosen["spacing"]))),
        "median shape": brief(tuple(round(value) for value in ours(chosen["median_image_size_in_voxels"]))),
        "normalisation": ", ".join(chosen["normalization_schemes"]),
        "patch": brief(ours(chosen["patch_size"])),
        "batch": str(chosen["batch_size"]),
        "channels": brief(network["features_per_stage"]),
        "strides": brief([list(ours(step)) for step in network["strides"][1:]]),
        "kernels": brief([list(ours(kernel)) for kernel in network["kernel_sizes"]]),
        "memory": "8 GB (target)",
    }


def main() -> None:
    """Plan what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nnunet", type=Path, help="the Python that has nnunetv2; without it, our plans alone")
    parser.add_argument("--hippocampus", type=Path, help="the Decathlon's folder; without it, the generated sets alone")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS), help="of the generated sets")
    parser.add_argument("--quick", action="store_true", help="the two small generated sets alone")
    parser.add_argument("--json", type=Path, help="write the plans there")
    given = parser.parse_args()
    chosen = ("thick slices", "2-D") if given.quick else given.only
    kinds = {name: KINDS[name] for name in chosen}
    found: dict[str, dict[str, dict[str, str]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        names = [*(["hippocampus"] if given.hippocampus else []), *kinds]
        for number, name in enumerate(names, 1):
            dataset = work / "raw" / f"Dataset{number:03d}_{name.replace(' ', '').replace('-', '')}"
            if name == "hippocampus":
                link_hippocampus(given.hippocampus, dataset)
            else:
                write_kind(dataset, kinds[name])
            found[name] = {machine: our_plan(dataset, hardware) for machine, hardware in MACHINES.items()}
            if given.nnunet:
                found[name] = {"nnU-Net": nnunet_plan(given.nnunet, work / "raw", dataset.name, work)} | found[name]
            print_table(name, found[name])
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")


def print_table(name: str, plans: dict[str, dict[str, str]]) -> None:
    """Print one set's plans as a table in Markdown."""
    print(f"\n### {name}\n\n| | {' | '.join(plans)} |\n|---|{'---|' * len(plans)}")
    for row in next(iter(plans.values())):
        print(f"| {row} | {' | '.join(plan[row] for plan in plans.values())} |", flush=True)


if __name__ == "__main__":
    main()
