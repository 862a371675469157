"""Sliding windows: where they begin, in which order they are looked at, and what a voxel's place in one weighs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING

import torch
from monai.data.utils import compute_importance_map

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    Triple = tuple[int, int, int]
    Values = tuple[float, ...]


@dataclass(frozen=True)
class Windows:
    """The windows of an image; a slice is a window of one plane.

    Attributes:
        patch: Voxels of a window along each axis; 1 along the third where the network is one of slices.
        shape: Of the image, which is enlarged to a window where it is smaller.
        starts: Where windows begin along each axis of the enlarged image.
        slab: The axis along which they are ordered.
    """

    patch: Triple
    shape: Triple
    starts: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    slab: int

    @cached_property
    def padded(self) -> Triple:
        """Voxels of the enlarged image."""
        x, y, z = map(max, self.shape, self.patch)
        return x, y, z

    @cached_property
    def margin(self) -> Triple:
        """How many voxels the image is enlarged by before its first one."""
        x, y, z = ((whole - own) // 2 for whole, own in zip(self.padded, self.shape, strict=True))
        return x, y, z

    @property
    def across(self) -> tuple[int, int]:
        """The two other axes."""
        first, second = (axis for axis in range(3) if axis != self.slab)
        return first, second

    @property
    def plane(self) -> tuple[int, int]:
        """Voxels of a plane of the enlarged image."""
        return self.padded[self.across[0]], self.padded[self.across[1]]

    def __len__(self) -> int:
        return len(self.starts[0]) * len(self.starts[1]) * len(self.starts[2])

    def places(self) -> list[Triple]:
        """Return where each window begins: along the slab axis first, then in the order of the axes."""
        order = (self.slab, *self.across)
        places = product(*(self.starts[axis] for axis in order))
        return [(place[order.index(0)], place[order.index(1)], place[order.index(2)]) for place in places]

    def call(self, places: Sequence[Triple]) -> list[Triple]:
        """Return the first of some places whose windows can go through the network together.

        They begin at one plane, so that all are added before a plane is done; those of a single plane may follow later.
        """
        first = places[0][self.slab]
        return [place for place in places if place[self.slab] == first or self.patch[self.slab] == 1]

    def cut(self, image: Tensor, places: Sequence[Triple]) -> Tensor:
        """Return windows ``[N, C, …]`` of an image ``[C, X, Y, Z]``; beyond it lies 0."""
        windows = image.new_zeros((len(places), len(image), *self.patch))
        for window, place in zip(windows, places, strict=True):
            ways = zip(place, self.margin, self.patch, self.shape, strict=True)
            spans = [(start - before, start - before + side, length) for start, before, side, length in ways]
            inside = tuple(slice(max(0, -low), min(high, length) - low) for low, high, length in spans)
            there = tuple(slice(max(0, low), min(high, length)) for low, high, length in spans)
            window[(slice(None), *inside)] = image[(slice(None), *there)]
        return windows


def value_of(window: Tensor) -> Values | None:
    """Return the value that a window ``[C, …]`` has in all voxels of each channel; None where they differ.

    >>> value_of(torch.zeros(1, 2, 2)), value_of(torch.arange(4.0)[None])
    ((0.0,), None)
    """
    first = window.flatten(1)[:, 0]
    same = (window.flatten(1) == first[:, None]).all()
    return tuple(first.tolist()) if same else None


def lay_windows(shape: Triple, patch: Sequence[int], overlap: float, slab: int | None = None) -> Windows:
    """Lay windows over an image where MONAI's ``sliding_window_inference`` lays them.

    Args:
        shape: Of the image.
        patch: Three sides, or two for a network of slices.
        overlap: Share of a window that its neighbour covers again, in [0, 1).
        slab: The axis that they are ordered along; by default the one along which the windows of one place hold the
            smallest part of the image, which depends on nothing but the shapes.
    """
    x, y, z = (*patch, 1)[:3]
    shares = (overlap, overlap, overlap if len(patch) == 3 else 0.0)
    starts = [_starts(*axis) for axis in zip(shape, (x, y, z), shares, strict=True)]
    if slab is None:
        parts = [side / max(length, side) for length, side in zip(shape, (x, y, z), strict=True)]
        slab = parts.index(min(parts))
    return Windows((x, y, z), shape, (starts[0], starts[1], starts[2]), slab)


def _starts(length: int, side: int, overlap: float) -> tuple[int, ...]:
    """Return where windows begin along an axis: the last one ends with the image.

    >>> _starts(100, 40, 0.5)
    (0, 20, 40, 60)
    """
    last = max(length - side, 0)
    step = max(1, int(side * (1 - overlap))) if length > side else max(1, side)
    count = -(-last // step) + 1
    return tuple(min(number * step, last) for number in range(count))


def importance(windows: Windows, dimensions: int) -> Tensor:
    """Return what each place in a window weighs, ``[patch]``: a Gaussian that MONAI keeps from falling to nothing."""
    weights: Tensor = compute_importance_map(windows.patch[:dimensions], mode="gaussian", dtype=torch.float32)
    return weights.reshape(windows.patch)
