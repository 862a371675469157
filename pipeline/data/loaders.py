"""Batches as a function of the step: the same for any number of workers, and after a run is stopped and resumed."""

from __future__ import annotations

import math
import re
import shutil
import signal
import traceback
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import RawArray
from os import getpid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from pipeline.data.annotation import ANNOTATION, IMAGE
from pipeline.data.checked import FilesChangedError
from pipeline.data.patches import cut_patches
from pipeline.errors import Problem, UserError
from pipeline.interruption import handler_kept, window
from pipeline.memory import is_out_of_memory, memory_problem
from pipeline.plugins import told_of_plugin
from pipeline.types import OTHER_VIEW

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.data.augmentation import AugmentationChain
    from pipeline.types import Case

MAX_WORKERS = 256
# Batches that PyTorch lets each worker hold ready, and one that is on its way.
AHEAD = 3
SHARED_MEMORY = Path("/dev/shm")
# PyTorch has no class for it.
DEAD_WORKER = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)")


@dataclass(frozen=True)
class Stream:
    """An endless, shuffled sequence of samples of one kind.

    Attributes:
        cases: The cases that it draws from, each once an epoch.
        batch_size: Samples a step.
        salt: Gives each stream random numbers of its own.
    """

    cases: tuple[Case, ...]
    batch_size: int
    salt: int

    def pick(self, seed: int, step: int, slot: int) -> Case:
        """Return the case of one slot of one step, a pure function of its arguments."""
        epoch, position = divmod(step * self.batch_size + slot, len(self.cases))
        return self.cases[int(_order(seed, self.salt, epoch, len(self.cases))[position])]

    def rng(self, seed: int, step: int, slot: int, view: int = 0) -> np.random.Generator:
        """Return the random numbers of one view of one slot of one step, a pure function of its arguments."""
        return np.random.default_rng([seed, self.salt, 1 + view, step, slot])


@lru_cache(maxsize=8)
def _order(seed: int, salt: int, epoch: int, count: int) -> NDArray[np.int64]:
    """Shuffle the cases of one epoch; remembered, since every sample of the epoch asks."""
    return np.random.default_rng([seed, salt, 0, epoch]).permutation(count)


