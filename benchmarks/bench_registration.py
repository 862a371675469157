"""How long atlases take to be registered to scans, ours beside SimpleITK's, and how well a moved mask then lies.

    python benchmarks/bench_registration.py data/Task04_Hippocampus
    python benchmarks/bench_registration.py data/Task04_Hippocampus --quick --json results.json

``Atlases.vote`` registers all atlases to a scan at once, affine and then free-form, and lets their masks vote.
SimpleITK registers the same pairs one by one, for a few of the scans: an affine map, then B-splines with as many knots,
by the correlation of every second voxel along each axis. The Dice is that of each atlas' mask, moved, against the
scan's own, the mean over pairs and classes. Atlases and scans are the first of the dataset's labelled cases.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pipeline.atlases.fusion import Atlases  # noqa: E402
from pipeline.atlases.registration import BETWEEN_KNOTS, SMOOTH_STEPS, Moving, padded, register  # noqa: E402

# Of SimpleITK's gradient descent.
AFFINE_ITERATIONS = 50

Pair = tuple[torch.Tensor, torch.Tensor]


def read(folder: Path, count: int) -> list[Pair]:
    """Return images ``[1, X, Y, Z]``, normalised, and labels ``[X, Y, Z]`` of the first cases, in RAS."""
    found = []
    for path in sorted((folder / "labelsTr").glob("[!.]*.nii.gz"))[:count]:
        image, label = (nib.as_closest_canonical(nib.load(place)) for place in (folder / "imagesTr" / path.name, path))
        voxels = np.asarray(image.dataobj, np.float32)
        inside = voxels[voxels != 0]
        normal = torch.from_numpy((voxels - inside.mean()) / inside.std())
        found.append((normal[None], torch.from_numpy(np.asarray(label.dataobj, np.int64))))
    return found


def dice(found: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean Dice over the classes of the truth."""
    classes = [value for value in np.unique(truth) if value]
    pairs = [((found == value), (truth == value)) for value in classes]
    return statistics.fmean(2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in pairs)


def moved_dice(atlases: list[Pair], scan: Pair) -> list[float]:
    """Return the Dice of each atlas' mask, moved by our registration."""
    moving = Moving([image for image, _ in atlases])
    points = register(moving, scan[0])
    result = []
    for number, (_, label) in enumerate(atlases):
        votes = torch.nn.functional.one_hot(label, 3).movedim(-1, 0)[None].float()
        one = slice(number, number + 1)
        said = moving.at(padded(votes[0], moving.shape)[None], points[one], one)[0].argmax(0)
        result.append(dice(said.numpy(), scan[1].numpy()))
    return result


def with_simpleitk(atlas: Pair, scan: Pair) -> float:
    """Register one atlas with SimpleITK, and return the Dice of its moved mask."""
    import SimpleITK as sitk  # noqa: N813 - its usual name

    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # That L-BFGS-B has no scales.
    fixed, moving = (sitk.GetImageFromArray(image[0].numpy()) for image in (scan[0], atlas[0]))
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsCorrelation()
    method.SetInterpolator(sitk.sitkLinear)
    method.SetShrinkFactorsPerLevel([2])
    method.SetSmoothingSigmasPerLevel([0.5])
    middle = sitk.CenteredTransformInitializerFilter.GEOMETRY
    affine = sitk.CenteredTransformInitializer(fixed, moving, sitk.AffineTransform(3), middle)
    method.SetInitialTransform(affine, inPlace=True)
    method.SetOptimizerAsRegularStepGradientDescent(0.1, 1e-4, AFFINE_ITERATIONS)
    method.SetOptimizerScalesFromPhysicalShift()
    method.Execute(fixed, moving)
    mesh = [max(1, round(side / BETWEEN_KNOTS)) for side in fixed.GetSize()]
    bent = sitk.BSplineTransformInitializer(fixed, mesh)
    method.SetMovingInitialTransform(affine)
    method.SetInitialTransform(bent, inPlace=True)
    method.SetOptimizerAsLBFGSB(numberOfIterations=SMOOTH_STEPS)
    method.Execute(fixed, moving)
    whole = sitk.CompositeTransform([affine, bent])
    mask = sitk.GetImageFromArray(atlas[1].numpy().astype(np.uint8))
    said = sitk.Resample(mask, fixed, whole, sitk.sitkNearestNeighbor, 0)
    return dice(sitk.GetArrayFromImage(said), scan[1].numpy())


def main() -> None:
    """Measure both, and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--atlases", type=int, default=10)
    parser.add_argument("--scans", type=int, default=150)
    parser.add_argument("--reference", type=int, default=3, help="scans that SimpleITK registers the atlases to")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="two atlases, three scans, one of them by SimpleITK")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    if asked.quick:
        asked.atlases, asked.scans, asked.reference = 2, 3, 1
    torch.set_num_threads(asked.threads)
    cases = read(asked.dataset, asked.atlases + asked.scans)
    chosen, scans = cases[: asked.atlases], cases[asked.atlases :]
    atlases = Atlases([image for image, _ in chosen], [label for _, label in chosen], 3)
    began = time.perf_counter()
    votes = [dice(atlases.vote(image).probabilities.argmax(0).numpy(), label.numpy()) for image, label in scans]
    ours = time.perf_counter() - began
    mine = [value for scan in scans[: asked.reference] for value in moved_dice(chosen, scan)]
    began = time.perf_counter()
    theirs = [with_simpleitk(atlas, scan) for scan in scans[: asked.reference] for atlas in chosen]
    spent = time.perf_counter() - began
    pairs, known = len(scans) * len(chosen), asked.reference * len(chosen)
    told: dict[str, Any] = {
        "atlases": len(chosen),
        "scans": len(scans),
        "seconds": ours,
        "seconds_a_pair": ours / pairs,
        "simpleitk_seconds_a_pair": spent / known,
        "ratio": spent / known / (ours / pairs),
        "dice_of_the_vote": statistics.fmean(votes),
        "dice_of_one_moved_mask": statistics.fmean(mine),
        "simpleitk_dice_of_one_moved_mask": statistics.fmean(theirs),
    }
    for name, value in told.items():
        print(f"{name:>34}  {value:.4g}")
    if asked.json:
        asked.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
