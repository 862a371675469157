"""From stored intensities to those a network sees: one definition for training, prediction and cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.config import KeysCollection  # noqa: TC002 - MONAI resolves annotations of transforms
from monai.transforms import MapTransform

from pipeline.data.outside import equals, find_outside

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence


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
    another constant (:mod:`pipeline.data.outside`); it moves with the rest but does not weigh in, unless all other
    voxels are equal. A constant channel becomes 0.

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
