"""Compare two methods by several trainings of each, scored on the same cases.

A comparison of groups as JSON:

    {"a": "supervised", "b": "semisupervised",
     "n_a": 5, "n_b": 5,                     trainings
     "paired": true,                         whether each training of A has one of B with the same seed
     "conclusion": "semisupervised is …",    one sentence, made of the figures below
     "verdict": "b_better",                  or a_better, not_shown; too_few: nothing is said of the methods
     "differ_in": ["sources"],               keys of the recipe, and masks, in which the first trainings of each differ
     "n_cases": 40, "n_patients": 40,
     "means": {                              means over classes of every metric that has a better direction
       "dice": {"n_patients": 40,            patients who have a number
         "mean_a": 0.86, "std_a": 0.01,      over trainings
         "mean_b": 0.88, "std_b": 0.01,
         "difference": 0.02,                 b - a
         "interval": [0.01, 0.03],           95 % interval of the difference, over trainings and patients
         "p_value": 0.003,                   two-sided
         "p_holm": 0.02,                     corrected for all metrics and classes that are tested beside the mean Dice
         "reasons": {}}, ...},
     "classes": [{"label": 1, "name": "organ", "metrics": {"dice": {as above}, ...}}, ...]}

``null`` and ``reasons`` are as in ``summary.json``.

Trainings and patients are both samples: the difference is what to expect of other seeds and of other patients. Each
training has a number for each patient, the mean over cases of the mean over classes. With the means of trainings ``t``
and the patients' mean differences ``d``::

    SE^2 = var(t_B - t_A) / S + var(d) / P                   paired by seed, S of each
    SE^2 = var(t_A) / S_A + var(t_B) / S_B + var(d) / P      not paired

and Student's t with Satterthwaite's degrees of freedom, as in :mod:`pipeline.reports.crossed`. The chance of the
trainings is in both parts, so that the interval is rather too wide than too narrow.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pipeline.reports.comparison import ALPHA, PRIMARY
from pipeline.reports.crossed import FEWEST_CROSSED, satterthwaite
from pipeline.reports.intervals import FEWEST, plural
from pipeline.reports.pairs import corrected, patient_means, refuse_unequal, side_of, tables_of
from pipeline.reports.summary import HEADLINES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.reports.intervals import Interval, Numbers
    from pipeline.types import CaseResult

Verdict: TypeAlias = Literal["a_better", "b_better", "not_shown", "too_few"]
NO_CLASS = "no training has this class in any case"


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The trainings of one method.

    Attributes:
        name: What the method is called.
        trainings: The results of each training.
        seeds: Their seeds, in the same order; None for what has none, such as masks of another tool.
    """

    name: str
    trainings: Sequence[Sequence[CaseResult]]
    seeds: Sequence[int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupDifference:
    """A metric of both methods; the module's docstring explains the fields."""

    n_patients: int
    mean_a: float | None
    std_a: float | None
    mean_b: float | None
    std_b: float | None
    difference: float | None
    interval: Interval | None
    p_value: float | None
    p_holm: float | None
    reasons: dict[str, str]


@dataclass(frozen=True, slots=True)
class ClassGroupDifference:
    """The differences of one class."""

    label: int
    name: str
    metrics: dict[str, GroupDifference]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupComparison:
    """The comparison of two methods; the module's docstring explains the fields."""

    a: str
    b: str
    n_a: int
    n_b: int
    paired: bool
    conclusion: str
    verdict: Verdict
    n_cases: int
    n_patients: int
    means: dict[str, GroupDifference]
    classes: list[ClassGroupDifference]
    differ_in: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"GroupComparison({self.conclusion!r})"

    def as_dict(self) -> dict[str, Any]:
        """Return plain dictionaries and lists, for a JSON file."""
        return asdict(self)


def compare_groups(a: Group, b: Group) -> GroupComparison:
    """Compare two methods, pairing trainings by seed where both have the same seeds, and scores by case.

    Args:
        a: The trainings of the first method.
        b: Those of the second, scored on the same cases, classes and true masks.

    Raises:
        UserError: The trainings were not all scored alike.
    """
    sides = [side_of(results) for results in (*a.trainings, *b.trainings)]
    for number, side in enumerate(sides[1:], 2):
        refuse_unequal(sides[0], side, f"training 1 of {a.name}", _place(number, a, b))
    order = _pairing(a.seeds, b.seeds)
    count = len(a.trainings)
    if order is not None:
        sides = sides[:count] + [sides[count + place] for place in order]
    results = a.trainings[0]
    classes = sorted({(row.label, row.name) for row in results})
    cases = {row.case: row.patient or row.case for row in results}
    labels = [label for label, _ in classes]
    tables = {metric: tables_of(sides, list(cases), labels, metric) for metric in HEADLINES}
    patients = list(cases.values())

    def all_of(part: slice) -> dict[str, GroupDifference]:
        return {
            metric: _difference(table[:, :, part], count, patients, paired=order is not None)
            for metric, table in tables.items()
        }

    by_class = [all_of(slice(n, n + 1)) for n in range(len(labels))]
    means, *by_class = corrected([all_of(slice(None)), *by_class])
    verdict = _verdict(a, b, means["dice"])
    return GroupComparison(
        a=a.name,
        b=b.name,
        n_a=count,
        n_b=len(b.trainings),
        paired=order is not None,
        conclusion=_conclusion(verdict, means["dice"], a, b, paired=order is not None),
        verdict=verdict,
        n_cases=len(cases),
        n_patients=len(set(patients)),
        means=means,
        classes=[
            ClassGroupDifference(label, name, metrics) for (label, name), metrics in zip(classes, by_class, strict=True)
        ],
    )


def group_rows(a: Group, b: Group) -> list[dict[str, Any]]:
    """Return a flat row for each class of each case in each training, with its method and seed."""
    return [
        {"method": group.name, "training": number, "seed": seed}
        | {key: getattr(row, key) for key in ("case", "patient", "label", "name", "outcome", *HEADLINES)}
        for group in (a, b)
        for number, (seed, results) in enumerate(zip(group.seeds, group.trainings, strict=True), 1)
        for row in results
    ]


def _place(number: int, a: Group, b: Group) -> str:
    if number <= len(a.trainings):
        return f"training {number} of {a.name}"
    return f"training {number - len(a.trainings)} of {b.name}"


def _pairing(a: Sequence[int | None], b: Sequence[int | None]) -> list[int] | None:
    """Return where the seeds of A are among those of B; None if the two do not have the same seeds, each once."""
    if None in a or len(set(a)) < len(a) or sorted(a, key=str) != sorted(b, key=str):
        return None
    return [list(b).index(seed) for seed in a]


def _difference(table: Numbers, count: int, patients: Sequence[str], *, paired: bool) -> GroupDifference:
    """Compare the first ``count`` sides of ``[sides, cases, classes]`` with the others, patient by patient."""
    values = patient_means(table, patients)
    a = values[:count]
    b = values[count:]
    if not values.size:
        names = ("mean_a", "std_a", "mean_b", "std_b", "difference", "interval", "p_value", "p_holm")
        return GroupDifference(n_patients=0, **dict.fromkeys(names), reasons=dict.fromkeys(names, NO_CLASS))
    interval, p_value, reason = _tested(a, b, paired=paired)
    std_a, std_b = (float(group.mean(axis=1).std(ddof=1)) if len(group) > 1 else None for group in (a, b))
    single = {
        name: "a standard deviation needs two trainings"
        for name, std in (("std_a", std_a), ("std_b", std_b))
        if std is None
    }
    untested = {name: reason for name in ("interval", "p_value") if reason}
    return GroupDifference(
        n_patients=values.shape[1],
        mean_a=float(a.mean()),
        std_a=std_a,
        mean_b=float(b.mean()),
        std_b=std_b,
        difference=float(b.mean() - a.mean()),
        interval=interval,
        p_value=p_value,
        p_holm=None,
        reasons=single | untested | {"p_holm": reason or PRIMARY},
    )


def _tested(a: Numbers, b: Numbers, *, paired: bool) -> tuple[Interval | None, float | None, str]:
    """Return the interval of the mean of ``b - a``, each ``[trainings, patients]``, its p-value, or why there is none.

    The last is "" where there are both.
    """
    patients = a.shape[1]
    if min(len(a), len(b)) < FEWEST_CROSSED:
        return None, None, f"{FEWEST_CROSSED} trainings of each are the fewest"
    if patients < FEWEST:
        return None, None, f"{FEWEST} patients are the fewest"
    groups = [b.mean(axis=1) - a.mean(axis=1)] if paired else [a.mean(axis=1), b.mean(axis=1)]
    samples = [*groups, b.mean(axis=0) - a.mean(axis=0)]
    return *satterthwaite(float(b.mean() - a.mean()), samples), ""


def _verdict(a: Group, b: Group, dice: GroupDifference) -> Verdict:
    if dice.p_value is None or dice.difference is None:
        return "too_few"
    if dice.p_value >= ALPHA:
        return "not_shown"
    return "b_better" if dice.difference > 0 else "a_better"


def _conclusion(verdict: Verdict, dice: GroupDifference, a: Group, b: Group, *, paired: bool) -> str:
    """Return the verdict as one sentence, with the figures that it is based on."""
    if dice.mean_a is None or dice.mean_b is None or dice.difference is None:
        return "No training has any structure in any case, so there is nothing to compare."
    claims = {
        "a_better": f"{a.name} is the better method",
        "b_better": f"{b.name} is the better method",
        "not_shown": f"No difference between the methods {a.name} and {b.name} is shown",
        "too_few": f"Too few to speak of methods ({dice.reasons.get('p_value')}), these trainings alone",
    }
    sides = (
        f"{_spread(dice.mean_a, dice.std_a)} ({plural(len(a.trainings), 'training')} of {a.name})",
        f"{_spread(dice.mean_b, dice.std_b)} ({plural(len(b.trainings), 'training')} of {b.name})",
    )
    sure = ""
    if dice.interval and dice.p_value is not None:
        chance = "p < 0.001" if dice.p_value < 0.001 else f"p = {dice.p_value:.3f}"
        sure = f", 95 % interval {dice.interval[0]:+.4f} to {dice.interval[1]:+.4f}, {chance}"
    by = "paired by case and seed" if paired else "paired by case, not by seed"
    figures = f"the mean Dice goes from {sides[0]} to {sides[1]}: {dice.difference:+.4f}{sure}"
    return f"{claims[verdict]}: {figures}; {plural(dice.n_patients, 'patient')}, {by}."


def _spread(mean: float, std: float | None) -> str:
    if std is None:
        return f"{mean:.4f}"
    return f"{mean:.4f} ± {std:.4f}"
