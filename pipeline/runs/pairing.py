"""Pair predicted with true masks by name, and check every file."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pipeline import nifti
from pipeline.data.inspection import examine_pair
from pipeline.data.layouts import scans_in
from pipeline.data.layouts.dataset import BadEntryError, read_labels
from pipeline.data.layouts.lists import read_json
from pipeline.data.layouts.names import pair
from pipeline.data.layouts.painting import UnpaintableError, in_order, painted_labels
from pipeline.data.layouts.patients import pattern_of
from pipeline.data.layouts.patterns import REMEDY, BadPatternError, first_groups
from pipeline.errors import Names, Problem, UserError, is_other_number, listed
from pipeline.memory import memory_for
from pipeline.runs.mask_folder import RECORD, MaskFolder
from pipeline.strict_yaml import read_yaml
from pipeline.terminal import note, progress
from pipeline.types import Region

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path


TOO_LARGE = "crop the masks, or leave them out"


def checked_pairs(
    predictions: Path, labels: Path, ignored: int | None
) -> tuple[dict[str, tuple[Path, Path]], set[int], dict[str, tuple[str, ...]]]:
    """Pair the masks of two folders and check them.

    Args:
        predictions: The folder of predicted masks.
        labels: The folder of true masks.
        ignored: The value of voxels that nobody has annotated, if there is one.

    Returns:
        By case, the paths of the true and the predicted mask; all label values in them; by case, the hashes of both.
        Predictions without a true mask are left out, which is noted on the terminal.

    Raises:
        UserError: A prediction is missing or a file is unsound; with the problems of all cases.
    """
    truth, predicted = ({nifti.stem(path): path for path in scans_in(folder)} for folder in (labels, predictions))
    _rename_alike(predicted, truth)
    known = Names(predicted.keys() - truth.keys())
    problems = [
        Problem(
            str(path),
            "no-prediction",
            f"has no counterpart in {predictions}",
            _called_alike(name, known),
        )
        for name, path in truth.items()
        if name not in predicted
    ]
    pairs = {name: (path, predicted[name]) for name, path in truth.items() if name in predicted}
    values = {0}
    hashes = {}
    for name, (true, guessed) in progress(pairs.items(), "checking", len(pairs)):
        with memory_for(str(true), "to look at it", None, TOO_LARGE):
            found, hashes[name], wrong = examine_pair(true, guessed, ignored)
        values |= found
        problems += wrong
    if not truth:
        problems.append(
            Problem(str(labels), "no-scans", "holds no .nii or .nii.gz file", "name the folder of true masks")
        )
    if problems:
        raise UserError("Nothing was evaluated.", problems)
    if surplus := known.sorted:
        left = f"{len(surplus)} of {len(predicted)} predictions have no true mask, and are left out"
        note(f"{left}: {listed(surplus, 4)}")
    if (labels / RECORD).is_file() and not (predictions / RECORD).is_file():
        note(f"{labels} holds masks that predict has made: masks to be scored come first, true ones second")
    return pairs, values, hashes


def _rename_alike(predicted: dict[str, Path], truth: dict[str, Path]) -> None:
    """Give predictions the names of the true masks that belong to them: ``a_seg`` for ``a``, ``a`` for ``a_0000``."""
    spare = sorted(predicted.keys() - truth.keys())
    missing = sorted(truth.keys() - predicted.keys())
    alike = {name: f"{name}_0000" for name in missing if f"{name}_0000" in spare}
    alike |= {mask: name for name, mask in pair(spare, missing)[0].items()}
    for mask, name in alike.items():
        predicted[mask] = predicted.pop(name)


def _called_alike(name: str, predicted: Names) -> str:
    """Return what to do about a mask that is missing; another number makes another case, and no slip of the pen."""
    near = predicted.nearest(name)
    if near is None or is_other_number(name, near):
        return "predict its scan, or name the folder that holds its prediction"
    return f"did you mean {near!r}?"


def declared_labels(labels: Path, predictions: Path) -> dict[str, Any]:
    """Read the labels that a ``dataset.json`` of the Decathlon or of nnU-Net declares.

    Returns:
        ``labels``, ``ignore``, ``regions`` and ``asked``, as :func:`read_labels`. Without such a file ``labels`` and
        ``asked`` are those of the model by which our ``predict`` has made the predictions, and the others nothing.

    Raises:
        UserError: The file is damaged.
    """
    places = (folder / "dataset.json" for folder in (labels, labels.resolve().parent, predictions))
    listing = next((path for path in places if path.is_file()), None)
    if listing is None:
        with suppress(UserError):  # Of a record that is damaged: scores need no names.
            record = MaskFolder(predictions).read()
            asked = {record.names[label]: values for label, values in record.regions.items()}
            labels_of = {int(value): name for value, name in record.names.items()}
            return read_labels(None) | {"labels": labels_of or None, "asked": asked}
        return read_labels(None)
    try:
        content = read_json(listing)
        return read_labels(content.get("labels"), content.get("ignore"), content.get("regions_class_order"))
    except BadEntryError as error:
        code, message, remedy = error.args
        raise UserError("Nothing was evaluated.", [Problem(f"{listing}: labels", code, message, remedy)]) from None


def patients_of(cases: Collection[str], pattern: str | None) -> dict[str, str]:
    """Return the patient of each case: the first group of a pattern in its name, or else the whole match.

    Without a pattern each case is a patient, and it is noted where names look like several scans of one.

    Raises:
        UserError: It is no pattern, or is not in a name.
    """
    if pattern is None:
        if likely := pattern_of(cases):
            note(f"each mask counts as a patient of its own; --patient '{likely}' counts those of one stem as one")
        return {case: case for case in cases}
    names = list(cases)
    try:
        found = first_groups(pattern, names)
    except BadPatternError as error:
        raise UserError("Nothing was evaluated.", [Problem("--patient", "bad-pattern", *error.args)]) from None
    if missing := [name for name, patient in zip(names, found, strict=True) if not patient]:
        message = f"{pattern} is not in {listed(missing, 4)}"
        raise UserError("Nothing was evaluated.", [Problem("--patient", "bad-pattern", message, REMEDY)])
    return dict(zip(names, map(str, found), strict=True))


def all_names(values: Collection[int], known: Mapping[int, str]) -> dict[int, str]:
    """Return the name of every label, background included; that some of the values have none is noted.

    Args:
        values: Of the masks, but for the one to ignore.
        known: Names, maybe of further labels.
    """
    known = {0: "background", **known}
    unnamed = sorted(set(values) - known.keys())
    if unnamed and len(known) > 1:
        note(f"not all values of the masks have names: {listed([*map(str, unnamed)], 4)} scored too")
    return dict(sorted(({value: f"label {value}" for value in unnamed} | known).items()))


def scored_regions(regions: Mapping[str, Sequence[int]]) -> dict[str, Region]:
    """Return regions by their names, each with the label that its scores stand under.

    Args:
        regions: The label values of each.

    Raises:
        UserError: Background is in one, or one has no value that those behind it do not have.
    """
    wrong = [name for name, values in regions.items() if not values or min(values) < 1]
    if wrong:
        message = "has no values, or one below 1"
        problems = [
            Problem(f"region {name}", "bad-regions", message, "give the labels that it unites") for name in wrong
        ]
        raise UserError("Nothing was evaluated.", problems)
    values_of = {name: tuple(dict.fromkeys(values)) for name, values in regions.items()}
    try:
        painted = painted_labels(in_order(values_of), to_paint=False)
    except UnpaintableError as error:
        raise UserError(
            "Nothing was evaluated.", [Problem(f"region {error.name}", "bad-regions", *error.args)]
        ) from None
    return {name: Region(label, values_of[name]) for name, label in painted.items()}


def read_regions(pairs: Sequence[str]) -> dict[str, list[int]] | None:
    """Read regions from ``NAME=VALUES`` with one value or a YAML list; None for none.

    Raises:
        UserError: One is no name with whole numbers.

    >>> read_regions(["core=[1, 4]", "enhancing=4"])
    {'core': [1, 4], 'enhancing': [4]}
    """
    return _values_by_name(pairs, "--region", "bad-regions", "write core=[1,4]") or None


def read_names(pairs: Sequence[str]) -> dict[int, str]:
    """Read the names of label values from ``NAME=VALUE``.

    Raises:
        UserError: One is no name with a whole number, or a name or a value is there twice.

    >>> read_names(["liver=1", "tumour=2"])
    {1: 'liver', 2: 'tumour'}
    """
    remedy = "write liver=1, and give each value once"
    found = _values_by_name(pairs, "--label", "bad-labels", remedy)
    names = {value: name for name, values in found.items() for value in values}
    if len(names) < len(found) or any(len(values) != 1 for values in found.values()):
        problem = Problem("--label", "bad-labels", f"is {' '.join(pairs)}", remedy)
        raise UserError("Nothing was evaluated.", [problem])
    return names


def _values_by_name(given: Sequence[str], option: str, code: str, remedy: str) -> dict[str, list[int]]:
    """Read what was given of an option, ``NAME=VALUES`` each; its mistakes have a code and a remedy."""
    found: dict[str, list[int]] = {}
    problems = []
    for text in given:
        name, _, numbers = text.rpartition("=")
        told = read_yaml(numbers, text)
        values = told if isinstance(told, list) else [told]
        if not name or not all(type(value) is int for value in values):
            problems.append(Problem(f"{option} {text}", code, "is no NAME=VALUES", remedy))
        elif name in found:
            problems.append(Problem(f"{option} {text}", code, f"names {name} again", "give each name once"))
        found[name] = values
    if problems:
        raise UserError("Nothing was evaluated.", problems)
    return found
