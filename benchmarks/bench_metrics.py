"""Time and memory of Dice, HD95, ASSD and surface Dice of all classes of a case: ours, MONAI's and surface-distance's.

    python benchmarks/bench_metrics.py [--quick] [--repeats 3] [--json FILE]

Two cases: 240 x 240 x 155 at 1 mm with three nested tumour parts and background (the size of BraTS), and
512 x 512 x 300 at 0.8 x 0.8 x 1.5 mm with five organs. Truth and prediction are smooth bodies whose borders differ by a
few mm, and the prediction has a false island. Every measurement is a process of its own that loads both maps from disk,
so that its peak resident memory is its own; what it took after loading is the time. Runs alternate, medians are
compared.

Ours also gives IoU, precision, recall, volumes and lesions, which the peers are not asked for. MONAI gets one-hot
tensors, as it asks for, and is called once a metric, since that is its interface; its distances are between edge
voxels, not surfels (``use_subvoxels=True`` makes them alike where it can). Surface-distance is called once a class.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

SIDES = ("ours", "surface-distance", "monai")
METRICS = ("dice", "hd95_mm", "assd_mm", "surface_dice")
TOLERANCE_MM = 1.0
# Seconds above which a side is measured once: a spread of a few per cent no longer matters to it.
SLOW = 60
CASES = {
    "240x240x155, 4 classes": ((240, 240, 155), (1.0, 1.0, 1.0), "nested"),
    "512x512x300, 6 classes": ((512, 512, 300), (0.8, 0.8, 1.5), "organs"),
}


def body(shape, center, radii, wobble, phase):
    """Return an ellipsoid with a wavy border; centre and radii as shares of the shape."""
    axes = [np.linspace(0, 1, n, dtype=np.float32) for n in shape]
    grid = np.meshgrid(*axes, indexing="ij", sparse=True)
    squares = sum(((x - c) / r) ** 2 for x, c, r in zip(grid, center, radii, strict=True))
    waves = np.sin(40 * grid[0] + phase) * np.cos(35 * grid[1] - phase) * np.sin(30 * grid[2] + 2 * phase)
    return squares < 1 + wobble * waves


def make_maps(shape, kind):
    """Return a true and a predicted label map."""
    if kind == "nested":
        parts = [
            ((0.45, 0.5, 0.5), (0.22, 0.2, 0.2)),
            ((0.45, 0.5, 0.5), (0.14, 0.13, 0.13)),
            ((0.46, 0.5, 0.5), (0.08, 0.07, 0.08)),
        ]
    else:
        parts = [
            ((0.35, 0.4, 0.6), (0.2, 0.17, 0.25)),
            ((0.7, 0.4, 0.65), (0.1, 0.09, 0.12)),
            ((0.35, 0.68, 0.4), (0.07, 0.06, 0.12)),
            ((0.65, 0.68, 0.4), (0.07, 0.06, 0.12)),
            ((0.5, 0.55, 0.35), (0.03, 0.03, 0.3)),
        ]
    maps = []
    for side in range(2):
        labels = np.zeros(shape, np.uint8)
        for value, (center, radii) in enumerate(parts, 1):
            moved = [c + 0.004 * side for c in center]
            labels[body(shape, moved, [r * (1 - 0.01 * side) for r in radii], 0.2, value + 0.4 * side)] = value
        if side:
            labels[body(shape, (0.8, 0.8, 0.8), (0.02, 0.02, 0.02), 0, 0)] = 1
        maps.append(labels)
    return maps


def run_ours(truth, prediction, spacing, classes):
    from pipeline.metrics.case import score_case

    rows = score_case("a", truth, prediction, {n: str(n) for n in range(classes)}, spacing, tolerance_mm=TOLERANCE_MM)
    return [[getattr(row, metric) for metric in METRICS] for row in rows]


def run_surface_distance(truth, prediction, spacing, classes):
    import surface_distance as peer

    rows = []
    for value in range(1, classes):
        true, guess = truth == value, prediction == value
        found = peer.compute_surface_distances(true, guess, spacing)
        sides = ("gt_to_pred", "gt"), ("pred_to_gt", "pred")
        pieces = [(found[f"distances_{there}"], found[f"surfel_areas_{here}"]) for there, here in sides]
        average = sum(d @ a for d, a in pieces) / sum(a.sum() for _, a in pieces)
        dice = peer.compute_dice_coefficient(true, guess)
        surface = peer.compute_surface_dice_at_tolerance(found, TOLERANCE_MM)
        rows.append([dice, peer.compute_robust_hausdorff(found, 95), average, surface])
    return rows


def run_monai(truth, prediction, spacing, classes):
    import torch
    from monai.metrics import (
        compute_average_surface_distance,
        compute_dice,
        compute_hausdorff_distance,
        compute_surface_dice,
    )

    y, y_pred = (
        torch.stack([torch.from_numpy(labels == value) for value in range(classes)])[None]
        for labels in (truth, prediction)
    )
    dice = compute_dice(y_pred, y, include_background=False)
    hausdorff = compute_hausdorff_distance(y_pred, y, percentile=95, spacing=spacing)
    average = compute_average_surface_distance(y_pred, y, symmetric=True, spacing=spacing)
    surface = compute_surface_dice(y_pred, y, [TOLERANCE_MM] * (classes - 1), spacing=spacing, use_subvoxels=True)
    return torch.stack([t[0].double() for t in (dice, hausdorff, average, surface)], dim=1).tolist()


RUNNERS = {"ours": run_ours, "surface-distance": run_surface_distance, "monai": run_monai}


def measure(side, folder, spacing, classes):
    """Run one side in this process and print what it found, took and needed."""
    warnings.simplefilter("ignore")
    truth, prediction = (np.load(Path(folder) / f"{name}.npy") for name in ("truth", "prediction"))
    # Imports and the first call's tables are no part of the time, on any side.
    small = np.zeros((8, 8, 8), np.uint8)
    small[2:5, 2:5, 2:5] = 1
    RUNNERS[side](small, small.copy(), spacing, 2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    scores = RUNNERS[side](truth, prediction, spacing, classes)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": seconds, "peak_mb": peak / 1024, "before_mb": before / 1024, "scores": scores}))


def in_own_process(side, folder, spacing, classes):
    words = [sys.executable, __file__, "--measure", side, folder, json.dumps(spacing), str(classes)]
    done = subprocess.run(
        words, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONWARNINGS": "ignore"}
    )
    return json.loads(done.stdout.splitlines()[-1])


def bench(name, shape, spacing, kind, repeats):
    truth, prediction = make_maps(shape, kind)
    classes = int(truth.max()) + 1
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/truth.npy", truth)
        np.save(f"{folder}/prediction.npy", prediction)
        del truth, prediction
        runs = {side: [] for side in SIDES}
        for _ in range(repeats):
            for side in SIDES:
                if not any(run["seconds"] > SLOW for run in runs[side]):
                    runs[side].append(in_own_process(side, folder, spacing, classes))
    row = {"case": name}
    for side in SIDES:
        row[side] = {
            key: statistics.median(run[key] for run in runs[side]) for key in ("seconds", "peak_mb", "before_mb")
        }
        row[side]["scores"] = runs[side][0]["scores"]
    peers = [row[side] for side in SIDES[1:]]
    row["times_faster_than_the_faster"] = min(p["seconds"] for p in peers) / row["ours"]["seconds"]
    row["memory_of_the_leaner"] = row["ours"]["peak_mb"] / min(p["peak_mb"] for p in peers)
    ours, alike = np.array(row["ours"]["scores"]), np.array(row["surface-distance"]["scores"])
    row["largest_difference_from_surface_distance"] = float(np.abs(ours - alike).max())
    return row


def show(row):
    print(f"\n{row['case']}")
    for side in SIDES:
        own = row[side]["peak_mb"] - row[side]["before_mb"]
        print(f"  {side:17s} {row[side]['seconds']:8.2f} s   peak {row[side]['peak_mb']:6.0f} MB (+{own:.0f})")
    print(f"  ours is {row['times_faster_than_the_faster']:.1f} times faster than the faster of them,")
    print(f"  with {row['memory_of_the_leaner']:.2f} of the memory of the leaner;")
    print(f"  largest difference from surface-distance: {row['largest_difference_from_surface_distance']:.1e}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="an eighth of the voxels, one repeat")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        side, folder, spacing, classes = options.measure
        measure(side, folder, tuple(json.loads(spacing)), int(classes))
        return
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, numpy {np.__version__}")
    rows = []
    for name, (shape, spacing, kind) in CASES.items():
        if options.quick:
            shape, name = tuple(n // 2 for n in shape), f"{name}, halved"
        rows.append(bench(name, shape, spacing, kind, 1 if options.quick else options.repeats))
        show(rows[-1])
    if options.json:
        options.json.write_text(json.dumps({"version": 1, "cases": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
