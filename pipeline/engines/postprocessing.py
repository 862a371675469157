"""Mend label maps by what is known of the shape of a structure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy.ndimage import binary_fill_holes

from pipeline.metrics.lesions import connected_components

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Mending:
    """One change that is made to one label.

    Attributes:
        label: The label's value.
        what: ``fill`` makes background that the label encloses part of it; ``largest`` keeps its largest connected
            component (26 neighbours; 8 in 2-D), and of equal ones the first; ``minimum`` drops components under
            ``least_ml``. What is dropped becomes background.
        least_ml: A volume, for ``minimum``.
    """

    label: int
    what: Literal["fill", "largest", "minimum"]
    least_ml: float = 0.0

    def __str__(self) -> str:
        return {
            "fill": "holes filled",
            "largest": "the largest component kept",
            "minimum": f"components under {self.least_ml:.3g} ml dropped",
        }[self.what]


def mend(labels: NDArray[Any], voxel_ml: float, mendings: Sequence[Mending]) -> NDArray[Any]:
    """Return a label map after some changes, one after the other.

    Args:
        labels: ``[X, Y, Z]``, background 0. Another label is never overwritten.
        voxel_ml: Volume of a voxel.
        mendings: The changes. A label that is not there stays so.

    >>> mend(np.array([[[1, 1, 0, 2, 0, 1]]]), 0.001, [Mending(1, "largest")])
    array([[[1, 1, 0, 2, 0, 0]]])
    """
    mended = labels.copy()
    flat = tuple(axis for axis, length in enumerate(labels.shape) if length == 1)
    for mending in mendings:
        # Nothing beyond a label's own box can change: what it encloses lies in it too.
        box = mended[_box_of(mended == mending.label)]
        if not box.size:
            continue
        before = box == mending.label
        after = _filled(before, flat) if mending.what == "fill" else _selected(before, voxel_ml, mending)
        box[before & ~after] = 0
        box[after & (box == 0)] = mending.label
    return mended


def voxel_ml(spacing_mm: Sequence[float]) -> float:
    """Return the volume of a voxel in ml."""
    return math.prod(spacing_mm) / 1000


def component_sizes(mask: Mask) -> NDArray[np.integer[Any]]:
    """Return the voxels of each connected component (26 neighbours; 8 in 2-D)."""
    return np.bincount(connected_components(mask)[mask])[1:]


def _selected(mask: Mask, voxel_ml: float, mending: Mending) -> Mask:
    components = connected_components(mask)
    sizes = np.bincount(components[mask])
    if not sizes.size:
        return mask
    is_largest = np.arange(len(sizes)) == sizes.argmax()
    is_large = sizes * voxel_ml >= mending.least_ml
    keep = (is_largest if mending.what == "largest" else is_large) & (sizes > 0)
    selected: Mask = keep[components]
    return selected


def _filled(mask: Mask, flat: tuple[int, ...]) -> Mask:
    # In a single slice everything touches the border of the volume.
    filled: Mask = binary_fill_holes(mask.squeeze(axis=flat)).reshape(mask.shape)
    return filled


def _box_of(mask: Mask) -> tuple[slice, ...]:
    """Return the smallest box around a mask, empty where it is."""
    box = []
    for axis in range(mask.ndim):
        found = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        box.append(slice(int(found[0]), int(found[-1]) + 1) if found.size else slice(0, 0))
    return tuple(box)
