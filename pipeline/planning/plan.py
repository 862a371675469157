"""Choose what a recipe leaves ``auto``, from the data and the machine, with the reason for each choice in words."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from pipeline.planning.augmentation import CHOSEN, choose_augmentation
from pipeline.planning.delivery import choose_crop, choose_resident, choose_workers, prepared_bytes
from pipeline.planning.limits import refuse_scans
from pipeline.planning.network import SizePlanner
from pipeline.planning.normalization import choose_normalization, normalization_reason
from pipeline.planning.postprocessing import choose_postprocessing
from pipeline.planning.settings import PlannedRecipe
from pipeline.planning.spacing import (
    choose_dimensions,
    choose_orientation,
    choose_spacing,
    coarse_axis,
    coarser_plane,
    flat,
    median_shape,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pipeline.data.index import Index
    from pipeline.data.inspection import CaseFacts
    from pipeline.planning.hardware import Hardware
    from pipeline.planning.network import Sizes
    from pipeline.recipe import Recipe
    from pipeline.sections import AugmentationChoices, StepChoice


# Of a training without a time budget; on a CPU more where a step has few voxels.
DEFAULT_STEPS = 1200
DEFAULT_STEPS_SMALL = 8000
SMALL_STEP = 100_000
DEFAULT_STEPS_CUDA = 12_000


@dataclass(frozen=True)
class Choice:
    """One setting of a plan.

    Attributes:
        key: Its dotted place in the recipe.
        value: What it is.
        reason: Why, in words.
    """

    key: str
    value: Any
    reason: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A recipe without any ``auto``, and why it is as it is.

    Attributes:
        recipe: What is to be trained.
        choices: What was chosen, or was given where it might have been.
        shape: Of the median scan on the plan's grid.
        memory_bytes: What a training step is estimated to take; None where the machine's memory is not known.
        least_bytes: The least that this may mean; likewise.
        wider: The recipe with a wider network, where a time budget may have time for one; None where it may not.
        lighter: The recipe with fewer samples and then smaller patches a step, each with the share of the samples'
            voxels that it has, for a time budget that has no time for more.
        most_members: Networks of an ensemble that a time budget trains if it has the time; without a budget 1.
        usual_steps: Of each network, where neither recipe nor time budget say how many.
    """

    recipe: PlannedRecipe = field(repr=False)
    choices: tuple[Choice, ...] = field(repr=False)
    shape: tuple[int, ...]
    memory_bytes: int | None
    least_bytes: int | None = None
    wider: PlannedRecipe | None = field(default=None, repr=False)
    lighter: tuple[tuple[PlannedRecipe, float], ...] = field(default=(), repr=False)
    most_members: int = 1
    usual_steps: int = DEFAULT_STEPS


@dataclass
class _Choices:
    """Collects settings while they are chosen."""

    made: list[Choice] = field(default_factory=list)

    def __call__(self, key: str, given: Any, choose: Callable[[], tuple[Any, str]]) -> Any:
        """Return what was given, or else choose."""
        value, reason = (given, "given in the recipe") if given != "auto" else choose()
        self.tell(key, value, reason)
        return value

    def tell(self, key: str, value: Any, reason: str) -> None:
        """Take in what was chosen elsewhere."""
        self.made.append(Choice(key, value, reason))


def make_plan(recipe: Recipe, index: Index, hardware: Hardware) -> Plan:
    """Choose a value for every ``auto`` of a recipe.

    Args:
        recipe: As read.
        index: The checked dataset, from whose geometry and intensities grid, patch and normalisation follow.
        hardware: From which batch, depth, width, precision and workers follow.

    Raises:
        UserError: What the recipe gives does not fit the dataset.
    """
    facts = list(index.facts.values())
    data = recipe.data
    pick = _Choices()
    grid = _grid(recipe, facts, hardware, pick)
    orientation = grid["orientation"]
    spacing = grid["spacing_mm"]
    grid["normalization"] = _normalization(recipe, index, pick)
    precision = pick("precision", recipe.precision, lambda: _precision(hardware))
    refuse_scans(index, orientation, spacing, hardware, given=data.spacing_mm != "auto")
    kept = [case.cropped() if grid["crop_to_body"] else case for case in facts]
    shape = median_shape(kept, orientation, spacing)[: len(spacing)]
    planner = SizePlanner(
        recipe=recipe,
        shape=shape,
        spacing_mm=spacing,
        channels=len(index.channels),
        classes=recipe.segments or len(index.labels),
        precision=precision,
        hardware=hardware,
        of_volumes=2 * flat(facts) <= len(facts),
    )
    sizes, memory_bytes = planner.choose()
    pick.made += [Choice(*choice) for choice in planner.reasons(sizes)]
    units = pick("data.units", data.units, lambda: planner.units(sizes))
    steps, layout, members = _open_to_time(recipe, hardware, len(spacing), planner.voxels(sizes), pick)
    grid |= _delivery(recipe, hardware, prepared_bytes(kept, spacing), pick)
    augmentation = _augmentation(recipe, partial(choose_augmentation, index.labels, orientation, spacing), pick)
    chosen = sizes.of_network | {"memory_format": layout, "members": members}
    resolved = recipe.model_copy(
        update={
            "device": hardware.device,
            "layout": recipe.layout.model_copy(update={"name": index.dataset.layout}),
            "precision": precision,
            "max_steps": steps,
            "data": data.model_copy(update=grid | sizes.of_data | {"units": units}),
            "network": recipe.network.model_copy(update=chosen),
            "augmentation": augmentation,
            **_masks(recipe, index, pick),
        }
    )
    plan = Plan(
        recipe=PlannedRecipe.model_validate(resolved.model_dump(warnings=False)),  # Which the copy did not do.
        choices=tuple(pick.made),
        shape=shape,
        memory_bytes=memory_bytes,
        least_bytes=planner.least_bytes(sizes, memory_bytes),
        usual_steps=usual_steps(hardware, planner.voxels(sizes)),
    )
    return plan if recipe.time_budget is None else _with_alternatives(plan, planner, sizes)


