"""The figures of a report: the same drawings on its page and as files for a paper or a slide."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from pipeline.files import atomic_write
from pipeline.reports import charts, overlays, paired_charts
from pipeline.reports.axes import LEFT
from pipeline.reports.columns import METRICS, metrics_in, value_of
from pipeline.reports.html import asset

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from markupsafe import Markup

    from pipeline.reports.comparison import Comparison
    from pipeline.reports.groups import GroupComparison
    from pipeline.reports.volumes import Gallery
    from pipeline.types import CaseResult

FOLDER = "figures"
KINDS = ("svg", "png")
QUESTIONS = {
    "dice": "How well do the masks overlap?",
    "surface_dice": "How much of the surface is right?",
    "hd95_mm": "How far off are the worst borders?",
    "volume_difference": "Too large or too small?",
}
OTHER_FIGURES = ("size", "reliability", "validation", "loss", "difference", "trainings", "paired", "cases")
# All that a report may write, replace or delete.
REPORT_FILES = (
    "report.html",
    *(f"{FOLDER}/{name}.{kind}" for name in (*QUESTIONS, *OTHER_FIGURES) for kind in KINDS),
)
# A column of a paper is about 3.3 inches wide: 300 dots an inch and some to spare.
ZOOM = 3
EDGE = 10
TITLE = 20


@dataclass(frozen=True, slots=True)
class Figure:
    """One drawing.

    Attributes:
        name: The name of its files.
        question: The question that it is about, as a heading.
        drawing: The SVG.
        caption: What it shows.
    """

    name: str
    question: str
    drawing: Markup
    caption: str


def figures_of_cases(
    results: Sequence[CaseResult],
    places: Mapping[str, int],
    calibration: Mapping[str, Any] | None = None,
    tolerance_mm: float | None = None,
) -> Iterator[Figure]:
    """Yield the figures of a validation.

    Args:
        results: One result for each class of each case.
        places: The index of each case in the page's list.
        calibration: The calibration, as in ``summary.json``; None if unknown.
        tolerance_mm: The tolerance of the surface Dice; None if unknown.
    """
    metrics = metrics_in(results, tolerance_mm)
    for metric in metrics:
        if metric.charted:
            caption = (
                f"{metric.title}: {metric.note}. A dot is a case; from five cases with both masks on the box holds the "
                "middle half of them and its line is their median. Crosses are structures missed or invented; means "
                "count them."
            )
            yield Figure(metric.key, QUESTIONS[metric.key], charts.distribution(results, metric, places), caption)
    by_key = {metric.key: metric for metric in METRICS}
    size = next((m for m in metrics if m.key in ("volume_truth_ml", "voxels_truth")), None)
    if size is not None and any(value_of(r, size) and r.dice is not None for r in results):
        drawing = charts.scatter(results, size, by_key["dice"], places)
        caption = "Dice of every structure against its true size, a colour a class; crosses were missed."
        yield Figure("size", "Does it fail on small structures?", drawing, caption)
    if calibration and calibration["curve"]:
        caption = (
            f"Expected calibration error {calibration['ece']:.3f} over the {calibration['voxels']} voxels that were in "
            "doubt; a dot's area is their number. Below the dashed line the network is surer than it is right."
        )
        drawing = charts.reliability(calibration["curve"])
        yield Figure("reliability", "Is it right as often as it is sure?", drawing, caption)


def figure_of_cases(gallery: Gallery, ranked: Mapping[str, float | None], names: Sequence[str]) -> Iterator[Figure]:
    """Yield a figure of the worst, the median and the best case, where there are pictures of cases.

    Args:
        gallery: The packed cases.
        ranked: The mean Dice of each case, the worst first.
        names: The names of the classes, in the order of their places in the gallery.
    """
    cases = overlays.chosen({case: value for case, value in ranked.items() if case in gallery.packed})
    if cases:
        packed = [(gallery.packed[case][0], block) for case, block in zip(cases, gallery.blocks(cases), strict=True)]
        caption = f"{overlays.TITLES[len(cases)]}, at the slice with the most wrong voxels."
        yield Figure("cases", "How do the masks look?", overlays.overlay(packed, ranked, names), caption)


def figures_of_training(
    history: Mapping[str, Sequence[tuple[float, float]]], validation: Sequence[tuple[float, float]]
) -> Iterator[Figure]:
    """Yield the curves of a training: the validation Dice, and the terms of the loss."""
    if len(validation) > 1:
        drawing = charts.curves({"validation Dice": validation}, "Validation Dice by step", "mean Dice")
        caption = "Mean Dice on the validation cases during the training."
        yield Figure("validation", "Had it stopped improving?", drawing, caption)
    if history:
        drawing = charts.curves(history, "Terms of the loss by step", "loss")
        caption = "Each term before its weight, and their weighted sum; means over stretches of steps."
        yield Figure("loss", "Did the loss fall?", drawing, caption)


def figures_of_comparison(
    comparison: Comparison, a: Sequence[CaseResult], b: Sequence[CaseResult], places: Mapping[str, int]
) -> Iterator[Figure]:
    """Yield the figures of a comparison; see :func:`figures_of_cases` for the arguments."""
    rows = []
    if len(comparison.classes) > 1:
        rows = [("all classes", comparison.means["dice"])]
    rows += [(found.name, found.metrics["dice"]) for found in comparison.classes]
    if any(found.difference is not None for _, found in rows):
        caption = "Difference of Dice of the median patient, B − A, and its 95 % interval, which needs six patients."
        told = [(name, found.median, found.interval) for name, found in rows]
        drawing = paired_charts.differences(told, "Difference of Dice of the median patient, B − A")
        yield Figure("difference", "How large is the difference?", drawing, caption)
        caption = "A dot is a structure of a case. Above the dashed line B is better. Crosses were missed or invented."
        yield Figure("paired", "Is it so in every case?", paired_charts.paired(a, b, places), caption)


def figures_of_groups(
    comparison: GroupComparison,
    a: Sequence[CaseResult],
    b: Sequence[CaseResult],
    dice: Sequence[tuple[str, Sequence[float]]],
    places: Mapping[str, int],
) -> Iterator[Figure]:
    """Yield the figures of a comparison of two methods.

    Args:
        comparison: The comparison.
        a: The means over the trainings of the first method, a row for each class of each case.
        b: Those of the second.
        dice: The name of each method, and the mean Dice of its trainings.
        places: The index of each case in the page's list.
    """
    rows = []
    if len(comparison.classes) > 1:
        rows = [("all classes", comparison.means["dice"])]
    rows += [(found.name, found.metrics["dice"]) for found in comparison.classes]
    if all(found.difference is None for _, found in rows):
        return
    told = [(name, found.difference, found.interval) for name, found in rows]
    drawing = paired_charts.differences(told, "Difference of mean Dice, B − A")
    caption = (
        "Difference of mean Dice, B − A, and its 95 % interval over trainings and patients, which needs three "
        "trainings of each and six patients."
    )
    yield Figure("difference", "How large is the difference?", drawing, caption)
    if all(values for _, values in dice):
        caption = "A dot is a training: its mean Dice, each class alike. The line is their mean."
        yield Figure("trainings", "How much is chance of the training?", paired_charts.trainings(dice), caption)
    caption = (
        "A dot is a structure of a case, by the mean over trainings. Above the dashed line B is better. Crosses were "
        "missed or invented by a training."
    )
    yield Figure("paired", "Is it so in every case?", paired_charts.paired(a, b, places), caption)


def write_figures(folder: Path, figures: Sequence[Figure]) -> None:
    """Write each figure as ``figures/NAME.svg`` and ``figures/NAME.png``, and delete those of an earlier report."""
    import resvg_py

    place = folder / FOLDER
    place.mkdir(exist_ok=True)
    for name in {*QUESTIONS, *OTHER_FIGURES} - {figure.name for figure in figures}:
        for kind in KINDS:
            (place / f"{name}.{kind}").unlink(missing_ok=True)
    for figure in figures:
        drawing = standalone(figure.drawing)
        image = resvg_py.svg_to_bytes(drawing, zoom=ZOOM, skip_system_fonts=True, font_files=_fonts())
        for kind, content in zip(KINDS, (drawing.encode(), bytes(image)), strict=True):
            with atomic_write(place / f"{figure.name}.{kind}") as partial:
                partial.write_bytes(content)


def standalone(drawing: Markup) -> str:
    """Return a drawing of the page as an SVG file of its own, with a title, on white, in the page's light colours."""
    svg = re.fullmatch(r'<svg viewBox="0 0 (\S+) (\S+)" (.*?aria-label="(.*?)".*?)>(.*)', str(drawing), re.DOTALL)
    assert svg is not None
    width = float(svg[1]) + 2 * EDGE
    height = float(svg[2]) + 2 * EDGE + TITLE
    corner = f"{-EDGE} {-EDGE - TITLE}"
    return (
        f'<svg viewBox="{corner} {width:g} {height:g}" width="{width:g}" height="{height:g}" {svg[3]}>'
        f"<style>{_style()}</style>"
        f'<rect x="{-EDGE}" y="{-EDGE - TITLE}" width="100%" height="100%" fill="#fff"/>'
        f'<text class="name" x="{LEFT}" y="-10">{svg[4]}</text>{_visible(svg[5])}'
    )


def _visible(text: str) -> str:
    """Replace characters that XML does not allow, which names of files may have."""
    return re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)


@cache
def _style() -> str:
    """Return the page's style rules for drawings, with colour variables replaced by the colours of the light theme."""
    sheet = asset("report.css")
    colours = {
        name: light or plain
        for name, light, plain in re.findall(r"(--\w+): (?:light-dark\((#\w+), #\w+\)|(#\w+));", sheet)
    }
    rules = re.findall(r"(?m)^svg [^{@:]+\{[^}]*\}|\.[ks]\d+ \{[^}]*\}", sheet)
    text = re.sub(r"var\((--\w+)\)", lambda name: colours[name[1]], "\n".join(rules))
    return f"svg {{ font-family: 'DejaVu Sans', Helvetica, Arial, sans-serif; }}\n{text}"


@cache
def _fonts() -> list[str]:
    """Return the font that comes with matplotlib, so that a PNG looks the same on a machine without fonts."""
    from matplotlib import get_data_path

    return [f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf"]
