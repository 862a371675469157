"""Build networks, sources, the training step and the course from settings; engines never see settings themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pipeline.decisions import NONE
from pipeline.engines.averaging import WeightAverage
from pipeline.engines.convolutions import convolve_soundly
from pipeline.engines.ensemble import DeepEnsemble
from pipeline.engines.optimizers import OPTIMIZERS
from pipeline.engines.schedules import SCHEDULES, Schedule
from pipeline.engines.sources import SOURCES
from pipeline.engines.steps import TrainingStep
from pipeline.errors import Problem, UserError, first_line
from pipeline.memory import is_out_of_memory
from pipeline.networks import NETWORKS, recompute_blocks, to_channels_last
from pipeline.pacing.course import Course
from pipeline.runs.objectives import build_objective
from pipeline.runs.predictors import precision_of
from pipeline.runs.refusals import memory_error_of, refuse_losses, refuse_mixing, refuse_parts, refuse_patch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from pipeline.decisions import Decisions
    from pipeline.engines.sources import Source
    from pipeline.planning.settings import Settings
    from pipeline.types import Task


def build_network(settings: Settings, task: Task) -> torch.nn.Module:
    """Build the network, or an ensemble, on the device of the settings, with weights drawn by their seed.

    Raises:
        UserError: The network refuses its options, such as ones that contradict each other, or memory runs out.
    """
    name = settings.network.name
    try:
        return make_network(settings, task).to(settings.device)
    except (ValueError, TypeError, RuntimeError, IndexError, AssertionError, MemoryError) as error:
        if is_out_of_memory(error):
            raise memory_error_of(error, settings, "to build the network") from None
        remedy = "`fewmask components` lists every network and its options"
        if not NETWORKS[name].__module__.startswith("pipeline."):
            remedy = f"its constructor is called with {', '.join(sorted(NETWORKS.given))}, and with these options"
        problem = Problem("network.options", "bad-network", f"{name} refuses them: {first_line(error)}", remedy)
        raise UserError("The network cannot be built.", [problem]) from error


def make_network(settings: Settings, task: Task) -> torch.nn.Module:
    """Build the network as :func:`build_network` does, on PyTorch's default device; its exceptions are not caught."""
    torch.manual_seed(settings.seed)
    networks = [_draw_network(settings, task) for _ in range(settings.network.members)]
    network = networks[0] if len(networks) == 1 else DeepEnsemble(networks, regions=bool(task.regions))
    return _laid_out(network, settings)


def _draw_network(settings: Settings, task: Task) -> torch.nn.Module:
    network: torch.nn.Module = NETWORKS.build(
        settings.network.name,
        settings.network.options,
        spatial_dims=settings.data.dimensions,
        in_channels=len(task.channels),
        out_channels=len(task.outputs),
    )
    convolve_soundly(network)
    return network


def _laid_out(network: torch.nn.Module, settings: Settings) -> torch.nn.Module:
    if settings.network.memory_format == "channels_last":
        to_channels_last(network)
    return network


def build_sources(settings: Settings, task: Task, network: torch.nn.Module) -> tuple[Source, ...]:
    """Build the recipe's sources.

    Args:
        settings: The settings, with the choice of sources.
        task: The labels and channels, for further networks.
        network: The network that is trained.

    Raises:
        UserError: A source refuses its options or the network.
    """

    def new_network(number: int) -> torch.nn.Module:
        torch.manual_seed(settings.seed + number)
        return _laid_out(_draw_network(settings, task), settings).to(settings.device)

    sources = []
    for n, choice in enumerate(settings.sources):
        try:
            source = SOURCES.build(choice.source, choice.options, student=network, new_network=new_network)
            source.regions = bool(task.regions)
            sources.append(source)
        except ValueError as error:
            problem = Problem(f"sources.{n}", "bad-component", str(error), "correct its options, or leave it out")
            raise UserError("A source cannot be built.", [problem]) from error
    return tuple(sources)


def build_step(settings: Settings, task: Task, weights: Mapping[str, Tensor] | None = None) -> TrainingStep:
    """Build the training step, and try its network on one patch of zeros.

    Args:
        settings: The settings.
        task: The labels and channels.
        weights: What the network begins with, by name; None for weights drawn by the seed.

    Raises:
        UserError: The network cannot take the patch, or another part cannot be built.
    """
    network = build_network(settings, task)
    if weights is not None:
        network.load_state_dict(weights)
    choice = settings.optimizer
    refuse_patch(network, settings, task)
    refuse_parts(settings)
    objective = build_objective(settings, task.labels, task.regions)
    refuse_losses(settings, objective, task)
    sources = build_sources(settings, task, network)
    average = None
    if choice.averaging:
        average = WeightAverage(network, choice.averaging)
    if settings.network.recompute:  # Not of the average, which only predicts.
        _recompute(network, settings)
    trained = [network, *(source.network for source in sources if source.network is not None)]
    refuse_mixing(settings, trained)
    return TrainingStep(
        network=network,
        objective=objective,
        optimizer=build_optimizer(settings, trained),
        schedule=Schedule(
            choice.learning_rate, choice.warmup, SCHEDULES.build(choice.schedule.name, choice.schedule.options)
        ),
        course=build_course(settings),
        precision=precision_of(settings),
        clip_norm=choice.clip_norm,
        seed=settings.seed,
        alternate=settings.alternate,
        average=average,
        accumulate=settings.data.accumulate,
        units=settings.data.units,
        sources=sources,
    )


def build_optimizer(settings: Settings, networks: Sequence[torch.nn.Module]) -> torch.optim.Optimizer:
    """Build the optimizer for all weights of some networks.

    Raises:
        UserError: The optimizer refuses its options.
    """
    choice = settings.optimizer
    try:
        optimizer: torch.optim.Optimizer = OPTIMIZERS.build(
            choice.name,
            choice.options,
            parameters=[parameter for network in networks for parameter in network.parameters()],
            learning_rate=choice.learning_rate,
            weight_decay=choice.weight_decay,
        )
    except ValueError as error:
        remedy = "`fewmask components` lists every optimizer and its options"
        problem = Problem("optimizer.options", "bad-component", f"{choice.name}: {error}", remedy)
        raise UserError("The optimizer cannot be built.", [problem]) from error
    return optimizer


def build_course(settings: Settings, decided: Decisions = NONE) -> Course:
    """Build the course of a training from its number of steps and the decisions that were made so far.

    Raises:
        UserError: The corrections contradict each other or the number of steps.
    """
    try:
        return Course(settings.max_steps, dict(decided.corrections), dict(decided.threads))
    except ValueError as error:
        problem = Problem("decided.corrections", "bad-recipe", str(error), "copy them from the run that made them")
        raise UserError("The recipe does not fit itself.", [problem]) from None


def _recompute(network: torch.nn.Module, settings: Settings) -> None:
    try:
        recompute_blocks(network)
    except ValueError as error:
        message = f"{settings.network.name}: {error}"
        remedy = "give false, and for less memory data.accumulate"
        problem = Problem("network.recompute", "bad-recipe", message, remedy)
        raise UserError("The recipe does not fit its network.", [problem]) from None
