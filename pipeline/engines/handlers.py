"""Ignite handlers of a training: logs, the progress bar, and calls after every so many steps."""

from __future__ import annotations

import time
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ignite.engine import Events

from pipeline.durations import in_words
from pipeline.terminal import StepBar, note

if TYPE_CHECKING:
    from collections.abc import Callable

    from ignite.engine import Engine

    from pipeline.engines.step_output import StepOutput
    from pipeline.logs import CsvLog


# Above this share of the time spent waiting for data, the last line of a training says what to do about it.
MUCH = 0.2
# Without a time budget nothing has been timed before the first step; after so many steps it is known.
FORECAST_AFTER = 20
LATE = ": a lighter augmentation, or with data.resident=false more data.workers, would make it faster"


class History:
    """Logs one row for each step: the step, the total loss, and each term before its weight."""

    def __init__(self, log: CsvLog) -> None:
        self.log = log
        self.last = 0

    def attach(self, engine: Engine) -> None:
        """Append a row at each completed iteration."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: self.append(engine.state.output))

    def append(self, output: StepOutput) -> None:
        """Log a step, once; nothing while its numbers are not known yet."""
        if output and output.step != self.last:
            self.last = output.step
            self.log.append({"step": output.step} | output)


class EveryNSteps:
    """Calls a function at every ``n``-th step, and at the last one.

    Args:
        n: Steps between two calls.
        act: Called with the step's number.
    """

    def __init__(self, n: int, act: Callable[[int], Any]) -> None:
        self.n = n
        self.act = act
        self.last_call = 0

    def attach(self, engine: Engine) -> None:
        """Call at every ``n``-th completed iteration and at the end."""
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.n) | Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Act, unless this step was acted on."""
        if engine.state.iteration != self.last_call:
            self.last_call = engine.state.iteration
            self.act(self.last_call)


class DataWait:
    """Measures how long a training waits for its batches.

    Args:
        is_busy: Returns whether the device is still computing a step; waiting during that costs nothing.
    """

    def __init__(self, is_busy: Callable[[], bool] = lambda: False) -> None:
        self.is_busy = is_busy
        self.waited_s = 0.0
        self.asked = 0.0
        self.began = 0.0

    def attach(self, engine: Engine) -> None:
        """Measure from the first batch on, which is left out: it takes as long as the workers take to start."""
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._ask)
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self._get)

    def _ask(self) -> None:
        self.asked = time.perf_counter()

    def _get(self) -> None:
        now = time.perf_counter()
        if not self.began:
            self.began = now
        elif not self.is_busy():
            self.waited_s += now - self.asked

    @property
    def step_s(self) -> float:
        """Seconds since the last batch was requested: after a step, the duration of the step and its data."""
        return time.perf_counter() - self.asked

    @property
    def share(self) -> float:
        """The share of the time since the first batch that was spent waiting, in [0, 1]."""
        passed = time.perf_counter() - self.began
        if self.began and passed > 0:
            return self.waited_s / passed
        return 0.0


class Forecast:
    """Notes once how long a training will take, as soon as enough of its steps are timed.

    Args:
        total: Steps of the whole training.
        step_s: Returns the seconds of the last step.
    """

    def __init__(self, total: int, step_s: Callable[[], float]) -> None:
        self.total = total
        self.step_s = step_s
        self.taken: list[float] = []

    def attach(self, engine: Engine) -> None:
        """Time the first completed iterations."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: self.after_step(engine.state.iteration))

    def after_step(self, step: int) -> None:
        """Time a step, and say what follows from it if it is the last of those that are timed."""
        if len(self.taken) == FORECAST_AFTER or step == self.total:
            return
        self.taken.append(self.step_s())
        if len(self.taken) == FORECAST_AFTER:
            step_s = fmean(self.taken[1:])  # The first has the start of the workers in it.
            left = in_words(step_s * (self.total - step))
            note(f"step {step}/{self.total}  {step_s:.2g} s a step: about {left} to go, and the validations")


class ProgressBar:
    """Shows steps, pace, time left, the last validation Dice and the terms of the loss in one line of the terminal.

    Each validation prints a line above it that stays; without a terminal only these lines are printed.

    Args:
        total: Steps of the whole training.
        wait: Measures the time spent waiting for batches, which the bar and the last line show.
    """

    def __init__(self, total: int, wait: DataWait) -> None:
        self.total = total
        self.wait = wait
        self.bar = StepBar()
        self.terms = ""
        self.dice = ""

    def attach(self, engine: Engine) -> None:
        """Draw from the start of the training to its end, however it ends."""
        engine.add_event_handler(Events.STARTED, lambda: self.bar.start(engine.state.iteration, self.total))
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._advance)
        engine.add_event_handler(Events.COMPLETED, self._finish)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._fail)

    def report(self, step: int, mean_dice: float | None) -> None:
        """Write what a validation found."""
        score = "no class to score"
        if mean_dice is not None:
            score = f"{mean_dice:.4f}"
            self.dice = f"Dice {score}  "
        note(f"step {step}/{self.total}  validation Dice {score}  {self.terms}")

    def _advance(self, engine: Engine) -> None:
        self.terms = "  ".join(f"{name} {value:.3f}" for name, value in engine.state.output.items()) or self.terms
        self.bar.update(engine.state.iteration, self.total, f"{self.dice}data {self.wait.share:.0%}  {self.terms}")

    def _finish(self, engine: Engine) -> None:
        self.bar.close()
        took = f"trained to step {engine.state.iteration} in {in_words(engine.state.times['COMPLETED'])}"
        share = self.wait.share
        late = LATE if share > MUCH else ""
        note(f"{took}, {share:.0%} of it waiting for data{late}")

    def _fail(self, error: BaseException) -> None:
        self.bar.close()
        raise error
