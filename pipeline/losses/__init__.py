"""Losses: MONAI-style modules, registered by name, and the objective that sums them."""

from pipeline.losses.balanced_ce import BalancedCELoss
from pipeline.losses.base import LOSSES, ImageLoss, LabelLoss
from pipeline.losses.class_mean_ncut import ClassMeanNCutLoss
from pipeline.losses.consistency import ConsistencyLoss, EntropyLoss
from pipeline.losses.cross_entropy import CrossEntropyLoss
from pipeline.losses.dice import DiceLoss
from pipeline.losses.ncut import NCutLoss
from pipeline.losses.reconstruction import ReconstructionLoss

__all__ = [
    "LOSSES",
    "BalancedCELoss",
    "ClassMeanNCutLoss",
    "ConsistencyLoss",
    "CrossEntropyLoss",
    "DiceLoss",
    "EntropyLoss",
    "ImageLoss",
    "LabelLoss",
    "NCutLoss",
    "ReconstructionLoss",
]
