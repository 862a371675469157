"""From a resolved recipe to built parts: the objects that engines are given, since they never see a recipe."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import torch

from pipeline.data.augmentation import Augmentation, Strength
from pipeline.data.cache import Cache
from pipeline.data.loaders import StepBatches, Stream
from pipeline.data.normalization import IntensityRange
from pipeline.data.resident import Resident
from pipeline.data.transforms import Grid
from pipeline.engines.averaging import WeightAverage
from pipeline.engines.course import Course
from pipeline.engines.ensemble import DeepEnsemble
from pipeline.engines.predictor import Predictor
from pipeline.engines.steps import Schedule, TrainingStep
from pipeline.errors import Problem, UserError
from pipeline.losses import LOSSES
from pipeline.losses.objective import Objective, Term
from pipeline.networks import NETWORKS, recompute_blocks, to_channels_last
from pipeline.recipe import BATCHES

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.data.check import Index
    from pipeline.data.splits import Split
    from pipeline.recipe import Recipe
    from pipeline.types import Task


def build_network(recipe: Recipe, task: Task) -> torch.nn.Module:
    """Build the network, or an ensemble of several, on the recipe's device, its weights drawn from the recipe's seed.

    Raises:
        UserError: The network refuses its options: each is of the right type, but they do not go together.
    """
    name = recipe.network.name
    try:
        network = make_network(recipe, task)
    except (ValueError, TypeError, RuntimeError, IndexError, AssertionError) as error:
        remedy = "`fewmask components` lists every network and its options"
        problem = Problem("network.options", "bad-network", f"{name} refuses them: {_first_line(error)}", remedy)
        raise UserError("The network cannot be built.", [problem]) from error
    return network.to(recipe.device)


def make_network(recipe: Recipe, task: Task) -> torch.nn.Module:
    """Build what :func:`build_network` does where PyTorch makes its tensors; what a network raises is left as it is."""
    torch.manual_seed(recipe.seed)
    members = resolved(recipe.network.members)
    networks: list[torch.nn.Module] = [
        NETWORKS.build(
            recipe.network.name,
            recipe.network.options,
            spatial_dims=recipe.data.dimensions,
            in_channels=len(task.channels),
            out_channels=len(task.labels),
        )
        for _ in range(members)
    ]
    network = networks[0] if members == 1 else DeepEnsemble(networks)
    if recipe.network.memory_format == "channels_last":
        to_channels_last(network)
    return network


def build_objective(recipe: Recipe) -> Objective:
    """Build the objective; a loss that stands twice gets a number behind its name.

    A loss whose option ``spacing_mm`` is ``data`` gets the spacing of the recipe's scans.
    """
    seen: Counter[str] = Counter()
    terms = []
    for term in recipe.objective:
        seen[term.loss] += 1
        name = term.loss if seen[term.loss] == 1 else f"{term.loss}_{seen[term.loss]}"
        options = dict(term.options)
        if options.get("spacing_mm") == "data":
            options["spacing_mm"] = resolved(recipe.data.spacing_mm)
        terms.append(Term(name, LOSSES.build(term.loss, options), term.on, term.weight, term.ramp))
    return Objective(terms)


def build_step(recipe: Recipe, task: Task) -> TrainingStep:
    """Build the training step, and let its network see one empty patch.

    Raises:
        UserError: The network cannot take the recipe's patch.
    """
    network, choice = build_network(recipe, task), recipe.optimizer
    _refuse_patch(network, recipe, len(task.channels))
    _refuse_parts(recipe)
    objective = build_objective(recipe)
    _refuse_outputs(network, recipe, objective)
    average = WeightAverage(network, choice.averaging) if choice.averaging else None
    if resolved(recipe.network.recompute):  # Not of the average, which only answers.
        _recompute(network, recipe)
    return TrainingStep(
        network,
        objective,
        torch.optim.AdamW(
            network.parameters(),
            lr=choice.learning_rate,
            weight_decay=choice.weight_decay,
            fused=recipe.device != "cpu",  # One kernel for all weights.
        ),
        Schedule(choice.learning_rate, choice.warmup),
        build_course(recipe),
        precision_of(recipe),
        choice.clip_norm,
        recipe.seed,
        recipe.alternate,
        average,
        resolved(recipe.data.accumulate),
    )


def build_course(recipe: Recipe) -> Course:
    """Build the course of a training: how many steps it has, and what was decided on the way.

    Raises:
        UserError: The corrections are not those of any training.
    """
    try:
        # Where a GPU computes, the threads neither matter nor are tried.
        threads = dict(recipe.threads) if recipe.device == "cpu" else {}
        return Course(resolved(recipe.max_steps), dict(recipe.corrections), threads)
    except ValueError as error:
        problem = Problem("corrections", "bad-recipe", str(error), "copy them from the run that made them")
        raise UserError("The recipe does not fit itself.", [problem]) from None


def _recompute(network: torch.nn.Module, recipe: Recipe) -> None:
    try:
        recompute_blocks(network)
    except ValueError as error:
        message, remedy = f"{recipe.network.name}: {error}", "give false, and for less memory data.accumulate"
        problem = Problem("network.recompute", "bad-recipe", message, remedy)
        raise UserError("The recipe does not fit its network.", [problem]) from None


def _refuse_parts(recipe: Recipe) -> None:
    data = recipe.data
    parts = resolved(data.accumulate)
    sizes = [resolved(getattr(data, BATCHES[kind])) for kind in recipe.kinds]
    messages = [f"{parts} does not divide a batch of {size}" for size in sizes if size % parts]
    problems = [Problem("data.accumulate", "bad-recipe", message, "give a divisor") for message in messages]
    if problems:
        raise UserError("The recipe does not fit itself.", problems)


def _refuse_outputs(network: torch.nn.Module, recipe: Recipe, objective: Objective) -> None:
    message = f"judges a reconstruction, and the network {recipe.network.name} makes none"
    one = network.members[0] if isinstance(network, DeepEnsemble) else network
    problems = [
        Problem(f"objective.{n}.loss", "no-decoder", f"{term.name} {message}", "use network=wnet, or leave it out")
        for n, term in enumerate(objective.terms)
        if term.loss.output == "reconstruction" and not hasattr(one, "reconstruct")
    ]
    if problems:
        raise UserError("The objective does not fit the network.", problems)


def _refuse_patch(network: torch.nn.Module, recipe: Recipe, channels: int) -> None:
    size = tuple(resolved(recipe.data.patch_size))
    try:
        with torch.no_grad():
            answer = network.eval()(torch.zeros(1, channels, *size, device=recipe.device))
        if answer.shape[2:] != size:
            raise ValueError(f"it answers with {tuple(answer.shape[2:])}")
    except torch.OutOfMemoryError:
        raise out_of_memory(recipe) from None
    except (RuntimeError, ValueError) as error:
        message = f"{recipe.network.name} cannot take {size}: {_first_line(error)}"
        remedy = "use multiples of 2 to the power of the number of levels less 1, at least twice that"
        raise UserError(
            "The recipe does not fit its network.", [Problem("data.patch_size", "bad-patch", message, remedy)]
        ) from None


def out_of_memory(recipe: Recipe) -> UserError:
    """Say that the device is too small for the recipe's patch and batch, and what to make smaller."""
    data = recipe.data
    message = f"{recipe.device} has too little memory for patches of {data.patch_size}, {data.batch_size} a batch"
    remedy = "lower data.batch_size or data.patch_size; a run that has begun goes on only with its own"
    return UserError(
        "The recipe does not fit the device.", [Problem("data.batch_size", "out-of-memory", message, remedy)]
    )


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def build_batches(recipe: Recipe, split: Split, cache: Cache) -> StepBatches:
    """Build the batches of all steps; unlabelled ones only where a term of the objective looks at them."""
    data = recipe.data
    streams = {}
    if split.labelled:
        streams["labelled"] = Stream(split.labelled, resolved(data.batch_size), 1)
    if split.unlabelled and "unlabelled" in recipe.kinds:
        streams["unlabelled"] = Stream(split.unlabelled, resolved(data.unlabelled_batch_size), 2)
    augmentation = Augmentation(Strength(**recipe.augmentation.model_dump()), resolved(data.spacing_mm))
    read = Resident(cache.get, recipe.device).get if resolved(data.resident) else cache.get
    return StepBatches(streams, read, resolved(data.patch_size), augmentation, recipe.seed)


