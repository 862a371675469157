"""Lists and tables beside a dataset's folders: whether one of them may be meant, and which are not read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline import strict_json
from pipeline.data.layouts.lists import sections_of
from pipeline.data.layouts.records import is_scan_name
from pipeline.data.layouts.synonyms import KEYS, meaning
from pipeline.data.layouts.tables import read_table
from pipeline.errors import Problem, UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from pipeline.data.layouts.dataset import Dataset

# Files of BIDS and of ours that are read, or say nothing of images and masks.
KNOWN = ("dataset.json", "dataset_description.json", "participants.tsv", "participants.json", "check.json")
# A file is about the cases if it names more than this share of them.
SHARE = 0.5


def _spare(folder: Path) -> list[Path]:
    """Return the JSON files and tables of a folder that are not its ``dataset.json``."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in (".json", ".csv", ".tsv") and path.name not in KNOWN and path.name[0] != "."
    )


def listing_here(source: Path) -> list[Path]:
    """Return the lists and tables in a folder that name scans which are there."""
    if not source.is_dir():
        return []
    return [path for path in _spare(source) if any((source / name).exists() for name in _scans_in(path))]


def _scans_in(path: Path) -> Iterator[str]:
    """Yield the names of scans under a list's sections, or a table's columns of images and labels."""
    content = _content(path)
    if isinstance(content, dict):
        yield from filter(is_scan_name, _texts([content[key] for key in sections_of(content)]))
    elif isinstance(content, list):
        for row in content:
            if isinstance(row, dict):
                yield from (value for key, value in row.items() if meaning(key, KEYS) and _is_name(value))


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and is_scan_name(value)


def naming_cases(dataset: Dataset) -> list[Problem]:
    """Warn of files beside a dataset's folders that name its cases, as lists of folds or of patients do."""
    folder = dataset.source if dataset.source.is_dir() else dataset.source.parent
    if not dataset.source.is_dir() and dataset.layout != "nnunet":
        return []
    ids = {case.id for case in dataset.cases}
    problems = []
    for path in _spare(folder):
        named = len(ids & set(_texts(_content(path))))
        if ids and named > SHARE * len(ids):
            message = f"names {named} of {len(ids)} cases, and is not read: no split and no patients are taken from it"
            remedy = f"where it holds folds, give data.split={path}; where patients, write them into a list; or nothing"
            problems.append(Problem(str(path), "unused-list", message, remedy))
    return problems


def _content(path: Path) -> Any:
    """Return what a JSON file holds, or the rows of a table; None where it cannot be read."""
    try:
        if path.suffix.lower() == ".json":
            return strict_json.read_json(path)
        return [*read_table(path)[1].values()]
    except (OSError, ValueError, UserError):
        return None


def _texts(content: Any) -> Iterable[str]:
    """Return the texts in nested lists and mappings, keys left out."""
    found: list[str] = []
    waiting = [content]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            found.append(item)
        elif isinstance(item, (list, dict)):
            waiting.extend(item.values() if isinstance(item, dict) else item)
    return found
