"""The page of a comparison: the conclusion first, and every number that it is based on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.reports.cards import Card, Link, Step
from pipeline.reports.charts import FAILURES
from pipeline.reports.columns import METRICS, classes_in, with_tolerance
from pipeline.reports.comparison import ALPHA, TRAININGS, chance_of, is_apart
from pipeline.reports.figures import figures_of_comparison, write_figures
from pipeline.reports.html import as_json, write_page
from pipeline.reports.intervals import TOO_FEW, plural
from pipeline.reports.page import OUTCOMES, WORDS
from pipeline.reports.pairs import side_of
from pipeline.reports.summary import HEADLINES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from pipeline.reports.columns import Metric
    from pipeline.reports.comparison import Comparison, Difference
    from pipeline.reports.groups import GroupComparison
    from pipeline.reports.page import Origin
    from pipeline.types import CaseResult

SHOWN = [metric for metric in METRICS if metric.key in HEADLINES]
# The group of all outcomes that differ between the sides.
CHANGED = "changed"
VERDICTS = {
    "a_better": "A is better",
    "b_better": "B is better",
    "mixed": "mixed evidence",
    "not_shown": "no difference shown",
    "too_few": TOO_FEW,
}


def write_comparison(
    folder: Path, comparison: Comparison, a: Sequence[CaseResult], b: Sequence[CaseResult], origin: Origin
) -> None:
    """Write ``report.html`` of a comparison, and its figures as files.

    Args:
        folder: Where to write them; it must exist.
        comparison: The comparison of ``a`` and ``b``.
        a: The results of the first side, one for each class of each case.
        b: Those of the second side, for the same cases and classes.
        origin: The origin of the results.
    """
    cases = list(dict.fromkeys(row.case for row in a))
    places = {case: n for n, case in enumerate(cases)}
    figures = list(figures_of_comparison(comparison, a, b, places))
    metrics = [with_tolerance(metric, origin.tolerance_mm) for metric in SHOWN]
    write_figures(folder, figures)
    write_page(
        folder / "report.html",
        "comparison.html",
        ["viewer.js", "review.js", "report.js"],
        {
            "origin": origin,
            "comparison": comparison,
            "verdict": list(_verdict(comparison)),
            "steps": list(_steps(comparison)),
            "rows": list(rows_of(comparison, metrics, _row)),
            "metrics": metrics,
            "figures": figures,
            "training": (),
            "data": as_json(_page_data(a, b, places, metrics)),
            "blocks": (),
        },
    )


def _verdict(comparison: Comparison) -> Iterator[Card]:
    dice = comparison.means["dice"]
    test = comparison.wilcoxon
    yield Card(
        "Which is better?",
        VERDICTS[comparison.verdict],
        f"by mean Dice over {plural(comparison.n_patients, 'patient')}",
    )
    if dice.difference is not None:
        means = f"mean Dice: A {dice.mean_a:.4f}, B {dice.mean_b:.4f}"
        yield Card("By how much?", f"{dice.difference:+.4f}", means, Link("classes-note"))
        interval = TOO_FEW
        if dice.interval:
            interval = "{:+.4f} to {:+.4f}".format(*dice.interval)
        chance = test.reasons["p_value"] if test.p_value is None else f"Wilcoxon p = {test.p_value:.2g}, two-sided"
        about = f"95 % interval of the median patient's difference, {dice.median:+.4f}"
        why = about
        if not dice.interval:
            why = dice.reasons["interval"].removeprefix(f"{TOO_FEW}: ")
        yield Card("How sure?", interval, f"{why}; {chance}")
    counts = f"{len(comparison.better)} : {len(comparison.worse)}"
    equal = ""
    if comparison.equal:
        equal = f", {len(comparison.equal)} equal"
    yield Card(
        "In how many cases?",
        counts,
        f"B better : A better{equal}; {plural(len(comparison.changed), 'structure')} changed sides",
        Link("table"),
    )


def _steps(comparison: Comparison) -> Iterator[Step]:
    """Yield what to do next."""
    if comparison.changed:
        words = f"See the structures that changed sides ({len(comparison.changed)})."
        yield Step(words, Link("table", outcome=CHANGED))
    yield Step("See where B lost most, or gained least: the table begins there.", Link("table"))
    if comparison.verdict == "too_few":
        yield Step("Score every patient with a mask, on both sides:", command="fewmask train DATASET --folds 5")
    if comparison.scope == TRAININGS:
        words = "Compare methods rather than two trainings: train each with several seeds, and compare their folders:"
        yield Step(words, command="fewmask train RECIPE dataset=DATASET --seeds 5 --output RUNS")


def rows_of(
    comparison: Comparison | GroupComparison, metrics: Sequence[Metric], row: Callable[..., dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Yield a row of text for each class and metric that has a difference, all classes together first."""
    groups: list[tuple[str, Mapping[str, Any]]] = []
    if len(comparison.classes) > 1:
        groups = [("all classes", comparison.means)]
    groups += [(found.name, found.metrics) for found in comparison.classes]
    for name, differences in groups:
        for metric in metrics:
            if (found := differences[metric.key]).difference is not None:
                yield row(name, metric, found, found.difference)


