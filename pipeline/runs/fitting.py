"""Check whether sound scans fit a model: channels, dimensions, the size of voxels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pipeline.data.check import voxel_size_problem
from pipeline.errors import Problem, UserError
from pipeline.runs.batches import build_grid

if TYPE_CHECKING:
    from pipeline.data.index import Index
    from pipeline.data.inspection import CaseFacts
    from pipeline.runs.models import TrainedModel
    from pipeline.types import Task


def _channel_problem(where: str, count: int, task: Task) -> Problem:
    """Return the problem of a scan with ``count`` channels, which the model does not have."""
    message = f"has {count} channel(s), the model was trained on {len(task.channels)}: {', '.join(task.channels)}"
    remedy = (
        "give scans with the channels of the training: where each is a file, as NAME_0000.nii.gz, name their folder, "
    )
    remedy += "and --only NAME; of an array they are the last axis"
    return Problem(where, "channel-count", message, remedy)


def misfits(where: str, facts: CaseFacts, model: TrainedModel) -> list[Problem]:
    """Find why a sound scan does not fit a model: its channels, a slice instead of a volume, or its voxel size.

    Args:
        where: What to call the scan in messages.
        facts: What the check found of it.
        model: The model.
    """
    spacing = build_grid(model.settings).spacing_mm
    problems = []
    if facts.channels != len(model.task.channels):
        problems.append(_channel_problem(where, facts.channels, model.task))
    if facts.flat and model.settings.data.dimensions == 3:
        message = "is a 2-D image, and the model was trained on volumes"
        remedy = "give volumes"
        problems.append(Problem(where, "mixed-dimensions", message, remedy))
    resampled = [length for length in spacing if length > 0]  # A model of slices keeps their own distance.
    ratio = math.prod(sorted(facts.spacing_mm)[-len(resampled) :]) / math.prod(resampled)
    if about := voxel_size_problem(facts, ratio, "the voxel that the model was trained on"):
        problems.append(Problem(where, *about))
    return problems


def refuse_misfits(index: Index, model: TrainedModel) -> None:
    """Refuse a dataset with scans that do not fit a model."""
    problems = [problem for facts in index.facts.values() for problem in misfits(facts.case, facts, model)]
    if problems:
        raise UserError("The scans do not fit the model.", problems)
