"""Results of several sides side by side: the same structures of the same cases, against the same true masks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, TypeVar

import numpy as np

from pipeline.errors import Problem, UserError
from pipeline.reports.intervals import means_of_patients

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.reports.intervals import Numbers
    from pipeline.types import CaseResult

    Side: TypeAlias = dict[tuple[str, int], CaseResult]


class Tested(Protocol):
    """A difference with the p-value of its test, and why it has none."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def p_value(self) -> float | None:
        """None where nothing was tested."""

    @property
    def reasons(self) -> Mapping[str, str]:
        """Of what is None, by name."""


T = TypeVar("T", bound=Tested)

SAME_CASES = (
    "score both on the same cases: train one of them with data.split=OTHER/split.json, or with --folds where OTHER is "
    "a cross-validation"
)
# The best value of a metric, which is 1 for all others.
BEST = {"hd95_mm": 0.0, "assd_mm": 0.0}


def side_of(results: Sequence[CaseResult]) -> Side:
    """Return results by case and label."""
    return {(row.case, row.label): row for row in results}


def refuse_unequal(first: Side, second: Side, name_a: str, name_b: str) -> None:
    """Refuse two sides that were not scored on the same cases, classes and true masks.

    Raises:
        UserError: With all that differ.
    """
    sides = ((first, second, name_a, name_b), (second, first, name_b, name_a))
    problems = [
        Problem(name, "case-unpaired", f"has {case}, {other} has not", SAME_CASES, case=case)
        for here, there, name, other in sides
        for case in sorted({case for case, _ in here} - {case for case, _ in there})
    ]
    if not problems:
        problems = [
            Problem(
                name,
                "class-unpaired",
                f"has label {label} in {case}, {other} has not",
                "score the same labels",
                case=case,
            )
            for here, there, name, other in sides
            for case, label in sorted(here.keys() - there.keys())
        ]
    problems += [
        Problem(
            name_b,
            "truth-differs",
            f"{case} has {second[case, label].voxels_truth} true voxels of {row.name}, in {name_a} {row.voxels_truth}",
            "score both on the same masks: fewmask validate RUN --dataset DATA, and compare RUN/validation/DATA",
            case=case,
        )
        for (case, label), row in first.items()
        if (case, label) in second and second[case, label].voxels_truth != row.voxels_truth
    ]
    if not first and not second:
        problems = [Problem(name_a, "no-cases", "has no cases, nor has the other", "validate both")]
    if problems:
        raise UserError(f"{name_a} and {name_b} cannot be compared.", problems)


def tables_of(sides: Sequence[Side], cases: Sequence[str], labels: Sequence[int], metric: str) -> Numbers:
    """Return the metric of each side as ``[sides, cases, labels]``, NaN where no side has a number.

    Where a class is absent and a side invents it, the sides that do not have the best value: without it the invention
    would cost nothing.
    """
    best = BEST.get(metric, 1.0)
    tables = np.full((len(sides), len(cases), len(labels)), np.nan)
    for row, case in enumerate(cases):
        for column, label in enumerate(labels):
            values = [getattr(side[case, label], metric) for side in sides if (case, label) in side]
            if any(value is not None for value in values):
                tables[:, row, column] = [best if value is None else value for value in values]
    return tables


def patient_means(table: Numbers, patients: Sequence[str]) -> Numbers:
    """Return ``[sides, patients]``: of ``[sides, cases, labels]`` the mean over labels, then over a patient's cases.

    Patients come in the order in which they first appear; those without any number are left out.

    >>> patient_means(np.array([[[1.0, 0.5], [0.0, np.nan], [np.nan, np.nan]]]), ["a", "a", "b"])
    array([[0.375]])
    """
    numbers = np.isfinite(table).sum(axis=2)
    by_case = np.where(numbers > 0, np.nansum(table, axis=2) / np.maximum(numbers, 1), np.nan)
    return np.array([means_of_patients(list(row), patients) for row in by_case])


def corrected(groups: Sequence[dict[str, T]]) -> list[dict[str, T]]:
    """Correct the tests of all metrics and classes, the means over classes first; the mean Dice is tested as it is."""
    rest = [(n, key) for n, group in enumerate(groups) for key in group if (n, key) != (0, "dice")]
    found = [dict(group) for group in groups]
    for (n, key), p_holm in zip(rest, holm([groups[n][key].p_value for n, key in rest]), strict=True):
        if p_holm is not None:
            reasons = {name: why for name, why in found[n][key].reasons.items() if name != "p_holm"}
            found[n][key] = replace(found[n][key], p_holm=p_holm, reasons=reasons)
    return found


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p-values corrected for their number, None left out (Holm 1979, Scand. J. Statist. 6(2)).

    Where each is compared with 0.05, the chance that any claim is false is 5 % at most, however they depend on each
    other.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    order = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        corrected[place] = largest
    return corrected
