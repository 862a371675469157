"""From settings to what predicts and scores: the predictor, its post-processing, and further metrics."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import torch

from pipeline.errors import Problem, UserError
from pipeline.metrics.registered import METRICS, try_metrics
from pipeline.prediction.postprocessing import POSTPROCESSING, LabelStep
from pipeline.prediction.predictor import Predictor
from pipeline.runs.atlases import read_atlases
from pipeline.runs.batches import build_grid, build_ranges
from pipeline.runs.objectives import numbered
from pipeline.terminal import note

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.metrics.registered import CaseMetric
    from pipeline.planning.settings import Settings
    from pipeline.prediction.postprocessing import PostprocessingStep
    from pipeline.prediction.predictor import Ensemble
    from pipeline.types import Task


def build_metrics(settings: Settings) -> dict[str, CaseMetric]:
    """Build the further columns of the scores by their names; one that stands twice gets a number behind its name.

    Raises:
        UserError: One of them measures no number.
    """
    metrics = {}
    seen: Counter[str] = Counter()
    for choice in settings.metrics:
        metrics[numbered(choice.metric, seen)] = METRICS.build(choice.metric, choice.options)
    try_metrics(metrics)
    return metrics


def build_postprocessing(settings: Settings, task: Task) -> tuple[PostprocessingStep, ...]:
    """Build the changes to predicted label maps.

    Raises:
        UserError: One is of a label that the task does not know.
    """
    steps = tuple(POSTPROCESSING.build(choice.step, choice.options) for choice in settings.postprocessing)
    known = ", ".join(f"{value} ({name})" for value, name in task.labels.items() if value != 0)
    problems = [
        Problem(f"postprocessing.{n}.options.label", "no-such-label", f"is {step.label}", f"give one of {known}")
        for n, step in enumerate(steps)
        if isinstance(step, LabelStep) and step.label not in task.labels
    ]
    if problems:
        raise UserError("The recipe does not fit the dataset.", problems)
    return steps


def build_predictor(settings: Settings, task: Task, network: torch.nn.Module) -> Predictor:
    """Build what turns a scan's files into a label map."""
    return Predictor(
        network=network,
        grid=build_grid(settings),
        patch_size=settings.data.patch_size,
        label_values=tuple(task.labels),
        precision=precision_of(settings),
        ranges=build_ranges(settings),
        mirrors=settings.augmentation.flip_axes if settings.predict_mirrored else (),
        postprocessing=build_postprocessing(settings, task),
        regions=task.regions,
        tell=note,
    )


def predictor_of_run(
    run: Path, settings: Settings, task: Task, network: torch.nn.Module
) -> tuple[Predictor | Ensemble, tuple[str, ...]]:
    """Return what predicts with a run's network, and what a reader of its figures has to know.

    Args:
        run: Its folder, where its atlases are; or a file, which has none.
        settings: Of the run.
        task: What it was trained on.
        network: With its weights.

    Raises:
        UserError: The run's atlases are gone or damaged.
    """
    predictor = build_predictor(settings, task, network)
    if settings.atlases.weight == 0:
        return predictor, ()
    if run.is_file():
        return predictor, ("The atlases of its run are not in the file: the network predicts alone.",)
    vote = read_atlases(run, settings, task)
    return vote.beside(predictor), (vote.note,)


def precision_of(settings: Settings) -> torch.dtype:
    """Return the type of the network's arithmetic."""
    return getattr(torch, settings.precision)  # type: ignore[no-any-return]
