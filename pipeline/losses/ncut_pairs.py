"""Sums over all pairs of near voxels, ``W q``: the window, the layout in memory, and the path that is taken.

Every path does the same arithmetic on the same layout, in a fixed order whatever the number of threads.
"""

from __future__ import annotations

import itertools
import math
import operator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

import torch

from pipeline.losses import ncut_llvm, ncut_triton

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

# Offsets in voxels, one of each pair of opposites, and minus the logarithm of the spatial weight.
Window: TypeAlias = tuple[tuple[tuple[int, ...], float], ...]
PairSums: TypeAlias = "Callable[[Tensor, Tensor, Window], Tensor]"

# A block of voxels that stays in the processor's cache while all offsets pass over it, and is long enough that what a
# call of an operator costs does not count.
BLOCK = 1 << 18

# Kernels compute this many voxels of a row at a time, and may write as far into a row's padding.
LANES = 16


# Rows in the piece of a plane that one thread takes at a time.
PIECE = 32


@lru_cache(maxsize=64)
def half_window(radius: float, sigma: float, size: tuple[int, ...], spacing: tuple[float, ...] | None = None) -> Window:
    """Return one of each pair of opposite offsets shorter than ``radius``, with ``|offset|^2 / sigma^2``.

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
    """Draw ``count`` offsets so that ``W q`` stays right on average: their weights grow as their number shrinks.

    The draw is systematic: one random number decides, and the offsets drawn lie evenly in the window. It comes from
    PyTorch's generator on the CPU, which training seeds at every step. (Drawing near offsets more often was no better.)
    """
    if count >= len(window):
        return window
    every = len(window) / count
    phase = float(torch.rand((), dtype=torch.float64))
    drawn = (window[int((n + phase) * every)] for n in range(count))
    return tuple((offset, cost - math.log(every)) for offset, cost in drawn)


@dataclass(frozen=True)
class Layout:
    """A batch as one row a channel, in which every offset of a window is one shift.

    Every axis is padded at its end by the reach of the window and the batch on both sides: a pair that leaves the scan
    on any side has one end in padding, where q is 0.

    Attributes:
        batch: The number of scans.
        size: Of a scan.
        padded: Of a scan with its padding.
        margin: Before the first voxel and behind the last.
    """

    batch: int
    size: tuple[int, ...]
    padded: tuple[int, ...]
    margin: int

    @classmethod
    def of(cls, q: Tensor, window: Window) -> Layout:
        """Return the layout for scans ``[B, K, ...]`` and a window."""
        batch, _, *size = q.shape
        reach = [max((abs(offset[axis]) for offset, _ in window), default=0) for axis in range(len(size))]
        padded = [n + r for n, r in zip(size, reach, strict=True)]
        padded[-1] = max(padded[-1], -(-size[-1] // LANES) * LANES)
        strides = _strides(padded)
        return cls(batch, tuple(size), tuple(padded), sum(map(operator.mul, reach, strides)) + LANES)

    @property
    def voxels(self) -> int:
        """Voxels between the margins, padding included."""
        return self.batch * math.prod(self.padded)

    @property
    def strides(self) -> tuple[int, ...]:
        """Steps in a row from a voxel to its neighbour along each axis."""
        return _strides(self.padded)

    def pack(self, *volumes: Tensor) -> Tensor:
        """Return the channels of ``[B, C, ...]`` volumes as rows, 0 in the padding."""
        channels = [volume.shape[1] for volume in volumes]
        rows = volumes[0].new_zeros(sum(channels), self.voxels + 2 * self.margin)
        for part, volume in zip(torch.split(rows, channels), volumes, strict=True):
            self.unpack(part).copy_(volume)
        return rows

    def unpack(self, rows: Tensor) -> Tensor:
        """Return the view ``[B, C, ...]`` of rows."""
        view = rows.narrow(1, self.margin, self.voxels).view(len(rows), self.batch, *self.padded)
        for axis, n in enumerate(self.size, start=2):
            view = view.narrow(axis, 0, n)
        return view.transpose(0, 1)

    def pieces(self) -> list[tuple[int, int]]:
        """Return the first voxel and the number of rows of each piece of work for a kernel."""
        *outer, height = self.size[:-1]
        origins = itertools.product(range(self.batch), *map(range, outer), range(0, height, PIECE))
        steps = (math.prod(self.padded), *self.strides[:-1])
        return [
            (self.margin + sum(map(operator.mul, origin, steps)), min(PIECE, height - origin[-1])) for origin in origins
        ]

    def shift(self, offset: tuple[int, ...]) -> int:
        """Return how far an offset leads in a row."""
        return sum(map(operator.mul, offset, self.strides))


@dataclass(frozen=True)
class PairTables:
    """All offsets of a window, for a kernel.

    Attributes:
        shifts: Steps in a row, int64.
        exponents: Of 2, float32: the spatial weights.
        planes: Where the offsets of each plane begin, and the number of all, int64.
    """

    shifts: Tensor
    exponents: Tensor
    planes: Tensor


def _strides(padded: list[int] | tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(padded[axis + 1 :]) for axis in range(len(padded)))


def choose_pair_sums(q: Tensor) -> PairSums:
    """Return the fastest path for a tensor's device and type; :func:`torch_pair_sums` serves all."""
    if q.dtype == torch.float32 and q.device.type == "cpu" and ncut_llvm.available():
        return llvm_pair_sums
    if q.dtype == torch.float32 and q.device.type == "cuda" and ncut_triton.available():
        return triton_pair_sums
    return torch_pair_sums


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
    layout = Layout.of(q, window)
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


