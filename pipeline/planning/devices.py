"""What the machine has: the device that a run asks for, what that is good at, and the memory that is there and free."""

from __future__ import annotations

import os
import resource
import time
from functools import cache
from pathlib import Path

import ignite.distributed as idist
import torch

from pipeline import distributed
from pipeline.errors import Problem, UserError
from pipeline.planning.hardware import Hardware

# Of the convolutions that are timed: samples, features, voxels along a side. All of them take a tenth of a second.
SAMPLES = 2
FEATURES = 16
SIDE = 32
ROUNDS = 3
# bfloat16 rounds; it has to be worth that.
WORTH = 0.9


def find_hardware(name: str) -> Hardware:
    """Return the device called ``auto``, ``cpu``, ``cuda`` or ``cuda:N``, and what it has.

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
    native = _has_bfloat16(device)
    slow = native and device.type == "cpu" and not _bfloat16_pays()
    machine = _memory_bytes(torch.device("cpu"))
    return Hardware(
        device=str(device),
        bfloat16=native,
        cores=max(1, _cores() // idist.get_nproc_per_node()) if distributed.size() > 1 else _cores(),
        memory_bytes=_memory_bytes(device),
        float32_is_faster=slow,
        machine_bytes=machine,
        processes=distributed.size(),
    )


def _cores() -> int:
    """Return the cores that this process may use, which a container or a batch system may have limited."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_bytes(device: torch.device) -> int:
    """Return the memory of a CUDA device or of the machine, or what a container or `ulimit -v` leaves of that."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")]
    found = [path.read_text().strip() for path in limits if path.is_file()]
    allowed = resource.getrlimit(resource.RLIMIT_AS)[0]
    if allowed != resource.RLIM_INFINITY:  # Of which the program and its libraries have taken a part.
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        machine = min(machine, max(0, allowed - taken))
    return min([machine, *(int(text) for text in found if text.isdigit())])


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if not hasattr(torch.cpu, "get_capabilities"):  # PyTorch 2.10 does not tell
        return False
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


@cache  # So that a process decides once.
def _bfloat16_pays() -> bool:
    """Time it: there are CPUs with instructions for bfloat16 that do float32 faster."""
    full = torch.float32
    half = torch.bfloat16
    durations: dict[torch.dtype, list[float]] = {full: [], half: []}
    for _ in range(ROUNDS):
        for precision, taken in durations.items():
            taken.append(time_convolution(precision))
    return min(durations[half]) < WORTH * min(durations[full])


def time_convolution(precision: torch.dtype) -> float:
    """Return the seconds of a convolution on the CPU, forward and backward."""
    image = torch.zeros(SAMPLES, FEATURES, SIDE, SIDE, SIDE, dtype=precision, requires_grad=True)
    kernel = torch.zeros(FEATURES, FEATURES, 3, 3, 3, dtype=precision, requires_grad=True)
    start = time.perf_counter()
    torch.nn.functional.conv3d(image, kernel, padding=1).sum().backward()  # type: ignore[no-untyped-call]
    return time.perf_counter() - start


def free_bytes(device: torch.device) -> int | None:
    """Return the bytes that may still be taken on a device; None where that is not known."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    found = [int(line.split()[1]) * 1024 for line in _lines("/proc/meminfo") if line.startswith("MemAvailable:")]
    limit, used = (_lines(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    if limit and used and limit[0].strip().isdigit():
        found.append(max(0, int(limit[0]) - int(used[0])))
    allowed = resource.getrlimit(resource.RLIMIT_AS)[0]
    taken = _lines("/proc/self/statm")
    if allowed != resource.RLIM_INFINITY and taken:
        found.append(max(0, allowed - int(taken[0].split()[0]) * os.sysconf("SC_PAGE_SIZE")))
    return min(found, default=None)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
