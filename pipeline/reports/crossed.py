"""The confidence interval of a mean over draws and patients, both of which are samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.reports.intervals import LEVEL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.reports.intervals import Interval, Numbers

# The fewest draws, and patients, for an interval: with two, its coverage is only 90 %.
FEWEST_CROSSED = 3


def satterthwaite(mean: float, samples: Sequence[Numbers]) -> tuple[Interval, float]:
    """Return the 95 % interval of a mean that has the chance of several samples in it, and the p-value of its being 0.

    With the variances ``v`` of the samples and their sizes ``n``, both of Student's t::

        mean -+ t SE,    SE^2 = sum(v / n),    df = SE^4 / sum((v / n)^2 / (n - 1))

    Satterthwaite, Biometrics Bulletin 1946, doi:10.2307/3002019. Where nothing varies the interval is a point, and the
    p-value 0, or 1 of a mean of 0.

    Args:
        mean: The mean.
        samples: What varies by chance, each of two numbers or more.
    """
    from scipy.stats import t

    parts = [float(sample.var(ddof=1)) / len(sample) for sample in samples]
    total = sum(parts)
    if total == 0:
        return (mean, mean), float(mean == 0)
    freedom = total**2 / sum(part**2 / (len(sample) - 1) for part, sample in zip(parts, samples, strict=True))
    error = total**0.5
    half = float(t.ppf((1 + LEVEL) / 2, freedom)) * error
    return (mean - half, mean + half), float(2 * t.sf(abs(mean) / error, freedom))


def crossed_interval(values: Numbers) -> Interval | None:
    """Return the 95 % interval of the mean of a table in which both rows and columns are samples.

    It is :func:`satterthwaite`'s of the means of the rows and of those of the columns, for the two-way random effects
    model. The residual variance is in both and is not subtracted once, so the interval is rather too wide than too
    narrow. Effects are assumed to be roughly normal; ``benchmarks/bench_intervals.py`` measures the coverage.

    Args:
        values: ``[D, P]``, such as differences by draw and patient, without NaN.

    Returns:
        The ends; None if there are fewer than three rows or columns.

    >>> import numpy as np
    >>> ends = crossed_interval(np.array([[1.0, 2.0, 3.0], [2.0, 3.0, 4.0], [3.0, 4.0, 5.0]]))
    >>> [round(end, 2) for end in ends]
    [0.73, 5.27]
    """
    if min(values.shape) < FEWEST_CROSSED:
        return None
    interval, _ = satterthwaite(float(values.mean()), [values.mean(axis=1), values.mean(axis=0)])
    return interval