def _grid(recipe: Recipe, facts: Sequence[CaseFacts], hardware: Hardware, pick: _Choices) -> dict[str, Any]:
    """Choose dimensions, orientation, voxel size, and whether scans are cropped to the body."""
    given = (recipe.data.spacing_mm, recipe.data.patch_size)
    on_cpu = not hardware.is_cuda
    slices_pay = on_cpu and recipe.atlases.weight == 0  # Atlases are volumes.
    axes = pick("data.dimensions", recipe.data.dimensions, lambda: _dimensions(facts, *given, slices_pay=slices_pay))
    orientation = pick("data.orientation", recipe.data.orientation, lambda: _orientation(facts, axes))
    spacing = pick("data.spacing_mm", given[0], lambda: _spacing(facts, orientation, axes, on_cpu=on_cpu))
    crop = pick("data.crop_to_body", recipe.data.crop_to_body, lambda: choose_crop(recipe, facts))
    return {"dimensions": axes, "orientation": orientation, "spacing_mm": spacing, "crop_to_body": crop}


def _normalization(recipe: Recipe, index: Index, pick: _Choices) -> Any:
    """Choose how intensities are normalised, of which a recipe may give a part."""
    facts = list(index.facts.values())
    ways = choose_normalization(recipe.data.normalization, index.channels, facts)
    pick.tell("data.normalization", ways, normalization_reason(ways, index.channels, facts))
    return ways


def _delivery(recipe: Recipe, hardware: Hardware, kept_bytes: int, pick: _Choices) -> dict[str, Any]:
    """Choose where batches are made, and by how many processes."""
    data = recipe.data
    resident = pick("data.resident", data.resident, lambda: choose_resident(hardware, kept_bytes, data.workers))
    workers = pick("data.workers", data.workers, lambda: choose_workers(hardware, resident))
    return {"workers": workers, "resident": resident}


def _augmentation(recipe: Recipe, choose: Callable[[str], tuple[Any, str]], pick: _Choices) -> AugmentationChoices:
    """Choose what the augmentation leaves open."""
    given = recipe.augmentation
    chosen = {key: pick(f"augmentation.{key}", getattr(given, key), partial(choose, key)) for key in CHOSEN}
    return given.model_copy(update=chosen)


def _masks(recipe: Recipe, index: Index, pick: _Choices) -> dict[str, Any]:
    """Choose what masks consist of, and what is done to predicted ones."""
    return {"regions": _regions(recipe, index, pick), "postprocessing": _postprocessing(recipe, index, pick)}


def _postprocessing(recipe: Recipe, index: Index, pick: _Choices) -> tuple[StepChoice, ...]:
    """Choose what is done to predicted masks; segments of a training without labels have no known shape.

    With regions nothing is chosen: what is painted of one in a mask is not its shape.
    """
    labels = index.labels if recipe.segments is None and not index.dataset.targets else {}
    pieces = [found.largest_pieces for found in index.facts.values()]
    chosen: tuple[StepChoice, ...] = pick(
        "postprocessing", recipe.postprocessing, partial(choose_postprocessing, labels, pieces)
    )
    return chosen


def _regions(recipe: Recipe, index: Index, pick: _Choices) -> dict[str, tuple[int, ...]] | None:
    """Choose whether labels or regions are trained on: the dataset may ask for regions."""
    if not index.dataset.targets:
        return None
    own = {index.labels[region.label]: region.values for region in index.dataset.targets}
    reason = "dataset.json asks for them (regions_class_order)"
    chosen: dict[str, tuple[int, ...]] = pick("regions", recipe.regions, lambda: (own, reason))
    return chosen


