"""Seconds of a training step of each shipped recipe, as planned for a dataset, beside the supervised one.

    python benchmarks/bench_recipes.py                              # on phantoms
    python benchmarks/bench_recipes.py --dataset DIR --root DIR
    python benchmarks/bench_recipes.py --quick --json FILE

Runs alternate, each in a process of its own with one thread, and the table has the medians over all their steps: of the
time that passed, and of the processor's, which other work on the machine makes little longer. Terms start with a ramp,
which costs nothing less: their weight is above 0 from the first step that is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench_step import ROOT, WARM, Seconds, time_steps

RECIPES = ("supervised", "semisupervised", "ncut", "balanced")


def main() -> None:
    """Measure in turn, and print a table with ratios."""
    if sys.argv[1:2] == ["--one"]:
        recipe, steps, *settings = sys.argv[2:]
        words = [recipe, f"max_steps={int(steps) + WARM}", "device=cpu", "data.validation=none", *settings]
        print("RESULT " + json.dumps(time_steps(words)), flush=True)
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="three steps, one round")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.quick:
        given.steps = 3
        given.rounds = 1
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    found: dict[str, list[Seconds]] = {name: [] for name in RECIPES}
    with tempfile.TemporaryDirectory() as place:
        dataset = given.dataset
        if dataset is None:
            dataset = Path(place) / "data"
            phantom = [sys.executable, str(ROOT / "run.py"), "phantom", str(dataset)]
            subprocess.run(phantom, check=True, stdout=subprocess.DEVNULL)
        settings = [f"dataset={dataset.resolve()}", f"data.cache={place}/cache"]
        if given.root:
            settings.append(f"root={given.root.resolve()}")
        for _ in range(given.rounds):
            for name, times in found.items():
                words = [sys.executable, __file__, "--one", name, str(given.steps), *settings]
                done = subprocess.run(words, cwd=place, env=environment, capture_output=True, text=True)
                lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
                if not lines:
                    sys.exit(f"{name} failed:\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}")
                times += json.loads(lines[-1].removeprefix("RESULT "))
    medians = {name: [statistics.median(clock) for clock in zip(*times, strict=True)] for name, times in found.items()}
    print("| recipe | ms a step | of supervised | ms of the processor | of supervised |\n|---|---|---|---|---|")
    for name, median in medians.items():
        ratios = [
            cell for own, one in zip(medians["supervised"], median, strict=True) for cell in (1000 * one, one / own)
        ]
        print(f"| {name} | {ratios[0]:.0f} | {ratios[1]:.2f} | {ratios[2]:.0f} | {ratios[3]:.2f} |")
    if given.json:
        given.json.write_text(json.dumps({"times": found, "medians": medians}, indent=1) + "\n")


if __name__ == "__main__":
    main()
