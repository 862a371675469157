"""Losses: MONAI-style modules, registered by name, and the objective that sums them."""

from pipeline.losses.balanced_ce import BalancedCELoss
from pipeline.losses.base import LOSSES, ImageLoss, LabelLoss
from pipeline.losses.class_mean_ncut import ClassMeanNCutLoss
from pipeline.losses.consistency import ConsistencyLoss, EntropyLoss
from pipeline.losses.cross_entropy import CrossEntropyLoss
from pipeline.losses.dice import DiceLoss
from pipeline.losses.focal import FocalLoss
from pipeline.losses.ncut import NCutLoss
from pipeline.losses.overlap import ClDiceLoss, GeneralizedDiceLoss, HausdorffLoss, TverskyLoss
from pipeline.losses.reconstruction import ReconstructionLoss
from pipeline.losses.top_k_ce import TopKCrossEntropyLoss

__all__ = [
    "LOSSES",
    "BalancedCELoss",
    "ClDiceLoss",
    "ClassMeanNCutLoss",
    "ConsistencyLoss",
    "CrossEntropyLoss",
    "DiceLoss",
    "EntropyLoss",
    "FocalLoss",
    "GeneralizedDiceLoss",
    "HausdorffLoss",
    "ImageLoss",
    "LabelLoss",
    "NCutLoss",
    "ReconstructionLoss",
    "TopKCrossEntropyLoss",
    "TverskyLoss",
]
