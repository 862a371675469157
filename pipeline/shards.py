"""Shards: shares of a list of scans, for calls that work side by side, such as the tasks of a cluster's job array."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from pipeline.errors import Problem, UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

T = TypeVar("T")

# Stands for the place of this task in a job array.
ARRAY = "array"
MOST = 100_000


@dataclass(frozen=True)
class Shard:
    """One of ``count`` shares of a list.

    Attributes:
        place: Which, from 1.
        count: Of how many.
    """

    place: int = 1
    count: int = 1

    def of(self, items: Sequence[T]) -> list[T]:
        """Return this share of a list: every ``count``-th item. The shares together are the list.

        >>> [Shard(place, 3).of("abcde") for place in (1, 2, 3)]
        [['a', 'd'], ['b', 'e'], ['c']]
        """
        return list(items[self.place - 1 :: self.count])


WHOLE = Shard()


def read_shard(text: str, environment: Mapping[str, str] = os.environ) -> Shard:
    """Read ``I/N``, or ``array/N`` for the place of this task in a Slurm array or a Kubernetes indexed job.

    Args:
        text: As it was given.
        environment: Where the scheduler tells the place.

    Raises:
        UserError: It is no shard, or there is no such task.

    >>> read_shard("2/3")
    Shard(place=2, count=3)
    >>> read_shard("array/3", {"JOB_COMPLETION_INDEX": "0"})
    Shard(place=1, count=3)
    >>> read_shard("array/3", {"SLURM_ARRAY_TASK_ID": "14", "SLURM_ARRAY_TASK_MIN": "10", "SLURM_ARRAY_TASK_STEP": "2"})
    Shard(place=3, count=3)
    """
    told, _, count = text.partition("/")
    place = _place_in_array(environment) if told == ARRAY else told
    if place.isdecimal() and count.isdecimal() and 1 <= int(place) <= int(count) <= MOST:
        return Shard(int(place), int(count))
    message = f"is {text}, and the place in it {place or 'not told by SLURM_ARRAY_TASK_ID or JOB_COMPLETION_INDEX'}"
    remedy = f"give I/N with I from 1 to N, such as 2/3, or {ARRAY}/N in a job array of N tasks"
    raise UserError("Nothing was started.", [Problem("--shard", "bad-shard", message, remedy)])


def _place_in_array(environment: Mapping[str, str]) -> str:
    """Return the place of this task, from 1, as text; nothing where no scheduler tells it."""
    if (task := environment.get("SLURM_ARRAY_TASK_ID", "")).isdecimal():
        first = int(environment.get("SLURM_ARRAY_TASK_MIN", "1"))
        step = int(environment.get("SLURM_ARRAY_TASK_STEP", "1"))
        return str((int(task) - first) // step + 1)
    if (index := environment.get("JOB_COMPLETION_INDEX", "")).isdecimal():
        return str(int(index) + 1)
    return ""
