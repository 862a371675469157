"""Predict: from scans to masks."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from pipeline.data import nifti
from pipeline.data.inspection import examine_case
from pipeline.data.layouts import open_dataset, scans_in
from pipeline.errors import Problem, UserError
from pipeline.runs.checking import progress
from pipeline.runs.models import channel_problem, load_model
from pipeline.types import Case

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.checkpoints import Which
    from pipeline.types import Task


def predict(
    run: Path, scans: Sequence[Path], output: Path, which: Which = "last", plugins: Sequence[Path] = ()
) -> list[Path]:
    """Write a label map for each scan, named as the scan and on exactly its grid.

    Args:
        run: The run's folder.
        scans: Scans, folders of scans, or JSON lists.
        output: Where the masks go; made where it is not there.
        which: The checkpoint.
        plugins: As for :func:`load_model`.

    Returns:
        The masks' paths.

    Raises:
        UserError: Scans have one name, or a mask exists already, or a scan is unsound or has the wrong number of
            channels; all of it is found before anything is written.
    """
    targets = _targets(scans, output)
    model = load_model(run, which, plugins)
    _refuse_scans(targets, model.task)
    output.mkdir(parents=True, exist_ok=True)
    for path, images in progress(targets.items(), "predicting", len(targets)):
        nifti.save_labels(path, model.predictor(images), nifti.load(images[0]))
    return list(targets)


def _targets(scans: Sequence[Path], output: Path) -> dict[Path, tuple[Path, ...]]:
    """Map each mask's path to its scan's files."""
    found = [images for place in scans for images in _scans_of(place)]
    named = [(output / images[0].name, images) for images in found]
    counts = Counter(nifti.stem(path) for path, _ in named)
    problems = [
        Problem(
            str(images[0]),
            "name-twice",
            f"{counts[nifti.stem(path)]} scans would be written to {path}",
            "predict them in separate calls",
        )
        for path, images in named
        if counts[nifti.stem(path)] > 1
    ] + [
        Problem(str(path), "mask-exists", "is there already", "name another --output, or remove it")
        for path, _ in named
        if path.exists()
    ]
    if not named:
        problems = [
            Problem(
                ", ".join(map(str, scans)),
                "no-scans",
                "no .nii or .nii.gz file is there",
                "name scans or a folder of them",
            )
        ]
    if problems:
        raise UserError("Nothing was predicted.", problems)
    return dict(named)


def _scans_of(place: Path) -> list[tuple[Path, ...]]:
    if place.suffix == ".json" and place.is_file():
        return [case.images for case in open_dataset(place).cases]
    if place.is_dir():
        return [(path,) for path in scans_in(place)]
    return [(place,)]


def _refuse_scans(targets: dict[Path, tuple[Path, ...]], task: Task) -> None:
    problems: list[Problem] = []
    for images in progress(targets.values(), "checking", len(targets)):
        facts, wrong = examine_case(Case(nifti.stem(images[0]), images, None, ""), None)
        problems += wrong
        if facts is not None and facts.channels != len(task.channels):
            problems.append(channel_problem(str(images[0]), facts.channels, task))
    if problems:
        raise UserError(f"Nothing was predicted: {len(problems)} scan(s) cannot be used.", problems)
