"""The course of a training: its number of steps and threads as decided so far, and the share that is done."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass
class Course:
    """Computes the share of a training that is done at a step.

    The share rises linearly from 0 to 1 over the number of steps. If that number is corrected at some step, the line
    bends there and still ends at 1: learning rate and ramps never jump, and a schedule always ends. The share is a
    function of the decisions alone, so with them a training is repeated bit for bit.

    Attributes:
        max_steps: The number of steps as decided at the start.
        corrections: The number of all steps as it was corrected, by the step after which it was, rising.
        threads: The number of threads, by the step after which it was decided. The order of sums depends on it, and
            with that the last bits of the weights.

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
        """The last step, by the latest decision."""
        return [self.max_steps, *self.corrections.values()][-1]

    def correct(self, step: int, max_steps: int) -> None:
        """Correct, after a step, the number of all steps; corrections for later steps are dropped."""
        past = {when: steps for when, steps in self.corrections.items() if when < step}
        self.corrections = Course(self.max_steps, {**past, step: max_steps}).corrections

    def change_threads(self, step: int, threads: int) -> None:
        """Change, after a step, the number of threads."""
        self.threads = {**self.threads, step: threads}

    def threads_after(self, step: int) -> int | None:
        """Return the number of threads after a step; None if it was not decided."""
        return self.threads.get(max((when for when in self.threads if when <= step), default=-1))

    def share_done(self, steps: float) -> float:
        """Return the share of the training that so many steps are, in [0, 1]."""
        share = 0.0  # The share done at the step `here`, at which the line last bent.
        here = 0
        length = self.max_steps
        for step, corrected in self.corrections.items():
            if steps <= step:
                break
            share += (1 - share) * (step - here) / (length - here)
            here = step
            length = corrected
        return min(1.0, share + (1 - share) * (steps - here) / (length - here))
