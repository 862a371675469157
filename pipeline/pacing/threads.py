"""Find the fastest number of threads while a training runs.

The threads that share a step wait for each other. Beside other programs, which delay now one thread and now another, a
step with all threads may take many times as long, and fewer threads are faster.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

# Another way to compute a step is taken if it needs at most this share of the time.
FASTER = 0.95
# A number of threads is judged by at least so many steps; a trial ends earlier once it has taken longer than so many
# steps took before. Fewer threads are tried once a step takes SLOWED times as long as before.
STEPS = 4
SLOWED = 1.5
# If not all threads are in use, more are tried after REST parts; after each trial without gain the wait doubles.
REST = 10
LONGEST_REST = 160


@dataclass
class ThreadTrials:
    """Finds the number of threads with which a step takes the shortest time.

    Half as many threads are tried whenever steps have become slow, and twice as many now and then if not all are in
    use. A faster number is kept, and the next one in the same direction is tried; a slower one is taken back.

    Attributes:
        most: The number of threads that there are.
        part_s: Seconds of a part, after which a number of threads is judged at the earliest.
        step_s: Seconds of a step with the present number of threads; 0 if unknown: then fewer are tried.
        rest: Parts until more threads are tried.
        before: The number of threads before the trial that is going on; None without a trial.
    """

    most: int
    part_s: float = 0.0
    step_s: float = 0.0
    rest: int = 0
    before: int | None = field(default=None, init=False)
    _next_rest: int = field(default=REST, init=False)
    _times: list[float] = field(default_factory=list, init=False)

    def after_step(self, threads: int, step_s: float, *, more: bool = True) -> int:
        """Return how many threads the next step is to have.

        Args:
            threads: The number of threads of the last step.
            step_s: Seconds that it took.
            more: Whether more threads may be tried.

        >>> trials, threads = ThreadTrials(4, rest=REST), [4]
        >>> for step in range(16):
        ...     threads.append(trials.after_step(threads[-1], {4: 8.0, 2: 5.0, 1: 6.0}[threads[-1]]))
        >>> threads
        [4, 4, 4, 4, 2, 2, 2, 2, 1, 1, 1, 1, 2, 2, 2, 2, 2]
        """
        self._times.append(step_s)
        taken_s = sum(self._times)
        is_lost = self.before is not None and taken_s > STEPS * self.step_s
        if taken_s < self.part_s or (len(self._times) < STEPS and not is_lost):
            return threads
        times = self._times
        before = self.before
        self.forget()
        if before is None:
            other = self._after_part(threads, times)
        elif fmean(times) <= FASTER * self.step_s:
            self.step_s = fmean(times)
            self.rest = REST
            self._next_rest = REST
            other = max(1, threads // 2) if threads < before else min(self.most, 2 * threads)
        else:
            if threads > before:
                self.rest = self._next_rest
                self._next_rest = min(2 * self._next_rest, LONGEST_REST)
            return before
        if other == threads or (other > threads and not more):
            return threads
        self.before = threads
        return other

    def forget(self) -> None:
        """Drop the steps so far, and the trial that is going on."""
        self._times = []
        self.before = None

    def _after_part(self, threads: int, times: list[float]) -> int:
        """Return how many threads to try after a part without a trial."""
        self.rest -= 1
        is_slow = median(times) > SLOWED * self.step_s  # Not the mean: one step may be long for once.
        self.step_s = fmean(times) if is_slow else min(fmean(times), self.step_s)
        if is_slow and threads > 1:
            return threads // 2
        if self.rest <= 0:
            return min(self.most, 2 * threads)
        return threads


def use_threads(threads: int | None) -> None:
    """Set PyTorch's number of threads; None changes nothing."""
    if threads not in (None, torch.get_num_threads()):
        torch.set_num_threads(threads)


@contextmanager
def threads_kept() -> Iterator[None]:
    """Restore PyTorch's number of threads at the end of the block."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        use_threads(before)