def _row(name: str, metric: Metric, found: Difference, difference: float) -> dict[str, Any]:
    places = metric.decimals + 1
    apart = is_apart(found)
    agreed = found.interval is not None and difference * found.interval[0] > 0
    gain = difference if metric.better == "higher" else -difference
    chance = chance_of(found)
    interval = TOO_FEW
    if found.interval:
        interval = "{:+.{p}f} to {:+.{p}f}".format(*found.interval, p=places)
    return {
        "name": name,
        "metric": metric.title,
        "n": found.n,
        "a": metric.shown(found.mean_a),
        "b": metric.shown(found.mean_b),
        "difference": f"{difference:+.{places}f}",
        "median": f"{found.median:+.{places}f}",
        "interval": interval,
        "apart": apart,
        "p": "–" if chance is None else f"{chance:.2g}",
        "better": better_side(apart and agreed and chance is not None and chance < ALPHA, gain),
    }


def better_side(shown: bool, gain: float) -> str:
    """Return which side is better, ``A`` or ``B``; a dash where no difference is shown."""
    if not shown:
        return "–"
    return "B" if gain > 0 else "A"


def _page_data(
    a: Sequence[CaseResult], b: Sequence[CaseResult], places: dict[str, int], shown: Sequence[Metric]
) -> dict[str, Any]:
    """Return what the page's script reads, as :func:`pipeline.reports.page.page_data` does."""
    second = side_of(b)
    pairs = [(one, second[one.case, one.label]) for one in a]
    classes = classes_in(a)
    order = {label: n for n, (label, _) in enumerate(classes)}
    outcomes = dict.fromkeys(_outcome(*pair) for pair in pairs)
    changed = list(dict.fromkeys(_outcome(one, two)[0] for one, two in pairs if one.outcome != two.outcome))
    metrics = [metric for metric in shown if any(_values(*pair, metric)[2] is not None for pair in pairs)]
    return {
        "cases": [{"id": case, "dice": None} for case in places],
        "classes": [{"value": value, "name": name} for value, name in classes],
        "metrics": columns_of(metrics),
        "outcomes": [{"key": key, "title": key, "bad": bad} for key, bad in outcomes],
        "outcome_groups": [{"key": CHANGED, "title": "changed sides", "outcomes": changed}] if changed else [],
        "sorted_by": "diceB − A",
        "words": WORDS,
        "rows": [
            [
                places[one.case],
                order[one.label],
                _outcome(one, two)[0],
                [value for metric in metrics for value in _values(one, two, metric)],
            ]
            for one, two in pairs
        ],
        "volumes": [],
    }


def columns_of(metrics: Sequence[Metric]) -> list[dict[str, Any]]:
    """Return three columns of the page's table for each metric: A, B, and their difference."""
    return [
        {
            "key": f"{metric.key}{side}",
            "title": f"{metric.title} {side}",
            "better": metric.better,
            "decimals": n,
            "note": metric.note,
        }
        for metric in metrics
        for side, n in (("A", metric.decimals), ("B", metric.decimals), ("B − A", metric.decimals + 1))
    ]


def _outcome(one: CaseResult, two: CaseResult) -> tuple[str, bool]:
    """Return the outcome as text, both outcomes if they differ, and whether that of B is a failure."""
    words = OUTCOMES[one.outcome]
    if one.outcome != two.outcome:
        words += f" → {OUTCOMES[two.outcome]}"
    return words, two.outcome in FAILURES


def _values(one: CaseResult, two: CaseResult, metric: Metric) -> tuple[float | None, float | None, float | None]:
    a = getattr(one, metric.key)
    b = getattr(two, metric.key)
    if a is None or b is None:
        return a, b, None
    return a, b, b - a
