"""What is wrong with an image by itself: its intensities, its fourth axis, its place."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import Problem

if TYPE_CHECKING:
    from pipeline import nifti

# Networks compute in float32. A scan of integers of which float32 distinguishes fewer levels than this is refused.
LEAST_LEVELS = 16
# A scan whose values are whole numbers within a range below this is probably a mask.
FEW_VALUES = 8
# The farthest that a voxel may lie from the origin: beyond it, places in a scan are lost in rounding.
FARTHEST_MM = 1e9


def image_problems(scan: nifti.Scan, labelled: bool, channels: int | None) -> list[Problem]:
    """Return the problems and warnings of an image.

    Args:
        scan: The image.
        labelled: Whether its case has a mask.
        channels: How many channels the dataset says that there are; None where it says nothing.
    """
    where = str(scan.path)
    voxels = scan.voxels
    problems = []
    if scan.channels > 1 and channels is None:
        message = f"has a fourth axis of {scan.channels}, and nothing says that these are channels"
        remedy = "declare channel_names, in the list or by --layout-option; or save one volume a file"
        problems.append(Problem(where, "undeclared-channels", message, remedy))
    if (farthest := float(np.abs(scan.affine[:3, 3]).max())) > FARTHEST_MM:
        message = f"lies {farthest:.3g} mm from the origin"
        remedy = "correct the offsets of its affine"
        problems.append(Problem(where, "bad-affine", message, remedy))
    low = voxels.min()  # NaN where any voxel is
    high = voxels.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = int(voxels.size - np.isfinite(voxels).sum())
        message = f"has {bad} voxel(s) that are NaN or infinite"
        remedy = "fill them, as check --fix fill-nonfinite does, or leave it out"
        problems.append(Problem(where, "not-finite", message, remedy))
    elif low == high:
        code = "constant-image" if labelled else "constant-scan"
        message = f"is {low:g} everywhere"
        problems.append(Problem(where, code, message, "replace the scan, or leave it out"))
    elif voxels.dtype.kind in "iu" and (levels := _levels_in_float32(int(low), int(high))) < LEAST_LEVELS:
        message = f"has values from {low} to {high}, of which float32 tells {levels} apart"
        problems.append(Problem(where, "lost-precision", message, "subtract what all voxels have in common"))
    elif float(high) - float(low) < FEW_VALUES and not np.mod(voxels, 1).any():
        message = f"holds whole numbers from {low:g} to {high:g} alone, as a mask does"
        problems.append(Problem(where, "looks-like-mask", message, "name the scan itself, if this is its mask"))
    return problems


def _levels_in_float32(low: int, high: int) -> float:
    """Return about how many of the integers from ``low`` to ``high`` float32 distinguishes; infinity if all."""
    step = int(np.spacing(np.float32(max(abs(low), abs(high)))))
    if step <= 1:
        return math.inf
    return 1 + (high - low) // step
