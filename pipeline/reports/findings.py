"""The findings of a check, as tables for the terminal."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table

from pipeline.reports.tables import plain

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.errors import Problem

# The most rows with the same code: a mistake in every file is understood from a few of them.
MAX_ROWS = 10


def findings_table(problems: Sequence[Problem], base: Path) -> Table:
    """Return a table of problems: case, file, code, what was found and what to do.

    Args:
        problems: In the order of the rows; of more than ten with one code only the first ten are shown.
        base: The dataset's folder, to which paths are shown relative.
    """
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in ("case", "file", "code", "problem", "remedy"):
        table.add_column(name, overflow="fold", ratio=2 if name in ("problem", "remedy") else 1)
    shown: Counter[str] = Counter()
    for problem in problems:
        shown[problem.code] += 1
        if shown[problem.code] <= MAX_ROWS:
            where = problem.where.removeprefix(f"{base}/").removeprefix(f"{base.resolve()}/")
            table.add_row(*map(plain, (problem.case, where, problem.code, problem.message, problem.remedy)))
    for code, count in shown.items():
        if count > MAX_ROWS:
            table.add_row("", "", code, f"… and {count - MAX_ROWS} more of these", "")
    return table


def counts_table(problems: Sequence[Problem], warnings: Sequence[Problem]) -> Table:
    """Return a table with the numbers of problems and warnings of each code."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("code")
    table.add_column("problems", justify="right")
    table.add_column("warnings", justify="right")
    counts = [Counter(problem.code for problem in side) for side in (problems, warnings)]
    for code in counts[0] | counts[1]:
        table.add_row(code, *(str(side[code] or "") for side in counts))
    return table
