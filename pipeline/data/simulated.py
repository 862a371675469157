"""Partial masks made of full ones: scribbles, slices, boxes and points, as annotators with little time leave them.

Each function returns which voxels of a mask are kept, and draws from the random numbers that it is given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.random import Generator
    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]
    Keep = Callable[[NDArray[Any], int, int, Generator], Mask]

# Steps to half of the eight neighbours; each pair is joined both ways.
STEPS = ((0, 1), (1, 0), (1, 1), (1, -1))
# A stroke through background stays as near to the structures as this share of their width.
NEAR = 0.5
# By how much the wish to stay in the middle differs from voxel to voxel, so that a stroke is no exact centre line.
UNSTEADY = 0.5
# A box has this share of a scan along each axis.
BOX = 0.25


def scribbles(labels: NDArray[Any], axis: int, amount: int, rng: Generator) -> Mask:
    """Keep strokes along the middle of each structure, and through the background beside them, in every slice.

    A stroke is the path between two random voxels of a structure that is short and far from its border: its cost is
    the sum of ``length (1 + noise) / d^2``, with the distance ``d`` to the border. The pen is three voxels wide.

    Args:
        labels: A mask ``[X, Y, Z]``.
        axis: The axis that slices follow.
        amount: Strokes of each structure in each slice.
        rng: Random numbers.
    """
    kept = np.zeros(labels.shape, bool)
    for plane, where in zip(np.moveaxis(labels, axis, 0), np.moveaxis(kept, axis, 0), strict=True):
        for value in np.unique(plane):
            region = plane == value
            if value == 0:
                region &= _beside(plane != 0)
            for _ in range(amount):
                where |= ndimage.binary_dilation(_stroke(region, rng)) & region
    return kept


def slices(labels: NDArray[Any], axis: int, amount: int, rng: Generator) -> Mask:
    """Keep whole slices, drawn from those that show a structure; all of these if there are no more than that.

    Args:
        labels: A mask ``[X, Y, Z]``.
        axis: The axis that slices follow.
        amount: The number of slices.
        rng: Random numbers.
    """
    kept = np.zeros(labels.shape, bool)
    shown = np.flatnonzero(np.moveaxis(labels != 0, axis, 0).any(axis=(1, 2)))
    np.moveaxis(kept, axis, 0)[rng.permutation(shown)[:amount]] = True
    return kept


def boxes(labels: NDArray[Any], axis: int, amount: int, rng: Generator) -> Mask:
    """Keep boxes of a quarter of the scan along each axis, each around a voxel of a structure drawn evenly.

    Args:
        labels: A mask ``[X, Y, Z]``.
        axis: Not used.
        amount: The number of boxes.
        rng: Random numbers.
    """
    kept = np.zeros(labels.shape, bool)
    sides = np.ceil(BOX * np.array(labels.shape)).astype(int)
    values = np.unique(labels[labels != 0])
    for _ in range(amount if values.size else 0):
        centre = rng.choice(np.argwhere(labels == rng.choice(values)))
        low = np.clip(centre - sides // 2, 0, np.array(labels.shape) - sides)
        kept[tuple(map(slice, low, low + sides))] = True
    return kept


def points(labels: NDArray[Any], axis: int, amount: int, rng: Generator) -> Mask:
    """Keep single voxels of each structure and of the background, drawn evenly.

    Args:
        labels: A mask ``[X, Y, Z]``.
        axis: Not used.
        amount: The number of voxels of each, or all that there are.
        rng: Random numbers.
    """
    kept = np.zeros(labels.size, bool)
    flat = labels.ravel()
    for value in np.unique(flat):
        kept[rng.permutation(np.flatnonzero(flat == value))[:amount]] = True
    return kept.reshape(labels.shape)


KINDS: dict[str, Keep] = {"scribbles": scribbles, "slices": slices, "boxes": boxes, "points": points}


def shared_out(values: Sequence[int], cases: int, amount: int, rng: Generator) -> list[tuple[int, ...]]:
    """Return which classes are annotated in each of so many cases: each class in as many as any other, or one more.

    Args:
        values: The classes.
        cases: The number of cases.
        amount: The number of classes of each case.
        rng: Random numbers.

    >>> sorted(shared_out([1, 2, 3], 3, 1, np.random.default_rng(0)))
    [(1,), (2,), (3,)]
    """
    order = rng.permutation(np.array(values))
    places = rng.permutation(cases)
    return [tuple(sorted(int(order[(amount * n + k) % len(order)]) for k in range(amount))) for n in places]


def _beside(structures: Mask) -> Mask:
    """Return the voxels near the structures of a slice; all of a slice without one."""
    if not structures.any():
        return np.ones_like(structures)
    width = max(int(np.ptp(place)) + 1 for place in np.nonzero(structures))
    near: Mask = ndimage.distance_transform_edt(~structures) <= max(2.0, NEAR * width)
    return near


def _stroke(region: Mask, rng: Generator) -> Mask:
    """Return a path through one piece of a region ``[X, Y]``; nothing of an empty region."""
    pieces, _ = ndimage.label(region, structure=np.ones((3, 3)))
    drawn = np.zeros(region.shape, bool)
    if not region.any():
        return drawn
    # A voxel drawn evenly: large pieces are drawn more often.
    piece = pieces == rng.choice(pieces[region])
    # The slice ends where the scan does, which is no border of the structure, but the pen stays on the paper.
    depth = ndimage.distance_transform_edt(np.pad(piece, 1))[1:-1, 1:-1][piece]
    places = np.argwhere(piece)
    start = rng.choice(len(places), p=depth / depth.sum())
    far = depth * np.linalg.norm(places - places[start], axis=1)
    if not far.any():
        drawn[tuple(places[start])] = True
        return drawn
    end = rng.choice(len(places), p=far / far.sum())
    _, before = dijkstra(_costs(piece, depth, rng), directed=False, indices=start, return_predecessors=True)
    while end >= 0:  # Of the start there is no predecessor.
        drawn[tuple(places[end])] = True
        end = before[end]
    return drawn


def _costs(piece: Mask, depth: NDArray[np.float64], rng: Generator) -> Any:
    """Return the cost of each step between neighbouring voxels of a piece, as a sparse matrix."""
    numbers = np.full(np.array(piece.shape) + 2, -1, np.int32)  # Before 1.14, SciPy follows no other indices.
    numbers[1:-1, 1:-1][piece] = np.arange(len(depth))
    dear = (1 + UNSTEADY * rng.random(len(depth))) / depth**2
    inner = numbers[1:-1, 1:-1]
    rows: list[Any] = []
    columns: list[Any] = []
    costs: list[Any] = []
    for x, y in STEPS:
        other = numbers[1 + x : numbers.shape[0] - 1 + x, 1 + y : numbers.shape[1] - 1 + y]
        joined = (inner >= 0) & (other >= 0)
        rows.append(inner[joined])
        columns.append(other[joined])
        costs.append(np.hypot(x, y) * (dear[rows[-1]] + dear[columns[-1]]) / 2)
    entries = (np.concatenate(rows), np.concatenate(columns))
    return coo_array((np.concatenate(costs), entries), shape=(len(depth), len(depth))).tocsr()
