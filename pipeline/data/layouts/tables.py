"""CSV and TSV tables with one row for each scan."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.data.codes import is_warning
from pipeline.data.layouts.annotated import read_annotated
from pipeline.data.layouts.dataset import LAYOUTS, BadEntryError, Dataset, Layout, no_dataset, repeats
from pipeline.data.layouts.records import Folds, Keys, make_case, read_files, read_role, read_text
from pipeline.data.layouts.synonyms import UNLABELLED, simple
from pipeline.errors import Problem, UserError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

    from pipeline.types import Case

FORMAT = "give columns image (or image_0, image_1, …) and perhaps label, id, patient, role"


@LAYOUTS.register("table")
@dataclass(frozen=True, kw_only=True)
class Table(Layout):
    """CSV or TSV: columns ``image`` (or ``image_0``, ``image_1``, …), ``label``, ``id``, ``patient``, ``role``.

    A column ``annotated`` names the classes that are marked in a mask, such as ``liver; spleen``. A row without a role
    is trained on; with a label it may be drawn to validate.

    Attributes:
        fold: Rows with this ``fold`` validate; rows with another fold are trained on.
    """

    fold: int | str | None = None

    @classmethod
    def detect(cls, source: Path) -> str | None:
        """Look at the file's name."""
        if source.suffix.lower() in (".csv", ".tsv") and source.is_file():
            return "it is a table"
        return None

    def read(self, source: Path, root: Path | None) -> Dataset:
        """Read the rows."""
        header, rows = read_table(source)
        base = (root or source.parent).resolve()
        keys = Keys(what="column", misspelt="bad-table")
        folds = Folds(self.fold)
        cases: list[Case] = []
        problems: list[Problem] = []
        patients = 0
        annotated: dict[str, tuple[int | str, ...]] = {}
        for number, row in rows.items():
            fields = keys.fields(row)
            try:
                case = _read_row(fields, base)
                folds.add(fields, case.id)
                if told := read_annotated(fields):
                    annotated[case.id] = told
                cases.append(case)
                patients += bool(fields.get("patient"))
            except BadEntryError as error:
                problems.append(Problem(f"{source} line {number}", *error.args))
        where = str(source)
        found = keys.problems(where, len(rows))
        if not rows:
            raise no_dataset(source, "no-cases", "has no rows", FORMAT)
        if not {"image", "channel"} & {*keys.meanings.values()}:
            # One problem instead of the same one for every row.
            problems = [Problem(where, "bad-table", f"has no column image; it has {', '.join(header)}", FORMAT)]
            problems = [problem for problem in found if not is_warning(problem)] or problems
            raise UserError("The dataset cannot be opened.", problems)
        problems += [*found, *folds.problems(where, len(rows)), *repeats(source, cases)]
        unique = tuple({case.id: case for case in reversed(folds.applied(cases))}.values())[::-1]
        return Dataset(
            source=source,
            layout="table",
            cases=unique,
            problems=tuple(problems),
            names_patients=patients == len(cases),
            annotated=annotated,
        )


def read_table(source: Path) -> tuple[list[str], dict[int, dict[str, str]]]:
    """Read a CSV or TSV file whose columns all have different names.

    A CSV file whose first line has semicolons and no comma is separated by semicolons, as spreadsheets write it in many
    countries.

    Returns:
        The columns, and by line the mapping of column to text of each row that is not empty.

    Raises:
        UserError: The file cannot be read, is empty, or has a column twice; or a row has another number of fields.
    """
    try:
        text = source.read_text(encoding="utf-8-sig")
        rows = list(csv.reader(text.splitlines(), delimiter=_separator(source, text), strict=True))
    except (OSError, ValueError, csv.Error) as error:
        raise no_dataset(source, "bad-table", f"cannot be read: {error}", FORMAT) from None
    header = []
    if rows:
        header = [name.strip() for name in rows[0]]
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice or not header:
        message = "is empty"
        if twice:
            message = f"has the column {twice[0]!r} twice"
        raise no_dataset(source, "bad-table", message, FORMAT)
    for number, row in enumerate(rows, start=1):
        if row and len(row) != len(header):
            message = f"line {number} has {len(row)} fields, and there are {len(header)} columns"
            raise no_dataset(source, "bad-table", message, "put fields that hold a separator in quotes")
    lines = enumerate(rows[1:], start=2)
    return header, {n: dict(zip(header, (field.strip() for field in row), strict=True)) for n, row in lines if row}


def _separator(source: Path, text: str) -> str:
    if source.suffix.lower() == ".tsv":
        return "\t"
    first = text.partition("\n")[0]
    return ";" if ";" in first and "," not in first else ","


def _read_row(fields: Mapping[str, Any], root: Path) -> Case:
    scans, mask = read_files(fields, root, FORMAT)
    role = read_role(fields)
    if mask is not None and simple(read_text(fields, "role")) in UNLABELLED:
        message = f"has the label {mask.name}, and scans of its role train without one"
        raise BadEntryError("unwanted-label", message, "take its label or its role out")
    if mask is None and role == "validation":
        raise BadEntryError("missing-label", f"validates with {scans[0].name}, which has no label", "name its label")
    return make_case(fields, scans, mask, role)
