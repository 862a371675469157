"""The memory layout of the pairwise N-cut: a batch as rows, in which every offset of the window is one shift."""

from __future__ import annotations

import itertools
import math
import operator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

import torch

if TYPE_CHECKING:
    from torch import Tensor


# Offsets in voxels, one of each pair of opposites, and minus the logarithm of the spatial weight.
Window: TypeAlias = tuple[tuple[tuple[int, ...], float], ...]

# Kernels compute this many voxels of a row at a time, and may write as far into a row's padding.
LANES = 16


# Rows in the piece of a plane that one thread takes at a time.
PIECE = 32


@dataclass(frozen=True)
class PairLayout:
    """A batch as one row for each channel, in which every offset of a window is one shift.

    Each axis of a scan is padded at its end by the reach of the window, and each row at both ends. So a pair that
    leaves the scan on any side has one end in the padding, where q is 0.

    Attributes:
        batch: The number of scans.
        size: Voxels of a scan along each axis.
        padded: The same with the padding.
        margin: Numbers before the first voxel of a row and behind the last.
    """

    batch: int
    size: tuple[int, ...]
    padded: tuple[int, ...]
    margin: int

    @classmethod
    def of(cls, q: Tensor, window: Window) -> PairLayout:
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
        """Return the channels of volumes ``[B, C, ...]`` as rows ``[channels, length]``, 0 in the padding."""
        channels = [volume.shape[1] for volume in volumes]
        rows = volumes[0].new_zeros(sum(channels), self.voxels + 2 * self.margin)
        for part, volume in zip(torch.split(rows, channels), volumes, strict=True):
            self.unpack(part).copy_(volume)
        return rows

    def unpack(self, rows: Tensor) -> Tensor:
        """Return rows ``[C, length]`` as a view ``[B, C, ...]`` without the padding."""
        view = rows.narrow(1, self.margin, self.voxels).view(len(rows), self.batch, *self.padded)
        for axis, n in enumerate(self.size, start=2):
            view = view.narrow(axis, 0, n)
        return view.transpose(0, 1)

    def pieces(self) -> list[tuple[int, int]]:
        """Return the pieces of work for a kernel: each the position of its first voxel, and its number of lines."""
        *outer, height = self.size[:-1]
        origins = itertools.product(range(self.batch), *map(range, outer), range(0, height, PIECE))
        steps = (math.prod(self.padded), *self.strides[:-1])
        return [
            (self.margin + sum(map(operator.mul, origin, steps)), min(PIECE, height - origin[-1])) for origin in origins
        ]

    def shift(self, offset: tuple[int, ...]) -> int:
        """Return the distance in a row, in numbers, that an offset in voxels is."""
        return sum(map(operator.mul, offset, self.strides))


@dataclass(frozen=True)
class PairTables:
    """All offsets of a window, in the form that kernels read.

    Attributes:
        shifts: The shift in a row of each offset, ``[N]`` int64.
        exponents: The logarithm to base 2 of each offset's spatial weight, ``[N]`` float32.
        planes: The first offset of each plane of the window, and N at the end, int64.
    """

    shifts: Tensor
    exponents: Tensor
    planes: Tensor


def _strides(padded: list[int] | tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(padded[axis + 1 :]) for axis in range(len(padded)))


def pack_base_2(layout: PairLayout, q: Tensor, features: Tensor) -> Tensor:
    """Pack q and the features, scaled so that ``2^-|difference|^2`` is the weight of intensities."""
    rows = layout.pack(q, features)
    rows[q.shape[1] :].mul_(math.sqrt(math.log2(math.e)))
    return rows


@lru_cache(maxsize=16)
def pair_tables(layout: PairLayout, window: Window, device: torch.device) -> PairTables:
    """Return all offsets of a window, both of each pair of opposites, as kernels read them."""
    offsets = sorted((tuple(s * o for o in offset), cost) for offset, cost in window for s in (1, -1))
    planes = [offset[:-2] for offset, _ in offsets]
    ends = [n for n in range(1, len(planes)) if planes[n] != planes[n - 1]]
    return PairTables(
        torch.tensor([layout.shift(offset) for offset, _ in offsets], device=device),
        torch.tensor([-cost * math.log2(math.e) for _, cost in offsets], dtype=torch.float32, device=device),
        torch.tensor([0, *ends, len(planes)], device=device),
    )
