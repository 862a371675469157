"""How long `fewmask train` takes from the command to its first step on a cached dataset, and what of that is imports.

    python benchmarks/bench_start.py --dataset data/Task04_Hippocampus
    python benchmarks/bench_start.py --quick

The scans are prepared by a first run that is not counted. Importing is counted where it happens, whenever it does, by
top-level package; packages that only torch and MONAI ask for, such as scipy and sympy, count as theirs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# What our own modules import beside torch and MONAI; all others come with these two.
OURS = {"pipeline", "tyro", "rich", "pydantic", "pydantic_core", "yaml", "nibabel", "isal", "cc3d", "edt", "jinja2"}

CHILD = """
import importlib._bootstrap_external as loaders
import json, os, sys, time
from collections import Counter
began, spent, inner = float(sys.argv[1]), Counter(), []
def timed(act):
    def run(self, what):
        name = getattr(what, "__name__", None) or what.name
        start = time.perf_counter()
        inner.append(0.0)
        try:
            return act(self, what)
        finally:
            took = time.perf_counter() - start
            spent[name.partition(".")[0]] += took - inner.pop()
            if inner:
                inner[-1] += took
    return run
loaders.SourceFileLoader.exec_module = timed(loaders.SourceFileLoader.exec_module)
loaders.ExtensionFileLoader.exec_module = timed(loaders.ExtensionFileLoader.exec_module)
loaders.ExtensionFileLoader.create_module = timed(loaders.ExtensionFileLoader.create_module)
sys.path.insert(0, sys.argv[2])
import pipeline.engines.steps as steps
def first(*_):
    print("RESULT " + json.dumps({"total_s": time.time() - began, "imports": spent}), flush=True)
    os._exit(0)
steps.TrainingStep.__call__ = first
sys.argv = ["fewmask", *sys.argv[3:]]
from pipeline.cli import main
main()
"""


def measure(words: list[str], output: Path) -> dict[str, float]:
    """Start a training, and stop it at its first step."""
    command = [sys.executable, "-c", CHILD, str(time.time()), str(ROOT), "train", *words, "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        sys.exit(f"the training did not start:\n{done.stderr[-4000:]}")
    found = json.loads(lines[-1].removeprefix("RESULT "))
    theirs = sum(seconds for name, seconds in found["imports"].items() if name not in OURS)
    return {"total_s": found["total_s"], "imports_s": theirs, "share": theirs / found["total_s"]}


def main() -> None:
    """Start several trainings, one after the other, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, default=Path("data/Task04_Hippocampus"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a phantom, one round")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        if given.quick:
            from pipeline.data.phantom import write_phantom

            given.dataset, given.rounds = work / "phantom", 1
            list(write_phantom(given.dataset, labelled=4, unlabelled=0))
        words = ["supervised", f"dataset={given.dataset}", f"data.cache={work / 'cache'}"]
        measure(words, work / "first")
        rounds = [measure(words, work / f"run-{n}") for n in range(given.rounds)]
    middle = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
    spread = f"{min(one['total_s'] for one in rounds):.1f}–{max(one['total_s'] for one in rounds):.1f}"
    print(f"to the first step: {middle['total_s']:.2f} s ({spread} s over {given.rounds} starts)")
    print(f"imports of torch, MONAI and what they need: {middle['imports_s']:.2f} s, {middle['share']:.0%}")
    if given.json:
        given.json.write_text(json.dumps({"median": middle, "rounds": rounds}, indent=2) + "\n")


if __name__ == "__main__":
    main()
