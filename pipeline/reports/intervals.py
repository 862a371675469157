"""What many numbers come down to, and how far that would be elsewhere with other patients.

Intervals are percentile bootstraps (Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13) over
patients: all cases of a patient are drawn together, since they are not independent. The draws are seeded, and patients
are drawn in the order of their names, so that equal results give equal intervals.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Numbers: TypeAlias = NDArray[np.float64]
    Interval: TypeAlias = tuple[float, float]

LEVEL = 0.95
RESAMPLES = 2000
SEED = 20210
# Resamples looked at together, which keeps thousands of patients in a few megabytes.
TOGETHER = 500

NO_NUMBER = "no case has this class, true or predicted"
ONE_NUMBER = "only one case has a number; a standard deviation needs two"
ONE_PATIENT = "only one patient has a number; an interval needs two"


@dataclass(frozen=True, slots=True)
class Statistics:
    """One metric of one class over the cases that have a number.

    Attributes:
        n: Cases with a number.
        mean: Their mean.
        interval: 95 % bootstrap interval of the mean.
        median: Their median.
        std: Of a sample (``n - 1``).
        q1: First quartile.
        q3: Third quartile.
        min: The least.
        max: The greatest.
        reasons: Why a value is None, by its name.
    """

    n: int
    mean: float | None
    interval: Interval | None
    median: float | None
    std: float | None
    q1: float | None
    q3: float | None
    min: float | None
    max: float | None
    reasons: dict[str, str]


def describe(values: Sequence[float | None], patients: Sequence[str]) -> Statistics:
    """Describe one metric of one class.

    Args:
        values: One a case; None is left out.
        patients: Whose case each is.

    >>> found = describe([0.8, 0.9, None], ["a", "b", "c"])
    >>> found.n, round(found.mean, 3), found.interval
    (2, 0.85, (0.8, 0.9))
    """
    known = {place: value for place, value in enumerate(values) if value is not None}
    if not known:
        names = ("mean", "interval", "median", "std", "q1", "q3", "min", "max")
        return Statistics(0, None, None, None, None, None, None, None, None, dict.fromkeys(names, NO_NUMBER))
    numbers = np.array(list(known.values()), dtype=np.float64)
    interval = mean_interval(numbers[:, None], [patients[place] for place in known])
    std = float(numbers.std(ddof=1)) if len(numbers) > 1 else None
    low, q1, median, q3, high = (float(q) for q in np.quantile(numbers, (0, 0.25, 0.5, 0.75, 1)))
    reasons = ({} if interval else {"interval": ONE_PATIENT}) | ({} if std is not None else {"std": ONE_NUMBER})
    return Statistics(len(numbers), float(numbers.mean()), interval, median, std, q1, q3, low, high, reasons)


def mean_of_means(values: Numbers) -> float:
    """Return the mean over columns of their means, without the NaN; NaN where there is no number at all.

    >>> mean_of_means(np.array([[1.0, 0.5], [np.nan, 0.0]]))
    0.625
    """
    sums, counts = np.nansum(values, axis=0), np.isfinite(values).sum(axis=0)
    return float(_means(sums[None], counts[None])[0])


def mean_interval(values: Numbers, patients: Sequence[str]) -> Interval | None:
    """Return the bootstrap interval of :func:`mean_of_means`.

    Args:
        values: ``[cases, classes]``, NaN where a class has no number in a case.
        patients: Whose case each row is.

    Returns:
        The 2.5th and the 97.5th percentile over the resamples that hold a number, or None where fewer than two
        patients have one.
    """
    names, rows = np.unique(np.array(patients, dtype=object), return_inverse=True)
    sums, counts = (np.zeros((len(names), values.shape[1])) for _ in range(2))
    np.add.at(sums, rows, np.nan_to_num(values))
    np.add.at(counts, rows, np.isfinite(values))
    filled = counts.any(axis=1)
    if filled.sum() < 2:
        return None
    draws, both = _draws(int(filled.sum())), np.hstack([sums, counts])[filled]
    parts = (draws[n : n + TOGETHER] @ both for n in range(0, RESAMPLES, TOGETHER))
    means = np.concatenate([_means(*np.hsplit(part, 2)) for part in parts])
    low, high = np.quantile(means[np.isfinite(means)], ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return float(low), float(high)


@lru_cache(maxsize=8)
def _draws(n: int) -> NDArray[np.uint8]:
    """Return how often each of ``n`` patients is in each resample, ``[RESAMPLES, n]``."""
    generator, draws = np.random.default_rng(SEED), np.zeros((RESAMPLES, n), np.uint8)
    for draw in draws:
        draw[:] = np.bincount(generator.integers(n, size=n), minlength=n)
    return draws


def _means(sums: Numbers, counts: NDArray[Any]) -> Numbers:
    """Average columns, then the columns that have a number; ``[resamples, classes]`` to ``[resamples]``."""
    means = _quotients(sums, counts)
    return _quotients(np.nansum(means, axis=1), np.isfinite(means).sum(axis=1))


def _quotients(sums: Numbers, counts: NDArray[Any]) -> Numbers:
    """Divide, where there is something to divide by; NaN elsewhere."""
    quotients: Numbers = np.full(sums.shape, np.nan)
    np.divide(sums, counts, out=quotients, where=counts > 0)
    return quotients
