"""Compare the grids of two files: how far apart they lie, and whether one is the other with its axes renamed."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Affine = NDArray[np.float64]

TOLERANCE_VOXELS = 0.1


def grid_distance(first: Affine, second: Affine, shape: tuple[int, ...]) -> float:
    """Return how far apart two affines place the corners of a grid, in voxels of the first.

    >>> shifted = np.eye(4); shifted[0, 3] = 0.5
    >>> grid_distance(np.eye(4), shifted, (10, 10, 10))
    0.5
    """
    corners = np.array([[*corner, 1.0] for corner in product(*((0, n - 1) for n in shape))])
    offsets = corners @ (np.linalg.solve(first, second) - np.eye(4)).T
    return float(np.linalg.norm(offsets[:, :3], axis=1).max())


def renaming(
    wanted: Affine, shape: tuple[int, int, int], given: Affine, given_shape: tuple[int, int, int]
) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]] | None:
    """Return how the axes of a given grid must be reordered and turned round to become the wanted one.

    Args:
        wanted: The wanted grid's affine.
        shape: Its shape.
        given: The given grid's affine.
        given_shape: Its shape.

    Returns:
        The given axis for each wanted axis, and whether it runs backwards; None where the two grids are not the same
        set of points within a tenth of a voxel.

    >>> backwards = np.diag([-1.0, 1, 1, 1]); backwards[0, 3] = 4
    >>> renaming(np.eye(4), (5, 6, 7), backwards, (5, 6, 7))
    ((0, 1, 2), (True, False, False))
    """
    turn = np.rint(np.linalg.solve(wanted, given)[:3, :3])
    if not (np.abs(turn).sum(axis=0) == 1).all() or not (np.abs(turn).sum(axis=1) == 1).all():
        return None
    x, y, z = (int(axis) for axis in np.abs(turn).argmax(axis=1))
    order, backwards = (x, y, z), tuple(bool(sign < 0) for sign in turn.sum(axis=1))
    if tuple(given_shape[axis] for axis in order) != shape:
        return None
    step = np.eye(4)  # from an index of the wanted grid to the index of the given one
    step[:3, :3] = turn.T
    step[:3, 3] = [given_shape[axis] - 1 if backwards[order.index(axis)] else 0 for axis in range(3)]
    if grid_distance(wanted, given @ step, shape) > TOLERANCE_VOXELS:
        return None
    return order, (backwards[0], backwards[1], backwards[2])


def rename_axes(voxels: NDArray[Any], order: tuple[int, int, int], backwards: tuple[bool, bool, bool]) -> NDArray[Any]:
    """Return voxels ``[X, Y, Z]`` as :func:`renaming` says."""
    return voxels.transpose(order)[tuple(slice(None, None, -1 if turned else 1) for turned in backwards)]
