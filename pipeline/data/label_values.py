"""Count the values of a mask, and find what is wrong with them as labels."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.bounds import MAX_LABEL
from pipeline.data.layouts.dataset import MAX_CLASSES
from pipeline.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.data.inspection import Declared
    from pipeline.nifti.volume import Scan

# Farther from an integer than this, a label is no rounding error.
ROUNDING = 1e-3
# A mask whose values nobody declared is compared with its scan once it has more of them.
MANY_LABELS = 16
# Counted at a time: codes of one chunk stay in the processor's cache.
CHUNK = 1 << 18


def count_labels(scan: Scan) -> tuple[dict[int, int], list[Problem]]:
    """Count the voxels of every value of a mask.

    Returns:
        The number of voxels by value, by rising value, and the problems; with a problem there are no counts.
    """
    where = str(scan.path)
    voxels = scan.voxels
    if scan.channels > 1:
        message = f"has {scan.channels} volumes"
        remedy = "save one volume of integer labels"
        return {}, [Problem(where, "label-channels", message, remedy)]
    low = voxels.min()
    high = voxels.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        remedy = "replace them by label values"
        return {}, [Problem(where, "label-not-finite", "has NaN or infinite labels", remedy)]
    if max(abs(float(low)), abs(float(high))) > MAX_LABEL:
        message = f"has the label {max((low, high), key=abs):g}"
        remedy = f"number the labels from 0 to {MAX_LABEL}"
        return {}, [Problem(where, "label-too-large", message, remedy)]
    if voxels.dtype.kind == "f":
        broken = _fraction_problems(where, voxels)
        if broken:
            return {}, broken
    return _histogram(voxels, int(low), int(high)), []


def _fraction_problems(where: str, voxels: NDArray[Any]) -> list[Problem]:
    away = np.abs(voxels - np.rint(voxels))
    if not away.any():
        return []
    message = f"has labels that are no integers, such as {voxels.flat[int(away.argmax())]:.6g}"
    if away.max() <= ROUNDING:
        return [Problem(where, "label-rounding", message, "use check --fix round-labels: by at most 0.001")]
    remedy = "save the mask with nearest-neighbour interpolation, as integers"
    return [Problem(where, "label-not-integer", message, remedy)]


def _histogram(voxels: NDArray[Any], low: int, high: int) -> dict[int, int]:
    flat = voxels.ravel(order="K")
    if high - low >= 1 << 16:
        values, counts = np.unique(flat, return_counts=True)
        return {int(value): int(count) for value, count in zip(values, counts, strict=True)}
    total = np.zeros(high - low + 1, np.int64)
    for start in range(0, flat.size, CHUNK):
        chunk = flat[start : start + CHUNK]
        marked = chunk[chunk != 0]  # Most of a mask is background, which need only be counted.
        total += np.bincount(marked.astype(np.intp) - low, minlength=len(total))
        if marked.size < chunk.size:
            total[-low] += chunk.size - marked.size
    return {low + int(place): int(total[place]) for place in np.flatnonzero(total)}


def label_problems(scan: Scan, counts: Mapping[int, int], declared: Declared, image: Scan | None) -> list[Problem]:
    """Find what is wrong with the values of a mask.

    Args:
        scan: The mask.
        counts: What :func:`count_labels` found.
        declared: What the dataset says of itself.
        image: The mask's scan, with which it may have been swapped; None where there is none.
    """
    where = str(scan.path)
    values = {value: count for value, count in counts.items() if value != declared.ignore}
    strange = {value: count for value, count in values.items() if value not in (declared.labels or values)}
    doubtful = strange if declared.labels is not None else len(values) > MANY_LABELS
    if doubtful and image is not None and _is_fewer_valued(image, len(values)):
        message = f"has {len(values)} different values, more than {image.path.name}: are they swapped?"
        return [Problem(where, "swapped", message, "name the scan as image and the mask as label")]
    if strange:
        listed = ", ".join(f"{value} ({count} voxels)" for value, count in list(strange.items())[:8])
        message = f"has label values outside {sorted(declared.labels or ())}: {listed}"
        return [
            Problem(
                where,
                "label-out-of-range",
                message,
                "correct the mask, or declare the values under labels, or one as ignore",
            )
        ]
    if len(values) > MAX_CLASSES:
        message = f"has {len(values)} different values"
        return [Problem(where, "label-too-many", message, "is this the scan instead of its mask?")]
    if min(values, default=0) < 0 and declared.labels is None:
        message = f"has the label {min(values)}"
        remedy = "use 0 for background and values above 0, or declare ignore"
        return [Problem(where, "label-negative", message, remedy)]
    if not any(values):
        return [Problem(where, "empty-mask", "has no foreground", "nothing, if there is nothing to see in the scan")]
    return []


def filling_value(masks: Sequence[Mapping[int, int]]) -> int | None:
    """Return the value that fills most of most masks, beside other labels: it may stand for what nobody annotated.

    Args:
        masks: The voxels of each value.

    Returns:
        The value; None if there is none, or it is 0.

    >>> filling_value([{0: 10, 1: 5, 4: 85}, {0: 30, 4: 70}])
    4
    """
    filled = Counter(value for found in masks for value in found if 2 * found[value] > sum(found.values()))
    value, count = max(filled.items(), key=lambda item: item[::-1], default=(0, 0))
    has_labels = any(found.keys() - {0, value} for found in masks)
    return value if value and 2 * count > len(masks) and has_labels else None


def _is_fewer_valued(image: Scan, values: int) -> bool:
    """Tell whether a scan has fewer different values than its mask, and few enough for a mask."""
    distinct = np.unique(image.voxels).size
    return distinct < values and distinct <= MAX_CLASSES
