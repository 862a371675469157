"""Train: from a recipe to a run's folder."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.data.loaders import WorkerDiedError
from pipeline.decisions import NONE
from pipeline.distributed import from_first, is_first, joined, own_device, size
from pipeline.files import locked
from pipeline.runs import resuming
from pipeline.runs.announcing import announce
from pipeline.runs.folder import RunFolder
from pipeline.runs.leading import keep_to_time_together
from pipeline.runs.planning import prepare
from pipeline.runs.restoring import take_up
from pipeline.runs.scoring import notes_on_choices, notes_on_low_dice, validate_run, write_scores
from pipeline.runs.setup import Setup
from pipeline.runs.timing import to_begin_with
from pipeline.runs.training import Training
from pipeline.terminal import note

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from pipeline.checkpoints import Checkpoint
    from pipeline.decisions import Decisions
    from pipeline.pacing.budget import Budget
    from pipeline.recipe import Recipe
    from pipeline.runs.planning import Prepared
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
        The scores of the last weights; None without a validation case, and in all but the first of several processes.

    Raises:
        UserError: The recipe or the dataset has problems; or the folder holds a run and ``resume`` is off, another run,
            or files that no run has written there.
        Stopped: Within :func:`pipeline.interruption.stoppable`, a signal has requested the end, and a checkpoint is
            saved. Elsewhere signals are left to the caller.
    """
    if started is None:
        started = time.monotonic()
    folder = RunFolder(run)
    with joined():
        prepared = from_first(lambda: _prepare(folder, recipe, resume, allow_change))
        plan = prepared.plan
        # With a time budget, everything is decided anew but the model that a fold begins with.
        timed = plan.recipe.time_budget is not None
        given = NONE.begun_with(decided.taken) if timed else decided.on(plan.recipe.device)
        settings = to_begin_with(plan.recipe)
        first = Setup(
            folder=folder,
            settings=settings.model_copy(update={"device": own_device(settings.device)}),
            index=prepared.index,
            split=prepared.split,
            decided=given,
        )
        if size() > settings.data.units:
            what = f"{size()} processes were started, and a batch has {settings.data.units} unit(s)"
            note(f"{what}: the others only validate; a larger data.batch_size has more (docs/distributed.md)")
        with _held(folder):
            setup, budget = keep_to_time_together(first, plan, given, started)
            training = Training(setup, budget, take_up(setup, start, allow_change))
            announce(training, plan.choices)
            return _train_to_end(folder, training, setup, budget, start)


def _prepare(folder: RunFolder, recipe: Recipe, resume: bool, allow_change: Sequence[str]) -> Prepared:
    resuming.refuse_allowing(resume, allow_change)
    folder.refuse(resume)
    folder.cache_of(recipe)  # Refuses one that cannot be.
    if not resume:
        folder.forget_unbegun()
    known = (folder.facts(), folder.unlike()) if resume and folder.holds_run else ({}, None)
    return prepare(resuming.completed(folder, recipe), *known)


@contextmanager
def _held(folder: RunFolder) -> Iterator[None]:
    """Hold the run's folder for this training; of several processes the first does so for all."""
    if not is_first():
        yield
        return
    folder.path.mkdir(parents=True, exist_ok=True)
    with locked(folder.path):
        folder.take()
        yield


def _train_to_end(
    folder: RunFolder, training: Training, setup: Setup, budget: Budget | None, start: Checkpoint | None
) -> Scores | None:
    goes_on = not from_first(lambda: training.is_done)
    if goes_on:
        try:
            training.run_to_end()
        except WorkerDiedError as error:
            if size() > 1:  # Of which the others know nothing.
                raise
            # A machine that is out of memory for a moment should not cost the night; the second time it is an error.
            note(f"{error}\nGoing on from the last checkpoint.")
            setup = replace(setup)  # With a new network.
            training = Training(setup, budget, take_up(setup, start))
            training.run_to_end()
    if not is_first():
        return None
    scores = _scores_of_last(folder, training, setup)
    if goes_on:
        training.tracking.ended(training.progress.done, scores)
    return scores


def _scores_of_last(folder: RunFolder, training: Training, setup: Setup) -> Scores | None:
    """Write the scores of the last weights; None without a validation case."""
    if training.scored is None:
        return validate_run(folder.path) if setup.split.validation else None
    notes = notes_on_choices(setup.settings, "last") + setup.decided.notes
    notes += notes_on_low_dice(folder.validation_dice(), setup.settings, training.scored)
    if setup.vote:
        notes += (setup.vote.note,)
    return write_scores(folder.path, folder.path, training.scored, "last", training.progress.done, notes)
