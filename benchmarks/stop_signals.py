"""Ask training processes to end at random moments: are they gone in ten seconds, and is every step saved?

    python benchmarks/stop_signals.py [--quick] [--json FILE]

Each trial trains a tiny network on a phantom, with two workers every other time, in a process of its own, and sends it
SIGTERM at a random moment: in a step, in a validation, in a save, or between. Counted are the seconds until the process
is gone, children that are left, exit codes other than 143, and the steps between the last row of the history and the
last checkpoint. The run then goes on in the next trial; 100 trials, 6 with --quick.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from runs_fixtures import make_phantom, state_of, train

from pipeline import terminal
from pipeline.interruption import stoppable

LONGEST_S = 3.0
PATIENCE_S = 10.0


def start(folder: Path, data: Path, workers: int) -> int:
    """Train in a child that leads a session of its own, and return its number."""
    child = os.fork()
    if child:
        return child
    os.setsid()
    code = 1
    try:
        changes = {"max_steps": 1_000_000, "validate_every": 7, "checkpoint_every": 50}
        with stoppable():
            train(folder, data, "run", f"data.workers={workers}", resume=True, **changes)
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        os._exit(code)


def wait(child: int) -> tuple[float, int | None]:
    """Return the seconds until a child is gone, and its exit code; None where a signal ended it."""
    began = time.perf_counter()
    _, status = os.waitpid(child, 0)
    return time.perf_counter() - began, os.WEXITSTATUS(status) if os.WIFEXITED(status) else None


def survivors(session: int) -> int:
    """Count the living processes of a session."""
    count = 0
    for place in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, found = (place / "stat").read_text().rpartition(")")[2].split()[:4]
        except OSError:  # It has just ended.
            continue
        count += int(found) == session and state != "Z"
    return count


def steps_done(run: Path) -> int:
    with (run / "history.csv").open(newline="") as stream:
        return max((int(row["step"]) for row in csv.DictReader(stream)), default=0)


def trial(number: int, folder: Path, data: Path, rng: random.Random) -> dict[str, object]:
    """Start, wait until it trains, ask it to end at a random moment, and look at what is there."""
    run, before = folder / "run", steps_done(folder / "run") if number else 0
    child = start(folder, data, workers=2 * (number % 2))
    while not (run / "history.csv").exists() or steps_done(run) <= before:
        time.sleep(0.01)
    time.sleep(rng.uniform(0, LONGEST_S))
    os.kill(child, signal.SIGTERM)
    seconds, code = wait(child)
    return {
        "seconds": seconds,
        "code": code,
        "left": survivors(child),
        "unsaved": steps_done(run) - int(state_of(run)["step"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="6 trials")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    torch.set_num_threads(1)
    terminal.ERR.quiet = True
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as scratch:
        data = make_phantom(Path(scratch) / "data")
        rows = [trial(number, Path(scratch), data, rng) for number in range(6 if options.quick else 100)]
    seconds = sorted(float(row["seconds"]) for row in rows)
    print(
        f"{len(rows)} times SIGTERM: gone after {seconds[len(seconds) // 2]:.2f} s (median), "
        f"{seconds[-1]:.2f} s at most; "
        f"exit code other than 143: {sum(row['code'] != 143 for row in rows)}; processes left: "
        f"{sum(int(row['left']) for row in rows)}; steps not saved: {max(int(row['unsaved']) for row in rows)} at most"
    )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")
    sound = all(row["code"] == 143 and row["left"] == 0 and int(row["unsaved"]) <= 1 for row in rows)
    sys.exit(not (sound and seconds[-1] < PATIENCE_S))


if __name__ == "__main__":
    main()
