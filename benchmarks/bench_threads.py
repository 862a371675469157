"""How long a training step takes with all threads and with one, alone and beside a process that uses all cores.

    python benchmarks/bench_threads.py --json threads.json
    python benchmarks/bench_threads.py --quick

Alternating rounds in one process: alone and beside, each with all threads and with one, of the planned recipe on the
phantom, slices and volumes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import torch
from bench_budget import BUSY

from pipeline.data.loaders import StepLoader
from pipeline.data.phantom import write_phantom
from pipeline.pacing.course import Course
from pipeline.runs import build
from pipeline.runs.batches import build_batches, build_cache
from pipeline.runs.planning import prepare
from pipeline.runs.requests import read_recipe
from pipeline.runs.segments import task_of
from pipeline.runs.timing import to_begin_with

if TYPE_CHECKING:
    from collections.abc import Callable

KINDS = {"slices": ["data.dimensions=2"], "volumes": []}
SMALL = ["network=unet", "network.options.channels=[4,8]", "data.batch_size=2", "data.unlabelled_batch_size=2"]


def steps_of(dataset: Path, store: Path, words: list[str]) -> Callable[[], object]:
    """Return what makes one step of a training on a dataset, its data included."""
    prepared = prepare(read_recipe(dataset, words))
    recipe, course = to_begin_with(prepared.plan.recipe), Course(2 * 10**6)
    step = build.build_step(recipe, task_of(recipe, prepared.index))
    step.course = course
    batches = build_batches(recipe, prepared.split, build_cache(recipe, prepared.index, store))
    loaded, numbers = iter(StepLoader(batches, itertools.count(), 0, pin_memory=False)), itertools.count(10**6)
    return lambda: step(cast("Any", SimpleNamespace(state=SimpleNamespace(iteration=next(numbers)))), next(loaded))


def timed(step: Callable[[], object], seconds: float) -> list[float]:
    """Return the seconds of each step within a time, of two steps at least, after one that is not counted."""
    step()
    found, end = list[float](), time.perf_counter() + seconds
    while time.perf_counter() < end or len(found) < 2:
        start = time.perf_counter()
        step()
        found.append(time.perf_counter() - start)
    return found


def main() -> None:
    """Time every way in turn, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each way in each round")
    parser.add_argument("--quick", action="store_true", help="one round of a small network, a second each")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rounds, seconds = (1, 1.0) if given.quick else (given.rounds, given.seconds)
    most, rows = torch.get_num_threads(), list[dict[str, object]]()
    with tempfile.TemporaryDirectory() as work:
        dataset = Path(work) / "phantom"
        list(write_phantom(dataset, labelled=10, unlabelled=10, seed=7))
        for kind, words in KINDS.items():
            step = steps_of(dataset, Path(work) / kind, [*words, *(SMALL if given.quick else ())])
            times: dict[tuple[str, int], list[list[float]]] = {}
            for where in ("alone", "beside") * rounds:
                other = subprocess.Popen([sys.executable, "-c", BUSY]) if where == "beside" else None
                time.sleep(4 if other else 0)  # Until it has imported what it needs.
                for threads in dict.fromkeys((most, 1)):
                    torch.set_num_threads(threads)
                    times.setdefault((where, threads), []).append(timed(step, seconds))
                torch.set_num_threads(most)
                if other:
                    other.kill()
                    other.wait()
            for (where, threads), found in times.items():
                means = [statistics.fmean(part) for part in found]
                rows.append(
                    {"kind": kind, "where": where, "threads": threads, "mean_s": means, "most_s": max(map(max, found))}
                )
    print(
        "| Steps of | Where | Threads | Mean of each round | Longest | Times all threads |\n|---|---|---|---|---|---|"
    )
    middle = {
        (row["kind"], row["where"], row["threads"]): statistics.median(cast("Any", row["mean_s"])) for row in rows
    }
    for row in rows:
        key = (row["kind"], row["where"])
        means = ", ".join(f"{mean:.2f}" for mean in cast("Any", row["mean_s"]))
        ratio = middle[*key, row["threads"]] / middle[*key, most]
        print(f"| {key[0]} | {key[1]} | {row['threads']} | {means} s | {row['most_s']:.2f} s | {ratio:.2f} |")
    if given.json:
        given.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
