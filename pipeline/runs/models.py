"""Take a trained network out of a run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from pipeline.checkpoints import newest_checkpoint
from pipeline.errors import Problem, UserError
from pipeline.planning.devices import find_hardware
from pipeline.planning.plan import choose_precision
from pipeline.plugins import load_plugins
from pipeline.prediction.predictor import Ensemble, Predictor
from pipeline.runs import build
from pipeline.runs.atlases import read_atlases
from pipeline.runs.folder import count_folds
from pipeline.runs.judging import refuse_declared, refuse_declared_patch, settled
from pipeline.runs.parts_of_run import chosen_steps, load_parts
from pipeline.runs.predictors import build_predictor
from pipeline.runs.stored import FOLDS, read_about, read_recipe_of
from pipeline.terminal import note
from pipeline.types import Task

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from pipeline.checkpoints import Checkpoint, Which
    from pipeline.engines.postprocessing import PostprocessingStep
    from pipeline.planning.settings import Settings


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """What a checkpoint holds, ready to predict."""

    recipe: Settings
    task: Task
    predictor: Predictor | Ensemble
    step: int
    notes: tuple[str, ...] = ()


def load_model(run: Path, which: Which, plugins: Sequence[Path] = (), device: str = "auto") -> TrainedModel:
    """Build the predictor of a run from one of its checkpoints alone; of a cross-validation, from those of its folds.

    Args:
        run: The run's folder.
        which: ``last`` or ``best``.
        plugins: Files that register the run's network, where it is not one of ours. By default those that the run
            remembers, if they are what they were and this user has named them before: what a checkpoint or a run's
            folder says is never run for that alone.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        UserError: There is no such checkpoint, it is damaged, its network is not known, or the device is not there.
    """
    if (run / FOLDS).exists():
        models = load_folds(run, which, plugins, device)
        ensemble = _together([model.predictor for model in models], chosen_steps(run, models[0].task))
        return replace(models[0], predictor=ensemble, step=min(model.step for model in models))
    load_plugins(plugins)
    checkpoint = newest_checkpoint(run, which)
    for problem in checkpoint.damaged:
        note(f"{problem}\nUsing {checkpoint.path.name} instead.")
    return _build_model(run, checkpoint, device)


def _together(folds: Sequence[Predictor | Ensemble], steps: tuple[PostprocessingStep, ...]) -> Ensemble:
    """Return the mean of all folds' networks; of atlases, those of the first fold vote."""
    networks = tuple(fold if isinstance(fold, Predictor) else fold.predictors[0] for fold in folds)
    whole = Ensemble(networks, (*networks[0].postprocessing, *steps))
    first = folds[0]
    if isinstance(first, Predictor):
        return whole
    return replace(whole, atlases=first.atlases, atlas_weight=first.atlas_weight)


def load_folds(run: Path, which: Which, plugins: Sequence[Path] = (), device: str = "auto") -> list[TrainedModel]:
    """Build the predictor of every fold of a cross-validation; all else as :func:`load_model`.

    Raises:
        UserError: As :func:`load_model`, or the folds were not trained on the same labels and channels.
    """
    folders = [fold_folder(run, fold) for fold in range(1, count_folds(run) + 1)]
    models = [load_model(folder, which, plugins, device) for folder in folders]
    for fold, model in enumerate(models, 1):
        if model.task != models[0].task:
            message = "was trained on other labels or channels than fold-1"
            problem = Problem(str(fold_folder(run, fold)), "task-changed", message, "bring the fold's own folder back")
            raise UserError("The folds do not fit each other.", [problem])
    return models


def fold_folder(run: Path, fold: int) -> Path:
    """Return the folder of a fold, counted from 1, of a cross-validation."""
    return run / f"fold-{fold}"


def _build_model(run: Path, checkpoint: Checkpoint, device: str) -> TrainedModel:
    about = read_about(checkpoint)
    recipe = read_recipe_of(checkpoint)
    load_parts(run, recipe)
    hardware = find_hardware(device)
    # What the training machine was good at, this one may not have; float32 is everywhere.
    native = recipe.precision in hardware.precisions
    precision = recipe.precision if native else choose_precision(hardware)
    settings = settled(checkpoint.path, recipe.model_copy(update={"device": hardware.device, "precision": precision}))
    task = Task(about.task.labels, tuple(about.task.channels))
    weights = checkpoint.state.get("average", checkpoint.state.get("network"))
    refuse_declared(checkpoint.path, settings, task, weights, hardware)
    network = build.build_network(settings, task)
    network.load_state_dict(cast("dict[str, Tensor]", weights))
    refuse_declared_patch(checkpoint.path, network, settings, task)
    predictor = build_predictor(settings, task, network)
    model = TrainedModel(recipe=settings, task=task, predictor=predictor, step=about.step)
    if settings.atlases.weight == 0:
        return model
    jury = read_atlases(run, settings, task)
    return replace(model, predictor=jury.beside(predictor), notes=(jury.note,))
