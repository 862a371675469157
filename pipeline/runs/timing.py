"""Time a training before it begins, and choose threads, memory format, network and number of steps by its budget."""

from __future__ import annotations

import copy
import time
from dataclasses import replace
from itertools import islice
from math import inf
from statistics import fmean
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import torch

from pipeline.bounds import seconds_of
from pipeline.decisions import Decisions
from pipeline.distributed import from_first
from pipeline.pacing.budget import TIMING_SHARE, WARM_STEPS, Budget
from pipeline.pacing.course import Course
from pipeline.pacing.threads import FASTER, REST, threads_kept, use_threads
from pipeline.planning.settings import settle
from pipeline.runs.resuming import decisions_of, with_time_of
from pipeline.terminal import note

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ignite.engine import Engine

    from pipeline.engines.steps import TrainingStep
    from pipeline.pacing.budget import Pace
    from pipeline.planning.plan import Plan
    from pipeline.planning.settings import Settings
    from pipeline.recipe import Recipe
    from pipeline.runs.folder import RunFolder

# The number of steps before it is chosen.
OPEN_STEPS = 10**9
# How many steps are timed, and the number of the first of them, in the middle of a long training.
TIMED_STEPS = 8
AT = 10**6
# An alternative is only timed if that takes at most this share of what is left of the budget.
TRIAL_SHARE = 0.02
TRIAL_WARM = 2
TRIAL_TIMED = 3
# Half of the threads are timed first, for a few steps. All threads are then timed for at most LONGEST times as long as
# one of these steps, which on a busy machine may be a single step.
FEWER_WARM = 1
FEWER_TIMED = 2
LONGEST = 4
# If fewer steps than this fit into the budget, smaller patches are used.
WANTED_STEPS = 300
# Each network of an ensemble gets about this share of the steps of a training without a budget.
ENOUGH = 3 / 4
# A wider network improves more with each step, which takes up to four times as long. It is used if there is time for
# two of them, which together are no worse than three narrow ones.
WIDE_MEMBERS = 2
TIMES_LONGER = 4


class Timed(Protocol):
    """A training that can be timed."""

    @property
    def folder(self) -> RunFolder:
        """The run's folder."""
        ...

    @property
    def settings(self) -> Settings:
        """The settings."""
        ...

    def prepare(self, so_far: Callable[[int, int], None] = ...) -> object:
        """Prepare the scans; ``so_far`` is called after each with the number prepared and the number of all."""
        ...

    def step_s(self, warm: int = ..., timed: int = ..., at_most_s: float = ...) -> float:
        """Time steps, and return the seconds of one."""
        ...

    def pace(self, step_s: float, at_most_s: float = ...) -> Pace:
        """Time a validation, and return the pace with the seconds of a step."""
        ...

    def decide(self, settings: Settings, decided: Decisions) -> None:
        """Use settings with another number of steps, and other decisions, from here on."""
        ...


T = TypeVar("T", bound=Timed)


def time_steps(
    step: TrainingStep,
    load: Callable[[], Iterable[Any]],
    warm: int = WARM_STEPS,
    timed: int = TIMED_STEPS,
    at_most_s: float = inf,
) -> float:
    """Return the seconds of a training step, its data included, and leave the step as it was.

    Args:
        step: The training step.
        load: Makes its batches.
        warm: Steps that are not timed.
        timed: Steps that are.
        at_most_s: Seconds after which no further step begins; if none was timed by then, the last warm step counts.
    """
    state = copy.deepcopy(step.state_dict())
    course = step.course
    step.course = Course(2 * AT)  # In its middle, where the timed steps are, ramps have ended.
    durations = []
    began = time.perf_counter()
    start = began
    try:
        for n, batches in enumerate(islice(load(), warm + timed)):
            step(cast("Engine", SimpleNamespace(state=SimpleNamespace(iteration=AT + n))), batches)
            durations.append(time.perf_counter() - start)
            start = time.perf_counter()
            if from_first(lambda: start - began >= at_most_s):  # noqa: B023 - it is called at once
                break
        step.settle()
    finally:
        step.course = course
        step.load_state_dict(state)
    return fmean(durations[warm:] or durations[-1:])


