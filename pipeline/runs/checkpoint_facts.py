"""What a checkpoint records of its training, and what a run's index records of its cases."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import __version__, config
from pipeline.errors import Problem, UserError
from pipeline.runs.stored import INDEX, read_index

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from pipeline.data.inspection import CaseFacts
    from pipeline.decisions import Decisions
    from pipeline.recipe import Recipe
    from pipeline.types import Task


def facts_of(run: Path, cases: Iterable[str] = ()) -> dict[str, CaseFacts]:
    """Read the facts of each case from a run's ``index.json``.

    Args:
        run: The run's folder.
        cases: Ids of cases that must be in it.

    Raises:
        UserError: It is gone, damaged or of another version, or a case is missing.
    """
    facts = read_index(run)
    missing = sorted(set(cases) - facts.keys())
    if missing:
        message = f"says nothing of {len(missing)} case(s), such as {missing[0]}"
        problem = Problem(str(run / INDEX), "damaged-run", message, "bring the file back, or train anew")
        raise UserError("The run's folder is not whole.", [problem])
    return facts


def portable(recipe: Recipe) -> Recipe:
    """Return a recipe as a checkpoint holds it: without paths of this machine, since checkpoints are passed on."""
    data = recipe.data.model_copy(update={"cache": "run", "split": None, "split_fold": None})
    return recipe.model_copy(update={"dataset": Path(), "root": None, "start": None, "plugins": (), "data": data})


def about_training(recipe: Recipe, decided: Decisions, task: Task) -> dict[str, Any]:
    """Return what a checkpoint records of its training: recipe, decisions, task and version."""
    told = config.dump(portable(recipe), decided=decided)
    return {"recipe": told, "task": task_state(task), "version": __version__}


def task_state(task: Task) -> dict[str, Any]:
    """Return a task as a checkpoint holds it."""
    state: dict[str, Any] = {"labels": dict(task.labels), "channels": list(task.channels)}
    if task.regions:
        state["regions"] = [{"label": region.label, "values": list(region.values)} for region in task.regions]
    return state
