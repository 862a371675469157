"""How far our metrics are from MONAI's, and from those of Metrics Reloaded, on a few masks of known shape.

    python benchmarks/compare_metrics.py [--metrics-reloaded FOLDER] [--json FILE]

FOLDER is a clone of github.com/Project-MONAI/MetricsReloaded, which needs scikit-image and pandas; without it its
columns are left out. Nothing is set that has a default, but the spacing, the percentile 95, the tolerance of 1 mm and,
where MONAI has `use_subvoxels`, both values of it. `exact` is what two balls have of which the masks are samples. The
calibration error is that of one map of probabilities, over all voxels for the others, over those in doubt for ours.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from pathlib import Path

import numpy as np

from pipeline.metrics.calibration import BINS, Expectation, Reliability
from pipeline.metrics.case import score_case

TOLERANCE_MM = 1.0
SHAPE = (48, 48, 24)
METRICS = ("dice", "iou", "precision", "recall", "hd95_mm", "assd_mm", "surface_dice", "volume_difference")


def ball(center: tuple[float, ...], radius: float, spacing: tuple[float, ...]) -> np.ndarray:
    """Voxels within so many mm of a point."""
    axes = np.meshgrid(*((np.arange(n) + 0.5) * s for n, s in zip(SHAPE, spacing, strict=True)), indexing="ij")
    return sum((axis - c) ** 2 for axis, c in zip(axes, center, strict=True)) <= radius**2


def tube(shift: int) -> np.ndarray:
    """A bent tube, five voxels across."""
    mask = np.zeros(SHAPE, bool)
    for x in range(6, 42):
        y, z = 24 + int(8 * np.sin(x / 8)) + shift, 12
        mask[x, y - 2 : y + 3, z - 2 : z + 3] = True
    return mask


def pairs() -> dict[str, tuple[np.ndarray, np.ndarray, tuple[float, float, float]]]:
    """Truth, prediction and spacing in mm by name."""
    even, thick = (1.0, 1.0, 1.0), (0.8, 0.8, 3.0)
    middle, other = (24.0, 24.0, 12.0), (19.2, 19.2, 36.0)
    whole, flat = ball(middle, 9, even), ball(other, 14, thick)
    island = np.roll(whole, 1, 0)
    island[2:4, 2:4, 2:4] = True
    small = np.zeros(SHAPE, bool)
    small[20:23, 20:23, 10:13] = True
    cut = small.copy()
    cut[22] = False
    nothing = np.zeros(SHAPE, bool)
    return {
        "ball of 9 mm, 1 mm off": (whole, np.roll(whole, 1, 0), even),
        "the same and an island of 8 voxels": (whole, island, even),
        "ball of 9 mm, 1 mm too large": (whole, ball(middle, 10, even), even),
        "ball of 14 mm, a slice of 3 mm off": (flat, np.roll(flat, 1, 2), thick),
        "tube 5 voxels across, a voxel off": (tube(0), tube(1), even),
        "27 voxels, 9 of them missed": (small, cut, even),
        "missed": (small, nothing, even),
        "invented": (nothing, small, even),
        "in neither": (nothing, nothing, even),
    }


def ours(truth: np.ndarray, prediction: np.ndarray, spacing: tuple[float, ...]) -> dict[str, float | None]:
    """All metrics as in `cases.csv`."""
    maps = truth.astype(np.uint8), prediction.astype(np.uint8)
    (row,) = score_case("a", *maps, {1: "organ"}, spacing, tolerance_mm=TOLERANCE_MM)
    return {metric: getattr(row, metric) for metric in METRICS}


def monais(truth: np.ndarray, prediction: np.ndarray, spacing: tuple[float, ...]) -> dict[str, float | None]:
    """The same of MONAI; its volume difference is in voxels."""
    import monai.metrics as peer
    import torch

    y, guess = (torch.from_numpy(np.stack([~mask, mask]))[None].float() for mask in (truth, prediction))
    surface = {
        f"surface_dice{', sub-voxel' * sub}": peer.compute_surface_dice(
            guess, y, [TOLERANCE_MM], spacing=spacing, use_subvoxels=sub
        )
        for sub in (False, True)
    }
    counts = peer.get_confusion_matrix(guess, y, include_background=False)
    found = {
        "dice": peer.compute_dice(guess, y, include_background=False),
        "iou": peer.compute_iou(guess, y, include_background=False),
        "precision": peer.compute_confusion_matrix_metric("precision", counts),
        "recall": peer.compute_confusion_matrix_metric("sensitivity", counts),
        "hd95_mm": peer.compute_hausdorff_distance(guess, y, percentile=95, spacing=spacing),
        "assd_mm": peer.compute_average_surface_distance(guess, y, symmetric=True, spacing=spacing),
        "volume_difference": peer.compute_absolute_volume_difference(guess, y, include_background=False),
    } | surface
    return {name: float(value) for name, value in found.items()}


def reloadeds(truth: np.ndarray, prediction: np.ndarray, spacing: tuple[float, ...]) -> dict[str, float | None]:
    """The same of Metrics Reloaded; its volume difference is relative to the truth."""
    from MetricsReloaded.metrics.pairwise_measures import BinaryPairwiseMeasures

    settings = {"nsd": TOLERANCE_MM, "hd_perc": 95}
    peer = BinaryPairwiseMeasures(prediction.astype(int), truth.astype(int), pixdim=spacing, dict_args=settings)
    measures = {
        "dice": peer.dsc,
        "iou": peer.intersection_over_union,
        "precision": peer.positive_predictive_value,
        "recall": peer.recall,
        "hd95_mm": peer.measured_hausdorff_distance_perc,
        "assd_mm": peer.measured_average_distance,
        "surface_dice": peer.normalised_surface_distance,
        "volume_difference": peer.absolute_volume_difference_ratio,
    }
    return {name: float(measure()) for name, measure in measures.items()}


def exact(radii: tuple[float, float], apart: float) -> dict[str, float]:
    """Distances between the surfaces of two balls, whose centres are so many mm apart."""
    heights = np.linspace(-1, 1, 200_001)  # Equal steps along an axis cut a sphere into equal areas.
    areas = np.array(radii) ** 2 / sum(radius**2 for radius in radii)
    sides = [
        np.abs(np.sqrt(one**2 - 2 * one * apart * heights + apart**2) - other) for one, other in (radii, radii[::-1])
    ]
    within = [np.mean(side <= TOLERANCE_MM + 1e-9) for side in sides]
    return {
        "hd95_mm": float(max(np.percentile(side, 95) for side in sides)),
        "assd_mm": float(areas @ [side.mean() for side in sides]),
        "surface_dice": float(areas @ within),
    }


BALLS = {
    "ball of 9 mm, 1 mm off": exact((9, 9), 1),
    "ball of 9 mm, 1 mm too large": exact((9, 10), 0),
    "ball of 14 mm, a slice of 3 mm off": exact((14, 14), 3),
}


def calibration(reloaded: bool) -> dict[str, float]:
    """The expected calibration error of a network that is too sure of a ball, by whom."""
    rng, inside = np.random.default_rng(0), ball((24.0, 24.0, 12.0), 9, (1.0, 1.0, 1.0))
    far = ball((24.0, 24.0, 12.0), 14, (1.0, 1.0, 1.0))
    logits = np.where(inside, 2.0, np.where(far, -2.0, -8.0)) + rng.normal(0, 2, SHAPE)
    foreground = 1 / (1 + np.exp(-logits))
    reliability = Reliability()
    both = np.stack([1 - foreground, foreground]).astype(np.float32).reshape(2, -1)
    Expectation(label_values=(0, 1), reliability=reliability).add(
        both, (logits > 0).reshape(-1), inside.astype(np.uint8).reshape(-1)
    )
    found = {"ours": reliability.ece}
    import monai.metrics as peer
    import torch

    metric = peer.CalibrationErrorMetric(num_bins=BINS)
    metric(
        torch.from_numpy(np.stack([1 - foreground, foreground]))[None],
        torch.from_numpy(np.stack([~inside, inside]))[None].float(),
    )
    found["monai"] = float(metric.aggregate())
    if reloaded:
        from MetricsReloaded.metrics.calibration_measures import CalibrationMeasures

        flat = foreground.ravel()
        peer_measures = CalibrationMeasures(
            np.stack([1 - flat, flat], axis=1), inside.ravel().astype(int), dict_args={"bins_ece": BINS}
        )
        found["metrics reloaded"] = float(peer_measures.expectation_calibration_error())
    return {who: round(error, 4) for who, error in found.items()}


def written(value: float | None) -> str:
    """A number as a cell."""
    if value is None:
        return "none"
    return "NaN" if np.isnan(value) else f"{value:.3f}"


def main() -> None:
    """Print a table a metric."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--metrics-reloaded", type=Path, metavar="FOLDER")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    sides = {"ours": ours, "monai": monais}
    if given.metrics_reloaded:
        sys.path.insert(0, str(given.metrics_reloaded))
        sides["metrics reloaded"] = reloadeds
    found = {name: {side: measure(*pair) for side, measure in sides.items()} for name, pair in pairs().items()}
    for name, numbers in BALLS.items():
        found[name]["exact"] = numbers
    for metric in METRICS:
        columns = [(side, name) for side in sides for name in found["missed"][side] if name.split(",")[0] == metric]
        print(f"\n| {metric} | {' | '.join(side + name.removeprefix(metric) for side, name in columns)} | exact |")
        print("|---" * (len(columns) + 2) + "|")
        for pair, by_side in found.items():
            known = by_side.get("exact", {}).get(metric)
            cells = [written(by_side[side][name]) for side, name in columns] + ["" if known is None else f"{known:.3f}"]
            print(f"| {pair} | {' | '.join(cells)} |")
    errors = calibration(given.metrics_reloaded is not None)
    print("\nexpected calibration error:", errors)
    if given.json:
        given.json.write_text(json.dumps({"masks": found, "calibration": errors}, indent=1) + "\n")


if __name__ == "__main__":
    main()
