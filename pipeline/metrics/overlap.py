"""Count the voxels of each class that two label maps share, and compute the metrics that follow from the counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from pipeline.types import Outcome

    Labels: TypeAlias = NDArray[np.integer[Any] | np.bool_]
    Codes: TypeAlias = NDArray[np.unsignedinteger[Any]]
    Counts: TypeAlias = NDArray[np.int64]

# Voxels processed at a time: enough that the loop costs nothing, few enough that copies stay small.
CHUNK = 1 << 20
# Values below this are looked up in a table, others are searched for.
TABLE = 1 << 16


@dataclass(frozen=True, slots=True)
class Overlap:
    """Voxels of one class in the truth, in the prediction, and in both.

    Metrics are None if the class is in neither map; if it is in one alone they have their worst value.

    >>> overlap = Overlap(truth=3, predicted=2, both=2)
    >>> overlap.dice, overlap.precision, overlap.recall
    (0.8, 1.0, 0.6666666666666666)
    """

    truth: int
    predicted: int
    both: int

    @property
    def outcome(self) -> Outcome:
        """In which of the two maps the class is."""
        if self.truth:
            return "scored" if self.predicted else "missed"
        return "false_positive" if self.predicted else "absent"

    @property
    def dice(self) -> float | None:
        """``2 |A & B| / (|A| + |B|)``."""
        return self._share(2 * self.both, self.truth + self.predicted)

    @property
    def iou(self) -> float | None:
        """``|A & B| / |A | B|``."""
        return self._share(self.both, self.truth + self.predicted - self.both)

    @property
    def precision(self) -> float | None:
        """``|A & B| / |B|``: the share of the prediction that is true."""
        return self._share(self.both, self.predicted)

    @property
    def recall(self) -> float | None:
        """``|A & B| / |A|``: the share of the truth that is predicted."""
        return self._share(self.both, self.truth)

    @property
    def volume_difference(self) -> float | None:
        """``(|B| - |A|)`` by the mean of ``|A|`` and ``|B|``: 2 where the class is invented, -2 where it is missed."""
        return self._share(2 * (self.predicted - self.truth), self.truth + self.predicted)

    def _share(self, part: int, whole: int) -> float | None:
        if self.outcome == "absent":
            return None
        if whole:
            return part / whole
        return 0.0


def chunks(array: NDArray[Any]) -> Iterator[slice]:
    """Yield slices of the first axis, each of ``CHUNK`` voxels or of one plane."""
    planes = max(1, CHUNK * len(array) // max(1, array.size))
    return (slice(start, start + planes) for start in range(0, len(array), planes))


def encode(values: Labels, known: Counts) -> Codes:
    """Return the index of each value in ``known``; ``len(known)`` for one that is not in it.

    Args:
        values: Integers, any shape.
        known: Rising values, none below 0.

    Returns:
        Indices in the smallest type that holds them, in the shape of ``values``, in C order.
    """
    codes = np.empty(values.shape, np.min_scalar_type(len(known)))
    table = np.full(min(int(known[-1]) + 1, TABLE) + 1, len(known), codes.dtype)
    low = known[known < TABLE]
    table[low] = np.arange(len(low))
    for rows in chunks(values):
        part = values[rows]
        inside = bool(part.size) and part.min() >= 0 and part.max() < len(table)
        codes[rows] = table[part] if inside else _searched(part, known)
    return codes


def _searched(values: Labels, known: Counts) -> Counts:
    places = np.searchsorted(known, values).clip(max=len(known) - 1)
    return np.where(known[places] == values, places, len(known))


def joint_counts(truth: Codes, prediction: Codes, width: int) -> Counts:
    """Count the voxels of every pair of codes: the row is the code in the truth, the column that in the prediction."""
    counts = np.zeros(width * width, dtype=np.int64)
    flat_truth = truth.reshape(-1)
    flat_prediction = prediction.reshape(-1)
    for start in range(0, truth.size, CHUNK):
        chunk = slice(start, start + CHUNK)
        counts += np.bincount(flat_truth[chunk].astype(np.int64) * width + flat_prediction[chunk], minlength=width**2)
    return counts.reshape(width, width)