class StepBatches(Dataset[dict[str, dict[str, Any]]]):
    """Item ``i`` is all that step ``i`` needs: one batch of each stream, by the stream's name.

    A batch holds ``image`` ``[B, C, …]`` float32, ``annotation`` ``[B, 1, …]`` uint8 (see
    :mod:`pipeline.data.annotation`), ``case``, the ids of the whole batch, and on request further views of the samples:
    voxel for voxel the same places as ``image``. ``plain_image`` has the scan's own intensities, ``other_image`` has
    them changed by other random numbers; neither changes what ``image`` is. Where classes are not annotated in some
    case, a batch holds ``annotated`` too, booleans ``[B, classes]``.

    Args:
        streams: Labelled and perhaps unlabelled.
        read: Returns a prepared case's arrays, or tensors on the device where the batches are to be.
        patch_size: Voxels along each axis; two numbers cut single slices.
        augmentation: Changes the patches.
        seed: The run's seed.
        views: Which of ``VIEWS`` a batch holds too.
        foreground_share: As for :func:`pipeline.data.patches.cut_patches`.
        annotated: By case, which classes are annotated, ``[classes]``; empty where all are in all.
        slots: Returns which slots of a batch of this size are made here; one of several processes makes its own.
    """

    def __init__(
        self,
        streams: Mapping[str, Stream],
        read: Callable[[Case], dict[str, Any]],
        patch_size: Sequence[int],
        augmentation: AugmentationChain,
        seed: int,
        views: Sequence[str] = (),
        foreground_share: float | None = None,
        annotated: Mapping[str, NDArray[np.bool_]] | None = None,
        slots: Callable[[int], Sequence[int]] = range,
    ) -> None:
        self.streams = dict(streams)
        self.read = read
        self.patch_size = tuple(patch_size)
        self.augmentation = augmentation
        self.seed = seed
        self.views = tuple(views)
        self.foreground_share = foreground_share
        # Found out here, since a worker need not know of the other processes of a training.
        self.slots = {name: [*slots(stream.batch_size)] for name, stream in streams.items()}
        self.annotated = annotated or {}
        # Shared with the workers: for each its process number, and the step and the sample that it is preparing.
        self._at = RawArray("q", 3 * MAX_WORKERS)

    @property
    def epoch_length(self) -> int:
        """Steps of one pass over the cases of the first stream."""
        first = next(iter(self.streams.values()))
        return math.ceil(len(first.cases) / first.batch_size)

    def __getitem__(self, step: int) -> dict[str, dict[str, Any]]:
        batches = {}
        place = 0
        for name, stream in self.streams.items():
            batches[name] = {**self._batch(stream, step, self.slots[name], place), "case": self._ids(stream, step)}
            place += stream.batch_size
        return batches

    def _batch(self, stream: Stream, step: int, slots: Sequence[int], first: int) -> dict[str, Any]:
        """Make some slots of a stream's batch; nothing of none. ``first`` is the place of slot 0 among all streams'."""
        if not slots:
            return {}
        rngs = [stream.rng(self.seed, step, slot) for slot in slots]
        batch = cut_patches(self._read(stream, step, slots, first), rngs, self.patch_size, self.foreground_share)
        changes = [self.augmentation.draw(rng) for rng in rngs]
        self.augmentation.move(batch[IMAGE], batch[ANNOTATION], changes)
        views = {view: batch[IMAGE].clone() for view in self.views}
        self.augmentation.recolour(batch[IMAGE], changes)
        if OTHER_VIEW in views:
            others = [stream.rng(self.seed, step, slot, view=1) for slot in slots]
            self.augmentation.recolour(views[OTHER_VIEW], [self.augmentation.draw(rng) for rng in others])
        if self.annotated:
            rows = [self.annotated[stream.pick(self.seed, step, slot).id] for slot in slots]
            views["annotated"] = torch.from_numpy(np.stack(rows))
        return {**batch, **views}

    def _ids(self, stream: Stream, step: int) -> list[str]:
        return [stream.pick(self.seed, step, slot).id for slot in range(stream.batch_size)]

    def _read(self, stream: Stream, step: int, slots: Sequence[int], first: int) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        for slot in slots:
            if worker is not None and worker.id < MAX_WORKERS:
                self._at[3 * worker.id : 3 * worker.id + 3] = [getpid(), step, first + slot]
            yield self.read(stream.pick(self.seed, step, slot))

    def ids(self, step: int) -> list[str]:
        """Return the case of each sample of a step, stream after stream, wherever it is made."""
        return [case for stream in self.streams.values() for case in self._ids(stream, step)]

    def cases_at(self, process: int) -> list[str]:
        """Return the case that a worker, known by its process number, was preparing when it died; none if unknown."""
        at = np.frombuffer(self._at, dtype=np.int64).reshape(MAX_WORKERS, 3)
        return [self.ids(int(step))[int(place)] for pid, step, place in at if pid == process]


@dataclass(frozen=True)
class _Failure:
    """What went wrong, as plain text: an exception itself may not survive the way from a worker."""

    summary: str
    problems: tuple[Problem, ...]
    changed: bool = False

    @property
    def error(self) -> UserError:
        if self.changed:
            return FilesChangedError(self.problems)
        return UserError(self.summary, self.problems)


