"""The folder of a cross-validation: what is written into it before its folds are trained, and after."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.bounds import seconds_of
from pipeline.files import locked
from pipeline.runs.folder import CACHE, fold_folder
from pipeline.runs.out_of_fold import score_out_of_fold
from pipeline.runs.run_scores import validate
from pipeline.runs.stored import BUDGET, FOLDS, SPLIT, read_own
from pipeline.strict_json import write_json

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.data.index import Index
    from pipeline.data.splits import Split
    from pipeline.decisions import Decisions
    from pipeline.recipe import Recipe
    from pipeline.runs.folder import RunFolder
    from pipeline.runs.scoring import Scores

# The share of a time budget that the folds divide; the rest is for predicting every labelled case again at the end.
FOLDS_SHARE = 0.95


def recipe_of_fold(recipe: Recipe, run: Path, fold: tuple[int, int], together: int) -> Recipe:
    """Return the recipe of one fold.

    Args:
        recipe: Of the cross-validation.
        run: Its folder, where all folds share one cache.
        fold: Number and count.
        together: How many folds divide a time budget.
    """
    recipe = recipe_of_part(recipe, run, fold_folder(run, fold[0]), FOLDS_SHARE / together)
    changed: dict[str, Any] = {"data": recipe.data.model_copy(update={"fold": fold})}
    if recipe.postprocessing == "auto":
        changed["postprocessing"] = ()  # It is chosen by the masks of all folds, from what it does to their scores.
    return recipe.model_copy(update=changed)


def recipe_of_part(recipe: Recipe, folder: Path, part: Path, share: float) -> Recipe:
    """Return the recipe of one of several trainings below a folder, which share a cache there and a time budget.

    Args:
        recipe: Of all of them.
        folder: The folder.
        part: That of this training.
        share: Of the time budget; a training that was begun keeps its own, though others share the time now.
    """
    changed: dict[str, Any] = {}
    if recipe.data.cache == "run":
        changed["data"] = recipe.data.model_copy(update={"cache": folder.resolve() / CACHE})
    if recipe.time_budget is not None:
        seconds = share * seconds_of(recipe.time_budget)
        if (part / BUDGET).exists():
            seconds = read_own(part, BUDGET)["seconds"]
        changed["time_budget"] = f"{seconds:.1f}s"
    return recipe.model_copy(update=changed)


def write_folds(
    folder: RunFolder, recipe: Recipe, index: Index, everything: Split, folds: int, decided: Decisions
) -> None:
    """Write what makes a folder that of a cross-validation; ``everything`` is what all folds together train on."""
    folder.write_facts(everything.as_dict(), index.as_rows(), recipe.plugins)
    write_json(folder.path / FOLDS, {"folds": folds})
    folder.write_config(recipe, decided)  # Last, as in any run.


def score_folds(run: Path) -> list[Scores]:
    """Score a cross-validation whose folds are trained.

    Returns:
        The out-of-fold scores; then, if the dataset has a validation list, the scores of the folds' ensemble on it.

    Raises:
        UserError: A checkpoint of a fold or the dataset cannot be used.
    """
    with locked(run, wait=True):
        scores = [score_out_of_fold(run)]
        return [*scores, validate(run)] if read_own(run, SPLIT)["validation"] else scores
