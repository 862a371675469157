"""Dice of a training that begins with another model's weights, beside one that begins with drawn ones.

    python benchmarks/bench_fine_tuning.py data/Task04_Hippocampus --json fine-tuning.json
    python benchmarks/bench_fine_tuning.py data/Task04_Hippocampus --quick

A draw is 10 masks for a model, 10 others to train on, and 12 more that validate both trainings. The model knows other
labels: the anterior part by its name, and the rest by another one. All trainings of a draw have one recipe, split and
seed; one of them has `start=MODEL`. Each has one thread.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MASKS = 10
VALIDATED = 12
SETTINGS = (
    *("data.patch_size=[32, 40, 32]", "data.spacing_mm=[1, 1, 1]", "data.batch_size=2", "device=cpu"),
    *("network.options.channels=[8, 16, 32, 64]", "network.members=1", "data.workers=0", "predict_mirrored=false"),
)
OTHER_LABELS = "labels={Anterior: 1, remainder: 2}"


def train(dataset: Path, run: Path, settings: list[str]) -> None:
    """Run the command in a process of its own, with one thread."""
    words = ["train", "supervised", f"dataset={dataset}", *SETTINGS, *settings, "--output", str(run), "--quiet"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, str(ROOT / "run.py"), *words], check=True, env=environment, cwd=ROOT)


def curve(run: Path) -> list[tuple[int, float]]:
    """Return step and mean Dice of each validation."""
    with (run / "validation.csv").open() as file:
        return [(int(row["step"]), float(row["mean_dice"])) for row in csv.DictReader(file)]


def list_file(dataset: Path, folder: Path, name: str, train_on: list[str], validate_on: list[str]) -> Path:
    """Write a list of a few of the dataset's cases."""
    told = json.loads((dataset / "dataset.json").read_text())
    listed = {key: told[key] for key in ("labels", "modality")}
    for key, ids in (("training", train_on), ("validation", validate_on)):
        files = {kind: f"{dataset}/{kind}sTr/{{}}.nii.gz" for kind in ("image", "label")}
        listed[key] = [{kind: place.format(each) for kind, place in files.items()} for each in sorted(ids)]
    path = folder / f"{name}.json"
    path.write_text(json.dumps(listed))
    return path


def measure(dataset: Path, folder: Path, seed: int, steps: int, validated: int) -> dict[str, Any]:
    """Train a model and, on other masks, from it and from drawn weights."""
    ids = sorted(path.name.removesuffix(".nii.gz") for path in (dataset / "labelsTr").glob("[!.]*.nii.gz"))
    random.Random(seed).shuffle(ids)
    first, second, rest = ids[:MASKS], ids[MASKS : 2 * MASKS], ids[2 * MASKS : 2 * MASKS + validated]
    common = [f"seed={seed}", f"max_steps={steps}", f"root={dataset}"]
    model = folder / f"model-{seed}"
    # The model's last steps alone are used; nothing is chosen by its validation cases.
    train(list_file(dataset, folder, f"first-{seed}", first, rest[:1]), model, [*common, OTHER_LABELS])
    found = {}
    listed = list_file(dataset, folder, f"second-{seed}", second, rest)
    for name, start in (("drawn", []), ("tuned", [f"start={model}"])):
        run = folder / f"{name}-{seed}"
        train(listed, run, [*common, f"validate_every={max(1, steps // 4)}", *start])
        found[name] = curve(run)
    return {"seed": seed, "curves": found}


def main() -> None:
    """Train, print a table, and write the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one draw each")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="one draw of 4 steps")
    args = parser.parse_args()
    seeds, steps, validated = ([0], 4, 2) if args.quick else (args.seeds, args.steps, VALIDATED)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            rows.append(measure(args.dataset.resolve(), Path(folder), seed, steps, validated))
            curves = rows[-1]["curves"]
            print(f"draw {seed}: step, Dice from drawn weights, Dice from the model")
            for (step, drawn), (_, tuned) in zip(curves["drawn"], curves["tuned"], strict=True):
                print(f"  {step:5d}  {drawn:.4f}  {tuned:.4f}")
            if args.json:
                args.json.write_text(json.dumps({"steps": steps, "draws": rows}, indent=1))


if __name__ == "__main__":
    main()
