"""Linear interpolation along the axes of a grid, one axis after the other and one plane at a time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


@dataclass(frozen=True)
class Samples:
    """Where samples lie between the voxels of an axis.

    Attributes:
        low: The voxel before each sample.
        high: The voxel after it; the same one where the sample is a voxel, or lies beyond the last one.
        weight: Share of the voxel after it.
        length: Voxels of the axis.
    """

    low: NDArray[np.int64]
    high: NDArray[np.int64]
    weight: NDArray[np.float64]
    length: int

    @cached_property
    def are_voxels(self) -> bool:
        """Whether nothing lies between two voxels, so that samples are merely picked."""
        return not self.weight.any()

    @cached_property
    def are_all(self) -> bool:
        """Whether the samples are the axis as it is."""
        return self.are_voxels and np.array_equal(self.low, np.arange(self.length))


def samples(count: int, step: float, length: int, backwards: bool = False) -> Samples:
    """Return the samples at every multiple of a step.

    >>> found = samples(4, 0.5, 2)
    >>> found.low, found.high, found.weight
    (array([0, 0, 1, 1]), array([0, 1, 1, 1]), array([0. , 0.5, 0. , 0. ]))

    Args:
        count: How many there are.
        step: Voxels from one to the next; what lies beyond the last voxel is taken to be there.
        length: Voxels of the axis.
        backwards: Whether the last sample comes first.
    """
    places = np.minimum(np.arange(count) * step, length - 1)
    # A multiple of a step that is not a binary fraction misses a voxel by its last bits.
    near = np.rint(places)
    places = np.where(np.abs(places - near) < 1e-9, near, places)[:: -1 if backwards else 1]
    low = np.floor(places).astype(np.int64)
    weight = places - low
    return Samples(low, low + (weight > 0), weight, length)


def along(planes: Tensor, axis: int, found: Samples) -> Tensor:
    """Interpolate along one axis."""
    if found.are_all:
        return planes
    low = _taken(planes, axis, found.low)
    if found.are_voxels:
        return low
    shape = [1] * planes.ndim
    shape[axis] = -1
    weight = torch.as_tensor(found.weight, dtype=planes.dtype, device=planes.device).view(shape)
    return low.lerp_(_taken(planes, axis, found.high), weight)


def _taken(planes: Tensor, axis: int, places: NDArray[np.int64]) -> Tensor:
    if planes.device.type == "cpu":  # NumPy takes single numbers ten times faster.
        return torch.from_numpy(np.take(planes.numpy(), places, axis=axis))
    return planes.index_select(axis, torch.as_tensor(places, device=planes.device))


def in_plane(planes: Tensor, rows: Samples, columns: Samples) -> Tensor:
    """Interpolate ``[…, A, B]`` along both its last axes; first along the one that makes it smaller, or less large."""
    first = (planes.ndim - 2, rows)
    second = (planes.ndim - 1, columns)
    if len(rows.low) * columns.length > len(columns.low) * rows.length:
        first, second = second, first
    return along(along(planes, *first), *second)
