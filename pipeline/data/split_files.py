"""Read who trains and who validates from a file: a run's own, nnU-Net's list, MONAI's folds, or a table's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import strict_json
from pipeline.data.layouts.dataset import BadEntryError
from pipeline.data.layouts.lists import sections_of
from pipeline.data.layouts.records import Keys, as_fold, in_order, read_text
from pipeline.data.layouts.synonyms import KEYS, meaning, simple
from pipeline.data.layouts.tables import read_table
from pipeline.errors import Problem, UserError
from pipeline.files import path_hint
from pipeline.nifti.container import stem

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pipeline.data.layouts import Dataset

FOLD = "fold"
# The keys of a run's own file, and of each fold of nnU-Net's.
OWN = {"labelled", "unlabelled", "validation"}
NNUNET = {"train", "val"}
FORMATS = (
    "give a run's split.json, nnU-Net's splits_final.json (it lies in nnUNet_preprocessed/DATASET), a MONAI list whose "
    "entries have a fold, or a .csv or .tsv with a column for the case or the patient and one for the fold"
)


@dataclass(frozen=True)
class Sides:
    """The case ids of one split, as a file names them.

    Attributes:
        train: Those that are trained on.
        validation: Those that validate.
        unlabelled: Those of ``train`` that had no mask when a run wrote the file.
        of_run: Whether a run wrote it, which does not name scans that it had no use for: with a mask they train now.
    """

    train: frozenset[str]
    validation: frozenset[str]
    unlabelled: frozenset[str] = frozenset()
    of_run: bool = False


def read_folds(path: Path, dataset: Dataset, column: str = FOLD) -> dict[str, Sides]:
    """Read every split that a file holds.

    Args:
        path: The file.
        dataset: Whose cases it is about. A table may name patients, and a fold is of cases with masks.
        column: The key or column that holds the folds of a MONAI list or a table.

    Returns:
        The splits by the names of their folds, in the order of the folds: in nnU-Net's file these are positions from
        0, in a list or table the values of the column. A run's own file has one split, of the name "".

    Raises:
        UserError: The file cannot be read, or is none of these.
    """
    if not path.exists():
        raise bad_split(path, "there is no such file", path_hint(path, FORMATS))
    if path.suffix.lower() in (".csv", ".tsv"):
        header, rows = read_table(path)
        _refuse_without_column(path, header, column)
        return _by_value(path, dataset, ((f"line {n}", row) for n, row in rows.items()), column)
    try:
        content = strict_json.read_json(path)
    except OSError as error:
        raise bad_split(path, f"cannot be read: {error.strerror}", FORMATS) from None
    except ValueError as error:
        raise bad_split(path, f"is no JSON: {error}", FORMATS) from None
    if isinstance(content, list) and content and all(map(_is_nnunet, content)):
        return {str(n): Sides(frozenset(f["train"]), frozenset(f["val"])) for n, f in enumerate(content)}
    if (
        isinstance(content, dict)
        and OWN <= content.keys() <= OWN | {"unlike"}
        and all(map(_are_names, content.values()))
    ):
        train = frozenset(content["labelled"] + content["unlabelled"])
        sides = Sides(train, frozenset(content["validation"]), frozenset(content["unlabelled"]), of_run=True)
        return {"": sides}
    if isinstance(content, dict) and (entries := _entries(content)):
        return _by_value(path, dataset, entries, column)
    raise bad_split(path, "is no split that is known", FORMATS)


def bad_split(path: Path, message: str, remedy: str) -> UserError:
    """Return the error of a file from which no split can be taken."""
    return UserError("The dataset cannot be split.", [Problem(str(path), "bad-split", message, remedy)])


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_nnunet(fold: Any) -> bool:
    return isinstance(fold, dict) and fold.keys() == NNUNET and all(map(_are_names, fold.values()))


def _entries(content: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return where each entry of a list's ``training`` and ``validation`` stands, and the entry."""
    return [
        (f"{key}.{position}", entry)
        for key, section in sections_of(content).items()
        if section in ("training", "validation") and isinstance(content[key], list)
        for position, entry in enumerate(content[key])
        if isinstance(entry, dict)
    ]


def _holds(key: str, column: str) -> bool:
    return simple(key) == simple(column) or (column == FOLD and meaning(key, KEYS) == FOLD)


def _refuse_without_column(path: Path, header: list[str], column: str) -> None:
    names = {meaning(key, KEYS) for key in header}
    problems = []
    if not any(_holds(key, column) for key in header):
        remedy = f"name one of its columns: data.split_by=COLUMN; it has {', '.join(header)}"
        problems.append(Problem(str(path), "bad-split", f"has no column {column!r}", remedy))
    if not names & {"id", "image", "patient"}:
        message = f"has no column for the case or the patient; it has {', '.join(header)}"
        problems.append(Problem(str(path), "bad-split", message, "call it case or patient"))
    if problems:
        raise UserError("The dataset cannot be split.", problems)


def _by_value(
    path: Path, dataset: Dataset, entries: Iterable[tuple[str, dict[str, Any]]], column: str
) -> dict[str, Sides]:
    """Divide cases by a value of their entries; an entry without one is trained on in every fold."""
    of_patient: dict[str, list[str]] = {}
    for case in dataset.cases:
        of_patient.setdefault(case.patient, []).append(case.id)
    keys = Keys(what="key", misspelt="bad-split")
    given: dict[str, str] = {}
    problems: list[Problem] = []
    for where, entry in entries:
        try:
            fold = _fold_of(entry, column)
            names = _named(keys.fields(entry), of_patient)
        except BadEntryError as error:
            problems.append(Problem(f"{path} {where}", *error.args))
            continue
        for name in names:
            if given.setdefault(name, fold) != fold:
                message = f"gives {name} the {column} {fold!r}, and before {given[name]!r}"
                problems.append(Problem(f"{path} {where}", "bad-split", message, "keep one of them"))
    folds = sorted(set(given.values()) - {""}, key=in_order)
    if not folds and not problems:
        message = f"gives no case a {column}"
        problems.append(Problem(str(path), "bad-split", message, "name what holds the folds: data.split_by=KEY"))
    if problems:
        raise UserError("The dataset cannot be split.", problems)
    bare = {case.id for case in dataset.cases if case.label is None and case.role != "test"}
    named = {name: fold for name, fold in given.items() if name not in bare}
    return {
        fold: Sides(
            frozenset(name for name, of in named.items() if of != fold),
            frozenset(name for name, of in named.items() if of == fold),
        )
        for fold in folds
    }


def _fold_of(entry: Mapping[str, Any], column: str) -> str:
    """Return the fold of an entry as text; "" where it has none."""
    value = next((value for key, value in entry.items() if _holds(key, column)), None)
    return as_fold(read_text({column: value}, column))


def _named(fields: Mapping[str, Any], of_patient: Mapping[str, list[str]]) -> list[str]:
    """Return the ids of the cases that an entry is about: by its id, its first image, or its patient.

    Raises:
        BadEntryError: It names nothing.
    """
    images = fields.get("image")
    first = images[0] if isinstance(images, list) and images else images
    if name := read_text(fields, "id"):
        return [name]
    if isinstance(first, str) and first:
        return [stem(Path(first))]
    if patient := read_text(fields, "patient"):
        return of_patient.get(patient, [patient])
    raise BadEntryError("bad-split", "names no case and no patient", "give it a case, an image or a patient")
