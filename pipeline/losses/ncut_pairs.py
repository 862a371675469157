"""Sums over all pairs of near voxels, ``W q``: the window, and which of three kernels computes them.

All kernels do the same arithmetic on the same layout, in a fixed order whatever the number of threads.
"""

from __future__ import annotations

import itertools
import math
import operator
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

import torch

from pipeline.losses import ncut_llvm, ncut_triton
from pipeline.losses.ncut_llvm import llvm_pair_sums
from pipeline.losses.ncut_torch import torch_pair_sums
from pipeline.losses.ncut_triton import triton_pair_sums

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from pipeline.losses.ncut_layout import Window

PairSums: TypeAlias = "Callable[[Tensor, Tensor, Window], Tensor]"


@lru_cache(maxsize=64)
def half_window(radius: float, sigma: float, size: tuple[int, ...], spacing: tuple[float, ...] | None = None) -> Window:
    """Return one of each pair of opposite offsets shorter than ``radius``, each with ``|offset|^2 / sigma^2``.

    Args:
        radius: In mm with ``spacing``, in voxels without.
        sigma: In the same unit.
        size: Of the scan, in voxels: longer offsets join nothing.
        spacing: Size of a voxel along each axis, in mm.

    >>> half_window(1.5, 1.0, (8, 1))
    (((1, 0), 1.0),)
    >>> [offset for offset, _ in half_window(1.5, 1.0, (8, 8))]
    [(0, 1), (1, -1), (1, 0), (1, 1)]
    >>> half_window(1.5, 1.0, (8, 8), (3.0, 1.0))
    (((0, 1), 1.0),)
    """
    steps = spacing or (1.0,) * len(size)
    # Rounding must not let in a distance that equals the radius, such as 3 x 0.3 mm for 0.9 mm.
    limit = radius * (1 - 1e-9)
    reach = [min(int(limit / step), n - 1) for step, n in zip(steps, size, strict=True)]
    window = []
    for offset in itertools.product(*(range(-r, r + 1) for r in reach)):
        length = math.hypot(*map(operator.mul, offset, steps))
        if offset > (0,) * len(size) and length < limit:
            window.append((offset, length**2 / sigma**2))
    return tuple(window)


def draw_offsets(window: Window, count: int) -> Window:
    """Draw ``count`` offsets, with weights increased so that ``W q`` stays right on average.

    The draw is systematic: from one random number follow offsets at equal distances in the window. The number comes
    from PyTorch's generator on the CPU, which a training seeds at every step. (Drawing near offsets more often was no
    better.)
    """
    if count >= len(window):
        return window
    every = len(window) / count
    phase = float(torch.rand((), dtype=torch.float64))
    drawn = (window[int((n + phase) * every)] for n in range(count))
    return tuple((offset, cost - math.log(every)) for offset, cost in drawn)


def choose_pair_sums(q: Tensor) -> PairSums:
    """Return the fastest kernel for a tensor's device and type; :func:`torch_pair_sums` works for all."""
    if q.dtype == torch.float32 and q.device.type == "cpu" and ncut_llvm.available():
        return llvm_pair_sums
    if q.dtype == torch.float32 and q.device.type == "cuda" and ncut_triton.available():
        return triton_pair_sums
    return torch_pair_sums
