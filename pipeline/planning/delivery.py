"""Choose what is prepared of scans, where it is kept, and by how many processes it becomes batches."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pipeline.data.inspection import CaseFacts
    from pipeline.planning.hardware import Hardware
    from pipeline.recipe import Recipe

# Of a GPU's memory, for prepared scans beside a step.
RESIDENT_SHARE = 0.05
# Scans of which the body has more are not cropped to it.
MOST_KEPT = 0.8


def voxel_bytes(channels: int) -> int:
    """Return the size of a voxel of a prepared scan or a batch: a float32 a channel and one byte of annotation."""
    return 4 * channels + 1


def prepared_bytes(facts: Iterable[CaseFacts], spacing_mm: Sequence[float]) -> int:
    """Return the size of all prepared scans; two numbers of the voxel size mean slices."""
    total = 0.0
    for case in facts:
        # Slices keep their own distance, which is about the largest of the three.
        depth_mm = 1.0 if len(spacing_mm) == 3 else max(case.spacing_mm)
        voxels = math.prod(case.shape) * math.prod(case.spacing_mm) / (math.prod(spacing_mm) * depth_mm)
        total += voxels * voxel_bytes(case.channels)
    return int(total)


def choose_crop(recipe: Recipe, facts: Sequence[CaseFacts]) -> tuple[bool, str]:
    """Choose whether prepared scans are cropped to the body."""
    if recipe.atlases.weight:
        return False, "atlases are registered to whole scans"
    share = statistics.median(math.prod(case.cropped().shape) / math.prod(case.shape) for case in facts)
    if share > MOST_KEPT:
        return False, "little of a scan is constant outside the body"
    return True, f"the body's box has {share:.0%} of a scan's voxels (median), and the rest is constant"


def choose_resident(hardware: Hardware, kept_bytes: int, workers: Any) -> tuple[bool, str]:
    """Choose whether prepared scans, of so many bytes, lie in the device's memory."""
    if not hardware.is_cuda:
        return False, "on a CPU, all memory is the machine's"
    if workers not in ("auto", 0):
        return False, "workers make the batches, as the recipe says"
    if hardware.memory_bytes is None or kept_bytes > RESIDENT_SHARE * hardware.memory_bytes:
        return False, "workers make the batches, since the scans would take much of the GPU's memory"
    return True, f"all scans take {kept_bytes / 2**20:.0f} MB of the GPU's memory, where batches are made of them"


def choose_workers(hardware: Hardware, resident: bool) -> tuple[int, str]:
    """Choose how many processes prepare batches."""
    if resident:
        return 0, "batches are made in the device's memory"
    if hardware.is_cuda:
        return min(8, hardware.cores - 1), f"{hardware.cores} cores prepare batches while the GPU computes"
    return 0, "on a CPU, workers would take the cores that the network needs"
