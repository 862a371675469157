"""The recipe: everything a user may choose, as one frozen model that refuses what it does not know."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - pydantic reads the annotation when it builds the model
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from pipeline.bounds import DEVICE, SECONDS, Intensity, Millimetres, Samples, Scale, Share, Side, Steps, seconds_of
from pipeline.types import Scans  # noqa: TC001 - pydantic reads the annotation when it builds the model

Auto = Literal["auto"]
Name = Annotated[str, Field(pattern="^[a-z][a-z0-9_]*$")]


class Section(BaseModel):
    """Base of every part of a recipe: frozen, strict, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Term(Section):
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


class Network(Section):
    """The network: a registered name and its options."""

    name: str = Field(default="unet", description="a registered network; `fewmask components` lists them")
    options: dict[str, Any] = Field(default_factory=dict, description="a mapping of the network's own options")
    members: Auto | Annotated[int, Field(ge=1, le=9)] = Field(
        default=1,
        description="the number of networks that learn in turns and answer together, 1 to 9, or auto: 1, or with "
        "time_budget as many as it has time for",
    )
    memory_format: Auto | Literal["contiguous", "channels_last"] = Field(
        default="auto",
        description="contiguous, channels_last, or auto: with time_budget the faster one, as is timed, else contiguous",
    )
    recompute: Auto | bool = Field(
        default="auto",
        description="true to compute features again in the backward pass, which saves memory, false, or auto",
    )


class ZScore(Section):
    """Each scan by the mean and standard deviation of its own voxels that are not 0."""

    scheme: Literal["zscore"]


class HounsfieldWindow(Section):
    """Every scan alike, on the calibrated scale of CT: clipped, less a mean, divided by a standard deviation."""

    scheme: Literal["ct"]
    low: Auto | Intensity = Field(default="auto", description="the value that smaller ones become, or auto")
    high: Auto | Intensity = Field(default="auto", description="the value that larger ones become, or auto")
    mean: Auto | Intensity = Field(default="auto", description="the value that becomes 0, or auto")
    std: Auto | Scale = Field(default="auto", description="the distance that becomes 1, 1e-6 to 1e9, or auto")

    @field_validator("high")
    @classmethod
    def _is_above_low(cls, value: Any, info: ValidationInfo) -> Any:
        low = info.data.get("low", "auto")
        if "auto" not in (low, value) and value <= low:
            raise ValueError(f"expected above {low:g}, which is low")
        return value


Normalization = Annotated[
    ZScore | HounsfieldWindow,
    Field(discriminator="scheme"),
    BeforeValidator(lambda value: {"scheme": value} if isinstance(value, str) else value),
]


