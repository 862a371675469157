"""Judge what a checkpoint declares before anything of that size is made.

A checkpoint says how large its network is, and what it is to be given. All of that is tried on PyTorch's ``meta``
device, where a tensor has a shape and no data: the weights that the network would have must be those that the file
holds, it must take the recipe's patch, and no single tensor on the way may be larger than the machine's memory.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.nn.modules import module

from pipeline.engines.predictor import Predictor
from pipeline.errors import Problem, UserError
from pipeline.networks import NETWORKS
from pipeline.planning.limits import size
from pipeline.runs import build

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from torch import Tensor, nn

    from pipeline.planning.hardware import Hardware
    from pipeline.recipe import Recipe
    from pipeline.types import Task

# A network registers more than it has weights: some it replaces, and most of its parts have none.
PARTS = 50
REMEDY = "use a checkpoint that Fewmask wrote"


def refuse_declared(path: Path, recipe: Recipe, task: Task, weights: object, hardware: Hardware) -> None:
    """Refuse a checkpoint that declares more, or something else, than it holds.

    A network of a plugin that cannot be built or run without data is left to itself, since plugins are trusted.

    Args:
        path: The checkpoint.
        recipe: That it holds.
        task: That it holds.
        weights: That it holds, by name.
        hardware: What the network is to run on.

    Raises:
        UserError: It does.
    """
    name, options = recipe.network.name, recipe.network.options
    messages = [text for _, text in NETWORKS.problems(name, options)] or _misfits(recipe, task)
    if not messages and not _are_named_tensors(weights):
        messages = ["its weights are no tensors by name"]
    if not messages:
        try:
            messages = _found_wrong(recipe, task, cast("dict[str, Tensor]", weights), hardware)
        except (RuntimeError, ValueError, TypeError, LookupError, AssertionError, OverflowError) as error:
            if NETWORKS[name].__module__.startswith("pipeline."):
                messages = [f"{name} cannot be made of it: {str(error).partition(chr(10))[0] or type(error).__name__}"]
    if messages:
        problem = Problem(str(path), "foreign-checkpoint", f"holds no model of ours: {messages[0]}", REMEDY)
        raise UserError("The model cannot be built.", [problem])


def _misfits(recipe: Recipe, task: Task) -> list[str]:
    """Find what is wrong with a recipe and a task that are each what they should be."""
    data, axes = recipe.data, recipe.augmentation.flip_axes
    if left_open := _open_keys(recipe.model_dump(mode="json", include={"data", "augmentation", "network"})):
        return [f"{left_open[0]} is still 'auto'"]
    lengths = {len(build.resolved(data.spacing_mm)), len(build.resolved(data.patch_size)), data.dimensions}
    return [
        *([f"spacing, patch and dimensions are of {sorted(map(str, lengths))} axes"] if len(lengths) > 1 else []),
        *(["an axis is mirrored twice"] if len(set(axes)) < len(axes) else []),
        *(["it tells of other channels than it normalises"] if len(data.normalization) != len(task.channels) else []),
    ]


def _open_keys(content: dict[str, Any], path: str = "") -> list[str]:
    """Return the dotted keys of what a plan would have filled in; options may be left to their component."""
    found = [f"{path}{key}" for key, value in content.items() if value == "auto"]
    for key, value in content.items():
        if isinstance(value, dict) and key != "options":
            found += _open_keys(value, f"{path}{key}.")
    return found


def _are_named_tensors(weights: object) -> bool:
    return isinstance(weights, dict) and all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in weights.items()
    )


def _found_wrong(recipe: Recipe, task: Task, held: Mapping[str, Tensor], hardware: Hardware) -> list[str]:
    with torch.device("meta"), _at_most(len(held)):
        network = build.make_network(recipe, task)
    declared = network.state_dict()
    for name in [*declared, *held]:
        shapes = [tuple(side[name].shape) if name in side else "nothing" for side in (declared, held)]
        if shapes[0] != shapes[1]:
            return [f"{name} is declared as {shapes[0]} and held as {shapes[1]}"]
    if _stored_bytes(declared) > _stored_bytes(held):
        return [f"it declares {_stored_bytes(declared)} bytes of weights and holds {_stored_bytes(held)}"]
    patch = tuple(build.resolved(recipe.data.patch_size))
    answer, largest = _answer(network, torch.empty(Predictor.windows, len(task.channels), *patch, device="meta"))
    if tuple(answer.shape) != (Predictor.windows, len(task.labels), *patch):
        return [f"it answers patches of {patch} with {tuple(answer.shape)}"]
    if hardware.memory_bytes is not None and largest > hardware.memory_bytes:
        return [f"patches of {patch} take {size(largest)} at once, and there are {size(hardware.memory_bytes)}"]
    return []


def _stored_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Return what tensors take without what they share: several names, or many numbers that are one."""
    storages = (tensor.untyped_storage() for tensor in tensors.values())
    return sum({storage._cdata: storage.nbytes() for storage in storages}.values())


@contextmanager
def _at_most(held: int) -> Iterator[None]:
    """Let no network be built of many more weights or parts than a file holds: their number alone could take hours."""
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


@torch.no_grad()
def _answer(network: nn.Module, images: Tensor) -> tuple[Tensor, int]:
    """Return a network's answer, and the bytes of the largest tensor on the way to it."""
    largest = images.nbytes

    def measure(_: nn.Module, __: Any, output: Any) -> None:
        nonlocal largest
        if isinstance(output, torch.Tensor):
            largest = max(largest, output.nbytes)

    for part in network.modules():
        part.register_forward_hook(measure)
    answer: Tensor = network.eval()(images)
    return answer, largest
