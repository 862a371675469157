"""Compare two runs, or two folders of masks that were evaluated, on the cases that both were scored on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline import __version__
from pipeline.reports.comparison import Comparison, compare_results, paired_rows
from pipeline.reports.files import read_cases_csv, write_csv, write_json
from pipeline.runs.reporting import report_comparison

if TYPE_CHECKING:
    from pathlib import Path


def compare(a: Path, b: Path, output: Path) -> Comparison:
    """Pair two sets of scores by case; write ``compare.json``, ``compare.csv`` and ``report.html``.

    Args:
        a: A folder with a ``cases.csv``: a run, one of its validations, or the output of an evaluation.
        b: The other one.
        output: Where the files go; made where it is not there.

    Raises:
        UserError: There are no scores in a folder, or the two were scored on other cases, classes or masks.
    """
    first, second = (read_cases_csv(folder / "cases.csv") for folder in (a, b))
    names = (str(a), str(b)) if a.resolve().name == b.resolve().name else (a.resolve().name, b.resolve().name)
    comparison = compare_results(first, second, *names)
    output.mkdir(parents=True, exist_ok=True)
    rows = paired_rows(first, second)
    write_csv(output / "compare.csv", list(rows[0]), rows)
    write_json(output / "compare.json", {"version": __version__} | comparison.as_dict())
    report_comparison(output, comparison, first, second, (a, b))
    return comparison
