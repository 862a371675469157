"""The parts of a recipe: frozen models, each with a description of every key."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from pipeline.bounds import (
    BlurSigma,
    Coarseness,
    Degrees,
    Displacement,
    FlipAxes,
    NoiseSigma,
    RelativeChange,
    Share,
)
from pipeline.types import Scans  # noqa: TC001 - pydantic reads the annotation when it builds the model

Auto = Literal["auto"]
Name = Annotated[str, Field(pattern="^[a-z][a-z0-9_]*$")]


class Section(BaseModel):
    """Base of every part of a recipe: frozen, strict, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class TermChoice(Section):
    """One term of the objective: a loss, the scans that it looks at, and its share in the total."""

    loss: str = Field(description="a registered loss; `fewmask components` lists them")
    on: Scans = Field(default="labelled", description="labelled, unlabelled or all")
    judges: Name | None = Field(default=None, description="the value that the loss judges, or null for its own choice")
    against: tuple[Name, ...] | None = Field(default=None, description="a list of what that is compared with, or null")
    weight: float = Field(default=1.0, ge=0, le=1e6, description="the factor of the term, 0 to 1e6")
    ramp: Share = Field(default=0.0, description="the share of max_steps over which the weight grows, 0 to 1")
    options: dict[str, Any] = Field(default_factory=dict, description="a mapping of the loss's own options")


class SourceChoice(Section):
    """What provides values that terms look at: a registered name and its options."""

    source: str = Field(description="a registered source; `fewmask components` lists them")
    options: dict[str, Any] = Field(default_factory=dict, description="a mapping of the source's own options")


class NetworkChoice(Section):
    """The network: a registered name and its options."""

    name: str = Field(default="unet", description="a registered network; `fewmask components` lists them")
    options: dict[str, Any] = Field(default_factory=dict, description="a mapping of the network's own options")
    members: Auto | Annotated[int, Field(ge=1, le=9)] = Field(
        default=1,
        description="the number of networks that are trained in turns and predict together, 1 to 9, or auto: 1, or "
        "with time_budget as many as it has time for",
    )
    memory_format: Auto | Literal["contiguous", "channels_last"] = Field(
        default="auto",
        description="contiguous, channels_last, or auto: with time_budget the faster one, as is timed, else contiguous",
    )
    recompute: Auto | bool = Field(
        default="auto",
        description="true to compute features again in the backward pass, which saves memory, false, or auto",
    )


class FurtherAugmentation(Section):
    """An augmentation beside those of every recipe: a registered name and its options."""

    augmentation: str = Field(description="a registered augmentation; `fewmask components` lists them")
    options: dict[str, Any] = Field(default_factory=dict, description="a mapping of the augmentation's own options")


class AugmentationChoices(Section):
    """Random changes of a training sample; every number is the strength of one, and 0 switches it off."""

    flip_axes: Auto | FlipAxes = Field(
        default="auto",
        description="a list of axes that may be mirrored, or auto: left-right, unless a label names a side",
    )
    rotation_degrees: Auto | Degrees = Field(
        default="auto", description="the largest rotation in degrees, 0 to 180, or auto: 15, and 45 for slices"
    )
    scaling: Auto | RelativeChange = Field(
        default="auto", description="the largest relative change of size, 0 to 1, or auto: 0.15, and 0.3 for slices"
    )
    elastic_mm: Auto | Displacement = Field(
        default="auto",
        description="the largest displacement of an elastic deformation in mm, 0 to 1000, or auto: 0, and 3.5 voxels "
        "for slices",
    )
    noise: NoiseSigma = Field(default=0.1, description="the largest noise in the image's own deviations, 0 to 100")
    blur: BlurSigma = Field(default=0.0, description="the largest sigma of a blur in voxels, 0 to 5")
    brightness: RelativeChange = Field(default=0.25, description="the largest relative change of gain, 0 to 1")
    contrast: RelativeChange = Field(
        default=0.0, description="the largest relative change of the distance to the mean, 0 to 1"
    )
    low_resolution: Coarseness = Field(
        default=0.0,
        description="how much larger voxels may become before they are interpolated back, 0 to 4",
    )
    gamma: RelativeChange = Field(default=0.3, description="the largest change of the gamma exponent, 0 to 1")
    more: Annotated[tuple[FurtherAugmentation, ...], Field(max_length=100)] = Field(
        default=(), description="a list of further augmentations, each with its name"
    )


class LayoutChoice(Section):
    """How the dataset lies on disk, and what it does not say itself."""

    name: str = Field(default="auto", description="a registered layout, or auto; `fewmask components` lists them")
    options: dict[str, Any] = Field(default_factory=dict, description="a mapping of the layout's own options")


def as_choice(value: Any) -> Any:
    """Let a name stand for a choice without options."""
    if isinstance(value, str):
        return {"name": value}
    return value


class AtlasVote(Section):
    """Labelled scans that are registered to each scan that is predicted, and whose masks vote beside the network."""

    weight: Share = Field(default=0.0, description="the share of their vote in a prediction, 0 to 1; 0 has none")
    most: Annotated[int, Field(ge=1, le=100)] = Field(default=10, description="how many of them vote at most, 1 to 100")


class ScheduleChoice(Section):
    """How the learning rate changes after the warm-up: a registered name and its options."""

    name: str = Field(default="poly", description="a registered schedule; `fewmask components` lists them")
    options: dict[str, Any] = Field(default_factory=dict, description="a mapping of the schedule's own options")


class OptimizerChoice(Section):
    """The optimizer, with a linear warm-up of the learning rate and a schedule after it."""

    name: str = Field(default="adamw", description="a registered optimizer; `fewmask components` lists them")
    options: dict[str, Any] = Field(default_factory=dict, description="a mapping of the optimizer's own options")
    learning_rate: Annotated[float, Field(gt=0, le=10)] = Field(
        default=2e-3, description="the peak learning rate, above 0 and up to 10"
    )
    weight_decay: Annotated[float, Field(ge=0, le=100)] = Field(
        default=1e-2, description="the optimizer's weight decay, 0 to 100"
    )
    warmup: Share = Field(default=0.05, description="the share of max_steps with a growing learning rate, 0 to 1")
    clip_norm: Annotated[float, Field(ge=1e-6, le=1e6)] = Field(
        default=12.0, description="the largest norm of the gradient, 1e-6 to 1e6"
    )
    schedule: Annotated[ScheduleChoice, BeforeValidator(as_choice)] = ScheduleChoice()
    averaging: Annotated[float, Field(ge=0, lt=0.5)] = Field(
        default=0.02,
        description="the mean age of the averaged weights, as a share of the steps done, below 0.5; 0 averages none",
    )


class MetricChoice(Section):
    """A further column of the scores: a registered name and its options."""

    metric: str = Field(description="a registered metric; `fewmask components` lists them")
    options: dict[str, Any] = Field(default_factory=dict, description="a mapping of the metric's own options")


class StepChoice(Section):
    """A change to predicted label maps: a registered name and its options."""

    step: str = Field(description="a registered post-processing step; `fewmask components` lists them")
    options: dict[str, Any] = Field(default_factory=dict, description="a mapping of the step's own options")

    def __str__(self) -> str:
        return " ".join([self.step, *(f"{name}={value}" for name, value in self.options.items())])
