"""Whole prediction commands: ours beside nnU-Net's, with nnU-Net's own network, from the same weights.

    python -m venv nnunet && nnunet/bin/pip install torch==2.13.0 nnunetv2==2.8.1 && nnunet/bin/pip install -e .
    nnunet/bin/python benchmarks/bench_predict_nnunet.py data/Task04_Hippocampus --json FILE
    nnunet/bin/python benchmarks/bench_predict_nnunet.py data/Task04_Hippocampus --quick

nnU-Net plans for cases of the dataset; its network gets drawn weights, which take as long as trained ones. Two rows:

- ``crops``: cases of the dataset, with the planned patch and voxel size.
- ``scan``: one made-up scan of 0.8 mm that is resampled to 1 mm, with windows of 96 x 96 x 64 of the same network.

Both commands run from the start of the interpreter to the last mask, in turn: nnU-Net's predict_from_modelfolder with
its default numbers of processes, and ``fewmask predict``, in float32 as nnU-Net and, where the processor has it, in the
bfloat16 that a training here would choose. Both overlap windows by half. Mirrored means all eight images in both.
Seconds are of the clock; beside them stand those of the processor, of all processes, which other programs change less.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
NAME = "Dataset004_Hippocampus"
CONFIGURATION = "3d_fullres"
SCAN = (200, 200, 120)
WINDOW = (96, 96, 64)
PLUGIN = '''"""The network of nnU-Net's plan."""

import json

from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from pipeline.networks import NETWORKS

PLANNED = json.loads({planned!r})


@NETWORKS.register("nnunets")
def nnunets(spatial_dims, in_channels, out_channels):
    """The network of nnU-Net's plan."""
    return get_network_from_plans(**PLANNED, input_channels=in_channels, output_channels=out_channels)
