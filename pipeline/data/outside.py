"""What a scan has outside the body: 0, or another constant. Without PyTorch, since every check looks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# What is outside the body fills at least so much of a scan.
LEAST_OUTSIDE = 0.25
# Resampling changes a constant by no more than this part of it.
ROUNDING = 1e-6


def find_outside(voxels: NDArray[np.floating]) -> tuple[float, float]:
    """Find the constant that a scan has outside the body, such as what standardising makes of 0.

    It is the value of all corners, if nothing is darker or nothing brighter, and a quarter of the voxels have it.

    Args:
        voxels: One channel, ``[X, Y, Z]``, finite.

    Returns:
        The value, and up to which difference others are equal to it, for :func:`equals`; 0 and 0 where there is no such
        constant.

    >>> padded = np.pad(np.arange(27, dtype=np.float32).reshape(3, 3, 3), 2, constant_values=-7)
    >>> find_outside(padded)[0], find_outside(padded[2:-2, 2:-2, 2:-2])[0]
    (-7.0, 0.0)
    """
    value = float(voxels.flat[0])
    rounding = ROUNDING * abs(value)
    corners = voxels[np.ix_(*((0, -1) for _ in voxels.shape))]
    if value == 0 or not equals(corners, value, rounding).all():
        return 0.0, 0.0
    is_end = voxels.min() >= value - rounding or voxels.max() <= value + rounding
    count = sum(int(equals(plane, value, rounding).sum()) for plane in voxels)
    if not is_end or count < LEAST_OUTSIDE * voxels.size:
        return 0.0, 0.0
    return value, rounding


def equals(voxels: NDArray[Any], value: float, rounding: float) -> NDArray[np.bool_]:
    """Tell which voxels are equal to a value but for rounding, without a difference that could overflow."""
    found: NDArray[np.bool_] = voxels == value
    if rounding:
        found = (voxels >= value - rounding) & (voxels <= value + rounding)
    return found
