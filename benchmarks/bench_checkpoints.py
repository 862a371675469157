"""Time the saver against a training step, and the safe loader against ``torch.load`` and a hash.

    python benchmarks/bench_checkpoints.py [--quick] [--json FILE]

The network is that of the shipped recipes, with an optimizer's moments, on a patch and batch as planned for the
hippocampus. A save is made every 50 steps by default, so its share of the training is save / (50 x step). The loader
reads, verifies and returns the same checkpoint as ``torch.load(weights_only=True)`` does after a SHA-256 of the file.
Medians of alternating runs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch

from pipeline.checkpoints import load_checkpoint, save_checkpoint
from pipeline.engines.schedules import Schedule
from pipeline.engines.steps import TrainingStep
from pipeline.losses import LOSSES
from pipeline.losses.objective import Objective, Term
from pipeline.networks import NETWORKS
from pipeline.pacing.course import Course
from pipeline.planning.devices import find_hardware
from pipeline.planning.plan import choose_precision
from pipeline.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Callable

PATCH, BATCH = (40, 56, 40), 4
EVERY = Recipe.model_fields["checkpoint_every"].default


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def medians(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Time works in turn, round after round, after one that does not count."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            took = seconds(work)
            if number:
                found[name].append(took)
    return {name: statistics.median(times) for name, times in found.items()}


def hashed_load(path: Path) -> object:
    """Read a checkpoint as careful users of torch do."""
    with path.open("rb") as stream:
        hashlib.file_digest(stream, "sha256").hexdigest()
    return torch.load(path, map_location="cpu", weights_only=True)


def make_step() -> TrainingStep:
    options = {"channels": [16, 32, 64, 128], "deep_supervision": False}
    network = NETWORKS.build("dynunet", options, spatial_dims=3, in_channels=1, out_channels=3)
    objective = Objective([Term(name="dice", loss=LOSSES.build("dice", {}), on="labelled")])
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    precision = getattr(torch, choose_precision(find_hardware("cpu")))
    return TrainingStep(
        network=network,
        objective=objective,
        optimizer=optimizer,
        schedule=Schedule(1e-3, 0.0),
        course=Course(1000),
        precision=precision,
        clip_norm=12.0,
        seed=0,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 rounds")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    step, engine = make_step(), SimpleNamespace(state=SimpleNamespace(iteration=1))
    labels = torch.randint(0, 3, (BATCH, 1, *PATCH))
    batch = {"image": torch.randn(BATCH, 1, *PATCH), "label": labels, "mask": torch.ones_like(labels, dtype=torch.bool)}
    batches = {"labelled": batch | {"case": ["a"] * BATCH}}
    with tempfile.TemporaryDirectory() as folder:
        step(engine, batches)
        path = save_checkpoint(Path(folder), "last", {"step": 1, **step.state_dict()})
        works = {
            "step": lambda: step(engine, batches),
            "save": lambda: save_checkpoint(Path(folder), "last", {"step": 1, **step.state_dict()}),
            "load": lambda: load_checkpoint(path),
            "torch.load and sha256": lambda: hashed_load(path),
        }
        found = medians(works, 3 if options.quick else 15)
        size = path.stat().st_size
    share, ratio = found["save"] / (EVERY * found["step"]), found["load"] / found["torch.load and sha256"]
    print(f"a checkpoint of {size / 1e6:.1f} MB, one every {EVERY} steps")
    print("  ".join(f"{name} {took * 1e3:.1f} ms" for name, took in found.items()))
    print(f"saving takes {share:.2%} of a step's time; the safe loader takes {ratio:.2f} of torch.load and its hash")
    if options.json:
        options.json.write_text(json.dumps(found | {"bytes": size, "share": share, "ratio": ratio}, indent=2) + "\n")
    sys.exit(share >= 0.02 or ratio > 1)


if __name__ == "__main__":
    main()
