"""Augmentations of intensities, as nnU-Net has them: blur, noise, brightness, contrast, resolution and gamma."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import interpolate

from pipeline.bounds import BlurSigma, Coarseness, NoiseSigma, RelativeChange, Share
from pipeline.data.augmentation.base import AUGMENTATIONS, IntensityAugmentation

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.data.augmentation.base import Patch

# Shares of the samples that each change is made to, where an option says nothing else.
BLURRED = 0.2
NOISY = 0.2
BRIGHTENED = 0.3
CONTRASTED = 0.2
COARSENED = 0.2
CURVED = 0.3
# Gaussians are cut off beyond so many sigmas.
REACH_SIGMAS = 3


@AUGMENTATIONS.register("blur")
class Blur(IntensityAugmentation):
    """Blurs a share of the samples.

    Args:
        sigma: The largest sigma of the Gaussian in voxels; half of it is the smallest.
        share: The share of the samples.
    """

    def __init__(self, sigma: BlurSigma, share: Share = BLURRED) -> None:
        self.sigma = sigma
        self.share = share

    def draw(self, rng: np.random.Generator, _: Patch) -> float | None:
        """Draw a sigma."""
        if rng.random() < self.share:
            return self.sigma * rng.uniform(0.5, 1) or None
        return None

    def apply(self, image: Tensor, drawn: float) -> None:
        """Average with the weights of a Gaussian along each axis; beyond the edges the nearest voxel goes on."""
        radius = max(1, round(REACH_SIGMAS * drawn))
        weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / drawn) ** 2)
        for axis in range(1, image.ndim):
            last = image.shape[axis] - 1
            before = image.clone()
            image.zero_()
            for offset, weight in zip(range(-radius, radius + 1), (weights / weights.sum()).tolist(), strict=True):
                places = torch.arange(offset, offset + last + 1, device=image.device).clamp_(0, last)
                image.add_(before.index_select(axis, places), alpha=weight)


@AUGMENTATIONS.register("noise")
class Noise(IntensityAugmentation):
    """Adds Gaussian noise to a share of the samples.

    Args:
        sigma: The largest standard deviation of the noise; that of a normalised scan is 1.
        share: The share of the samples.
    """

    def __init__(self, sigma: NoiseSigma, share: Share = NOISY) -> None:
        self.sigma = sigma
        self.share = share

    def draw(self, rng: np.random.Generator, _: Patch) -> tuple[float, int] | None:
        """Draw a standard deviation and the seed of the noise."""
        sigma = 0.0
        if rng.random() < self.share:
            sigma = self.sigma * rng.random()
        seed = int(rng.integers(2**32))
        if sigma:
            return (sigma, seed)
        return None

    def apply(self, image: Tensor, drawn: tuple[float, int]) -> None:
        """Add the noise."""
        sigma, seed = drawn
        source = torch.Generator(image.device).manual_seed(seed)
        image.add_(torch.randn(image.shape, generator=source, device=image.device), alpha=sigma)


@AUGMENTATIONS.register("brightness")
class Brightness(IntensityAugmentation):
    """Multiplies the intensities of a share of the samples.

    Args:
        change: The largest relative change.
        share: The share of the samples.
    """

    def __init__(self, change: RelativeChange, share: Share = BRIGHTENED) -> None:
        self.change = change
        self.share = share

    def draw(self, rng: np.random.Generator, _: Patch) -> float | None:
        """Draw a factor."""
        return _draw_factor(rng, self.share, self.change)

    def apply(self, image: Tensor, drawn: float) -> None:
        """Multiply."""
        image.mul_(drawn)


@AUGMENTATIONS.register("contrast")
class Contrast(IntensityAugmentation):
    """Moves the intensities of a share of the samples away from their mean, or towards it.

    Args:
        change: The largest relative change of the distance to the mean.
        share: The share of the samples.
    """

    def __init__(self, change: RelativeChange, share: Share = CONTRASTED) -> None:
        self.change = change
        self.share = share

    def draw(self, rng: np.random.Generator, _: Patch) -> float | None:
        """Draw a factor."""
        return _draw_factor(rng, self.share, self.change)

    def apply(self, image: Tensor, drawn: float) -> None:
        """Multiply the distance to the patch's mean."""
        mean = image
        for _ in range(image.ndim):  # Axis by axis: a sum over all would depend on the number of threads.
            mean = mean.mean(-1)
        image.sub_(mean).mul_(drawn).add_(mean)


@AUGMENTATIONS.register("low_resolution")
class LowResolution(IntensityAugmentation):
    """Makes the voxels of a share of the samples larger, and interpolates them back.

    Args:
        coarseness: How much larger the voxels may become, as a relative change: 1 doubles them.
        share: The share of the samples.
    """

    def __init__(self, coarseness: Coarseness, share: Share = COARSENED) -> None:
        self.coarseness = coarseness
        self.share = share

    def draw(self, rng: np.random.Generator, _: Patch) -> float | None:
        """Draw how many times larger voxels become."""
        times = 1.0
        if rng.random() < self.share:
            times = 1 + self.coarseness * rng.random()
        if times > 1:
            return times
        return None

    def apply(self, image: Tensor, drawn: float) -> None:
        """Take the nearest voxels of a coarse grid, and interpolate linearly."""
        coarse = [max(1, round(side / drawn)) for side in image.shape[1:]]
        mode = "trilinear" if image.ndim == 4 else "bilinear"
        image.copy_(interpolate(interpolate(image[None], coarse, mode="nearest-exact"), image.shape[1:], mode=mode)[0])


@AUGMENTATIONS.register("gamma")
class Gamma(IntensityAugmentation):
    """Bends the intensities of a share of the samples within their own range.

    Args:
        change: The largest change of the exponent, from 1.
        share: The share of the samples.
    """

    def __init__(self, change: RelativeChange, share: Share = CURVED) -> None:
        self.change = change
        self.share = share

    def draw(self, rng: np.random.Generator, _: Patch) -> float | None:
        """Draw an exponent."""
        return _draw_factor(rng, self.share, self.change)

    def apply(self, image: Tensor, drawn: float) -> None:
        """Raise to a power; the least and the greatest value stay."""
        low, high = torch.aminmax(image)
        reach = (high - low).clamp_min_(1e-7)
        image.sub_(low).div_(reach).pow_(drawn).mul_(reach).add_(low)


def _draw_factor(rng: np.random.Generator, share: float, reach: float) -> float | None:
    """Draw a factor about 1 for a share of the samples; None for the others, and where it changes nothing."""
    factor = 1.0
    if rng.random() < share:
        factor = 1 + reach * rng.uniform(-1, 1)
    if factor == 1:
        return None
    return factor
