"""What is exported: the networks that predict, ready and as they were saved, and the model card."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.checkpoints import newest_checkpoint
from pipeline.errors import Problem, UserError
from pipeline.export.card import card_of_run, card_without_run
from pipeline.prediction.predictor import Ensemble
from pipeline.runs.folder import count_folds, fold_folder
from pipeline.runs.model_files import read_model_file
from pipeline.runs.models import load_model
from pipeline.runs.parts_of_run import chosen_steps
from pipeline.terminal import note

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.checkpoints import Checkpoint
    from pipeline.prediction.postprocessing import LabelStep
    from pipeline.prediction.predictor import Predictor
    from pipeline.runs.models import TrainedModel
    from pipeline.types import Which


@dataclass(frozen=True, kw_only=True)
class Content:
    """A trained model that is to be exported.

    Attributes:
        model: Ready to predict, on the CPU, judged as for a prediction.
        members: The checkpoint of each network: one, or those of the folds.
        chosen: The post-processing that a cross-validation has chosen, beside that of its recipe.
        card: The model card, Markdown.
    """

    model: TrainedModel
    members: tuple[Checkpoint, ...]
    chosen: tuple[LabelStep, ...]
    card: str

    @property
    def predictors(self) -> tuple[Predictor, ...]:
        """What predicts with each network."""
        predictor = self.model.predictor
        if isinstance(predictor, Ensemble):
            return predictor.predictors
        return (predictor,)


def read_content(run: Path, which: Which = "last", plugins: Sequence[Path] = ()) -> Content:
    """Read what predicts.

    Args:
        run: A run's folder, that of a cross-validation, a model file, or a checkpoint.
        which: ``last`` or ``best``.
        plugins: As for :func:`load_model`.

    Raises:
        UserError: As :func:`load_model`.
    """
    model = load_model(run, which, plugins, "cpu")
    if model.settings.atlases.weight > 0:
        message = "has atlases, which are scans of patients, and no export holds any"
        remedy = "train the recipe with atlases.weight=0, which gives the same network and its own figures"
        raise UserError("Nothing was exported.", [Problem(str(run), "atlases", message, remedy)])
    if run.is_file():
        held = read_model_file(run)
        card = held.card or card_without_run(model)
        return Content(model=model, members=held.members, chosen=held.chosen, card=card)
    folds = count_folds(run)
    folders = [fold_folder(run, fold) for fold in range(1, folds + 1)] or [run]
    members = tuple(newest_checkpoint(folder, which) for folder in folders)
    for problem in (problem for member in members for problem in member.damaged):
        note(str(problem))
    chosen = chosen_steps(run, model.task) if folds else ()
    return Content(model=model, members=members, chosen=chosen, card=card_of_run(run, model, which))