def llvm_pair_sums(q: Tensor, features: Tensor, window: Window) -> Tensor:
    """Return ``W q`` as :func:`torch_pair_sums` does, in float32 on the CPU, by a kernel compiled in this process."""
    layout = Layout.of(q, window)
    tables = _tables(layout, window, q.device)
    rows = _pack_base_2(layout, q, features)
    sums = rows.new_empty(q.shape[1], rows.shape[1])
    ncut_llvm.run(rows, sums, tables, layout.pieces(), layout.strides[-2], layout.size[-1])
    return layout.unpack(sums)


def triton_pair_sums(q: Tensor, features: Tensor, window: Window) -> Tensor:
    """Return ``W q`` as :func:`torch_pair_sums` does, in float32 on a CUDA device, by a Triton kernel."""
    layout = Layout.of(q, window)
    tables = _tables(layout, window, q.device)
    rows = _pack_base_2(layout, q, features)
    sums = rows.new_empty(q.shape[1], rows.shape[1])
    ncut_triton.run(rows, sums, tables, layout.margin, layout.voxels)
    return layout.unpack(sums)


def _pack_base_2(layout: Layout, q: Tensor, features: Tensor) -> Tensor:
    """Pack q and the features, scaled so that ``2^-|difference|^2`` is the weight of intensities."""
    rows = layout.pack(q, features)
    rows[q.shape[1] :].mul_(math.sqrt(math.log2(math.e)))
    return rows


@lru_cache(maxsize=16)
def _tables(layout: Layout, window: Window, device: torch.device) -> PairTables:
    """Return all offsets of a window, both of each pair of opposites, as kernels read them."""
    offsets = sorted((tuple(s * o for o in offset), cost) for offset, cost in window for s in (1, -1))
    planes = [offset[:-2] for offset, _ in offsets]
    ends = [n for n in range(1, len(planes)) if planes[n] != planes[n - 1]]
    return PairTables(
        torch.tensor([layout.shift(offset) for offset, _ in offsets], device=device),
        torch.tensor([-cost * math.log2(math.e) for _, cost in offsets], dtype=torch.float32, device=device),
        torch.tensor([0, *ends, len(planes)], device=device),
    )
