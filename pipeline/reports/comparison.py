"""Compare two sets of results of the same cases.

A comparison as JSON:

    {"a": "runs/one", "b": "runs/two",
     "conclusion": "two is better: …",       one sentence, made of the figures below
     "scope": "This is about …",             what the conclusion is about: two trainings, or two sets of masks
     "verdict": "b_better",                  or a_better; mixed: interval, test and mean disagree; not_shown; too_few
     "differ_in": ["seed"],                  keys of the recipe, and masks, in which the trainings differ
     "n_cases": 40, "n_patients": 40,
     "means": {                              means over classes of every metric that has a better direction
       "dice": {"n": 80,                     pairs of a case and a class
         "mean_a": 0.86, "mean_b": 0.88,
         "difference": 0.02,                 b - a
         "median": 0.018,                    of the patients' mean differences
         "interval": [0.01, 0.03],           95 % interval of that median, over six patients or more
         "p_value": 0.003,                   Wilcoxon's, two-sided, of those differences
         "p_holm": 0.02,                     corrected for all metrics and classes that are tested beside the mean Dice
         "reasons": {}}, ...},
     "classes": [{"label": 1, "name": "organ", "metrics": {"dice": {as above}, ...}}, ...],
     "wilcoxon": {"n": 38,                   patients whose mean Dice differs
       "p_value": 0.003, "reasons": {}},     two-sided, of the patients' mean differences of Dice
     "better": [], "worse": [], "equal": [], ids of the cases whose mean Dice is better, worse or equal with b
     "changed": [                            structures with different outcomes
       {"case": "a07", "label": 1, "name": "organ", "a": "missed", "b": "scored"}, ...]}

``null`` and ``reasons`` are as in ``summary.json``. A class that is absent from a case in both runs makes no pair. If
the class is absent and one run invents it, the other counts with the best value (1, or 0 mm): without this pair, the
invention would cost nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from pipeline.reports.intervals import (
    FEWEST,
    MORE_PATIENTS,
    TOO_FEW,
    mean_of_means,
    means_of_patients,
    median_interval,
    plural,
    too_few,
)
from pipeline.reports.pairs import corrected, refuse_unequal, side_of, tables_of
from pipeline.reports.summary import HEADLINES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.reports.groups import GroupDifference
    from pipeline.reports.intervals import Interval, Numbers
    from pipeline.types import CaseResult

Verdict: TypeAlias = Literal["a_better", "b_better", "mixed", "not_shown", "too_few"]

# With five patients, which are too few for an interval too, the least possible p-value is 2 / 2^5 = 0.0625.
ALPHA = 0.05
PRIMARY = "the one test that was chosen beforehand needs no correction"
# Smaller differences of Dice are rounding.
EQUAL = 1e-9
TRAININGS = (
    "This is about these two trainings: another seed of either may turn it. To speak of methods, compare three "
    "trainings of each or more (`fewmask train --seeds 5`)."
)
MASKS = "This is about these two sets of masks."


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A metric of both sides over the same pairs; the module's docstring explains the fields."""

    n: int
    mean_a: float | None
    mean_b: float | None
    difference: float | None
    median: float | None
    interval: Interval | None
    p_value: float | None = None
    p_holm: float | None = None
    reasons: dict[str, str]


@dataclass(frozen=True, slots=True)
class ClassDifference:
    """The differences of one class."""

    label: int
    name: str
    metrics: dict[str, Difference]


@dataclass(frozen=True, slots=True)
class Wilcoxon:
    """The signed-rank test of the patients' mean differences of Dice; ``n`` patients differ."""

    n: int
    p_value: float | None
    reasons: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A structure with different outcomes on the two sides."""

    case: str
    label: int
    name: str
    a: str
    b: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The comparison of both sides over all cases; the module's docstring explains the fields."""

    a: str
    b: str
    conclusion: str
    scope: str
    verdict: Verdict
    n_cases: int
    n_patients: int
    means: dict[str, Difference]
    classes: list[ClassDifference]
    wilcoxon: Wilcoxon
    better: list[str]
    worse: list[str]
    equal: list[str]
    changed: list[Change]
    differ_in: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"Comparison({self.conclusion!r})"

    def as_dict(self) -> dict[str, Any]:
        """Return plain dictionaries and lists, for a JSON file."""
        return asdict(self)


