"""Find the device a run asks for, and what it is good at."""

from __future__ import annotations

import os
from pathlib import Path

import ignite.distributed as idist
import torch

from pipeline.errors import Problem, UserError
from pipeline.planning.hardware import Hardware


def find_hardware(name: str) -> Hardware:
    """Return the device called ``auto``, ``cpu``, ``cuda`` or ``cuda:N``, and whether it has bfloat16.

    Raises:
        UserError: A CUDA device is asked for that is not there.
    """
    # Ignite knows which of several processes this is; of what it offers, only CUDA and the CPU are ours.
    auto = idist.device() if torch.cuda.is_available() else torch.device("cpu")
    device = auto if name == "auto" else torch.device(name)
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        message = f"is {name}, and this machine has {count} CUDA device(s)"
        raise UserError(
            "The device is not there.",
            [Problem("device", "no-device", message, "use device=auto or device=cpu")],
        )
    return Hardware(str(device), _has_bfloat16(device), _cores(), _memory_bytes(device))


def _cores() -> int:
    """Return the cores that this process may use, which a container or a batch system may have limited."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory_bytes(device: torch.device) -> int:
    """Return the memory of a CUDA device or of the machine, or what a container leaves of that."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")]
    found = [path.read_text().strip() for path in limits if path.is_file()]
    return min([machine, *(int(text) for text in found if text.isdigit())])


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if not hasattr(torch.cpu, "get_capabilities"):  # PyTorch 2.10 does not tell
        return False
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
