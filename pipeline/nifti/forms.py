"""Where a NIfTI header places its voxels: qform, sform and voxel size, and how exactly float32 can say it.

qform and sform are read as by the NIfTI C library, with which ITK reads. Where both codes are 0, the grid is nibabel's:
centred on the origin, with the first axis to the left.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Affine = NDArray[np.float64]

# The relative error of a number that some program has computed in float32.
ROUNDING = 2.0**-23
# The error of 1 - (b^2 + c^2 + d^2), for the three stored parts of a unit quaternion; nibabel has the same tolerance.
# Below 1e-7, as in the NIfTI C library, the fourth part is taken to be 0.
SQUARE_ERROR = 3 * ROUNDING
SMALLEST_SQUARE = 1e-7
# Relative difference below which two voxel sizes are the same.
SAME_SIZE = 1e-4
# Cosines between voxel axes and axes of the body are rounded to so many decimals before they are compared.
COSINE_DIGITS = 3


@dataclass(frozen=True, kw_only=True)
class Forms:
    """The fields of a header that place its voxels, as they are stored.

    Attributes:
        shape: Voxels along the three axes of space.
        pixdim: The direction of the qform's third axis (below 0: backwards), then the voxel size.
        qform_code: What the qform leads to, such as 1 for the scanner's own space; 0 where there is none.
        quatern: Three of the four parts ``b, c, d`` of the qform's unit quaternion.
        qoffset: Where the qform places the first voxel, in mm.
        sform_code: As ``qform_code``.
        srow: The sform's three rows, one behind the other.
    """

    shape: tuple[int, int, int]
    pixdim: tuple[float, ...]
    qform_code: int
    quatern: tuple[float, ...]
    qoffset: tuple[float, ...]
    sform_code: int
    srow: tuple[float, ...]

    @cached_property
    def sform(self) -> Affine | None:
        """Voxel indices to mm, 4x4, or None where the code is 0."""
        if self.sform_code == 0:
            return None
        return np.vstack([np.array(self.srow, dtype=np.float64).reshape(3, 4), (0, 0, 0, 1)])

    @cached_property
    def qform(self) -> Affine | None:
        """As :attr:`sform`, from the quaternion and the voxel size."""
        if self.qform_code == 0:
            return None
        affine = np.eye(4)
        affine[:3, :3] = _rotation(self.quatern) * self._pixdim_mm * (1, 1, -1 if self.pixdim[0] < 0 else 1)
        affine[:3, 3] = self.qoffset
        return affine

    @cached_property
    def affine(self) -> Affine:
        """The sform, else the qform, else a grid around the origin with its first axis to the left."""
        form = self.sform if self.sform is not None else self.qform
        if form is not None:
            return form
        scales = np.array(self._pixdim_mm) * (-1, 1, 1)
        affine = np.diag([*scales, 1.0])
        affine[:3, 3] = -scales * (np.array(self.shape) - 1) / 2
        return affine

    @cached_property
    def spacing_mm(self) -> tuple[float, float, float]:
        """The voxel size, to the six digits that a float32 holds for certain.

        It is ``pixdim`` where the affine agrees, so that a scan has one size whichever form it is stored in.
        """
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        if np.allclose((x, y, z), self._pixdim_mm, rtol=SAME_SIZE, atol=0):
            x, y, z = self._pixdim_mm
        return float(f"{x:.6g}"), float(f"{y:.6g}"), float(f"{z:.6g}")

    @property
    def aligned_affine(self) -> Affine:
        """The grid turned to the nearest axes of the body, its first voxel at the origin.

        It holds all that resampling along a grid's own axes depends on, and nothing that rounding could decide: equal
        grids have equal ones, to the bit.
        """
        affine = np.eye(4)
        affine[:3, :3] = 0
        for column, (axis, sign) in enumerate(nearest_axes(self.affine)):
            affine[axis, column] = sign * self.spacing_mm[column]
        return affine

    @property
    def rotation_error_rad(self) -> float:
        """The largest angle by which rounding may have turned the grid about its first voxel.

        The fourth part of a qform's quaternion is the square root of 1 less the squares of the others. Where it is near
        0, as in all scans whose axes run as DICOM's do, the last digits of the others turn the grid by up to a
        fifteenth of a degree. With an sform, rounding turns nothing that matters: 0.
        """
        if self.sform_code or not self.qform_code:
            return 0.0
        a = math.sqrt(max(0.0, 1 - sum(part * part for part in self.quatern)))
        return 2 * min(math.sqrt(SQUARE_ERROR), SQUARE_ERROR / max(a, ROUNDING)) + SQUARE_ERROR

    def precision_mm(self, voxels: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how far float32 numbers may misplace voxels, in mm, ``[N]``.

        Args:
            voxels: Indices, homogeneous: ``[N, 4]``.
        """
        reach = np.linalg.norm(voxels[:, :3] @ self.affine[:3, :3].T, axis=1)
        summands = np.abs(voxels) @ np.abs(self.affine[:3]).T
        error: NDArray[np.float64] = self.rotation_error_rad * reach + ROUNDING * summands.max(axis=1)
        return error

    @property
    def _pixdim_mm(self) -> tuple[float, float, float]:
        """``pixdim`` as all readers take it: without its sign, and 1 where it is 0 along an axis of one voxel."""
        x, y, z = (
            1.0 if length == 0 and count == 1 else abs(length)
            for length, count in zip(self.pixdim[1:4], self.shape, strict=True)
        )
        return x, y, z


def corners_of(shape: Sequence[int]) -> NDArray[np.float64]:
    """Return the indices of a grid's corners, homogeneous: ``[2^axes, axes + 1]``."""
    return np.array([[*corner, 1.0] for corner in product(*((0, n - 1) for n in shape))])


def nearest_axes(affine: Affine) -> tuple[tuple[int, int], ...]:
    """Return for each voxel axis the nearest axis of the body (0 right, 1 anterior, 2 superior) and its sign.

    The order is nibabel's, but for grids near 45 degrees, where it would depend on the last bits: of two axes of the
    body whose cosines agree to three digits, the first is taken.

    >>> nearest_axes(np.diag([-2.0, 3.0, 1.0, 1.0]))
    ((0, -1), (1, 1), (2, 1))
    """
    cosines = np.round(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0), COSINE_DIGITS)
    left = [0, 1, 2]
    found = []
    for column in cosines.T:
        axis = max(left, key=lambda axis: abs(column[axis]))
        left.remove(axis)
        found.append((axis, -1 if column[axis] < 0 else 1))
    return tuple(found)


def _rotation(quatern: tuple[float, ...]) -> NDArray[np.float64]:
    """Return the rotation, 3x3, of a unit quaternion ``(a, b, c, d)`` of which ``b, c, d`` are given."""
    b, c, d = quatern
    square = 1 - (b * b + c * c + d * d)
    a = 0.0
    if square >= SMALLEST_SQUARE:
        a = math.sqrt(square)
    if a == 0:
        b, c, d = np.array(quatern) / math.hypot(*quatern)
    return np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - c * c - b * b],
        ]
    )
