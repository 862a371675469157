"""Calibration of a network's probabilities, and the Dice that they predict for a scan without a mask.

Voxels are added in parts, so that the probabilities of a whole scan need not be in memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from scipy.optimize import isotonic_regression

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pipeline.metrics.overlap import Labels

    Numbers: TypeAlias = NDArray[np.float64]

BINS = 15
# Background voxels with at least this probability of background are left out of the calibration: they are so many, and
# so easy, that with them every network is well calibrated.
EASY = 0.99
# From fewer cases than this, no curve from expected to true Dice is fitted.
FEWEST = 10


@dataclass
class Reliability:
    """How often the network is right at each level of confidence, over all voxels that were added.

    A voxel's confidence is the probability of the label that it was given. Voxels are sorted by it into 15 bins of
    equal width; the expected calibration error is ``sum_b n_b / n |accuracy_b - confidence_b|`` (Guo et al. 2017,
    arXiv 1706.04599). Ignored voxels are left out, and so are voxels that are background in the truth and have a
    probability of background of 0.99 or more.

    Attributes:
        voxels: Number of voxels in each bin.
        confidence: Sum of the confidence of the voxels in each bin.
        correct: Number of voxels in each bin whose label is the true one.
    """

    voxels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    confidence: Numbers = field(default_factory=lambda: np.zeros(BINS))
    correct: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def add(self, confidence: Numbers, correct: NDArray[np.bool_]) -> None:
        """Add voxels by their confidence and by whether their label is the true one."""
        bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
        self.voxels += np.bincount(bins, minlength=BINS)
        self.confidence += np.bincount(bins, weights=confidence, minlength=BINS)
        self.correct += np.bincount(bins[correct], minlength=BINS)

    def merge(self, other: Reliability) -> None:
        """Add the voxels of another one."""
        self.voxels += other.voxels
        self.confidence += other.confidence
        self.correct += other.correct

    @property
    def ece(self) -> float | None:
        """The expected calibration error, in [0, 1]; None without a voxel."""
        total = int(self.voxels.sum())
        if total:
            return float(np.abs(self.correct - self.confidence).sum() / total)
        return None

    def as_dict(self) -> dict[str, Any]:
        """Return the error and the curve, JSON-ready; a bin without a voxel is left out of the curve."""
        curve = [
            {
                "low": n / BINS,
                "high": (n + 1) / BINS,
                "voxels": int(self.voxels[n]),
                "confidence": float(self.confidence[n] / self.voxels[n]),
                "accuracy": float(self.correct[n] / self.voxels[n]),
            }
            for n in np.flatnonzero(self.voxels)
        ]
        reasons = {}
        if not curve:
            reasons = {"ece": "no voxel was in doubt"}
        return {"ece": self.ece, "voxels": int(self.voxels.sum()), "curve": curve, "reasons": reasons}


class Truth:
    """Base of what compares with true labels, ``[X, Y, Z]``, where these are known."""

    truth: Labels | None

    def true_plane(self, axis: int, number: int) -> Labels | None:
        """Return the true labels of plane ``number`` across an axis, flattened; None if they are not known."""
        if self.truth is None:
            return None
        plane: Labels = np.moveaxis(self.truth, axis, 0)[number].reshape(-1)
        return plane


@dataclass(kw_only=True)
class Expectation(Truth):
    """The Dice that a network expects of its mask, from voxels that come in parts.

    It is ``2 sum(p * m) / (sum(p) + sum(m))`` with the probability ``p`` of the label at each voxel and the mask ``m``:
    the Dice of the mask against a truth that is drawn from ``p`` for each voxel, with the expected values of numerator
    and denominator taken separately. It is 0 for a label that is predicted nowhere.

    Attributes:
        label_values: The label of each of the K classes; classes with the same label are added up.
        reliability: Voxels with a true label are added to it; None for none.
        truth: True labels, ``[X, Y, Z]``; None if they are not known.
        ignore: Voxels with this true value are not added to ``reliability``.
        unknown: Labels that are not annotated in the scan: where one of these is predicted and the truth is background,
            nobody knows which is right, and the voxel is not added to ``reliability``.
    """

    label_values: Sequence[int]
    reliability: Reliability | None = None
    truth: Labels | None = None
    ignore: int | None = None
    unknown: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self.values = np.unique(np.array(self.label_values))
        self._places = np.searchsorted(self.values, self.label_values)
        self._soft, self._hard, self._inside = np.zeros((3, len(self.values)))

    def shares(self, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the probability of each label, ``[labels, N]``, from those of the classes, ``[K, N]``."""
        if np.array_equal(self._places, np.arange(len(self.values))):
            return probabilities
        shares = np.zeros((len(self.values), probabilities.shape[1]), np.float32)
        for place, probability in zip(self._places, probabilities, strict=True):
            shares[place] += probability
        return shares

    def codes(self, labels: Labels) -> NDArray[np.intp]:
        """Return the index of each label in the sorted label values."""
        return np.searchsorted(self.values, labels)

    def add(self, shares: NDArray[np.float32], labels: Labels, truth: Labels | None = None) -> None:
        """Add voxels: the probability of each label ``[labels, N]``, the mask ``[N]`` and the truth, if there is one.

        >>> expectation = Expectation(label_values=(0, 1))
        >>> expectation.add(np.array([[0.25, 0.5], [0.75, 0.5]], np.float32), np.array([1, 0]))
        >>> round(expectation.dice()[1], 4)
        0.6667
        """
        self.add_shares(shares)
        confidence = np.take_along_axis(shares, self.codes(labels)[None], axis=0)[0]
        self.add_labels(labels, confidence, shares[0], truth)

    def add_shares(self, shares: NDArray[np.float32]) -> None:
        """Add the probability of each label, ``[labels, N]``, which no mask is needed for."""
        self._soft += shares.sum(axis=1, dtype=np.float64)

    def add_labels(
        self, labels: Labels, confidence: NDArray[np.float32], first: NDArray[np.float32], truth: Labels | None = None
    ) -> None:
        """Add what depends on the mask.

        Args:
            labels: The mask, ``[N]``.
            confidence: The probability of the mask's label at each voxel, ``[N]``.
            first: The probability of the smallest label value at each voxel, ``[N]``.
            truth: The true labels, ``[N]``, if they are known.
        """
        codes = self.codes(labels)
        wide = confidence.astype(np.float64)
        self._hard += np.bincount(codes, minlength=len(self.values))
        self._inside += np.bincount(codes, weights=wide, minlength=len(self.values))
        if self.reliability is not None and truth is not None:
            counted = (truth != 0) | (first < EASY) if self.values[0] == 0 else np.ones(truth.shape, bool)
            if self.ignore is not None:
                counted = counted & (truth != self.ignore)
            if self.unknown:
                counted = counted & ((truth != 0) | ~np.isin(labels, self.unknown))
            self.reliability.add(wide[counted], (truth == labels)[counted])

    def dice(self) -> dict[int, float]:
        """Return the expected Dice of each foreground label, by its value."""
        expected = 2 * self._inside / np.maximum(self._soft + self._hard, np.finfo(np.float64).tiny)
        return {int(value): float(expected[n]) for n, value in enumerate(self.values) if value != 0}


