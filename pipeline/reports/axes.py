"""The parts of charts: scales, axes, lines and text, as SVG whose colours come from the page's style sheet.

No element has a ``style`` attribute, which the page's security policy forbids. ``Markup`` escapes text from users'
files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.reports.columns import Metric

WIDTH = 460
LEFT = 12
RIGHT = 448
# Height of the horizontal title above a vertical axis.
TITLE = 18
# The colours of the page's style sheet: of classes (k0, k1, …), and of curves (s0, s1, …). More begin anew.
COLOURS = {"k": 12, "s": 7}
# The most names in a legend; more could not be told apart.
MOST_NAMES = 14


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Maps values to pixels, linearly or by their logarithm.

    Attributes:
        low: The value at ``start``.
        high: The value at ``end``.
        start: A position in pixels.
        end: A position in pixels; it may be below ``start``.
        log: Whether the scale is logarithmic; then ``low`` is above 0.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the position of a value in pixels; one above a scale is at its end, one below a scale at its start."""
        low, high, value = (math.log10(x) if self.log else x for x in (self.low, self.high, max(value, self.low)))
        share = (min(value, high) - low) / (high - low)
        return round(self.start + share * (self.end - self.start), 1)

    @property
    def ticks(self) -> list[float]:
        """Round values along the scale: powers of ten on a logarithmic one, about five values on a linear one."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            # A short scale has only one or two powers of ten; it gets twice and five times these too.
            factors = (1, 2, 5) if self.high < 100 * self.low else (1,)
            places = [factor * 10.0**power for power in powers for factor in factors]
            return [value for value in places if self.low * (1 - 1e-9) <= value <= self.high * (1 + 1e-9)]
        step = nice_step(self.high - self.low)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(n * step, 10) for n in range(first, last + 1)]


def nice_step(span: float, parts: int = 4) -> float:
    """Return 1, 2 or 5 times a power of ten that goes about ``parts`` times into a span.

    >>> nice_step(0.36), nice_step(90)
    (0.1, 20.0)
    """
    power = 10.0 ** math.floor(math.log10(span / parts))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power * parts >= span * 0.8)


def scale_around(values: Sequence[float], start: float, end: float, metric: Metric | None = None) -> Scale:
    """Return a scale with round ends around all values, within the range of the metric if one is given."""
    low = min(values)
    high = max(values)
    if high - low < 1e-9:
        low = low - 0.05 * max(abs(low), 1)
        high = high + 0.05 * max(abs(high), 1)
    step = nice_step(high - low)
    low = math.floor(low / step) * step
    high = math.ceil(high / step) * step
    if metric is not None and metric.high is not None:
        high = min(metric.high, high)
    if metric is not None and metric.low is not None:
        low = max(metric.low, low)
    return Scale(low=low, high=high, start=start, end=end)


def shorten(name: str, most: int = 30) -> str:
    """Return a name with at most so many letters, shortened in its middle, since names often differ at their ends.

    >>> shorten("left_upper_lobe_of_the_lung", 16)
    'left_up…the_lung'
    """
    if len(name) <= most:
        return name
    return f"{name[: (most - 1) // 2]}…{name[-(most // 2) :]}"


def x_axis(x: Scale, top: float, bottom: float, decimals: int) -> Markup:
    """Draw a grid line and a number for each tick of a horizontal scale."""
    parts = []
    for tick in x.ticks:
        parts += [
            line("grid", x(tick), top, x(tick), bottom),
            text(x(tick), bottom + 15, tick_label(tick, decimals), "tick middle"),
        ]
    return Markup("").join(parts)


def y_axis(y: Scale, left: float, right: float, title: str) -> Markup:
    """Draw a grid line and a number for each tick of a vertical scale, and its title above them."""
    parts = [text(LEFT, y.end - TITLE + 9, title, "tick")]
    for tick in y.ticks:
        parts += [
            line("grid", left, y(tick), right, y(tick)),
            text(left - 6, y(tick) + 4, tick_label(tick, 3), "tick end"),
        ]
    return Markup("").join(parts)


def tick_label(value: float, decimals: int) -> str:
    """Return a number as text without trailing zeros.

    >>> tick_label(0.50, 3), tick_label(1200, 0), tick_label(0.0, 2)
    ('0.5', '1200', '0')
    """
    digits = f"{value:.{max(decimals, 2) if abs(value) < 10 else decimals}f}"
    if "." in digits:
        return digits.rstrip("0").rstrip(".")
    return digits


def line(kind: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    """Draw a line with a class of the style sheet."""
    return Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(kind, x1, y1, x2, y2)


def text(x: float, y: float, words: str, kind: str) -> Markup:
    """Write words, which are escaped, at a position with a class of the style sheet."""
    return Markup('<text class="{}" x="{}" y="{}">{}</text>').format(kind, x, y, words)


def legend(names: Sequence[str], kind: str, top: float, colours: Sequence[int] | None = None) -> tuple[Markup, float]:
    """Draw a legend: names behind squares of the ``colours`` 0, 1, … of a kind; return its height in pixels too."""
    parts = []
    left = float(LEFT)
    row = 0
    told = [shorten(name, 24) for name in names[:MOST_NAMES]] + ["…"] * (len(names) > MOST_NAMES)
    order = [*(colours if colours is not None else range(len(names)))[:MOST_NAMES], MOST_NAMES]
    for n, name in enumerate(told):
        width = 26 + 6.2 * len(name)
        if n and left + width > RIGHT:
            left = float(LEFT)
            row += 1
        y = top + 16 * row
        square = Markup('<rect class="key {}{}" x="{:.1f}" y="{:.1f}" width="8" height="8" rx="2"/>')
        parts += [
            square.format(kind, order[n] % COLOURS[kind], left, y - 8),
            text(round(left + 13, 1), y, name, "tick"),
        ]
        left += width
    return Markup("").join(parts), 16 * (row + 1) if told else 0


def svg(height: float, title: str, content: Markup) -> Markup:
    """Return a whole SVG element; the title is for screen readers."""
    return Markup(
        '<svg viewBox="0 0 {} {}" role="img" aria-label="{}" xmlns="http://www.w3.org/2000/svg">{}</svg>'
    ).format(WIDTH, height, title, content)
