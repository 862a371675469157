"""The findings of a check, as text for the terminal."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from pipeline.errors import Problem

# The most findings with the same code that are shown: a mistake in every file is understood from a few of them.
MOST = 10


def findings_text(problems: Sequence[Problem], warnings: Sequence[Problem], base: Path) -> str:
    """Return findings by their codes, warnings first: each with its file, what was found and what to do.

    Args:
        problems: Of more than ten with one code only the first ten are shown.
        warnings: As for problems.
        base: The dataset's folder, to which paths are shown relative.
    """
    return "\n".join([*_lines(warnings, "warning", base), *_lines(problems, "problem", base)])


def _lines(findings: Sequence[Problem], kind: str, base: Path) -> Iterator[str]:
    by_code: dict[str, list[Problem]] = {}
    for finding in findings:
        by_code.setdefault(finding.code, []).append(finding)
    for code, alike in by_code.items():
        yield f"{code}: {len(alike)} {kind}{'s' * (len(alike) > 1)}"
        for remedy, group in groupby(alike[:MOST], key=lambda finding: finding.remedy):
            yield from (f"  {_place(finding, base)}: {finding.message}" for finding in group)
            yield f"    remedy: {remedy}"
        if len(alike) > MOST:
            yield f"  and {len(alike) - MOST} more"


def _place(finding: Problem, base: Path) -> str:
    """Return the file of a finding, and its case where the file's name does not tell."""
    where = finding.where.removeprefix(f"{base}/").removeprefix(f"{base.resolve()}/")
    if finding.case in where:
        return where
    return f"{finding.case}, {where}"
