"""Dice and cross-entropy together, forward and backward: our losses against MONAI's `DiceCELoss`.

    python benchmarks/bench_losses.py --json losses.json
    python benchmarks/bench_losses.py --quick

Both get the same logits and labels, and return the same number (it is checked). Each measurement is a process of
its own, in turn; memory is by how much the process grows at its peak beyond what it held with logits and labels made,
on CUDA what the allocator holds at its peak.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

# Samples, classes, size.
SHAPES = ((4, 3, (40, 56, 40)), (2, 3, (96, 96, 96)), (2, 20, (96, 96, 96)), (16, 4, (256, 256)))
QUICK = ((2, 3, (24, 24, 24)),)
VARIANTS = ("ours", "DiceCELoss")


def peak_bytes() -> int:
    """The most that this process has held."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def build(variant: str):
    """Return the loss."""
    if variant == "DiceCELoss":
        from monai.losses import DiceCELoss

        return DiceCELoss(to_onehot_y=True, softmax=True, smooth_nr=1.0, smooth_dr=1.0)
    from pipeline.losses import CrossEntropyLoss, DiceLoss

    dice, cross_entropy = DiceLoss(), CrossEntropyLoss()
    return lambda logits, labels: dice(logits, labels) + cross_entropy(logits, labels)


def measure(variant: str, samples: int, classes: int, size: list[int], repeats: int) -> dict[str, object]:
    """Time a forward and backward pass, and see how much memory it takes."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loss = build(variant)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(samples, classes, *size, generator=generator).to(device).requires_grad_()
    labels = torch.randint(0, classes, (samples, 1, *size), generator=generator).to(device)
    logits.grad = torch.zeros_like(logits)
    small = torch.randn(1, classes, *[8] * len(size), device=device, requires_grad=True)
    loss(small, labels[:1].reshape(-1)[: 8 ** len(size)].reshape(1, 1, *[8] * len(size))).backward()
    before, times = peak_bytes(), []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    for _ in range(repeats):
        start = time.perf_counter()
        value = loss(logits, labels)
        value.backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    after = torch.cuda.max_memory_allocated() if device.type == "cuda" else peak_bytes()
    return {
        "ms": 1000 * statistics.median(times[1:]),
        "memory_mb": (after - before) / 1e6,
        "value": float(value.detach()),
        "device": device.type,
    }


def main() -> None:
    """Measure every shape in turn, and print a table with ratios."""
    if sys.argv[1:2] == ["--one"]:
        variant, samples, classes, size, repeats = sys.argv[2:]
        print(json.dumps(measure(variant, int(samples), int(classes), json.loads(size), int(repeats))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--quick", action="store_true", help="one small shape, one round")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.quick:
        given.rounds, given.repeats = 1, 3
    results = []
    print("| Logits | Ours | DiceCELoss | Its time / ours | Its memory / ours |\n|---|---|---|---|---|")
    for samples, classes, size in QUICK if given.quick else SHAPES:
        found: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
        for _ in range(given.rounds):
            for variant in VARIANTS:
                words = [variant, str(samples), str(classes), json.dumps(size), str(given.repeats)]
                done = subprocess.run(
                    [sys.executable, __file__, "--one", *words], capture_output=True, text=True, check=True
                )
                found[variant].append(json.loads(done.stdout.splitlines()[-1]))
        middle = {
            variant: {key: statistics.median(one[key] for one in rounds) for key in ("ms", "memory_mb", "value")}
            for variant, rounds in found.items()
        }
        ours, theirs = (middle[variant] for variant in VARIANTS)
        if abs(ours["value"] - theirs["value"]) > 1e-4:
            sys.exit(f"the losses differ: {ours['value']} and {theirs['value']}")
        cells = [f"{each['ms']:.1f} ms, {each['memory_mb']:.0f} MB" for each in (ours, theirs)]
        shape = " x ".join(map(str, (samples, classes, *size)))
        ratios = (theirs["ms"] / ours["ms"], theirs["memory_mb"] / max(ours["memory_mb"], 1e-9))
        print(f"| {shape} | {cells[0]} | {cells[1]} | {ratios[0]:.2f} | {ratios[1]:.2f} |", flush=True)
        results.append({"shape": [samples, classes, *size], **middle})
    if given.json:
        given.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
