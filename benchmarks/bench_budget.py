"""Whether a training with a time budget ends when it is to: many datasets and budgets, alone and beside other work.

    python benchmarks/bench_budget.py --output runs/budget --json budget.json
    python benchmarks/bench_budget.py --output runs/budget --json beside.json --beside 0.5
    python benchmarks/bench_budget.py --quick

Each pair is a `fewmask train DATASET --time-budget T` of its own, timed from outside: imports, checks, validations and
the report included. `--beside SHARE` runs a second process on the machine from that share of the budget on, which
multiplies matrices on all cores. A pair that was run is not run again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import yaml

from pipeline.bounds import seconds_of
from pipeline.data.phantom import write_phantom
from pipeline.pacing.course import Course

# Labelled scans, unlabelled scans, further words, budget.
PAIRS = (
    (6, 6, (), "60s"),
    (6, 6, (), "2m"),
    (6, 6, (), "5m"),
    (20, 0, (), "90s"),
    (20, 0, (), "4m"),
    (40, 10, (), "3m"),
    (10, 10, ("data.dimensions=2",), "90s"),
    (10, 10, ("data.dimensions=2",), "3m"),
    (20, 0, ("data.workers=2",), "2m"),
    (12, 0, ("network=unet", "network.options.channels=[8,16,32]"), "2m"),
    (30, 0, ("validate_every=20",), "3m"),
)
QUICK = ((3, 3, ("network=unet", "network.options.channels=[4,8]", "data.patch_size=[16,16,16]"), "25s"),)
COUNTS = ("steps", "corrections", "threads")
ROOT = Path(__file__).resolve().parents[1]
BUSY = "import torch, time; a = torch.randn(1500, 1500); [a @ a for _ in iter(int, 1)]"


def main() -> None:
    """Run every pair that was not run yet, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="folder of the runs; by default one that is thrown away")
    parser.add_argument("--beside", type=float, metavar="SHARE", help="where a second process begins")
    parser.add_argument("--quick", action="store_true", help="one small pair")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        folder = given.output or Path(work)
        folder.mkdir(parents=True, exist_ok=True)
        rows = [measure(folder, *pair, beside=given.beside) for pair in (QUICK if given.quick else PAIRS)]
    print("\n| Scans with masks, without | Further | Budget | Took | Off by | Steps | Corrections | Threads |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        told = row | {"took_s": f"{row['took_s']:.1f} s", "off": f"{row['off']:+.1%}"}
        print("".join(f"| {told[key]} " for key in ("scans", "words", "budget", "took_s", "off", *COUNTS)) + "|")
    unfinished = sum(not row["finished"] for row in rows)
    print(f"\nFurthest off: {max(abs(row['off']) for row in rows):.1%}; schedules not finished: {unfinished}")
    if given.json:
        given.json.write_text(json.dumps(rows, indent=2) + "\n")


def measure(
    folder: Path, labelled: int, unlabelled: int, words: tuple[str, ...], budget: str, *, beside: float | None
) -> dict[str, object]:
    """Run one pair, or read what an earlier run of it took."""
    how = [] if beside is None else [f"beside-from-{beside:g}"]
    name = "-".join([f"{labelled}+{unlabelled}", *words, budget, *how]).replace("/", "_")
    kept, data, run = folder / f"{name}.json", folder / f"phantom-{labelled}-{unlabelled}", folder / name
    if kept.exists():
        return json.loads(kept.read_text())
    if not (data / "dataset.json").exists():
        list(write_phantom(data, labelled=labelled, unlabelled=unlabelled, seed=7))
    start = time.perf_counter()
    command = [sys.executable, str(ROOT / "run.py"), "train", str(data), *words, "--time-budget", budget]
    other: list[subprocess.Popen[bytes]] = []
    timer = threading.Timer(
        seconds_of(budget) * (beside or 0.0), lambda: other.append(subprocess.Popen([sys.executable, "-c", BUSY]))
    )
    if beside is not None:
        timer.start()
    subprocess.run([*command, "--output", str(run)], check=True, capture_output=True)
    took = time.perf_counter() - start
    timer.cancel()
    for process in other:
        process.kill()
    recipe = yaml.safe_load((run / "config.yaml").read_text())
    decided = recipe.get("decided", {"corrections": [], "threads": []})
    course = Course(recipe["max_steps"], dict(decided["corrections"]))
    steps = len((run / "history.csv").read_text().splitlines()) - 1
    row: dict[str, object] = {
        "scans": f"{labelled}, {unlabelled}",
        "words": " ".join(words),
        "budget": budget,
        "took_s": took,
        "off": took / seconds_of(budget) - 1,
        "steps": steps,
        "corrections": len(course.corrections),
        "threads": [threads for _, threads in decided["threads"]],
        "finished": course.share_done(steps) == 1 and steps == course.last,
    }
    kept.write_text(json.dumps(row))
    print(row, flush=True)
    return row


if __name__ == "__main__":
    main()