def to_begin_with(recipe: Recipe) -> Settings:
    """Return a recipe as settings, with preliminary values for what is chosen by timing."""
    chosen: dict[str, object] = {}
    if recipe.network.memory_format == "auto":
        chosen["memory_format"] = "contiguous"
    if recipe.network.members == "auto":
        chosen["members"] = 1
    known: dict[str, object] = {"time_budget": None, "network": recipe.network.model_copy(update=chosen)}
    if recipe.max_steps == "auto":
        known["max_steps"] = OPEN_STEPS
    return settle(recipe.model_copy(update=known))


def keep_to_time(
    training: T, plan: Plan, given: Decisions, began: float, make: Callable[[Settings], T]
) -> tuple[T, Budget | None]:
    """Fit a training to its time budget, if there is one.

    Args:
        training: The training by the preliminary settings of :func:`to_begin_with`.
        plan: The plan.
        given: The decisions of a run that this one repeats.
        began: When the budget began, by ``time.monotonic()``.
        make: Makes the training of other settings.

    Returns:
        The training to run, and its budget; None without one. A run that is resumed has its own number of steps.

    Raises:
        UserError: The budget is too short for any training, or differs from that of the run that is resumed.
    """
    recipe = plan.recipe
    folder = training.folder
    if folder.holds_run:
        own = to_begin_with(with_time_of(folder.path, recipe))
        training.decide(own, decisions_of(folder.path, recipe, given))
        return training, folder.read_budget(began)
    if recipe.time_budget is None:
        folder.remove_budget()
        return training, None
    budget = Budget(seconds=seconds_of(recipe.time_budget), began=began)
    with threads_kept():
        training = _fit(training, plan, budget, make)
    folder.write_budget(budget)
    return training, budget


def _fit(training: T, plan: Plan, budget: Budget, make: Callable[[Settings], T]) -> T:
    """Time a training and alternatives to it, and return the one to run."""
    about = f"time budget {plan.recipe.time_budget}"
    budget.refuse_if_spent()
    note(f"{about}: preparing the scans")
    training.prepare(budget.watch_scans())
    note(f"{about}: timing steps and a validation, {TIMING_SHARE * budget.seconds:.0f} s at most")
    budget.begin_timing()
    threads, step_s = time_threads(training, budget)
    use_threads(threads)
    lighter, step_s = lighten(training, step_s, plan, budget, make)
    if lighter is not training:  # Then there is no time for a wide network either.
        plan = replace(plan, wider=None)
    training, step_s = choose(lighter, step_s, plan, budget, make)
    pace = training.pace(step_s, budget.timing_left_s)
    steps, every = budget.fit(pace, plan.recipe.validate_every)
    if threads == budget.trials.most:  # Otherwise fewer threads still, which were not timed, are tried first.
        budget.trials.step_s = step_s
    budget.trials.rest = REST
    decided = Decisions(threads=((0, threads),)).on(training.settings.device)
    known = {"max_steps": steps, "validate_every": every, "time_budget": None}
    training.decide(training.settings.model_copy(update=known), decided)
    note(f"{about}: {steps} steps{_choices(training.settings, decided)}")
    return training


def _choices(settings: Settings, decided: Decisions) -> str:
    """Return what was chosen by timing as text."""
    channels = settings.network.options.get("channels")
    members = settings.network.members
    width = ""
    if channels:
        width = f", {channels[0]} features at full resolution"
    turns = ""
    if members != 1:
        turns = f", {members} networks in turn"
    threads = "".join(f", threads: {threads}" for _, threads in decided.threads)
    return f"{turns}{width}, {settings.network.memory_format.replace('_', ' ')} memory{threads}"


def lighten(training: T, step_s: float, plan: Plan, budget: Budget, make: Callable[[Settings], T]) -> tuple[T, float]:
    """Return a training with smaller steps if the budget has time for too few of the plan's, and the seconds of a step.

    Many steps on small patches are worth more than a few on large ones.
    """
    enough_s = budget.left_s / WANTED_STEPS
    if step_s <= enough_s or not plan.lighter:
        return training, step_s
    fitting = (other for other, share in plan.lighter if share * step_s <= enough_s)
    lighter = make(_like(next(fitting, plan.lighter[-1][0]), training.settings))
    return lighter, lighter.step_s(TRIAL_WARM, TRIAL_TIMED, budget.timing_left_s / 3)


