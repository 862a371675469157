"""Fit a training of several processes into its time: the first one times and decides, the others compute with it."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any

import torch

from pipeline.distributed import agree, is_first, own_device, size
from pipeline.pacing.budget import WARM_STEPS
from pipeline.pacing.threads import threads_kept, use_threads
from pipeline.runs.timing import TIMED_STEPS, keep_to_time

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.decisions import Decisions
    from pipeline.pacing.budget import Budget, Pace
    from pipeline.planning.plan import Plan
    from pipeline.planning.settings import Settings
    from pipeline.runs.folder import RunFolder
    from pipeline.runs.setup import Setup


def keep_to_time_together(first: Setup, plan: Plan, given: Decisions, began: float) -> tuple[Setup, Budget | None]:
    """Fit a training to its time budget as :func:`keep_to_time` does, in all processes.

    Returns:
        The training to run, and its budget, which only the first process has.

    Raises:
        UserError: As :func:`keep_to_time`.
    """
    if size() == 1:
        return keep_to_time(first, plan, given, began, first.with_settings)
    if not is_first():
        with threads_kept():
            return _follow(first), None
    leader, budget = keep_to_time(_Leader(first), plan, given, began, lambda other: _Leader(first.with_settings(other)))
    agree(("go", leader.settings, leader.setup.decided))
    return leader.setup, budget


@dataclass
class _Leader:
    """A training that is timed by the first process: the others are told what to do before it does the same."""

    setup: Setup

    @property
    def folder(self) -> RunFolder:
        return self.setup.folder

    @property
    def settings(self) -> Settings:
        return self.setup.settings

    def prepare(self, so_far: Callable[[int, int], None] = lambda *_: None) -> object:
        agree(("prepare", self.settings))
        return self.setup.prepare(so_far)

    def step_s(self, warm: int = WARM_STEPS, timed: int = TIMED_STEPS, at_most_s: float = inf) -> float:
        agree(("step", self.settings, torch.get_num_threads(), warm, timed))
        return self.setup.step_s(warm, timed, at_most_s)

    def pace(self, step_s: float, at_most_s: float = inf) -> Pace:
        return self.setup.pace(step_s, at_most_s, lambda quick, few: agree(("score", self.settings, quick, few)))

    def decide(self, settings: Settings, decided: Decisions) -> None:
        self.setup.decide(settings, decided)


def _follow(setup: Setup) -> Setup:
    """Do what the first process says until it has decided, and return the training to run."""
    while True:
        order: tuple[Any, ...] = agree()[0]
        what, settings, *how = order
        settings = settings.model_copy(update={"device": own_device(settings.device)})
        if settings != setup.settings:
            setup = setup.with_settings(settings)
        if what == "go":
            setup.decide(settings, how[0])
            return setup
        if what == "prepare":
            setup.prepare()
        elif what == "score":
            setup.score(quick=how[0], at_most=how[1])
        else:
            use_threads(how[0])
            setup.step_s(*how[1:])
