"""Say what a training is about to do, before its first step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pipeline.durations import in_words
from pipeline.engines.handlers import FORECAST_AFTER
from pipeline.errors import listed
from pipeline.reports.plans import plan_table
from pipeline.terminal import is_verbose, note, show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.planning.plan import Choice
    from pipeline.runs.setup import Setup
    from pipeline.runs.training import Training

# So many held-out cases are named.
NAMED = 4
# AdamW's 0.5, which SGD adds to the gradient at a larger learning rate, would let all weights fade.
MOST_SGD_DECAY = 0.01


def announce(training: Training, choices: Sequence[Choice]) -> None:
    """Note device, steps, time, held-out cases and folder in four lines; where it is verbose, the whole plan before.

    Of a training that has nothing left to do, note that.

    Args:
        training: The training.
        choices: The choices of its plan.
    """
    if training.is_done:
        note(f"{training.setup.folder.path} has done all its {training.progress.done} steps: nothing is left to train")
        return
    setup = training.setup
    done = training.progress.done
    budget = training.clock.budget
    if is_verbose():
        show(plan_table(choices))
    recipe = setup.settings
    threads = ""
    if recipe.device == "cpu":
        threads = f", threads: {setup.step.course.threads_after(done) or torch.get_num_threads()}"
    begun = f", of which {done} are done" if done else ""
    validations = f"a validation every {recipe.validate_every}"
    if recipe.validate_every >= recipe.max_steps:
        validations = "a validation at the end"
    note(f"device    {recipe.device}, {recipe.precision}{threads}")
    time = _time(setup, done, budget.left_s if budget else None)
    note(f"steps     {recipe.max_steps}{begun}, {validations}; {time}")
    note(f"held out  {_held_out(setup)}")
    note(f"folder    {setup.folder.path}")
    if recipe.optimizer.name == "sgd" and recipe.optimizer.weight_decay > MOST_SGD_DECAY:
        many = f"optimizer.weight_decay={recipe.optimizer.weight_decay:g} is meant for AdamW: with SGD weights may fade"
        note(f"warning: {many} until nothing is found; nnU-Net has optimizer.weight_decay=3e-5")


def _time(setup: Setup, done: int, seconds: float | None) -> str:
    if seconds is not None:
        return f"the time budget ends in {in_words(seconds)}"
    if setup.settings.max_steps - done > FORECAST_AFTER:
        return f"step {done + FORECAST_AFTER} tells how long"
    return "too few to tell how long"


def _held_out(setup: Setup) -> str:
    cases = setup.split.validation
    if not cases:
        return "no case: nothing tells how well it does"
    names = listed([case.id for case in cases], NAMED)
    whole = [*cases, *setup.split.labelled]
    patients = f"{len({case.patient for case in cases})} of {len({case.patient for case in whole})} patients"
    return f"{len(cases)} of {len(whole)} cases with masks ({patients}): {names}"
