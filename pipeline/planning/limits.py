"""Refuse, before anything is prepared, options that fit no scan and what takes more memory than there is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from pipeline.data.cache import preparing_bytes
from pipeline.errors import Problem, UserError, shown
from pipeline.networks import NETWORKS
from pipeline.planning.spacing import median_shape

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pipeline.data.index import Index
    from pipeline.planning.hardware import Hardware
    from pipeline.recipe import Recipe


def refuse_scans(
    index: Index, orientation: str, spacing_mm: Sequence[float], hardware: Hardware, *, given: bool
) -> None:
    """Refuse every scan that takes more memory to resample than the machine has, before any is resampled.

    Args:
        index: The checked dataset.
        orientation: Of the grid.
        spacing_mm: Its voxel size.
        hardware: The machine; nothing is refused where its memory is not known.
        given: Whether the recipe gives the voxel size.

    Raises:
        UserError: There is such a scan.
    """
    problems = []
    for case in index.dataset.cases:
        if case.id not in index.facts or hardware.machine_bytes is None:
            continue
        facts = index.facts[case.id]
        shape = median_shape([facts], orientation, spacing_mm)
        needed = preparing_bytes(shape, facts.channels)
        if needed > hardware.machine_bytes:
            grid = " x ".join(map(str, shape))
            message = f"would have {grid} voxels on the grid of {tuple(spacing_mm)} mm, which takes {size(needed)} of "
            message += f"memory to make, and there are {size(hardware.machine_bytes)}"
            remedy = f"give {'larger' if given else 'the'} numbers for data.spacing_mm, or leave the scan out"
            problems.append(Problem(str(case.images[0]), "out-of-memory", message, remedy, case=case.id))
    if problems:
        raise UserError("The recipe does not fit the machine.", problems)


def refuse_atlases(recipe: Recipe) -> None:
    """Refuse atlases where there is nothing that they could be registered to, or no mask that could vote."""
    if recipe.atlases.weight == 0:
        return
    if recipe.segments is not None:
        why = "masks vote, and a recipe with segments has none"
    elif recipe.data.dimensions != 3:
        why = "volumes are registered, not slices"
    else:
        return
    raise UserError("The recipe does not fit itself.", [Problem("atlases.weight", "no-atlases", why, "give 0")])


def refuse_step(needed: int | None, least: int | None, hardware: Hardware) -> None:
    """Refuse a step of which even the least that the estimate may mean is more than the device has.

    Args:
        needed: The estimate; None where it is not known.
        least: The least that it may mean.
        hardware: The device.

    Raises:
        UserError: It is.
    """
    if needed is None or least is None or hardware.memory_bytes is None or least <= hardware.memory_bytes:
        return
    message = f"a step is estimated to take {size(needed)}, and {hardware.device} has {size(hardware.memory_bytes)}"
    remedy = "lower data.patch_size, data.batch_size or network.options.channels, or give auto"
    problem = Problem("data.batch_size", "out-of-memory", message, remedy)
    raise UserError("The recipe does not fit the device.", [problem])


def refuse_options(name: str, options: Mapping[str, Any], axes: int) -> None:
    """Refuse strides or kernels of a network that do not have a number for each axis.

    Raises:
        UserError: They do not.
    """
    for option in ("strides", "kernels"):
        given = options.get(option) if option in NETWORKS.options(name) else None
        for step in given or ():
            if not isinstance(step, list | tuple) or len(step) != axes:
                message = f"expected lists of {axes} numbers, one an axis, not {shown(step)}"
                problem = Problem(f"network.options.{option}", "bad-network", message, "give them, or auto")
                raise UserError("The recipe does not fit the dataset.", [problem])


def refuse_unbuildable(name: str, build: Callable[[], torch.nn.Module]) -> None:
    """Build a network of ours without data: in earnest, one that is refused might fill the memory first.

    Raises:
        UserError: It refuses its options: each is of the right type, but they do not go together.
    """
    if not NETWORKS[name].__module__.startswith("pipeline."):
        return
    try:
        with torch.device("meta"):
            build()
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        message = f"{name} refuses them: {str(error).partition(chr(10))[0] or type(error).__name__}"
        remedy = "`fewmask components` lists every network and its options"
        problem = Problem("network.options", "bad-network", message, remedy)
        raise UserError("The network cannot be built.", [problem]) from None


def size(count: int) -> str:
    """Write bytes for people.

    >>> size(512), size(3_400_000_000)
    ('0.0 GB', '3.4 GB')
    """
    return f"{count / 1e9:.1f} GB"
