"""Descriptive statistics of results, and confidence intervals of means and medians over patients.

Both intervals have their level of 95 % for any distribution of the numbers, with few patients too. Both are over
patients, since the cases of a patient are not independent. ``docs/intervals.md`` compares their coverage with that of
the usual intervals.

- The mean of numbers within a known range, such as Dice, has Gaffke's bounds. Patients get random weights many times
  (the Bayesian bootstrap; Rubin 1981, doi:10.1214/aos/1176345338). For the lower end, one more patient with the worst
  possible value is added; for the upper end, one with the best. For numbers that are 0 or 1 this is Clopper and
  Pearson's interval. That the level holds for all bounded numbers is a conjecture (Gaffke 2005, Mathematical Methods of
  Statistics 14(4); Learned-Miller & Thomas 2019, arXiv:1905.06208). The draws are seeded, and patients are sorted by
  their names, so that equal results give equal intervals.
- The median has an interval between two order statistics, chosen by binomial probabilities. It needs no range.

The mean of numbers without a range, such as distances, has no interval: no method has its level for every distribution
(Bahadur & Savage 1956, doi:10.1214/aoms/1177728077).
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
# The fewest patients for an interval. With fewer, a median has none at this level, and that of a mean is too wide to be
# of use: for five patients with Dice 0.9 it would begin at 0.43.
FEWEST = 6
RESAMPLES = 4000
SEED = 20210
# Resamples that are computed together, so that thousands of patients take a few megabytes.
TOGETHER = 1000

NO_NUMBER = "no case has this class, true or predicted"
ONE_NUMBER = "only one case has a number; a standard deviation needs two"
TOO_FEW = "too few to say"
MORE_PATIENTS = "score more; `fewmask train --folds N` scores all with a mask"
NO_RANGE = "what can be of any size has no interval of its mean that holds its level; see the quartiles"


def plural(n: int, noun: str) -> str:
    """Return a number with its noun.

    >>> plural(1, "case"), plural(2, "case")
    ('1 case', '2 cases')
    """
    return f"{n} {noun}{'s' * (n != 1)}"


def too_few(patients: int) -> str:
    """Return why there is no interval, and what to do.

    >>> too_few(2)
    'too few to say: 2 patients, and an interval needs 6; score more; `fewmask train --folds N` scores all with a mask'
    """
    needs = f"{plural(patients, 'patient')}, and an interval needs {FEWEST}"
    return f"{TOO_FEW}: {needs}; {MORE_PATIENTS}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """One metric of one class over the cases that have a number.

    Attributes:
        n: Number of cases that have a number.
        mean: Their mean.
        interval: 95 % interval of the mean.
        median: Their median.
        std: Their sample standard deviation, with ``n - 1``.
        q1: First quartile.
        q3: Third quartile.
        min: The smallest number.
        max: The largest number.
        reasons: Why a field is None, by its name.
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


def describe(
    values: Sequence[float | None], patients: Sequence[str], span: Interval | None, nothing: str = NO_NUMBER
) -> Statistics:
    """Describe one metric of one class.

    Args:
        values: The value of each case; None is left out.
        patients: The patient of each case.
        span: The least and the greatest possible value; None if there is no such range.
        nothing: The reason that is given if no case has a number.

    >>> found = describe([0.8, 0.9, None], ["a", "b", "c"], (0.0, 1.0))
    >>> found.n, round(found.mean, 3), found.interval, found.reasons["interval"][:26]
    (2, 0.85, None, 'too few to say: 2 patients')
    """
    known = {place: value for place, value in enumerate(values) if value is not None}
    if not known:
        names = ("mean", "interval", "median", "std", "q1", "q3", "min", "max")
        return Statistics(n=0, **dict.fromkeys(names), reasons=dict.fromkeys(names, nothing))
    numbers = np.array(list(known.values()), dtype=np.float64)
    interval, reasons = interval_or_reason(numbers[:, None], [patients[place] for place in known], span)
    std = None
    if len(numbers) > 1:
        std = float(numbers.std(ddof=1))
    low, q1, median, q3, high = (float(q) for q in np.quantile(numbers, (0, 0.25, 0.5, 0.75, 1)))
    if std is None:
        reasons["std"] = ONE_NUMBER
    return Statistics(
        n=len(numbers),
        mean=float(numbers.mean()),
        interval=interval,
        median=median,
        std=std,
        q1=q1,
        q3=q3,
        min=low,
        max=high,
        reasons=reasons,
    )


def mean_of_means(values: Numbers) -> float:
    """Return the mean over columns of their means, with NaN left out; NaN if there is no number at all.

    >>> mean_of_means(np.array([[1.0, 0.5], [np.nan, 0.0]]))
    0.625
    """
    sums = np.nansum(values, axis=0)
    counts = np.isfinite(values).sum(axis=0)
    return float(_means(sums[None], counts[None])[0])


