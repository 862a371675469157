"""Try how many threads are the fastest, while a training goes on.

The threads that share a step wait for each other. Beside other work, which holds up now this and now that one, a step
takes many times as long with all of them, and fewer are faster.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

# Another way to compute a step is taken where it takes this share of the time at most.
FASTER = 0.95
# A number of threads is judged by so many steps or more; a trial that has taken longer than they would have is over
# before. Fewer are tried where a step has come to take so many times as long.
STEPS = 4
SLOWED = 1.5
# Where not all threads are in use, more are tried after so many parts, and each time in vain after twice as many.
REST = 10
LONGEST_REST = 160


@dataclass
class ThreadTrials:
    """Finds the number of threads with which a step takes the shortest time.

    Half of them are tried whenever steps have become slow, and twice as many now and then where not all are in use.
    What is faster stays, and the next number in its direction is tried; what is not is taken back.

    Attributes:
        most: The threads that there are.
        part_s: A number of threads is judged after so many seconds, or more.
        step_s: What a step takes with those in use, in seconds; 0 where that is not known, and fewer are tried.
        rest: After how many parts more threads are tried.
        before: The threads that a trial under way is an alternative to; None without one.
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
            threads: How many the last one had.
            step_s: What it took, in seconds.
            more: Whether more of them may be tried.

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
        """Judge nothing by the steps so far."""
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
    """Compute with so many threads from here on; with as many as before for None."""
    if threads not in (None, torch.get_num_threads()):
        torch.set_num_threads(threads)


@contextmanager
def threads_kept() -> Iterator[None]:
    """Compute with as many threads afterwards as before."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        use_threads(before)
