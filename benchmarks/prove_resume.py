"""Prove that a run which was stopped anywhere, however often, ends as the one that was not, bit for bit.

    python benchmarks/prove_resume.py [--quick] [--json FILE]

On a phantom and a tiny network, supervised and semi-supervised, with every augmentation:

1. one run is stopped by SIGTERM after every single step, and resumed each time;
2. from every one of those stops another run goes on to the end without a stop;
3. one run is killed by SIGKILL at five random moments, and resumed each time;
4. runs with 0, 1, 2 and 4 workers, with a cold and a warm cache and with none.

What is compared is the SHA-256 of everything that a run leaves: weights, optimizer, scaler, step, best score, history,
validations and scores. Two hundred steps; 12 with --quick.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from runs_fixtures import TINY, digest, make_phantom, state_of, train

from pipeline import terminal
from pipeline.interruption import Stopped, stoppable
from pipeline.runs import training

if TYPE_CHECKING:
    from collections.abc import Iterator

MODES = {"supervised": [{"loss": "dice"}], "semi-supervised": TINY["objective"]}
KILLS = 5


def hash_of(run: Path) -> str:
    """Return one hash of all that a run leaves."""
    found = hashlib.sha256(digest(state_of(run)).encode())
    for name in ("history.csv", "validation.csv", "cases.csv", "summary.json"):
        found.update((run / name).read_bytes())
    return found.hexdigest()


class StopAfter:
    """Sends SIGTERM to this process once a step is done."""

    def __init__(self, step: int) -> None:
        self.step, self.real = step, training.Training._count

    def __enter__(self) -> None:
        def count(run: training.Training, step: int) -> None:
            self.real(run, step)
            if step == self.step:
                signal.raise_signal(signal.SIGTERM)

        training.Training._count = count

    def __exit__(self, *_: object) -> None:
        training.Training._count = self.real


def stops(folder: Path, data: Path, changes: dict[str, object], steps: int) -> Iterator[Path]:
    """Train with a stop after every step, and yield a copy of the run as it lay there after each."""
    for step in range(1, steps + 1):
        with StopAfter(step), stoppable():
            try:
                train(folder, data, "stopped", resume=True, **changes)
            except Stopped:
                pass
            else:
                raise AssertionError(f"the run did not stop after step {step}")
        shutil.copytree(folder / "stopped", folder / "stops" / str(step))
        yield folder / "stops" / str(step)


def kill(folder: Path, data: Path, changes: dict[str, object], longest_s: float, seed: int = 0) -> Path:
    """Train in a process that is killed five times, and once more to the end."""
    rng = random.Random(seed)
    for _ in range(KILLS):
        child = os.fork()
        if child == 0:
            sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123 - of a process that will be killed
            train(folder, data, "killed", resume=True, **changes)
            os._exit(0)
        time.sleep(rng.uniform(0.5, 1) * longest_s / KILLS)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return train(folder, data, "killed", resume=True, **changes)


def prove(mode: str, folder: Path, data: Path, steps: int) -> dict[str, object]:
    """Compare every way to the end, in one mode."""
    changes = {"max_steps": steps, "objective": MODES[mode], "validate_every": max(steps // 4, 1)}
    changes |= {"checkpoint_every": max(steps // 10, 1)}
    began = time.perf_counter()
    whole = hash_of(train(folder, data, "whole", **changes))
    took = time.perf_counter() - began
    equal = 0
    for place in stops(folder, data, changes, steps):
        train(place.parent, data, place.name, resume=True, **changes)
        equal += hash_of(place) == whole
        shutil.rmtree(place)
    chained = hash_of(train(folder, data, "stopped", resume=True, **changes)) == whole
    killed = hash_of(kill(folder, data, changes, took)) == whole
    return {"mode": mode, "steps": steps, "stops": steps, "equal": equal, "chained": chained, "killed": killed}


def ways(folder: Path, data: Path, steps: int) -> dict[str, str]:
    """Return the hash of a run for each number of workers and each kind of cache."""
    changes = {"max_steps": steps, "validate_every": steps}
    found = {}
    for workers, cache in itertools.product((0, 1, 2, 4), ("cold", "warm", "off")):
        place = {"cold": "run", "warm": str(folder / "shared"), "off": "off"}[cache]
        if cache == "warm" and not (folder / "shared").exists():
            train(folder, data, "filling", f"data.cache={place}", **changes)
        name = f"{workers} workers, cache {cache}"
        found[name] = hash_of(train(folder, data, name, f"data.workers={workers}", f"data.cache={place}", **changes))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="12 steps")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    torch.set_num_threads(1)
    terminal.ERR.quiet = True
    steps, results = (12 if options.quick else 200), []
    with tempfile.TemporaryDirectory() as scratch:
        data = make_phantom(Path(scratch) / "data")
        for mode in MODES:
            (Path(scratch) / mode).mkdir()
            row = prove(mode, Path(scratch) / mode, data, steps)
            results.append(row)
            print(
                f"{mode}: {row['equal']} of {row['stops']} runs that were stopped and resumed are equal, "
                f"the run that was stopped {row['stops']} times is {'equal' if row['chained'] else 'NOT EQUAL'}, "
                f"the run that was killed {KILLS} times is {'equal' if row['killed'] else 'NOT EQUAL'}",
                flush=True,
            )
        hashes = ways(Path(scratch), data, 12)
        print(
            f"{len(hashes)} runs of 0, 1, 2 and 4 workers with cache cold, warm and off: "
            f"{len(set(hashes.values()))} hash"
        )
    if options.json:
        options.json.write_text(json.dumps({"resume": results, "ways": hashes}, indent=2) + "\n")
    sound = all(row["equal"] == row["stops"] and row["chained"] and row["killed"] for row in results)
    sys.exit(not (sound and len(set(hashes.values())) == 1))


if __name__ == "__main__":
    main()
