"""Training: the loop of steps, with validations and checkpoints."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import torch

from pipeline.data.checked import FilesChangedError
from pipeline.data.loaders import WorkerDiedError
from pipeline.distributed import LostProcessError, from_first, is_first, size
from pipeline.engines.handlers import DataWait, EveryNSteps, Forecast, History, ProgressBar
from pipeline.engines.trainer import SegmentationTrainer
from pipeline.errors import ElsewhereError
from pipeline.interruption import Stopped, end_children, shield, window
from pipeline.pacing.threads import threads_kept, use_threads
from pipeline.pacing.timekeeper import Timekeeper
from pipeline.reports.summary import summarise
from pipeline.runs.checkpoint_facts import about_training
from pipeline.runs.refusals import memory_error_of
from pipeline.runs.tracking import Tracking
from pipeline.runs.unpredicted import note_on_unpredicted
from pipeline.terminal import note

if TYPE_CHECKING:
    from pipeline.pacing.budget import Budget
    from pipeline.runs.restoring import Progress
    from pipeline.runs.scoring import Scored
    from pipeline.runs.setup import Setup
    from pipeline.types import Which


class Training:
    """Runs the steps of a training, validates after some of them, and saves checkpoints.

    Args:
        setup: The parts of the training.
        budget: Its time budget; None for no limit.
        progress: How far it is.
    """

    def __init__(self, setup: Setup, budget: Budget | None, progress: Progress) -> None:
        self.setup = setup
        self.progress = progress
        self.folder = setup.folder
        self.step = setup.step
        self.scored: Scored | None = None
        self.wait = DataWait(lambda: self.step.is_busy)
        self.bar = ProgressBar(self.step.course.last, self.wait)
        self.clock = Timekeeper(
            course=self.step.course,
            budget=budget,
            stop=self.folder.stop_file,
            patience=setup.settings.patience,
            step_s=lambda: self.wait.step_s,
            say=note,
            decided=self._write_decisions,
        )

    @property
    def is_done(self) -> bool:
        """Whether every step is done, validated and saved."""
        is_saved = self.progress.saved == self.progress.done >= self.step.course.last
        return is_saved and not self._validation_is_due()

    def run_to_end(self) -> None:
        """Train from where the run is to its last step.

        Raises:
            Stopped: A signal has requested the end.
            WorkerDiedError, FilesChangedError: A worker was killed, or a file is not the one that was checked. As for
                ``Stopped``, a checkpoint of the last whole step is saved first.
            ElsewhereError, LostProcessError: Another process of this training has failed, or is gone; likewise.
            UserError: The training diverged, or memory ran out.
        """
        trainer = self._build()
        if is_first():
            self.tracking.begun(trainer)
        try:
            with shield(), threads_kept():
                use_threads(self.step.course.threads_after(self.progress.done))
                if from_first(self._validation_is_due):
                    best = self.progress.best
                    self._validate(self.progress.done)
                    if self.progress.best != best:  # The checkpoint is saved again, with the new best score.
                        self.progress.saved = 0
                self._save("last", self.progress.done)
                if self.progress.done < self.step.course.last:
                    trainer.run()
        except Stopped:
            end_children()
            self._save("last", self.progress.done)
            raise
        except (WorkerDiedError, FilesChangedError, ElsewhereError, LostProcessError):
            self._save("last", self.progress.done)
            raise
        except (RuntimeError, MemoryError) as error:
            what = f"for step {self.progress.done + 1}"
            raise memory_error_of(error, self.setup.settings, what) from error.__cause__
        finally:
            self.bar.bar.close()

    def _build(self) -> SegmentationTrainer:
        batches = self.setup.prepare()
        done = self.progress.done
        if is_first():
            self.history = History(self.folder.history(self.step.objective.names, done))
            self.validations = self.folder.validations(done)
            self.tracking = Tracking(self.setup, goes_on=done > 0)
        return SegmentationTrainer(
            step=self.step,
            loader=self.setup.loader(done),
            course=self.step.course,
            epoch_length=batches.epoch_length,
            device=torch.device(self.setup.settings.device),
            handlers=self._handlers(),
            done=done,
        )

    def _handlers(self) -> list[Any]:
        """Return what happens after steps; of several processes, the first alone decides, writes and draws."""
        count = EveryNSteps(1, self._count)
        follow = [EveryNSteps(1, self._follow)] if size() > 1 else []
        validate = []
        if self.setup.split.validation:  # Before a checkpoint of the same step, which then knows the best score.
            validate.append(EveryNSteps(self.setup.settings.validate_every, self._validate))
        if is_first():
            timed = [self.wait] if self.clock.budget else [self.wait, self._forecast()]
            return [count, self.clock, *follow, self.history, *timed, self.bar, *validate, *self._records()]
        return [count, *follow, *validate]

    def _records(self) -> list[Any]:
        every = self.setup.settings.checkpoint_every
        return [*self.tracking.handlers(), EveryNSteps(every, lambda step: self._save("last", step))]

    def _forecast(self) -> Forecast:
        return Forecast(self.step.course.last, lambda: self.wait.step_s)

    def _follow(self, step: int) -> None:
        """Take over what the first process has decided after a step; a signal to any process ends all of them here."""
        course = self.step.course
        course.corrections, course.threads = from_first(lambda: (course.corrections, course.threads))
        use_threads(course.threads_after(step))

    def _count(self, step: int) -> None:
        self.progress.done = step

    def _write_decisions(self) -> None:
        self.bar.total = self.step.course.last
        self._write_budget()  # Before the decisions, which may follow from giving up the budget.
        self.folder.write_config(self.setup.settings, self.setup.note_decisions())

    def _write_budget(self) -> None:
        if self.clock.budget:
            self.folder.write_budget(self.clock.budget)

    def _validation_is_due(self) -> bool:
        """Tell whether the last step should have been validated, but a signal came before that."""
        done = self.progress.done
        is_its_turn = done % self.setup.settings.validate_every == 0 or done == self.step.course.last
        return bool(self.setup.split.validation) and done > 0 and is_its_turn and not self.folder.is_validated(done)

    def _validate(self, step: int) -> None:
        start = time.monotonic()
        try:
            with window():
                self.scored = self.setup.score(quick=step != self.step.course.last)  # The report shows the last masks.
        except Exception:  # Such as of a plugin's metric: what was trained is kept.
            self._save("last", step)
            if is_first():
                note(f"step {step} is saved, and --resume goes on from it")
            raise
        if is_first():
            self._take_in(step, self.scored, time.monotonic() - start)
        self._follow(step)

    def _take_in(self, step: int, scored: Scored, seconds: float) -> None:
        """Log a validation, keep the best weights, and let the clock decide."""
        mean = summarise(scored.results).mean_dice
        self.bar.report(step, mean)
        self.tracking.validated(step, mean)
        is_earliest = not self.folder.validation_dice()
        if is_earliest and self.setup.settings.segments is None and (warning := note_on_unpredicted(scored.results)):
            note(warning)
        best = self.progress.best
        if mean is not None and math.isfinite(mean) and (best is None or mean > best):
            self.progress.best = mean
            self._save("best", step)
        self.validations.append({"step": step, "mean_dice": mean})
        self.clock.after_validation(step, seconds, self.folder.validation_dice())

    def _save(self, which: Which, step: int) -> None:
        if not is_first() or step == 0 or (which == "last" and step == self.progress.saved):
            return
        self.history.append(self.step.settle())
        self.history.log.flush()
        self.validations.flush()
        about = about_training(self.setup.settings, self.setup.decided, self.setup.task)
        self.folder.save(which, about | {"step": step, "best": self.progress.best} | self.step.state_dict())
        if which == "last":
            self.progress.saved = step
            self._write_budget()
