"""Predict: what is asked for, what can be done, and what came of it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.errors import IncompleteError, Problem, UserError
from pipeline.outputs import Output
from pipeline.runs.annotation import ANNOTATE_NEXT, annotate_next
from pipeline.runs.beside import NOTHING_ELSE, REPORT, VOLUMES, Beside, chosen_labels
from pipeline.runs.checked_scans import checked_scans
from pipeline.runs.closing import write_beside
from pipeline.runs.mask_folder import OWNER, MaskFile, destination
from pipeline.runs.masks import Masks
from pipeline.runs.models import load_model
from pipeline.runs.scored_cases import count_trained_on
from pipeline.runs.targets import OpenAs, chosen_cases, scans_of
from pipeline.shards import WHOLE, Shard
from pipeline.terminal import note

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from pipeline.runs.annotation import AnnotateNext
    from pipeline.runs.mask_folder import MaskFolder, StoredMask
    from pipeline.runs.models import TrainedModel
    from pipeline.types import Case, Which


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
    postprocess: bool = True,
    overwrite: bool = False,
    beside: Beside = NOTHING_ELSE,
    shard: Shard = WHOLE,
) -> list[Path]:
    """Write a label map for each scan, named as the scan and on exactly its grid, and return the masks' paths.

    A mask that is there already, of the same scan and made as it would be now, stays.

    Args:
        run: The run's folder.
        scans: Scans, folders of scans, or datasets in any layout.
        output: Where the masks go; made where it is not there. Of one scan it may be the name of its mask.
        which: The checkpoint.
        plugins: As for :func:`load_model`.
        rank: Also write ``annotate_next.csv``: the scans by their predicted Dice, the worst first.
        open_as: As for :func:`pipeline.runs.targets.scans_of`.
        only: Ids of the cases that are predicted; none is all.
        unlabelled: Leaves out cases that have a mask.
        device: As for :func:`load_model`.
        mirror: Whether to take the mean over mirror images, where the run was trained for that.
        postprocess: Whether to post-process the masks as the run says.
        overwrite: Whether masks that were made of another scan, or otherwise, are made again.
        beside: What else is to be written.
        shard: The share of the scans that this call predicts; calls for the others may run at the same time.

    Raises:
        UserError: No scan could be predicted; or, before anything is written, an id, a name or a mask is refused.
        IncompleteError: Some scans were predicted, others not.
    """
    files = [*([ANNOTATE_NEXT] if rank else []), *beside.files()]
    place = _place_of(output, files, beside.options({"--annotate-next": rank, "--overwrite": overwrite}), shard)
    cases = chosen_cases(scans_of(run, scans, open_as, unlabelled=unlabelled), only, unlabelled=unlabelled)
    targets = dict(shard.of(list(place.targets(cases, scans).items())))
    model = _loaded(run, which, plugins, device, mirror=mirror, postprocess=postprocess)
    masks, problems = _masks_of(run, targets, model, place, beside, expected=rank or beside.report)
    ranking = _ranking(run, which, model, targets.values()) if rank else None
    done = _made(masks, problems, overwrite=overwrite)
    if files:
        with Output(place.folder, OWNER).writing(files) as stage:
            _rank(stage, ranking, masks, done)
            write_beside(stage, masks, done, run, which)
    _tell_older(place, files, done)
    if problems:
        raise IncompleteError(f"{len(done)} of {len(targets)} masks are in {output}.", problems, list(done))
    return list(done)


def _place_of(output: Path, files: Sequence[str], options: Sequence[str], shard: Shard) -> MaskFolder | MaskFile:
    """Return where masks go; refuse what may not go there, and what tells of all scans where a shard is predicted."""
    if files and shard != WHOLE:
        message = f"writes masks alone, and {', '.join(files)} would tell of one shard"
        remedy = "leave that out, and ask for it in a last call without --shard, which finds all masks there"
        raise UserError("Nothing was predicted.", [Problem("--shard", "one-shard", message, remedy)])
    place = destination(output)
    place.refuse(options, files)
    return place


def _loaded(
    run: Path, which: Which, plugins: Sequence[Path], device: str, *, mirror: bool, postprocess: bool
) -> TrainedModel:
    model = load_model(run, which, plugins, device)
    if which == "last" and model.unfinished:
        note(f"{run} was {model.unfinished}")
    if not mirror:
        model = replace(model, predictor=model.predictor.without_mirrors())
    return model if postprocess else model.without_postprocessing()


def _masks_of(
    run: Path,
    targets: dict[Path, Case],
    model: TrainedModel,
    place: MaskFolder | MaskFile,
    beside: Beside,
    *,
    expected: bool,
) -> tuple[Masks, list[Problem]]:
    """Look at all scans, and return the masks of those that can be predicted, and the problems of the others."""
    labels = chosen_labels(beside.labels, model.task)
    facts, problems = checked_scans(targets, model)
    masks = Masks(
        model=model, targets=targets, facts=facts, place=place, beside=beside, labels=labels, expected=expected
    )
    _tell_trained_on(run, masks)
    return masks, problems


def _tell_trained_on(run: Path, masks: Masks) -> None:
    """Note how many of the scans the run was trained on with their masks; a file does not tell which these were."""
    if not run.is_dir():
        return
    with suppress(UserError):  # Of a run's own files that are damaged: weights and scans are sound.
        if count := count_trained_on(run, masks.facts.values()):
            what = f"{run} was trained on {count} of these {len(masks.facts)} scans, with their masks"
            note(f"{what}: scores of what it predicts there flatter")


def _ranking(run: Path, which: Which, model: TrainedModel, cases: Iterable[Case]) -> AnnotateNext:
    """Return an empty list of what to annotate next, after a note on how many of the scans have a mask already."""
    if masked := sum(case.label is not None for case in cases):
        note(f"{ANNOTATE_NEXT} also ranks {masked} scan(s) that have a mask; --unlabelled leaves them out")
    return annotate_next(run, which, model)


def _made(masks: Masks, problems: list[Problem], *, overwrite: bool) -> dict[Path, StoredMask]:
    """Make the masks that are not there, and return all.

    Args:
        masks: Of the call.
        problems: Of scans that cannot be predicted; what goes wrong on the way is added.
        overwrite: Whether masks that were made otherwise are made again.

    Raises:
        UserError: There is nothing to do, or it is not to be done, or not one mask could be made.
    """
    if not masks.targets:  # A shard may be empty; that there is no scan at all was found before.
        return {}
    there, otherwise = masks.there()
    if masks.facts and (overwrite or not otherwise):
        if done := masks.make(there, problems):
            return done
        otherwise = []
    found = [*problems, *otherwise]
    raise UserError(f"Nothing was predicted: {len(found)} problem(s).", found)


def _tell_older(place: MaskFolder | MaskFile, files: Sequence[str], done: Mapping[Path, StoredMask]) -> None:
    """Note which tables and pages of an earlier call are older than the masks."""
    if isinstance(place, MaskFile) or not done:
        return
    newest = max(path.stat().st_mtime_ns for path in done)
    left = [place.folder / name for name in (VOLUMES, REPORT, ANNOTATE_NEXT) if name not in files]
    older = [path.name for path in left if path.is_file() and path.stat().st_mtime_ns < newest]
    if older:
        told = f"{', '.join(older)} in {place.folder}: older than some masks"
        note(f"{told}; a call that asks for them makes them anew")


def _rank(stage: Path, ranking: AnnotateNext | None, masks: Masks, done: Mapping[Path, StoredMask]) -> None:
    """Write which scan should get a mask next, where that is asked for."""
    if ranking is not None:
        for path, mask in done.items():
            ranking.add(masks.targets[path].images[0], path, mask.expected)
        ranking.write(stage / ANNOTATE_NEXT)
