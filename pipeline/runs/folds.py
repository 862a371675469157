"""Cross-validation: train one network for each fold, score it on the patients held out, and predict with all of them.

The folder of a cross-validation holds one run for each fold, ``fold-1`` and so on, and their number in ``folds.json``.
Wherever a run's folder is accepted, it is accepted too: it predicts with the mean over the folds' networks.
``out-of-fold/`` holds the scores of all labelled cases. By the same masks the post-processing of predictions is chosen,
which ``postprocessing.json`` holds.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from pipeline.bounds import seconds_of
from pipeline.decisions import NONE
from pipeline.errors import Problem, UserError
from pipeline.files import locked
from pipeline.runs import resuming
from pipeline.runs.folder import SCORES, RunFolder, write_own
from pipeline.runs.models import fold_folder
from pipeline.runs.out_of_fold import score_out_of_fold
from pipeline.runs.planning import absolute
from pipeline.runs.run_scores import validate
from pipeline.runs.splitting import check_dataset_of, pool_of
from pipeline.runs.starting import train
from pipeline.runs.stored import FOLDS, INDEX, OUT_OF_FOLD, read_index
from pipeline.strict_json import write_json
from pipeline.terminal import note

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.decisions import Decisions
    from pipeline.recipe import Recipe
    from pipeline.runs.scoring import Scores

# The share of a time budget that the folds divide; the rest is for predicting every labelled case again at the end.
FOLDS_SHARE = 0.95


def cross_validate(
    recipe: Recipe,
    run: Path,
    folds: int,
    *,
    resume: bool = False,
    allow_change: Sequence[str] = (),
    started: float | None = None,
    decided: Decisions = NONE,
) -> list[Scores]:
    """Train one network for each fold, score it on the patients held out, and choose the post-processing.

    Args:
        recipe: The recipe of every fold; a time budget is divided among the folds.
        run: The folder of the cross-validation.
        folds: Number of parts that the labelled patients are divided into, 2 or more; that of the recipe's file, if
            ``data.split`` names one.
        resume: Go on with the cross-validation that the folder holds.
        allow_change: As for :func:`train`.
        started: As for :func:`train`.
        decided: As for :func:`train`, in every fold.

    Returns:
        The out-of-fold scores; then, if the dataset has a validation list, the scores of the folds' ensemble on it.

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
    index = check_dataset_of(recipe, read_index(run) if resume and (run / INDEX).exists() else None)
    # What does not fit the folds is refused before anything is written.
    everything = pool_of(recipe, index, folds)
    run.mkdir(parents=True, exist_ok=True)
    with locked(run):
        folder = RunFolder(run)
        folder.take()
        if folder.holds_run:
            resuming.refuse_changes(run, recipe, decided, allow_change)
            resuming.refuse_other_scans(run, index, everything)
        folder.write_facts(everything.as_dict(), index.as_rows(), recipe.plugins)
        write_json(run / FOLDS, {"folds": folds})
        folder.write_config(recipe, decided)  # Last, as in any run.
        how: dict[str, Any] = {"resume": True, "allow_change": allow_change, "decided": decided}
        for fold in range(1, folds + 1):
            note(f"fold {fold} of {folds}")
            place = fold_folder(run, fold)
            write_own(place, INDEX, index.as_rows())  # So that the files are not read again.
            its_own = recipe_of_fold(recipe, run, (fold, folds))
            train(its_own, place, started=started if fold == 1 else None, **how)
    scores = [score_out_of_fold(run)]
    return [*scores, validate(run)] if everything.validation else scores


def _refuse_folders(run: Path, resume: bool, folds: int, allow_change: Sequence[str]) -> None:
    """Refuse too few folds, and folders of the cross-validation, its folds and its scores that hold other files."""
    if folds < 2:
        raise UserError("Nothing was started.", [Problem("--folds", "too-few", f"is {folds}", "give 2 or more")])
    resuming.refuse_allowing(resume, allow_change)
    RunFolder(run).refuse(resume, folds)
    for place in run.glob("fold-*"):
        RunFolder(place).refuse(resume=True)
    RunFolder(run / OUT_OF_FOLD).output.refuse_foreign(SCORES)


def recipe_of_fold(recipe: Recipe, run: Path, fold: tuple[int, int]) -> Recipe:
    """Return the recipe of one fold, given as number and count; all folds share one cache, and divide the time."""
    place = run.resolve() / "cache" if recipe.data.cache == "run" else recipe.data.cache
    changed: dict[str, Any] = {"data": recipe.data.model_copy(update={"fold": fold, "cache": place})}
    if recipe.time_budget is not None:
        changed["time_budget"] = f"{FOLDS_SHARE * seconds_of(recipe.time_budget) / fold[1]:.1f}s"
    return recipe.model_copy(update=changed)