class _Guarded(Dataset[Any]):
    """Batches, or what went wrong with them."""

    def __init__(self, batches: StepBatches) -> None:
        self.batches = batches

    def __getitem__(self, step: int) -> Any:
        try:
            return self.batches[step]
        except UserError as error:
            return _Failure(error.summary, error.problems, isinstance(error, FilesChangedError))
        except Exception as error:
            if is_out_of_memory(error):  # No sample's fault.
                what = f"for the batch of step {step + 1}"
                remedy = "lower data.batch_size or data.patch_size"
                problem = memory_problem("data.batch_size", what, error, None, remedy)
                return _Failure("There is too little memory.", (problem,))
            origin = error.__cause__ or error  # MONAI's own says only which transform failed, where there is no cache.
            if isinstance(origin, Exception) and (told := told_of_plugin(origin)):
                return _Failure(told.summary, told.problems)
            cases = ", ".join(sorted(set(self.batches.ids(step))))
            place = traceback.extract_tb(origin.__traceback__)[-1]
            message = f"{type(origin).__name__}: {origin} ({place.filename}, line {place.lineno})"
            problem = Problem(f"one of {cases}", "sample-failed", message, "look at these scans with `fewmask check`")
            return _Failure(f"The batch of step {step + 1} could not be prepared.", (problem,))


@dataclass(frozen=True)
class StepLoader:
    """Iterates over the batches of some steps.

    Attributes:
        batches: Of every step.
        steps: The steps to load, counted from 0. They are taken at most a few batches ahead.
        workers: Processes that prepare batches; 0 prepares them in this one. The batches are the same.
        pin_memory: Whether to use pinned memory, from which copies to a GPU are faster.
    """

    batches: StepBatches
    steps: Iterable[int]
    workers: int
    pin_memory: bool

    def __iter__(self) -> Iterator[dict[str, dict[str, Any]]]:
        """Yield each step's batches.

        Raises:
            UserError: A batch could not be prepared.
            WorkerDiedError: A worker was killed.
        """
        loader = DataLoader(
            _Guarded(self.batches),
            batch_size=None,
            sampler=self.steps,
            num_workers=self.workers,
            pin_memory=self.pin_memory,
            worker_init_fn=_leave_interrupts_to_the_parent,
        )
        # PyTorch's own would raise wherever the main process is, even half-way through an update of the weights;
        # without it, the death of a worker shows where its batch is waited for, within five seconds.
        with handler_kept("SIGCHLD"):
            source = iter(loader)
        while True:
            try:
                with window():
                    item = next(source, None)
            except RuntimeError as error:
                if DEAD_WORKER.search(str(error)):
                    raise WorkerDiedError(self.batches, error) from None
                raise
            if item is None:
                return
            if isinstance(item, _Failure):
                raise item.error
            yield item


def _leave_interrupts_to_the_parent(_: int) -> None:
    # A terminal sends ctrl-c, and when it goes SIGHUP, to every process of the command.
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


class WorkerDiedError(UserError):
    """A process that prepares batches was killed, as the system does where memory runs out."""

    def __init__(self, batches: StepBatches, error: RuntimeError) -> None:
        listed = DEAD_WORKER.search(str(error))
        processes = []
        if listed:
            processes = re.findall(r"\d+", listed[1])
        cases = sorted({case for process in processes for case in batches.cases_at(int(process))})
        message = f"{str(error).partition('. ')[0]}, while it prepared {', '.join(cases) or 'nothing yet'}"
        remedy = "free some memory, or lower data.workers (0 is slower and gives the same result)"
        super().__init__(
            "A process that prepares batches died.", [Problem("data.workers", "worker-died", message, remedy)]
        )


def fits_shared_memory(batches: StepBatches, step: int, workers: int, folder: Path = SHARED_MEMORY) -> bool:
    """Tell whether the batches that workers hold ready fit into shared memory; True without workers."""
    if not workers or not folder.is_dir():
        return True
    one = _Guarded(batches)[step]
    if isinstance(one, _Failure):  # The loader will meet it again, and say so.
        return True
    tensors = [value for batch in one.values() for value in batch.values() if isinstance(value, torch.Tensor)]
    return workers * AHEAD * sum(tensor.nbytes for tensor in tensors) <= shutil.disk_usage(folder).free
