"""Predict: from scans to masks."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.data import nifti
from pipeline.data.checked import read_images
from pipeline.data.codes import is_warning
from pipeline.data.examining import examine, in_parallel
from pipeline.data.inspection import Declared
from pipeline.data.layouts import open_dataset
from pipeline.data.layouts.channels import CHANNEL
from pipeline.data.packed import Packed
from pipeline.errors import Problem, UserError, nearest
from pipeline.files import LONGEST_WRITTEN
from pipeline.memory import memory_for
from pipeline.metrics.calibration import Expectation
from pipeline.outputs import Output
from pipeline.planning.limits import size
from pipeline.runs.annotation import ANNOTATE_NEXT, annotate_next
from pipeline.runs.checking import tell_warnings
from pipeline.runs.models import TrainedModel, load_model, misfits
from pipeline.terminal import note, progress
from pipeline.types import Case

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pipeline.checkpoints import Which
    from pipeline.data.inspection import CaseFacts
    from pipeline.data.nifti import Scan

# Less than this needs no word.
MUCH_BYTES = 10**9

# Root, layout and options of a dataset.
OpenAs = tuple[Path | None, str, dict[str, Any]]


def predict(
    run: Path,
    scans: Sequence[Path],
    output: Path,
    which: Which = "last",
    plugins: Sequence[Path] = (),
    *,
    rank: bool = False,
    open_as: OpenAs = (None, "auto", {}),
    only: Sequence[str] = (),
    unlabelled: bool = False,
    device: str = "auto",
    mirror: bool = True,
) -> list[Path]:
    """Write a label map for each scan, named as the scan and on exactly its grid.

    Args:
        run: The run's folder.
        scans: Scans, folders of scans, or datasets in any layout.
        output: Where the masks go; made where it is not there.
        which: The checkpoint.
        plugins: As for :func:`load_model`.
        rank: Also write ``annotate_next.csv``: the scans by their predicted Dice, the worst first.
        open_as: Root, layout and options of those of the scans that are datasets, as for :func:`open_dataset`.
        only: Ids of the cases that are predicted; none is all.
        unlabelled: Leaves out cases that have a mask.
        device: As for :func:`load_model`.
        mirror: Whether the mean over mirror images is taken, where the run was trained for that.

    Returns:
        The masks' paths.

    Raises:
        UserError: An id is not there, or scans have one name, or a mask exists already, or a scan is unsound or has the
            wrong number of channels; all of it is found before anything is written.
    """
    listing = Output(output, "predict")
    if rank:
        listing.refuse_foreign([ANNOTATE_NEXT])
    found = [case for place in scans for case in _scans_of(place, open_as)]
    targets = _targets(_chosen(found, only, unlabelled=unlabelled), scans, output)
    model = load_model(run, which, plugins, device)
    if not mirror:
        model = replace(model, predictor=model.predictor.without_mirrors())
    facts = _checked_scans(targets, model)
    output.mkdir(parents=True, exist_ok=True)
    _tell_memory(facts, model)
    ranking = annotate_next(run, which, model) if rank else None
    for path, case in progress(targets.items(), "predicting", len(targets)):
        images = read_images(case, facts[str(path)])
        expectation = Expectation(model.predictor.label_values) if ranking is not None else None
        _predict_one(path, images, model, expectation)
        if ranking is not None and expectation is not None:
            ranking.add(case.images[0], path, expectation.dice())
    if ranking is not None:
        with listing.writing([ANNOTATE_NEXT]) as stage:
            ranking.write(stage / ANNOTATE_NEXT)
    return list(targets)


def _predict_one(path: Path, images: Sequence[Scan], model: TrainedModel, expectation: Expectation | None) -> None:
    where = str(images[0].path)
    with memory_for(where, "to predict it", None, "crop the scan, or predict it elsewhere"):
        labels = model.predictor.segment(images, expectation)
        if come_since := _present([path]):
            raise UserError("The prediction was not written.", come_since)
        nifti.save_labels(path, labels, images[0])


def _chosen(cases: list[Case], only: Sequence[str], *, unlabelled: bool) -> list[Case]:
    """Return the cases that are wanted.

    Raises:
        UserError: An id is of no case, or no case is left.
    """
    known = {case.id for case in cases}
    if unknown := [name for name in only if name not in known]:
        problems = [Problem(name, "no-case", "is the id of no scan there", nearest(name, known)) for name in unknown]
        raise UserError("Nothing was predicted.", problems)
    wanted = [case for case in cases if not only or case.id in only]
    chosen = [case for case in wanted if not (unlabelled and case.label)]
    if wanted and not chosen:
        problem = Problem("--unlabelled", "no-scans", "every scan there has a mask", "leave it out to predict them")
        raise UserError("Nothing was predicted.", [problem])
    return chosen


def _tell_memory(facts: Mapping[str, CaseFacts], model: TrainedModel) -> None:
    """Say what the largest scan takes, where that is much."""
    takes = max(model.predictor.footprint(each.forms, each.channels).total for each in facts.values())
    if takes >= MUCH_BYTES:
        note(f"the largest scan takes about {size(takes)} of memory beside itself and the network")


def _targets(cases: Sequence[Case], scans: Sequence[Path], output: Path) -> dict[Path, Case]:
    """Map each mask's path to its scan, of those that were found where scans were named."""
    named = [(output / _mask_name(case), case) for case in cases]
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
    ]
    problems += [
        Problem(
            str(case.images[0]),
            "name-too-long",
            f"its mask would be called {path.name}, and a name that can be written has {LONGEST_WRITTEN} bytes at most",
            "rename the scan, or predict it through a link of a shorter name",
        )
        for path, case in named
        if len(os.fsencode(path.name)) > LONGEST_WRITTEN
    ]
    problems += _present(path for path, _ in named)
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
    message = "is there already"
    remedy = "name another --output, or remove it"
    there = [path for path in paths if path.is_symlink() or path.exists()]
    return [Problem(str(path), "mask-exists", message, remedy) for path in there]