class Data(Section):
    """How scans become batches."""

    dimensions: Auto | Literal[2, 3] = Field(
        default="auto", description="3 for volumes, 2 for slices of volumes and 2-D scans, or auto"
    )
    orientation: Auto | Annotated[str, Field(pattern="^[LRAPSI]{3}$")] = Field(
        default="auto", description="three letters such as RAS; the third is the axis that 2-D slices follow"
    )
    spacing_mm: Auto | Annotated[tuple[Millimetres, ...], Field(min_length=2, max_length=3)] = Field(
        default="auto", description="the voxel size to resample to, 1e-4 to 1e4 along each axis, or auto"
    )
    normalization: Auto | Annotated[tuple[Normalization, ...], Field(min_length=1, max_length=1000)] = Field(
        default="auto", description="a list with zscore or ct for each channel, or auto"
    )
    patch_size: Auto | Annotated[tuple[Side, ...], Field(min_length=2, max_length=3)] = Field(
        default="auto", description="the voxels of one training sample, 1 to 4096 along each axis, or auto"
    )
    batch_size: Auto | Samples = Field(
        default="auto", description="the number of labelled samples a step, 1 to 4096, or auto"
    )
    unlabelled_batch_size: Auto | Samples = Field(
        default="auto", description="the number of unlabelled samples a step, 1 to 4096, or auto"
    )
    accumulate: Auto | Samples = Field(
        default="auto",
        description="the number of parts that a batch goes through the network in, which saves memory, or auto",
    )
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.2,
        description="the share of labelled patients to hold out where there is no validation list, between 0 and 1",
    )
    fold: tuple[Annotated[int, Field(ge=1, le=1000)], Annotated[int, Field(ge=2, le=1000)]] | None = Field(
        default=None,
        description="which fold of how many, such as [1, 5], for a run of a cross-validation, or null",
    )
    workers: Auto | Annotated[int, Field(ge=0, le=256)] = Field(
        default="auto", description="the number of processes that prepare batches, 0 to 256, or auto"
    )
    resident: Auto | bool = Field(
        default="auto",
        description="true to keep prepared scans in the device's memory and make batches there, false, or auto",
    )
    cache: Literal["run", "off"] | Path = Field(
        default="run",
        description="run (prepared scans lie in the run), a folder that runs share, or off (prepared whenever needed)",
    )

    @field_validator("orientation")
    @classmethod
    def _names_each_axis(cls, value: str) -> str:
        if value != "auto" and len({"RLAPSI".index(code) // 2 for code in value}) < 3:
            raise ValueError("expected one letter each of R or L, A or P, S or I")
        return value

    @field_validator("fold")
    @classmethod
    def _is_one_of_them(cls, value: tuple[int, int] | None) -> tuple[int, int] | None:
        if value and value[0] > value[1]:
            raise ValueError("expected a first number up to the second")
        return value

    @field_validator("resident")
    @classmethod
    def _leaves_nothing_to_workers(cls, value: Any, info: ValidationInfo) -> Any:
        if value is True and info.data.get("workers", 0) not in ("auto", 0):
            raise ValueError("expected false or auto, since data.workers is given")
        return value

    @field_validator("spacing_mm", "patch_size")
    @classmethod
    def _fits_dimensions(cls, value: Any, info: ValidationInfo) -> Any:
        told = [info.data.get("dimensions", "auto"), info.data.get("spacing_mm", "auto")]
        axes = next((n if isinstance(n, int) else len(n) for n in told if n != "auto"), None)
        if value != "auto" and axes is not None and len(value) != axes:
            raise ValueError(f"expected {axes} numbers, as data.dimensions or data.spacing_mm says")
        return value


class Augmentation(Section):
    """Random changes of a training sample; every number is the strength of one, and 0 switches it off."""

    flip_axes: Auto | Annotated[tuple[Annotated[int, Field(ge=0, le=2)], ...], Field(max_length=3)] = Field(
        default="auto",
        description="a list of axes that may be mirrored, or auto: left-right, unless a label names a side",
    )
    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = Field(
        default=15.0, description="the largest rotation in degrees, 0 to 180"
    )
    scaling: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.15, description="the largest relative change of size, 0 to 1"
    )
    elastic_mm: Annotated[float, Field(ge=0, le=1000)] = Field(
        default=0.0, description="the largest displacement of an elastic deformation in mm, 0 to 1000"
    )
    noise: Annotated[float, Field(ge=0, le=100)] = Field(
        default=0.1, description="the largest noise in standard deviations of the image, 0 to 100"
    )
    blur: Annotated[float, Field(ge=0, le=5)] = Field(
        default=0.0, description="the largest sigma of a blur in voxels, 0 to 5"
    )
    brightness: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.25, description="the largest relative change of gain, 0 to 1"
    )
    contrast: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="the largest relative change of the distance to the mean, 0 to 1"
    )
    low_resolution: Annotated[float, Field(ge=0, le=4)] = Field(
        default=0.0,
        description="how much larger voxels may become before they are interpolated back, 0 to 4",
    )
    gamma: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.3, description="the largest change of the gamma exponent, 0 to 1"
    )


class Layout(Section):
    """How the dataset lies on disk, and what it does not say itself."""

    name: str = Field(default="auto", description="a registered layout, or auto; `fewmask components` lists them")
    options: dict[str, Any] = Field(default_factory=dict, description="a mapping of the layout's own options")


class AtlasVote(Section):
    """Labelled scans that are registered to each scan that is predicted, and whose masks vote beside the network."""

    weight: Share = Field(default=0.0, description="the share of their vote in a prediction, 0 to 1; 0 has none")
    most: Annotated[int, Field(ge=1, le=100)] = Field(
        default=10, description="the largest number of labelled scans that vote, 1 to 100"
    )