'''


def plan(dataset: Path, cases: int, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Let nnU-Net plan for some cases; return its plans and its dataset's description."""
    from bench_accuracy import link_for_nnunet

    listing = json.loads((dataset / "dataset.json").read_text())
    few = listing["training"][:cases]
    for entry in few:
        entry |= {key: str((dataset / entry[key]).resolve()) for key in ("image", "label")}
    (folder / "list.json").write_text(json.dumps(listing | {"training": few}))
    link_for_nnunet(folder / "list.json", folder / "nnUNet_raw" / NAME)
    places = {key: str(folder / key) for key in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    command = [str(Path(sys.executable).parent / "nnUNetv2_plan_and_preprocess"), "-d", "4", "--no_pp", "-np", "1"]
    subprocess.run(command, env=os.environ | places, check=True, capture_output=True)
    made = folder / "nnUNet_preprocessed" / NAME
    plans, told = (json.loads((made / f"{name}.json").read_text()) for name in ("nnUNetPlans", "dataset"))
    return plans, told


def save_models(plans: dict[str, Any], told: dict[str, Any], folder: Path, plugin: Path) -> dict[str, Path]:
    """Write the network for both, from the same weights, and our plugin.

    Returns nnU-Net's folder, our checkpoints by precision, and the plugin.
    """
    import torch
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    configuration = plans["configurations"][CONFIGURATION]
    about = configuration["architecture"]
    planned = {
        "arch_class_name": about["network_class_name"],
        "arch_kwargs": about["arch_kwargs"],
        "arch_kwargs_req_import": about["_kw_requires_import"],
        "deep_supervision": False,
    }
    torch.manual_seed(0)
    weights = get_network_from_plans(**planned, input_channels=1, output_channels=len(told["labels"])).state_dict()
    peer = folder / "nnunet"
    (peer / "fold_all").mkdir(parents=True)
    (peer / "plans.json").write_text(json.dumps(plans))
    (peer / "dataset.json").write_text(json.dumps(told))
    state = {
        "network_weights": weights,
        "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": CONFIGURATION},
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    torch.save(state, peer / "fold_all" / "checkpoint_final.pth")
    plugin.write_text(PLUGIN.format(planned=json.dumps(planned)))
    found = {"nnunet": peer, "plugin": plugin}
    for precision in ("float32", "bfloat16"):
        found[precision] = save_ours(configuration, weights, plugin, folder / precision, precision, told)
    return found


def save_ours(
    configuration: dict[str, Any],
    weights: dict[str, Any],
    plugin: Path,
    folder: Path,
    precision: str,
    told: dict[str, Any],
) -> Path:
    """Write a checkpoint of ours."""
    from pipeline.checkpoints import save_checkpoint
    from pipeline.decisions import NONE
    from pipeline.planning.settings import Settings
    from pipeline.plugins import load_plugins
    from pipeline.runs.checkpoint_facts import about_training
    from pipeline.types import Task

    load_plugins([plugin])
    # nnU-Net's axes are the file's, in reverse; ours are the body's.
    data = {
        "dimensions": 3,
        "orientation": "RAS",
        "spacing_mm": tuple(reversed(configuration["spacing"])),
        "patch_size": tuple(reversed(configuration["patch_size"])),
        "normalization": ({"scheme": "zscore"},),
    }
    data |= {"accumulate": 1, "units": 1, "workers": 0, "resident": False, "batch_size": 1, "unlabelled_batch_size": 1}
    settings = Settings.model_validate(
        {
            "dataset": Path(),
            "device": "cpu",
            "max_steps": 1,
            "precision": precision,
            "plugins": (plugin,),
            "data": data,
            "network": {"name": "nnunets", "members": 1, "recompute": False, "memory_format": "contiguous"},
            "augmentation": {"flip_axes": (0, 1, 2), "rotation_degrees": 0.0, "scaling": 0.0, "elastic_mm": 0.0},
            "objective": ({"loss": "dice"},),
            "regions": None,
            "postprocessing": (),
        }
    )
    labels = {value: name for name, value in told["labels"].items()}
    state = {"step": 1, "best": None, "network": weights}
    return save_checkpoint(folder, "last", about_training(settings, NONE, Task(labels, ("MRI",))) | state)


def larger(plans: dict[str, Any]) -> dict[str, Any]:
    """Return plans of 1 mm and larger windows, for the same network."""
    changed: dict[str, Any] = json.loads(json.dumps(plans))
    changed["configurations"][CONFIGURATION] |= {"spacing": [1.0] * 3, "patch_size": list(reversed(WINDOW))}
    return changed


def make_scan(path: Path) -> None:
    """Write a scan of noise with a wave in it, air around it."""
    rng = np.random.default_rng(0)
    voxels = rng.normal(300 + 200 * np.sin(np.arange(SCAN[2]) / 20), 60, SCAN).astype(np.int16)
    voxels[:10] = 0
    nib.save(nib.Nifti1Image(voxels, np.diag([0.8, 0.8, 0.8, 1.0])), path)


def scans_for(row: str, dataset: Path, cases: int, folder: Path) -> None:
    """Lay the scans of a row out for both."""
    (folder / "ours").mkdir(parents=True)
    (folder / "nnunet").mkdir()
    if row == "scan":
        make_scan(folder / "ours" / "scan.nii.gz")
    else:
        for entry in json.loads((dataset / "dataset.json").read_text())["training"][:cases]:
            shutil.copy(dataset / entry["image"], folder / "ours")
    for scan in (folder / "ours").iterdir():
        (folder / "nnunet" / scan.name.replace(".nii.gz", "_0000.nii.gz")).symlink_to(scan)


def command_of(way: str, models: dict[str, Path], scans: Path, masks: Path, *, mirrored: bool) -> list[str]:
    """Return the words of one of the commands."""
    if way == "nnunet":
        program = str(Path(sys.executable).parent / "nnUNetv2_predict_from_modelfolder")
        words = [program, "-i", str(scans / "nnunet"), "-o", str(masks), "-m", str(models["nnunet"])]
        return [*words, "-f", "all", "-device", "cpu", *([] if mirrored else ["--disable_tta"])]
    words = [sys.executable, str(ROOT / "run.py"), "predict", str(models[way]), str(scans / "ours")]
    plugin = ["--plugin", str(models["plugin"])]
    return [*words, "--output", str(masks), "--quiet", "--mirror", "on" if mirrored else "off", *plugin]


def has_bfloat16() -> bool:
    """Tell whether the processor multiplies bfloat16."""
    found = Path("/proc/cpuinfo")
    return found.is_file() and any(word in found.read_text() for word in ("avx512_bf16", "amx_bf16", "bf16 "))


def measure(
    row: str, models: dict[str, Path], scans: Path, folder: Path, times: int, *, mirrored: bool
) -> dict[str, Any]:
    """Run the commands in turn; return the medians of each, in seconds, and how many times ours is faster."""
    ways = ["nnunet", "float32", *(["bfloat16"] if has_bfloat16() else [])]
    spent: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for number in range(times):
        for way in ways[:: 1 if number % 2 == 0 else -1]:
            masks = folder / f"{row}-{mirrored}-{way}-{number}"
            began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(
                command_of(way, models, scans, masks, mirrored=mirrored), check=True, capture_output=True, cwd=folder
            )
            seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
            spent[way].append((seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime))
            count = len(list(masks.glob("*.nii.gz")))
            assert count == len(list((scans / "ours").iterdir())), f"{way} wrote {count} masks"
    found: dict[str, Any] = {"row": row, "mirrored": mirrored, "times": times}
    for n, what in enumerate(("seconds", "processor_s")):
        found[what] = {way: round(statistics.median(each[n] for each in runs), 1) for way, runs in spent.items()}
        found[f"times_less_{what}"] = {way: round(found[what]["nnunet"] / found[what][way], 2) for way in ways[1:]}
    return found


def main() -> None:
    """Measure both rows, the crops with and without mirror images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="Task04_Hippocampus")
    parser.add_argument("--cases", type=int, default=10)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--rows", nargs="+", choices=("crops", "scan"), default=["crops", "scan"])
    parser.add_argument("--quick", action="store_true", help="three crops once, without mirror images")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.quick:
        given.cases, given.times, given.rows = 3, 1, ["crops"]
    results = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        plans, told = plan(given.dataset, 20, folder)
        plugin = folder / "nnunets.py"
        for row in given.rows:
            (folder / row).mkdir()
            # Both rows have one network, so that one plugin serves.
            models = save_models(larger(plans) if row == "scan" else plans, told, folder / row / "models", plugin)
            scans_for(row, given.dataset, given.cases, folder / row / "scans")
            # Mirror images of a scan of many windows would multiply the network's time, which is the same for both.
            for mirrored in (False,) if given.quick or row == "scan" else (False, True):
                scans, work = folder / row / "scans", folder / row
                results.append(measure(row, models, scans, work, given.times, mirrored=mirrored))
                print(json.dumps(results[-1]), flush=True)
    if given.json:
        given.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
