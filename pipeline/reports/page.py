"""The page of a validation: one file that needs no other, and may run and load nothing but what is in it.

Everything that comes from the user's files reaches the page through Jinja's escaping or as JSON in a data block, which
the script puts on the screen as text. The security policy names the one style and the one script by their hashes, and
forbids every request, so that even a name that slipped through could neither run nor tell anybody.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from statistics import fmean
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from pipeline.files import atomic_write
from pipeline.reports import charts
from pipeline.reports.columns import METRICS, classes_in, metrics_in, value_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from pipeline.reports.columns import Metric
    from pipeline.reports.summary import Summary
    from pipeline.reports.volumes import Gallery
    from pipeline.types import CaseResult

QUESTIONS = {
    "dice": "How well do the masks overlap?",
    "surface_dice": "How much of the surface is right?",
    "hd95_mm": "How far off are the worst borders?",
    "volume_difference": "Too large or too small?",
}


@dataclass(frozen=True)
class Origin:
    """Where the figures come from.

    Attributes:
        title: The head of the page.
        facts: Names and values: checkpoint, dataset, versions, command.
        notes: What a reader of the figures has to know.
        config: The run's recipe as YAML, or "".
        history: Steps and values of each term of the loss.
        validation: Steps and validation Dice.
    """

    title: str
    facts: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    config: str = ""
    history: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    validation: Sequence[tuple[float, float]] = ()


def write_report(
    path: Path, results: Sequence[CaseResult], summary: Summary, origin: Origin, gallery: Gallery | None = None
) -> None:
    """Write the page of a validation or an evaluation.

    Args:
        path: The file; its folder must exist.
        results: One row a class of a case.
        summary: Of the same results.
        origin: Where they come from.
        gallery: The cases to look at; those that a page has no room for are left out, the best first.
    """
    ranked = rank(results)
    shown = [case for case in ranked if gallery is not None and case in gallery.packed]
    room = shown[: gallery.room] if gallery is not None else []
    volumes = [asdict(gallery.packed[case][0]) for case in room] if gallery is not None else []
    metrics = metrics_in(results)
    write_page(
        path,
        "report.html",
        ["viewer.js", "report.js"],
        {
            "origin": origin,
            "summary": summary,
            "verdict": verdict(summary, ranked),
            "ranked": list(ranked.items()),
            "left_out": len(shown) - len(room),
            "has_cases": bool(room),
            "figures": list(_figures(results, metrics, {case: n for n, case in enumerate(ranked)})),
            "curves": list(_curves(origin)),
            "data": as_json(page_data(results, metrics, ranked, volumes)),
            "blocks": gallery.blocks(room) if gallery is not None else (),
            "metrics": metrics,
        },
    )


def write_page(path: Path, template: str, scripts: Sequence[str], content: Mapping[str, Any]) -> None:
    """Render a template piece by piece, so that a large page is never whole in memory."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(asset),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = lambda value, digits=3: "–" if value is None else f"{value:.{digits}f}"
    script, style = "\n".join(map(asset, scripts)), asset("report.css")
    policy = (
        f"default-src 'none'; script-src '{digest(script)}'; style-src '{digest(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    page = environment.get_template(template)
    with atomic_write(path) as partial, partial.open("w", encoding="utf-8", errors="backslashreplace") as stream:
        for piece in page.generate(content, policy=policy, script=Markup(script), style=Markup(style)):
            stream.write(piece)


def asset(name: str) -> str:
    """Return a template, a style or a script of this package."""
    return files("pipeline.reports").joinpath("assets", name).read_text(encoding="utf-8")


def digest(text: str) -> str:
    """Return what a security policy calls a script or a style by.

    >>> digest("")
    'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='
    """
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def as_json(content: object) -> Markup:
    """Return JSON that can stand inside a script element: no character of it can end the element."""
    text = json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def rank(results: Sequence[CaseResult]) -> dict[str, float | None]:
    """Return the mean Dice of each case over its classes, the worst first; cases without a number come last."""
    numbers: dict[str, list[float]] = {}
    for result in results:
        numbers.setdefault(result.case, []).extend([] if result.dice is None else [result.dice])
    means = {case: fmean(values) if values else None for case, values in numbers.items()}
    return dict(sorted(means.items(), key=lambda pair: (pair[1] is None, pair[1] or 0, pair[0])))


def page_data(
    results: Sequence[CaseResult],
    metrics: Sequence[Metric],
    ranked: Mapping[str, float | None],
    volumes: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return what the page's script reads; ``docs/report.md`` describes it."""
    places = {case: n for n, case in enumerate(ranked)}
    classes = classes_in(results)
    order = {label: n for n, (label, _) in enumerate(classes)}
    return {
        "cases": [{"id": case, "dice": mean} for case, mean in ranked.items()],
        "classes": [{"value": value, "name": name} for value, name in classes],
        "metrics": [
            {"key": metric.key, "title": metric.title, "better": metric.better, "decimals": metric.decimals}
            for metric in metrics
        ],
        "rows": [
            [places[r.case], order[r.label], r.outcome, [value_of(r, metric) for metric in metrics]] for r in results
        ],
        "volumes": [dict(volume) | {"case": places[volume["case"]]} for volume in volumes],
    }


def verdict(summary: Summary, ranked: Mapping[str, float | None]) -> list[tuple[str, str, str]]:
    """Return question, figure and explanation of what a reader wants to know first."""
    rows = [row for row in summary.classes if row.dice.mean is not None]
    mean = summary.means["dice"]
    if mean.value is None:
        return [("How good?", "–", "No class has a number in any case.")]
    weakest = min(rows, key=lambda row: row.dice.mean or 0)
    missed, invented = sum(row.missed for row in rows), sum(row.false_positive for row in rows)
    failed = missed + invented
    per_class = ", ".join(f"{row.name} {row.dice.mean:.3f}" for row in rows[:4])
    worst, lowest = next(iter(ranked.items()))
    return [
        ("How good?", f"{mean.value:.3f}", f"mean Dice: {per_class}{', …' if len(rows) > 4 else ''}"),
        (
            "How sure?",
            "{:.3f} – {:.3f}".format(*mean.interval) if mean.interval else "–",
            f"95 % interval of the mean Dice over {plural(summary.n_patients, 'patient')}"
            if mean.interval
            else mean.reasons.get("interval", ""),
        ),
        (
            "Where does it fail?",
            plural(failed, "failure") if failed else weakest.name,
            f"{plural(missed, 'structure')} missed, {invented} invented; "
            f"weakest class: {weakest.name}, {weakest.dice.mean:.3f}",
        ),
        ("What to look at?", worst, f"the lowest case, mean Dice {lowest:.3f}"),
    ]


def plural(n: int, noun: str) -> str:
    """Return a number with its noun.

    >>> plural(1, "case"), plural(2, "case")
    ('1 case', '2 cases')
    """
    return f"{n} {noun}{'s' * (n != 1)}"


def _figures(
    results: Sequence[CaseResult], metrics: Sequence[Metric], places: Mapping[str, int]
) -> Iterator[tuple[str, Markup, str]]:
    """Yield the question, the drawing and the caption of each figure of the cases."""
    for metric in metrics:
        if metric.charted:
            caption = (
                f"{metric.title}: a dot is a case, the box holds the middle half of the cases with both masks and its "
                "line is their median. Crosses are structures missed or invented; means count them."
            )
            yield QUESTIONS[metric.key], charts.distribution(results, metric, places), caption
    by_key = {metric.key: metric for metric in METRICS}
    size = next((m for m in metrics if m.key in ("volume_truth_ml", "voxels_truth")), None)
    if size is not None and any(value_of(r, size) and r.dice is not None for r in results):
        yield (
            "Does it fail on small structures?",
            charts.scatter(results, size, by_key["dice"], places),
            "Dice of every structure against its true size, a colour a class; crosses were missed.",
        )


def _curves(origin: Origin) -> Iterator[tuple[str, Markup, list[str], str]]:
    """Yield question, drawing, names of the lines and caption of each figure of the training."""
    if origin.validation:
        drawing = charts.curves({"validation Dice": origin.validation}, "Validation Dice by step")
        yield "Had it stopped improving?", drawing, [], "Mean Dice on the validation cases during the training."
    if origin.history:
        drawing = charts.curves(origin.history, "Terms of the loss by step")
        caption = "Each term before its weight, and their weighted sum; means over stretches of steps."
        yield "Did the loss fall?", drawing, list(origin.history), caption
