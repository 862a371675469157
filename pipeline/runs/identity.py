"""Short hashes by which a scan and a model are known again: the same ones make the same mask."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch

from pipeline.prediction.postprocessing import LabelStep
from pipeline.prediction.predictor import Ensemble

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.data.inspection import CaseFacts
    from pipeline.runs.models import TrainedModel


def scan_digest(facts: CaseFacts) -> str:
    """Return a hash of a scan's values and grid, whatever the type and packing that they are stored in."""
    told = (facts.content[: facts.channels], facts.affine, facts.shape, facts.flat)
    return hashlib.sha256(repr(told).encode()).hexdigest()


def model_digest(model: TrainedModel) -> str:
    """Return a hash of all that makes one model's masks others than another's: weights, grid, windows, post-processing.

    Mirror images, the device and its arithmetic do not count, and neither does the file that the model comes from.
    """
    predictor = model.predictor
    members = predictor.predictors if isinstance(predictor, Ensemble) else (predictor,)
    steps = [step for step in predictor.postprocessing if isinstance(step, LabelStep)]
    found = hashlib.sha256(repr(([each.model_dump() for each in model.settings.postprocessing], steps)).encode())
    for each in members:
        found.update(repr((each.grid, each.patch_size, each.label_values, each.overlap, each.ranges)).encode())
        if each.regions:
            found.update(repr(each.regions).encode())
        for name, weights in each.network.state_dict().items():
            found.update(f" {name} {weights.dtype} {tuple(weights.shape)} ".encode())
            found.update(_bytes_of(weights))
    if isinstance(predictor, Ensemble) and predictor.atlases is not None:
        found.update(f" atlases {predictor.atlas_weight} ".encode())
        found.update(_bytes_of(predictor.atlases.votes))
    return found.hexdigest()


def _bytes_of(values: Tensor) -> memoryview:
    return values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
