"""Slow NumPy oracles in float64, written from the formulas and sharing nothing with the package."""

from __future__ import annotations

import itertools
import math

import numpy as np


def softmax(logits: np.ndarray) -> np.ndarray:
    """Class probabilities along axis 1; one channel is two classes."""
    logits = np.asarray(logits, dtype=np.float64)
    if logits.shape[1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def dice_loss(
    p: np.ndarray, labels: np.ndarray, smooth: float = 1.0, background: bool = True, flat: bool = False
) -> list[float | None]:
    """One value a case; None for a case in which every label is negative. Labels are [B, ...].

    ``flat`` lays the channels of a case end to end and takes one ratio of them, else there is one for each channel.
    """
    values: list[float | None] = []
    for case, truth in zip(p, labels, strict=True):
        known = truth >= 0
        classes = range(0 if background else 1, p.shape[1])
        channels = [(case[k][known], truth[known] == k) for k in classes]
        if flat:
            channels = [tuple(np.concatenate(parts) for parts in zip(*channels, strict=True))]
        terms = [1 - (2 * (soft * hard).sum() + smooth) / (soft.sum() + hard.sum() + smooth) for soft, hard in channels]
        values.append(float(np.mean(terms)) if known.any() else None)
    return values


def balanced_ce(p: np.ndarray, labels: np.ndarray) -> float:
    """The mean over present classes of the mean log-loss inside each. Labels are [B, ...]."""
    means = []
    for k in range(p.shape[1]):
        inside = labels == k
        if inside.any():
            means.append(-np.log(p[:, k][inside]).mean())
    return float(np.mean(means))


def noise_sigma(channel: np.ndarray, mask: np.ndarray) -> float:
    """The automatic intensity sigma of one channel: 2.5 times the noise, at least 1 % of the range."""
    steps = []
    for u in np.argwhere(mask):
        for axis in range(mask.ndim):
            v = u.copy()
            v[axis] += 1
            if v[axis] < mask.shape[axis] and mask[tuple(v)]:
                steps.append(abs(channel[tuple(u)] - channel[tuple(v)]))
    noise = 1.4826 * sorted(steps)[(len(steps) - 1) // 2] / math.sqrt(2) if steps else 0.0
    sigma = max(2.5 * noise, 0.01 * (channel[mask].max() - channel[mask].min()))
    return float(sigma) if sigma > 0 else 1.0


def ncut(p: np.ndarray, image: np.ndarray, mask: np.ndarray, radius: float, sigma_space: float, **options) -> float:
    """Pairwise soft N-cut of one case, not normalised: p [K, ...], image [C, ...], mask [...]."""
    weights = _pair_weights(image, mask, radius, sigma_space, **options)
    cost = float(len(p))
    for k in range(len(p)):
        soft = p[k][mask]
        total = soft @ weights.sum(axis=1)
        cost -= soft @ weights @ soft / total if total > 0 else 0.0
    return float(cost)


def ncut_gradient(p: np.ndarray, image: np.ndarray, mask: np.ndarray, *args: float, **options) -> np.ndarray:
    """Gradient of :func:`ncut` with respect to p: -(2 W p_k - R_k W 1) / D_k inside the mask, 0 outside."""
    weights = _pair_weights(image, mask, *args, **options)
    gradient = np.zeros_like(p)
    for k in range(len(p)):
        soft, degree = p[k][mask], weights.sum(axis=1)
        total = soft @ degree
        gradient[k][mask] = -(2 * weights @ soft - (soft @ weights @ soft / total) * degree) / total
    return gradient


def _pair_weights(image, mask, radius, sigma_space, sigma_intensity=None, spacing=1.0) -> np.ndarray:
    """Weights of all pairs of voxels inside the mask; an automatic intensity sigma for None."""
    voxels = np.argwhere(mask)
    steps = (voxels[:, None] - voxels[None]) * np.asarray(spacing, dtype=float)
    space = (steps**2).sum(axis=-1)
    contrast = np.zeros_like(space)
    for channel in image:
        sigma = noise_sigma(channel, mask) if sigma_intensity is None else sigma_intensity
        values = channel[mask]
        contrast += ((values[:, None] - values[None]) / sigma) ** 2
    return np.exp(-contrast - space / sigma_space**2) * (np.sqrt(space) < radius)


def class_mean_ncut(
    p: np.ndarray,
    image: np.ndarray,
    radius: int,
    sigma_1: float,
    sigma_2: float,
    spatial: bool,
    batch: bool = False,
) -> list[float]:
    """Class-mean N-cut, one value a case (one in all for ``batch``): p [B, K, ...], image [B, C, ...]."""
    sums = np.zeros((len(p), p.shape[1], 2))
    for b, k in np.ndindex(len(p), p.shape[1]):
        soft = p[b, k]
        distance = np.zeros_like(soft)
        for channel in image[b]:
            distance += (channel - (channel * soft).mean() / (soft.mean() + 1e-5)) ** 2
        weights = np.exp(-(distance**2) / sigma_2**2)
        for u in np.ndindex(soft.shape):
            for v, kernel in _window(u, soft.shape, radius, sigma_1) if spatial else [(u, 1.0)]:
                sums[b, k] += soft[u] * kernel * weights[v] * np.array([soft[v], 1.0])
    if batch:
        sums = sums.sum(axis=0, keepdims=True)
    return [float(p.shape[1] - np.abs(case[:, 0] / (case[:, 1] + 1e-6)).sum()) for case in sums]


def _window(u: tuple[int, ...], shape: tuple[int, ...], radius: int, sigma: float):
    for offset in itertools.product(range(-radius, radius + 1), repeat=len(u)):
        v = tuple(a + d for a, d in zip(u, offset, strict=True))
        if all(0 <= a < n for a, n in zip(v, shape, strict=True)):
            yield v, math.exp(-sum(d * d for d in offset) / (2 * sigma**2))