@dataclass(frozen=True)
class DiceCurve:
    """A rising curve from the Dice that a network expects of a class to the true Dice, linear between its points.

    Attributes:
        expected: Expected Dice, rising.
        found: True Dice, fitted by least squares; it never falls.
    """

    expected: Numbers
    found: Numbers

    def __call__(self, expected: float) -> float:
        """Return the predicted Dice for an expected one; that itself for a curve without points."""
        if len(self.expected):
            return float(np.interp(expected, self.expected, self.found))
        return expected


def fit_dice_curve(expected: Sequence[float], found: Sequence[float]) -> DiceCurve:
    """Fit the curve by isotonic regression.

    Args:
        expected: The Dice that the network expected of scans that it was not trained on.
        found: The true Dice of the same scans.

    Returns:
        The curve; with fewer than ten scans one without points, which changes nothing.
    """
    if len(expected) < FEWEST:
        return DiceCurve(np.zeros(0), np.zeros(0))
    order = np.lexsort((found, expected))
    x = np.asarray(expected, np.float64)[order]
    y = np.asarray(found, np.float64)[order]
    fitted = isotonic_regression(y)
    starts = fitted.blocks[:-1]
    sizes = np.diff(fitted.blocks)
    return DiceCurve(np.add.reduceat(x, starts) / sizes, fitted.x[starts])
