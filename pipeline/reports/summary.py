"""Per-case results brought down to a page of numbers.

A summary as JSON:

    {"n_cases": 9,
     "mean_dice": 0.81,                      the mean over classes of their means
     "classes": [                            by rising label
       {"label": 1, "name": "organ",
        "n": 9,                              cases with a number: scored, missed and false positives
        "mean": 0.9, "median": 0.91, "std": 0.03, "min": 0.85, "max": 0.95,
        "absent": 0,                         cases where it is in neither map: they have no number
        "missed": 0, "false_positive": 0,    how many of the n are zeros of either kind
        "reasons": {}}, ...],
     "worst_cases": [{"case": "a07", "mean_dice": 0.4}, ...],    at most five, the worst first
     "classes_left_out": [],                 names of the classes without a number in any case
     "cases_left_out": [],                   ids of the cases without a number in any class
     "reasons": {}}

A number that cannot be computed is null, and ``reasons`` beside it says why under the same name;
a name is in ``reasons`` exactly when its value is null. Nothing is ever NaN.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from statistics import fmean, median, stdev
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pipeline.types import CaseResult

K = TypeVar("K")

WORST = 5


@dataclass(frozen=True, slots=True)
class ClassSummary:
    """The Dice of one class over all cases; the module says what each field means."""

    label: int
    name: str
    n: int
    mean: float | None
    median: float | None
    std: float | None
    min: float | None
    max: float | None
    absent: int
    missed: int
    false_positive: int
    reasons: dict[str, str]


@dataclass(frozen=True, slots=True)
class CaseMean:
    """The mean Dice of one case over the classes that have a number in it."""

    case: str
    mean_dice: float


@dataclass(frozen=True, slots=True)
class Summary:
    """All classes and all cases; the module says what each field means."""

    n_cases: int
    mean_dice: float | None
    classes: list[ClassSummary]
    worst_cases: list[CaseMean]
    classes_left_out: list[str]
    cases_left_out: list[str]
    reasons: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Return plain dictionaries and lists, for a JSON file."""
        return asdict(self)


def summarise(results: Sequence[CaseResult]) -> Summary:
    """Summarise the results of any number of cases.

    ``mean_dice`` weighs every class alike, however few cases have it: the mean over classes of
    their means. ``std`` is that of a sample (``n - 1``).

    Raises:
        ValueError: A class of a case comes twice, which would count it twice.
    """
    _refuse_repeats(results)
    classes = [_class_summary(group) for _, group in sorted(_grouped(results, _class_of).items())]
    by_case = _grouped(results, lambda result: result.case)
    ranked = sorted((fmean(numbers), case) for case, group in by_case.items() if (numbers := _numbers(group)))
    means = [row.mean for row in classes if row.mean is not None]
    return Summary(
        n_cases=len(by_case),
        mean_dice=fmean(means) if means else None,
        classes=classes,
        worst_cases=[CaseMean(case, mean) for mean, case in ranked[:WORST]],
        classes_left_out=[row.name for row in classes if row.mean is None],
        cases_left_out=[case for case, group in by_case.items() if not _numbers(group)],
        reasons={} if means else {"mean_dice": "no class has a number in any case"},
    )


def _class_summary(group: Sequence[CaseResult]) -> ClassSummary:
    """Summarise the results of one class."""
    numbers = _numbers(group)
    outcomes = Counter(result.outcome for result in group)
    return ClassSummary(
        label=group[0].label,
        name=group[0].name,
        n=len(numbers),
        mean=fmean(numbers) if numbers else None,
        median=median(numbers) if numbers else None,
        std=stdev(numbers) if len(numbers) > 1 else None,
        min=min(numbers, default=None),
        max=max(numbers, default=None),
        absent=outcomes["absent"],
        missed=outcomes["missed"],
        false_positive=outcomes["false_positive"],
        reasons=_reasons(len(numbers)),
    )


def _reasons(n: int) -> dict[str, str]:
    """Say why a class with ``n`` numbers lacks some of its statistics."""
    if n == 0:
        return dict.fromkeys(("mean", "median", "std", "min", "max"), "no case has this class, true or predicted")
    return {"std": "only one case has a number; a standard deviation needs two"} if n == 1 else {}


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


def _numbers(group: Sequence[CaseResult]) -> list[float]:
    return [result.dice for result in group if result.dice is not None]
