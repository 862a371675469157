"""What the machine has: the device that a run asks for, what that is good at, and the memory that is there and free."""

from __future__ import annotations

import os
import re
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import ignite.distributed as idist
import psutil
import torch

from pipeline import distributed
from pipeline.bounds import DEVICE
from pipeline.errors import Problem, UserError
from pipeline.memory import address_space_left
from pipeline.planning.hardware import Hardware

if TYPE_CHECKING:
    from collections.abc import Iterator

# Of control groups of both versions, by what the kernel calls them: limit and use of memory, and the line of
# `memory.stat` with what is only cached.
FILES = {
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
# Of the convolutions that are timed: samples, features, voxels along a side. All of them take a tenth of a second.
SAMPLES = 2
FEATURES = 16
SIDE = 32
ROUNDS = 3
# bfloat16 rounds; it has to be worth that.
WORTH = 0.9


def find_hardware(name: str, *, timed: bool = True) -> Hardware:
    """Return the device called ``auto``, ``cpu``, ``cuda`` or ``cuda:N``, and what it has.

    Args:
        name: The device.
        timed: Whether to time a CPU's bfloat16, which takes a tenth of a second, where the precision is still open.

    Raises:
        UserError: The name is none of these, or a CUDA device is asked for that is not there.
    """
    if not re.fullmatch(DEVICE, name):
        raise _no_device(f"is {name!r}", "give auto, cpu, cuda or cuda:N")
    # Ignite knows which of several processes this is; of what it offers, only CUDA and the CPU are ours.
    auto = idist.device() if torch.cuda.is_available() else torch.device("cpu")
    device = auto if name == "auto" else torch.device(name)
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise _no_device(f"is {name}, and this machine has {count} CUDA device(s)", "use device=auto or device=cpu")
    native = _has_bfloat16(device)
    slow = timed and native and device.type == "cpu" and not _bfloat16_pays()
    machine = _memory_bytes(torch.device("cpu"))
    return Hardware(
        device=str(device),
        bfloat16=native,
        cores=_cores(),
        memory_bytes=_memory_bytes(device),
        float32_is_faster=slow,
        machine_bytes=machine,
        processes=distributed.size(),
    )


def _no_device(message: str, remedy: str) -> UserError:
    return UserError("The device is not there.", [Problem("device", "no-device", message, remedy)])


def _cores() -> int:
    """Return the cores that this process may use, which a container or a batch system may have limited.

    Several processes on one machine share them evenly, unless Slurm has given each its own.
    """
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    own = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if distributed.size() == 1 or (own.isdecimal() and cores <= int(own)):
        return cores
    return max(1, cores // int(idist.get_nproc_per_node()))


def _memory_bytes(device: torch.device) -> int:
    """Return the memory of a CUDA device or of the machine, or what a container, job or `ulimit -v` allows of that."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    limits = [address_space_left(), *(limit for limit, _ in group_limits())]
    return min([int(psutil.virtual_memory().total), *(limit for limit in limits if limit is not None)])


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


def free_bytes(device: torch.device) -> int:
    """Return the bytes that other programs, a container or job and `ulimit -v` leave of a device's memory."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    left = [address_space_left(), *(max(0, limit - used) for limit, used in group_limits())]
    return min([int(psutil.virtual_memory().available), *(each for each in left if each is not None)])


def group_limits(
    groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> Iterator[tuple[int, int]]:
    """Yield limit and use of memory, in bytes, of this process's control group and of each above it that has a limit.

    A container's own group is at the root; a batch job's is below it. Cached files, which the kernel gives up where
    memory is short, are not counted as used.

    Args:
        groups: The file in which the kernel says which groups the process is in.
        root: The folder of all groups.
    """
    try:
        lines = [line.split(":", 2) for line in groups.read_text().splitlines()]
    except OSError:
        return
    for _, kind, path in lines:
        if kind not in FILES:
            continue
        limits, uses, cached = FILES[kind]
        top = root / kind
        own = top / path.strip("/")
        for group in (own, *own.parents[: len(own.parts) - len(top.parts)]):
            limit = _number(group / limits)
            used = _number(group / uses)
            if limit is not None and used is not None:
                yield limit, max(0, used - _numbers_in(group / "memory.stat").get(cached, 0))


def _number(path: Path) -> int | None:
    """Return the number in a file of the kernel's; None where it has a word in its place, or is not there."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _numbers_in(path: Path) -> dict[str, int]:
    """Return the numbers of a file of the kernel's by their names; nothing if it is not there."""
    try:
        rows = (line.split() for line in path.read_text().splitlines())
        return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdecimal()}
    except OSError:
        return {}