def choose(training: T, step_s: float, plan: Plan, budget: Budget, make: Callable[[Settings], T]) -> tuple[T, float]:
    """Choose memory format, width and number of networks by the budget.

    Args:
        training: The training by the plan, in the contiguous memory format if the plan leaves that open.
        step_s: Seconds of a step of it.
        plan: The plan.
        budget: The time budget.
        make: Makes the training of other settings.

    Returns:
        The training to run, and the seconds of a step of it.
    """
    if plan.recipe.network.memory_format == "auto" and _is_worth_a_trial(step_s, budget):
        other = make(_with(training.settings, memory_format="channels_last"))
        other_s = other.step_s(TRIAL_WARM, TRIAL_TIMED, budget.timing_left_s / 3)
        if other_s <= FASTER * step_s:
            training = other
            step_s = other_s
    enough = ENOUGH * plan.usual_steps
    given = plan.recipe.network.members
    wide_members = min(WIDE_MEMBERS, plan.most_members) if given == "auto" else given
    wide_s = TIMES_LONGER * step_s
    wide_steps = enough * wide_members
    if plan.wider and budget.left_s >= wide_steps * wide_s / 2 and _is_worth_a_trial(wide_s, budget):
        wide = make(_with(training.settings, options=plan.wider.network.options))
        wide_s = wide.step_s(TRIAL_WARM, TRIAL_TIMED, budget.timing_left_s / 3)
        if budget.left_s >= wide_steps * wide_s:
            training = wide
            step_s = wide_s
    if given == "auto":
        return several_networks(training, step_s, plan.most_members, enough, budget, make)
    return training, step_s


def several_networks(
    training: T, step_s: float, most: int, enough: float, budget: Budget, make: Callable[[Settings], T]
) -> tuple[T, float]:
    """Return a training with as many networks, ``most`` at most, as have time for ``enough`` steps each.

    They are trained in turns, so that a step takes as long as with one; but a teacher predicts with all of them, and so
    a training with sources is timed again.
    """
    members = min(most, int(budget.left_s / (enough * step_s)))
    if members < 2:
        return training, step_s
    several = make(_with(training.settings, members=members))
    if not training.settings.sources:
        return several, step_s
    several_s = several.step_s(TRIAL_WARM, TRIAL_TIMED, budget.timing_left_s / 3)
    if budget.left_s >= members * enough * several_s:
        return several, several_s
    return several_networks(training, step_s, members - 1, enough, budget, make)


def time_threads(training: Timed, budget: Budget) -> tuple[int, float]:
    """Return whether a step is faster with all or with half of the threads, as their number, and the step's seconds.

    Each may take a third of the time for timing; if half of the threads take longer, all of them are not tried.
    """
    most = torch.get_num_threads()
    fewer_s = inf
    warm = WARM_STEPS
    each_s = budget.timing_left_s / 3
    if training.settings.device == "cpu" and most > 1:
        with threads_kept():
            use_threads(most // 2)
            fewer_s = training.step_s(FEWER_WARM, FEWER_TIMED, each_s)
            warm = FEWER_WARM
        if budget.timing_left_s < each_s:
            return most // 2, fewer_s
    step_s = training.step_s(warm, TIMED_STEPS, min(LONGEST * fewer_s, each_s))
    if fewer_s > FASTER * step_s:
        return (most, step_s)
    return (most // 2, fewer_s)


def _is_worth_a_trial(step_s: float, budget: Budget) -> bool:
    taken_s = (TRIAL_WARM + TRIAL_TIMED) * step_s
    return taken_s <= TRIAL_SHARE * budget.left_s and taken_s <= budget.timing_left_s


def _like(recipe: Recipe, other: Settings) -> Settings:
    """Return a recipe as settings, with memory format and number of networks from other settings."""
    network = {key: getattr(other.network, key) for key in ("memory_format", "members")}
    return _with(to_begin_with(recipe), **network)


def _with(settings: Settings, **network: object) -> Settings:
    return settings.model_copy(update={"network": settings.network.model_copy(update=network)})
