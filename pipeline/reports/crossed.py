"""The confidence interval of a mean over draws and patients, both of which are samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.reports.intervals import LEVEL

if TYPE_CHECKING:
    from pipeline.reports.intervals import Interval, Numbers

# The fewest draws, and patients, for an interval: with two, its coverage is only 90 %.
FEWEST_CROSSED = 3


def crossed_interval(values: Numbers) -> Interval | None:
    """Return the 95 % interval of the mean of a table in which both rows and columns are samples.

    With D rows and P columns, ``MS_d = P var(row means)`` and ``MS_p = D var(column means)``::

        mean -+ t sqrt((MS_d + MS_p) / (D P)),    df = (MS_d + MS_p)^2 / (MS_d^2 / (D - 1) + MS_p^2 / (P - 1))

    This is Satterthwaite's interval (Biometrics Bulletin 1946, doi:10.2307/3002019) for the two-way random effects
    model. The residual variance is in both mean squares and is not subtracted once, so the interval is rather too wide
    than too narrow. Effects are assumed to be roughly normal; ``benchmarks/bench_intervals.py`` measures the coverage.

    Args:
        values: ``[D, P]``, such as differences by draw and patient, without NaN.

    Returns:
        The ends; None if there are fewer than three rows or columns.

    >>> ends = crossed_interval(np.array([[1.0, 2.0, 3.0], [2.0, 3.0, 4.0], [3.0, 4.0, 5.0]]))
    >>> [round(end, 2) for end in ends]
    [0.73, 5.27]
    """
    from scipy.stats import t

    draws, patients = values.shape
    if min(draws, patients) < FEWEST_CROSSED:
        return None
    mean = float(values.mean())
    of_draws = patients * float(values.mean(axis=1).var(ddof=1))
    of_patients = draws * float(values.mean(axis=0).var(ddof=1))
    if of_draws + of_patients == 0:
        return mean, mean
    freedom = (of_draws + of_patients) ** 2 / (of_draws**2 / (draws - 1) + of_patients**2 / (patients - 1))
    half = float(t.ppf((1 + LEVEL) / 2, freedom)) * float(np.sqrt((of_draws + of_patients) / values.size))
    return mean - half, mean + half
