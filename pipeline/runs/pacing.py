"""Choose what the machine is fast at and has time for, by timing a training before it begins."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Protocol, TypeVar

import torch

from pipeline.planning.plan import default_steps
from pipeline.runs.budget import TIMED_STEPS, WARM_STEPS, Budget, seconds_of
from pipeline.runs.checking import note
from pipeline.runs.resuming import with_decisions_of
from pipeline.runs.stored import BUDGET, CONFIG
from pipeline.runs.threads import FASTER, REST, threads_kept, use_threads

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pipeline.planning.plan import Plan
    from pipeline.recipe import Recipe
    from pipeline.runs.budget import Pace

# An alternative is timed where that takes this share of what is left of the budget at most.
TRIAL_SHARE = 0.02
TRIAL_WARM, TRIAL_TIMED = 2, 3
# Half of the threads are always timed, for a few steps; all of them no longer than so many of these steps take, which
# on a busy machine may be one step.
FEWER_WARM, FEWER_TIMED, LONGEST = 1, 2, 4
# Each network of an ensemble, and of a wide one, gets about this share of the steps of a training without a budget.
ENOUGH = 3 / 4
# A wider network learns more from a step, which takes up to four times as long: it is for budgets that have time for
# two of them, which together are no worse than three narrow ones.
WIDE_MEMBERS, TIMES_LONGER = 2, 4


class Timed(Protocol):
    """A training that can be timed."""

    run: Path
    recipe: Recipe

    def prepare(self) -> object:
        """Prepare the scans, which the first step that is timed would do."""
        ...

    def step_s(self, warm: int = ..., timed: int = ..., at_most_s: float = ...) -> float:
        """Return the seconds of a step."""
        ...

    def pace(self, step_s: float) -> Pace:
        """Return them beside the seconds of a validation."""
        ...

    def decide(self, recipe: Recipe, budget: Budget | None) -> None:
        """Take a recipe that differs in its steps and threads, and what keeps to the time."""
        ...


T = TypeVar("T", bound=Timed)


def to_begin_with(recipe: Recipe) -> Recipe:
    """Fill in what a time budget leaves open until the machine is timed."""
    steps, network = 1 if recipe.max_steps == "auto" else recipe.max_steps, recipe.network
    order = "contiguous" if network.memory_format == "auto" else network.memory_format
    members = 1 if network.members == "auto" else network.members
    return _with(recipe.model_copy(update={"max_steps": steps}), memory_format=order, members=members)


def keep_to_time(training: T, plan: Plan, began: float, make: Callable[[Recipe], T]) -> T:
    """Give a training what its time allows, and what keeps it to that.

    Args:
        training: Of :func:`to_begin_with` of the plan's recipe.
        plan: What was planned.
        began: When the time of a budget began, by ``time.monotonic()``.
        make: Makes the training of another recipe.

    Returns:
        The training that is to be run.

    Raises:
        UserError: The time is too short for any training, or the run that is there has another.
    """
    recipe = plan.recipe
    if (training.run / CONFIG).exists():
        own = to_begin_with(with_decisions_of(training.run, recipe))
        training.decide(own, Budget.read(training.run, began))
    elif recipe.time_budget is not None:
        budget = Budget(training.run, seconds_of(recipe.time_budget), began=began)
        with threads_kept():
            training = _fit(training, plan, budget, make)
    else:  # What a start with a budget left that was killed before it became a run.
        (training.run / BUDGET).unlink(missing_ok=True)
    return training


def _fit(training: T, plan: Plan, budget: Budget, make: Callable[[Recipe], T]) -> T:
    """Time a training, and return the one that is to be run."""
    threads, step_s = time_threads(training)
    use_threads(threads)
    training, step_s = choose(training, step_s, plan, budget, make)
    steps, every = budget.fit(training.pace(step_s), plan.recipe.validate_every)
    if threads == budget.trials.most:  # Else still fewer, which were not timed, are tried.
        budget.trials.step_s = step_s
    budget.trials.rest = REST
    budget.write()
    decided = ((0, threads),) if training.recipe.device == "cpu" else ()
    known = {"max_steps": steps, "validate_every": every, "time_budget": None, "threads": decided}
    training.decide(training.recipe.model_copy(update=known), budget)
    note(f"time budget {plan.recipe.time_budget}: {steps} steps, a validation every {every}{_choices(training.recipe)}")
    return training


def _choices(recipe: Recipe) -> str:
    """Say what was chosen by timing."""
    channels, members = recipe.network.options.get("channels"), recipe.network.members
    width = f", {channels[0]} features at full resolution" if channels else ""
    turns = f", {members} networks in turn" if members != 1 else ""
    threads = "".join(f", threads: {threads}" for _, threads in recipe.threads)
    return f"{turns}{width}, {recipe.network.memory_format.replace('_', ' ')} memory{threads}"


def choose(training: T, step_s: float, plan: Plan, budget: Budget, make: Callable[[Recipe], T]) -> tuple[T, float]:
    """Return the training that is the best use of the time, and the seconds of a step of it.

    Args:
        training: Of the plan's recipe, in the contiguous memory format where that leaves it open.
        step_s: The seconds of a step of it.
        plan: What was planned.
        budget: The time.
        make: Makes the training of another recipe.
    """
    if plan.recipe.network.memory_format == "auto" and _is_worth_a_trial(step_s, budget):
        other = make(_with(training.recipe, memory_format="channels_last"))
        other_s = other.step_s(TRIAL_WARM, TRIAL_TIMED)
        if other_s <= FASTER * step_s:
            training, step_s = other, other_s
    enough = ENOUGH * default_steps(training.recipe.device)
    given = plan.recipe.network.members
    wide_members = min(WIDE_MEMBERS, plan.most_members) if given == "auto" else given
    wide_s, wide_steps = TIMES_LONGER * step_s, enough * wide_members
    if plan.wider and budget.left_s >= wide_steps * wide_s / 2 and _is_worth_a_trial(wide_s, budget):
        wide = make(_with(training.recipe, options=plan.wider.network.options))
        wide_s = wide.step_s(TRIAL_WARM, TRIAL_TIMED)
        if budget.left_s >= wide_steps * wide_s:
            training, step_s = wide, wide_s
    if given == "auto":
        members = min(plan.most_members, int(budget.left_s / (enough * step_s)))
        if members > 1:
            training = make(_with(training.recipe, members=members))
    return training, step_s


def time_threads(training: Timed) -> tuple[int, float]:
    """Return with how many threads a step is the fastest, with all or half of them, and its seconds."""
    most, fewer_s, warm = torch.get_num_threads(), inf, WARM_STEPS
    if training.recipe.device == "cpu" and most > 1:
        training.prepare()  # With all of them.
        with threads_kept():
            use_threads(most // 2)
            fewer_s, warm = training.step_s(FEWER_WARM, FEWER_TIMED), FEWER_WARM
    step_s = training.step_s(warm, TIMED_STEPS, LONGEST * fewer_s)
    return (most, step_s) if fewer_s > FASTER * step_s else (most // 2, fewer_s)


def _is_worth_a_trial(step_s: float, budget: Budget) -> bool:
    return (TRIAL_WARM + TRIAL_TIMED) * step_s <= TRIAL_SHARE * budget.left_s


def _with(recipe: Recipe, **network: object) -> Recipe:
    return recipe.model_copy(update={"network": recipe.network.model_copy(update=network)})
