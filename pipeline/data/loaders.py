"""Batches as a function of the step: the same for any number of workers, and for a run that was stopped and resumed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from monai.transforms import Compose
    from numpy.typing import NDArray

    from pipeline.types import Case


@dataclass(frozen=True)
class Stream:
    """An endless, shuffled sequence of samples of one kind.

    Attributes:
        cases: The cases that it draws from, each once an epoch.
        batch_size: Samples a step.
        salt: Tells the random numbers of two streams apart.
    """

    cases: tuple[Case, ...]
    batch_size: int
    salt: int

    def pick(self, seed: int, step: int, slot: int) -> Case:
        """Return the case of one slot of one step, a pure function of its arguments."""
        epoch, position = divmod(step * self.batch_size + slot, len(self.cases))
        order = np.random.default_rng([seed, self.salt, 0, epoch]).permutation(len(self.cases))
        return self.cases[int(order[position])]

    def sample_seed(self, seed: int, step: int, slot: int) -> int:
        """Return the seed of one sample's random transforms."""
        return int(np.random.SeedSequence([seed, self.salt, 1, step, slot]).generate_state(1)[0])


class StepBatches(Dataset[dict[str, dict[str, Any]]]):
    """Item ``i`` is all that step ``i`` needs: one batch of each stream, by the stream's name.

    A batch holds ``image`` ``[B, C, …]`` float32, ``label`` ``[B, 1, …]`` int64 (negative: not annotated), ``mask``
    ``[B, 1, …]`` bool (inside the scan) and ``case``, the list of ids.

    Args:
        streams: Labelled and perhaps unlabelled.
        read: Returns a prepared case's arrays.
        transforms: From those arrays to a sample, at random.
        seed: The run's seed.
    """

    def __init__(
        self,
        streams: Mapping[str, Stream],
        read: Callable[[Case], dict[str, NDArray[Any]]],
        transforms: Compose,
        seed: int,
    ) -> None:
        self.streams, self.read, self.transforms, self.seed = dict(streams), read, transforms, seed

    @property
    def epoch_length(self) -> int:
        """Steps of one pass over the cases of the first stream."""
        first = next(iter(self.streams.values()))
        return math.ceil(len(first.cases) / first.batch_size)

    def __getitem__(self, step: int) -> dict[str, dict[str, Any]]:
        return {name: self._batch(stream, step) for name, stream in self.streams.items()}

    def _batch(self, stream: Stream, step: int) -> dict[str, Any]:
        cases = [stream.pick(self.seed, step, slot) for slot in range(stream.batch_size)]
        samples = [self._sample(case, stream.sample_seed(self.seed, step, slot)) for slot, case in enumerate(cases)]
        batch: dict[str, Any] = {key: torch.stack([torch.as_tensor(s[key]) for s in samples]) for key in samples[0]}
        return batch | {"case": [case.id for case in cases]}

    def _sample(self, case: Case, seed: int) -> dict[str, Any]:
        self.transforms.set_random_state(seed=seed)
        sample = self.transforms(self.read(case))
        return {key: sample[key] for key in ("image", "label", "mask")}


def step_loader(batches: StepBatches, first: int, last: int, workers: int, pin_memory: bool) -> DataLoader[Any]:
    """Return a loader of the batches of steps ``first`` to ``last - 1``; pinned memory copies faster to a GPU."""
    return DataLoader(
        batches,
        batch_size=None,
        sampler=range(first, last),
        num_workers=workers,
        pin_memory=pin_memory,
    )
