"""Cross-validation: train one network for each fold, score it on the patients held out, and predict with all of them.

The folder of a cross-validation holds one run for each fold, ``fold-1`` and so on, and their number in ``folds.json``.
Wherever a run's folder is accepted, it is accepted too: it predicts with the mean over the folds' networks.
``out-of-fold/`` holds the scores of all labelled cases. By the same masks the post-processing of predictions is chosen,
which ``postprocessing.json`` holds. Several calls, on one machine or on many that share the folder, may train its folds
side by side.
"""

from __future__ import annotations

import time
from math import ceil
from typing import TYPE_CHECKING

from pipeline.decisions import NONE
from pipeline.errors import Problem, UserError
from pipeline.files import HELD, is_held, locked
from pipeline.runs import resuming
from pipeline.runs.cross_validation import recipe_of_fold, score_folds, write_folds
from pipeline.runs.folder import SCORES, RunFolder, fold_folder, write_own
from pipeline.runs.planning import absolute
from pipeline.runs.splitting import check_dataset_of, pool_of
from pipeline.runs.starting import train
from pipeline.runs.stored import INDEX, OUT_OF_FOLD, SUMMARY, read_index
from pipeline.shards import WHOLE
from pipeline.terminal import note

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.data.index import Index
    from pipeline.decisions import Decisions
    from pipeline.recipe import Recipe
    from pipeline.runs.scoring import Scores
    from pipeline.shards import Shard


def cross_validate(
    recipe: Recipe,
    run: Path,
    folds: int,
    *,
    resume: bool = False,
    allow_change: Sequence[str] = (),
    started: float | None = None,
    decided: Decisions = NONE,
    shard: Shard = WHOLE,
) -> list[Scores]:
    """Train one network for each fold, score it on the patients held out, and choose the post-processing.

    Calls that run side by side with ``resume`` leave to each other what another one trains; the one that ends last
    scores all folds.

    Args:
        recipe: Of every fold; a time budget is divided among the folds of a call.
        run: The folder of the cross-validation.
        folds: Number of parts that the labelled patients are divided into, 2 or more; that of the recipe's file, if
            ``data.split`` names one.
        resume: Go on with the cross-validation that the folder holds.
        allow_change: As for :func:`train`.
        started: As for :func:`train`.
        decided: As for :func:`train`, in every fold.
        shard: Train only this share of the folds.

    Returns:
        The out-of-fold scores; then, if the dataset has a validation list, the scores of the folds' ensemble on it.
        Nothing while other folds are not trained yet.

    Raises:
        UserError: As :func:`train`, or there are fewer labelled patients than folds.
        Stopped: As :func:`train`.
    """
    if started is None:
        started = time.monotonic()
    recipe = absolute(recipe)
    if recipe.segments is not None:
        problem = Problem("--folds", "no-labels", "parts masks, and this recipe learns from none", "leave it out")
        raise UserError("Nothing was started.", [problem])
    _refuse_folders(run, resume, folds, allow_change)
    index, decided = _begin(recipe, run, folds, resume, allow_change, decided)
    together = ceil(folds / shard.count)  # They are trained one after the other, and divide the time.
    for fold in shard.of(range(1, folds + 1)):
        note(f"fold {fold} of {folds}")
        its_own = recipe_of_fold(recipe, run, (fold, folds), together)
        _train_fold(its_own, fold_folder(run, fold), index, allow_change, started, decided)
        started = None  # The time that the command took to begin is the first one's.
    places = [fold_folder(run, fold) for fold in range(1, folds + 1)]
    if missing := [place.name for place in places if not (place / SUMMARY).is_file() or is_held(place)]:
        note(f"{', '.join(missing)}: not trained yet; the call that ends last scores all")
        return []
    return score_folds(run)


def _begin(
    recipe: Recipe, run: Path, folds: int, resume: bool, allow_change: Sequence[str], decided: Decisions
) -> tuple[Index, Decisions]:
    """Check the dataset, and begin the folder or go on with it; one call after the other."""
    index = check_dataset_of(recipe, read_index(run) if resume and (run / INDEX).exists() else None)
    # What does not fit the folds is refused before anything is written.
    everything = pool_of(recipe, index, folds)
    run.mkdir(parents=True, exist_ok=True)
    with locked(run, wait=True):
        folder = RunFolder(run)
        folder.take()
        decided = resuming.pinned(folder, recipe, decided)
        if folder.holds_run:
            resuming.refuse_changes(run, recipe, decided, allow_change)
            resuming.refuse_other_scans(run, index, everything)
        write_folds(folder, recipe, index, everything, folds, decided)
    return index, decided


def _train_fold(
    recipe: Recipe,
    place: Path,
    index: Index,
    allow_change: Sequence[str],
    started: float | None,
    decided: Decisions,
) -> None:
    """Train one fold, unless another process is training it."""
    place.mkdir(exist_ok=True)
    try:
        with locked(place):
            write_own(place, INDEX, index.as_rows())  # So that the files are not read again.
        train(recipe, place, resume=True, allow_change=allow_change, started=started, decided=decided)
    except UserError as error:
        if [problem.code for problem in error.problems] != [HELD]:
            raise
        note(f"{place.name} is being trained by another call")


def _refuse_folders(run: Path, resume: bool, folds: int, allow_change: Sequence[str]) -> None:
    """Refuse too few folds, and folders of the cross-validation, its folds and its scores that hold other files."""
    if folds < 2:
        raise UserError("Nothing was started.", [Problem("--folds", "too-few", f"is {folds}", "give 2 or more")])
    resuming.refuse_allowing(resume, allow_change)
    RunFolder(run).refuse(resume, folds)
    if not resume:
        RunFolder(run).forget_unbegun()
    for place in run.glob("fold-*"):
        RunFolder(place).refuse(resume=True)
    RunFolder(run / OUT_OF_FOLD).output.refuse_foreign(SCORES)
