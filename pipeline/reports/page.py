"""The page of a validation or an evaluation."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any

from pipeline.reports.cards import FAILED, Card, Link, Step
from pipeline.reports.charts import FAILURES
from pipeline.reports.columns import (
    SURFACE_DICE,
    classes_in,
    further_in,
    further_metric,
    metrics_in,
    value_of,
    with_tolerance,
)
from pipeline.reports.figures import figure_of_cases, figures_of_cases, figures_of_training, write_figures
from pipeline.reports.html import as_json, write_page
from pipeline.reports.intervals import TOO_FEW, plural

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pipeline.reports.columns import Metric
    from pipeline.reports.intervals import Interval
    from pipeline.reports.summary import Summary
    from pipeline.reports.volumes import Gallery
    from pipeline.types import CaseResult


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The origin of the figures of a page.

    Attributes:
        title: The heading of the page.
        facts: Names and values to show: checkpoint, dataset, versions, command.
        notes: Notes for the reader of the figures.
        config: The run's recipe as YAML, or "".
        command: How to predict with the run; "" where there is no run.
        history: For each term of the loss, its points: step and value.
        validation: Points of the validation Dice: step and value.
        tolerance_mm: The tolerance of the surface Dice; None if unknown.
    """

    title: str
    facts: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    config: str = ""
    command: str = ""
    history: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    validation: Sequence[tuple[float, float]] = ()
    tolerance_mm: float | None = None


# What the page says of its cases.
WORDS = {
    "truth": True,
    "measure": "mean Dice",
    "order": "worst first",
    "strip": "Worst cases",
    "before": "worse",
    "after": "better",
}
OUTCOMES = {
    "scored": "scored",
    "absent": "absent",
    "missed": "missed",
    "false_positive": "invented",
    "not_annotated": "not annotated",
}


def write_report(
    folder: Path,
    results: Sequence[CaseResult],
    summary: Summary,
    origin: Origin,
    gallery: Gallery | None = None,
    calibration: Mapping[str, Any] | None = None,
) -> None:
    """Write ``report.html`` of a validation or an evaluation, and its figures as files.

    Args:
        folder: Where to write them; it must exist.
        results: One result for each class of each case.
        summary: The summary of the same results.
        origin: The origin of the results.
        gallery: The packed cases for the viewer. If there are too many for a page, the best are left out.
        calibration: The calibration, as in ``summary.json``; None if unknown.
    """
    ranked = rank(results)
    shown = [case for case in ranked if gallery is not None and case in gallery.packed]
    room = []
    if gallery is not None:
        room = shown[: gallery.room]
    volumes = []
    if gallery is not None:
        volumes = [asdict(gallery.packed[case][0]) for case in room]
    places = {case: n for n, case in enumerate(ranked)}
    figures = list(figures_of_cases(results, places, calibration, origin.tolerance_mm))
    metrics = metrics_in(results, origin.tolerance_mm)
    training = list(figures_of_training(origin.history, origin.validation))
    pictures = [] if gallery is None else figure_of_cases(gallery, ranked, [name for _, name in classes_in(results)])
    write_figures(folder, [*figures, *training, *pictures])
    write_page(
        folder / "report.html",
        "report.html",
        ["viewer.js", "review.js", "report.js"],
        {
            "origin": origin,
            "summary": summary,
            "verdict": verdict(summary, ranked),
            "steps": steps(summary, ranked, origin),
            "span_of": span_of,
            "left_out": len(shown) - len(room),
            "has_cases": bool(room),
            "words": WORDS,
            "figures": figures,
            "training": training,
            "metrics": metrics,
            "further": [further_metric(key) for key in further_in(results)],
            "surface_dice": with_tolerance(SURFACE_DICE, origin.tolerance_mm),
            "data": as_json(page_data(results, metrics, ranked, volumes)),
            "blocks": gallery.blocks(room) if gallery is not None else (),
        },
    )


def rank(results: Sequence[CaseResult]) -> dict[str, float | None]:
    """Return the mean Dice of each case over its classes, the worst first; cases without a number come last."""
    numbers: dict[str, list[float]] = {}
    for result in results:
        values = numbers.setdefault(result.case, [])
        if result.dice is not None:
            values.append(result.dice)
    means = {case: fmean(values) if values else None for case, values in numbers.items()}
    return dict(sorted(means.items(), key=lambda pair: (pair[1] is None, pair[1] or 0, pair[0])))


