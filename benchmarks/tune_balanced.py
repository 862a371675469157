"""The weights of configs/balanced.yaml, compared inside the training cases, and its figures on the validation cases.

    python benchmarks/tune_balanced.py DATA --json tune.json             # weights, on cases that no final run trains on
    python benchmarks/tune_balanced.py DATA --final balanced supervised --steps 1200 --json final.json     # the recipe
                                                               # as it is, beside others, on the validation cases
    python benchmarks/tune_balanced.py DATA --quick

DATA is the folder of the hippocampus task with its lists of few labels. Each comparison takes the 10 masks of a draw
and scores the last weights on 40 other training cases, drawn by the draw's number; the rest are trained on without
masks. What the file of --json holds is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Weights of balanced_ce and ncut beside dice's 1.
WEIGHTS = ((0.1, 0.1), (0.1, 0.3), (0.1, 0.0), (0.3, 0.1), (1.0, 0.1))


def tuning_list(data: Path, draw: int) -> dict:
    """Return a datalist of training cases alone: 10 labelled, 40 to score, the rest without masks."""
    few = json.loads((data / f"list_labelled_010_draw{draw}.json").read_text())
    pool = json.loads((data / "list_labelled_160_draw0.json").read_text())["training"]
    labelled = {entry["image"] for entry in few["training"]}
    others = [entry for entry in pool if entry["image"] not in labelled]
    random.Random(draw).shuffle(others)
    unlabelled = [{"image": entry["image"]} for entry in others[40:]]
    return few | {"validation": others[:40], "unlabeled": unlabelled}


def train(recipe: str, listing: dict, data: Path, steps: int, overrides: list[str]) -> dict:
    """Train a recipe; return mean Dice of the last weights and the minutes of the whole command."""
    with tempfile.TemporaryDirectory() as folder:
        path, run = Path(folder) / "list.json", Path(folder) / "run"
        path.write_text(json.dumps(listing))
        words = [
            f"dataset={path}",
            f"root={data.resolve()}",
            f"max_steps={steps}",
            f"validate_every={steps}",
            *overrides,
        ]
        start = time.perf_counter()
        command = [sys.executable, str(ROOT / "run.py"), "train", recipe, *words, "--output", str(run)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder)
        minutes = (time.perf_counter() - start) / 60
        summary = json.loads((run / "summary.json").read_text())
        return {"dice": summary["mean_dice"], "minutes": minutes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--draws", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--final", nargs="+", metavar="RECIPE", help="recipes to score on the validation cases")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    rows = json.loads(options.json.read_text()) if options.json and options.json.exists() else []
    steps, draws = (20, [0]) if options.quick else (options.steps, options.draws)
    for draw in draws:
        if options.final:
            listing = json.loads((options.data / f"list_labelled_010_draw{draw}.json").read_text())
            runs = [({"recipe": name}, []) for name in options.final]
        else:
            listing = tuning_list(options.data, draw)
            weights = WEIGHTS[:2] if options.quick else WEIGHTS
            runs = [
                (
                    {"recipe": "balanced", "balanced_ce": ce, "ncut": ncut},
                    [f"objective.1.weight={ce}", f"objective.2.weight={ncut}"],
                )
                for ce, ncut in weights
            ]
        for about, overrides in runs:
            key = {"draw": draw, "steps": steps} | about
            if any(key.items() <= row.items() for row in rows):
                continue
            rows.append(key | train(about["recipe"], listing, options.data, steps, [f"seed={draw}", *overrides]))
            print(rows[-1], flush=True)
            if options.json:
                options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
