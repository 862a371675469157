"""The box of the body: a scan without the constant that is outside, such as the black around a stripped brain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.data.outside import equals, find_outside

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    Box = tuple[slice, slice, slice]


def body_box(channels: Iterable[NDArray[Any]], mask: NDArray[Any] | None = None, ignore: int | None = None) -> Box:
    """Return the smallest box that holds the body in every channel, and all that a mask marks.

    Outside the body is the constant that :func:`find_outside` finds, or else 0. A scan without anything else has the
    box of all of it.

    Args:
        channels: Each ``[X, Y, Z]``, finite.
        mask: Labels of the same shape, 0 for background.
        ignore: The label of voxels that nobody has annotated, which marks nothing.

    >>> import numpy as np
    >>> body_box([np.pad(np.ones((2, 3, 1)), ((1, 0), (2, 2), (0, 0)))])
    (slice(1, 3, None), slice(2, 5, None), slice(0, 1, None))
    """
    volumes = [(channel, *find_outside(channel)) for channel in channels]

    def is_empty(plane: tuple[Any, ...]) -> bool:
        if not all(equals(voxels[plane], *outside).all() for voxels, *outside in volumes):
            return False
        return mask is None or not ((mask[plane] != 0) & (mask[plane] != ignore)).any()

    box = [slice(0, size) for size in volumes[0][0].shape]
    for axis in (2, 1, 0):  # Slices first, which are whole in the memory of most files; then within what is left.
        box[axis] = _trimmed(box, axis, is_empty)
    x, y, z = box
    return x, y, z


def _trimmed(box: Sequence[slice], axis: int, is_empty: Callable[[tuple[Any, ...]], bool]) -> slice:
    """Return the side of a box along an axis without its empty planes at either end; all of it if all are empty."""
    planes = range(box[axis].start, box[axis].stop)

    def shows(n: int) -> bool:
        return not is_empty((*box[:axis], n, *box[axis + 1 :]))

    first = next(filter(shows, planes), None)
    return box[axis] if first is None else slice(first, next(filter(shows, reversed(planes))) + 1)


def grown(box: Box, shape: Sequence[int], least: Sequence[int]) -> Box:
    """Return a box of at least so many voxels along each axis, as far as the scan has them.

    >>> grown((slice(4, 6), slice(0, 2), slice(3, 4)), (9, 9, 4), (4, 4, 9))
    (slice(3, 7, None), slice(0, 4, None), slice(0, 4, None))
    """
    x, y, z = (_widened(*sides) for sides in zip(box, shape, least, strict=True))
    return x, y, z


def _widened(side: slice, length: int, least: int) -> slice:
    size = min(length, max(least, side.stop - side.start))
    first = min(max(0, side.start - (size - (side.stop - side.start)) // 2), length - size)
    return slice(first, first + size)
