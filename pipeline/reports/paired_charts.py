"""Charts of a comparison: the Dice of every structure on both sides, and the differences with their intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from markupsafe import Markup

from pipeline.reports.axes import LEFT, RIGHT, Scale, legend, line, scale_around, shorten, svg, text, x_axis, y_axis
from pipeline.reports.charts import FAILED, MOST_DOTS, TOP, dot
from pipeline.reports.columns import classes_in
from pipeline.reports.intervals import TOO_FEW

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.reports.comparison import Difference
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
    second = {(row.case, row.label): row for row in b}
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
            one.outcome in FAILED or two.outcome in FAILED,
            order[one.label],
        )
        for one, two in pairs[:MOST_DOTS]
    ]
    words = text((LEFT + RIGHT) / 2, SIDE - 8, "Dice of A", "tick middle")
    keys, below = legend([name for _, name in classes], "k", SIDE + 12)
    return svg(SIDE + below + 6, "Dice of B against Dice of A", grid + Markup("").join(dots) + words + keys)


def differences(rows: Sequence[tuple[str, Difference]], better_right: str = "B is better →") -> Markup:
    """Draw the median patient's difference in each row, with its 95 % interval and the line of no difference.

    Args:
        rows: Names and differences; those without a number are left out.
        better_right: Text that says what a difference above 0 means.
    """
    drawn = [(name, found, found.median) for name, found in rows if found.median is not None]
    ends = [end for _, found, value in drawn for end in (found.interval or (value, value))]
    x = scale_around([0.0, *ends], LEFT + 130, RIGHT - 8)
    height = 34 * len(drawn) + 18
    parts = [x_axis(x, 10, height, 3), line("gap", x(0), 10, x(0), height)]
    for n, (name, found, value) in enumerate(drawn):
        middle = 28 + 34 * n
        parts.append(text(LEFT, middle + 4, shorten(name, 18), "name"))
        if found.interval:
            parts.append(line("interval", x(found.interval[0]), middle, x(found.interval[1]), middle))
        else:
            parts.append(text(RIGHT - 8, middle - 7, TOO_FEW, "tick end"))
        parts.append(
            Markup('<circle class="dot" cx="{}" cy="{}" r="5"><title>{}: {:+.4f}</title></circle>').format(
                x(value), middle, name, value
            )
        )
    parts += [
        text(LEFT + 130, height + 32, "Dice of B − Dice of A", "tick"),
        text(RIGHT - 8, height + 32, better_right, "tick end"),
    ]
    return svg(height + 40, "Difference of Dice of the median patient, B − A", Markup("").join(parts))


def _dice(result: CaseResult) -> float:
    """Return the Dice; 1 if it is None: this side is right that the class is absent, and the other one invents it."""
    if result.dice is None:
        return 1.0
    return result.dice


def _has_pair(one: CaseResult, two: CaseResult) -> bool:
    return one.dice is not None or two.dice is not None
