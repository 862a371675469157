"""Proof that a training ends with the same weights on any number of processes: 1, 2, 3 and 4, for many recipes.

    python benchmarks/prove_ranks.py                 # 200 steps each, most of an hour on two cores
    python benchmarks/prove_ranks.py --quick         # 6 steps, with 1 and 2 processes
    python benchmarks/prove_ranks.py --only dropout --steps 50 --processes 1 4 --json FILE

Every recipe runs on phantom scans, with one thread a process and the same `data.units` for every number of processes.
Hashes are of all weights of the last checkpoint and, beside them, of its optimizer and sources; scores are those of
`cases.csv`. The exit code is 1 where one differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from pipeline import distributed, runs
from pipeline.checkpoints import newest_checkpoint

ROOT = Path(__file__).resolve().parents[1]
SMALL = ["data.patch_size=[16,16,16]", "data.batch_size=4", "data.unlabelled_batch_size=4", "data.units=4"]
COMMON = ["precision=float32", "device=cpu", "validate_every=1000", "max_steps={steps}"]
NARROW = "network.options.channels=[4,8,16]"
PASTE = "{loss: cross_entropy, on: unlabelled, judges: mixed_logits, against: [%s], weight: 0.5}"
RUNS: dict[str, list[str]] = {
    "supervised": ["supervised", NARROW],
    "two units of two": ["supervised", NARROW, "data.units=2"],
    "batch of six in three units": ["supervised", NARROW, "data.batch_size=6", "data.units=3"],
    "accumulated": ["supervised", NARROW, "data.accumulate=2", "data.units=2"],
    "slices": ["supervised", NARROW, "data.dimensions=2", "data.patch_size=[16,16]"],
    "balanced": ["balanced", NARROW],
    "dropout": ["supervised", "network={name: unet, options: {channels: [4, 8], dropout: 0.2}}"],
    "bfloat16": ["supervised", NARROW, "precision=bfloat16"],
    "channels last": ["supervised", NARROW, "network.memory_format=channels_last"],
    "three members": ["supervised", NARROW, "network.members=3"],
    "mean teacher": ["semisupervised", NARROW],
    "cross-teaching": [
        "semisupervised",
        NARROW,
        "network.members=2",
        "sources=[{source: cross_teaching}]",
        "objective=[{loss: dice}, {loss: dice, on: unlabelled, against: [peer_label], weight: 0.5}]",
    ],
    "copy-paste": [
        "semisupervised",
        NARROW,
        "sources=[{source: mean_teacher}, {source: copy_paste}]",
        f"objective=[{{loss: dice}}, {PASTE % 'mixed_label'}, {PASTE % 'mixed_pseudo_label'}]",
    ],
    "ncut": ["ncut", NARROW],
    "ncut of a sample of offsets": [
        "ncut",
        NARROW,
        "objective=[{loss: dice}, {loss: ncut, on: unlabelled, weight: 0.1, options: {radius: 3, offsets: 20}}]",
    ],
    "pooled sums": [
        "ncut",
        NARROW,
        "objective=[{loss: dice}, {loss: class_mean_ncut, on: all, weight: 0.1, options: {batch: true}}]",
    ],
    "unsupervised": ["unsupervised", "network.options.channels=[4,8,16]", "segments=3"],
}


def words_of(name: str, steps: int) -> tuple[Path, list[str]]:
    recipe, *own = RUNS[name]
    keys = {word.partition("=")[0] for word in own}
    words = [word.format(steps=steps) for word in (*SMALL, *COMMON) if word.partition("=")[0] not in keys]
    return Path(recipe), words + own


def train_all(folder: Path, names: list[str], steps: int) -> None:
    """Train every recipe in this process, one of those that were started together."""
    torch.set_num_threads(1)
    with distributed.joined():
        for name in names:
            recipe, words = words_of(name, steps)
            request = runs.read_request(recipe, (*words, f"dataset={folder / 'data'}"), None)
            runs.train(request.recipe, folder / f"{names.index(name)}-{distributed.size()}")


def launch(processes: int, arguments: list[str]) -> None:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    own = {"OMP_NUM_THREADS": "1", "WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = [
        subprocess.Popen(
            [sys.executable, __file__, *arguments],
            env=os.environ | own | {"RANK": str(number), "LOCAL_RANK": str(number)},
            stderr=subprocess.DEVNULL if number else None,
        )
        for number in range(processes)
    ]
    codes = [process.wait() for process in started]
    if any(codes):
        raise SystemExit(f"{processes} processes ended with {codes}")


def hashes_of(run: Path) -> tuple[str, str, str]:
    """Return the hashes of the weights, of all of the state, and of the scores."""
    state = newest_checkpoint(run, "last").state
    scores = b""
    if (run / "cases.csv").exists():
        scores = (run / "cases.csv").read_bytes()
    kept = {key: state[key] for key in ("network", "optimizer", "average", "sources") if key in state}
    return hash_of(state["network"]), hash_of(kept), hashlib.sha256(scores).hexdigest()


def hash_of(value: Any) -> str:
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, dict):
            for key in sorted(value, key=str):
                digest.update(repr(key).encode())
                add(value[key])
        elif isinstance(value, (list, tuple)):
            for each in value:
                add(each)
        elif isinstance(value, torch.Tensor):
            digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        else:
            digest.update(repr(value).encode())

    add(value)
    return digest.hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--processes", type=int, nargs="+")
    parser.add_argument("--only", nargs="+", default=list(RUNS))
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    steps = options.steps or (6 if options.quick else 200)
    if options.folder:
        train_all(options.folder, options.only, steps)
        return 0
    counts = options.processes or ([1, 2] if options.quick else [1, 2, 3, 4])
    different = 0
    found: dict[str, dict[str, tuple[str, str, str]]] = {}
    with tempfile.TemporaryDirectory() as place:
        phantom = ["phantom", f"{place}/data", "--labelled", "7", "--unlabelled", "5"]
        subprocess.run([sys.executable, str(ROOT / "run.py"), *phantom], check=True, stdout=subprocess.DEVNULL)
        for processes in counts:
            launch(processes, ["--folder", place, "--steps", str(steps), "--only", *options.only])
        for number, name in enumerate(options.only):
            hashes = {str(count): hashes_of(Path(place) / f"{number}-{count}") for count in counts}
            same = len(set(hashes.values())) == 1
            different += not same
            found[name] = hashes
            print(f"{'the same' if same else 'DIFFERENT'}  {hashes[str(counts[0])][0][:16]}  {name}", flush=True)
    print(f"{len(found) - different} of {len(found)} recipes: the same after {steps} steps with {counts} processes")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    return bool(different)


if __name__ == "__main__":
    raise SystemExit(main())
