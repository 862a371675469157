"""How a scan looks, in numbers that are comparable between scans, and which scans look like none that has a mask.

A teacher has something to say only of scans like those that it has learnt from. Noise, another anatomy or inverted
intensities among the scans without masks teach a network nothing, and may harm it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.spatial.distance import cdist

from pipeline.data.outside import equals, find_outside
from pipeline.nifti.forms import nearest_axes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Numbers = tuple[float, ...]

QUANTILES = (0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995)
TAILS = (0.01, 0.05, 0.2)
# Beyond so many standard deviations quantiles count by their ratio, since vessels and fat are as bright as they please;
# noise in the dark, which depends on coil and reconstruction, counts so much.
FAR_OUT = 2.5
WEIGHT_OF_DARK = 0.6
# Added to roughness and to ranges, so that a flat axis or a smooth scan has finite numbers.
LEAST_ROUGHNESS = 1e-3
LEAST_RANGE = 1e-6
# Blocks along each axis whose mean intensities are the layout.
BLOCKS = 4
# So many voxels are looked at, evenly spaced along the axes along which no neighbours are compared.
MOST_VOXELS = 2**18

# Two scans look alike if no number of their textures differs by more, and their layouts agree by so much, or by as much
# as those of the known scans do: cells lie anywhere. Smoothed noise has the texture of some organs, but the layout of
# none, that of other noise included.
MOST_DIFFERENCE = 0.6
MOST_AGREEMENT = 0.35
# Fewer scans with masks do not tell how much scans differ.
FEWEST_KNOWN = 3
# So many scans are compared with all others at a time.
AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Appearance:
    """How one channel of a scan looks, whatever its scale of intensities.

    Attributes:
        texture: Quantiles of the standardised intensities, those beyond 2.5 in logarithms (11), logarithms of the
            mean absolute difference of neighbours along each axis (3), asymmetry of second differences along the first
            two axes (6), and logarithms of the differences among dark (times 0.6), middle and bright voxels relative to
            the mean (3).
        layout: Mean standardised intensities of 4 x 4 x 4 blocks, from left to right, back to front, bottom to top.
    """

    texture: tuple[float, ...]
    layout: tuple[float, ...]


def describe(channel: NDArray[Any], affine: NDArray[np.float64]) -> Appearance | None:
    """Describe one channel of a scan.

    Args:
        channel: ``[X, Y, Z]``, finite.
        affine: Voxel indices to mm.

    Returns:
        Its appearance; None for a constant scan, or where the square of an intensity is no finite number.
    """
    voxels = _upright(channel, affine)
    values = _thinned(voxels)
    with np.errstate(over="ignore", invalid="ignore"):
        outside, rounding = find_outside(values)
        present = values[~equals(values, outside, rounding)]
        present = present if present.size else values
        mean = present.mean()
        std = present.std()
    if not 0 < std < np.inf:
        return None
    by_axis = [(_thinned(voxels, axis) - mean) / std for axis in range(3)]
    texture = [
        *_drawn_in((np.quantile(present, QUANTILES) - mean) / std),
        *(np.log(_roughness(by_axis[axis], axis) + LEAST_ROUGHNESS) for axis in range(3)),
        *(2 * tail for axis in range(2) for tail in _asymmetry(by_axis[axis], axis)),
        *_roughness_by_intensity(by_axis[0], (np.quantile(present, (1 / 3, 2 / 3)) - mean) / std),
    ]
    return Appearance(_short(texture), _short(_block_means((values - mean) / std).ravel()))


def _upright(channel: NDArray[Any], affine: NDArray[np.float64]) -> NDArray[Any]:
    """Turn a scan to the nearest axes of the body, right, anterior and superior, without copying it."""
    axes = nearest_axes(affine)
    order = [axis for axis, _ in axes]
    turned = channel[tuple(slice(None, None, sign) for _, sign in axes)]
    return turned.transpose([order.index(axis) for axis in range(3)])


def _thinned(voxels: NDArray[Any], whole: int | None = None) -> NDArray[np.float64]:
    """Return evenly spaced voxels, every one along the axis ``whole``; of all other axes at least one place."""
    steps = [1, 1, 1]
    free = [axis for axis in range(3) if axis != whole]
    while math.prod(-(-n // step) for n, step in zip(voxels.shape, steps, strict=True)) > MOST_VOXELS:
        longest = max(free, key=lambda axis: voxels.shape[axis] / steps[axis])
        if steps[longest] >= voxels.shape[longest]:
            break
        steps[longest] += 1
    return voxels[tuple(slice(None, None, step) for step in steps)].astype(np.float64)


def _drawn_in(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return values of which those beyond ``FAR_OUT`` grow as their logarithm, with the same slope there."""
    ratio = np.maximum(np.abs(values) / FAR_OUT, 1)
    drawn_in: NDArray[np.float64] = np.clip(values, -FAR_OUT, FAR_OUT) + np.sign(values) * FAR_OUT * np.log(ratio)
    return drawn_in


