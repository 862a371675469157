"""Intensity statistics of a scan: small enough to keep for every case, and pooled over cases without reading again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

# Probabilities of the quantiles that are kept, dense in the tails, where intensities are clipped.
PROBABILITIES = (0.0, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 1.0)
# Of a larger region so many evenly spaced voxels are looked at, which puts a percentile within 0.1 % of its rank.
MOST_VOXELS = 2**16
# Values are sorted into so many buckets first; only buckets that hold a wanted rank are then sorted themselves.
BUCKETS = 4095
# Values at which the distributions of many scans are added up.
POINTS = 2048


@dataclass(frozen=True, slots=True)
class Intensities:
    """The intensities of one channel in one region.

    Attributes:
        voxels: Size of the region.
        mean: Mean of its intensities.
        std: Population standard deviation of its intensities.
        quantiles: Their quantiles at :data:`PROBABILITIES`.
    """

    voxels: int
    mean: float
    std: float
    quantiles: tuple[float, ...]

    @classmethod
    def of(cls, values: NDArray[Any]) -> Intensities | None:
        """Describe the intensities of a region; None for an empty one.

        >>> Intensities.of(np.arange(101)).quantiles[5:8]
        (25.0, 50.0, 75.0)
        """
        if not values.size:
            return None
        step = -(-values.size // MOST_VOXELS)
        while math.gcd(step, values.size) > 1:  # Else all voxels that are looked at might lie in one plane.
            step += 1
        sample = values[::step]
        places = np.array(PROBABILITIES) * (sample.size - 1)
        low, high = _at_ranks(sample, np.floor([places, np.ceil(places)]).astype(int))
        quantiles = low + (places % 1) * (high - low)
        mean = sample.mean(dtype=np.float64)
        std = sample.std(dtype=np.float64)
        return cls(values.size, _short(mean), _short(std), tuple(map(_short, quantiles)))


@dataclass(frozen=True, slots=True)
class ChannelStatistics:
    """What is known of one channel of a scan.

    Attributes:
        nonzero: Of all voxels that are not exactly 0; None where there are none.
        foreground: Of the voxels with a label above 0; None where there are none, or no mask.
    """

    nonzero: Intensities | None
    foreground: Intensities | None


def channel_statistics(channels: Iterable[NDArray[Any]], labels: NDArray[Any] | None) -> tuple[ChannelStatistics, ...]:
    """Describe every channel ``[X, Y, Z]`` of a scan, and its foreground where a mask of that shape is given."""
    # In the order of the file, in which neighbours in memory are read one after the other.
    foreground = None
    if labels is not None:
        foreground = labels.ravel(order="F") > 0
    return tuple(
        ChannelStatistics(
            Intensities.of(channel[channel != 0]),
            None if foreground is None else Intensities.of(channel[foreground]),
        )
        for channel in (channel.ravel(order="F") for channel in channels)
    )


def _at_ranks(values: NDArray[Any], ranks: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the values at some ranks, counted from 0, of the sorted values, without sorting all of them."""
    low = float(values.min())
    high = float(values.max())
    scale = 0.0
    if high > low:
        scale = BUCKETS / (high - low)
    buckets = ((values.astype(np.float64) - low) * scale).astype(np.intp)
    counts = np.bincount(buckets, minlength=BUCKETS + 1)
    wanted = np.searchsorted(counts.cumsum(), ranks, side="right")
    chosen = np.zeros(BUCKETS + 1, bool)
    chosen[wanted] = True
    left_out = np.where(chosen, 0, counts).cumsum()
    found: NDArray[np.float64] = np.sort(values[chosen[buckets]])[ranks - left_out[wanted]].astype(np.float64)
    return found


def pool(parts: Sequence[Intensities]) -> Intensities:
    """Return the intensities of several scans together, every scan weighing the same.

    The pooled distribution is the mean of the scans' own, each read as straight lines between its quantiles. Its mean
    and standard deviation are those of the mixture.

    Raises:
        ValueError: There are no parts.
    """
    if not parts:
        raise ValueError("there is nothing to pool")
    means = np.array([part.mean for part in parts])
    stds = np.array([part.std for part in parts])
    values = np.quantile([part.quantiles for part in parts], np.linspace(0, 1, POINTS))
    shares = np.mean([_share_below(values, part.quantiles) for part in parts], axis=0)
    quantiles = np.interp(PROBABILITIES, shares, values)
    std = np.sqrt((stds**2 + means**2).mean() - means.mean() ** 2)
    return Intensities(sum(part.voxels for part in parts), float(means.mean()), float(std), tuple(quantiles.tolist()))


def _share_below(values: NDArray[Any], quantiles: Sequence[float]) -> NDArray[Any]:
    """Return the share of a distribution at or below each value; where quantiles are equal, the largest share."""
    points, last = np.unique(np.array(quantiles)[::-1], return_index=True)
    shares: NDArray[Any] = np.interp(values, points, np.array(PROBABILITIES)[::-1][last], left=0.0, right=1.0)
    return shares


def _short(value: float) -> float:
    """Round to six digits, as many as an index needs."""
    return float(f"{value:.6g}")
