"""Compare grids: how far apart two lie, whether one is the other with its axes renamed, and what is wrong with that."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.data.header import is_sheared
from pipeline.errors import Problem

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.data.nifti import Scan

    Affine = NDArray[np.float64]

TOLERANCE_VOXELS = 0.1
# The codes of NIfTI's other units of length; 0 says nothing.
UNITS = {1: "metres", 3: "micrometres"}


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


def orientation_problems(scan: Scan) -> list[Problem]:
    """Find what is odd or wrong with the way a scan's header places its voxels."""
    where, notes = str(scan.path), []
    if scan.header.sform is None and scan.header.qform is None:
        message = "has neither qform nor sform, so that left and right are a guess"
        notes.append(Problem(where, "no-orientation", message, "convert the scan from its source again"))
    elif is_sheared(scan.affine):
        message = "has axes that do not stand at right angles, which ITK cannot open"
        notes.append(Problem(where, "sheared", message, "resample the scan to a grid with right angles"))
    if unit := UNITS.get(scan.header.units & 7):
        spacing = " x ".join(f"{length:.3g}" for length in np.linalg.norm(scan.affine[:3, :3], axis=0))
        message = f"says that lengths are in {unit}, and its voxels of {spacing} are taken to be in mm"
        notes.append(Problem(where, "units", message, "correct the unit if it is wrong, else the affine"))
    return notes + _form_problems(scan)


def _form_problems(scan: Scan) -> list[Problem]:
    sform, qform = scan.header.sform, scan.header.qform
    if sform is None or qform is None:
        return []
    distance = grid_distance(sform, qform, scan.shape) if abs(np.linalg.det(qform)) > 0 else np.inf
    if distance <= TOLERANCE_VOXELS:
        return []
    message = f"has a qform and an sform up to {distance:.3g} voxels apart"
    remedy = "find out which is right, and use --fix use-sform or --fix use-qform"
    return [Problem(str(scan.path), "forms-differ", message, remedy)]


def grid_problems(image: Scan, other: Scan, kind: str) -> list[Problem]:
    """Find out whether another file of a case lies on its image's grid; ``kind`` says what the file is."""
    where, name = str(other.path), image.path.name
    if renamed := _renamed(image, other):
        message = f"has the grid of {name} with its axes in another order or direction: {renamed}"
        remedy = "use --fix reorient to reorder the voxels, or --fix copy-affine if only the affine is wrong"
        return [Problem(where, "axes-differ", message, remedy)]
    if other.shape != image.shape:
        message = f"has shape {other.shape}, {name} has {image.shape}"
        remedy = f"resample the {kind} to the grid of {name}, unless it belongs to another scan"
        return [Problem(where, "shapes-differ", message, remedy)]
    distance = grid_distance(image.affine, other.affine, image.shape)
    if distance > TOLERANCE_VOXELS:
        message = f"lies up to {distance:.3g} voxels away from {name}: their affines differ"
        remedy = f"resample the {kind} to that grid, or use --fix copy-affine if only the affine is wrong"
        return [Problem(where, "affines-differ", message, remedy)]
    return _form_problems(other)


def _renamed(image: Scan, other: Scan) -> str:
    """Say which axis stands where, and with a minus which runs backwards; "" where nothing is renamed."""
    found = renaming(image.affine, image.shape, other.affine, other.shape)
    if found is None or found == ((0, 1, 2), (False, False, False)):
        return ""
    return " ".join(("-" if turned else "") + "ijk"[axis] for axis, turned in zip(*found, strict=True))
