"""Random changes of training samples, registered by name, and the chain of them that batches go through."""

from pipeline.data.augmentation.base import (
    AUGMENTATIONS,
    Augmentation,
    AugmentationChain,
    IntensityAugmentation,
    Patch,
    SpatialAugmentation,
)
from pipeline.data.augmentation.standard import standard

__all__ = [
    "AUGMENTATIONS",
    "Augmentation",
    "AugmentationChain",
    "IntensityAugmentation",
    "Patch",
    "SpatialAugmentation",
    "standard",
]
