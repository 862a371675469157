"""Choose what a network sees at once, and how it halves that on its way down."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# A side is halved while its half has at least this many voxels: fewer say nothing about where they are.
SMALLEST = 4
# A U-Net has three levels at least, if need be without shrinking anything.
LEAST_STEPS = 2
# Axes whose voxels differ by less are treated alike: halving the finer one makes them no more alike.
ALIKE = 2


def granularity(side: int) -> int:
    """Return what a side of that length is a multiple of, so that it can be halved as often as its length is worth.

    >>> [granularity(side) for side in (20, 40, 112, 200)]
    [4, 8, 16, 32]
    """
    if side < 32:
        return 4
    if side <= 96:
        return 8
    return 16 if side <= 160 else 32


def choose_patch(
    shape: Sequence[int], limit: int, spacing_mm: Sequence[float] = (), divisors: Sequence[int] = ()
) -> tuple[int, ...]:
    """Return the median shape, rounded up, the longest side in mm shortened until it has at most ``limit`` voxels.

    So a patch sees a whole scan where it can, and otherwise equally far along each axis.

    Args:
        shape: Of the median scan on the target grid.
        limit: The most voxels.
        spacing_mm: Voxel size along the same axes; by default 1 along each.
        divisors: What a network asks each side to be a multiple of; by default what :func:`granularity` says.

    >>> choose_patch((36, 50, 35), 64**3)
    (40, 56, 40)
    >>> choose_patch((240, 240, 155), 64**3)
    (64, 64, 64)
    >>> choose_patch((512, 512, 24), 64**3, (0.5, 0.5, 5))
    (144, 144, 12)
    """
    spacing = spacing_mm or (1.0,) * len(shape)

    def step(axis: int, side: int) -> int:
        return divisors[axis] if divisors else granularity(side)

    patch = [math.ceil(side / step(axis, side)) * step(axis, side) for axis, side in enumerate(shape)]
    while math.prod(patch) > limit:
        able = [axis for axis, side in enumerate(patch) if side > step(axis, side)]
        if not able:
            break
        longest = max(able, key=lambda axis: (patch[axis] * spacing[axis], patch[axis]))
        patch[longest] -= step(longest, patch[longest])
    return tuple(patch)


def choose_strides(
    patch: Sequence[int], spacing_mm: Sequence[float], levels: int | None = None
) -> tuple[tuple[int, ...], ...]:
    """Return how each step down shrinks each axis: by 2, or by 1 where voxels are long already or hardly any are left.

    The finest axes are halved first, until all voxels are about as long as wide (nnU-Net's rule).

    Args:
        patch: Voxels along each axis.
        spacing_mm: Their size.
        levels: The number of levels, one more than steps, where it is given; by default as many as the patch is worth.

    >>> choose_strides((64, 64, 16), (0.5, 0.5, 5.0))
    ((2, 2, 1), (2, 2, 1), (2, 2, 1), (2, 2, 2), (1, 1, 2))
    >>> choose_strides((40, 56, 40), (1.0, 1.0, 1.0))
    ((2, 2, 2), (2, 2, 2), (2, 2, 2))
    """
    sides = list(patch)
    spacing = list(spacing_mm)
    strides: list[tuple[int, ...]] = []
    while levels is None or len(strides) < levels - 1:
        able = [axis for axis, side in enumerate(sides) if side % 2 == 0 and side >= 2 * SMALLEST]
        finest = min((spacing[axis] for axis in able), default=0.0)
        step = tuple(2 if axis in able and spacing[axis] < ALIKE * finest else 1 for axis in range(len(sides)))
        if levels is None and not able and len(strides) >= LEAST_STEPS:
            break
        strides.append(step)
        sides = [side // factor for side, factor in zip(sides, step, strict=True)]
        spacing = [size * factor for size, factor in zip(spacing, step, strict=True)]
    return tuple(strides)


def choose_kernels(spacing_mm: Sequence[float], strides: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """Return the kernel of each level: 3 voxels wide, and 1 along axes whose voxels are still far longer than others.

    >>> choose_kernels((0.5, 0.5, 5.0), ((2, 2, 1), (2, 2, 1), (2, 2, 1), (2, 2, 2)))
    ((3, 3, 1), (3, 3, 1), (3, 3, 1), (3, 3, 3), (3, 3, 3))
    """
    spacing = list(spacing_mm)
    kernels: list[tuple[int, ...]] = []
    for step in ((1,) * len(spacing), *strides):
        spacing = [size * factor for size, factor in zip(spacing, step, strict=True)]
        wide = [size < ALIKE * min(spacing) for size in spacing]
        before = kernels[-1] if kernels else (1,) * len(spacing)
        kernels.append(tuple(3 if now or was == 3 else 1 for now, was in zip(wide, before, strict=True)))
    return tuple(kernels)


def choose_channels(levels: int, first: int, most: int) -> tuple[int, ...]:
    """Return the features of each level: twice as many at each, up to ``most``.

    >>> choose_channels(6, 32, 320)
    (32, 64, 128, 256, 320, 320)
    """
    return tuple(min(most, first * 2**level) for level in range(levels))
