"""The data part of a recipe: grid, intensities, samples, who validates, and where prepared scans lie."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - pydantic reads the annotation when it builds the model
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from pipeline.bounds import Intensity, Millimetres, Samples, Scale, Share, Side
from pipeline.sections import Auto, Section


class ZScore(Section):
    """Each scan by the mean and standard deviation of its voxels inside the body; outside is 0 or another constant."""

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


class DataChoices(Section):
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
    crop_to_body: Auto | bool = Field(
        default="auto",
        description="true to leave out of prepared scans what is constant outside the body, false, or auto: where that "
        "is much",
    )
    patch_size: Auto | Annotated[tuple[Side, ...], Field(min_length=2, max_length=3)] = Field(
        default="auto", description="the voxels of one training sample, 1 to 4096 along each axis, or auto"
    )
    foreground_share: Share | None = Field(
        default=None,
        description="the share of labelled samples that are centred on a class other than background, 0 to 1, or null: "
        "two thirds on a class, background included",
    )
    background_mm: Millimetres | None = Field(
        default=None,
        description="how many mm from every annotated structure of a mask voxels that nobody annotated count as "
        "background, as those behind strokes of background do, 1e-4 to 1e4, or null for nowhere",
    )
    batch_size: Auto | Samples = Field(default="auto", description="labelled samples a step, 1 to 4096, or auto")
    unlabelled_batch_size: Auto | Samples = Field(default="auto", description="unlabelled samples, the same, or auto")
    accumulate: Auto | Samples = Field(
        default="auto",
        description="the number of parts that a batch goes through the network in, which saves memory, or auto",
    )
    units: Auto | Samples = Field(
        default="auto",
        description="the number of units of a batch that go through the network by themselves and that processes share "
        "out; for a number the weights are the same with any number of processes, or auto: 1 with one process, with "
        "several as few as leave none idle",
    )
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.2,
        description="the share of labelled patients to hold out where there is no validation list, between 0 and 1",
    )
    split: Path | None = Field(
        default=None,
        description="a file that says who trains and who validates: a run's split.json, nnU-Net's splits_final.json, a "
        "MONAI list with folds, or a table with a fold column; or null",
    )
    split_by: str = Field(
        default="fold", min_length=1, description="the key or column of data.split that holds the folds, such as site"
    )
    split_fold: Annotated[int, Field(ge=0)] | Annotated[str, Field(min_length=1)] | None = Field(
        default=None,
        description="which fold of data.split validates, counted from 0 in nnU-Net's file, or the column's value",
    )
    split_seed: Annotated[int, Field(ge=0, lt=2**32)] | None = Field(
        default=None,
        description="the seed of the draw of validation cases and of folds, or null: that of the recipe",
    )
    validation: Literal["held_out", "none"] = Field(
        default="held_out",
        description="held_out, or none: every mask is trained on, and nothing tells how well the network does",
    )
    unlike: Literal["drop", "keep"] = Field(
        default="drop", description="drop or keep scans without masks that look like none that has one"
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

    @field_validator("validation")
    @classmethod
    def _has_no_split(cls, value: str, info: ValidationInfo) -> str:
        if value == "none" and info.data.get("split") is not None:
            raise ValueError("expected held_out, since data.split says who validates")
        return value

    @field_validator("fold")
    @classmethod
    def _is_one_of_them(cls, value: tuple[int, int] | None, info: ValidationInfo) -> tuple[int, int] | None:
        if value and value[0] > value[1]:
            raise ValueError("expected a first number up to the second")
        if value and info.data.get("validation") == "none":
            raise ValueError("expected null, since data.validation is none")
        if value and info.data.get("split_fold") is not None:
            raise ValueError("expected null, since data.split_fold says which fold validates: leave one of them out")
        return value

    @field_validator("split_fold")
    @classmethod
    def _is_of_a_file(cls, value: int | str | None, info: ValidationInfo) -> int | str | None:
        if value is not None and info.data.get("split", ...) is None:
            raise ValueError("expected null, since data.split names no file")
        return value

    @field_validator("split_seed")
    @classmethod
    def _draws(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and info.data.get("split") is not None:
            raise ValueError("expected null, since nothing is drawn where data.split names a file")
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
