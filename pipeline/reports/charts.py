"""Charts as SVG text that takes its colours from the page, so that one drawing serves light, dark and paper.

Nothing here carries a ``style`` attribute: the page's security policy forbids it. Text from the user's files is escaped
by ``Markup``. A dot that stands for a case has its place in the page's list as ``data-case``, which makes it a link.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean, quantiles
from typing import TYPE_CHECKING

from markupsafe import Markup

from pipeline.reports.columns import Metric, classes_in, value_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pipeline.types import CaseResult

WIDTH, LEFT, RIGHT = 460, 12, 448
# Beyond these, names and points of the page would outweigh its volumes.
MOST_DOTS = 4000
# Points that a curve is drawn with: about two a pixel of half a chart.
POINTS = 240
FAILED = ("missed", "false_positive")


@dataclass(frozen=True, slots=True)
class Scale:
    """Turns values into pixels, evenly or by their logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the pixel of a value; one outside the scale is at its end."""
        low, high, value = (math.log10(x) if self.log else x for x in (self.low, self.high, max(value, self.low)))
        share = (min(value, high) - low) / (high - low)
        return round(self.start + share * (self.end - self.start), 1)

    @property
    def ticks(self) -> list[float]:
        """Round values along the scale: the powers of ten of a logarithmic one, about five of another."""
        if self.log:
            powers = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
            return [10.0**power for power in powers]
        step = nice_step(self.high - self.low)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(n * step, 10) for n in range(first, last + 1)]


def nice_step(span: float, parts: int = 4) -> float:
    """Return 1, 2 or 5 times a power of ten that goes about ``parts`` times into a span.

    >>> nice_step(0.36), nice_step(90)
    (0.1, 20.0)
    """
    power = 10.0 ** math.floor(math.log10(span / parts))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power * parts >= span * 0.8)


def scale_around(values: Sequence[float], start: float, end: float, metric: Metric | None = None) -> Scale:
    """Return a scale of round ends that holds all values, and stays inside what the metric can be."""
    low, high = min(values), max(values)
    if high - low < 1e-9:
        low, high = low - 0.05 * max(abs(low), 1), high + 0.05 * max(abs(high), 1)
    step = nice_step(high - low)
    low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    if metric is not None and metric.high is not None:
        high = min(metric.high, high)
    if metric is not None and metric.low is not None:
        low = max(metric.low, low)
    return Scale(low, high, start, end)


def distribution(results: Sequence[CaseResult], metric: Metric, places: Mapping[str, int]) -> Markup:
    """Draw every case of every class as a dot, with the box of their quartiles; failures stand apart as crosses.

    Args:
        results: Of any number of classes; those without a number are left out.
        metric: What to draw.
        places: The place of each case in the page's list.
    """
    numbers = [(result, value) for result in results if (value := value_of(result, metric)) is not None]
    sound = [value for result, value in numbers if result.outcome not in FAILED]
    failures = any(result.outcome in FAILED for result, _ in numbers)
    left = metric.better == "higher"
    start, end = (LEFT + 44 * (failures and left), RIGHT - 44 * (failures and not left))
    x = scale_around(sound or [0.0, 1.0], start + 6, end - 6, metric)
    rows, top = [], 8
    for label, name in classes_in(result for result, _ in numbers):
        group = [(result, value) for result, value in numbers if result.label == label]
        rows.append(_row(group, name, metric, x, top, places, LEFT + 16 if left else RIGHT - 16))
        top += 58
    grid = _x_axis(x, 8, top, metric.decimals)
    if failures:
        edge = start if left else end
        grid += _line("gap", edge, 8, edge, top) + _text(
            LEFT + 16 if left else RIGHT - 16, top + 15, "failed", "tick middle"
        )
    title = f"{metric.title} of every case, by class"
    return _svg(top + 24, title, grid + Markup("").join(rows))


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
    sound = sorted(value for result, value in group if result.outcome not in FAILED)
    mean = fmean(value for _, value in group)
    parts = [
        _text(LEFT, top + 13, shorten(name), "name"),
        _text(RIGHT, top + 13, f"mean {metric.shown(mean)}  ·  {len(group)}", "tick end"),
    ]
    if len(sound) > 1:
        first, median, third = quantiles(sound, n=4, method="inclusive")
        width = max(1.5, x(third) - x(first))
        parts += [
            _line("whisker", x(sound[0]), middle, x(sound[-1]), middle),
            Markup('<rect class="box" x="{}" y="{}" width="{:.1f}" height="22" rx="3"/>').format(
                x(first), middle - 11, width
            ),
            _line("median", x(median), middle - 11, x(median), middle + 11),
        ]
    taken: dict[int, int] = {}
    for result, value in sorted(group, key=lambda pair: pair[1])[:MOST_DOTS]:
        failed = result.outcome in FAILED
        across = aside if failed else x(value)
        slot = round(across / 5)
        n = taken[slot] = taken.get(slot, -1) + 1
        # Neighbours step aside, up and down in turn, and start again where the row is full.
        down = ((n + 1) // 2 % 4) * 4 * (1 if n % 2 else -1)
        parts.append(_dot(across, middle + down, result.case, metric.shown(value), places, failed))
    return Markup("").join(parts)


def scatter(
    results: Sequence[CaseResult], x_metric: Metric, y_metric: Metric, places: Mapping[str, int], height: int = 236
) -> Markup:
    """Draw one metric against the size of the structure, which is on a logarithmic axis, a colour a class."""
    points = [
        (result, size, value)
        for result in results
        if (size := value_of(result, x_metric)) and (value := value_of(result, y_metric)) is not None
    ]
    sizes, values = [size for _, size, _ in points], [value for *_, value in points]
    x = Scale(min(sizes) * 0.8, max(sizes) * 1.25, LEFT + 34, RIGHT, log=max(sizes) > 5 * min(sizes))
    y = scale_around(values, height - 44, 12, y_metric)
    grid = _x_axis(x, 12, height - 44, 0 if x.low > 5 else 2) + _y_axis(y, LEFT + 34, RIGHT)
    order = {label: n for n, (label, _) in enumerate(classes_in(results))}
    dots = [
        _dot(
            x(size),
            y(value),
            result.case,
            f"{result.name}, {y_metric.shown(value)}",
            places,
            result.outcome in FAILED,
            order[result.label],
        )
        for result, size, value in points[:MOST_DOTS]
    ]
    foot = _text((LEFT + RIGHT) / 2, height - 8, x_metric.title, "tick middle")
    return _svg(height, f"{y_metric.title} against {x_metric.title}", grid + Markup("").join(dots) + foot)


def curves(series: Mapping[str, Sequence[tuple[float, float]]], title: str, height: int = 220) -> Markup:
    """Draw lines over the steps of a training; long ones by the mean of each of a few hundred stretches."""
    drawn = {name: thinned(points) for name, points in series.items() if points}
    if not drawn:
        return Markup("")
    every = [point for points in drawn.values() for point in points]
    last = max(step for step, _ in every)
    x = Scale(0, max(last, 1), LEFT + 34, RIGHT)
    y = scale_around([value for _, value in every], height - 40, 12)
    lines = [
        Markup('<path class="curve s{}" d="{}"><title>{}</title></path>').format(n % 7, path_of(points, x, y), name)
        for n, (name, points) in enumerate(drawn.items())
    ]
    foot = _text((LEFT + RIGHT) / 2, height - 6, "step", "tick middle")
    grid = _x_axis(x, 12, height - 40, 0) + _y_axis(y, LEFT + 34, RIGHT)
    return _svg(height, title, grid + Markup("").join(lines) + foot)


def thinned(points: Sequence[tuple[float, float]], most: int = POINTS) -> list[tuple[float, float]]:
    """Return at most about ``most`` points, each the mean of a stretch.

    >>> thinned([(1, 1.0), (2, 3.0), (3, 5.0), (4, 7.0)], most=2)
    [(1.5, 2.0), (3.5, 6.0)]
    """
    size = math.ceil(len(points) / most)
    stretches = [points[n : n + size] for n in range(0, len(points), size)]
    return [(fmean(step for step, _ in part), fmean(value for _, value in part)) for part in stretches]


def path_of(points: Iterable[tuple[float, float]], x: Scale, y: Scale) -> str:
    """Return the corners of a line as an SVG path."""
    return "M" + " L".join(f"{x(step)} {y(value)}" for step, value in points)


def shorten(name: str, most: int = 30) -> str:
    """Return a name that fits into a chart.

    >>> shorten("x" * 40, 8)
    'xxxxxxx…'
    """
    return name if len(name) <= most else name[: most - 1] + "…"


def _dot(
    x: float, y: float, case: str, value: str, places: Mapping[str, int], failed: bool, colour: int | None = None
) -> Markup:
    kind = ("fail" if failed else "dot") + ("" if colour is None else f" k{colour % 7}")
    shape = (
        Markup('d="M{} {}l6 6m0 -6l-6 6"').format(round(x - 3, 1), round(y - 3, 1))
        if failed
        else Markup('cx="{}" cy="{}" r="3"').format(x, y)
    )
    return Markup('<{} class="{}" data-case="{}" {}><title>{}: {}</title></{}>').format(
        tag := "path" if failed else "circle", kind, places[case], shape, case, value, tag
    )


def _x_axis(x: Scale, top: float, bottom: float, decimals: int) -> Markup:
    parts = []
    for tick in x.ticks:
        parts += [
            _line("grid", x(tick), top, x(tick), bottom),
            _text(x(tick), bottom + 15, tick_label(tick, decimals), "tick middle"),
        ]
    return Markup("").join(parts)


def _y_axis(y: Scale, left: float, right: float) -> Markup:
    parts = []
    for tick in y.ticks:
        parts += [
            _line("grid", left, y(tick), right, y(tick)),
            _text(left - 6, y(tick) + 4, tick_label(tick, 3), "tick end"),
        ]
    return Markup("").join(parts)


def tick_label(value: float, decimals: int) -> str:
    """Return a number without zeros that say nothing.

    >>> tick_label(0.50, 3), tick_label(1200, 0), tick_label(0.0, 2)
    ('0.5', '1200', '0')
    """
    text = f"{value:.{max(decimals, 2) if abs(value) < 10 else decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(kind, x1, y1, x2, y2)


def _text(x: float, y: float, text: str, kind: str) -> Markup:
    return Markup('<text class="{}" x="{}" y="{}">{}</text>').format(kind, x, y, text)


def _svg(height: float, title: str, content: Markup) -> Markup:
    return Markup(
        '<svg viewBox="0 0 {} {}" role="img" aria-label="{}" xmlns="http://www.w3.org/2000/svg">{}</svg>'
    ).format(WIDTH, height, title, content)
