"""Calibration of the probabilities of regions, each of which a voxel may be in, and the Dice that they predict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.metrics.calibration import EASY, Truth

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pipeline.metrics.calibration import Reliability
    from pipeline.metrics.overlap import Labels
    from pipeline.types import Region


@dataclass
class RegionExpectation(Truth):
    """The Dice that a network expects of the mask of each region, from voxels that come in parts.

    It is that of :class:`~pipeline.metrics.calibration.Expectation`, with a region's probability and its mask: the
    voxels whose label is one of its values. Each region's voxels are added to the reliability, with the probability of
    what the mask says of them, inside or outside; those left out as easy are outside in the truth and have a
    probability of that of 0.99 or more.

    Attributes:
        regions: In the order of the probabilities.
        reliability: Voxels with a true label are added to it; None for none.
        truth: True labels, ``[X, Y, Z]``; None if they are not known.
        ignore: Voxels with this true value are not added to ``reliability``.
    """

    regions: Sequence[Region]
    reliability: Reliability | None = None
    truth: Labels | None = None
    ignore: int | None = None

    def __post_init__(self) -> None:
        self._soft, self._hard, self._inside = np.zeros((3, len(self.regions)))

    def shares(self, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the probabilities ``[regions, N]`` as they are: each channel of the network is a region."""
        return probabilities

    def add(self, shares: NDArray[np.float32], labels: Labels, truth: Labels | None = None) -> None:
        """Add voxels: the probability of each region ``[regions, N]``, the label map and the truth, ``[N]``.

        >>> from pipeline.types import Region
        >>> expectation = RegionExpectation([Region(1, (1, 2)), Region(2, (2,))])
        >>> expectation.add(np.array([[0.9, 0.7], [0.2, 0.6]], np.float32), np.array([1, 2]))
        >>> {label: round(dice, 4) for label, dice in expectation.dice().items()}
        {1: 0.8889, 2: 0.6667}
        """
        counted = np.ones(labels.shape, bool)
        if truth is not None and self.ignore is not None:
            counted = truth != self.ignore
        for n, region in enumerate(self.regions):
            inside = shares[n].astype(np.float64)
            mask = np.isin(labels, region.values)
            self._soft[n] += inside.sum()
            self._hard[n] += mask.sum()
            self._inside[n] += inside[mask].sum()
            if self.reliability is not None and truth is not None:
                there = np.isin(truth, region.values)
                hard = counted & (there | (1 - inside < EASY))
                confidence = np.where(mask, inside, 1 - inside)
                self.reliability.add(confidence[hard], (there == mask)[hard])

    def dice(self) -> dict[int, float]:
        """Return the expected Dice of each region, by its label."""
        expected = 2 * self._inside / np.maximum(self._soft + self._hard, np.finfo(np.float64).tiny)
        return {region.label: float(dice) for region, dice in zip(self.regions, expected, strict=True)}