def build_predictor(recipe: Recipe, task: Task, network: torch.nn.Module) -> Predictor:
    """Build what turns a scan's files into a label map."""
    return Predictor(
        network,
        build_grid(recipe),
        resolved(recipe.data.patch_size),
        tuple(task.labels),
        precision_of(recipe),
        ranges=build_ranges(recipe),
        mirrors=resolved(recipe.augmentation.flip_axes) if recipe.predict_mirrored else (),
    )


def build_cache(recipe: Recipe, index: Index, folder: Path | None) -> Cache:
    """Build the cache of prepared scans, in a folder or nowhere."""
    return Cache(folder, index, build_grid(recipe), build_ranges(recipe))


def build_ranges(recipe: Recipe) -> tuple[IntensityRange | None, ...]:
    """Build the way each channel is normalised; None is by the scan's own voxels."""
    return tuple(
        IntensityRange(*map(resolved, (way.low, way.high, way.mean, way.std))) if way.scheme == "ct" else None
        for way in resolved(recipe.data.normalization)
    )


def build_grid(recipe: Recipe) -> Grid:
    """Build the common grid; slices keep each scan's own distance."""
    x, y, z = (*resolved(recipe.data.spacing_mm), 0.0)[:3]
    return Grid(recipe.data.orientation, (x, y, z))


def precision_of(recipe: Recipe) -> torch.dtype:
    """Return the type of the network's arithmetic."""
    return getattr(torch, resolved(recipe.precision))  # type: ignore[no-any-return]


def resolved(value: Any) -> Any:
    """Return a setting that planning has filled in.

    Raises:
        ValueError: It is still ``auto``: the recipe was not resolved.
    """
    if value == "auto":
        raise ValueError("the recipe still holds an 'auto': resolve it first")
    return value
