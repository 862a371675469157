"""Results as files: CSV for a spreadsheet, strict JSON for a program."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, fields
from typing import TYPE_CHECKING

from pipeline.files import atomic_write
from pipeline.types import CaseResult

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from typing import TextIO

# What a spreadsheet takes for the start of a formula, wide forms included (OWASP, "CSV Injection").
FORMULA_STARTS = tuple("=+-@\t\r\n＝＋－＠")


def write_cases_csv(path: Path, results: Iterable[CaseResult]) -> None:
    """Write one row a class of a case, under a header of the fields of ``CaseResult``.

    A missing number is an empty field. A case id or a class name that a spreadsheet would run as
    a formula gets an apostrophe in front. A file name that is no valid text is written with
    backslash escapes, since an odd name should not cost the report.

    Args:
        path: The file to write; its folder must exist.
        results: The rows, in their order.
    """
    with atomic_write(path) as partial, _open_text(partial) as file:
        writer = csv.DictWriter(file, [field.name for field in fields(CaseResult)], lineterminator="\n")
        writer.writeheader()
        for result in results:
            writer.writerow({key: _inert(value) for key, value in asdict(result).items()})


def write_json(path: Path, content: object) -> None:
    """Write strict, indented JSON, whole or not at all.

    Args:
        path: The file to write; its folder must exist.
        content: Dictionaries, lists, text, finite numbers, booleans and None.

    Raises:
        ValueError: There is a NaN or an infinity in it, which JSON does not know.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_write(path) as partial, _open_text(partial) as file:
        file.write(text + "\n")


def _inert(value: object) -> object:
    """Put an apostrophe before text that would be read as a formula; leave all else alone."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value


def _open_text(path: Path) -> TextIO:
    # A lone surrogate stands for a byte of a file name that is not UTF-8; its escape is valid in JSON too.
    return path.open("w", encoding="utf-8", errors="backslashreplace", newline="")
