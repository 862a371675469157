"""Say what a machine has, and what of it a plan would run short of."""

from __future__ import annotations

import math
import os
import platform
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import monai
import torch

from pipeline.data.loaders import AHEAD, SHARED_MEMORY
from pipeline.planning.delivery import prepared_bytes, voxel_bytes
from pipeline.planning.devices import free_bytes
from pipeline.planning.limits import size
from pipeline.recipe import BATCHES

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.data.index import Index
    from pipeline.planning.hardware import Hardware
    from pipeline.planning.plan import Plan

# The interpreter with PyTorch and MONAI loaded, beside what a step takes.
PROGRAM_BYTES = 10**9


@dataclass(frozen=True)
class Finding:
    """One thing that a machine has.

    Attributes:
        what: Its name.
        has: What there is of it, in words.
        needs: What the plan takes of it, in words; empty where no plan was given, or it takes nothing.
        remedy: What to do where that is too little; empty where it is enough.
    """

    what: str
    has: str
    needs: str = ""
    remedy: str = ""


def diagnose(hardware: Hardware, folder: Path, plan: Plan | None = None, index: Index | None = None) -> list[Finding]:
    """Look at the machine.

    Args:
        hardware: The device that a run would use.
        folder: Where the run would be written.
        plan: What would be trained.
        index: On what.
    """
    slow = ", float32 is faster" if hardware.float32_is_faster else ""
    precision = f"bfloat16{slow}" if hardware.bfloat16 else "no native bfloat16"
    name = torch.cuda.get_device_name(hardware.device) if hardware.is_cuda else platform.processor() or "processor"
    return [
        Finding("device", f"{hardware.device}: {name}, {precision}"),
        Finding("cores", str(hardware.cores)),
        _memory(hardware, plan),
        _disk(folder, plan, index),
        _shared_memory(plan, index),
        Finding(
            "software", f"Python {platform.python_version()}, torch {torch.__version__}, MONAI {monai.__version__}"
        ),
    ]


def _memory(hardware: Hardware, plan: Plan | None) -> Finding:
    total = hardware.memory_bytes or 0
    free = free_bytes(torch.device(hardware.device))
    has = f"{size(free)} free of {size(total)}"
    if plan is None or plan.memory_bytes is None:
        return Finding("memory", has)
    needed = plan.memory_bytes + PROGRAM_BYTES
    remedy = "close other programs, or lower data.batch_size or data.patch_size" if needed > free else ""
    return Finding("memory", has, f"about {size(needed)}", remedy)


def _disk(folder: Path, plan: Plan | None, index: Index | None) -> Finding:
    place = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(place).free
    has = f"{size(free)} free at {place}"
    if plan is None or index is None or plan.recipe.data.cache == "off":
        return Finding("disk", has)
    if not os.access(place, os.W_OK):
        return Finding("disk", f"{place} cannot be written to", "a folder for the run", "name another --output")
    data = plan.recipe.data
    kept = [case.cropped() if data.crop_to_body else case for case in index.facts.values()]
    needed = prepared_bytes(kept, data.spacing_mm)
    remedy = "make room, name a folder with data.cache=DIR, or set data.cache=off" if needed > free else ""
    return Finding("disk", has, f"about {size(needed)} for prepared scans", remedy)


def _shared_memory(plan: Plan | None, index: Index | None) -> Finding:
    if not SHARED_MEMORY.is_dir():
        return Finding("shared memory", "none of its own")
    free = shutil.disk_usage(SHARED_MEMORY).free
    has = f"{size(free)} free at {SHARED_MEMORY}"
    if plan is None or index is None or not plan.recipe.data.workers:
        return Finding("shared memory", has)
    data = plan.recipe.data
    samples = sum(int(getattr(data, BATCHES[kind])) for kind in plan.recipe.kinds)
    voxels = samples * math.prod(map(int, data.patch_size))
    needed = int(data.workers) * AHEAD * voxels * voxel_bytes(len(index.channels))
    remedy = "give the container more (docker run --shm-size), or lower data.workers" if needed > free else ""
    return Finding("shared memory", has, f"about {size(needed)} for batches of the workers", remedy)
