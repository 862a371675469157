"""CSV and TSV tables: a row a scan."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from pipeline.data.container import stem
from pipeline.data.layouts.dataset import LAYOUTS, BadEntryError, Dataset, Layout, inside, no_dataset, repeats
from pipeline.errors import Problem, UserError, nearest
from pipeline.types import Case, Role

if TYPE_CHECKING:
    from pathlib import Path

COLUMNS = ("image", "image_0", "image_1", "label", "id", "patient", "role")
# How people call the roles.
ROLES: dict[str, Role] = {"train": "training", "val": "validation", "valid": "validation", "testing": "test"}
ROLES |= {role: role for role in get_args(Role)}
# How people call the columns.
SYNONYMS = {"scan": "image", "mask": "label", "seg": "label", "segmentation": "label", "subject": "patient"}
FORMAT = "give columns image (or image_0, image_1, …) and perhaps label, id, patient, role"


@LAYOUTS.register("table")
@dataclass(frozen=True, kw_only=True)
class Table(Layout):
    """CSV or TSV: columns ``image`` (or ``image_0``, ``image_1``, …), ``label``, ``id``, ``patient``, ``role``.

    A row without a role teaches; with a label it may be drawn to validate.
    """

    @classmethod
    def detect(cls, source: Path) -> str | None:
        """Look at the file's name."""
        return "it is a table" if source.suffix.lower() in (".csv", ".tsv") and source.is_file() else None

    def read(self, source: Path, root: Path | None) -> Dataset:
        """Read the rows."""
        header, rows = read_table(source)
        columns = [name for name in header if name == "image" or name.startswith("image_")]
        strange = [name for name in header if name not in COLUMNS and name not in columns]
        if strange:
            problems = [Problem(str(source), "bad-table", f"has a column {name!r}", _meant(name)) for name in strange]
            raise UserError("The dataset cannot be opened.", problems)
        if not columns:
            raise no_dataset(source, "bad-table", "has no column image", FORMAT)
        base, cases, problems = (root or source.parent).resolve(), [], []
        for number, row in enumerate(rows, start=2):
            try:
                cases.append(_read_row(row, columns, base))
            except BadEntryError as error:
                problems.append(Problem(f"{source} line {number}", *error.args))
        problems += repeats(source, cases)
        if not cases and not problems:
            raise no_dataset(source, "no-cases", "has no rows", FORMAT)
        unique = tuple({case.id: case for case in reversed(cases)}.values())[::-1]
        return Dataset(source, "table", unique, problems=tuple(problems))


def read_table(source: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Read a CSV or TSV file whose columns all have different names.

    A CSV file whose first line has semicolons and no comma is separated by those, as spreadsheets of many countries do.

    Raises:
        UserError: It is none, or a row has more or fewer fields than there are columns.
    """
    try:
        text = source.read_text(encoding="utf-8-sig")
        rows = list(csv.reader(text.splitlines(), delimiter=_separator(source, text), strict=True))
    except (OSError, ValueError, csv.Error) as error:
        raise no_dataset(source, "bad-table", f"cannot be read: {error}", FORMAT) from None
    header = [name.strip() for name in rows[0]] if rows else []
    twice = [name for name in header if header.count(name) > 1]
    if twice or not header:
        message = f"has the column {twice[0]!r} twice" if twice else "is empty"
        raise no_dataset(source, "bad-table", message, FORMAT)
    for number, row in enumerate(rows, start=1):
        if row and len(row) != len(header):
            message = f"line {number} has {len(row)} fields, and there are {len(header)} columns"
            raise no_dataset(source, "bad-table", message, "put fields that hold a separator in quotes")
    return header, [dict(zip(header, (field.strip() for field in row), strict=True)) for row in rows[1:] if row]


def _meant(name: str) -> str:
    hint = nearest(SYNONYMS.get(name.lower(), name.lower()), COLUMNS)
    return hint if hint.startswith("did") else FORMAT


def _separator(source: Path, text: str) -> str:
    if source.suffix.lower() == ".tsv":
        return "\t"
    first = text.partition("\n")[0]
    return ";" if ";" in first and "," not in first else ","


def _read_row(row: dict[str, str], columns: list[str], root: Path) -> Case:
    images = [row[name] for name in columns]
    if not all(images):
        raise BadEntryError("bad-entry", "names no image", FORMAT)
    scans, label = tuple(inside(root, name) for name in images), row.get("label")
    mask = inside(root, label) if label else None
    if mask in scans:
        raise BadEntryError("label-is-image", f"has {label} as image and as label", "name the label's own file")
    told, name = row.get("role", ""), row.get("id") or stem(scans[0])
    if told and told.lower() not in ROLES:
        raise BadEntryError("bad-entry", f"has the role {told!r}", nearest(told, get_args(Role)))
    role = ROLES[told.lower()] if told else None
    if mask is None and role == "validation":
        raise BadEntryError("missing-label", f"validates with {images[0]}, which has no label", "name its label")
    return Case(name, scans, mask, row.get("patient") or name, role)
