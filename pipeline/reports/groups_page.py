"""The page of two methods, each with several trainings: the conclusion first, and what it is based on."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.reports.cards import Card, Link, Step
from pipeline.reports.charts import FAILURES
from pipeline.reports.columns import classes_in, with_tolerance
from pipeline.reports.comparison import ALPHA, EQUAL, chance_of
from pipeline.reports.comparison_page import SHOWN, VERDICTS, better_side, columns_of, rows_of
from pipeline.reports.crossed import FEWEST_CROSSED
from pipeline.reports.figures import figures_of_groups, write_figures
from pipeline.reports.html import as_json, write_page
from pipeline.reports.intervals import FEWEST, TOO_FEW, plural
from pipeline.reports.page import WORDS
from pipeline.reports.pairs import side_of, tables_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from pipeline.reports.columns import Metric
    from pipeline.reports.groups import Group, GroupComparison, GroupDifference
    from pipeline.reports.page import Origin
    from pipeline.types import CaseResult

# What happened to a structure: whether any training of a side has missed or invented it.
OUTCOMES = {"scored": "scored", "absent": "absent", "a": "A fails", "b": "B fails", "both": "both fail"}
WORST = ("both", "a", "b")


def write_groups(folder: Path, comparison: GroupComparison, a: Group, b: Group, origin: Origin) -> None:
    """Write ``report.html`` of a comparison of two methods, and its figures as files.

    Args:
        folder: Where to write them; it must exist.
        comparison: The comparison of ``a`` and ``b``.
        a: The trainings of the first method.
        b: Those of the second, scored on the same cases and classes.
        origin: The origin of the results.
    """
    places = {case: n for n, case in enumerate(dict.fromkeys(row.case for row in a.trainings[0]))}
    metrics = [with_tolerance(metric, origin.tolerance_mm) for metric in SHOWN]
    means = _means_of(a, b, list(places), metrics)
    dice = [_dice_of(a, "A"), _dice_of(b, "B")]
    figures = list(figures_of_groups(comparison, _typical(a, means, 0), _typical(b, means, 1), dice, places))
    write_figures(folder, figures)
    write_page(
        folder / "report.html",
        "groups.html",
        ["viewer.js", "review.js", "report.js"],
        {
            "origin": origin,
            "comparison": comparison,
            "verdict": list(_verdict(comparison, means)),
            "steps": list(_steps(comparison)),
            "rows": list(rows_of(comparison, metrics, _row)),
            "metrics": metrics,
            "figures": figures,
            "training": (),
            "data": as_json(_page_data(a, b, means, places, metrics)),
            "blocks": (),
        },
    )


# Of a class in a case, each metric's mean over the trainings of A and of B; None where no training has a number.
Pair = tuple[float | None, float | None]
Means = dict[tuple[str, int], dict[str, Pair]]


def _means_of(a: Group, b: Group, cases: Sequence[str], metrics: Sequence[Metric]) -> Means:
    """Return the means over trainings, as the comparison has them."""
    sides = [side_of(results) for results in (*a.trainings, *b.trainings)]
    labels = sorted({row.label for row in a.trainings[0]})
    found: Means = {(case, label): {} for case in cases for label in labels}
    for metric in metrics:
        table = tables_of(sides, cases, labels, metric.key)
        for row, case in enumerate(cases):
            for column, label in enumerate(labels):
                one, two = np.split(table[:, row, column], [len(a.trainings)])
                found[case, label][metric.key] = _mean(one), _mean(two)
    return found


def _mean(values: Any) -> float | None:
    value = float(values.mean())
    return value if np.isfinite(value) else None


def _typical(group: Group, means: Means, side: int) -> list[CaseResult]:
    """Return a row for each class of each case with the mean Dice, failed where any training has failed."""
    rows = []
    sides = [side_of(results) for results in group.trainings]
    for first in group.trainings[0]:
        outcomes = [side[first.case, first.label].outcome for side in sides]
        outcome = next((each for each in outcomes if each in FAILURES), first.outcome)
        rows.append(replace(first, dice=means[first.case, first.label]["dice"][side], outcome=outcome))
    return rows


def _dice_of(group: Group, letter: str) -> tuple[str, list[float]]:
    """Return a method's name, and the mean over classes of the mean Dice of each training that has any."""
    found = []
    for results in group.trainings:
        by_class: dict[int, list[float]] = {}
        for row in results:
            if row.dice is not None:
                by_class.setdefault(row.label, []).append(row.dice)
        if by_class:
            found.append(fmean(map(fmean, by_class.values())))
    return f"{letter}: {group.name}", found


def _verdict(comparison: GroupComparison, means: Means) -> Iterator[Card]:
    dice = comparison.means["dice"]
    trainings = f"{plural(comparison.n_a, 'training')} of A, {comparison.n_b} of B"
    yield Card("Which method is better?", VERDICTS[comparison.verdict], f"by mean Dice; {trainings}")
    if dice.difference is None:
        return
    spreads = ", ".join(
        f"{side} {mean:.4f}{'' if std is None else f' ± {std:.4f}'}"
        for side, mean, std in (("A", dice.mean_a, dice.std_a), ("B", dice.mean_b, dice.std_b))
    )
    yield Card("By how much?", f"{dice.difference:+.4f}", f"mean Dice: {spreads} over trainings", Link("classes-note"))
    yield Card("How sure?", _interval(dice, 4), _how_sure(comparison))
    changes = [two - one for pair in means.values() for one, two in [pair["dice"]] if one is not None is not two]
    won = sum(change > EQUAL for change in changes)
    lost = sum(change < -EQUAL for change in changes)
    words = "B better : A better, by the mean over trainings"
    yield Card("In how many structures?", f"{won} : {lost}", words, Link("table"))


