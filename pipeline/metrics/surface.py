"""Distances between the surfaces of two masks, in which each piece of surface counts by its area.

A surface runs between the voxels that are inside and those that are not, so its pieces (surfels) lie at corners of the
grid: at each corner whose eight voxels are not all inside or all outside. The area of a surfel follows from these eight
voxels and their size. If voxels were counted instead, a small and a large side of a long voxel would count the same.

The definition is that of Nikolov et al. 2021, https://doi.org/10.2196/26151, and of their ``surface-distance``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import edt
import numpy as np
from scipy.spatial import cKDTree

from pipeline.metrics.surfels import surfel_areas

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Mask: TypeAlias = NDArray[np.bool_]
    Codes: TypeAlias = NDArray[np.uint8]
    Corners: TypeAlias = NDArray[np.intp]
    Spacing: TypeAlias = tuple[float, float, float]

# Relative rounding error up to which a distance that equals the tolerance is within it.
ROUNDING = 1e-6
# Rounding error up to which a share of the area that equals the percentage is enough.
TIE = 1e-12
# With more than one piece of surface in so many voxels, a distance transform is cheaper than a tree.
DENSE = 4


@dataclass(frozen=True)
class Surface:
    """Pieces of a surface, the nearest to the other surface first.

    Attributes:
        distances_mm: To the nearest piece of the other surface, ``[N]``, rising.
        areas_mm2: Of each piece, ``[N]``; lengths in mm for a flat mask.
    """

    distances_mm: NDArray[np.float64]
    areas_mm2: NDArray[np.float64]

    @property
    def area_mm2(self) -> float:
        """Area of the whole surface; its length in mm for a flat mask."""
        return float(self.areas_mm2.sum())

    def percentile_mm(self, percent: float) -> float:
        """Return the distance within which ``percent`` of the surface lies."""
        shares = np.cumsum(self.areas_mm2) / self.area_mm2
        place = int(np.searchsorted(shares, percent / 100 - TIE))
        return float(self.distances_mm[min(place, len(shares) - 1)])

    def area_within(self, tolerance_mm: float) -> float:
        """Return the area of the surface that lies within a distance of the other surface."""
        end = int(np.searchsorted(self.distances_mm, tolerance_mm * (1 + ROUNDING), side="right"))
        return float(self.areas_mm2[:end].sum())


@dataclass(frozen=True)
class SurfaceDistances:
    """The surfaces of a true and of a predicted mask, neither of them empty."""

    truth: Surface
    prediction: Surface

    @property
    def hd95_mm(self) -> float:
        """The larger of the two directed 95th percentiles: 95 % of either surface is that near to the other."""
        return max(self.truth.percentile_mm(95), self.prediction.percentile_mm(95))

    @property
    def assd_mm(self) -> float:
        """The mean distance over both surfaces together."""
        both = (self.truth, self.prediction)
        moments = sum(float((surface.distances_mm * surface.areas_mm2).sum()) for surface in both)
        return moments / sum(surface.area_mm2 for surface in both)

    def surface_dice(self, tolerance_mm: float) -> float:
        """The share of both surfaces together that lies within the tolerance of the other."""
        both = (self.truth, self.prediction)
        return sum(s.area_within(tolerance_mm) for s in both) / sum(s.area_mm2 for s in both)


def surface_distances(truth: Mask, prediction: Mask, spacing_mm: Spacing) -> SurfaceDistances:
    """Measure two masks against each other in one pass over the box that holds both.

    Args:
        truth: ``[X, Y, Z]``; an axis of one voxel makes the mask flat, and its surface a contour.
        prediction: The shape of ``truth``.
        spacing_mm: Size of a voxel along each axis. Axes are taken to be at right angles.

    Raises:
        ValueError: A mask is empty.

    >>> truth = np.zeros((8, 8, 8), bool)
    >>> truth[2:6, 2:6, 2:6] = True
    >>> found = surface_distances(truth, np.roll(truth, 1, axis=0), (2.0, 1.0, 1.0))
    >>> found.hd95_mm, round(found.assd_mm, 4), round(found.surface_dice(1.0), 4)
    (2.0, 0.4227, 0.8179)
    """
    if not (truth.any() and prediction.any()):
        raise ValueError("an empty mask has no surface")
    areas = surfel_areas(_in_plane(truth.shape, spacing_mm))
    first = _neighbourhoods(truth)
    second = _neighbourhoods(prediction)
    return SurfaceDistances(_measure(first, second, spacing_mm, areas), _measure(second, first, spacing_mm, areas))


def flat_axes(shape: tuple[int, ...]) -> tuple[bool, ...]:
    """Tell which axes are flat, and have no surface across them: those of one voxel, but none of a single voxel."""
    return tuple(n == 1 and max(shape) > 1 for n in shape)


def _in_plane(shape: tuple[int, ...], spacing_mm: Spacing) -> Spacing:
    """Return the spacing with 1 mm for a flat axis, so that areas are lengths."""
    x, y, z = (1.0 if flat else size for flat, size in zip(flat_axes(shape), spacing_mm, strict=True))
    return x, y, z


def _neighbourhoods(mask: Mask) -> Codes:
    """Return for each corner of the grid which of its eight voxels are inside, as a code of :func:`surfel_areas`.

    Outside the array is outside the mask. Along a flat axis, both neighbours of a corner are the same voxel.
    """
    codes = mask.view(np.uint8)
    for axis, (shift, flat) in enumerate(zip((1, 2, 4), flat_axes(mask.shape), strict=True)):
        if flat:
            codes = codes | codes << np.uint8(shift)
            continue
        before: tuple[slice, ...] = (slice(None),) * axis
        shape = list(codes.shape)
        shape[axis] += 1
        wider = np.zeros(shape, np.uint8)
        wider[(*before, slice(1, None))] = codes
        wider[(*before, slice(-1))] |= codes << np.uint8(shift)
        codes = wider
    return codes


def _measure(here: Codes, there: Codes, spacing_mm: Spacing, areas: NDArray[np.float64]) -> Surface:
    """Return one surface, with the distance of each piece to the other surface."""
    pieces = np.flatnonzero(_on_surface(here))
    goal = _on_surface(there)
    distances = np.zeros(len(pieces))
    apart = ~goal.reshape(-1)[pieces]  # The others lie on the other surface too.
    if apart.any():
        distances[apart] = _distances(pieces[apart], goal, spacing_mm)
    weights = areas[here.reshape(-1)[pieces]]
    order = np.argsort(distances, kind="stable")
    return Surface(distances[order], weights[order])


def _distances(corners: Corners, goal: Mask, spacing_mm: Spacing) -> NDArray[np.float64]:
    """Return the distances in mm of corners of the grid, given by flat index, to the nearest corner of a surface.

    A k-d tree of the surface is exact and needs memory for the surface alone. If much of the box is surface, as in
    noise, a distance transform of the whole box is cheaper.
    """
    surface = np.flatnonzero(goal)
    if (len(surface) + len(corners)) * DENSE > goal.size:
        unit = min(spacing_mm)  # On a cubic grid squared distances are then integers, which float32 holds exactly.
        squares = edt.edtsq(~goal, anisotropy=[size / unit for size in spacing_mm], parallel=os.cpu_count() or 1)
        rooted: NDArray[np.float64] = np.sqrt(squares.reshape(-1)[corners].astype(np.float64)) * unit
        return rooted
    tree = cKDTree(_places_mm(surface, goal.shape, spacing_mm), leafsize=32, compact_nodes=False, balanced_tree=False)
    found: NDArray[np.float64] = tree.query(_places_mm(corners, goal.shape, spacing_mm), workers=-1)[0]
    return found


def _places_mm(corners: Corners, shape: tuple[int, ...], spacing_mm: Spacing) -> NDArray[np.float64]:
    places: NDArray[np.float64] = np.stack(np.unravel_index(corners, shape), axis=1) * np.array(spacing_mm)
    return places


def _on_surface(codes: Codes) -> Mask:
    # Neither 0 nor 255: adding 1 turns those two into 1 and 0.
    return codes + np.uint8(1) > 1
