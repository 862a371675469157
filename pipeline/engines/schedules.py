"""Schedules of the learning rate: a linear warm-up, and after it a registered decay."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from pipeline.registry import Registry

SCHEDULES = Registry(name="schedule", description="How the learning rate changes after the warm-up.")

Power = Annotated[float, Field(gt=0, le=100)]


class Decay(ABC):
    """The learning rate after the warm-up, as a factor of its peak. Its options are its constructor's arguments."""

    @abstractmethod
    def __call__(self, left: float) -> float:
        """Return the factor, 0 or more.

        Args:
            left: The share of the training after the warm-up that is still to be done: it falls from 1 at the end of
                the warm-up to 0 at the end of the training.
        """


@SCHEDULES.register("poly")
@dataclass(frozen=True)
class Polynomial(Decay):
    """Polynomial decay: the share that is left, to a power; with optimizer.warmup=0 it is nnU-Net's."""

    power: Power = 0.9

    def __call__(self, left: float) -> float:
        """Return ``left ** power``."""
        return float(left**self.power)


@SCHEDULES.register("constant")
@dataclass(frozen=True)
class Constant(Decay):
    """Stays at the peak."""

    def __call__(self, left: float) -> float:
        """Return 1."""
        return 1.0


@dataclass(frozen=True)
class Schedule:
    """Learning rate as a function of the share of the training that is done.

    Attributes:
        peak: The learning rate at the end of the warm-up.
        warmup: The share of the training in which it grows linearly from 0.
        decay: Its factor after the warm-up.

    >>> rate = Schedule(peak=1e-3, warmup=0.1)
    >>> [round(rate(progress), 6) for progress in (0.05, 0.1, 0.55, 1.0)]
    [0.0005, 0.001, 0.000536, 0.0]
    """

    peak: float
    warmup: float
    decay: Decay = Polynomial()

    def __call__(self, progress: float) -> float:
        """Return the learning rate at ``progress`` in [0, 1]."""
        if progress < self.warmup:
            return self.peak * progress / self.warmup
        if self.warmup == 1:
            return self.peak
        return self.peak * self.decay((1 - progress) / (1 - self.warmup))
