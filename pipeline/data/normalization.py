"""From stored intensities to those a network sees: one definition for training, prediction and cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.config import KeysCollection  # noqa: TC002 - MONAI resolves annotations of transforms
from monai.transforms import MapTransform

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from numpy.typing import NDArray

# What is outside the body fills at least so much of a scan.
LEAST_OUTSIDE = 0.25
# Resampling changes a constant by no more than this part of it.
ROUNDING = 1e-6


@dataclass(frozen=True)
class IntensityRange:
    """A range of a calibrated scale such as Hounsfield units, the same for every scan.

    An intensity ``x`` becomes ``(clip(x, low, high) - mean) / std``.

    Attributes:
        low: Smaller values become this one.
        high: Larger values become this one.
        mean: Becomes 0.
        std: Becomes 1.
    """

    low: float
    high: float
    mean: float
    std: float


class Normalized(MapTransform):
    """Bring each channel to mean 0 and standard deviation 1, by a range or by its own voxels.

    By its own voxels means over those inside the body. What scanners and skull-stripping leave outside is exactly 0, or
    another constant (:func:`find_outside`); it moves with the rest but does not weigh in, unless all other voxels are
    equal. A constant channel becomes 0.

    Args:
        keys: Images ``[C, …]``.
        ranges: One entry a channel, None for "by its own voxels"; empty for that in every channel.
    """

    def __init__(self, keys: KeysCollection, ranges: Sequence[IntensityRange | None] = ()) -> None:
        super().__init__(keys)
        self.ranges = tuple(ranges)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Apply to a case or sample; other keys stay."""
        result = dict(data)
        for key in self.key_iterator(result):
            ranges = self.ranges or (None,) * len(result[key])
            for channel, scale in zip(result[key], ranges, strict=True):
                channel.copy_(_standardize(channel) if scale is None else _scaled(channel, scale))
        return result


def _scaled(channel: torch.Tensor, scale: IntensityRange) -> torch.Tensor:
    return (channel.clamp(scale.low, scale.high) - scale.mean) / scale.std


def _standardize(channel: torch.Tensor) -> torch.Tensor:
    # NumPy adds in one order, PyTorch in one that depends on the number of threads: a worker has to get the same bits.
    voxels = channel.numpy()
    outside, rounding = find_outside(voxels)
    wide = voxels.astype(np.float64)
    inside = wide[~equals(wide, outside, rounding)]
    if inside.size < 2 or inside.min() == inside.max():  # A mask: its zeros are all the contrast that it has.
        inside = wide
    if inside.min() == inside.max():
        return torch.zeros_like(channel)
    return torch.from_numpy(((wide - inside.mean()) / inside.std(ddof=1)).astype(np.float32))


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