def interval_or_reason(
    values: Numbers, patients: Sequence[str], span: Interval | None
) -> tuple[Interval | None, dict[str, str]]:
    """Return :func:`mean_interval` and ``{}``, or None and the reason under the name ``interval``."""
    if span is None:
        return None, {"interval": NO_RANGE}
    interval = mean_interval(values, patients, span)
    if interval is None:
        known = np.isfinite(values).any(axis=1)
        return None, {"interval": too_few(len(set(np.array(patients, dtype=object)[known])))}
    return interval, {}


def mean_interval(values: Numbers, patients: Sequence[str], span: Interval) -> Interval | None:
    """Return the interval of :func:`mean_of_means`.

    Args:
        values: ``[cases, classes]``, NaN where a class has no number in a case.
        patients: The patient of each row.
        span: The least and the greatest possible value.

    Returns:
        The ends, or None where fewer than six patients have a number.
    """
    names, rows = np.unique(np.array(patients, dtype=object), return_inverse=True)
    sums, counts = (np.zeros((len(names), values.shape[1])) for _ in range(2))
    np.add.at(sums, rows, np.nan_to_num(values))
    np.add.at(counts, rows, np.isfinite(values))
    filled = counts.any(axis=1)
    if filled.sum() < FEWEST:
        return None
    # One more patient, who has as many cases as anyone.
    most = counts.max(axis=0)
    low, high = (np.vstack([sums[filled], end * most]) for end in span)
    columns = np.hstack([low, high, np.vstack([counts[filled], most])])
    weights = _weights(int(filled.sum()))
    parts = [weights[n : n + TOGETHER] @ columns for n in range(0, RESAMPLES, TOGETHER)]
    worst, best, weighed = np.split(np.concatenate(parts), 3, axis=1)
    outside = (1 - LEVEL) / 2
    return (
        float(np.quantile(_means(worst, weighed), outside)),
        float(np.quantile(_means(best, weighed), 1 - outside)),
    )


def means_of_patients(values: Sequence[float], patients: Sequence[str]) -> Numbers:
    """Return the mean of each patient's cases, in the order in which patients first appear; NaN is left out.

    >>> means_of_patients([1.0, 0.0, float("nan"), 0.5], ["a", "a", "b", "c"])
    array([0.5, 0.5])
    """
    by_patient: dict[str, list[float]] = {}
    for value, patient in zip(values, patients, strict=True):
        if np.isfinite(value):
            by_patient.setdefault(patient, []).append(value)
    return np.array([np.mean(group) for group in by_patient.values()], dtype=np.float64)


def median_interval(values: Numbers) -> Interval | None:
    """Return the interval of the median of independent numbers, or None where there are fewer than six.

    >>> median_interval(np.array([0.3, 0.1, 0.5, 0.2, 0.6, 0.4]))
    (0.1, 0.6)
    """
    ranks = _ranks(len(values))
    if ranks is None:
        return None
    ordered = np.sort(values)
    return float(ordered[ranks[0]]), float(ordered[ranks[1]])


@lru_cache(maxsize=64)
def _ranks(n: int) -> tuple[int, int] | None:
    """Return the ranks, counted from 0, of the ends of the median's interval; None for too few numbers."""
    from scipy.stats import quantile_test

    if n < FEWEST:
        return None
    found = quantile_test(np.arange(n)).confidence_interval(LEVEL)
    return int(found.low), int(found.high)


@lru_cache(maxsize=8)
def _weights(n: int) -> NDArray[np.float32]:
    """Return the weights of ``n`` patients and an added one in each resample, ``[RESAMPLES, n + 1]``.

    The weights of a resample are uniformly distributed among all that sum to 1. Those of the added patient, on which
    the ends depend most, are not drawn: they are quantiles of their distribution, so that chance moves the ends less.
    """
    more = 1 - (1 - (np.arange(RESAMPLES) + 0.5) / RESAMPLES) ** (1 / n)
    drawn = np.random.default_rng(SEED).standard_exponential((RESAMPLES, n), dtype=np.float32)
    drawn *= ((1 - more) / drawn.sum(axis=1))[:, None]
    return np.hstack([drawn, more[:, None].astype(np.float32)])


def _means(sums: Numbers, counts: NDArray[Any]) -> Numbers:
    """Return the mean over classes of ``sums / counts``, ``[resamples]``; classes without a number are left out."""
    means = _quotients(sums, counts)
    return _quotients(np.nansum(means, axis=1), np.isfinite(means).sum(axis=1))


def _quotients(sums: Numbers, counts: NDArray[Any]) -> Numbers:
    """Return ``sums / counts``; NaN where a count is 0."""
    quotients: Numbers = np.full(sums.shape, np.nan)
    np.divide(sums, counts, out=quotients, where=counts > 0)
    return quotients
