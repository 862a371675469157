"""Charts as SVG. The dot of a case has the case's index in the page's list as ``data-case``, which makes it a link."""

from __future__ import annotations

import math
from statistics import fmean, quantiles
from typing import TYPE_CHECKING

from markupsafe import Markup

from pipeline.reports.axes import (
    COLOURS,
    LEFT,
    RIGHT,
    TITLE,
    Scale,
    legend,
    line,
    scale_around,
    shorten,
    svg,
    text,
    x_axis,
    y_axis,
)
from pipeline.reports.columns import Metric, classes_in, value_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pipeline.types import CaseResult

# The most dots in a chart: more would make a page larger than its volumes do.
MOST_DOTS = 4000
# Points that a curve is drawn with: about two a pixel of half a chart.
POINTS = 240
FAILURES = ("missed", "false_positive")
# Quartiles of fewer cases say less than the cases themselves.
LEAST_BOX = 5
# Where the plot begins below a vertical axis' title.
TOP = TITLE + 8


def distribution(results: Sequence[CaseResult], metric: Metric, places: Mapping[str, int]) -> Markup:
    """Draw every case of every class as a dot, with a box of the quartiles from five cases on.

    Structures that were missed or invented are drawn apart, as crosses.

    Args:
        results: Results of any number of classes; those without a number are left out.
        metric: The metric to draw.
        places: The index of each case in the page's list.
    """
    numbers = [(result, value) for result in results if (value := value_of(result, metric)) is not None]
    sound = [value for result, value in numbers if result.outcome not in FAILURES]
    failures = any(result.outcome in FAILURES for result, _ in numbers)
    left = metric.better == "higher"
    start = LEFT + 44 * (failures and left)
    end = RIGHT - 44 * (failures and not left)
    x = scale_around(sound or [0.0, 1.0], start + 6, end - 6, metric)
    aside = LEFT + 16 if left else RIGHT - 16
    rows = []
    top = 8
    for label, name in classes_in(result for result, _ in numbers):
        group = [(result, value) for result, value in numbers if result.label == label]
        rows.append(_row(group, name, metric, x, top, places, aside))
        top += 58
    grid = x_axis(x, 8, top, metric.decimals)
    if failures:
        edge = start if left else end
        grid += line("gap", edge, 8, edge, top) + text(aside, top + 15, "failed", "tick middle")
    title = f"{metric.title} of every case, by class"
    foot = text((LEFT + RIGHT) / 2, top + 32, metric.title, "tick middle")
    return svg(top + 40, title, grid + Markup("").join(rows) + foot)


