"""Predict: from scans to masks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import nifti
from pipeline.data.checked import read_images
from pipeline.errors import IncompleteError, UserError
from pipeline.files import WriteError
from pipeline.memory import memory_for
from pipeline.metrics.calibration import Expectation
from pipeline.outputs import Output
from pipeline.planning.limits import size
from pipeline.runs.annotation import ANNOTATE_NEXT, annotate_next
from pipeline.runs.checked_scans import checked_scans
from pipeline.runs.models import TrainedModel, load_model
from pipeline.runs.targets import OpenAs, chosen_cases, present_masks, scans_of, targets_of
from pipeline.terminal import note, progress

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.checkpoints import Which
    from pipeline.data.inspection import CaseFacts
    from pipeline.errors import Problem
    from pipeline.nifti.volume import Scan

# Less than this needs no word.
MUCH_BYTES = 10**9


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
        UserError: An id is not there, or scans have one name, or a mask exists already, or no scan could be predicted.
            All but the last is found before anything is written.
        IncompleteError: Some scans were predicted, and others are unsound or have the wrong number of channels, or
            something went wrong with them on the way.
    """
    listing = Output(output, "predict")
    if rank:
        listing.refuse_foreign([ANNOTATE_NEXT])
    found = [case for place in scans for case in scans_of(place, open_as)]
    targets = targets_of(chosen_cases(found, only, unlabelled=unlabelled), scans, output)
    model = load_model(run, which, plugins, device)
    if not mirror:
        model = replace(model, predictor=model.predictor.without_mirrors())
    facts, problems = checked_scans(targets, model)
    if not facts:
        raise _nothing(problems)
    output.mkdir(parents=True, exist_ok=True)
    _tell_memory(facts, model)
    ranking = annotate_next(run, which, model) if rank else None
    done = []
    for path in progress(list(map(Path, facts)), "predicting", len(facts)):
        expectation = Expectation(model.predictor.label_values) if ranking is not None else None
        try:
            _predict_one(path, read_images(targets[path], facts[str(path)]), model, expectation)
        except UserError as error:
            problems += error.problems
            if isinstance(error, WriteError):  # No other mask could be written either.
                break
            continue
        done.append(path)
        if ranking is not None and expectation is not None:
            ranking.add(targets[path].images[0], path, expectation.dice())
    if not done:
        raise _nothing(problems)
    if ranking is not None:
        with listing.writing([ANNOTATE_NEXT]) as stage:
            ranking.write(stage / ANNOTATE_NEXT)
    if problems:
        raise IncompleteError(f"{len(done)} of {len(targets)} masks were written to {output}.", problems, done)
    return done


def _nothing(problems: Sequence[Problem]) -> UserError:
    return UserError(f"Nothing was predicted: {len(problems)} problem(s).", problems)


def _predict_one(path: Path, images: Sequence[Scan], model: TrainedModel, expectation: Expectation | None) -> None:
    where = str(images[0].path)
    with memory_for(where, "to predict it", None, "crop the scan, or predict it elsewhere"):
        labels = model.predictor.segment(images, expectation)
        if come_since := present_masks([path]):
            raise UserError("The prediction was not written.", come_since)
        nifti.save_labels(path, labels, images[0])


def _tell_memory(facts: Mapping[str, CaseFacts], model: TrainedModel) -> None:
    """Say what the largest scan takes, where that is much."""
    takes = max(model.predictor.footprint(each.forms, each.channels).total for each in facts.values())
    if takes >= MUCH_BYTES:
        note(f"the largest scan takes about {size(takes)} of memory beside itself and the network")
