"""Choose what a recipe leaves ``auto``: orientation, voxel size, patch, batch, precision, workers."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np

from pipeline.planning.normalization import choose_normalization

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pipeline.data.check import Index
    from pipeline.data.inspection import CaseFacts
    from pipeline.recipe import Recipe

# A U-Net of four levels halves three times.
PATCH_MULTIPLE = 8
# What a step of the default network takes about half a second for on two cores with bfloat16.
CPU_SAMPLES, CPU_PATCH_VOXELS = 4, 64**3
CUDA_SAMPLES, CUDA_PATCH_VOXELS = 4, 128**3
FLAT_SAMPLES, FLAT_PATCH_VOXELS = 16, 256**2


@dataclass(frozen=True)
class Hardware:
    """The device that a run will use.

    Attributes:
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        bfloat16: Whether it multiplies bfloat16 natively.
        cores: Processor cores for preparing batches.
    """

    device: str
    bfloat16: bool
    cores: int

    @property
    def is_cuda(self) -> bool:
        """Whether the device is a CUDA device."""
        return self.device.startswith("cuda")


def resolve(recipe: Recipe, index: Index, hardware: Hardware) -> Recipe:
    """Return the recipe with a value for every ``auto``; what the user chose stays.

    Args:
        recipe: As read.
        index: The checked dataset, from whose geometry spacing and patch follow.
        hardware: From which device, batch, precision and workers follow.
    """
    facts = list(index.facts.values())
    data = recipe.data
    axes = _or_auto(data.dimensions, lambda: choose_dimensions(facts, data.spacing_mm, data.patch_size))
    orientation = _or_auto(data.orientation, lambda: choose_orientation(facts, axes))
    spacing = _or_auto(data.spacing_mm, lambda: choose_spacing(facts, orientation)[:axes])
    shape = median_shape(facts, orientation, spacing)[:axes]
    samples, limit = _budget(axes, hardware)
    # Where there are segments to find, every scan is unlabelled, and one batch has the whole step.
    semi = recipe.segments is None and any(term.on != "labelled" and term.weight > 0 for term in recipe.objective)
    share = max(1, samples // 2 if semi else samples)
    choices: dict[str, Any] = {
        "dimensions": axes,
        "orientation": orientation,
        "spacing_mm": spacing,
        "normalization": choose_normalization(data.normalization, index.channels, facts),
        "patch_size": _or_auto(data.patch_size, lambda: choose_patch(shape, limit)),
        "batch_size": _or_auto(data.batch_size, lambda: share),
        "unlabelled_batch_size": _or_auto(data.unlabelled_batch_size, lambda: share),
        "workers": _or_auto(data.workers, lambda: min(8, hardware.cores - 1) if hardware.is_cuda else 0),
    }
    flips = _or_auto(recipe.augmentation.flip_axes, lambda: choose_flips(index.labels.values(), orientation))
    return recipe.model_copy(
        update={
            "device": hardware.device,
            "layout": recipe.layout.model_copy(update={"name": index.dataset.layout}),
            "precision": _or_auto(recipe.precision, lambda: choose_precision(hardware)),
            "data": data.model_copy(update=choices),
            "augmentation": recipe.augmentation.model_copy(update={"flip_axes": flips}),
        }
    )


def _or_auto(value: Any, choose: Any) -> Any:
    return choose() if value == "auto" else value


def _budget(dimensions: int, hardware: Hardware) -> tuple[int, int]:
    if dimensions == 2:
        return FLAT_SAMPLES, FLAT_PATCH_VOXELS
    return (CUDA_SAMPLES, CUDA_PATCH_VOXELS) if hardware.is_cuda else (CPU_SAMPLES, CPU_PATCH_VOXELS)


def choose_precision(hardware: Hardware) -> str:
    """Return bfloat16 where the device has it, else float16 on CUDA, else float32."""
    if hardware.bfloat16:
        return "bfloat16"
    return "float16" if hardware.is_cuda else "float32"


def choose_flips(labels: Iterable[str], orientation: str) -> tuple[int, ...]:
    """Return the left-right axis, or none where a label's name tells left from right, or might if it had a name.

    >>> choose_flips(["background", "liver"], "RAS"), choose_flips(["left kidney"], "RAS")
    ((0,), ())
    """
    names = list(labels)
    words = {word.lower() for name in names for word in re.findall("[A-Z]?[a-z]+|[A-Z]+", name)}
    sided = words & {"left", "right", "l", "r", "lt", "rt", "lh", "rh"}
    nameless = sum(re.fullmatch(r"label \d+", name) is not None for name in names) > 1
    return () if sided or nameless else tuple(axis for axis, code in enumerate(orientation) if code in "RL")


def choose_dimensions(facts: Sequence[CaseFacts], *given: Any) -> int:
    """Return the length of whatever is given for each axis; else 2 where most scans are one slice, and 3 otherwise."""
    lengths = [len(setting) for setting in given if setting != "auto"]
    flat = sum(min(case.shape) == 1 for case in facts)
    return lengths[0] if lengths else 2 if 2 * flat > len(facts) else 3


def choose_orientation(facts: Sequence[CaseFacts], dimensions: int) -> str:
    """Return RAS; in 2-D with the axis last along which most scans have one slice, or else the thickest slices."""
    if dimensions == 3:
        return "RAS"
    votes = [0, 0, 0]
    for case in facts:
        shape, spacing = _oriented(case.shape, case, "RAS"), _oriented(case.spacing_mm, case, "RAS")
        # Of axes that are alike the last, so that isotropic volumes are cut in axial slices.
        votes[max(range(3), key=lambda axis: (shape[axis] == 1, round(spacing[axis], 2), axis))] += 1
    last = votes.index(max(votes))
    return "".join(code for axis, code in enumerate("RAS") if axis != last) + "RAS"[last]


def choose_spacing(facts: Sequence[CaseFacts], orientation: str) -> tuple[float, ...]:
    """Return the median voxel size along each oriented axis, in mm."""
    spacings = np.array([_oriented(case.spacing_mm, case, orientation) for case in facts])
    return tuple(round(float(value), 4) for value in np.median(spacings, axis=0))


def median_shape(facts: Sequence[CaseFacts], orientation: str, spacing_mm: Sequence[float]) -> tuple[int, ...]:
    """Return the median shape of the scans once they have the voxel size ``spacing_mm``."""
    target = np.array([*spacing_mm, *(1.0,) * (3 - len(spacing_mm))])
    shapes = [
        np.array(_oriented(case.shape, case, orientation)) * _oriented(case.spacing_mm, case, orientation) / target
        for case in facts
    ]
    return tuple(max(1, round(float(n))) for n in np.median(shapes, axis=0))


def choose_patch(shape: Sequence[int], limit: int) -> tuple[int, ...]:
    """Return the median shape, rounded up to multiples of 8, its longest side shortened until it has ``limit`` voxels.

    >>> choose_patch((36, 50, 35), 64**3)
    (40, 56, 40)
    >>> choose_patch((240, 240, 155), 64**3)
    (64, 64, 64)
    """
    patch = [math.ceil(n / PATCH_MULTIPLE) * PATCH_MULTIPLE for n in shape]
    while math.prod(patch) > limit:
        patch[patch.index(max(patch))] -= PATCH_MULTIPLE
    return tuple(patch)


def _oriented(values: Sequence[Any], case: CaseFacts, orientation: str) -> tuple[Any, ...]:
    """Reorder one number an axis of the file into the order of an orientation."""
    codes = nib.aff2axcodes(np.array(case.affine))
    pairs = {"R": "RL", "L": "RL", "A": "AP", "P": "AP", "S": "SI", "I": "SI"}
    return tuple(values[next(i for i, code in enumerate(codes) if code in pairs[wanted])] for wanted in orientation)
