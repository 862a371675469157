"""The timekeeper: decides after each step when a training ends, and with how many threads it goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from ignite.engine import Events

from pipeline.pacing.threads import use_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ignite.engine import Engine

    from pipeline.pacing.budget import Budget
    from pipeline.pacing.course import Course

# A training that is asked to finish lets the learning rate fall to 0 over this share of the steps done.
FINISH = 0.1


class Timekeeper:
    """An Ignite handler that keeps a training to its time budget, and ends it soon on request.

    Its decisions go into the course. A request to end is a file, or a number of validations without a better Dice.

    Args:
        course: The course of the training.
        budget: The time budget; None for no limit.
        stop: The file that requests the end; it is deleted when it is found.
        patience: The number of validations without a better Dice that request the end; None for no such limit.
        step_s: Returns the seconds of the last step.
        say: Called with each decision in words.
        decided: Called after each decision, to save it for a resumed run.
    """

    def __init__(
        self,
        *,
        course: Course,
        budget: Budget | None,
        stop: Path,
        patience: int | None,
        step_s: Callable[[], float],
        say: Callable[[str], None],
        decided: Callable[[], None],
    ) -> None:
        self.course = course
        self.budget = budget
        self.stop = stop
        self.patience = patience
        self.step_s = step_s
        self.say = say
        self.decided = decided

    def attach(self, engine: Engine) -> None:
        """Decide after each completed iteration."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: self.after_step(engine.state.iteration))

    def after_step(self, step: int) -> None:
        """Make the decisions that are due after a step."""
        if self.budget:
            threads = self.budget.other_threads(step, self.step_s(), self.course)
            if threads is not None:
                self._compute_with(step, threads)
            steps = self.budget.corrected(step, self.course)
            if steps is not None:
                self._correct(step, steps)
        use_threads(self.course.threads_after(step))
        if self.stop.is_file():
            self.stop.unlink()
            self.finish_soon(step)

    def after_validation(self, step: int, seconds: float, dice: Sequence[float]) -> None:
        """Leave a validation out of the pace of the steps, and end soon if ``patience`` is exhausted.

        Args:
            step: The step that was validated.
            seconds: Duration of the validation.
            dice: The mean Dice of all validations so far.
        """
        if self.budget:
            self.budget.leave_out(seconds)
        if self.patience is not None and validations_since_best(dice) >= self.patience:
            self.finish_soon(step)

    def finish_soon(self, step: int) -> None:
        """End the schedule within a few steps, and stop keeping to the time budget."""
        if self.budget:
            self.budget.give_up()
            self.decided()
        self._correct(step, min(self.course.last, step + max(1, round(FINISH * step))))

    def _compute_with(self, step: int, threads: int) -> None:
        self.say(f"step {step}: the number of threads is {threads} instead of {torch.get_num_threads()}")
        self.course.change_threads(step, threads)
        self.decided()

    def _correct(self, step: int, steps: int) -> None:
        last = self.course.last
        if step < last != steps:
            self.say(f"step {step}: ends after {steps} steps instead of {last}")
            self.course.correct(step, steps)
            self.decided()


def validations_since_best(dice: Sequence[float]) -> int:
    """Return the number of validations after the first one with the best Dice; 0 without a validation.

    >>> validations_since_best([0.2, 0.5, 0.4, 0.5])
    2
    """
    if dice:
        return len(dice) - 1 - dice.index(max(dice))
    return 0
