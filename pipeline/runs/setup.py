"""The parts of a training, built from settings: batches, step, validation, and their timing."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from itertools import count
from math import inf
from typing import TYPE_CHECKING

from pipeline.data.loaders import StepBatches, StepLoader, fits_shared_memory
from pipeline.decisions import NONE, Decisions
from pipeline.distributed import agree, from_first, rank, size
from pipeline.pacing.budget import WARM_STEPS, Pace
from pipeline.runs import build
from pipeline.runs.atlases import read_atlases, write_atlases
from pipeline.runs.batches import build_batches, build_cache
from pipeline.runs.predictors import build_metrics, build_postprocessing, build_predictor
from pipeline.runs.refusals import memory_for_step
from pipeline.runs.scoring import Scored, score
from pipeline.runs.segments import labels_of, task_of
from pipeline.runs.sharing import SharedCases
from pipeline.runs.timing import TIMED_STEPS, time_steps
from pipeline.terminal import note, progress

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from pipeline.data.cache import Cache
    from pipeline.data.index import Index
    from pipeline.data.splits import Split
    from pipeline.planning.settings import Settings
    from pipeline.prediction.predictor import Segmenter
    from pipeline.runs.atlases import AtlasVote
    from pipeline.runs.folder import RunFolder

# Seconds that are reserved for writing the report; on two cores of an Intel Xeon it takes 1 s, for 1 case or for 40.
REPORT_S = 2.0
# The last validation is assumed to take so many times as long as the others, if there is no time to measure it.
TAIL = 1.5


@dataclass(kw_only=True)
class Setup:
    """All that is built from settings and a dataset for a training.

    Attributes:
        folder: The run's folder.
        settings: Of the run, with nothing open.
        index: The checked dataset.
        split: The cases that are trained on and held out.
        decided: The decisions that were made so far.
        cache: The prepared scans; None until they are prepared.
        vote: The atlases that vote beside the network; None until they are prepared, and if there are none.
    """

    folder: RunFolder
    settings: Settings
    index: Index
    split: Split
    decided: Decisions = NONE
    cache: Cache | None = None
    vote: AtlasVote | None = field(default=None, init=False)
    _batches: StepBatches | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.task = task_of(self.settings, self.index)
        # So that a mistake in what comes last is found before the first step.
        build_postprocessing(self.settings, self.task)
        build_metrics(self.settings)
        self.step = build.build_step(self.settings, self.task)
        self.step.course = build.build_course(self.settings, self.decided)

    def with_settings(self, settings: Settings) -> Setup:
        """Return the same training with other settings; scans are cut for the patch, so another one needs others."""
        cache = self.cache if settings.data.patch_size == self.settings.data.patch_size else None
        return replace(self, settings=settings, cache=cache)

    def decide(self, settings: Settings, decided: Decisions) -> None:
        """Use settings with another number of steps, and other decisions, from here on."""
        self.settings = settings
        self.decided = decided.begun_with(decided.taken or self.decided.taken)
        self.step.course = build.build_course(settings, self.decided)

    def begin_with(self, weights: Mapping[str, Tensor]) -> None:
        """Let the network, and what sources and averages copy of it, begin with some weights; by name, all of them."""
        self.step = build.build_step(self.settings, self.task, weights)
        self.step.course = build.build_course(self.settings, self.decided)

    def note_decisions(self) -> Decisions:
        """Copy the decisions from the course, in which the clock makes them, and return them."""
        course = self.step.course
        known = {"corrections": tuple(course.corrections.items()), "threads": tuple(course.threads.items())}
        self.decided = self.decided.model_copy(update=known)
        return self.decided

    def prepare(self, so_far: Callable[[int, int], None] = lambda *_: None) -> StepBatches:
        """Prepare every case that is trained on, once, and return the batches of all steps.

        Args:
            so_far: Called after each case of this process's share with the number prepared and the number of all.
        """
        if self.cache is None:
            self.cache = build_cache(self.settings, self.index, self.folder.cache_of(self.settings))
            cases = self.split.labelled
            if "unlabelled" in self.settings.kinds:
                cases += self.split.unlabelled
            own = cases[rank() :: size()]
            for done, _ in enumerate(progress(self.cache.fill(own), "preparing", len(own)), 1):
                so_far(done, len(own))
            if size() > 1:
                agree()
                # What is missing now lies where the others cannot write, such as on a disk of this machine.
                list(self.cache.fill(cases, verified=True))
            if (failure := self.cache.failure) is not None:
                what = f"{self.cache.folder} cannot hold all prepared scans ({failure.strerror}): the others are "
                note(f"{what}prepared whenever they are needed. Make room, or name another folder: data.cache=DIR")
        if self._batches is None:
            self._batches = build_batches(self.settings, self.split, self.cache)
        return self._batches

    def prepare_vote(self) -> None:
        """Write the atlases that vote beside the network into the run, and read them, if the recipe has some.

        They are written anew each time: a training that ended before its first step may have left others.
        """
        if self.vote is None and self.settings.atlases.weight > 0:
            self.prepare()
            from_first(self._write_atlases)
            self.vote = read_atlases(self.folder.path, self.settings, self.task)

    def _write_atlases(self) -> None:
        assert self.cache is not None
        write_atlases(self.folder.path, self.settings, self.split.atlases, self.cache, len(self.task.labels))

    def loader(self, done: int = 0) -> StepLoader:
        """Return a loader of the batches of all steps after those that are done, without end.

        It has no end because the number of steps may be corrected when workers, which are ahead, have reached it.
        """
        batches = self.prepare()
        resident = self.settings.data.resident
        workers = self.settings.data.workers
        if done < self.step.course.last and not fits_shared_memory(batches, done, workers):
            note("/dev/shm is too full for workers; batches are prepared without them, which gives the same result")
            workers = 0
        return StepLoader(batches, count(done), workers, pin_memory=self.settings.device != "cpu" and not resident)

    def score(self, *, quick: bool, at_most: int | None = None) -> Scored:
        """Predict and score the validation cases with the present weights; several processes share the cases.

        Args:
            quick: Measure overlap alone, without atlases and pictures.
            at_most: The number of cases to score; None for all.
        """
        network = build_predictor(self.settings, self.task, self.step.validated)
        predictor: Segmenter = network
        if not quick:
            self.prepare_vote()
            if self.vote is not None:
                predictor = self.vote.beside(network)
        return score(
            predictor,
            self.split.validation[:at_most],
            self.index.facts,
            labels_of(self.index),
            matched=self.settings.segments is not None,
            pictures=not quick,
            overlap_only=quick,
            metrics=build_metrics(self.settings),
            shared=SharedCases(),
        )

    def step_s(self, warm: int = WARM_STEPS, timed: int = TIMED_STEPS, at_most_s: float = inf) -> float:
        """Time steps, whose updates are taken back, and return the mean duration of one in seconds.

        Args:
            warm: Steps that are not timed, before those that are.
            timed: Steps that are timed.
            at_most_s: Seconds after which no further step begins.
        """
        self.prepare()
        with memory_for_step(self.settings):
            return time_steps(self.step, self.loader, warm, timed, at_most_s)

    def pace(
        self, step_s: float, at_most_s: float = inf, announce: Callable[[bool, int], object] = lambda *_: None
    ) -> Pace:
        """Time the validation of at most two cases, and return the pace of the training.

        Args:
            step_s: Seconds of a step.
            at_most_s: Seconds after which no further validation is timed; its duration is then estimated.
            announce: Called before each validation with its arguments ``quick`` and ``at_most``.
        """
        cases = self.split.validation
        if not cases:
            return Pace(step_s)
        began = time.perf_counter()
        durations: list[float] = []
        # The first is a warm-up; the last measures all that the final validation does.
        for few, quick in ((1, True), (2, True), (2, False)):
            start = time.perf_counter()
            if durations and start - began + few * durations[-1] / len(cases) > at_most_s:
                return Pace(step_s, durations[-1], TAIL * durations[-1] + REPORT_S)
            announce(quick, few)
            self.score(quick=quick, at_most=few)
            durations.append((time.perf_counter() - start) / len(cases[:few]) * len(cases))
        return Pace(step_s, durations[1], durations[2] + REPORT_S)