def _open_to_time(recipe: Recipe, hardware: Hardware, axes: int, voxels: int, pick: _Choices) -> tuple[Any, Any, Any]:
    """Choose steps, memory format and members; with a time budget the machine's pace does so later."""
    layout = recipe.network.memory_format
    members = recipe.network.members
    if recipe.time_budget is not None:
        return recipe.max_steps, layout, members
    layout = pick("network.memory_format", layout, lambda: _memory_format(hardware, axes))
    members = pick("network.members", members, lambda: (1, "with time_budget, as many as it has time for"))
    return pick("max_steps", recipe.max_steps, lambda: _steps(hardware, voxels, members)), layout, members


def _with_alternatives(plan: Plan, planner: SizePlanner, sizes: Sizes) -> Plan:
    """Return a plan with what a time budget may choose instead, once the machine is timed."""
    wider = None
    wide = planner.wider(sizes)
    if wide:
        network = plan.recipe.network.model_copy(update=wide.of_network)
        wider = plan.recipe.model_copy(update={"network": network})
    lighter = tuple(_lighter(plan.recipe, planner, sizes))
    return replace(plan, wider=wider, lighter=lighter, most_members=planner.most_members(wide or sizes))


def _lighter(recipe: PlannedRecipe, planner: SizePlanner, sizes: Sizes) -> Iterator[tuple[PlannedRecipe, float]]:
    """Yield a resolved recipe with less and less to do in a step, and the share that this is."""
    whole = planner.voxels(sizes)
    for less in planner.lighter(sizes):
        units = recipe.data.units if planner.recipe.data.units != "auto" else planner.units(less)[0]
        data = recipe.data.model_copy(update=less.of_data | {"units": units})
        network = recipe.network.model_copy(update=less.of_network)
        yield recipe.model_copy(update={"data": data, "network": network}), planner.voxels(less) / whole


def _dimensions(facts: Sequence[CaseFacts], *given: Any, slices_pay: bool) -> tuple[int, str]:
    axes = choose_dimensions(facts, *given, slices_pay=slices_pay)
    if any(setting != "auto" for setting in given):
        return axes, "as many numbers as the recipe gives for voxel size or patch"
    single = flat(facts)
    if axes == 2 and 2 * single <= len(facts):
        return axes, "slices are far apart, and a CPU makes many more steps with slices than with volumes"
    return axes, f"{single} of {len(facts)} scans are one slice" if single else "the scans are volumes"


def _orientation(facts: Sequence[CaseFacts], axes: int) -> tuple[str, str]:
    turned = "every scan is turned to one orientation, and each mask back to its scan's"
    return choose_orientation(facts, axes), turned if axes == 3 else f"{turned}; the third axis is cut into slices"


def _spacing(facts: Sequence[CaseFacts], orientation: str, axes: int, *, on_cpu: bool) -> tuple[tuple[float, ...], str]:
    spacing = choose_spacing(facts, orientation)[:axes]
    reason = f"the median voxel of {len(facts)} scans, in mm"
    if axes == 2:
        shape = median_shape(facts, orientation, spacing)[:axes]
        coarser = coarser_plane(spacing, shape)
        # A scan of one slice is often one whose details count, such as a photograph of cells.
        if not on_cpu or coarser == spacing or 2 * flat(facts) > len(facts):
            return spacing, reason
        return coarser, f"{reason}, {coarser[0] / spacing[0]:.2g} times as long, so that a CPU sees enough slices"
    axis = coarse_axis(facts, orientation)
    if axis is None:
        return spacing, reason
    where = f"slices are far apart along {orientation[axis]}"
    return spacing, f"{reason}; {where}, where the 10th percentile keeps the slices of nine scans in ten"


def choose_precision(hardware: Hardware) -> str:
    """Return bfloat16 where it pays, else float16 on CUDA, else float32."""
    if hardware.bfloat16 and not hardware.float32_is_faster:
        return "bfloat16"
    return "float16" if hardware.is_cuda else "float32"


def _precision(hardware: Hardware) -> tuple[str, str]:
    precision = choose_precision(hardware)
    if precision != "float32":
        return precision, "the fastest on this device"
    measured = "bfloat16 is slower on this device, as a convolution was timed"
    return precision, measured if hardware.bfloat16 else "this device has nothing faster"


def usual_steps(hardware: Hardware, voxels: int) -> int:
    """Return how many steps a network has where nothing else is said; ``voxels`` are those of all samples of a step."""
    if hardware.is_cuda:
        return DEFAULT_STEPS_CUDA
    return DEFAULT_STEPS_SMALL if voxels <= SMALL_STEP else DEFAULT_STEPS


def _memory_format(hardware: Hardware, axes: int) -> tuple[str, str]:
    if axes == 2 and not hardware.is_cuda:
        return "channels_last", "a CPU takes less time for slices with it"
    return "contiguous", "with time_budget, what is faster here"


def _steps(hardware: Hardware, voxels: int, members: int) -> tuple[int, str]:
    time = "an hour or two of a GPU" if hardware.is_cuda else "a quarter of an hour to an hour of two cores"
    each = " for each network" if members > 1 else ""
    return members * usual_steps(hardware, voxels), f"{time}{each}; with time_budget as many as fit into it"
