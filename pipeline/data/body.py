"""The box of the body: a scan without the constant that is outside, such as the black around a stripped brain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from monai.config import KeysCollection  # noqa: TC002 - MONAI resolves annotations of transforms
from monai.transforms import MapTransform, SpatialCrop

from pipeline.data.annotation import ANNOTATION, IMAGE
from pipeline.data.normalization import find_outside

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

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

    >>> body_box([np.pad(np.ones((2, 3, 1)), ((1, 0), (2, 2), (0, 0)))])
    (slice(1, 3, None), slice(2, 5, None), slice(0, 1, None))
    """
    volumes = [(channel, *find_outside(channel)) for channel in channels]

    def is_empty(place: tuple[Any, ...]) -> bool:
        shows = any((np.abs(voxels[place] - outside) > rounding).any() for voxels, outside, rounding in volumes)
        return not shows and (mask is None or not ((mask[place] != 0) & (mask[place] != ignore)).any())

    shape = volumes[0][0].shape
    x, y, z = (_trimmed(shape, axis, is_empty) for axis in range(3))
    return x, y, z


def _trimmed(shape: Sequence[int], axis: int, is_empty: Callable[[tuple[Any, ...]], bool]) -> slice:
    """Return the range of planes along an axis without the empty ones at either end, which alone are looked at."""
    planes = range(shape[axis])
    before = (slice(None),) * axis
    first = next((n for n in planes if not is_empty((*before, n))), None)
    if first is None:
        return slice(0, shape[axis])
    last = next(n for n in reversed(planes) if not is_empty((*before, n)))
    return slice(first, last + 1)


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


class CroppedToBody(MapTransform):
    """Crop the scan and the mask of a case to the box of the body.

    Args:
        keys: What is cropped.
        least: As many voxels along each axis are left, where the scan has them.
        ignore: The label of voxels that nobody has annotated.
    """

    def __init__(self, keys: KeysCollection, least: Sequence[int], ignore: int | None = None) -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.least = tuple(least)
        self.ignore = ignore

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Apply to a case with its scan and, where there is one, its mask, ``[C, X, Y, Z]``."""
        result = dict(data)
        image = result[IMAGE].numpy()
        mask = result[ANNOTATION][0].round().numpy() if ANNOTATION in result else None
        crop = SpatialCrop(roi_slices=grown(body_box(image, mask, self.ignore), image.shape[1:], self.least))
        for key in self.key_iterator(result):
            result[key] = crop(result[key])
        return result