def _mask_name(case: Case) -> str:
    """Return the first file's name, without the number of a channel where the dataset gives each channel a file.

    Where a case is called otherwise than its file, or has several files without such numbers, it is the case's own
    name: ``image.nii.gz`` is there in every folder, and ``X_flair.nii.gz`` is one channel of ``X``.
    """
    first = case.images[0]
    name = nifti.stem(first)
    own = case.id
    channel = CHANNEL.fullmatch(name)
    if channel and (len(case.images) > 1 or own == channel[1]):
        return first.name.replace(name, channel[1], 1)
    ours = len(case.images) > 1 or not name.startswith(own)
    # An id is text of a list's, and not every text can be a file's name.
    usable = own == Path(own).name and own.isprintable() and not own.startswith(".")
    return f"{own}{first.name.removeprefix(name)}" if ours and usable else first.name


def _scans_of(place: Path, open_as: OpenAs) -> tuple[Case, ...]:
    if place.is_dir() or (place.is_file() and not nifti.is_nifti(place)):
        dataset = open_dataset(place, *open_as)
        tell_warnings(dataset.problems)
        return dataset.cases
    return (Case(nifti.stem(place), (place,), None, "", "test"),)


def _checked_scans(targets: dict[Path, Case], model: TrainedModel) -> Mapping[str, CaseFacts]:
    """Look at every scan, and return what was found by the mask's path."""
    seen: Packed[CaseFacts] = Packed()
    cases = [replace(case, label=None) for case in targets.values()]
    declared = Declared(channels=len(model.task.channels))
    found: list[Problem] = []
    looks = progress(in_parallel(lambda case: examine(case, declared), cases), "checking", len(cases))
    for path, case, (facts, wrong) in zip(targets, cases, looks, strict=True):
        found += wrong
        if facts is not None:
            seen[str(path)] = facts
            found += misfits(str(case.images[0]), facts, model)
    problems = [problem for problem in found if not is_warning(problem)]
    if problems:
        places = len({problem.where for problem in problems})
        raise UserError(f"Nothing was predicted: {places} scan(s) cannot be used.", problems)
    tell_warnings(found)
    return seen
