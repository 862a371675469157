"""Predict: from scans to masks."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.data import nifti
from pipeline.data.check import in_parallel
from pipeline.data.codes import is_warning
from pipeline.data.inspection import Declared, examine_case
from pipeline.data.layouts import open_dataset
from pipeline.data.layouts.folders import CHANNEL
from pipeline.errors import Problem, UserError
from pipeline.metrics.calibration import expected_dice
from pipeline.outputs import Output
from pipeline.runs.annotation import ANNOTATE_NEXT, annotate_next
from pipeline.runs.checking import progress, tell_warnings
from pipeline.runs.models import TrainedModel, load_model, misfits
from pipeline.types import Case

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from pipeline.checkpoints import Which


def predict(
    run: Path,
    scans: Sequence[Path],
    output: Path,
    which: Which = "last",
    plugins: Sequence[Path] = (),
    *,
    rank: bool = False,
) -> list[Path]:
    """Write a label map for each scan, named as the scan and on exactly its grid.

    Args:
        run: The run's folder.
        scans: Scans, folders of scans, or datasets in any layout.
        output: Where the masks go; made where it is not there.
        which: The checkpoint.
        plugins: As for :func:`load_model`.
        rank: Also write ``annotate_next.csv``: the scans by their predicted Dice, the worst first.

    Returns:
        The masks' paths.

    Raises:
        UserError: Scans have one name, or a mask exists already, or a scan is unsound or has the wrong number of
            channels; all of it is found before anything is written.
    """
    listing = Output(output, "predict")
    if rank:
        listing.refuse_foreign([ANNOTATE_NEXT])
    targets = _targets(scans, output)
    model = load_model(run, which, plugins)
    _refuse_scans(targets, model)
    output.mkdir(parents=True, exist_ok=True)
    ranking = annotate_next(run, which, model) if rank else None
    for path, case in progress(targets.items(), "predicting", len(targets)):
        found = model.predictor.segment(case.images)
        if come_since := _present([path]):
            raise UserError("The prediction was not written.", come_since)
        nifti.save_labels(path, found.labels, nifti.load(case.images[0]))
        if ranking is not None:
            ranking.add(case.images[0], path, expected_dice(found.labels, found.logits, model.predictor.label_values))
    if ranking is not None:
        with listing.writing([ANNOTATE_NEXT]) as stage:
            ranking.write(stage / ANNOTATE_NEXT)
    return list(targets)


def _targets(scans: Sequence[Path], output: Path) -> dict[Path, Case]:
    """Map each mask's path to its scan."""
    named = [(output / _mask_name(case), case) for place in scans for case in _scans_of(place)]
    counts = Counter(nifti.stem(path) for path, _ in named)
    problems = [
        Problem(
            str(case.images[0]),
            "name-twice",
            f"{counts[nifti.stem(path)]} scans would be written to {path}",
            "predict them in separate calls",
        )
        for path, case in named
        if counts[nifti.stem(path)] > 1
    ] + _present(path for path, _ in named)
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


def _present(paths: Iterable[Path]) -> list[Problem]:
    message, remedy = "is there already", "name another --output, or remove it"
    there = [path for path in paths if path.is_symlink() or path.exists()]
    return [Problem(str(path), "mask-exists", message, remedy) for path in there]


def _mask_name(case: Case) -> str:
    """Return the first file's name, without the number of a channel where the dataset gives each channel a file."""
    first = case.images[0]
    channel = CHANNEL.fullmatch(nifti.stem(first))
    if channel and (len(case.images) > 1 or case.id == channel[1]):
        return first.name.replace(channel[0], channel[1], 1)
    return first.name


def _scans_of(place: Path) -> tuple[Case, ...]:
    if place.is_dir() or (place.is_file() and not nifti.is_nifti(place)):
        return open_dataset(place).cases
    return (Case(nifti.stem(place), (place,), None, "", "test"),)


def _refuse_scans(targets: dict[Path, Case], model: TrainedModel) -> None:
    cases = [replace(case, label=None) for case in targets.values()]
    declared = Declared(channels=len(model.task.channels))
    found: list[Problem] = []
    looks = in_parallel(lambda case: examine_case(case, declared), cases)
    for case, (facts, wrong) in zip(cases, progress(looks, "checking", len(cases)), strict=True):
        found += wrong
        if facts is not None:
            found += misfits(str(case.images[0]), facts, model)
    problems = [problem for problem in found if not is_warning(problem)]
    if problems:
        places = len({problem.where for problem in problems})
        raise UserError(f"Nothing was predicted: {places} scan(s) cannot be used.", problems)
    tell_warnings(found)
