"""The logs of a training: CSV files of rows that begin with a step."""

from __future__ import annotations

import csv
import io
import math
import os
from typing import TYPE_CHECKING, Any

from pipeline.errors import Problem, UserError
from pipeline.files import WriteError, atomic_write, flush_to_disk, regular

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

STEP = "step"


def read_log(path: Path) -> list[dict[str, str]]:
    """Read a log; a missing file has no rows.

    Returns:
        One mapping of column to text for each row, by rising step. A last line that a kill has cut is left out.

    Raises:
        UserError: The file cannot be read, or is not the log of a training.
    """
    if not path.exists():
        return []
    try:
        with regular(path).open(newline="", encoding="utf-8") as stream:
            head, *lines = list(csv.reader(stream)) or [[]]
        if head[:1] != [STEP] or len(set(head)) < len(head):
            raise ValueError(f"its first line does not name {STEP} and other columns")
        rows: list[dict[str, str]] = []
        for number, line in enumerate(lines, 2):
            try:
                rows.append(_row(head, line, int(rows[-1][STEP]) if rows else 0))
            except ValueError as error:
                if number <= len(lines):
                    raise ValueError(f"line {number}: {error}") from None
    except (OSError, ValueError, csv.Error) as error:
        told: object = error
        if isinstance(error, OSError) and error.strerror:
            told = error.strerror
        message = f"is no log of a training: {told}"
        remedy = "bring it back, or remove it: the run then begins another"
        raise UserError(
            "The run's folder is not whole.", [Problem(str(path), "damaged-run", message, remedy)]
        ) from None
    return rows


def _row(head: Sequence[str], line: Sequence[str], before: int) -> dict[str, str]:
    if len(line) != len(head):
        raise ValueError(f"has {len(line)} fields instead of {len(head)}")
    if not (line[0].isascii() and line[0].isdigit() and len(line[0]) < 19 and int(line[0]) > before):
        raise ValueError(f"begins with {line[0][:40]!r}, which is no step after {before}")
    for text in filter(None, line[1:]):
        float(text)
    return dict(zip(head, line, strict=True))


def read_curves(path: Path) -> dict[str, list[tuple[float, float]]]:
    """Read a log as ``(step, number)`` pairs for each column but ``step``; numbers that are not finite are left out.

    Raises:
        UserError: As :func:`read_log`.
    """
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in read_log(path):
        for name, text in list(row.items())[1:]:
            points = curves.setdefault(name, [])
            number = float(text or "nan")
            if math.isfinite(number):
                points.append((float(row[STEP]), number))
    return curves


class CsvLog:
    """A log to which a resumed run adds each step once.

    Args:
        path: The file.
        fields: Its columns, ``step`` first.
        done: Steps that the run has done; rows of later steps are dropped.

    Raises:
        UserError: The file exists and is not the log of a training.
    """

    def __init__(self, path: Path, fields: Sequence[str], done: int) -> None:
        rows = [row for row in read_log(path) if int(row[STEP]) <= done]
        self.path = path
        columns = list(fields)
        if rows:  # A run that goes on with another objective keeps the columns that it had.
            columns += rows[0]
        self.fields = list(dict.fromkeys(columns))
        with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, self.fields)
            writer.writeheader()
            writer.writerows(rows)

    @classmethod
    def last_step(cls, path: Path, done: int) -> int:
        """Return the last step up to ``done`` that a file has a row of, or 0."""
        return max((int(row[STEP]) for row in read_log(path) if int(row[STEP]) <= done), default=0)

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row; a missing value is an empty field."""
        # Opened anew each time: it costs microseconds, and after a kill every finished row is in the file.
        text = io.StringIO(newline="")
        csv.DictWriter(text, self.fields).writerow(row)
        before = self.path.stat().st_size
        try:
            with self.path.open("a", newline="", encoding="utf-8") as stream:
                stream.write(text.getvalue())
        except OSError as error:
            os.truncate(self.path, before)
            raise WriteError(self.path, error, len(text.getvalue())) from None

    def flush(self) -> None:
        """Wait until the disk holds every row."""
        flush_to_disk(self.path)
