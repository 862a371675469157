"""Take a trained network out of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pipeline import __version__, config
from pipeline.checkpoints import newest_checkpoint
from pipeline.data.check import voxel_size_problem
from pipeline.engines.devices import find_hardware
from pipeline.engines.postprocessing import POSTPROCESSING as STEPS
from pipeline.errors import Problem, UserError
from pipeline.metrics.registered import METRICS
from pipeline.networks import NETWORKS
from pipeline.planning.plan import choose_precision
from pipeline.plugins import load_plugins
from pipeline.prediction.predictor import Ensemble, Predictor
from pipeline.runs import build
from pipeline.runs.folder import RunFolder, count_folds
from pipeline.runs.judging import refuse_declared, refuse_patch, settled
from pipeline.runs.stored import FOLDS, INDEX, POSTPROCESSING, read_about, read_index, read_own, read_recipe_of
from pipeline.terminal import note
from pipeline.types import Task

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from torch import Tensor

    from pipeline.checkpoints import Checkpoint, Which
    from pipeline.data.inspection import CaseFacts
    from pipeline.decisions import Decisions
    from pipeline.engines.postprocessing import LabelStep
    from pipeline.metrics.registered import CaseMetric
    from pipeline.planning.settings import Settings
    from pipeline.recipe import Recipe
    from pipeline.registry import Registry


@dataclass(frozen=True)
class TrainedModel:
    """What a checkpoint holds, ready to predict."""

    recipe: Settings
    task: Task
    predictor: Predictor | Ensemble
    step: int


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
        predictors = tuple(cast("Predictor", model.predictor) for model in models)  # A fold is no cross-validation.
        steps = (*predictors[0].postprocessing, *_chosen_steps(run, models[0].task))
        ensemble = Ensemble(predictors, steps)
        return replace(models[0], predictor=ensemble, step=min(model.step for model in models))
    load_plugins(plugins)
    checkpoint = newest_checkpoint(run, which)
    for problem in checkpoint.damaged:
        note(f"{problem}\nUsing {checkpoint.path.name} instead.")
    return _build_model(run, checkpoint, device)


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


def _chosen_steps(run: Path, task: Task) -> tuple[LabelStep, ...]:
    """Read which post-processing a cross-validation has chosen.

    Raises:
        UserError: The file is damaged, or speaks of a label that the run does not know.
    """
    if not (run / POSTPROCESSING).exists():
        note(f"{run} is not finished, so no post-processing was chosen; train goes on with --resume")
        return ()
    rows = read_own(run, POSTPROCESSING)["steps"]
    steps: tuple[LabelStep, ...] = tuple(STEPS.build(row["step"], row["options"]) for row in rows)
    if unknown := [step.label for step in steps if step.label not in task.labels]:
        message = f"changes the label {unknown[0]}, which the run does not know"
        remedy = "bring the file back"
        problem = Problem(str(run / POSTPROCESSING), "damaged-run", message, remedy)
        raise UserError("The run's folder is not whole.", [problem])
    return steps


def load_metrics(run: Path, settings: Settings) -> dict[str, CaseMetric]:
    """Build the further columns of a run's scores, from its plugins where they are not ours.

    Raises:
        UserError: No loaded file registers one, or it refuses its options.
    """
    _ready(run, METRICS, [choice.metric for choice in settings.metrics])
    messages = [text for choice in settings.metrics for _, text in METRICS.problems(choice.metric, choice.options)]
    if messages:
        problem = Problem(str(run), "bad-component", messages[0], "use a checkpoint that Fewmask wrote")
        raise UserError("The cases cannot be scored.", [problem])
    return build.build_metrics(settings)


def _ready(run: Path, registry: Registry, names: Sequence[str]) -> None:
    """Load the plugins of a run where a component has to come from one.

    Raises:
        UserError: A plugin may not be loaded, or none of them registers the component.
    """
    if all(name in registry for name in names):
        return
    RunFolder(run).load_plugins()
    if unknown := [name for name in names if name not in registry]:
        message = f"needs the {registry.name} {unknown[0]!r}, which no loaded file registers"
        problem = Problem(str(run), f"unknown-{registry.name}", message, "name its file: --plugin FILE")
        raise UserError("The model cannot be built.", [problem])


def _build_model(run: Path, checkpoint: Checkpoint, device: str) -> TrainedModel:
    about = read_about(checkpoint)
    recipe = read_recipe_of(checkpoint)
    _ready(run, NETWORKS, [recipe.network.name])
    _ready(run, STEPS, [choice.step for choice in recipe.postprocessing])
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
    refuse_patch(checkpoint.path, network, settings, task)
    return TrainedModel(settings, task, build.build_predictor(settings, task, network), about.step)


def facts_of(run: Path, cases: Iterable[str] = ()) -> dict[str, CaseFacts]:
    """Read what a run's ``index.json`` holds of each case, by which its files are known again.

    Args:
        run: The run's folder.
        cases: Ids of cases that have to be in it.

    Raises:
        UserError: It is gone, damaged or of another version, or a case is missing.
    """
    facts = read_index(run)
    missing = sorted(set(cases) - facts.keys())
    if missing:
        message = f"says nothing of {len(missing)} case(s), such as {missing[0]}"
        problem = Problem(str(run / INDEX), "damaged-run", message, "bring the file back, or train anew")
        raise UserError("The run's folder is not whole.", [problem])
    return facts


def portable(recipe: Recipe) -> Recipe:
    """Return a recipe as a checkpoint holds it: without places on this machine, since checkpoints are passed on."""
    data = recipe.data.model_copy(update={"cache": "run"})
    return recipe.model_copy(update={"dataset": Path(), "root": None, "plugins": (), "data": data})


def about_training(recipe: Recipe, decided: Decisions, task: Task) -> dict[str, Any]:
    """Return what a checkpoint tells of its training, beside how far that was."""
    told = config.dump(portable(recipe), decided=decided)
    return {"recipe": told, "task": task_state(task), "version": __version__}


def task_state(task: Task) -> dict[str, Any]:
    """Return a task as a checkpoint holds it."""
    return {"labels": dict(task.labels), "channels": list(task.channels)}


def _channel_problem(where: str, count: int, task: Task) -> Problem:
    """Say that a scan has ``count`` channels and the model another number."""
    message = f"has {count} channel(s), the model was trained on {len(task.channels)}: {', '.join(task.channels)}"
    return Problem(where, "channel-count", message, "give scans with the channels of the training")


def misfits(where: str, facts: CaseFacts, model: TrainedModel) -> list[Problem]:
    """Find what is wrong with a sound scan for this model: channels, slices for volumes, voxels of another unit."""
    spacing = build.build_grid(model.recipe).spacing_mm
    problems = []
    if facts.channels != len(model.task.channels):
        problems.append(_channel_problem(where, facts.channels, model.task))
    if facts.flat and model.recipe.data.dimensions == 3:
        message = "is a 2-D image, and the model was trained on volumes"
        remedy = "give volumes"
        problems.append(Problem(where, "mixed-dimensions", message, remedy))
    resampled = [length for length in spacing if length > 0]  # A model of slices keeps their own distance.
    ratio = math.prod(sorted(facts.spacing_mm)[-len(resampled) :]) / math.prod(resampled)
    if about := voxel_size_problem(facts, ratio, "the voxel that the model was trained on"):
        problems.append(Problem(where, *about))
    return problems