def page_data(
    results: Sequence[CaseResult],
    metrics: Sequence[Metric],
    ranked: Mapping[str, float | None],
    volumes: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return the data that the page's script reads; ``docs/report.md`` describes it."""
    places = {case: n for n, case in enumerate(ranked)}
    classes = classes_in(results)
    order = {label: n for n, (label, _) in enumerate(classes)}
    return {
        "cases": [{"id": case, "dice": mean} for case, mean in ranked.items()],
        "classes": [{"value": value, "name": name} for value, name in classes],
        "metrics": [
            {name: getattr(metric, name) for name in ("key", "title", "better", "decimals", "note")}
            for metric in metrics
        ],
        "outcomes": [{"key": key, "title": title, "bad": key in FAILURES} for key, title in OUTCOMES.items()],
        "outcome_groups": _failures(results),
        "sorted_by": "dice",
        "words": WORDS,
        "rows": [
            [places[r.case], order[r.label], r.outcome, [value_of(r, metric) for metric in metrics]] for r in results
        ],
        "volumes": [dict(volume) | {"case": places[volume["case"]]} for volume in volumes],
    }


def _failures(results: Sequence[CaseResult]) -> list[dict[str, Any]]:
    """Return the outcomes that the table can show together: the failures, if there are several kinds."""
    there = [key for key in FAILURES if any(row.outcome == key for row in results)]
    if len(there) < 2:
        return []
    return [{"key": FAILED, "title": " or ".join(OUTCOMES[key] for key in there), "outcomes": there}]


def span_of(interval: Interval | None) -> str:
    """Return the interval of a Dice as text; None, for too few patients, says so.

    >>> span_of((0.5, 0.75)), span_of(None)
    ('0.500 – 0.750', 'too few to say')
    """
    if interval:
        return "{:.3f} – {:.3f}".format(*interval)
    return TOO_FEW


def verdict(summary: Summary, ranked: Mapping[str, float | None]) -> list[Card]:
    """Return what a reader wants to know first."""
    rows = [row for row in summary.classes if row.dice.mean is not None]
    mean = summary.means["dice"]
    if mean.value is None:
        return [Card("How good?", "–", "No class has a number in any case.")]
    weakest = min(rows, key=lambda row: row.dice.mean or 0)
    missed = sum(row.missed for row in rows)
    invented = sum(row.false_positive for row in rows)
    failed = missed + invented
    per_class = ", ".join(f"{row.name} {row.dice.mean:.3f}" for row in rows[:4])
    if len(rows) > 4:
        per_class += ", …"
    if mean.interval:
        how_sure = (
            f"95 % interval of the mean Dice over {plural(mean.n_patients, 'patient')}; it allows for patients unlike "
            "these"
        )
    else:
        how_sure = mean.reasons["interval"].removeprefix(f"{TOO_FEW}: ")
    worst, lowest = next(iter(ranked.items()))
    return [
        Card("How good?", f"{mean.value:.3f}", f"mean Dice: {per_class}", Link("classes-note")),
        Card("How sure?", span_of(mean.interval), how_sure),
        Card(
            "Where does it fail?",
            plural(failed, "failure") if failed else weakest.name,
            f"{plural(missed, 'structure')} missed, {invented} invented; "
            f"weakest class: {weakest.name}, {weakest.dice.mean:.3f}",
            Link("table", outcome=_outcome_of(missed, invented)),
        ),
        Card("What to look at?", worst, f"the lowest case, mean Dice {lowest:.3f}", Link("cases", case=0)),
    ]


def _outcome_of(missed: int, invented: int) -> str:
    """Return the outcome that shows every failure in the table; "" for none."""
    if missed and invented:
        return FAILED
    if missed:
        return "missed"
    return "false_positive" if invented else ""


def steps(summary: Summary, ranked: Mapping[str, float | None], origin: Origin) -> list[Step]:
    """Return what to do next: look, score more patients, help the classes that are found nowhere, predict."""
    mean = summary.means["dice"]
    if mean.value is None:
        return []
    found = [Step(f"Look at {next(iter(ranked))} and those after it.", Link("cases", case=0))]
    missed = sum(row.missed for row in summary.classes)
    invented = sum(row.false_positive for row in summary.classes)
    if missed + invented:
        words = f"See every structure that was missed or invented ({missed + invented})."
        found.append(Step(words, Link("table", outcome=_outcome_of(missed, invented))))
    never = [row.name for row in summary.classes if row.missed and not row.scored]
    if never and origin.command:
        names = f"{', '.join(never[:4])}{', …' * (len(never) > 4)}"
        words = f"Never found: {names}. Train longer, with more of the patches on foreground:"
        found.append(Step(words, command="data.foreground_share=0.9"))
    if not mean.interval and origin.command:
        words = "Score every patient with a mask, so that there are enough to say how sure it is:"
        found.append(Step(words, command="fewmask train DATASET --folds 5"))
    if origin.command:
        words = "Predict other scans, and look at the least sure masks first; RUN is what this page reports on:"
        found.append(Step(words, command=origin.command))
    return found
