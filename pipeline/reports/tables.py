"""Summaries and comparisons as tables for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from pipeline.reports.columns import METRICS
from pipeline.reports.intervals import TOO_FEW, plural

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.reports.comparison import Comparison
    from pipeline.reports.groups import GroupComparison
    from pipeline.reports.summary import ClassSummary, Summary

DECIMALS = {metric.key: metric.decimals for metric in METRICS}
COLUMNS = ("n", "mean ± std", "median", "min", "max", "absent", "missed", "false")


def results_table(summary: Summary) -> Table:
    """Return a table of a summary: one row for each class, then the mean of their means.

    ``absent``, ``missed`` and ``false`` count cases with the class in neither mask, in the true one alone, and in the
    predicted one alone. A missing number is a dash. The caption has the interval of the mean, the classes that it
    leaves out, and the means of a user's own metrics. Names come from users' files, and are shown without markup, emoji
    codes and control characters.
    """
    table = Table(
        title=f"Dice over {summary.n_cases} case{'s' * (summary.n_cases != 1)}",
        caption=_caption(summary),
        box=SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    table.add_column("class", overflow="fold", min_width=12)
    for column in COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for row in summary.classes:
        table.add_row(plain(row.name), *_cells(row))
    table.add_section()
    table.add_row("all classes", "", number(summary.mean_dice), style="bold")
    return table


def comparison_table(comparison: Comparison) -> Table:
    """Return a table of a comparison: for each metric the means over classes of both sides and their difference.

    Median and interval are those of the patients' differences.
    """
    counts = ", ".join(f"{len(getattr(comparison, side))} {side}" for side in ("better", "worse", "equal"))
    table = Table(
        title=plain(f"A {comparison.a}, B {comparison.b}"),
        caption=f"Dice of {comparison.n_cases} case(s) with B: {counts}; structures that changed sides: "
        f"{len(comparison.changed)}",
        box=SIMPLE_HEAD,
    )
    table.add_column("metric")
    for column in ("A", "B", "B - A", "median", "95 % interval"):
        table.add_column(column, justify="right", no_wrap=True)
    for metric, row in comparison.means.items():
        interval = TOO_FEW
        if row.interval:
            interval = f"{row.interval[0]:+.3f} to {row.interval[1]:+.3f}"
        means = number(row.mean_a), number(row.mean_b), number(row.difference), number(row.median)
        table.add_row(metric, *means, interval if row.n else "–")
    return table


def groups_table(comparison: GroupComparison) -> Table:
    """Return a table of two methods: each metric's means over classes, then the Dice of each class.

    ``p`` is corrected for all metrics and classes but the mean Dice, which is tested as it is.
    """
    sides = (("A", comparison.a, comparison.n_a), ("B", comparison.b, comparison.n_b))
    title = ", ".join(f"{letter} {name} ({plural(count, 'training')})" for letter, name, count in sides)
    table = Table(
        title=plain(title),
        caption="± is the standard deviation over trainings",
        box=SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    table.add_column("metric", overflow="fold", min_width=12)
    for column in ("A", "B", "B - A", "95 % interval", "p"):
        table.add_column(column, justify="right", no_wrap=True)
    rows = [(name, name, found) for name, found in comparison.means.items()]
    if len(comparison.classes) > 1:
        rows += [(f"dice of {found.name}", "dice", found.metrics["dice"]) for found in comparison.classes]
    for name, key, found in rows:
        decimals = DECIMALS[key]
        interval = TOO_FEW
        if found.interval:
            interval = "{:+.{d}f} to {:+.{d}f}".format(*found.interval, d=decimals)
        means = [
            f"{number(mean, decimals)} ± {number(std, decimals)}"
            for mean, std in ((found.mean_a, found.std_a), (found.mean_b, found.std_b))
        ]
        chance = found.p_value if found.p_holm is None else found.p_holm
        table.add_row(plain(name), *means, number(found.difference, decimals), interval, number(chance))
    return table


def seeds_table(rows: Sequence[Sequence[str]], columns: Sequence[str], last: Sequence[str]) -> Table:
    """Return a table of the trainings of several seeds: one row for each, then their mean and spread."""
    table = Table(title="Dice of each training", box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.add_column("seed", justify="right")
    for column in columns:
        table.add_column(plain(column), justify="right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    table.add_section()
    table.add_row(*last, style="bold")
    return table


def plain(name: str) -> Text:
    """Return text that a terminal shows and never obeys.

    >>> plain("[red]:boom:" + chr(27)).plain
    '[red]:boom:�'
    """
    return Text("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name))


def number(value: float | None, decimals: int = 3) -> str:
    """Return a number as text, or a dash for None."""
    if value is None:
        return "–"
    return f"{value:.{decimals}f}"


def _cells(row: ClassSummary) -> list[str]:
    spread = [number(row.dice.median), number(row.dice.min), number(row.dice.max)]
    counts = [str(row.absent), str(row.missed), str(row.false_positive)]
    return [str(row.dice.n), f"{number(row.dice.mean)} ± {number(row.dice.std)}", *spread, *counts]


def _caption(summary: Summary) -> Text:
    lines = []
    mean = summary.means["dice"]
    if mean.interval:
        low, high = mean.interval
        lines.append(f"95 % interval of the mean over {plural(mean.n_patients, 'patient')}: {low:.3f} to {high:.3f}")
    elif mean.value is not None:
        lines.append(f"how sure? {mean.reasons['interval']}")
    unknown = [f"{row.name} ({row.not_annotated})" for row in summary.classes if row.not_annotated]
    if unknown:
        lines.append(f"cases in which a class is not annotated, and not scored: {', '.join(unknown)}")
    if summary.classes_left_out:
        lines.append(f"left out of the mean, in no case: {', '.join(summary.classes_left_out)}")
    for name in dict.fromkeys(name for row in summary.classes for name in row.metrics if name not in DECIMALS):
        means = (f"{row.name} {number(row.metrics[name].mean)}" for row in summary.classes if name in row.metrics)
        lines.append(f"mean {name}: {', '.join(means)}")
    return Text("\n").join(map(plain, lines))
