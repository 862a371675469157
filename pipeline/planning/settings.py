"""Settings: a recipe with nothing open. Everything that a training or a prediction needs is built from them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline.bounds import (
    Degrees,
    Displacement,
    Intensity,
    Millimetres,
    RelativeChange,
    Samples,
    Scale,
    Side,
    Steps,
)
from pipeline.data_section import DataChoices, HounsfieldWindow, ZScore
from pipeline.recipe import LabelName, Parts, Recipe
from pipeline.sections import AugmentationChoices, NetworkChoice, StepChoice


class WindowSettings(HounsfieldWindow):
    """A window of CT with every number."""

    low: Intensity
    high: Intensity
    mean: Intensity
    std: Scale


class DataSettings(DataChoices):
    """How scans become batches, with every choice made."""

    dimensions: Literal[2, 3]
    orientation: Annotated[str, Field(pattern="^[LRAPSI]{3}$")]
    spacing_mm: tuple[Millimetres, ...]
    normalization: tuple[Annotated[ZScore | WindowSettings, Field(discriminator="scheme")], ...]
    crop_to_body: bool
    patch_size: tuple[Side, ...]
    batch_size: Samples
    unlabelled_batch_size: Samples
    accumulate: Samples
    units: Samples
    workers: int
    resident: bool


class PlannedNetwork(NetworkChoice):
    """The network, but for what a time budget chooses; an option may be left to the network itself."""

    recompute: bool


class NetworkSettings(PlannedNetwork):
    """The network, with every choice made; an option may still be left to the network itself."""

    members: int
    memory_format: Literal["contiguous", "channels_last"]


class AugmentationSettings(AugmentationChoices):
    """Random changes, with every choice made."""

    flip_axes: tuple[int, ...]
    rotation_degrees: Degrees
    scaling: RelativeChange
    elastic_mm: Displacement


class PlannedRecipe(Recipe):
    """What a plan consists of: with a time budget, steps, members and memory format are still open."""

    regions: dict[LabelName, Parts] | None
    precision: Literal["float32", "bfloat16", "float16"]
    data: DataSettings
    network: PlannedNetwork
    augmentation: AugmentationSettings
    postprocessing: Annotated[tuple[StepChoice, ...], Field(max_length=100)]


class Settings(PlannedRecipe):
    """A whole training run, with every choice made."""

    max_steps: Steps
    network: NetworkSettings


def settle(recipe: Recipe) -> Settings:
    """Return a recipe that leaves nothing open as settings.

    Raises:
        ValueError: Something is still ``auto``.
    """
    left_open = open_keys(recipe.model_dump(mode="json", exclude={"layout", "device"}))
    if left_open:
        raise ValueError(f"{left_open[0]} is still 'auto'")
    return Settings.model_validate(recipe.model_dump())


def open_keys(content: dict[str, Any], path: str = "") -> list[str]:
    """Return the dotted keys of what a plan would have filled in; options may be left to their component."""
    found = [f"{path}{key}" for key, value in content.items() if value == "auto"]
    for key, value in content.items():
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, dict) and key != "options":
                found += open_keys(inner, f"{path}{key}.")
    return found
