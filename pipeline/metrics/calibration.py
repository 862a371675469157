"""Whether a network's probabilities can be trusted, and what they say about a scan that has no mask.

Everything here goes over the logits of a scan a piece at a time, so that no second copy of them is made.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from scipy.optimize import isotonic_regression

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from pipeline.metrics.overlap import Labels

    Numbers: TypeAlias = NDArray[np.float64]

BINS = 15
# Voxels that are background and have at least this probability of it are left out: there are so many of them, and they
# are so easy, that with them every network is well calibrated.
EASY = 0.99
CHUNK = 1 << 18
# Cases with fewer results than this say too little about how predicted and true Dice go together.
FEWEST = 10


@dataclass
class Reliability:
    """How often the network is right where it is how sure, over all voxels that were added.

    A voxel's confidence is the probability of the label that it was given. Voxels are sorted by it into 15 bins of
    equal width; the expected calibration error is ``sum_b n_b / n |accuracy_b - confidence_b|`` (Guo et al. 2017,
    arXiv 1706.04599). Ignored voxels count nowhere, and neither do voxels that are background in the truth and have a
    probability of background of 0.99 or more.
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

    @property
    def ece(self) -> float | None:
        """The expected calibration error, in [0, 1]; None without a voxel."""
        total = int(self.voxels.sum())
        return float(np.abs(self.correct - self.confidence).sum() / total) if total else None

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
        reasons = {} if curve else {"ece": "no voxel was in doubt"}
        return {"ece": self.ece, "voxels": int(self.voxels.sum()), "curve": curve, "reasons": reasons}


def expected_dice(
    labels: Labels,
    logits: NDArray[np.float32],
    label_values: Sequence[int],
    reliability: Reliability | None = None,
    truth: Labels | None = None,
    ignore: int | None = None,
) -> dict[int, float]:
    """Return the Dice of each foreground label that the network's own probabilities expect of its mask.

    ``2 sum(p * m) / (sum(p) + sum(m))`` with the probability ``p`` of the label at each voxel and the mask ``m``: the
    Dice of the mask against a truth that is drawn voxel by voxel from ``p``, with numerator and denominator averaged
    apart. 0 for a label that is predicted nowhere.

    Args:
        labels: The mask, ``[X, Y, Z]``.
        logits: ``[K, X, Y, Z]``.
        label_values: The label of each of the K classes; classes with one label count as one.
        reliability: Adds the scan's voxels to it, where there is a truth.
        truth: True labels, ``[X, Y, Z]``.
        ignore: Voxels with this true value are not added.

    >>> logits = np.log(np.array([[0.25, 0.5], [0.75, 0.5]], np.float32)).reshape(2, 2, 1, 1)
    >>> round(expected_dice(np.array([[[1]], [[0]]]), logits, (0, 1))[1], 4)
    0.6667
    """
    values = np.unique(np.array(label_values))
    soft, hard, inside = np.zeros((3, len(values)))
    flat_labels, flat_truth = labels.reshape(-1), None if truth is None else truth.reshape(-1)
    for part, shares in _shares(logits, np.searchsorted(values, label_values)):
        codes = np.searchsorted(values, flat_labels[part])
        confidence = np.take_along_axis(shares, codes[None], axis=0)[0].astype(np.float64)
        soft += shares.sum(axis=1, dtype=np.float64)
        hard += np.bincount(codes, minlength=len(values))
        inside += np.bincount(codes, weights=confidence, minlength=len(values))
        if reliability is not None and flat_truth is not None:
            true = flat_truth[part]
            counted = (true != 0) | (shares[0] < EASY) if values[0] == 0 else np.ones(true.shape, bool)
            counted = counted if ignore is None else counted & (true != ignore)
            reliability.add(confidence[counted], (true == flat_labels[part])[counted])
    expected = 2 * inside / (soft + hard)
    return {int(value): float(expected[n]) for n, value in enumerate(values) if value != 0}


def _shares(logits: NDArray[np.float32], places: NDArray[np.intp]) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Yield the probability of each label, ``[labels, voxels]``, a piece of the scan at a time."""
    flat = logits.reshape(len(logits), -1)
    for start in range(0, flat.shape[1], CHUNK):
        part = slice(start, start + CHUNK)
        powers = np.exp(flat[:, part] - flat[:, part].max(axis=0))
        powers /= powers.sum(axis=0)
        shares = np.zeros((int(places.max()) + 1, powers.shape[1]), np.float32)
        for place, power in zip(places, powers, strict=True):
            shares[place] += power
        yield part, shares


@dataclass(frozen=True)
class DiceCurve:
    """What Dice a class had where the network expected how much: rising, by least squares, straight between its points.

    Attributes:
        expected: The Dice that the network expected, rising.
        found: The Dice that there was; it never falls.
    """

    expected: Numbers
    found: Numbers

    def __call__(self, expected: float) -> float:
        """Return the Dice to be predicted where the network expects so much."""
        return float(np.interp(expected, self.expected, self.found)) if len(self.expected) else expected


def fit_dice_curve(expected: Sequence[float], found: Sequence[float]) -> DiceCurve:
    """Fit the curve by isotonic regression.

    Args:
        expected: The Dice that the network expected of scans with a mask that it was not trained on.
        found: Their Dice.

    Returns:
        The curve; with fewer than ten scans one that changes nothing.
    """
    if len(expected) < FEWEST:
        return DiceCurve(np.zeros(0), np.zeros(0))
    order = np.lexsort((found, expected))
    x, y = np.asarray(expected, np.float64)[order], np.asarray(found, np.float64)[order]
    fitted = isotonic_regression(y)
    starts = fitted.blocks[:-1]
    sizes = np.diff(fitted.blocks)
    return DiceCurve(np.add.reduceat(x, starts) / sizes, fitted.x[starts])
