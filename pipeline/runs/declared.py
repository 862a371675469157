"""Refuse a checkpoint that declares more than it holds, before memory of the declared size is allocated.

A checkpoint's recipe declares the size of the network and of its input. The network is built on PyTorch's ``meta``
device first, where tensors have a shape and no data, and its weights must have the shapes of those in the file. The
size of its patches is compared with the machine's memory. Only then the network is built, and tried on one patch.
"""

from __future__ import annotations

import math
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.nn.modules import module
from torch.overrides import TorchFunctionMode

from pipeline.errors import Problem, UserError, first_line
from pipeline.memory import is_out_of_memory
from pipeline.networks import NETWORKS
from pipeline.planning.limits import size
from pipeline.planning.settings import settle
from pipeline.prediction.postprocessing import POSTPROCESSING
from pipeline.prediction.predictor import Predictor
from pipeline.runs import build
from pipeline.runs.refusals import memory_error_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from torch import Tensor, nn

    from pipeline.planning.hardware import Hardware
    from pipeline.planning.settings import Settings
    from pipeline.recipe import Recipe
    from pipeline.types import Task

# While it is built, a network may register so many parts and weights for each weight that it has in the end: some are
# replaced, and most parts have no weights.
PARTS = 50
# PyTorch's functions that give weights random values.
FILLING = ("normal_", "uniform_", "trunc_normal_")
# The features of a network take at least so many times the memory of its input and output.
MUCH = 3
REMEDY = "use a checkpoint that Fewmask wrote"


def settled(path: Path, recipe: Recipe) -> Settings:
    """Return the recipe of a checkpoint as settings.

    Raises:
        UserError: The recipe has an ``auto`` left.
    """
    try:
        return settle(recipe)
    except ValueError as error:
        raise _foreign(path, first_line(error)) from None


def refuse_declared(path: Path, settings: Settings, task: Task, weights: object, hardware: Hardware) -> None:
    """Refuse a checkpoint whose recipe declares another network than its weights are those of, or one too large.

    A plugin's network that cannot be built on the ``meta`` device is not compared, since plugins are trusted.

    Args:
        path: The checkpoint.
        settings: Its recipe, as settings.
        task: Its labels and channels.
        weights: Its weights, by name.
        hardware: The machine that the network is to run on.

    Raises:
        UserError: Recipe, task and weights do not fit each other, or the machine has too little memory.
    """
    name = settings.network.name
    options = settings.network.options
    messages = [text for _, text in NETWORKS.problems(name, options)] or _misfits(settings, task, hardware)
    for choice in settings.postprocessing:
        messages += [text for _, text in POSTPROCESSING.problems(choice.step, choice.options)]
    if not messages and not _are_named_tensors(weights):
        messages = ["its weights are no tensors by name"]
    if not messages:
        try:
            messages = _found_wrong(settings, task, cast("dict[str, Tensor]", weights))
        except (RuntimeError, ValueError, TypeError, LookupError, AssertionError, OverflowError) as error:
            if NETWORKS[name].__module__.startswith("pipeline."):
                messages = [f"{name} cannot be made of it: {first_line(error)}"]
    if messages:
        raise _foreign(path, messages[0])


def _misfits(settings: Settings, task: Task, hardware: Hardware) -> list[str]:
    """Find contradictions within a recipe, or with its task, and patches that are larger than the memory."""
    data = settings.data
    axes = settings.augmentation.flip_axes
    # Input and output of the windows that are predicted together, in float32: only a part of what prediction needs.
    least = 4 * Predictor.windows * (len(task.channels) + len(task.outputs)) * math.prod(data.patch_size)
    if hardware.memory_bytes is not None and MUCH * least > hardware.memory_bytes:
        return [f"patches of {data.patch_size} take over {size(MUCH * least)}, of {size(hardware.memory_bytes)}"]
    lengths = {len(data.spacing_mm), len(data.patch_size), data.dimensions}
    messages = []
    if len(lengths) > 1:
        messages.append(f"spacing, patch and dimensions are of {sorted(map(str, lengths))} axes")
    if len(set(axes)) < len(axes):
        messages.append("an axis is mirrored twice")
    if len(data.normalization) != len(task.channels):
        messages.append("it tells of other channels than it normalises")
    return messages


def _are_named_tensors(weights: object) -> bool:
    return isinstance(weights, dict) and all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in weights.items()
    )


def _found_wrong(settings: Settings, task: Task, held: Mapping[str, Tensor]) -> list[str]:
    with torch.device("meta"), _Unfilled(), _at_most(len(held)):
        network = build.make_network(settings, task)
    declared = network.state_dict()
    for name in [*declared, *held]:
        shapes = [tuple(side[name].shape) if name in side else "nothing" for side in (declared, held)]
        if shapes[0] != shapes[1]:
            return [f"{name} is declared as {shapes[0]} and held as {shapes[1]}"]
    if _stored_bytes(declared) > _stored_bytes(held):
        return [f"it declares {_stored_bytes(declared)} bytes of weights and holds {_stored_bytes(held)}"]
    return [f"{name} has values that are not finite" for name, value in held.items() if not value.isfinite().all()]


class _Unfilled(TorchFunctionMode):
    """Skips random initialisation, which on the ``meta`` device has no effect and takes PyTorch seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in FILLING:
            if args:
                return args[0]
            return kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def _stored_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Return the bytes of tensors, with memory that several of them share counted once."""
    storages = (tensor.untyped_storage() for tensor in tensors.values())
    return sum({storage._cdata: storage.nbytes() for storage in storages}.values())


@contextmanager
def _at_most(held: int) -> Iterator[None]:
    """Stop building a network with many more weights or parts than a file holds, which could take hours."""
    left = 1000 + PARTS * held

    def count(*_: object) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise ValueError(f"it is declared with many more weights than the {held} that it holds")

    with ExitStack() as stack:
        for register in (
            module.register_module_parameter_registration_hook,
            module.register_module_module_registration_hook,
        ):
            stack.callback(register(count).remove)
        yield


def refuse_declared_patch(path: Path, network: nn.Module, settings: Settings, task: Task) -> None:
    """Refuse a checkpoint whose network cannot take the patches of its recipe.

    Raises:
        UserError: The network fails, or its output has another shape.
    """
    patch = tuple(settings.data.patch_size)
    channels = len(task.channels)
    try:
        with torch.no_grad():
            output = network.eval()(torch.zeros(1, channels, *patch, device=settings.device))
    except (RuntimeError, ValueError, MemoryError) as error:
        if is_out_of_memory(error):
            raise memory_error_of(error, settings, "to try the network once") from None
        raise _foreign(path, f"it cannot take patches of {patch}: {first_line(error)}") from None
    if tuple(output.shape) != (1, len(task.outputs), *patch):
        raise _foreign(path, f"its output for patches of {patch} is {tuple(output.shape[1:])}")


def _foreign(path: Path, message: str) -> UserError:
    problem = Problem(str(path), "foreign-checkpoint", f"holds no model of ours: {message}", REMEDY)
    return UserError("The model cannot be built.", [problem])
