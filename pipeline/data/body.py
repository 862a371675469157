"""The box of the body: a scan without the constant that is outside, such as the black around a stripped brain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from monai.config import KeysCollection  # noqa: TC002 - MONAI resolves annotations of transforms
from monai.transforms import MapTransform, SpatialCrop, Transform

from pipeline.data.annotation import ANNOTATION, IMAGE
from pipeline.data.normalization import equals, find_outside

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    Box = tuple[slice, slice, slice]

BODY = "body"


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


class FoundBody(Transform):
    """Add the box of the body to a case with its scan and, where there is one, its mask, ``[C, X, Y, Z]``.

    Args:
        least: As many voxels along each axis are in it, where the scan has them.
        ignore: The label of voxels that nobody has annotated.
    """

    def __init__(self, least: Sequence[int], ignore: int | None = None) -> None:
        self.least = tuple(least)
        self.ignore = ignore

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the case with its box as ``body``."""
        image = data[IMAGE].numpy()
        mask = data[ANNOTATION][0].round().numpy() if ANNOTATION in data else None
        return {**data, BODY: grown(body_box(image, mask, self.ignore), image.shape[1:], self.least)}


class CroppedToBody(MapTransform):
    """Crop a case to the box that was found. What is normalised comes before: it looks at the scan as predictions do.

    Args:
        keys: What is cropped.
    """

    def __init__(self, keys: KeysCollection) -> None:
        super().__init__(keys, allow_missing_keys=True)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the case, cropped, without the box."""
        result = dict(data)
        crop = SpatialCrop(roi_slices=result.pop(BODY))
        for key in self.key_iterator(result):
            result[key] = crop(result[key])
        return result
