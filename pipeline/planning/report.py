"""The machine and its software in a few lines, for a bug report: nothing in them tells whose machine it is."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from pipeline import __version__
from pipeline.data.loaders import SHARED_MEMORY
from pipeline.planning.devices import find_hardware, free_bytes
from pipeline.planning.limits import size
from pipeline.plugins import number_trusted

# What Fewmask depends on, and the extras that change what it does.
LIBRARIES = (
    *("torch", "monai", "pytorch-ignite", "numpy", "scipy", "nibabel", "pydantic", "tyro", "rich", "pyyaml", "jinja2"),
    *("markupsafe", "matplotlib", "connected-components-3d", "edt", "isal", "llvmlite", "psutil", "resvg-py"),
    *("triton", "onnx", "onnxruntime", "onnxscript", "tensorboard", "mlflow", "wandb", "submitit"),
)
# Environment variables that change how fast it computes, or on what.
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "PYTORCH_CUDA_ALLOC_CONF")


def describe() -> dict[str, str]:
    """Return the facts in words, by name. There are no paths, and no names of users or machines among them."""
    hardware = find_hardware("cpu")
    shared = "none of its own"
    if SHARED_MEMORY.is_dir():
        shared = f"{_free(SHARED_MEMORY)} free"
    set_variables = [f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ]
    temporary = Path(tempfile.gettempdir())
    return {
        "fewmask": __version__,
        "Python": f"{platform.python_implementation()} {platform.python_version()}, {sys.getfilesystemencoding()}",
        "system": platform.platform(),
        "processor": f"{hardware.cores} core(s), {torch.backends.cpu.get_cpu_capability()}",
        "CUDA": _cuda(),
        "threads": f"{torch.get_num_threads()}, and {torch.get_num_interop_threads()} between operations",
        "variables": ", ".join(set_variables) or "none that matter",
        "memory": f"{size(free_bytes(torch.device(hardware.device)))} free of {size(hardware.memory_bytes or 0)}",
        "disk": f"{_free(Path())} free in this folder, {_free(temporary)} for temporary files",
        "shared memory": shared,
        "plugins": f"{number_trusted()} named here so far",
    } | {name: _version(name) for name in LIBRARIES}


def _cuda() -> str:
    if not torch.cuda.is_available():
        return f"no device; PyTorch is built for {torch.version.cuda or 'the CPU alone'}"
    kinds = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    return f"{torch.version.cuda}: " + "; ".join(f"{kind.name}, {size(kind.total_memory)}" for kind in kinds)


def _free(folder: Path) -> str:
    return size(shutil.disk_usage(folder).free)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