def _row(
    group: Sequence[tuple[CaseResult, float]],
    name: str,
    metric: Metric,
    x: Scale,
    top: int,
    places: Mapping[str, int],
    aside: float,
) -> Markup:
    """Draw one class: its name and mean, the box, the dots."""
    middle = top + 37
    sound = sorted(value for result, value in group if result.outcome not in FAILURES)
    mean = fmean(value for _, value in group)
    parts = [
        text(LEFT, top + 13, shorten(name), "name"),
        text(RIGHT, top + 13, f"mean {metric.shown(mean)}  ·  {len(group)}", "tick end"),
    ]
    if len(sound) >= LEAST_BOX:
        first, median, third = quantiles(sound, n=4, method="inclusive")
        width = max(1.5, x(third) - x(first))
        parts += [
            line("whisker", x(sound[0]), middle, x(sound[-1]), middle),
            Markup('<rect class="box" x="{}" y="{}" width="{:.1f}" height="22" rx="3"/>').format(
                x(first), middle - 11, width
            ),
            line("median", x(median), middle - 11, x(median), middle + 11),
        ]
    taken: dict[int, int] = {}
    for result, value in sorted(group, key=lambda pair: pair[1])[:MOST_DOTS]:
        failed = result.outcome in FAILURES
        across = aside if failed else x(value)
        slot = round(across / 5)
        n = taken[slot] = taken.get(slot, -1) + 1
        # Neighbours step aside, up and down in turn, and start again where the row is full.
        down = ((n + 1) // 2 % 4) * 4 * (1 if n % 2 else -1)
        parts.append(dot(across, middle + down, result.case, metric.shown(value), places, failed))
    return Markup("").join(parts)


def scatter(
    results: Sequence[CaseResult], x_metric: Metric, y_metric: Metric, places: Mapping[str, int], height: int = 250
) -> Markup:
    """Draw a metric against the size of each structure, on a logarithmic axis if sizes differ much.

    Each class has a colour. Arguments are as for :func:`distribution`, with a metric for each axis and the height of
    the drawing in pixels.
    """
    points = [
        (result, size, value)
        for result in results
        if (size := value_of(result, x_metric)) and (value := value_of(result, y_metric)) is not None
    ]
    sizes = [size for _, size, _ in points]
    values = [value for *_, value in points]
    x = Scale(low=min(sizes) * 0.8, high=max(sizes) * 1.25, start=LEFT + 34, end=RIGHT, log=max(sizes) > 5 * min(sizes))
    y = scale_around(values, height - 44, TOP, y_metric)
    grid = x_axis(x, TOP, height - 44, 0 if x.low > 5 else 2) + y_axis(y, LEFT + 34, RIGHT, y_metric.title)
    classes = classes_in(results)
    order = {label: n for n, (label, _) in enumerate(classes)}
    dots = [
        dot(
            x(size),
            y(value),
            result.case,
            f"{result.name}, {y_metric.shown(value)}",
            places,
            result.outcome in FAILURES,
            order[result.label],
        )
        for result, size, value in points[:MOST_DOTS]
    ]
    foot = text((LEFT + RIGHT) / 2, height - 8, x_metric.title, "tick middle")
    keys, below = legend([name for _, name in classes], "k", height + 12)
    title = f"{y_metric.title} against {x_metric.title[:1].lower()}{x_metric.title[1:]}"
    return svg(height + below + 6, title, grid + Markup("").join(dots) + foot + keys)


def curves(series: Mapping[str, Sequence[tuple[float, float]]], title: str, y_title: str, height: int = 232) -> Markup:
    """Draw curves over the steps of a training, long ones as means over stretches; "" without any point.

    Args:
        series: For each curve, its name and its points: step and value.
        title: The title for screen readers.
        y_title: The title of the vertical axis.
        height: Height of the drawing in pixels.
    """
    drawn = {name: thinned(points) for name, points in series.items() if points}
    if not drawn:
        return Markup("")
    every = [point for points in drawn.values() for point in points]
    last = max(step for step, _ in every)
    x = Scale(low=0, high=max(last, 1), start=LEFT + 34, end=RIGHT)
    y = scale_around([value for _, value in every], height - 40, TOP)
    lines = [
        Markup('<path class="curve s{}" d="{}"><title>{}</title></path>').format(
            n % COLOURS["s"], path_of(points, x, y), name
        )
        for n, (name, points) in enumerate(drawn.items())
    ]
    foot = text((LEFT + RIGHT) / 2, height - 6, "step", "tick middle")
    grid = x_axis(x, TOP, height - 40, 0) + y_axis(y, LEFT + 34, RIGHT, y_title)
    keys, below = legend(list(drawn) if len(drawn) > 1 else [], "s", height + 12)
    return svg(height + below + 6 * bool(below), title, grid + Markup("").join(lines) + foot + keys)


def reliability(curve: Sequence[Mapping[str, float]], height: int = 250) -> Markup:
    """Draw a reliability diagram: the share of right voxels against the network's confidence, with the diagonal.

    Args:
        curve: Bins with ``confidence``, ``accuracy`` and ``voxels``, as in ``summary.json``; one or more.
        height: Height of the drawing in pixels.
    """
    numbers = [part[key] for part in curve for key in ("confidence", "accuracy")]
    low = min(0.9, math.floor(min(numbers) * 10) / 10)
    x = Scale(low=low, high=1, start=LEFT + 34, end=RIGHT)
    y = Scale(low=low, high=1, start=height - 44, end=TOP)
    most = max(part["voxels"] for part in curve)
    points = [(part["confidence"], part["accuracy"]) for part in curve]
    dots = [
        Markup('<circle class="dot" cx="{}" cy="{}" r="{:.1f}"><title>{:.0f} voxels</title></circle>').format(
            x(sure), y(right), 3 + 5 * math.sqrt(part["voxels"] / most), part["voxels"]
        )
        for (sure, right), part in zip(points, curve, strict=True)
    ]
    joined = Markup('<path class="curve s0" d="{}"/>').format(path_of(points, x, y))
    grid = x_axis(x, TOP, height - 44, 2) + y_axis(y, LEFT + 34, RIGHT, "share of right voxels")
    diagonal = line("gap", x(low), y(low), x(1), y(1))
    foot = text((LEFT + RIGHT) / 2, height - 8, "probability of the label that was given", "tick middle")
    return svg(height, "Share of right voxels by confidence", grid + diagonal + joined + Markup("").join(dots) + foot)


def thinned(points: Sequence[tuple[float, float]], most: int = POINTS) -> list[tuple[float, float]]:
    """Return at most ``most`` points, each the mean of a stretch of points; none for no points.

    >>> thinned([])
    []
    >>> thinned([(1, 1.0), (2, 3.0), (3, 5.0), (4, 7.0)], most=2)
    [(1.5, 2.0), (3.5, 6.0)]
    """
    size = max(1, math.ceil(len(points) / most))
    stretches = [points[n : n + size] for n in range(0, len(points), size)]
    return [(fmean(step for step, _ in part), fmean(value for _, value in part)) for part in stretches]


def path_of(points: Iterable[tuple[float, float]], x: Scale, y: Scale) -> str:
    """Return a line through points as the ``d`` of an SVG path."""
    return "M" + " L".join(f"{x(step)} {y(value)}" for step, value in points)


def dot(
    x: float, y: float, case: str, value: str, places: Mapping[str, int], failed: bool, colour: int | None = None
) -> Markup:
    """Draw the dot of a case, or a cross for a failure, with a tooltip.

    Args:
        x: Horizontal position in pixels.
        y: Vertical position in pixels.
        case: The case's id.
        value: The rest of the tooltip.
        places: The index of each case in the page's list.
        failed: Whether to draw a cross.
        colour: Number of the colour; None for the default one.
    """
    coloured = "" if colour is None else f" tinted k{colour % COLOURS['k']}"
    title = Markup("<title>{}: {}</title>").format(case, value)
    if failed:
        cross = Markup('<path class="fail{}" data-case="{}" d="M{} {}l6 6m0 -6l-6 6">{}</path>')
        return cross.format(coloured, places[case], round(x - 3, 1), round(y - 3, 1), title)
    circle = Markup('<circle class="dot{}" data-case="{}" cx="{}" cy="{}" r="3">{}</circle>')
    return circle.format(coloured, places[case], x, y, title)
