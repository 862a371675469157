"""Find out what layout a dataset has, and read it."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from shlex import quote
from typing import TYPE_CHECKING, Any

from pipeline.data.codes import is_warning
from pipeline.data.layouts.annotated import with_annotated
from pipeline.data.layouts.dataset import LAYOUTS, Dataset, Layout, no_dataset
from pipeline.data.layouts.folders import subfolders
from pipeline.data.layouts.leftovers import leftovers
from pipeline.data.layouts.lists import read_json
from pipeline.data.layouts.patients import one_patient, shared_stems
from pipeline.data.layouts.spare_lists import listing_here, naming_cases
from pipeline.data.layouts.synonyms import names_masks
from pipeline.data.relabelling import with_background
from pipeline.errors import Problem, UserError, listed
from pipeline.files import path_hint
from pipeline.nifti.container import is_nifti, stem

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

AUTO = "auto"
# Of lists that a folder holds, so many are named.
LISTS = 5
COMPONENTS = "see `fewmask components` for the layouts"


def open_dataset(
    source: Path, root: Path | None = None, layout: str = AUTO, options: Mapping[str, Any] | None = None
) -> Dataset:
    """Read a dataset as :func:`read_dataset` does, and refuse it if its list has problems other than warnings.

    Raises:
        UserError: It is no dataset, or its list has problems; all of them are in the error.
    """
    dataset = read_dataset(source, root, layout, options)
    problems = [problem for problem in dataset.problems if not is_warning(problem)]
    if problems:
        raise UserError(f"{dataset.source} has {len(problems)} mistake(s).", problems)
    return dataset


def read_dataset(
    source: Path, root: Path | None = None, layout: str = AUTO, options: Mapping[str, Any] | None = None
) -> Dataset:
    """Detect the layout of a file or folder and read it.

    Args:
        source: A dataset folder, a list, or a scan.
        root: Folder that a list's paths are relative to; by default the list's own.
        layout: A registered name, or ``auto``.
        options: Options of the layout, by name.

    Returns:
        The dataset. Mistakes in its list, and files in its folders that nothing uses, are among its ``problems``.

    Raises:
        UserError: There is no such file or folder, it has no or more than one layout, or the layout or an option of it
            is unknown.
    """
    if not source.exists():
        raise no_dataset(source, "missing-dataset", "there is no such file or folder", path_hint(source))
    if root is not None and not root.is_dir():
        raise no_dataset(root, "no-folder", "is no folder, and paths of a list are to be in it", "check the path")
    name = _detect(source) if layout == AUTO else layout
    wrong = LAYOUTS.problems(name, options or {})
    if wrong:
        raise UserError("The dataset cannot be opened.", [_bad_option(*each, options or {}) for each in wrong])
    reader: Layout = LAYOUTS.build(name, _as_tuples(options or {}))
    dataset = with_background(with_annotated(reader.declare(reader.read(source, root))))
    found = [*leftovers(dataset), *naming_cases(dataset), *shared_stems(dataset), *one_patient(dataset)]
    return replace(dataset, problems=(*dataset.problems, *found))


def _bad_option(key: str, text: str, options: Mapping[str, Any]) -> Problem:
    """Return the problem of an option, which another layout may have; or of the layout, where the key is empty."""
    others = [name for name in LAYOUTS.names if key and key not in dict(LAYOUTS.problems(name, options))]
    remedy = "`fewmask components` lists every layout and its options"
    if others:
        text, _, _ = text.partition(";")
        remedy = f"{listed(others, LISTS)} has it: name the layout, --layout {others[0]}, for train layout={others[0]}"
    return Problem(f"layout.options.{key}" if key else "layout", "bad-layout", text, remedy)


def _as_tuples(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}


def _detect(source: Path) -> str:
    """Return the one layout that a source has.

    Raises:
        UserError: It has none, or more than one; the message says by what each was recognised. Or its ``dataset.json``
            cannot be read.
    """
    if (about := source / "dataset.json").is_file():
        read_json(about)  # Whatever the layout is, what is said there counts.
    seen = {name: what for name in LAYOUTS.names if (what := LAYOUTS[name].detect(source))}
    lists = [] if {"decathlon", "datalist"} & seen.keys() else listing_here(source)
    if len(seen) == 1 and not lists:
        return next(iter(seen))
    if seen:
        found = [f"{name} ({what})" for name, what in seen.items()]
        if lists:
            found.append(f"what is listed in {listed([path.name for path in lists], LISTS)}")
        message = f"could be {' or '.join(found)}"
        remedy = f"say which: --layout {next(iter(seen))}, or layout=NAME"
        if lists:
            remedy = f"name the list itself, {lists[0]}; or {remedy}"
        raise no_dataset(source, "ambiguous-layout", message, remedy)
    if not source.is_dir():
        message = "is no list, no table and no scan that can be read"
        remedy = COMPONENTS
        raise no_dataset(source, "no-dataset", message, remedy)
    content = sorted(path.name for path in source.iterdir())
    message = f"has no layout that is known; it holds {', '.join(content[:8]) or 'nothing'}"
    raise no_dataset(source, "no-dataset", message, _nearby(source) or COMPONENTS)


def _folders_of_equal_names(source: Path) -> tuple[str, str] | None:
    """Return two folders that hold scans of the same names: images and masks, perhaps."""
    held = {place.name: {stem(path) for path in place.iterdir() if is_nifti(path)} for place in subfolders(source)}
    pairs = [pair for pair in permutations(held, 2) if held[pair[0]] & held[pair[1]]]
    # A folder that is named after masks comes second; else the smaller one, since some scans may have no mask.
    return max(pairs, key=lambda pair: (names_masks(pair[1]), len(held[pair[0]]) - len(held[pair[1]])), default=None)


def _nearby(source: Path) -> str:
    """Return a remedy: name a list in the folder, or a folder in it that has a layout; "" if there is neither."""
    lists = sorted(path.name for end in ("json", "csv", "tsv") for path in source.glob(f"*.{end}"))
    if lists:
        return f"name the list itself: {', '.join(lists[:LISTS])}"
    if pair := _folders_of_equal_names(source):
        options = f"--layout-option {quote(f'images={pair[0]}')} --layout-option {quote(f'labels={pair[1]}')}"
        return f"where that is what they are: --layout folder {options}"
    inner = [
        f"{place.name}/ ({name})"
        for place in subfolders(source)
        for name in LAYOUTS.names
        if LAYOUTS[name].detect(place)
    ]
    if inner:
        return f"name what is in it: {', '.join(inner[:5])}; or write a list of all of it"
    return ""
