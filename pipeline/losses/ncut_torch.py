"""The pair sums of N-cut in plain PyTorch, on any device and in any type."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from pipeline.losses.ncut_layout import PairLayout

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.losses.ncut_layout import Window


# Numbers in a block: few enough to stay in the processor's cache while all offsets are processed, and enough that the
# cost of calling an operator does not matter.
BLOCK = 1 << 18


def torch_pair_sums(q: Tensor, features: Tensor, window: Window) -> Tensor:
    """Return ``W q`` in plain PyTorch, on any device and in any type.

    One array of weights serves all channels of q and, W being symmetric, both directions of an offset.

    Args:
        q: ``[B, K, ...]``, zero outside the mask.
        features: Image over sigma ``[B, C, ...]``, finite everywhere.
        window: Half the offsets.

    Returns:
        ``[B, K, ...]``, a view of a padded array that the caller may change.
    """
    layout = PairLayout.of(q, window)
    rows = layout.pack(q, features)
    q, features = rows[: q.shape[1]], rows[q.shape[1] :]
    sums = q.clone()  # a voxel and itself: weight 1
    end = layout.margin + layout.voxels
    block = min(BLOCK, layout.voxels) if q.device.type == "cpu" else layout.voxels
    exponents = q.new_empty(block)
    differences = q.new_empty(block)
    zero = q.new_zeros(1)
    shifts = [(layout.shift(offset), math.exp(-cost)) for offset, cost in window]
    for start in range(layout.margin, end, block):
        stop = min(start + block, end)
        w = exponents[: stop - start]
        difference = differences[: stop - start]
        for shift, weight in shifts:
            here = slice(start, stop)
            there = slice(start + shift, stop + shift)
            for channel, row in enumerate(features):
                torch.sub(row[here], row[there], out=difference)
                torch.addcmul(w if channel else zero, difference, difference, value=-1, out=w)
            # Weights below exp(-60) change nothing, but exp is many times slower where results are denormal.
            w.clamp_(min=-60).exp_()
            sums[:, here].addcmul_(q[:, there], w, value=weight)
            sums[:, there].addcmul_(q[:, here], w, value=weight)
    return layout.unpack(sums)
