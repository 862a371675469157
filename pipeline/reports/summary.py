"""Summarise the results of cases.

A summary as JSON:

    {"n_cases": 9, "n_patients": 9,
     "mean_dice": 0.81,                      the mean over classes of their means
     "means": {                              the same for every metric that has a better direction
       "dice": {"value": 0.81, "interval": [0.78, 0.84],
         "n_patients": 9,                    patients who have a number
         "reasons": {}}, ...},
     "classes": [                            by rising label
       {"label": 1, "name": "organ",
        "scored": 8,                         cases where it is in both maps
        "absent": 1,                         in neither: they have no number
        "missed": 0, "false_positive": 0,    in one map alone: they have the worst possible number
        "not_annotated": 0,                  cases in which nobody has marked the class: they have no number
        "metrics": {
          "dice": {"n": 8,                   cases with a number: scored, missed and false positives
            "mean": 0.9, "interval": [0.88, 0.92], "median": 0.91, "std": 0.03,
            "q1": 0.89, "q3": 0.93, "min": 0.85, "max": 0.95, "reasons": {}},
          "iou": ..., "precision": ..., "recall": ..., "surface_dice": ..., "hd95_mm": ..., "assd_mm": ...,
          "volume_difference": ...,          signed: its mean is a bias
          "NAME": ...},                      of each further metric that the recipe asks for
        "lesions": {"truth": 8, "found": 8, "missed": 0, "false": 1,    over all cases
          "recall": 1.0,                     found of true
          "f1": 0.94,                        2 found / (2 found + missed + false)
          "reasons": {}}}, ...],
     "expected_dice": {                      the Dice that the network expects of its masks, against theirs
       "n": 17,                              pairs of a case and a class
       "pearson": 0.7, "spearman": 0.6,      correlations
       "bias": 0.02,                         mean of expected less found
       "reasons": {}},
     "worst_cases": [{"case": "a07", "mean_dice": 0.4}, ...],    at most five, the worst first
     "classes_left_out": [],                 names of the classes without a number in any case
     "cases_left_out": [],                   ids of the cases without a number in any class
     "reasons": {}}

A number that cannot be computed is null, and ``reasons`` beside it says why under the same name;
a name is in ``reasons`` exactly when its value is null. Nothing is ever NaN. Every interval is a 95 % interval of the
mean, over six patients or more; distances have none.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from pipeline.reports import columns
from pipeline.reports.intervals import (
    FEWEST,
    TOO_FEW,
    Statistics,
    describe,
    interval_or_reason,
    mean_of_means,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pipeline.reports.intervals import Interval, Numbers
    from pipeline.types import CaseResult

K = TypeVar("K")

WORST = 5
# Metrics whose better values mean better masks: none of them improves if a true structure is deleted.
HEADLINES = ("dice", "iou", "precision", "recall", "surface_dice", "hd95_mm", "assd_mm")
METRICS = (*HEADLINES, "volume_difference")
NO_FURTHER = "this metric has a number in no case"
NO_CLASS = "no class has a number in any case"
# The least and the greatest possible value of each metric that has both; distances have no greatest.
SPANS = {
    metric.key: (metric.low, metric.high)
    for metric in columns.METRICS
    if metric.low is not None and metric.high is not None
}


@dataclass(frozen=True, slots=True)
class Mean:
    """The mean over classes of a metric's means; the module's docstring explains the fields."""

    value: float | None
    interval: Interval | None
    n_patients: int
    reasons: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class LesionSummary:
    """The lesions of one class in all cases; the module's docstring explains the fields."""

    truth: int
    found: int
    missed: int
    false: int
    recall: float | None
    f1: float | None
    reasons: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassSummary:
    """One class over all cases; the module's docstring explains the fields."""

    label: int
    name: str
    scored: int
    absent: int
    missed: int
    false_positive: int
    not_annotated: int
    metrics: dict[str, Statistics]
    lesions: LesionSummary

    @property
    def dice(self) -> Statistics:
        """Its Dice, which the tables show first."""
        return self.metrics["dice"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How the expected Dice agrees with the true Dice; the module's docstring explains the fields."""

    n: int
    pearson: float | None
    spearman: float | None
    bias: float | None
    reasons: dict[str, str]


@dataclass(frozen=True, slots=True)
class CaseMean:
    """The mean Dice of one case over the classes that have a number in it."""

    case: str
    mean_dice: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """All classes and all cases; the module's docstring explains the fields."""

    n_cases: int
    n_patients: int
    mean_dice: float | None
    means: dict[str, Mean]
    classes: list[ClassSummary]
    expected_dice: Agreement
    worst_cases: list[CaseMean]
    classes_left_out: list[str]
    cases_left_out: list[str]
    reasons: dict[str, str]

    def __repr__(self) -> str:
        dice = "none" if self.mean_dice is None else f"{self.mean_dice:.3f}"
        return f"Summary(cases={self.n_cases}, patients={self.n_patients}, mean_dice={dice})"

    def as_dict(self) -> dict[str, Any]:
        """Return plain dictionaries and lists, for a JSON file."""
        return asdict(self)


def summarise(results: Sequence[CaseResult]) -> Summary:
    """Summarise the results of any number of cases.

    In a mean over classes each class has the same weight, however few cases have it. Without results, every mean is
    None.

    Raises:
        ValueError: Two results are of the same class of the same case.
    """
    _refuse_repeats(results)
    classes = [_class_summary(group) for _, group in sorted(_grouped(results, _class_of).items())]
    by_case = _grouped(results, lambda result: result.case)
    ranked = sorted((fmean(numbers), case) for case, group in by_case.items() if (numbers := _dice_of(group)))
    means = {metric: _mean(by_case, [(row.label, row.name) for row in classes], metric) for metric in HEADLINES}
    mean_dice = means["dice"].value
    reasons = {}
    if mean_dice is None:
        reasons["mean_dice"] = NO_CLASS
    return Summary(
        n_cases=len(by_case),
        n_patients=len({_patient_of(result) for result in results}),
        mean_dice=mean_dice,
        means=means,
        classes=classes,
        expected_dice=_agreement(results),
        worst_cases=[CaseMean(case, mean) for mean, case in ranked[:WORST]],
        classes_left_out=[row.name for row in classes if not row.dice.n],
        cases_left_out=[case for case, group in by_case.items() if not _dice_of(group)],
        reasons=reasons,
    )


def _values_of(
    by_case: dict[str, list[CaseResult]], classes: Sequence[tuple[int, str]], metric: str
) -> tuple[Numbers, list[str]]:
    """Return a metric as ``[cases, classes]``, NaN where there is no number, and the patient of each row."""
    columns = {key: place for place, key in enumerate(classes)}
    values = np.full((len(by_case), len(columns)), np.nan)
    for row, group in enumerate(by_case.values()):
        for result in group:
            value = getattr(result, metric)
            values[row, columns[_class_of(result)]] = np.nan if value is None else value
    return values, [_patient_of(group[0]) for group in by_case.values()]


def notes_on_unannotated(partly: Sequence[bool]) -> tuple[str, ...]:
    """Return a note if there are masks with voxels that nobody annotated, which no score looks at.

    Args:
        partly: Of each mask, whether it has such voxels.
    """
    if not any(partly):
        return ()
    what = f"{sum(partly)} of {len(partly)} masks have voxels that nobody annotated, which are not scored"
    return (f"{what}: these figures flatter, far too much with scribbles. Score whole masks.",)


def _mean(by_case: dict[str, list[CaseResult]], classes: Sequence[tuple[int, str]], metric: str) -> Mean:
    values, patients = _values_of(by_case, classes, metric)
    known = np.isfinite(values).any(axis=1)
    if not known.any():
        return Mean(None, None, 0, {"value": NO_CLASS, "interval": NO_CLASS})
    interval, reasons = interval_or_reason(values, patients, SPANS.get(metric))
    counted: set[str] = set(np.array(patients, dtype=object)[known])
    return Mean(mean_of_means(values), interval, len(counted), reasons)


def _class_summary(group: Sequence[CaseResult]) -> ClassSummary:
    """Summarise the results of one class."""
    outcomes = Counter(result.outcome for result in group)
    patients = [_patient_of(result) for result in group]
    return ClassSummary(
        label=group[0].label,
        name=group[0].name,
        scored=outcomes["scored"],
        absent=outcomes["absent"],
        missed=outcomes["missed"],
        false_positive=outcomes["false_positive"],
        not_annotated=outcomes["not_annotated"],
        metrics={
            name: describe([getattr(result, name) for result in group], patients, SPANS.get(name)) for name in METRICS
        }
        | {
            name: describe([result.more.get(name) for result in group], patients, None, NO_FURTHER)
            for name in columns.further_in(group)
        },
        lesions=_lesions(group),
    )


def _lesions(group: Sequence[CaseResult]) -> LesionSummary:
    truth, found, missed, false = (
        sum(getattr(result, f"lesions_{name}") for result in group) for name in ("truth", "found", "missed", "false")
    )
    recall = None
    if truth:
        recall = found / truth
    reasons = {}
    if not truth:
        reasons["recall"] = "no case has a true lesion"
    f1 = None
    if truth or false:
        f1 = 2 * found / (2 * found + missed + false)
    else:
        reasons["f1"] = "no case has a lesion"
    return LesionSummary(
        truth=truth,
        found=found,
        missed=missed,
        false=false,
        recall=recall,
        f1=f1,
        reasons=reasons,
    )


def _agreement(results: Sequence[CaseResult]) -> Agreement:
    rows = [row for row in results if row.dice_expected is not None and row.dice is not None]
    if not rows:
        names = ("pearson", "spearman", "bias")
        return Agreement(n=0, **dict.fromkeys(names), reasons=dict.fromkeys(names, "nothing was expected"))
    expected, found = np.array([(row.dice_expected, row.dice) for row in rows], dtype=np.float64).T
    bias = float((expected - found).mean())
    if len({_patient_of(row) for row in rows}) < FEWEST or not expected.std() or not found.std():
        reason = f"{TOO_FEW}: fewer than {FEWEST} patients, or all alike"
        return Agreement(
            n=len(rows), pearson=None, spearman=None, bias=bias, reasons=dict.fromkeys(("pearson", "spearman"), reason)
        )
    from scipy.stats import rankdata

    ranks = rankdata(expected), rankdata(found)
    pearson, spearman = (float(np.corrcoef(*sides)[0, 1]) for sides in ((expected, found), ranks))
    return Agreement(n=len(rows), pearson=pearson, spearman=spearman, bias=bias, reasons={})


def _refuse_repeats(results: Sequence[CaseResult]) -> None:
    """Raise where two results are of the same class of the same case."""
    times = Counter((result.case, result.label) for result in results)
    repeated = [pair for pair, n in times.items() if n > 1]
    if repeated:
        raise ValueError(f"more than one result for the same (case, label): {repeated}")


def _grouped(results: Sequence[CaseResult], key: Callable[[CaseResult], K]) -> dict[K, list[CaseResult]]:
    """Gather the results that have the same key, in the order of their coming."""
    groups: dict[K, list[CaseResult]] = {}
    for result in results:
        groups.setdefault(key(result), []).append(result)
    return groups


def _class_of(result: CaseResult) -> tuple[int, str]:
    return result.label, result.name


def _patient_of(result: CaseResult) -> str:
    return result.patient or result.case


def _dice_of(group: Sequence[CaseResult]) -> list[float]:
    return [result.dice for result in group if result.dice is not None]
