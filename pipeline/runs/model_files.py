"""Model files: one network, or those of the folds of a cross-validation, with all that prediction needs, and no cases.

A model file is an archive like a checkpoint, and is verified like one. Each network in it is a checkpoint without what
only training needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationError

from pipeline.archives import FORMAT, REMEDY, load_checkpoint
from pipeline.checkpoints import Checkpoint
from pipeline.errors import Problem, UserError, plain
from pipeline.prediction.postprocessing import POSTPROCESSING as STEPS
from pipeline.runs.stored import Stored, StoredStep

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.prediction.postprocessing import LabelStep

KIND = "model"


class StoredModel(Stored):
    """The content of a model file.

    Attributes:
        format: The number of the archives' format.
        kind: ``model``; a checkpoint has no such key.
        card: The model card, Markdown.
        steps: The post-processing that a cross-validation has chosen.
        members: For each network, ``network``, its weights, and the keys of :class:`~pipeline.runs.stored.StoredAbout`.
    """

    format: Literal[2]
    kind: Literal["model"]
    card: Annotated[str, Field(max_length=1_000_000)]
    steps: Annotated[list[StoredStep], Field(max_length=10_000)]
    members: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=1000)]


@dataclass(frozen=True)
class ModelFile:
    """A model file, or a checkpoint, that was read.

    Attributes:
        members: The networks; one, or those of the folds of a cross-validation.
        chosen: The post-processing that the cross-validation has chosen.
        card: The model card; empty for a checkpoint, which has none.
    """

    members: tuple[Checkpoint, ...]
    chosen: tuple[LabelStep, ...] = ()
    card: str = ""


def read_model_file(path: Path) -> ModelFile:
    """Read a model file, or a checkpoint.

    Raises:
        UserError: It is damaged, or neither of them.
    """
    state = load_checkpoint(path)
    if state.get("kind") != KIND:
        return ModelFile((Checkpoint(path, state),))
    try:
        stored = StoredModel.model_validate(state)
    except ValidationError as error:
        first = error.errors()[0]
        raise _foreign(path, f"{'.'.join(map(str, first['loc']))}: {plain(first['msg'])}") from None
    chosen: tuple[LabelStep, ...] = tuple(STEPS.build(step.step, step.options) for step in stored.steps)
    task = stored.members[0].get("task")
    labels = ()
    if isinstance(task, dict):
        labels = task.get("labels", ())
    if unknown := [step.label for step in chosen if step.label not in labels]:
        raise _foreign(path, f"its post-processing changes the label {unknown[0]}, which it does not know")
    return ModelFile(tuple(Checkpoint(path, member) for member in stored.members), chosen, stored.card)


def state_of(members: list[dict[str, Any]], steps: list[dict[str, Any]], card: str) -> dict[str, Any]:
    """Return the content of a model file; arguments as in :class:`StoredModel`."""
    return {"format": FORMAT, "kind": KIND, "card": card, "steps": steps, "members": members}


def _foreign(path: Path, message: str) -> UserError:
    problem = Problem(str(path), "foreign-checkpoint", f"holds no model of ours: {message}", REMEDY)
    return UserError("The model cannot be built.", [problem])
