"""Train: from a recipe to a run's folder."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.data.loaders import WorkerDiedError
from pipeline.decisions import NONE
from pipeline.files import locked
from pipeline.runs import resuming
from pipeline.runs.announcing import announce
from pipeline.runs.folder import RunFolder
from pipeline.runs.origins import like_its_model
from pipeline.runs.planning import prepare
from pipeline.runs.scoring import notes_on, validate_run, write_scores
from pipeline.runs.setup import Setup
from pipeline.runs.stored import INDEX, read_index
from pipeline.runs.timing import keep_to_time, to_begin_with
from pipeline.runs.training import Training
from pipeline.terminal import note

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.checkpoints import Checkpoint
    from pipeline.decisions import Decisions
    from pipeline.pacing.budget import Budget
    from pipeline.recipe import Recipe
    from pipeline.runs.scoring import Scores


def train(
    recipe: Recipe,
    run: Path,
    *,
    resume: bool = False,
    allow_change: Sequence[str] = (),
    started: float | None = None,
    start: Checkpoint | None = None,
    decided: Decisions = NONE,
) -> Scores | None:
    """Check the dataset, train, and validate the last weights.

    A recipe with ``segments`` trains on no mask; if the dataset has no masks, nothing is validated. Nor is it with
    ``data.validation: none``, which trains on every mask.

    Args:
        recipe: The recipe.
        run: The run's folder; ``docs/runs.md`` lists what is written into it.
        resume: Go on with the run that the folder holds, or start one if it holds none.
        allow_change: Keys of the recipe, or sections, whose values may differ from those of the run that is resumed.
        started: When a time budget began, by ``time.monotonic()``; by default now.
        start: The checkpoint that a new run starts from; None starts with new weights.
        decided: The decisions of a run that this one repeats with that run's recipe.

    Returns:
        The scores of the last weights; None without a validation case.

    Raises:
        UserError: The recipe or the dataset has problems; or the folder holds a run and ``resume`` is off, another run,
            or files that no run has written there.
        Stopped: Within :func:`pipeline.interruption.stoppable`, a signal has requested the end, and a checkpoint is
            saved. Elsewhere signals are left to the caller.
    """
    if started is None:
        started = time.monotonic()
    resuming.refuse_allowing(resume, allow_change)
    folder = RunFolder(run)
    folder.refuse(resume)
    folder.cache_of(recipe)
    known = read_index(run) if resume and (run / INDEX).exists() else {}
    recipe = resuming.with_measured_of(run, recipe) if folder.holds_run else like_its_model(recipe)
    prepared = prepare(recipe, known)
    plan = prepared.plan
    # With a time budget, everything is decided anew but the model that a fold begins with.
    timed = plan.recipe.time_budget is not None
    given = NONE.begun_with(decided.taken) if timed else decided.on(plan.recipe.device)
    first = Setup(
        folder=folder,
        recipe=to_begin_with(plan.recipe),
        index=prepared.index,
        split=prepared.split,
        decided=given,
    )
    run.mkdir(parents=True, exist_ok=True)
    with locked(run):
        folder.take()
        setup, budget = keep_to_time(first, plan, given, started, lambda other: replace(first, recipe=other))
        training = Training(setup, budget, resuming.take_up(setup, start, allow_change))
        announce(training, plan.choices)
        return _train_to_end(folder, training, setup, budget, start)


def _train_to_end(
    folder: RunFolder, training: Training, setup: Setup, budget: Budget | None, start: Checkpoint | None
) -> Scores | None:
    if not training.is_done:
        try:
            training.run_to_end()
        except WorkerDiedError as error:
            # A machine that is out of memory for a moment should not cost the night; the second time it is an error.
            note(f"{error}\nGoing on from the last checkpoint.")
            setup = replace(setup)  # With a new network.
            training = Training(setup, budget, resuming.take_up(setup, start))
            training.run_to_end()
    if training.scored is None:
        if setup.split.validation:
            return validate_run(folder.path)
        return None
    notes = notes_on(setup.recipe, "last") + setup.decided.notes
    if setup.jury:
        notes += (setup.jury.note,)
    return write_scores(folder.path, folder.path, training.scored, "last", training.progress.done, notes)
