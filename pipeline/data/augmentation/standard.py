"""The augmentations of every recipe, in the order in which they are drawn; another order would change every sample."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.data.augmentation.intensity import Blur, Brightness, Contrast, Gamma, LowResolution, Noise
from pipeline.data.augmentation.spatial import Deform, Flip

if TYPE_CHECKING:
    from pipeline.data.augmentation.base import Augmentation


def standard(
    *,
    flip_axes: tuple[int, ...] = (),
    rotation_degrees: float = 0.0,
    scaling: float = 0.0,
    elastic_mm: float = 0.0,
    noise: float = 0.0,
    blur: float = 0.0,
    brightness: float = 0.0,
    contrast: float = 0.0,
    low_resolution: float = 0.0,
    gamma: float = 0.0,
) -> tuple[Augmentation, ...]:
    """Return the registered augmentations with the strengths that a recipe gives under ``augmentation``; 0 is none."""
    return (
        Flip(flip_axes),
        Deform(rotation_degrees, scaling, elastic_mm),
        Blur(blur),
        Noise(noise),
        Brightness(brightness),
        Contrast(contrast),
        LowResolution(low_resolution),
        Gamma(gamma),
    )
