"""What a training works with: its scans as batches, its step, and how its output is scored."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from math import inf
from typing import TYPE_CHECKING

from pipeline.data.loaders import StepBatches, StepLoader, fits_shared_memory
from pipeline.decisions import NONE, Decisions
from pipeline.pacing.budget import WARM_STEPS, Pace
from pipeline.runs import build
from pipeline.runs.atlases import read_atlases, write_atlases
from pipeline.runs.batches import build_batches, build_cache
from pipeline.runs.predictors import build_metrics, build_postprocessing, build_predictor
from pipeline.runs.refusals import memory_for_step
from pipeline.runs.scoring import Scored, score
from pipeline.runs.segments import labels_of, task_of
from pipeline.runs.stored import ATLASES
from pipeline.runs.timing import TIMED_STEPS, time_steps
from pipeline.terminal import note, progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.data.cache import Cache
    from pipeline.data.index import Index
    from pipeline.data.splits import Split
    from pipeline.planning.settings import Settings
    from pipeline.runs.atlases import Jury
    from pipeline.runs.folder import RunFolder

# Kept for writing a report, beside the validation that it is of; 1 s on two cores of an Intel Xeon, of 1 case or of 40.
REPORT_S = 2.0
# How many times as long as another the last validation takes, where there is no time to find out.
TAIL = 1.5


@dataclass(kw_only=True)
class Setup:
    """All that is built from a recipe and its dataset for a training.

    Attributes:
        folder: Of the run.
        recipe: The settings that the recipe of the run consists of.
        index: The checked dataset.
        split: Its cases, by what they are for.
        decided: What was decided on the way.
        cache: The prepared scans, where they are prepared.
    """

    folder: RunFolder
    recipe: Settings
    index: Index
    split: Split
    decided: Decisions = NONE
    cache: Cache | None = None
    _batches: StepBatches | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.task = task_of(self.recipe, self.index)
        build_postprocessing(self.recipe, self.task)  # What does not fit is refused before the first step.
        self.step = build.build_step(self.recipe, self.task)
        self.step.course = build.build_course(self.recipe, self.decided)

    def decide(self, recipe: Settings, decided: Decisions) -> None:
        """Take a recipe that differs in its steps, and what was decided on the way."""
        self.recipe = recipe
        self.decided = decided
        self.step.course = build.build_course(recipe, decided)

    def note_decisions(self) -> Decisions:
        """Take what the clock has just decided from the course, and return all that is decided."""
        course = self.step.course
        self.decided = Decisions(corrections=tuple(course.corrections.items()), threads=tuple(course.threads.items()))
        return self.decided

    def prepare(self, so_far: Callable[[int, int], None] = lambda *_: None) -> StepBatches:
        """Return the batches of all steps, once every case of theirs is prepared.

        Args:
            so_far: Told after each case how many of how many are prepared.
        """
        if self.cache is None:
            self.cache = build_cache(self.recipe, self.index, self.folder.cache_of(self.recipe))
            cases = self.split.labelled + (self.split.unlabelled if "unlabelled" in self.recipe.kinds else ())
            for done, _ in enumerate(progress(self.cache.fill(cases), "preparing", len(cases)), 1):
                so_far(done, len(cases))
            if (failure := self.cache.failure) is not None:
                what = f"{self.cache.folder} cannot hold all prepared scans ({failure.strerror}): the others are "
                note(f"{what}prepared whenever they are needed. Make room, or name another folder: data.cache=DIR")
        if self._batches is None:
            self._batches = build_batches(self.recipe, self.split, self.cache)
        return self._batches

    @cached_property
    def jury(self) -> Jury | None:
        """What votes beside the network, once it is written into the run; None where the recipe has no such thing."""
        if self.recipe.atlases.weight == 0:
            return None
        self.prepare()
        assert self.cache is not None
        if not (self.folder.path / ATLASES).exists():
            classes = len(self.task.labels)
            write_atlases(self.folder.path, self.recipe, self.split.labelled, self.cache, classes)
        return read_atlases(self.folder.path, self.recipe, self.task)

    def loader(self, done: int = 0) -> StepLoader:
        """Return what loads the batches of the steps after those that are done, without end.

        A correction may come when workers, who are ahead, have reached what was the last step.
        """
        batches = self.prepare()
        resident = self.recipe.data.resident
        workers = self.recipe.data.workers
        if done < self.step.course.last and not fits_shared_memory(batches, done, workers):
            note("/dev/shm is too full for workers; batches are prepared without them, which gives the same result")
            workers = 0
        return StepLoader(batches, count(done), workers, pin_memory=self.recipe.device != "cpu" and not resident)

    def score(self, *, quick: bool, at_most: int | None = None) -> Scored:
        """Predict the validation cases with the network as it is now, and score them.

        Args:
            quick: Whether overlap alone is measured, of the network's own masks, and no picture kept.
            at_most: Of so many cases; None is all of them.
        """
        network = build_predictor(self.recipe, self.task, self.step.validated)
        return score(
            network if quick or self.jury is None else self.jury.beside(network),
            self.split.validation[:at_most],
            self.index.facts,
            labels_of(self.index),
            matched=self.recipe.segments is not None,
            pictures=not quick,
            overlap_only=quick,
            metrics=build_metrics(self.recipe),
        )

    def step_s(self, warm: int = WARM_STEPS, timed: int = TIMED_STEPS, at_most_s: float = inf) -> float:
        """Time some steps, of which nothing is learnt, and return the seconds of one."""
        self.prepare()
        with memory_for_step(self.recipe):
            return time_steps(self.step, self.loader, warm, timed, at_most_s)

    def pace(self, step_s: float, at_most_s: float = inf) -> Pace:
        """Time the validation of two cases, for so long at most, and return it beside the seconds of a step."""
        cases = self.split.validation
        if not cases:
            return Pace(step_s)
        began = time.perf_counter()
        durations: list[float] = []
        # The first time also finds memory and algorithms; the last one is that of the end, with all that it measures.
        for few, quick in ((1, True), (2, True), (2, False)):
            start = time.perf_counter()
            if durations and start - began + few * durations[-1] / len(cases) > at_most_s:
                return Pace(step_s, durations[-1], TAIL * durations[-1] + REPORT_S)
            self.score(quick=quick, at_most=few)
            durations.append((time.perf_counter() - start) / len(cases[:few]) * len(cases))
        return Pace(step_s, durations[1], durations[2] + REPORT_S)
