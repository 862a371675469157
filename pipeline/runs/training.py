"""Train: from a recipe to a run's folder."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING, Any

import torch

from pipeline import __version__, config
from pipeline.checkpoints import Checkpoint, Which, save_checkpoint
from pipeline.data.checked import FilesChangedError
from pipeline.data.loaders import StepBatches, StepLoader, WorkerDiedError, fits_shared_memory
from pipeline.engines.handlers import DataWait, EveryNSteps, History, ProgressBar, tensorboard_handlers
from pipeline.engines.trainer import SegmentationTrainer
from pipeline.files import locked
from pipeline.interruption import Stopped, end_children, shield, stoppable, window
from pipeline.logs import CsvLog, read_curves
from pipeline.pacing.budget import WARM_STEPS, Budget, Pace
from pipeline.pacing.threads import threads_kept, use_threads
from pipeline.pacing.timekeeper import Timekeeper
from pipeline.reports.summary import summarise
from pipeline.runs import build, resuming
from pipeline.runs.folder import HISTORY, VALIDATION, RunFolder
from pipeline.runs.models import portable, task_state
from pipeline.runs.planning import prepare
from pipeline.runs.reporting import TrainingPicture
from pipeline.runs.scoring import Scored, Scores, notes_on, score, validate, write_scores
from pipeline.runs.segments import labels_of, task_of
from pipeline.runs.stored import INDEX, read_index
from pipeline.runs.timing import TIMED_STEPS, keep_to_time, time_steps, to_begin_with
from pipeline.terminal import note, progress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pipeline.data.cache import Cache
    from pipeline.data.check import Index
    from pipeline.data.splits import Split
    from pipeline.recipe import Recipe


# Kept for writing a report, beside the validation that it is of; 1 s on two cores of an Intel Xeon, of 1 case or of 40.
# And how many times as long as another that validation takes, where there is no time to find out.
REPORT_S, TAIL = 2.0, 1.5
# A file of this name in a run asks it to finish.
STOP = "stop"


def train(
    recipe: Recipe,
    run: Path,
    *,
    resume: bool = False,
    allow_change: Sequence[str] = (),
    started: float | None = None,
    start: Checkpoint | None = None,
) -> Scores | None:
    """Check the dataset, train, and validate the last weights.

    A recipe with ``segments`` learns from no mask, and where the dataset has none, there is nothing to validate on.

    Args:
        recipe: What to do.
        run: The run's folder: ``config.yaml``, ``split.json``, ``index.json``, ``history.csv``, ``validation.csv``,
            ``training.png``, ``checkpoints/``, ``cache/``, ``cases.csv``, ``summary.json``, ``report.html``,
            ``figures/``.
        resume: Go on with the run that is there; starts one where there is none.
        allow_change: Keys of the recipe, or sections of it, that a resumed run may have otherwise than it had.
        started: When the time of a budget began, by ``time.monotonic()``; by default now.
        start: What a new run goes on from, with the recipe that it holds; by default it begins anew.

    Returns:
        The scores of the last weights; None without a validation case.

    Raises:
        UserError: The recipe or the dataset has problems, or the folder holds a run and ``resume`` is off, or the run
            that it holds is another one, or it holds files that no run has written there.
        Stopped: A signal has come that asks to end, and what was learnt is saved.
    """
    began = time.monotonic() if started is None else started
    with stoppable():
        folder = RunFolder(run)
        folder.refuse(resume)
        folder.cache_of(recipe)
        known = read_index(run) if resume and (run / INDEX).exists() else {}
        if folder.holds_run:
            recipe = resuming.with_measured_of(run, recipe)
        prepared = prepare(recipe, known)
        plan = to_begin_with(prepared.plan.recipe)
        training = _Training(run, plan, prepared.index, prepared.split, start=start)
        run.mkdir(parents=True, exist_ok=True)
        with locked(run):
            folder.take()
            training = keep_to_time(training, prepared.plan, began, lambda other: replace(training, recipe=other))
            return _train_in(training, allow_change)


def _train_in(training: _Training, allow_change: Sequence[str]) -> Scores | None:
    training.open_folder(allow_change)
    if not training.is_done:
        try:
            training.run_to_end()
        except WorkerDiedError as error:
            # A machine that is out of memory for a moment should not cost the night; the second time it is an error.
            note(f"{error}\nGoing on from the last checkpoint.")
            training = replace(training, done=0, best=None, saved=0)
            training.open_folder(allow_change)
            training.run_to_end()
    if training.scored is None:
        return validate(training.run) if training.split.validation else None
    notes = notes_on(training.recipe, "last")
    return write_scores(training.run, training.run, training.scored, "last", training.done, notes)


@dataclass
class _Training:
    """One training: its folder, its data, and all that goes into a checkpoint."""

    run: Path
    recipe: Recipe
    index: Index
    split: Split
    start: Checkpoint | None = None
    done: int = 0
    best: float | None = None
    saved: int = 0
    scored: Scored | None = None
    budget: Budget | None = None
    cache: Cache | None = None
    batches: StepBatches | None = field(default=None, init=False)  # Those of this recipe.

    def __post_init__(self) -> None:
        self.task = task_of(self.recipe, self.index)
        self.step = build.build_step(self.recipe, self.task)

    def decide(self, recipe: Recipe, budget: Budget | None) -> None:
        """Take a recipe that differs in its steps and threads, and what keeps to the time."""
        self.recipe, self.budget, self.step.course = recipe, budget, build.build_course(recipe)

    @property
    def folder(self) -> RunFolder:
        """The run's folder."""
        return RunFolder(self.run)

    @property
    def is_done(self) -> bool:
        """Whether every step is done, validated and saved."""
        is_saved = self.saved == self.done >= self.step.course.last
        return is_saved and not self._validation_is_due()

    def open_folder(self, allow_change: Sequence[str] = ()) -> None:
        """Write what the run is, or take up what is there."""
        if self.folder.holds_run:
            resuming.refuse_changes(self.run, self.recipe, allow_change)
            resuming.refuse_other_scans(self.run, self.index, self.split)
        if checkpoint := self.folder.newest_checkpoint() or self.start:
            resuming.restore(self.step, checkpoint, self.task)
            self.done = checkpoint.state["step"]
            if checkpoint is not self.start:  # Of which this run has neither the last nor the best yet.
                self.best = checkpoint.state["best"]
                self.saved = self.done if checkpoint.path.name.startswith("last-") else 0
        self.folder.write_facts(self.split.as_dict(), self.index.as_rows(), self.recipe.plugins)
        self.folder.write_config(self.recipe)  # Last, since a folder with a config.yaml is a run.

    def run_to_end(self) -> None:
        """Train from where the run is to its last step.

        Raises:
            Stopped: A signal has come; everything up to the last whole step is saved, as it is before the others.
            WorkerDiedError, FilesChangedError: A worker was killed, or a file is not the one that was checked.
        """
        recipe, course, batches = self.recipe, self.step.course, self.prepare()
        self.history = History(CsvLog(self.run / HISTORY, ["step", "loss", *self.step.objective.names], self.done))
        self.validations = CsvLog(self.run / VALIDATION, ["step", "mean_dice"], self.done)
        self.wait = DataWait(lambda: self.step.is_busy)
        self.bar = ProgressBar(course.last, self.wait)
        self.timekeeper = Timekeeper(
            course=course,
            budget=self.budget,
            stop=self.run / STOP,
            patience=recipe.patience,
            step_s=lambda: self.wait.step_s,
            say=note,
            decided=self._write_decisions,
        )
        trainer = SegmentationTrainer(
            step=self.step,
            loader=self._loader(batches),
            course=course,
            epoch_length=batches.epoch_length,
            device=torch.device(recipe.device),
            handlers=self._handlers(),
            done=self.done,
        )
        try:
            with shield(), threads_kept():
                use_threads(course.threads_after(self.done))
                if self._validation_is_due():
                    self._validate(self.done)
                    self.saved = 0  # With what it found.
                self._save("last", self.done)
                if self.done < course.last:
                    trainer.run()
        except Stopped:
            end_children()
            self._save("last", self.done)
            raise
        except (WorkerDiedError, FilesChangedError):
            self._save("last", self.done)
            raise
        except (RuntimeError, MemoryError) as error:
            raise build.told(error, recipe, f"for step {self.done + 1}") from error.__cause__
        finally:
            self.bar.bar.close()

    def step_s(self, warm: int = WARM_STEPS, timed: int = TIMED_STEPS, at_most_s: float = math.inf) -> float:
        """Time some steps, of which nothing is learnt, and return the seconds of one."""
        batches = self.prepare()
        with build.memory_for_step(self.recipe):
            return time_steps(self.step, lambda: self._loader(batches), warm, timed, at_most_s)

    def pace(self, step_s: float, at_most_s: float = math.inf) -> Pace:
        """Time the validation of two cases, for so long at most, and return it beside the seconds of a step."""
        cases, began = self.split.validation, time.perf_counter()
        durations: list[float] = []
        # The first time also finds memory and algorithms; the last one is that of the end, with all that it measures.
        for few, quick in ((1, True), (2, True), (2, False)) if cases else ():
            start = time.perf_counter()
            if durations and start - began + few * durations[-1] / len(cases) > at_most_s:
                return Pace(step_s, durations[-1], TAIL * durations[-1] + REPORT_S)
            self._score(quick, few)
            durations.append((time.perf_counter() - start) / len(cases[:few]) * len(cases))
        return Pace(step_s, durations[1], durations[2] + REPORT_S) if cases else Pace(step_s)

    def prepare(self, so_far: Callable[[int, int], None] = lambda *_: None) -> StepBatches:
        """Return the batches of all steps, once every case of theirs is prepared."""
        if self.cache is None:
            self.cache = build.build_cache(self.recipe, self.index, self.folder.cache_of(self.recipe))
            cases = self.split.labelled + (self.split.unlabelled if "unlabelled" in self.recipe.kinds else ())
            for done, _ in enumerate(progress(self.cache.fill(cases), "preparing", len(cases)), 1):
                so_far(done, len(cases))
            if (failure := self.cache.failure) is not None:
                what = f"{self.cache.folder} cannot hold all prepared scans ({failure.strerror}): the others are "
                note(f"{what}prepared whenever they are needed. Make room, or name another folder: data.cache=DIR")
        self.batches = self.batches or build.build_batches(self.recipe, self.split, self.cache)
        return self.batches

    def _loader(self, batches: StepBatches) -> StepLoader:
        resident, course = build.resolved(self.recipe.data.resident), self.step.course
        workers = build.resolved(self.recipe.data.workers)
        if self.done < course.last and not fits_shared_memory(batches, self.done, workers):
            note("/dev/shm is too full for workers; batches are prepared without them, which gives the same result")
            workers = 0
        # Without end: a correction may come when workers, who are ahead, have reached what was the last step.
        return StepLoader(batches, count(self.done), workers, pin_memory=self.recipe.device != "cpu" and not resident)

    def _validation_is_due(self) -> bool:
        """Tell whether the step that is done was to be validated, and a signal came in between."""
        return (
            bool(self.split.validation)
            and self.done > 0
            and (self.done % self.recipe.validate_every == 0 or self.done == self.step.course.last)
            and CsvLog.last_step(self.run / VALIDATION, self.done) < self.done
        )

    def _handlers(self) -> list[Any]:
        picture = TrainingPicture(self.run)
        handlers: list[Any] = [
            EveryNSteps(1, self._count),
            self.timekeeper,
            self.history,
            self.wait,
            self.bar,
            # Validation first: a checkpoint of the same step then knows the best score.
            *([EveryNSteps(self.recipe.validate_every, self._validate)] if self.split.validation else []),
            EveryNSteps(self.recipe.validate_every, lambda _: picture.redraw()),
            EveryNSteps(self.recipe.checkpoint_every, lambda step: self._save("last", step)),
        ]
        return handlers + (tensorboard_handlers(self.run / "tensorboard") if self.recipe.tensorboard else [])

    def _count(self, step: int) -> None:
        self.done = step

    def _write_decisions(self) -> None:
        """Write what the clock has decided: first that it keeps to no time, which a correction may follow from."""
        if self.timekeeper.budget:
            self.folder.write_budget(self.timekeeper.budget)
        self.bar.total = self.step.course.last
        decided = {key: tuple(getattr(self.step.course, key).items()) for key in ("corrections", "threads")}
        self.recipe = self.recipe.model_copy(update=decided)
        self.folder.write_config(self.recipe)

    def _validate(self, step: int) -> None:
        start = time.monotonic()
        with window():
            self.scored = self._score(quick=step != self.step.course.last)  # The report shows the last masks.
        mean = summarise(self.scored.results).mean_dice
        self.bar.report(step, mean)
        if mean is not None and math.isfinite(mean) and (self.best is None or mean > self.best):
            self.best = mean
            self._save("best", step)
        self.validations.append({"step": step, "mean_dice": mean})
        dice = [value for _, value in read_curves(self.run / VALIDATION).get("mean_dice", [])]
        self.timekeeper.after_validation(step, time.monotonic() - start, dice)

    def _score(self, quick: bool, at_most: int | None = None) -> Scored:
        predictor = build.build_predictor(self.recipe, self.task, self.step.answering)
        cases, facts, truth = self.split.validation[:at_most], self.index.facts, labels_of(self.index)
        matched = self.recipe.segments is not None
        return score(predictor, cases, facts, truth, matched=matched, pictures=not quick, overlap_only=quick)

    def _save(self, which: Which, step: int) -> None:
        if step == 0 or (which == "last" and step == self.saved):
            return
        about = {
            "step": step,
            "best": self.best,
            "recipe": config.dump(portable(self.recipe)),
            "task": task_state(self.task),
            "version": __version__,
        }
        self.history.append(self.step.settle())
        self.history.log.flush()
        self.validations.flush()
        save_checkpoint(self.run, which, about | self.step.state_dict())
        if which == "last":
            self.saved = step
            if self.timekeeper.budget:
                self.folder.write_budget(self.timekeeper.budget)