class Optimizer(Section):
    """AdamW with a linear warm-up and a polynomial decay to zero."""

    learning_rate: Annotated[float, Field(gt=0, le=10)] = Field(
        default=2e-3, description="the peak learning rate, above 0 and up to 10"
    )
    weight_decay: Annotated[float, Field(ge=0, le=100)] = Field(
        default=1e-2, description="AdamW's weight decay, 0 to 100"
    )
    warmup: Share = Field(default=0.05, description="the share of max_steps with a growing learning rate, 0 to 1")
    clip_norm: Annotated[float, Field(ge=1e-6, le=1e6)] = Field(
        default=12.0, description="the largest norm of the gradient, 1e-6 to 1e6"
    )
    averaging: Annotated[float, Field(ge=0, lt=0.5)] = Field(
        default=0.02,
        description="the mean age of the averaged weights, as a share of the steps done, below 0.5; 0 averages none",
    )


def _as_choice(value: Any) -> Any:
    """Let a name stand for a choice without options."""
    return {"name": value} if isinstance(value, str) else value


# The key under ``data`` of how many samples of each kind a step holds.
BATCHES: dict[Literal["labelled", "unlabelled"], str] = {
    "labelled": "batch_size",
    "unlabelled": "unlabelled_batch_size",
}


class Recipe(Section):
    """A whole training run."""

    dataset: Path = Field(description="a dataset folder or a JSON list; give it as dataset=PATH")
    root: Path | None = Field(default=None, description="the folder that a list's paths are relative to")
    layout: Annotated[Layout, BeforeValidator(_as_choice)] = Layout()
    plugins: Annotated[tuple[Path, ...], Field(max_length=100)] = Field(
        default=(), description="a list of Python files that register components"
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
    time_budget: Annotated[str, Field(pattern=r"^[0-9]{1,8}(\.[0-9]{1,8})?[smhd]$")] | None = Field(
        default=None,
        description="how long the whole command may take, such as 90s, 20m, 2h or 1.5d, up to a year, or null",
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
    validate_every: Steps = Field(default=250, description="the number of steps between two validations, 1 or more")
    patience: Steps | None = Field(
        default=None,
        description="the number of validations without a better Dice after which a training ends soon, or null",
    )
    checkpoint_every: Steps = Field(default=50, description="the number of steps between two checkpoints, 1 or more")
    data: Data = Data()
    augmentation: Augmentation = Augmentation()
    network: Annotated[Network, BeforeValidator(_as_choice)] = Network()
    optimizer: Optimizer = Optimizer()
    objective: Annotated[tuple[Term, ...], Field(min_length=1, max_length=100)] = Field(
        description="a list of terms, each with its loss"
    )
    atlases: AtlasVote = AtlasVote()
    sources: tuple[SourceChoice, ...] = Field(default=(), description="a list of what provides values for the terms")
    alternate: bool = Field(
        default=False, description="true to update the weights for each term in turn, or false for all of them at once"
    )

    @field_validator("time_budget")
    @classmethod
    def _is_all_that_counts(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("max_steps", "auto") != "auto":
            raise ValueError("expected null, since max_steps is given")
        if value is not None and not 1 <= seconds_of(value) <= SECONDS["d"] * 366:
            raise ValueError("expected one second to a year")
        return value

    @field_validator("network")
    @classmethod
    def _has_members_that_can_learn(cls, value: Network, info: ValidationInfo) -> Network:
        if value.members not in ("auto", 1) and info.data.get("segments") is not None:
            raise ValueError("expected 1 for members, since each network numbers segments in its own way")
        steps = info.data.get("max_steps")
        if isinstance(value.members, int) and isinstance(steps, int) and value.members > steps:
            raise ValueError(f"expected at most {steps} for members, since each takes a step and max_steps is {steps}")
        return value

    @field_validator("objective")
    @classmethod
    def _weighs_something(cls, value: tuple[Term, ...]) -> tuple[Term, ...]:
        if not any(term.weight > 0 for term in value):
            raise ValueError("expected a term with a weight above 0")
        return value

    @property
    def kinds(self) -> tuple[Literal["labelled", "unlabelled"], ...]:
        """What a training step holds samples of; to segments every scan is unlabelled."""
        if self.segments is not None:
            return ("unlabelled",)
        looks_at_all = any(term.on != "labelled" and term.weight > 0 for term in self.objective)
        return ("labelled", "unlabelled") if looks_at_all else ("labelled",)
