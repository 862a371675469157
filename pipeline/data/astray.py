"""What the problems of all cases together say of where a dataset was looked for: its scans, and its masks."""

from __future__ import annotations

import shlex
from collections import Counter
from typing import TYPE_CHECKING

from pipeline.data.layouts.names import counted, owner
from pipeline.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipeline.data.layouts import Dataset


def astray(dataset: Dataset, found: Sequence[Problem]) -> Iterator[Problem]:
    """Yield what is wrong with where scans and masks were looked for, from the problems of single cases."""
    yield from _nothing_there(dataset, found)
    yield from _masks_as_images(dataset, found)


def _nothing_there(dataset: Dataset, found: Sequence[Problem]) -> Iterator[Problem]:
    """Point at the folder that a list's paths begin at, where no scan that it names is there."""
    missing = {problem.where for problem in found if problem.code == "missing-file"}
    first = {str(case.images[0]) for case in dataset.cases}
    if dataset.source.is_file() and first and first <= missing:
        remedy = "if its paths begin in another folder: --root FOLDER, for train root=FOLDER"
        yield Problem(str(dataset.source), "nothing-there", "names no scan that is there", remedy)


def _masks_as_images(dataset: Dataset, found: Sequence[Problem]) -> Iterator[Problem]:
    """Point at files of a folder that hold few whole numbers, and are named after another file there."""
    masks = {problem.case for problem in found if problem.code == "looks-like-mask"}
    if dataset.layout not in ("scans", "folder") or not dataset.source.is_dir():
        return
    cases = {case.id: case for case in dataset.cases}
    owners = {name: image for name in masks & cases.keys() if (image := owner(name, cases.keys() - masks))}
    if not owners:
        return
    endings = Counter(name.removeprefix(image) for name, image in sorted(owners.items()))
    ((ending, _),) = endings.most_common(1)
    place = cases[next(iter(owners))].images[0].parent
    options = (f"images={place.relative_to(dataset.source)}", f"label_suffix={ending}")
    told = " ".join(f"--layout-option {shlex.quote(option)}" for option in options)
    trained = " ".join(shlex.quote(f"layout.options.{option}") for option in options)
    message = f"holds images and, by their names and values, masks of them: {counted(endings)}"
    remedy = f"--layout folder {told} reads them as masks, for train layout=folder {trained}; or take them away"
    yield Problem(str(place), "mask-as-image", message, remedy)
