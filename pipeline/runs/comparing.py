"""Compare two runs, or two evaluations of masks, which were scored on the same cases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline import __version__
from pipeline.errors import Problem, UserError
from pipeline.outputs import Output
from pipeline.reports.comparison import Comparison, compare_results, paired_rows
from pipeline.reports.figures import REPORT_FILES
from pipeline.reports.files import read_cases_csv, write_csv
from pipeline.runs.reporting import report_comparison
from pipeline.runs.stored import SUMMARY, read_own
from pipeline.strict_json import write_json

if TYPE_CHECKING:
    from pathlib import Path

FILES = ("compare.csv", "compare.json", *REPORT_FILES)


def compare(a: Path, b: Path, output: Path) -> Comparison:
    """Pair two sets of scores by case; write ``compare.json``, ``compare.csv`` and ``report.html``.

    Args:
        a: A folder with a ``cases.csv``: a run, one of its validations, or the output of an evaluation.
        b: The other one.
        output: Where the files go; made where it is not there.

    Raises:
        UserError: A file is in the way, or there are no scores in a folder, or the two were scored on other cases,
            classes or masks.
    """
    made = Output(output, "compare")
    made.refuse_foreign(FILES)
    first, second = (read_cases_csv(folder / "cases.csv") for folder in (a, b))
    names = _names_of(a.resolve(), b.resolve())
    tolerance_mm = _one_tolerance(a, b, names)
    comparison = compare_results(first, second, *names)
    rows = paired_rows(first, second)
    with made.writing(FILES) as stage:
        write_csv(stage / "compare.csv", list(rows[0]), rows)
        write_json(stage / "compare.json", {"version": __version__} | comparison.as_dict())
        report_comparison(stage, comparison, first, second, (a, b), tolerance_mm)
    return comparison


def _names_of(a: Path, b: Path) -> tuple[str, str]:
    """Return the last parts of two paths, as few as tell them apart: whole paths should not be in a report."""
    for count in range(1, max(len(a.parts), len(b.parts))):
        names = tuple("/".join(path.parts[-count:]) for path in (a, b))
        if names[0] != names[1]:
            return names[0], names[1]
    return a.name, b.name


def _one_tolerance(a: Path, b: Path, names: tuple[str, str]) -> float | None:
    """Return the tolerance of both surface Dice; None if a summary is missing; refuse two different ones."""
    if not all((folder / SUMMARY).is_file() for folder in (a, b)):
        return None
    told = [read_own(folder, SUMMARY)["tolerance_mm"] for folder in (a, b)]
    if told[0] != told[1]:
        message = f"was scored with a tolerance of {told[1]} mm, {names[0]} with {told[0]} mm"
        problem = Problem(names[1], "tolerance-differs", message, "score both with one --tolerance-mm")
        raise UserError(f"{names[0]} and {names[1]} cannot be compared.", [problem])
    tolerance: float | None = told[0]
    return tolerance
