"""Try how many threads are the fastest, while a training goes on.

The threads that share a step wait for each other. Beside other work, which holds up now this and now that one, a step
takes many times as long with all of them, and fewer are faster.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

# Another way to compute a step is taken where it takes this share of the time at most.
FASTER = 0.95
# Fewer are tried where a step takes so many times as long as it did; more, where there are more, after so many parts.
SLOWED, REST = 1.5, 10


@dataclass
class ThreadTrials:
    """Finds the number of threads with which a step takes the shortest time.

    Half of them are tried at the beginning and whenever a step has become slow, and twice as many now and then where
    not all are in use. What is faster stays, and the next number in its direction is tried; what is not is taken back.

    Attributes:
        most: The threads that there are.
        step_s: The shortest time that a step has taken since it last became slow, in seconds; 0 where none is known.
    """

    most: int
    step_s: float = 0.0
    _before: int | None = field(default=None, init=False)  # What a trial that is under way is an alternative to.
    _rest: int = field(default=0, init=False)

    def after(self, threads: int, step_s: float, *, settle: bool = False) -> int:
        """Return how many threads the next part of a training is to have.

        Args:
            threads: How many the last part had.
            step_s: What a step of it took, in seconds.
            settle: Begin no trial any more.

        >>> trials, threads = ThreadTrials(4), [4]
        >>> for step_s in (8.0, 5.0, 6.0, 5.0):  # Of 4 threads, then of 2, 1 and 2.
        ...     threads.append(trials.after(threads[-1], step_s))
        >>> threads
        [4, 2, 1, 2, 2]
        """
        before, self._before = self._before, None
        if before is None:
            self._rest += 1
            fewer = step_s > SLOWED * self.step_s
            goes_on = fewer or self._rest >= REST
            self.step_s = step_s if fewer else min(step_s, self.step_s)
        else:
            self._rest = 0
            fewer, goes_on = threads < before, step_s <= FASTER * self.step_s
            threads, self.step_s = (threads, step_s) if goes_on else (before, self.step_s)
        other = max(1, threads // 2) if fewer else min(self.most, 2 * threads)
        if settle or not goes_on or other == threads:
            return threads
        self._before = threads
        return other


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