def _roughness(values: NDArray[np.float64], axis: int) -> float:
    differences = np.abs(np.diff(values, axis=axis))
    return float(differences.mean()) if differences.size else 0.0


def _asymmetry(values: NDArray[np.float64], axis: int) -> list[float]:
    """Tell whether thin structures are brighter or darker than what surrounds them: 1 or -1, 0 for noise."""
    curvature = np.diff(values, 2, axis=axis)
    if not curvature.size:
        return [0.0] * len(TAILS)
    low = np.quantile(curvature, TAILS)
    high = np.quantile(curvature, [1 - tail for tail in TAILS])
    asymmetry: list[float] = ((low + high) / (high - low + LEAST_RANGE)).tolist()
    return asymmetry


def _roughness_by_intensity(values: NDArray[np.float64], thirds: NDArray[np.float64]) -> list[float]:
    differences = np.abs(np.diff(values, axis=0))
    if not differences.size:
        return [0.0] * 3
    third = np.searchsorted(thirds, values[:-1])
    means = [differences[third == n].mean() if (third == n).any() else 0.0 for n in range(3)]
    dark, middle, bright = np.log((np.array(means) + LEAST_ROUGHNESS) / (differences.mean() + LEAST_ROUGHNESS)).tolist()
    return [WEIGHT_OF_DARK * dark, middle, bright]


def _block_means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the means of blocks, which share voxels where an axis has fewer voxels than blocks."""
    for axis in range(3):
        edges = np.linspace(0, values.shape[axis], BLOCKS + 1)
        first = np.floor(edges[:-1]).astype(int)
        last = np.ceil(edges[1:]).astype(int)
        parts = [values.take(range(a, b), axis).mean(axis) for a, b in zip(first, last, strict=True)]
        values = np.stack(parts, axis)
    return values


def _short(numbers: Sequence[float] | NDArray[np.float64]) -> Numbers:
    return tuple(round(float(number), 4) for number in numbers)


def unlike(known: Sequence[Sequence[Appearance]], others: Sequence[Sequence[Appearance]]) -> list[bool]:
    """Tell which scans look neither like a known scan, nor like another one that does, and so on.

    So a cohort that varies more than the few scans with masks is kept whole, as long as it has no gap.

    Args:
        known: The scans to compare with, each with the appearance of all its channels.
        others: The scans to judge; one without any appearance, such as a constant one, looks like none.

    Returns:
        One answer for each of the others.
    """
    scans = [*known, *others]
    described = [place for place, scan in enumerate(scans) if scan]
    if not described:
        return [True] * len(others)
    textures = np.array([[number for channel in scans[place] for number in channel.texture] for place in described])
    layouts = np.array([_direction(scans[place]) for place in described])
    reached = np.array(described) < len(known)
    agreement = _usual_agreement(layouts[reached])
    queue = np.flatnonzero(reached).tolist()
    while queue:
        some = queue[:AT_ONCE]
        del queue[:AT_ONCE]
        left = np.flatnonzero(~reached)
        close = cdist(textures[left], textures[some], "chebyshev") <= MOST_DIFFERENCE
        close &= layouts[left] @ layouts[some].T >= agreement
        found = left[close.any(axis=1)]
        reached[found] = True
        queue += found.tolist()
    alike = {place for place, found in zip(described, reached, strict=True) if found}
    return [place not in alike for place in range(len(known), len(scans))]


def _usual_agreement(layouts: NDArray[np.float64]) -> float:
    """Return the agreement that each of these layouts reaches with another one of them, from 0 to 0.35; 0 for one."""
    least = MOST_AGREEMENT
    for first in range(0, len(layouts), AT_ONCE):
        among = layouts[first : first + AT_ONCE] @ layouts.T
        among[np.arange(len(among)), first + np.arange(len(among))] = 0  # With itself
        least = min(least, float(among.max(axis=1).min()))
    return max(0.0, least)


def _direction(channels: Sequence[Appearance]) -> NDArray[np.float64]:
    """Return numbers of which the product with those of another scan is the mean correlation of their layouts."""
    layouts = np.array([channel.layout for channel in channels])
    layouts -= layouts.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(layouts, axis=1, keepdims=True)
    layouts /= np.where(lengths > 0, lengths, 1) * np.sqrt(len(channels))
    flat: NDArray[np.float64] = layouts.ravel()
    return flat
