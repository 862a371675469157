"""Measure how much of each structure of a mask is one piece."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cc3d
import numpy as np
from scipy.ndimage import find_objects

if TYPE_CHECKING:
    from numpy.typing import NDArray


def largest_pieces(labels: NDArray[Any], ignore: int | None = None) -> dict[int, float]:
    """Return for each label above 0 the share of its voxels that its largest connected component has.

    Under 0 is that of all labels together. Neighbours are the 26 voxels around a voxel; 8 in 2-D.

    Args:
        labels: ``[X, Y, Z]``, whole numbers.
        ignore: The value of voxels that nobody has annotated; a mask with such voxels says nothing of pieces.

    Returns:
        The shares, above 0 and up to 1, by rising label; empty for a mask without labels or with ignored voxels.

    >>> largest_pieces(np.array([[[1, 1, 1, 0, 1, 2]]]))
    {0: 0.6, 1: 0.75, 2: 1.0}
    """
    if ignore is not None and (labels == ignore).any():
        return {}
    boxes = find_objects((labels > 0).astype(np.uint8))
    if not boxes:
        return {}
    # The border is for cc3d (4.1.1), which reserves too few components for a single line of voxels and stops.
    structures = np.pad(np.where(labels[boxes[0]] > 0, labels[boxes[0]], 0), 1)
    components = cc3d.connected_components(structures, connectivity=26)
    sizes = np.bincount(components.ravel())[1:]
    label_of = np.zeros(len(sizes) + 1, structures.dtype)
    label_of[components] = structures
    found = {0: _largest_share(np.bincount(cc3d.connected_components(structures > 0, connectivity=26).ravel())[1:])}
    for value in np.unique(label_of[1:]):
        found[int(value)] = _largest_share(sizes[label_of[1:] == value])
    return found


def _largest_share(sizes: NDArray[Any]) -> float:
    return float(sizes.max() / sizes.sum())
