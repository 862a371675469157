"""Convolutions of few planes, whose gradients PyTorch 2.13 gets wrong in bfloat16 on CPUs.

Where a 3-D image has fewer planes along its first axis than the kernel, oneDNN's gradient of the weights is memory that
nobody has written: 1e37, or not a number (seen on an AMD EPYC with AVX-512 bfloat16, 16 channels or more). The loss
shows nothing of it, and clipping the gradient's norm makes a step of it that teaches nothing. In float32 it is right,
and such images are so small that it costs no time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor


class SoundConv3d(nn.Conv3d):
    """A 3-D convolution that computes in float32 where an image has fewer planes than its kernel."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the convolution of ``[B, C, X, Y, Z]``."""
        if input.shape[2] >= self.kernel_size[0] or input.device.type != "cpu":
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            return super().forward(input.to(self.weight.dtype))


def convolve_soundly(network: nn.Module) -> None:
    """Make all 3-D convolutions of a network such; its weights stay."""
    for module in network.modules():
        if type(module) is nn.Conv3d:
            module.__class__ = SoundConv3d
