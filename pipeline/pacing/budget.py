"""Fit a training into a time budget: choose its number of steps, and correct it while the training runs.

Before the first step of a new run, steps are timed on this machine with the run's own data. The number of steps follows
from that. It is corrected at most twice, if the pace turns out to be another, and the number of threads is changed if
another is faster. The run's ``config.yaml`` holds these decisions: with them, and without a budget, a training is
repeated bit for bit. ``budget.json`` holds what a resumed run needs to keep to the time:

    {"seconds": 1200.0,     the budget
     "spent_s": 431.2,      seconds of it that were spent when the last checkpoint was saved
     "pace": {              as it was timed before the first step
       "step_s": 0.55,      seconds of a step
       "validation_s": 9.0, seconds of a validation
       "tail_s": 14.1},     seconds of the last validation and the report
     "validate_every": 250, steps between two validations
     "given_up": false}     whether the run was asked to end before its time
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any

import torch

from pipeline.errors import Problem, UserError
from pipeline.pacing.threads import ThreadTrials

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pipeline.pacing.course import Course

# The first steps of a command allocate memory and choose algorithms; they are left out of the pace.
WARM_STEPS = 3
# All timing together may take this share of the budget; a step that is running then is finished.
TIMING_SHARE = 0.1
# The pace is measured after each such share of the budget, over the last RECENT of them.
PART = 0.01
RECENT = 8
# A number of threads is judged after PART of the budget, but after so many seconds at most. More threads are tried only
# before the share SETTLED of the time, so that enough is left to make up for a slow trial.
JUDGED_S = 10.0
SETTLED = 0.8
# Other programs slow down a step, whose threads wait for each other, far more than validation and report. These are
# assumed to take at most so many times as long.
MOST_SLOWED = 2.0
# The number of steps is corrected once after each of these shares of the time or of the steps, whichever comes first,
# if the end would be off by the share WORTH of the budget. The last correction comes late, since beside other programs
# one step may still take ten times as long as another.
CORRECTIONS = (2 / 3, 0.95)
WORTH = 0.01
# Validations during the training may take this share of the time.
VALIDATION_SHARE = 0.05
FEWEST_STEPS = 20
# Scans are prepared before the first step. After so many scans or seconds it is estimated whether there is enough time.
FIRST_SCANS = 3
FIRST_S = 5.0
# The share of the budget that is planned for: to be late is worse than to be early.
AIM = 0.985


@dataclass(frozen=True)
class Pace:
    """The pace of a training, in seconds.

    Attributes:
        step_s: Duration of a training step, its data included.
        validation_s: Duration of a validation during the training.
        tail_s: Duration of all that comes after the last step: its validation and the report.
    """

    step_s: float
    validation_s: float = 0.0
    tail_s: float = 0.0

    def validate_every(self, least: int) -> int:
        """Return the number of steps between two validations, ``least`` or more."""
        return max(least, round(self.validation_s / (VALIDATION_SHARE * self.step_s)))

    def steps_in(self, seconds: float, validate_every: int) -> int:
        """Return how many steps fit into a time together with their validations and the tail.

        >>> Pace(1.0, 10.0, 20.0).steps_in(131.0, validate_every=100)
        100
        """
        return int((seconds - self.tail_s) / (self.step_s + self.validation_s / validate_every))

    def at(self, step_s: float) -> Pace:
        """Return the pace if a step takes another time, with validation and tail changed in proportion.

        >>> Pace(1.0, 10.0, 20.0).at(1.5), Pace(1.0, 10.0, 20.0).at(5.0)
        (Pace(step_s=1.5, validation_s=15.0, tail_s=30.0), Pace(step_s=5.0, validation_s=20.0, tail_s=40.0))
        """
        times = min(step_s / self.step_s, MOST_SLOWED)
        return Pace(step_s, times * self.validation_s, times * self.tail_s)


@dataclass(kw_only=True)
class Budget:
    """Keeps a run within its time.

    Attributes:
        seconds: The budget for the whole command.
        spent_s: Seconds of it that earlier commands of the run have spent.
        pace: The pace as it was timed before the first step.
        validate_every: Steps between two validations.
        given_up: Whether the run was asked to end before its time; then nothing is corrected any more.
        began: When this command began, by ``clock``.
        clock: Returns the time in seconds.
        trials: Finds the fastest number of threads.
    """

    seconds: float
    spent_s: float = 0.0
    pace: Pace = Pace(1.0)
    validate_every: int = 1
    given_up: bool = False
    began: float = 0.0
    clock: Callable[[], float] = field(default=time.monotonic, repr=False)
    trials: ThreadTrials = field(init=False, repr=False)
    _timing_began: float | None = field(default=None, init=False, repr=False)
    _marks: list[tuple[int, float]] = field(default_factory=list, init=False, repr=False)
    # The step and the time at which the number of threads was last changed, and the marks before that.
    _left: tuple[int, float, Sequence[tuple[int, float]]] = field(default=(0, 0.0, ()), init=False, repr=False)
    _steps: int = field(default=0, init=False, repr=False)  # Of this command.

    def __post_init__(self) -> None:
        self.trials = ThreadTrials(torch.get_num_threads(), min(PART * self.seconds, JUDGED_S))

    @classmethod
    def from_dict(cls, known: Mapping[str, Any], began: float) -> Budget:
        """Return the budget of a run that is resumed.

        Args:
            known: What :meth:`as_dict` returned.
            began: When this command began, by ``time.monotonic()``.
        """
        return cls(began=began, **{**known, "pace": Pace(**known["pace"])})

    def as_dict(self) -> dict[str, Any]:
        """Return the content of ``budget.json``, with the seconds that are spent by now."""
        kept = {key: getattr(self, key) for key in ("seconds", "validate_every", "given_up")}
        return kept | {"pace": asdict(self.pace), "spent_s": round(self._spent_by_now(), 3)}

    def _spent_by_now(self) -> float:
        return self.spent_s + self.clock() - self.began

    @property
    def left_s(self) -> float:
        """Seconds left until the planned end of the command."""
        return AIM * self.seconds - self._spent_by_now()

    def begin_timing(self) -> None:
        """Start the clock of :attr:`timing_left_s`."""
        self._timing_began = self.clock()

    @property
    def timing_left_s(self) -> float:
        """Seconds left in which a timing may begin; infinity before :meth:`begin_timing`."""
        if self._timing_began is None:
            return inf
        return max(0.0, TIMING_SHARE * self.seconds - (self.clock() - self._timing_began))

    def watch_scans(self) -> Callable[[int, int], None]:
        """Return a function to call after each prepared scan, with the number prepared and the number of all.

        It raises a ``UserError`` as soon as the budget turns out to be too short to prepare them all.
        """
        began = self.clock()

        def watch(done: int, count: int) -> None:
            taken = self.clock() - began
            if done < FIRST_SCANS and taken < FIRST_S:
                return
            whole = taken / done * count
            left = self.left_s
            if whole - taken > left:
                raise self._too_short(f"preparing {count} scans takes about {whole:.0f} s", taken - left + 2 * whole)

        return watch

    def refuse_if_spent(self) -> None:
        """Refuse to begin if the budget is spent already.

        Raises:
            UserError: It is spent.
        """
        if self.left_s <= 0:
            raise self._too_short("nothing of this training has begun", 2 * self._spent_by_now())

    def _too_short(self, why: str, least: float) -> UserError:
        message = f"is too short: of {self.seconds:.0f} s for this training {self._spent_by_now():.0f} are gone, {why}"
        remedy = f"give each training {least / 60:.1f}m or more, or a smaller network or data.patch_size"
        return UserError("The training does not fit its time.", [Problem("time_budget", "short", message, remedy)])

    def fit(self, pace: Pace, validate_every: int) -> tuple[int, int]:
        """Return the number of steps of a new run, and the number between two validations; remember the pace.

        Raises:
            UserError: The budget is too short for any training.
        """
        every = pace.validate_every(validate_every)
        steps = pace.steps_in(self.left_s, every)
        if steps < FEWEST_STEPS:
            least = (self._spent_by_now() + pace.tail_s + FEWEST_STEPS * pace.step_s) * 1.1
            raise self._too_short(f"a step takes {pace.step_s:.2f} s, the end {pace.tail_s:.0f} s", least)
        self.pace = pace
        self.validate_every = every
        return steps, every

    def give_up(self) -> None:
        """Correct nothing any more: the run was asked to end before its time."""
        self.given_up = True

    def leave_out(self, seconds: float) -> None:
        """Leave the seconds of a validation that has just ended out of the pace of the steps."""
        self._marks = [(step, when + seconds) for step, when in self._marks]

    def other_threads(self, step: int, step_s: float, course: Course) -> int | None:
        """Return another number of threads to use from here on; None to keep the present one.

        Args:
            step: The step that is done.
            step_s: What it took, in seconds.
            course: Holds the present number of threads; without one, as on a GPU, none is tried.
        """
        self._steps += 1
        threads = course.threads_after(step)
        before = self.trials.before
        to_come = any(when >= step for when in course.threads)  # Changes that are decided already come first.
        if threads is None or to_come or self._steps <= WARM_STEPS:
            self.trials.forget()
            return None
        other = self.trials.after_step(threads, step_s, more=self._spent_by_now() <= SETTLED * self.seconds)
        if other == threads:
            return None
        now = self.clock()
        since, then, marks = self._left
        self._left = (step, now, self._marks)
        self._marks = []
        if other == before:  # The trial has ended without gain: its steps are left out of the pace.
            self._marks = [(at + step - since, when + now - then) for at, when in marks]
        return other

    def corrected(self, step: int, course: Course) -> int | None:
        """Return another number of steps for the training if the pace after a step calls for it; else None."""
        now = self.clock()
        if not self._marks or step <= self._marks[-1][0]:  # The first step, or one that is made again after a failure.
            self._marks = [(step, now)]
        if now - self._marks[-1][1] < PART * self.seconds:
            return None
        self._marks = [*self._marks[-RECENT:], (step, now)]
        made = len(course.corrections)
        since, then = self._marks[0]
        if self.given_up or made >= len(CORRECTIONS) or step >= course.last or step == since:
            return None
        pace = self.pace.at((now - then) / (step - since))
        done = max((self._spent_by_now() + pace.tail_s) / self.seconds, course.share_done(step))
        if done < CORRECTIONS[made] or (len(self._marks) <= RECENT and done < CORRECTIONS[-1]):
            return None
        steps = step + max(1, pace.steps_in(self.left_s, self.validate_every))
        if abs(steps - course.last) * pace.step_s > WORTH * self.seconds:
            return steps
        return None
