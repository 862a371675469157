"""The recipe: everything a user may choose, as one frozen model that refuses what it does not know."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - pydantic reads the annotation when it builds the model
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from pipeline.bounds import DEVICE, SECONDS, ForegroundValue, Steps, seconds_of
from pipeline.data_section import DataChoices
from pipeline.durations import DURATION, in_one_unit
from pipeline.sections import (
    AtlasVote,
    AugmentationChoices,
    Auto,
    LayoutChoice,
    MetricChoice,
    NetworkChoice,
    OptimizerChoice,
    Section,
    SourceChoice,
    StepChoice,
    TermChoice,
    as_choice,
)

# The keys under ``data`` for the number of samples of each stream in a step.
BATCHES: dict[Literal["labelled", "unlabelled"], str] = {
    "labelled": "batch_size",
    "unlabelled": "unlabelled_batch_size",
}


def _in_one_unit(value: Any) -> Any:
    """Let a length of time be written as people do."""
    return in_one_unit(value) if isinstance(value, str) else value


def _as_parts(value: Any) -> Any:
    """Let one value or name stand for a list of one."""
    if isinstance(value, int | str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


# With background as many as an annotation has values for.
MOST_LABELS = 249
# Of a tracking server or a database.
ADDRESS = r"^(https?|sqlite|postgresql|mysql)\S*://\S+$"
LabelName = Annotated[str, Field(min_length=1, max_length=200)]
Part = ForegroundValue | LabelName
Parts = Annotated[tuple[Part, ...], Field(min_length=1, max_length=MOST_LABELS), BeforeValidator(_as_parts)]


class Recipe(Section):
    """A whole training run."""

    dataset: Path = Field(description="a dataset folder or a JSON list; give it as dataset=PATH")
    root: Path | None = Field(default=None, description="the folder that a list's paths are relative to")
    layout: Annotated[LayoutChoice, BeforeValidator(as_choice)] = LayoutChoice()
    labels: Annotated[dict[LabelName, Parts], Field(min_length=1, max_length=MOST_LABELS)] | None = Field(
        default=None,
        description="new labels and the values or names that each is made of, such as {tumour: [2, 3], liver: 1}; what "
        "is not named becomes background; or null for the dataset's own",
    )
    regions: Auto | Annotated[dict[LabelName, Parts], Field(min_length=1, max_length=MOST_LABELS)] | None = Field(
        default="auto",
        description="structures that may lie in each other, and the values or names of their labels, such as {tumour: "
        "[1, 2, 3], core: [2, 3], enhancing: 3}; auto for those that dataset.json asks for (regions_class_order), or "
        "null for labels that exclude each other",
    )
    plugins: Annotated[tuple[Path, ...], Field(max_length=100)] = Field(
        default=(), description="a list of Python files that register components"
    )
    start: Path | None = Field(
        default=None,
        description="a run, a checkpoint or a model file whose weights the network begins with where they fit, or null",
    )
    segments: Annotated[int, Field(ge=2, le=250)] | None = Field(
        default=None,
        description="the number of segments of a training without labels, 2 to 250, or null to train on labels",
    )
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(
        default=0, description="a whole number, the one source of randomness"
    )
    max_steps: Auto | Steps = Field(
        default="auto", description="the number of training steps, 1 to 1e9, or auto: what time_budget allows"
    )
    time_budget: Annotated[Annotated[str, Field(pattern=DURATION)] | None, BeforeValidator(_in_one_unit)] = Field(
        default=None,
        description="how long the whole command may take, such as 90s, 20min, 1h30m or 1.5d, up to a year, or null",
    )
    device: Annotated[str, Field(pattern=DEVICE)] = Field(default="auto", description="auto, cpu, cuda or cuda:N")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="auto (bfloat16 where it is faster), float32, bfloat16 or float16"
    )
    predict_mirrored: bool = Field(
        default=True,
        description="true to predict with the mean over mirror images along augmentation.flip_axes, or false",
    )
    tensorboard: bool = Field(default=False, description="true to write TensorBoard events into the run, or false")
    mlflow: bool | Annotated[str, Field(pattern=ADDRESS)] = Field(
        default=False,
        description="true to log to MLflow in a file mlflow.db beside the run, a server's address, or false",
    )
    wandb: bool = Field(
        default=False, description="true to write a Weights & Biases run, offline, into the run's folder, or false"
    )
    validate_every: Steps = Field(default=250, description="the number of steps between two validations, 1 or more")
    patience: Steps | None = Field(
        default=None,
        description="the number of validations without a better Dice after which a training ends soon, or null",
    )
    checkpoint_every: Steps = Field(default=50, description="the number of steps between two checkpoints, 1 or more")
    data: DataChoices = DataChoices()
    augmentation: AugmentationChoices = AugmentationChoices()
    network: Annotated[NetworkChoice, BeforeValidator(as_choice)] = NetworkChoice()
    optimizer: Annotated[OptimizerChoice, BeforeValidator(as_choice)] = OptimizerChoice()
    objective: Annotated[tuple[TermChoice, ...], Field(min_length=1, max_length=100)] = Field(
        description="a list of terms, each with its loss"
    )
    atlases: AtlasVote = AtlasVote()
    sources: tuple[SourceChoice, ...] = Field(default=(), description="a list of what provides values for the terms")
    metrics: Annotated[tuple[MetricChoice, ...], Field(max_length=100)] = Field(
        default=(), description="a list of further columns of the scores, each with its metric"
    )
    postprocessing: Auto | Annotated[tuple[StepChoice, ...], Field(max_length=100)] = Field(
        default="auto",
        description="a list of changes to predicted label maps, each with its step, or auto: the largest component "
        "of all labels together, and of every label, that are one piece in all masks",
    )
    alternate: bool = Field(
        default=False, description="true to update the weights for each term in turn, or false for all of them at once"
    )

    @field_validator("time_budget")
    @classmethod
    def _is_possible(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("max_steps", "auto") != "auto":
            raise ValueError("expected null, since max_steps is given")
        if value is not None and not 1 <= seconds_of(value) <= SECONDS["d"] * 366:
            raise ValueError("expected one second to a year")
        return value

    @field_validator("data")
    @classmethod
    def _validates_if_it_has_patience(cls, value: DataChoices, info: ValidationInfo) -> DataChoices:
        if value.validation == "none" and info.data.get("patience") is not None:
            raise ValueError("expected held_out for validation, since patience looks at it")
        return value

    @field_validator("network")
    @classmethod
    def _has_members_that_can_train(cls, value: NetworkChoice, info: ValidationInfo) -> NetworkChoice:
        if value.members not in ("auto", 1) and info.data.get("segments") is not None:
            raise ValueError("expected 1 for members, since each network numbers segments in its own way")
        steps = info.data.get("max_steps")
        if isinstance(value.members, int) and isinstance(steps, int) and value.members > steps:
            raise ValueError(f"expected at most {steps} for members, since each takes a step and max_steps is {steps}")
        return value

    @field_validator("objective")
    @classmethod
    def _weighs_something(cls, value: tuple[TermChoice, ...]) -> tuple[TermChoice, ...]:
        if not any(term.weight > 0 for term in value):
            raise ValueError("expected a term with a weight above 0")
        return value

    @property
    def kinds(self) -> tuple[Literal["labelled", "unlabelled"], ...]:
        """The streams that a training step has samples of; with ``segments`` every scan is unlabelled."""
        if self.segments is not None:
            return ("unlabelled",)
        looks_at_all = any(term.on != "labelled" and term.weight > 0 for term in self.objective)
        if looks_at_all:
            return ("labelled", "unlabelled")
        return ("labelled",)
