"""Compare grids: how far apart two lie, whether one is the other with its axes renamed, and what is wrong with that."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import Problem
from pipeline.nifti.forms import corners_of
from pipeline.nifti.header import is_sheared

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.nifti.forms import Forms
    from pipeline.nifti.volume import Scan

    Affine = NDArray[np.float64]

# How far apart two grids may lie and still be the same, beyond the rounding of float32 headers.
TOLERANCE_VOXELS = 0.1
# The codes of NIfTI's other units of length; 0 says nothing.
UNITS = {1: "metres", 3: "micrometres"}


def corner_distances(first: Affine, second: Affine, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return how far apart two affines place each corner of a grid, in voxels of the first.

    >>> shifted = np.eye(4); shifted[0, 3] = 0.5
    >>> float(corner_distances(np.eye(4), shifted, (10, 10, 10)).max())
    0.5
    """
    offsets = corners_of(shape) @ (np.linalg.solve(first, second) - np.eye(4)).T
    distances: NDArray[np.float64] = np.linalg.norm(offsets[:, :3], axis=1)
    return distances


def distance_between(first: Forms, second: Forms, step: Affine | None = None) -> float | None:
    """Return the largest distance between the corners of two grids, in voxels; None if the grids are the same.

    They are the same if no corner lies more than a tenth of a voxel apart, plus what rounding to float32 explains: that
    of positions, and that of quaternions, which grows with the distance from the first voxel.

    Args:
        first: The grid.
        second: The other file's.
        step: Maps an index of the first grid to the index of the second, 4x4; None is the identity.
    """
    if step is None:
        step = np.eye(4)
    corners = corners_of(first.shape)
    distances = corner_distances(first.affine, second.affine @ step, first.shape)
    error_mm = first.precision_mm(corners) + second.precision_mm(corners @ step.T)
    if (distances <= TOLERANCE_VOXELS + error_mm / min(first.spacing_mm)).all():
        return None
    return float(distances.max())


def renaming(wanted: Forms, given: Forms) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]] | None:
    """Return how the axes of a given grid must be reordered and turned round to become the wanted one.

    Returns:
        The given axis for each wanted axis, and whether it runs backwards; None where the two grids are not the same
        set of points.
    """
    turn = np.rint(np.linalg.solve(wanted.affine, given.affine)[:3, :3])
    if not (np.abs(turn).sum(axis=0) == 1).all() or not (np.abs(turn).sum(axis=1) == 1).all():
        return None
    x, y, z = (int(axis) for axis in np.abs(turn).argmax(axis=1))
    order = (x, y, z)
    backwards = tuple(bool(sign < 0) for sign in turn.sum(axis=1))
    if tuple(given.shape[axis] for axis in order) != wanted.shape:
        return None
    step = np.eye(4)  # from an index of the wanted grid to the index of the given one
    step[:3, :3] = turn.T
    step[:3, 3] = [given.shape[axis] - 1 if backwards[order.index(axis)] else 0 for axis in range(3)]
    if distance_between(wanted, given, step) is not None:
        return None
    return order, (backwards[0], backwards[1], backwards[2])


def rename_axes(voxels: NDArray[Any], order: tuple[int, int, int], backwards: tuple[bool, bool, bool]) -> NDArray[Any]:
    """Return voxels ``[X, Y, Z]`` as :func:`renaming` says."""
    return voxels.transpose(order)[tuple(slice(None, None, -1 if turned else 1) for turned in backwards)]


def orientation_problems(scan: Scan) -> list[Problem]:
    """Find what is odd or wrong with the way a scan's header places its voxels."""
    where = str(scan.path)
    notes = []
    if not (scan.header.forms.sform_code or scan.header.forms.qform_code):
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
    forms = scan.header.forms
    if not (forms.sform_code and forms.qform_code):
        return []
    distance = distance_between(replace(forms, qform_code=0), replace(forms, sform_code=0))
    if distance is None:
        return []
    message = f"has a qform and an sform up to {distance:.3g} voxels apart"
    remedy = "find out which is right, and use check --fix use-sform, or use-qform"
    return [Problem(str(scan.path), "forms-differ", message, remedy)]


def grid_problems(image: Scan, other: Scan, kind: str) -> list[Problem]:
    """Find out why another file of a case does not lie on the grid of its image.

    Args:
        image: The case's first image.
        other: The other file.
        kind: What the other file is, for messages, such as ``label``.

    Returns:
        At most one problem: axes in another order, another shape, another affine, or forms of ``other`` that differ.
    """
    where = str(other.path)
    name = image.path.name
    if renamed := _renamed(image, other):
        message = f"has the grid of {name} with its axes in another order or direction: {renamed}"
        remedy = "use check --fix reorient to reorder the voxels, or copy-affine if only the affine is wrong"
        return [Problem(where, "axes-differ", message, remedy)]
    if other.shape != image.shape:
        message = f"has shape {other.shape}, {name} has {image.shape}"
        remedy = f"resample the {kind} to the grid of {name}, unless it belongs to another scan"
        return [Problem(where, "shapes-differ", message, remedy)]
    distance = distance_between(image.header.forms, other.header.forms)
    if distance is not None:
        message = f"lies up to {distance:.3g} voxels away from {name}: their affines differ"
        remedy = f"resample the {kind} to that grid, or use check --fix copy-affine if only the affine is wrong"
        return [Problem(where, "affines-differ", message, remedy)]
    return _form_problems(other)


def _renamed(image: Scan, other: Scan) -> str:
    """Say which axis stands where, and with a minus which runs backwards; "" where nothing is renamed."""
    found = renaming(image.header.forms, other.header.forms)
    if found is None or found == ((0, 1, 2), (False, False, False)):
        return ""
    return " ".join(("-" if turned else "") + "ijk"[axis] for axis, turned in zip(*found, strict=True))
