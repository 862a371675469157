"""Sliding windows of which mirror images are looked at too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import torch
from monai.inferers import SliceInferer, SlidingWindowInferer

Network = Callable[..., torch.Tensor]


def mirrored(network: Network, axes: Sequence[int]) -> Network:
    """Return a network whose output is the mean over all mirror images of its input.

    Args:
        network: Windows ``[B, C, …]`` in, logits ``[B, K, …]`` out.
        axes: Of a window, counted from 0.
    """
    images = [image for count in range(len(axes) + 1) for image in combinations([axis + 2 for axis in axes], count)]

    def mean(windows: torch.Tensor) -> torch.Tensor:
        total = torch.zeros((), device=windows.device)
        for image in images:
            total = total + network(windows.flip(image)).flip(image)
        return total / len(images)

    return mean


class MirroredWindows(SlidingWindowInferer):
    """MONAI's windows of a volume, and their mirror images.

    Args:
        mirrored_axes: As for :func:`mirrored`.
        settings: MONAI's own.
    """

    def __init__(self, mirrored_axes: Sequence[int], **settings: object) -> None:
        super().__init__(**settings)
        self.mirrored_axes = tuple(mirrored_axes)

    def __call__(self, inputs: torch.Tensor, network: Network, *more: Any, **named: Any) -> Any:
        """Return the logits ``[B, K, X, Y, Z]`` of an image ``[B, C, X, Y, Z]``."""
        return super().__call__(inputs, mirrored(network, self.mirrored_axes), *more, **named)


class MirroredSlices(SliceInferer):
    """MONAI's windows of a volume's slices along its third axis, and their mirror images.

    Args:
        mirrored_axes: As for :func:`mirrored`.
        settings: MONAI's own.
    """

    def __init__(self, mirrored_axes: Sequence[int], **settings: object) -> None:
        super().__init__(spatial_dim=2, **settings)
        self.mirrored_axes = tuple(mirrored_axes)

    def __call__(self, inputs: torch.Tensor, network: Network, *more: Any, **named: Any) -> Any:
        """Return the logits ``[B, K, X, Y, Z]`` of an image ``[B, C, X, Y, Z]``."""
        return super().__call__(inputs, mirrored(network, self.mirrored_axes), *more, **named)