def compare_results(
    a: Sequence[CaseResult], b: Sequence[CaseResult], name_a: str, name_b: str, scope: str = TRAININGS
) -> Comparison:
    """Compare two sets of results, case by case and class by class.

    Args:
        a: The results of the first side, one for each class of each case.
        b: Those of the second side, for the same cases, classes and true masks.
        name_a: Name of the first side in the conclusion.
        name_b: Name of the second side.
        scope: What the conclusion is about, in a sentence.

    Raises:
        UserError: The sides do not have the same cases, classes or true masks; all that differ are named.
    """
    first = side_of(a)
    second = side_of(b)
    refuse_unequal(first, second, name_a, name_b)
    classes = sorted({(row.label, row.name) for row in a})
    cases = {row.case: row.patient or row.case for row in a}
    labels = [label for label, _ in classes]
    tables = {metric: tables_of((first, second), list(cases), labels, metric) for metric in HEADLINES}
    patients = list(cases.values())
    by_class = [
        {metric: _difference(x[:, [n]], y[:, [n]], patients) for metric, (x, y) in tables.items()}
        for n in range(len(labels))
    ]
    means, *by_class = corrected([{key: _difference(x, y, patients) for key, (x, y) in tables.items()}, *by_class])
    change = {case: float(value) for case, value in zip(cases, _row_means(*tables["dice"]), strict=True)}
    wilcoxon = signed_rank(means_of_patients(list(change.values()), patients))
    verdict = _verdict(means["dice"], wilcoxon)
    return Comparison(
        a=name_a,
        b=name_b,
        conclusion=_conclusion(verdict, means["dice"], wilcoxon, (name_a, name_b), len(set(patients))),
        scope=scope,
        verdict=verdict,
        n_cases=len(cases),
        n_patients=len(set(patients)),
        means=means,
        classes=[
            ClassDifference(label, name, metrics) for (label, name), metrics in zip(classes, by_class, strict=True)
        ],
        wilcoxon=wilcoxon,
        better=[case for case, value in change.items() if value > EQUAL],
        worse=[case for case, value in change.items() if value < -EQUAL],
        equal=[case for case, value in change.items() if abs(value) <= EQUAL],
        changed=[
            Change(case=row.case, label=row.label, name=row.name, a=row.outcome, b=second[key].outcome)
            for key, row in first.items()
            if row.outcome != second[key].outcome
        ],
    )


def paired_rows(a: Sequence[CaseResult], b: Sequence[CaseResult]) -> list[dict[str, Any]]:
    """Return a flat row for each class of each case, with every metric of both sides."""
    second = side_of(b)
    rows = []
    for one in a:
        two = second[one.case, one.label]
        row: dict[str, Any] = {key: getattr(one, key) for key in ("case", "patient", "label", "name")}
        for key in ("outcome", *HEADLINES):
            row |= {f"{key}_a": getattr(one, key), f"{key}_b": getattr(two, key)}
        rows.append(row)
    return rows


def _difference(a: Numbers, b: Numbers, patients: Sequence[str]) -> Difference:
    pairs = int(np.isfinite(a).sum())
    if not pairs:
        reason = "neither side has this class in any case"
        names = ("mean_a", "mean_b", "difference", "median", "interval", "p_value", "p_holm")
        return Difference(n=0, **dict.fromkeys(names), reasons=dict.fromkeys(names, reason))
    changes = means_of_patients(list(_row_means(a, b)), patients)
    median = float(np.median(changes))
    interval = median_interval(changes)
    test = signed_rank(changes)
    reasons = {} if interval else {"interval": too_few(len(changes))}
    return Difference(
        n=pairs,
        mean_a=mean_of_means(a),
        mean_b=mean_of_means(b),
        difference=mean_of_means(b - a),
        median=median,
        interval=interval,
        p_value=test.p_value,
        p_holm=None,
        reasons=reasons | test.reasons | {"p_holm": test.reasons.get("p_value", PRIMARY)},
    )


