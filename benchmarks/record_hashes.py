"""The weights that short runs of the shipped recipes end with, as hashes: proof that a rebuilding changed no bit.

    python benchmarks/record_hashes.py --json before.json      # then rebuild
    python benchmarks/record_hashes.py --against before.json   # exit code 1 where a hash differs
    python benchmarks/record_hashes.py --quick

Each recipe takes 60 steps on phantom scans, with one thread. Hashes are of the last checkpoint's network, so they are
comparable on one machine with one set of versions alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from pipeline.checkpoints import newest_checkpoint

ROOT = Path(__file__).resolve().parents[1]
SMALL = ["data.patch_size=[16,16,16]", "data.batch_size=2", "data.unlabelled_batch_size=2", "max_steps={steps}"]
NARROW = "network.options.channels=[4,8,16]"
RUNS = {
    "supervised": ["supervised", NARROW],
    "supervised, three members": ["supervised", NARROW, "network.members=3"],
    "supervised, accumulated": ["supervised", NARROW, "data.accumulate=2"],
    "supervised, slices": [
        "supervised",
        NARROW,
        "data.dimensions=2",
        "data.patch_size=[16,16]",
        "network.memory_format=contiguous",
    ],
    "semisupervised": ["semisupervised", NARROW],
    "ncut": ["ncut", NARROW],
    "balanced": ["balanced", NARROW],
    "unsupervised": ["unsupervised", NARROW, "segments=3"],
}


def hash_of(run: Path) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(newest_checkpoint(run, "last").state["network"].items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    steps = 4 if options.quick else 60
    found: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        program = [sys.executable, str(ROOT / "run.py")]
        phantom = ["phantom", str(folder / "data"), "--labelled", "4", "--unlabelled", "4"]
        subprocess.run([*program, *phantom], check=True, stdout=subprocess.DEVNULL)
        for number, (name, words) in enumerate(RUNS.items()):
            settings = ["precision=float32"]
            settings += [word.format(steps=steps) for word in SMALL if word.split("=")[0] not in " ".join(words)]
            run = folder / f"run-{number}"
            command = [
                "train",
                *words,
                f"dataset={folder / 'data'}",
                *settings,
                "precision=float32",
                "--output",
                str(run),
            ]
            subprocess.run([*program, *command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            found[name] = hash_of(run)
            print(f"{found[name][:16]}  {name}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    if options.against:
        before = json.loads(options.against.read_text())
        changed = [name for name in before if found.get(name) != before[name]]
        print(f"{len(before) - len(changed)} of {len(before)} as before; changed: {', '.join(changed) or 'none'}")
        return bool(changed)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
