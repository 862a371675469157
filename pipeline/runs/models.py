"""Load the trained network of a run, ready to predict."""

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
from pipeline.runs.declared import refuse_declared, refuse_declared_patch, settled
from pipeline.runs.folder import count_folds, fold_folder
from pipeline.runs.model_files import read_model_file
from pipeline.runs.parts_of_run import chosen_steps, load_parts
from pipeline.runs.predictors import predictor_of_run
from pipeline.runs.stored import FOLDS, read_about, read_written_of
from pipeline.terminal import note

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from pipeline.checkpoints import Checkpoint
    from pipeline.planning.settings import Settings
    from pipeline.prediction.postprocessing import LabelStep
    from pipeline.types import Task, Which


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A trained network, or several, ready to predict.

    Attributes:
        settings: What it was trained by, with the device and precision of this machine.
        task: Its labels and channels.
        predictor: Turns scans into label maps.
        step: The step of its checkpoint; the least one of several.
        notes: Notes for reports.
        planned: How many steps the training was to have; 0 where several trainings predict together.
    """

    settings: Settings
    task: Task
    predictor: Predictor | Ensemble
    step: int
    notes: tuple[str, ...] = ()
    planned: int = 0

    @property
    def unfinished(self) -> str:
        """That the training is not at its end, in words; "" where it is."""
        return f"trained to step {self.step} of {self.planned}" if self.step < self.planned else ""

    def without_postprocessing(self) -> TrainedModel:
        """Return one whose label maps are the network's own."""
        settings = self.settings.model_copy(update={"postprocessing": ()})
        return replace(self, settings=settings, predictor=replace(self.predictor, postprocessing=()))


def load_model(run: Path, which: Which, plugins: Sequence[Path] = (), device: str = "auto") -> TrainedModel:
    """Build the predictor of a run from one of its checkpoints; of a cross-validation, from those of all folds.

    Args:
        run: The run's folder, a model file, or a checkpoint.
        which: ``last`` or ``best``.
        plugins: Files that register the run's network, if it does not come with Fewmask. By default those that the run
            remembers, if they are unchanged and this user has named them before: code is never run only because a
            checkpoint or a run's folder says so.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        UserError: There is no such checkpoint, it is damaged, its network is unknown, or there is no such device.
    """
    if run.is_file():
        return _load_file(run, which, plugins, device)
    if (run / FOLDS).exists():
        models = load_folds(run, which, plugins, device)
        return _together(models, chosen_steps(run, models[0].task))
    load_plugins(plugins)
    checkpoint = newest_checkpoint(run, which)
    for problem in checkpoint.damaged:
        note(f"{problem}\nUsing {checkpoint.path.name} instead.")
    return _build_model(run, checkpoint, device)


def load_folds(run: Path, which: Which, plugins: Sequence[Path] = (), device: str = "auto") -> list[TrainedModel]:
    """Build the predictor of each fold of a cross-validation; arguments as for :func:`load_model`.

    Raises:
        UserError: As :func:`load_model`, or the folds were not trained on the same labels and channels.
    """
    folders = [fold_folder(run, fold) for fold in range(1, count_folds(run) + 1)]
    models = [load_model(folder, which, plugins, device) for folder in folders]
    _refuse_other_tasks(models, folders, "bring the fold's own folder back")
    return models


def _refuse_other_tasks(models: Sequence[TrainedModel], places: Sequence[Path], remedy: str) -> None:
    for place, model in zip(places, models, strict=True):
        if model.task != models[0].task:
            message = "was trained on other labels or channels than fold-1"
            problem = Problem(str(place), "task-changed", message, remedy)
            raise UserError("The folds do not fit each other.", [problem])


def _together(models: Sequence[TrainedModel], chosen: Sequence[LabelStep]) -> TrainedModel:
    """Return the networks of a cross-validation as one model, with the post-processing that it has chosen."""
    folds = [model.predictor for model in models]
    networks = tuple(fold if isinstance(fold, Predictor) else fold.predictors[0] for fold in folds)
    ensemble = Ensemble(networks, (*networks[0].postprocessing, *chosen))
    if isinstance(folds[0], Ensemble):  # Of atlases, those of the first fold vote.
        ensemble = replace(ensemble, atlases=folds[0].atlases, atlas_weight=folds[0].atlas_weight)
    return replace(models[0], predictor=ensemble, step=min(model.step for model in models), planned=0)


def _load_file(path: Path, which: Which, plugins: Sequence[Path], device: str) -> TrainedModel:
    """Build the predictor of a model file or of a single checkpoint."""
    if which != "last":
        message = f"is {which}, and {path} is one file"
        problem = Problem("--checkpoint", "no-run", message, "leave it out, or name the run's folder")
        raise UserError("The model cannot be built.", [problem])
    load_plugins(plugins)
    held = read_model_file(path)
    models = [_build_model(path, member, device) for member in held.members]
    _refuse_other_tasks(models, [path] * len(models), "use a file that Fewmask wrote")
    if len(models) > 1:
        return _together(models, held.chosen)
    return models[0]


def _build_model(run: Path, checkpoint: Checkpoint, device: str) -> TrainedModel:
    about = read_about(checkpoint)
    recipe, decided = read_written_of(checkpoint)
    hardware = find_hardware(device, timed=False)
    # This machine may not have the precision of the training; then one is chosen anew.
    native = recipe.precision in hardware.precisions
    precision = recipe.precision if native else choose_precision(find_hardware(device))
    settings = settled(checkpoint.path, recipe.model_copy(update={"device": hardware.device, "precision": precision}))
    load_parts(run, settings)
    task = about.task.as_task()
    weights = checkpoint.state.get("average", checkpoint.state.get("network"))
    refuse_declared(checkpoint.path, settings, task, weights, hardware)
    network = build.build_network(settings, task)
    network.load_state_dict(cast("dict[str, Tensor]", weights))
    refuse_declared_patch(checkpoint.path, network, settings, task)
    predictor, notes = predictor_of_run(run, settings, task, network)
    notes += decided.notes
    planned = [steps for _, steps in decided.corrections] or [settings.max_steps]
    return TrainedModel(
        settings=settings, task=task, predictor=predictor, step=about.step, notes=notes, planned=planned[-1]
    )
