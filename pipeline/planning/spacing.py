"""Choose the grid that all scans are brought to: dimensions, orientation, voxel size."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.nifti.forms import nearest_axes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pipeline.data.inspection import CaseFacts

# A grid with voxels longer than this against the next longest side is coarse along that axis, if it also has this many
# times fewer of them: nnU-Net's rule.
COARSE = 3
# On a CPU slices have about so many voxels, and no voxel becomes more than so many times as long for that.
PLANE = 128**2
COARSER = 2.0
# The axis of the body that each letter of an orientation stands on.
BODY_AXES = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}


def choose_dimensions(facts: Sequence[CaseFacts], *given: Any, slices_pay: bool) -> int:
    """Return the length of whatever is given for each axis; else 2 where most scans are one slice, and 3 otherwise.

    Args:
        facts: Of the scans.
        *given: Settings that have a number for each axis, or ``auto``.
        slices_pay: Whether it is 2 also where slices are far apart, as on a CPU: a scan says little between them, and
            in the time of a step with volumes there are many with slices.
    """
    lengths = [len(setting) for setting in given if setting != "auto"]
    if lengths:
        return lengths[0]
    thick = slices_pay and coarse_axis(facts, "RAS") is not None
    return 2 if thick or 2 * flat(facts) > len(facts) else 3


def flat(facts: Sequence[CaseFacts]) -> int:
    """Return how many scans are one slice."""
    return sum(min(case.shape) == 1 for case in facts)


def choose_orientation(facts: Sequence[CaseFacts], dimensions: int) -> str:
    """Return RAS; in 2-D with the axis last along which most scans have one slice, or else the thickest slices."""
    if dimensions == 3:
        return "RAS"
    votes = [0, 0, 0]
    for case in facts:
        shape = oriented(case.shape, case, "RAS")
        spacing = oriented(case.spacing_mm, case, "RAS")
        # Of axes that are alike the last, so that isotropic volumes are cut in axial slices.
        votes[max(range(3), key=lambda axis: (shape[axis] == 1, round(spacing[axis], 2), axis))] += 1
    last = votes.index(max(votes))
    return "".join(code for axis, code in enumerate("RAS") if axis != last) + "RAS"[last]


def choose_spacing(facts: Sequence[CaseFacts], orientation: str) -> tuple[float, ...]:
    """Return the median voxel size along each oriented axis, in mm; along a coarse axis the 10th percentile.

    A median would throw slices away in half of the scans. Along a coarse axis each of them counts, so all but the
    finest tenth of the scans keep theirs. In the plane, where voxels are many, the median is a fair middle.
    """
    spacings = _spacings(facts, orientation)
    target = np.median(spacings, axis=0)
    axis = coarse_axis(facts, orientation)
    if axis is not None:
        # Never finer than the plane.
        target[axis] = max(np.quantile(spacings[:, axis], 0.1), np.delete(target, axis).max())
    # Four decimals, and four digits of what is smaller than a tenth of a millimetre.
    return tuple(round(float(value), max(4, 3 - math.floor(math.log10(value)))) for value in target)


def coarser_plane(spacing_mm: Sequence[float], shape: Sequence[int]) -> tuple[float, ...]:
    """Return the voxel size, larger in the plane where the median slice has more than ``PLANE`` voxels.

    >>> coarser_plane((1.5, 1.5), (216, 256)), coarser_plane((0.8, 0.8), (512, 512)), coarser_plane((2, 2), (96, 96))
    ((2.7557, 2.7557), (1.6, 1.6), (2.0, 2.0))
    """
    factor = min(COARSER, max(1.0, math.sqrt(math.prod(shape) / PLANE)))
    return tuple(round(factor * length, 4) for length in spacing_mm)


def coarse_axis(facts: Sequence[CaseFacts], orientation: str) -> int | None:
    """Return the oriented axis along which scans have few, long voxels, or None."""
    spacing = np.median(_spacings(facts, orientation), axis=0)
    shape = np.median([oriented(case.shape, case, orientation) for case in facts], axis=0)
    axis = int(spacing.argmax())
    coarse = spacing[axis] > COARSE * np.delete(spacing, axis).max()
    few = COARSE * shape[axis] < np.delete(shape, axis).min()
    return axis if coarse and few else None


def median_shape(facts: Sequence[CaseFacts], orientation: str, spacing_mm: Sequence[float]) -> tuple[int, ...]:
    """Return the median shape of the scans once they have the voxel size ``spacing_mm``."""
    target = np.array([*spacing_mm, *(1.0,) * (3 - len(spacing_mm))])
    shapes = [
        np.array(oriented(case.shape, case, orientation)) * oriented(case.spacing_mm, case, orientation) / target
        for case in facts
    ]
    return tuple(max(1, round(float(n))) for n in np.median(shapes, axis=0))


def oriented(values: Sequence[Any], case: CaseFacts, orientation: str) -> tuple[Any, ...]:
    """Reorder one number an axis of the file into the order of an orientation."""
    return tuple(values[axis] for axis in _axes(tuple(row[:3] for row in case.affine[:3]), orientation))


@lru_cache(1024)  # Scans of one dataset lie in a few ways.
def _axes(linear: tuple[tuple[float, ...], ...], orientation: str) -> tuple[int, ...]:
    """Return which axis of a file each axis of the orientation is."""
    body = [axis for axis, _ in nearest_axes(np.array(linear))]
    return tuple(body.index(BODY_AXES[wanted]) for wanted in orientation)


def _spacings(facts: Sequence[CaseFacts], orientation: str) -> NDArray[np.float64]:
    return np.array([oriented(case.spacing_mm, case, orientation) for case in facts], dtype=np.float64)
