"""Which classes are annotated in a case, where a list says that not all of them are."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipeline.data.layouts.dataset import BadEntryError
from pipeline.errors import Problem, nearest, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.data.layouts.dataset import Dataset

REMEDY = 'write the labels that are marked wherever they are, such as "annotated": ["liver", "spleen"]'
# Of several classes in one field of a table.
SEPARATOR = re.compile(r"[;|,]")


def read_annotated(fields: Mapping[str, Any]) -> tuple[int | str, ...] | None:
    """Return the names or values of the classes that are annotated in a record's mask; None where it does not say.

    Args:
        fields: The values of the record, by meaning.

    Raises:
        BadEntryError: It is no list of names or values, or an empty one, or the record has no label.

    >>> read_annotated({"annotated": "liver; spleen", "label": "a.nii"})
    ('liver', 'spleen')
    """
    told = fields.get("annotated")
    if told in (None, ""):
        return None
    if isinstance(told, str):
        told = [part.strip() for part in SEPARATOR.split(told) if part.strip()]
    elif isinstance(told, int):
        told = [told]
    if not isinstance(told, list) or not told or not all(map(_is_name_or_value, told)):
        raise BadEntryError("bad-entry", f"has {shown(fields['annotated'])} under annotated", REMEDY)
    if not fields.get("label"):
        raise BadEntryError("bad-entry", "says which classes are annotated, and has no label", "name its label")
    return tuple(told)


def _is_name_or_value(part: Any) -> bool:
    return isinstance(part, str) or (isinstance(part, int) and not isinstance(part, bool))


def with_annotated(dataset: Dataset) -> Dataset:
    """Return a dataset whose cases have the values of their annotated classes, once its labels are known.

    A case in which all declared labels are annotated is like any other. Names that are no labels become problems.
    """
    known: dict[str, tuple[int, ...]] = {}
    for value, name in (dataset.labels or {}).items():
        known |= {name: (value,), str(value): (value,)}
    known |= dataset.regions
    problems = []
    cases = []
    for case in dataset.cases:
        told = dataset.annotated.get(case.id)
        if told is None:
            cases.append(case)
            continue
        values: set[int] = set()
        for part in told:
            if dataset.labels is None and str(part).isdigit():
                values.add(int(part))
            elif str(part) in known:
                values |= {*known[str(part)]}
            else:
                names = list((dataset.labels or {}).values())
                remedy = nearest(str(part), names) if names else "declare labels, or give values"
                message = f"names {part!r} as annotated, which is no label"
                problems.append(Problem(str(dataset.source), "bad-entry", message, remedy, case=case.id))
        every = dataset.labels is not None and {*dataset.labels} - {0} <= values
        cases.append(replace(case, annotated=None if every else tuple(sorted(values - {0, dataset.ignore}))))
    return replace(dataset, cases=tuple(cases), problems=(*dataset.problems, *problems))
