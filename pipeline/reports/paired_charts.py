"""Charts of a comparison: the Dice of every structure on both sides, and the differences with their intervals."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING

from markupsafe import Markup

from pipeline.reports.axes import LEFT, RIGHT, Scale, legend, line, scale_around, shorten, svg, text, x_axis, y_axis
from pipeline.reports.charts import FAILURES, MOST_DOTS, TOP, dot
from pipeline.reports.columns import classes_in
from pipeline.reports.intervals import TOO_FEW, plural
from pipeline.reports.pairs import side_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.reports.intervals import Interval
    from pipeline.types import CaseResult

SIDE = 394


def paired(a: Sequence[CaseResult], b: Sequence[CaseResult], places: Mapping[str, int]) -> Markup:
    """Draw the Dice of each structure with B against that with A; above the diagonal B is better.

    Structures that one side has missed or invented are crosses; those that are absent on both sides are left out.

    Args:
        a: The results of the first side, one for each class of each case.
        b: Those of the second side, for the same cases and classes.
        places: The index of each case in the page's list.
    """
    second = side_of(b)
    pairs = [(one, two) for one in a if _has_pair(one, two := second[one.case, one.label])]
    classes = classes_in(a)
    order = {label: n for n, (label, _) in enumerate(classes)}
    numbers = [value for one, two in pairs for value in (_dice(one), _dice(two))]
    span = scale_around(numbers or [0.0, 1.0], 0, 1)
    low = max(0.0, span.low)
    high = min(1.0, span.high)
    x = Scale(low=low, high=high, start=LEFT + 34, end=RIGHT)
    y = Scale(low=low, high=high, start=SIDE - 44, end=TOP)
    grid = x_axis(x, TOP, SIDE - 44, 2) + y_axis(y, LEFT + 34, RIGHT, "Dice of B")
    grid += line("gap", x(low), y(low), x(high), y(high))
    dots = [
        dot(
            x(_dice(one)),
            y(_dice(two)),
            one.case,
            f"{one.name}, {_dice(one):.3f} to {_dice(two):.3f}",
            places,
            one.outcome in FAILURES or two.outcome in FAILURES,
            order[one.label],
        )
        for one, two in pairs[:MOST_DOTS]
    ]
    words = text((LEFT + RIGHT) / 2, SIDE - 8, "Dice of A", "tick middle")
    keys, below = legend([name for _, name in classes], "k", SIDE + 12)
    return svg(SIDE + below + 6, "Dice of B against Dice of A", grid + Markup("").join(dots) + words + keys)


def differences(rows: Sequence[tuple[str, float | None, Interval | None]], title: str) -> Markup:
    """Draw a difference of Dice in each row, with its 95 % interval and the line of no difference.

    Args:
        rows: Names, differences and intervals; those without a difference are left out.
        title: The title of the chart.
    """
    drawn = [(name, value, interval) for name, value, interval in rows if value is not None]
    ends = [end for _, value, interval in drawn for end in (interval or (value, value))]
    x = scale_around([0.0, *ends], LEFT + 130, RIGHT - 8)
    height = 34 * len(drawn) + 18
    parts = [x_axis(x, 10, height, 3), line("gap", x(0), 10, x(0), height)]
    for n, (name, value, interval) in enumerate(drawn):
        middle = 28 + 34 * n
        parts.append(text(LEFT, middle + 4, shorten(name, 18), "name"))
        if interval:
            parts.append(line("interval", x(interval[0]), middle, x(interval[1]), middle))
        else:
            right = x(value) < (LEFT + 130 + RIGHT) / 2
            place, kind = (RIGHT - 8, "tick end") if right else (LEFT + 136, "tick")
            parts.append(text(place, middle + 4, TOO_FEW, kind))
        parts.append(
            Markup('<circle class="dot" cx="{}" cy="{}" r="5"><title>{}: {:+.4f}</title></circle>').format(
                x(value), middle, name, value
            )
        )
    parts += [
        text(LEFT + 130, height + 32, "Dice of B − Dice of A", "tick"),
        text(RIGHT - 8, height + 32, "B is better →", "tick end"),
    ]
    return svg(height + 40, title, Markup("").join(parts))


def trainings(groups: Sequence[tuple[str, Sequence[float]]]) -> Markup:
    """Draw the mean Dice of each training as a dot, a method a row, with the mean over trainings as a line.

    Args:
        groups: The name of each method, and the mean Dice of its trainings, one or more.
    """
    x = scale_around([value for _, values in groups for value in values], LEFT + 6, RIGHT - 6)
    bottom = 8 + 52 * len(groups)
    parts = [x_axis(x, 8, bottom, 3)]
    for n, (name, values) in enumerate(groups):
        top = 8 + 52 * n
        mean = fmean(values)
        words = f"mean {mean:.3f}  ·  {plural(len(values), 'training')}"
        parts += [
            text(LEFT, top + 13, shorten(name), "name"),
            text(RIGHT, top + 13, words, "tick end"),
            line("median", x(mean), top + 24, x(mean), top + 44),
        ]
        parts += [
            Markup('<circle class="dot" cx="{}" cy="{}" r="4"><title>{:.4f}</title></circle>').format(
                x(value), top + 34, value
            )
            for value in values
        ]
    parts.append(text((LEFT + RIGHT) / 2, bottom + 32, "mean Dice of a training", "tick middle"))
    return svg(bottom + 40, "Mean Dice of every training, by method", Markup("").join(parts))


def _dice(result: CaseResult) -> float:
    """Return the Dice; 1 if it is None: this side is right that the class is absent, and the other one invents it."""
    if result.dice is None:
        return 1.0
    return result.dice


def _has_pair(one: CaseResult, two: CaseResult) -> bool:
    return one.dice is not None or two.dice is not None
