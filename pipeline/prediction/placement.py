"""Where the voxels of a scan lie on the network's grid: axes renamed, axes turned round, and one scale for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from monai.data.utils import AFFINE_TOL, compute_shape_offset, zoom_affine

from pipeline.nifti.forms import nearest_axes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.data.transforms import Grid
    from pipeline.nifti.forms import Forms

    Affine = NDArray[np.float64]
    Triple = tuple[int, int, int]

CODES = {"L": (0, -1), "R": (0, 1), "P": (1, -1), "A": (1, 1), "I": (2, -1), "S": (2, 1)}


@dataclass(frozen=True, kw_only=True)
class Placement:
    """How the voxels of a scan map to the network's grid, and back; all fields are in the order of the network's axes.

    In both directions a position is an index times a step; outside of a grid the value is that of its nearest voxel.

    Attributes:
        axes: The scan's axis that each axis is.
        turned: Whether it runs backwards in the scan.
        shape: Voxels of the network's grid.
        native: Voxels of the scan along these axes.
        steps_in: Voxels of the scan from one voxel of the network's grid to the next; 1 where nothing is resampled.
        steps_out: Voxels of the network's grid from one voxel of the scan to the next.
    """

    axes: Triple
    turned: tuple[bool, bool, bool]
    shape: Triple
    native: Triple
    steps_in: tuple[float, float, float]
    steps_out: tuple[float, float, float]

    def axis_of(self, native: int) -> int:
        """Return the network's axis that an axis of the scan is."""
        return self.axes.index(native)


def place(forms: Forms, grid: Grid) -> Placement:
    """Return where a scan lies on a grid, as MONAI's ``Orientation`` and then ``Spacing`` place it.

    Args:
        forms: Where the scan's header places its voxels; an oblique scan is resampled along its own axes.
        grid: The network's.
    """
    aligned = forms.aligned_affine
    found = nearest_axes(aligned)
    wanted = [CODES[letter] for letter in grid.orientation]
    axes = [next(n for n, (body, _) in enumerate(found) if body == axis) for axis, _ in wanted]
    turned = [found[own][1] != sign for own, (_, sign) in zip(axes, wanted, strict=True)]
    native = [forms.shape[own] for own in axes]
    source = aligned @ _renaming(axes, turned, native)
    target, shape = _resampled(source, native, grid.spacing_mm)
    return Placement(
        axes=(axes[0], axes[1], axes[2]),
        turned=(turned[0], turned[1], turned[2]),
        shape=(shape[0], shape[1], shape[2]),
        native=(native[0], native[1], native[2]),
        steps_in=_steps(source, target, native == shape),
        steps_out=_steps(target, source, native == shape),
    )


def _renaming(axes: list[int], turned: list[bool], shape: list[int]) -> Affine:
    """Return the affine from indices with their axes renamed to a scan's own."""
    step = np.zeros((4, 4))
    step[3, 3] = 1
    for axis, (own, backwards, length) in enumerate(zip(axes, turned, shape, strict=True)):
        step[own, axis] = -1 if backwards else 1
        step[own, 3] = length - 1 if backwards else 0
    return step


def _resampled(source: Affine, shape: list[int], spacing_mm: tuple[float, float, float]) -> tuple[Affine, list[int]]:
    """Return the affine and shape of a grid of another voxel size that begins at the same voxel."""
    own = np.linalg.norm(source[:3, :3], axis=0)
    # Half voxels are common, and which way a length of 28.5 is rounded is decided by MONAI's very arithmetic.
    size = np.where(np.abs(own - spacing_mm) <= AFFINE_TOL, own, spacing_mm)
    target: Affine = zoom_affine(source, size, diagonal=False)
    lengths, offset = compute_shape_offset(shape, source, target)
    target[:3, 3] = offset
    return target, [int(length) for length in lengths]


def _steps(source: Affine, target: Affine, same_shape: bool) -> tuple[float, float, float]:
    """Return the voxels of a source from one voxel of a target to the next."""
    change = np.linalg.solve(source, target)
    near = np.allclose(source, target, atol=AFFINE_TOL) or np.allclose(change, np.eye(4), atol=AFFINE_TOL)
    if same_shape and near:
        return 1.0, 1.0, 1.0
    x, y, z = (float(step) for step in np.diag(change)[:3])
    return x, y, z
