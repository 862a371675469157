"""Dice of a training that begins with another model's weights, beside one that begins with drawn ones.

    python benchmarks/bench_fine_tuning.py data/Task04_Hippocampus --json fine-tuning.json
    python benchmarks/bench_fine_tuning.py data/Task04_Hippocampus --quick

A model is trained on 10 masks, with other labels: the anterior part by its name, and the rest by another one. Each draw
is 10 other masks to train on; 12 more validate every training. The two trainings of a draw have one recipe, split and
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


def measure(dataset: Path, folder: Path, ids: list[str], held_out: list[str], seed: int, steps: int) -> dict[str, Any]:
    """Train from the model and from drawn weights."""
    listed = list_file(dataset, folder, f"draw-{seed}", ids, held_out)
    found = {}
    for name, start in (("drawn", []), ("tuned", [f"start={folder / 'model'}"])):
        run = folder / f"{name}-{seed}"
        words = [f"seed={seed}", f"max_steps={steps}", f"root={dataset}", f"validate_every={max(1, steps // 4)}"]
        train(listed, run, [*words, *start])
        found[name] = curve(run)
    return {"seed": seed, "curves": found}


def main() -> None:
    """Train, print a table, and write the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="one draw of 4 steps")
    args = parser.parse_args()
    draws, steps, validated = (1, 4, 2) if args.quick else (args.draws, args.steps, VALIDATED)
    dataset = args.dataset.resolve()
    ids = sorted(path.name.removesuffix(".nii.gz") for path in (dataset / "labelsTr").glob("[!.]*.nii.gz"))
    random.Random(0).shuffle(ids)
    held_out = ids[2 * MASKS : 2 * MASKS + validated]
    others = ids[MASKS : 2 * MASKS] + ids[2 * MASKS + validated :]
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Nothing of the model is chosen by its one validation case.
        listed = list_file(dataset, folder, "model-list", ids[:MASKS], held_out[:1])
        train(listed, folder / "model", ["seed=0", f"max_steps={steps}", f"root={dataset}", OTHER_LABELS])
        for draw in range(draws):
            rows.append(measure(dataset, folder, others[draw * MASKS :][:MASKS], held_out, draw, steps))
            curves = rows[-1]["curves"]
            print(f"draw {draw + 1}: step, Dice from drawn weights, Dice from the model")
            for (step, drawn), (_, tuned) in zip(curves["drawn"], curves["tuned"], strict=True):
                print(f"  {step:5d}  {drawn:.4f}  {tuned:.4f}")
            if args.json:
                args.json.write_text(json.dumps({"steps": steps, "draws": rows}, indent=1))


if __name__ == "__main__":
    main()
