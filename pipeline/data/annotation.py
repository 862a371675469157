"""Annotations: masks in one byte per voxel, with values for "outside the scan" and "not annotated".

0 is outside the scan, 1 inside but not annotated, ``2 + k`` class ``k``. So the zeros that padding and rotation bring
in mean "outside", and a scan without a mask has an annotation of ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.config import KeysCollection  # noqa: TC002 - MONAI resolves annotations of transforms
from monai.transforms import MapTransform
from scipy.ndimage import distance_transform_edt

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

IMAGE = "image"
ANNOTATION = "annotation"
OUTSIDE = 0
UNANNOTATED = 1
FIRST_CLASS = 2
# How many times longer a way may be through what it crosses: of 140 hearts 0.001 % lies behind their scribbles so.
DETOUR = 1.2


class Annotated(MapTransform):
    """Turn label values into an annotation, or make one of "not annotated" for a scan without a mask.

    Args:
        keys: Where the label map is, or will be.
        values: The dataset's label values, in the order of the classes.
        ignore: The label value of voxels that nobody has annotated.
    """

    def __init__(self, keys: KeysCollection, values: Sequence[int], ignore: int | None = None) -> None:
        super().__init__(keys, allow_missing_keys=True)
        codes = {value: FIRST_CLASS + k for k, value in enumerate(values)}
        if ignore is not None:
            codes[ignore] = UNANNOTATED
        self.values = torch.tensor(sorted(codes))
        self.codes = torch.tensor([codes[value] for value in sorted(codes)])

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Apply to a case or sample; other keys stay."""
        result = dict(data)
        for key in self.keys:
            if key in result:
                place = torch.searchsorted(self.values, result[key].as_tensor().round().long().contiguous())
                result[key] = self.codes[place].to(torch.uint8)
            else:
                result[key] = torch.full_like(result[IMAGE][:1].as_tensor(), UNANNOTATED, dtype=torch.uint8)
        return result


def annotated_classes(values: Sequence[int], annotated: Collection[int] | None) -> NDArray[np.bool_]:
    """Return which classes are annotated in a case, ``[classes]``; background is.

    Args:
        values: The dataset's label values, in the order of the classes.
        annotated: Those that are annotated in the case; None for all.

    >>> annotated_classes([0, 3, 7], [7]).tolist()
    [True, False, True]
    """
    return np.array([value == 0 or annotated is None or value in annotated for value in values])


def decode(annotation: Tensor) -> tuple[Tensor, Tensor]:
    """Return integer labels, -1 where nothing is annotated, and a mask of the scan's inside.

    >>> label, mask = decode(torch.tensor([0, 1, 2, 5], dtype=torch.uint8))
    >>> label.tolist(), mask.tolist()
    ([-1, -1, 0, 3], [False, True, True, True])
    """
    return (annotation.long() - FIRST_CLASS).clamp_(min=-1), annotation != OUTSIDE


def implied_background(annotation: NDArray[Any], spacing_mm: Sequence[float], beyond_mm: float) -> NDArray[Any]:
    """Make background of voxels that are not annotated, and far from every structure or behind a stroke of background.

    A stroke is annotated background with something that is not annotated halfway to its nearest structure; no voxel of
    a region that is annotated whole is of that kind. Behind a stroke is where the way to the nearest structure gets
    hardly longer through the stroke's nearest voxel: at most ``DETOUR`` times. Without structures nothing changes.

    Args:
        annotation: An annotation ``[1, X, Y, Z]``.
        spacing_mm: Voxel size along X, Y and Z.
        beyond_mm: Voxels farther than this from every structure count as background.
    """
    codes = annotation[0]
    if not (codes > FIRST_CLASS).any() or not (codes == UNANNOTATED).any():
        return annotation
    distance, structure = distance_transform_edt(codes <= FIRST_CLASS, spacing_mm, return_indices=True)
    implied = distance > beyond_mm
    drawn = np.nonzero(codes == FIRST_CLASS)
    halfway = (np.stack(drawn) + structure[:, *drawn]) // 2
    strokes = np.zeros(codes.shape, bool)
    strokes[drawn] = codes[tuple(halfway)] == UNANNOTATED
    if strokes.any():
        from_stroke, stroke = distance_transform_edt(~strokes, spacing_mm, return_indices=True)
        implied |= from_stroke + distance[tuple(stroke)] <= DETOUR * distance
    return np.where(implied & (annotation == UNANNOTATED), np.uint8(FIRST_CLASS), annotation)


def class_locations(annotation: NDArray[Any], classes: int, most: int = 2000) -> NDArray[np.int64]:
    """Return up to ``most`` voxels of each class, evenly spread, as flat indices ``[classes, most]``.

    Rows are filled up with -1; a class without a voxel has a row of -1.
    """
    flat = annotation.ravel()
    locations = np.full((classes, most), -1, dtype=np.int64)
    for k in range(classes):
        found = np.flatnonzero(flat == FIRST_CLASS + k)
        chosen = found[:: max(1, -(-len(found) // most))]
        locations[k, : len(chosen)] = chosen
    return locations
