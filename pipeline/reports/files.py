"""Write and read results as CSV, for spreadsheets and for programs."""

from __future__ import annotations

import csv
import math
from contextlib import suppress
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, get_args

from pipeline.errors import Problem, UserError
from pipeline.files import atomic_write, open_text, path_hint, regular
from pipeline.types import CaseResult, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path
    from typing import Any

# The columns of every table of scores; further metrics come behind them.
COLUMNS = tuple(field.name for field in fields(CaseResult) if field.name != "more")
# Characters that start a formula in a spreadsheet, full-width forms included (OWASP, "CSV Injection").
FORMULA_STARTS = tuple("=+-@\t\r\n＝＋－＠")


def write_cases_csv(path: Path, results: Iterable[CaseResult]) -> None:
    """Write a row for each class of each case, under a header of the fields of ``CaseResult`` and further metrics.

    A missing number is an empty field. Text that a spreadsheet would run as a formula gets an apostrophe in front. A
    file name that is not valid UTF-8 is written with backslash escapes.

    Args:
        path: The file to write; its folder must exist.
        results: The rows, in their order.
    """
    rows = list(results)
    further = list(dict.fromkeys(name for result in rows for name in result.more))
    write_csv(path, [*COLUMNS, *further], (asdict(result) | dict(result.more) for result in rows))


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """Write rows under a header, whole or not at all; text and numbers as :func:`write_cases_csv` says."""
    with atomic_write(path) as partial, open_text(partial) as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        for row in rows:
            writer.writerow({key: _inert(value) for key, value in row.items()})


def read_cases_csv(path: Path) -> list[CaseResult]:
    """Read what :func:`write_cases_csv` wrote, or a spreadsheet saved of it with commas and decimal points.

    Raises:
        UserError: The file cannot be read, or is not such a table.
    """
    try:
        with regular(path).open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
            further = _further_columns(reader.fieldnames or (), rows)
            results = [_result(row, further) for row in rows]
        if len({(result.case, result.label) for result in results}) < len(results):
            raise ValueError("a class of a case stands twice in it")
    except OSError as error:
        message = f"cannot be read: {error.strerror}"
        remedy = "name a folder that `validate` or `evaluate` wrote"
        if not path.parent.is_dir():
            remedy = path_hint(path.parent, remedy)
        raise UserError("There are no scores.", [Problem(str(path), "no-scores", message, remedy)]) from None
    except (KeyError, ValueError, csv.Error) as error:
        message = f"is no table of scores of this version: {error}"
        remedy = "validate or evaluate again"
        raise UserError("The scores cannot be read.", [Problem(str(path), "bad-scores", message, remedy)]) from None
    return results


def _result(row: Mapping[str, str], further: Sequence[str]) -> CaseResult:
    kinds = {field.name: str(field.type) for field in fields(CaseResult)}
    values: dict[str, Any] = {name: _value(row[name], kinds[name]) for name in COLUMNS}
    return CaseResult(**values, more={name: _number(row[name]) for name in further})


def _further_columns(names: Iterable[str], rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the columns of further metrics, which hold numbers alone: a user may have added others, with remarks."""
    return [name for name in names if name not in COLUMNS and all(_is_number(row[name]) for row in rows)]


def _is_number(text: str | None) -> bool:
    with suppress(TypeError, ValueError):
        return text == "" or math.isfinite(float(text or "no number"))
    return False


def _number(text: str) -> float | None:
    if text:
        return float(text)
    return None


def _value(text: str | None, kind: str) -> str | int | float | None:
    if text is None:
        raise ValueError("a row is too short")
    if kind == "int":
        if abs(number := int(text)) >= 2**63:
            raise ValueError(f"{text} is too large")
        return number
    if kind.startswith("float"):
        value = None
        if text or "None" not in kind:
            value = float(text)
        if value is not None and not math.isfinite(value):
            raise ValueError(f"{text} is no number")
        return value
    if kind == "Outcome" and text not in get_args(Outcome):
        raise ValueError(f"{text[:40]!r} is no outcome")
    if text[:1] == "'" and text[1:].startswith(FORMULA_STARTS):
        return text[1:]
    return text


def _inert(value: object) -> object:
    """Put an apostrophe before text that would be read as a formula; leave all else alone."""
    if isinstance(value, str) and value.startswith(FORMULA_STARTS):
        return f"'{value}"
    return value
