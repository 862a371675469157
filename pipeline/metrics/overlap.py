"""How well a predicted label map overlaps the true one, class by class.

An average hides two mistakes when absent classes are dropped from it: a structure that was
missed, and one that was invented. Here each is a zero with its own name, and only a class that is
in neither map has no number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from pipeline.types import CaseResult

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Labels: TypeAlias = NDArray[np.integer[Any] | np.bool_]
    Counts: TypeAlias = NDArray[np.int64]

# Voxels counted at a time: enough to make the loop free, few enough that codes stay small.
CHUNK = 1 << 20


def score_case(
    case: str, truth: Labels, prediction: Labels, labels: Mapping[int, str], ignore: int | None = None
) -> list[CaseResult]:
    """Score every foreground class of one case.

    ``dice = 2 |A & B| / (|A| + |B|)``, over the voxels that are not ignored. A class in the truth
    only is ``missed`` and one in the prediction only is a ``false_positive``, both with Dice 0;
    one in neither is ``absent``, with None for a number.

    Args:
        case: The case's id.
        truth: Integer labels, any shape.
        prediction: Integer labels, the shape of ``truth``.
        labels: The name of each value. Background is 0, listed or not, and is not scored.
        ignore: Voxels with this value in the truth count nowhere, whatever is predicted there.

    Returns:
        One result a foreground class, by rising value.

    Raises:
        ValueError: The shapes differ, an array holds no integers, or a value is not in ``labels``.

    >>> truth, prediction = np.array([0, 5, 5, 5]), np.array([0, 0, 5, 5])
    >>> for result in score_case("a", truth, prediction, {5: "liver", 300: "spleen"}):
    ...     print(result.name, result.dice, result.outcome)
    liver 0.8 scored
    spleen None absent
    """
    truth, prediction = np.asarray(truth), np.asarray(prediction)
    _validate(case, truth, prediction)
    foreground = {value: name for value, name in labels.items() if value not in (0, ignore)}
    known = np.array(sorted({0, *foreground}), dtype=np.int64)
    counts = _joint_counts(truth, prediction, known, ignore)
    _refuse_unknown(case, truth, prediction, known, counts, ignore)
    return [
        _result(case, int(value), foreground[int(value)], counts, code)
        for code, value in enumerate(known)
        if value != 0
    ]


def _validate(case: str, truth: Labels, prediction: Labels) -> None:
    """Refuse arrays that cannot be compared voxel by voxel."""
    if truth.shape != prediction.shape:
        raise ValueError(f"case {case!r}: truth is {truth.shape} but prediction is {prediction.shape}")
    for what, array in (("truth", truth), ("prediction", prediction)):
        if array.dtype.kind not in "iub":
            raise ValueError(f"case {case!r}: the {what} is {array.dtype}; labels must be integers")


def _joint_counts(truth: Labels, prediction: Labels, known: Counts, ignore: int | None) -> Counts:
    """Count the voxels of every (true, predicted) pair of classes in one pass.

    Row ``i`` is ``known[i]`` in the truth and column ``j`` is ``known[j]`` in the prediction; the
    last row and column are values that are not known.
    """
    width = len(known) + 1
    counts = np.zeros(width * width, dtype=np.int64)
    flat_truth, flat_prediction = truth.reshape(-1), prediction.reshape(-1)
    for start in range(0, truth.size, CHUNK):
        true, predicted = flat_truth[start : start + CHUNK], flat_prediction[start : start + CHUNK]
        if ignore is not None:
            counted = true != ignore
            true, predicted = true[counted], predicted[counted]
        pairs = _encode(true, known) * width + _encode(predicted, known)
        counts += np.bincount(pairs, minlength=width * width)
    return counts.reshape(width, width)


def _encode(values: Labels, known: Counts) -> Counts:
    """Return the place of each value in the sorted ``known``; ``len(known)`` for one not in it."""
    codes = np.searchsorted(known, values).clip(max=len(known) - 1)
    return np.where(known[codes] == values, codes, len(known))


def _refuse_unknown(
    case: str, truth: Labels, prediction: Labels, known: Counts, counts: Counts, ignore: int | None
) -> None:
    """Name the values that no class stands for, if the counts have any."""
    if not counts[-1].any() and not counts[:, -1].any():
        return
    counted = truth != ignore if ignore is not None else np.ones(truth.shape, dtype=bool)
    for what, array in (("truth", truth), ("prediction", prediction)):
        unknown = np.setdiff1d(array[counted], known).tolist()
        if unknown:
            raise ValueError(
                f"case {case!r}: the {what} holds {unknown}; the labels are {known.tolist()}, "
                "so declare those values or mend the map"
            )


def _result(case: str, label: int, name: str, counts: Counts, code: int) -> CaseResult:
    """Turn the counts of one class into its result."""
    both, true, predicted = (int(n) for n in (counts[code, code], counts[code].sum(), counts[:, code].sum()))
    dice = 2 * both / (true + predicted) if true or predicted else None
    return CaseResult(case, label, name, dice, _outcome(true, predicted), true, predicted)


def _outcome(true: int, predicted: int) -> Literal["scored", "absent", "missed", "false_positive"]:
    """Say in which of the two maps a class is."""
    if true:
        return "scored" if predicted else "missed"
    return "false_positive" if predicted else "absent"
