"""Refuse settings that do not fit the network, the scans, each other or the machine's memory."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from pipeline.errors import Problem, UserError, first_line
from pipeline.losses.regions import RegionLoss
from pipeline.memory import is_out_of_memory, memory_problem
from pipeline.networks import NETWORKS
from pipeline.plugins import told_of_plugin
from pipeline.recipe import BATCHES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipeline.losses.objective import Objective
    from pipeline.planning.settings import Settings
    from pipeline.types import Task


def refuse_parts(settings: Settings) -> None:
    """Refuse batch sizes that ``data.accumulate``, and ``data.units`` within its parts, do not divide."""
    data = settings.data
    problems = []
    for kind in settings.kinds:
        size = getattr(data, BATCHES[kind])
        if size % data.accumulate:
            message = f"{data.accumulate} does not divide a batch of {size}"
            problems.append(Problem("data.accumulate", "bad-recipe", message, "give a divisor"))
        elif size // data.accumulate % data.units:
            message = (
                f"{data.units} does not divide {size // data.accumulate}, the samples of a batch, or of a part of it"
            )
            problems.append(Problem("data.units", "bad-recipe", message, "give a divisor"))
    if problems:
        raise UserError("The recipe does not fit itself.", problems)


def refuse_mixing(settings: Settings, networks: Sequence[torch.nn.Module]) -> None:
    """Refuse layers with statistics of a batch where processes share it, for these would be statistics of a unit.

    Raises:
        UserError: There are several units, and a layer is such a one.
    """
    if settings.data.units == 1:
        return
    found = {type(each).__name__ for network in networks for each in network.modules() if _mixes(each)}
    if found:
        message = f"{', '.join(sorted(found))}: its statistics are of all samples that it sees at once"
        remedy = "give data.units=1 and train in one process, or a network with another norm, such as instance"
        raise UserError("The network cannot be shared out.", [Problem("data.units", "bad-recipe", message, remedy)])


def _mixes(layer: torch.nn.Module) -> bool:
    if isinstance(layer, torch.nn.modules.instancenorm._InstanceNorm):
        return layer.track_running_stats
    return isinstance(layer, torch.nn.modules.batchnorm._BatchNorm)


def refuse_losses(settings: Settings, objective: Objective, task: Task) -> None:
    """Try each of our losses on a small batch of zeros: options may not fit the dimensions, or give no single number.

    Args:
        settings: The settings, with the size of patches.
        objective: The terms.
        task: The labels or regions, and the channels.

    Raises:
        UserError: A loss fails, gives something else than a single number, or judges what is not made of regions.
    """
    size = [min(side, 8) for side in settings.data.patch_size]
    image = torch.zeros(1, len(task.channels), *size)
    label = torch.zeros(1, 1, *size, dtype=torch.long)
    logits = torch.zeros(1, 1 if task.regions else len(task.labels), *size)
    examples = {"image": image, "label": label, "mask": label == 0, "logits": logits}
    examples |= {"teacher": logits, "reconstruction": image}
    problems = []
    for n, term in enumerate(objective.terms):
        if task.regions and "reconstruction" in term.needs:
            message = (
                f"{term.name} looks at what a network makes of segments that exclude each other, and regions do not"
            )
            problems.append(
                Problem(f"objective.{n}.loss", "bad-component", message, "leave it out, or give regions=null")
            )
            continue
        loss = term.loss.losses[0] if isinstance(term.loss, RegionLoss) else term.loss
        if not type(loss).__module__.startswith("pipeline."):
            continue
        try:
            value = loss(*(examples[name] for name in (loss.judges, *loss.against)))
            message = "gives a number a case, and a total is one number: use mean or sum"
            if value.ndim == 0:
                message = ""
        except (ValueError, RuntimeError) as error:
            message = first_line(error)
        if message:
            remedy = "`fewmask components` lists every loss and its options"
            problems.append(Problem(f"objective.{n}.options", "bad-component", f"{term.name}: {message}", remedy))
    if problems:
        raise UserError("The objective does not fit the scans.", problems)


def refuse_patch(network: torch.nn.Module, settings: Settings, task: Task) -> None:
    """Try the network on one patch of zeros.

    Raises:
        UserError: The network cannot take the patch, its output has another shape, or memory runs out.
    """
    size = tuple(settings.data.patch_size)
    expected = (1, len(task.outputs), *size)
    try:
        with torch.no_grad():
            output = network.eval()(torch.zeros(1, len(task.channels), *size, device=settings.device))
        shape = getattr(output, "shape", None)  # A plugin's network may return anything.
        if shape != expected:
            what = type(output).__name__ if shape is None else tuple(shape)
            raise ValueError(f"of one patch it makes {what}, and should make {expected}")
    except (RuntimeError, ValueError, MemoryError) as error:
        if is_out_of_memory(error):
            raise memory_error_of(error, settings, "to try the network once") from None
        if (failed := told_of_plugin(error)) is not None:
            raise failed from error
        name = settings.network.name
        remedy = "use multiples of 2 to the power of the number of levels less 1, at least twice that"
        problem = Problem("data.patch_size", "bad-patch", f"{name} cannot take {size}: {first_line(error)}", remedy)
        if not NETWORKS[name].__module__.startswith("pipeline."):
            remedy = "correct the plugin: logits have a channel a class, and as many voxels as the image"
            problem = Problem("network.name", "bad-network", f"{name}: {first_line(error)}", remedy)
        raise UserError("The recipe does not fit its network.", [problem]) from None


@contextmanager
def memory_for_step(settings: Settings) -> Iterator[None]:
    """Turn a lack of memory within a step into a ``UserError``."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        raise memory_error_of(error, settings, "for a step") from error.__cause__


def memory_error_of(error: Exception, settings: Settings, what: str) -> Exception:
    """Return a ``UserError`` that says what to make smaller if memory ran out; any other error itself.

    Args:
        error: What was raised.
        settings: The settings, with the device and the sizes of patch and batch.
        what: What the memory was for, such as ``for a step``.
    """
    if not is_out_of_memory(error):
        return error
    data = settings.data
    what = f"on {settings.device} {what} with patches of {data.patch_size}, {data.batch_size} a batch"
    remedy = "lower data.batch_size or data.patch_size; a run that has begun goes on only with its own"
    problem = memory_problem("data.batch_size", what, error, None, remedy)
    return UserError("The recipe does not fit the device.", [problem])