def _how_sure(comparison: GroupComparison) -> str:
    dice = comparison.means["dice"]
    if dice.p_value is None:
        return f"{dice.reasons['p_value']}; here {plural(comparison.n_patients, 'patient')}"
    paired = "paired by case and seed" if comparison.paired else "paired by case, not by seed"
    return f"95 % interval over trainings and patients, {paired}; p = {dice.p_value:.2g}, two-sided"


def _steps(comparison: GroupComparison) -> Iterator[Step]:
    """Yield what to do next."""
    if min(comparison.n_a, comparison.n_b) < FEWEST_CROSSED:
        words = f"Train each method {FEWEST_CROSSED} times or more:"
        yield Step(words, command="fewmask train RECIPE dataset=DATASET --seeds 5 --output RUNS")
    if comparison.n_patients < FEWEST:
        ways = "by data.validation_fraction, or in the file that data.split names"
        yield Step(f"Hold out more patients, the same for both methods: {ways}.")
    yield Step("See where B lost most, or gained least: the table begins there.", Link("table"))
    if comparison.verdict == "not_shown":
        yield Step("That none is shown does not say that they are equal: the interval says how large it may be.")


def _row(name: str, metric: Metric, found: GroupDifference, difference: float) -> dict[str, Any]:
    chance = chance_of(found)
    gain = difference if metric.better == "higher" else -difference
    return {
        "name": name,
        "metric": metric.title,
        "n": found.n_patients,
        "a": _spread(metric, found.mean_a, found.std_a),
        "b": _spread(metric, found.mean_b, found.std_b),
        "difference": f"{difference:+.{metric.decimals + 1}f}",
        "interval": _interval(found, metric.decimals + 1),
        "apart": found.interval is not None and not found.interval[0] <= 0 <= found.interval[1],
        "p": "–" if chance is None else f"{chance:.2g}",
        "better": better_side(chance is not None and chance < ALPHA, gain),
    }


def _spread(metric: Metric, mean: float | None, std: float | None) -> str:
    if std is None:
        return metric.shown(mean)
    return f"{metric.shown(mean)} ± {metric.shown(std)}"


def _interval(found: GroupDifference, places: int) -> str:
    if found.interval is None:
        return TOO_FEW
    return "{:+.{p}f} to {:+.{p}f}".format(*found.interval, p=places)


def _page_data(a: Group, b: Group, means: Means, places: Mapping[str, int], shown: Sequence[Metric]) -> dict[str, Any]:
    """Return what the page's script reads, as :func:`pipeline.reports.page.page_data` does."""
    classes = classes_in(a.trainings[0])
    order = {label: n for n, (label, _) in enumerate(classes)}
    failed = [_failed(group) for group in (a, b)]
    metrics = [metric for metric in shown if any(pair[metric.key][0] is not None for pair in means.values())]
    counts = []
    for side, group in (("A", a), ("B", b)):
        note = f"how many of {plural(len(group.trainings), 'training')} missed or invented it"
        counts.append(
            {"key": f"failed{side}", "title": f"Failures {side}", "better": "lower", "decimals": 0, "note": note}
        )
    rows = []
    for (case, label), pair in means.items():
        times = [failures.get((case, label), 0) for failures in failed]
        numbers = [value for metric in metrics for value in _values(*pair[metric.key])]
        outcome = _outcome(times, there=pair["dice"][0] is not None)
        rows.append([places[case], order[label], outcome, [*numbers, *times]])
    there = [key for key in WORST if any(row[2] == key for row in rows)]
    failures = [{"key": "failed", "title": "any fails", "outcomes": there}] if len(there) > 1 else []
    return {
        "cases": [{"id": case, "dice": None} for case in places],
        "classes": [{"value": value, "name": name} for value, name in classes],
        "metrics": [*columns_of(metrics), *counts],
        "outcomes": [{"key": key, "title": title, "bad": key in WORST} for key, title in OUTCOMES.items()],
        "outcome_groups": failures,
        "sorted_by": "diceB − A",
        "words": WORDS,
        "rows": rows,
        "volumes": [],
    }


def _failed(group: Group) -> dict[tuple[str, int], int]:
    """Return in how many trainings each structure was missed or invented, where it was in any."""
    found: dict[tuple[str, int], int] = {}
    for results in group.trainings:
        for row in results:
            if row.outcome in FAILURES:
                found[row.case, row.label] = found.get((row.case, row.label), 0) + 1
    return found


def _outcome(times: Sequence[int], *, there: bool) -> str:
    if all(times):
        return "both"
    if any(times):
        return "a" if times[0] else "b"
    return "scored" if there else "absent"


def _values(a: float | None, b: float | None) -> tuple[float | None, float | None, float | None]:
    if a is None or b is None:
        return a, b, None
    return a, b, b - a
