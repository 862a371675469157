"""The course of a training: what is decided on the way, and how much of it is done."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass
class Course:
    """Tells the share of a training that is done at a step.

    The share is a straight line from 0 to 1 over the number of steps. Where that number was decided anew at some step,
    the line bends there and still ends at 1: learning rate and ramps never jump, and a schedule is always finished. It
    is a function of the decisions alone, so whoever has them can repeat a training bit for bit.

    Attributes:
        max_steps: The number of steps as decided at the start.
        corrections: By the step after which it was decided, the number of steps from there on, in rising order.
        threads: By the step after which it was decided, how many threads compute from there on. The order of sums
            depends on them, and with it the last bits of the weights.

    >>> course = Course(100, {50: 75})
    >>> course.last, [course.share_done(step) for step in (0, 25, 50, 60, 75)]
    (75, [0.0, 0.25, 0.5, 0.7, 1.0])
    """

    max_steps: int
    corrections: Mapping[int, int] = field(default_factory=dict)
    threads: Mapping[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        steps = list(self.corrections)
        last = self.max_steps
        if steps != sorted(set(steps)):
            raise ValueError(f"corrections are made in rising order, not at {steps}")
        for step, corrected in self.corrections.items():
            if not 0 < step < min(last, corrected):
                raise ValueError(f"step {step} is not within both {last} and {corrected} steps")
            last = corrected

    @property
    def last(self) -> int:
        """The last step, as decided by now."""
        return [self.max_steps, *self.corrections.values()][-1]

    def correct(self, step: int, max_steps: int) -> None:
        """Decide, after a step is done, how many steps there are in all; decisions that were to come are forgotten."""
        past = {when: steps for when, steps in self.corrections.items() if when < step}
        self.corrections = Course(self.max_steps, {**past, step: max_steps}).corrections

    def change_threads(self, step: int, threads: int) -> None:
        """Decide, after a step is done, how many threads compute from there on."""
        self.threads = {**self.threads, step: threads}

    def threads_after(self, step: int) -> int | None:
        """Return how many threads compute after a step; None where that was not decided."""
        return self.threads.get(max((when for when in self.threads if when <= step), default=-1))

    def share_done(self, steps: float) -> float:
        """Return the share of the training that so many steps are, in [0, 1]."""
        share = 0.0  # That is done at the step `here`, where the line last bent.
        here = 0
        length = self.max_steps
        for step, corrected in self.corrections.items():
            if steps <= step:
                break
            share += (1 - share) * (step - here) / (length - here)
            here = step
            length = corrected
        return min(1.0, share + (1 - share) * (steps - here) / (length - here))