def _row_means(a: Numbers, b: Numbers) -> Numbers:
    """Return each case's mean difference over its pairs; NaN where it has none."""
    pairs = np.isfinite(a).sum(axis=1)
    means: Numbers = np.where(pairs > 0, np.nansum(b - a, axis=1) / np.maximum(pairs, 1), np.nan)
    return means


def signed_rank(changes: Numbers) -> Wilcoxon:
    """Return Wilcoxon's signed-rank test of one difference per patient, since it assumes independent numbers."""
    from scipy.stats import wilcoxon

    moved = changes[abs(changes) > EQUAL]
    if not len(moved):
        return Wilcoxon(0, None, {"p_value": "no patient differs"})
    return Wilcoxon(len(moved), float(wilcoxon(moved).pvalue), {})


def _verdict(dice: Difference, wilcoxon: Wilcoxon) -> Verdict:
    if wilcoxon.p_value is None or dice.interval is None or dice.difference is None:
        return "not_shown" if dice.difference is not None and wilcoxon.n == 0 else "too_few"
    apart = is_apart(dice)
    unlikely = wilcoxon.p_value < ALPHA
    if apart and unlikely and dice.difference * dice.interval[0] > 0:
        return "b_better" if dice.difference > 0 else "a_better"
    if wilcoxon.n < FEWEST:
        return "too_few"
    return "mixed" if apart or unlikely else "not_shown"


def is_apart(found: Difference) -> bool:
    """Return whether there is an interval, and 0 is outside of it."""
    return found.interval is not None and not found.interval[0] <= 0 <= found.interval[1]


def chance_of(found: Difference | GroupDifference) -> float | None:
    """Return the p-value of a difference, corrected where it is one of many."""
    return found.p_value if found.p_holm is None else found.p_holm


def _conclusion(verdict: Verdict, dice: Difference, wilcoxon: Wilcoxon, names: tuple[str, str], patients: int) -> str:
    """Return the verdict as one sentence, with the figures that it is based on."""
    if dice.difference is None or dice.mean_a is None or dice.mean_b is None or dice.median is None:
        return "Neither has any structure in any case, so there is nothing to compare."
    a, b = names
    claims = {
        "a_better": f"{a} is better than {b}",
        "b_better": f"{b} is better than {a}",
        "mixed": f"The evidence for a difference between {a} and {b} is mixed",
        "not_shown": f"No difference between {a} and {b} is shown",
        "too_few": f"The patients that differ are {TOO_FEW} whether {a} or {b} is better",
    }
    interval = TOO_FEW
    if dice.interval:
        interval = f"95 % interval {dice.interval[0]:+.4f} to {dice.interval[1]:+.4f}"
    test = "no patient differs"
    if wilcoxon.p_value is not None:
        test = f"Wilcoxon {_p(wilcoxon.p_value)}"
    means = f"the mean Dice goes from {dice.mean_a:.4f} to {dice.mean_b:.4f} ({dice.difference:+.4f})"
    median = f"the median patient changes by {dice.median:+.4f} ({interval}; {test}; {plural(patients, 'patient')})"
    more = ""
    if not dice.interval:
        more = f" To say more, {MORE_PATIENTS}."
    return f"{claims[verdict]}: from {a} to {b} {means}, and {median}.{more}"


def _p(value: float) -> str:
    if value < 0.001:
        return "p < 0.001"
    return f"p = {value:.3f}"
