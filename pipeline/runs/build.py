"""From settings to built parts: the objects that engines are given, since they never see a recipe."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from pipeline.data.augmentation import AUGMENTATIONS, AugmentationChain, Patch, standard
from pipeline.data.cache import Cache
from pipeline.data.loaders import StepBatches, Stream
from pipeline.data.normalization import IntensityRange
from pipeline.data.resident import Resident
from pipeline.data.transforms import Grid
from pipeline.decisions import NONE
from pipeline.engines.averaging import WeightAverage
from pipeline.engines.ensemble import DeepEnsemble
from pipeline.engines.optimizers import OPTIMIZERS
from pipeline.engines.postprocessing import POSTPROCESSING, LabelStep
from pipeline.engines.schedules import SCHEDULES, Schedule
from pipeline.engines.sources import SOURCES
from pipeline.engines.steps import TrainingStep
from pipeline.errors import Problem, UserError
from pipeline.losses import LOSSES
from pipeline.losses.objective import Objective, Term
from pipeline.memory import is_out_of_memory, memory_problem
from pipeline.metrics.registered import METRICS
from pipeline.networks import NETWORKS, recompute_blocks, to_channels_last
from pipeline.pacing.course import Course
from pipeline.planning.settings import WindowSettings
from pipeline.prediction.predictor import Predictor
from pipeline.recipe import BATCHES
from pipeline.terminal import note
from pipeline.types import VIEWS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from pipeline.data.check import Index
    from pipeline.data.splits import Split
    from pipeline.decisions import Decisions
    from pipeline.engines.postprocessing import PostprocessingStep
    from pipeline.engines.sources import Source
    from pipeline.metrics.registered import CaseMetric
    from pipeline.planning.settings import Settings
    from pipeline.types import Task


def build_network(settings: Settings, task: Task) -> torch.nn.Module:
    """Build the network, or an ensemble of several, on the recipe's device, its weights drawn from the recipe's seed.

    Raises:
        UserError: The network refuses its options: each is of the right type, but they do not go together.
    """
    name = settings.network.name
    try:
        network = make_network(settings, task)
    except (ValueError, TypeError, RuntimeError, IndexError, AssertionError, MemoryError) as error:
        if is_out_of_memory(error):
            raise told(error, settings, "to build the network") from None
        remedy = "`fewmask components` lists every network and its options"
        problem = Problem("network.options", "bad-network", f"{name} refuses them: {_first_line(error)}", remedy)
        raise UserError("The network cannot be built.", [problem]) from error
    return network.to(settings.device)


def make_network(settings: Settings, task: Task) -> torch.nn.Module:
    """Build what :func:`build_network` does where PyTorch makes its tensors; what a network raises is left as it is."""
    torch.manual_seed(settings.seed)
    networks = [_draw_network(settings, task) for _ in range(settings.network.members)]
    return _laid_out(networks[0] if len(networks) == 1 else DeepEnsemble(networks), settings)


def _draw_network(settings: Settings, task: Task) -> torch.nn.Module:
    network: torch.nn.Module = NETWORKS.build(
        settings.network.name,
        settings.network.options,
        spatial_dims=settings.data.dimensions,
        in_channels=len(task.channels),
        out_channels=len(task.labels),
    )
    return network


def _laid_out(network: torch.nn.Module, settings: Settings) -> torch.nn.Module:
    if settings.network.memory_format == "channels_last":
        to_channels_last(network)
    return network


def build_sources(settings: Settings, task: Task, network: torch.nn.Module) -> tuple[Source, ...]:
    """Build the recipe's sources.

    Args:
        settings: Whose ``sources`` are built.
        task: What is trained.
        network: The one that is trained.

    Raises:
        UserError: A source refuses its options or the network.
    """

    def new_network(number: int) -> torch.nn.Module:
        torch.manual_seed(settings.seed + number)
        return _laid_out(_draw_network(settings, task), settings).to(settings.device)

    sources = []
    for n, choice in enumerate(settings.sources):
        try:
            sources.append(SOURCES.build(choice.source, choice.options, student=network, new_network=new_network))
        except ValueError as error:
            problem = Problem(f"sources.{n}", "bad-component", str(error), "correct its options, or leave it out")
            raise UserError("A source cannot be built.", [problem]) from error
    return tuple(sources)


def build_objective(settings: Settings) -> Objective:
    """Build the objective; a loss that stands twice gets a number behind its name.

    A loss whose option ``spacing_mm`` is ``data`` gets the spacing of the recipe's scans.
    """
    seen: Counter[str] = Counter()
    terms = []
    for term in settings.objective:
        options = dict(term.options)
        if options.get("spacing_mm") == "data":
            options["spacing_mm"] = settings.data.spacing_mm
        terms.append(
            Term(
                name=numbered(term.loss, seen),
                loss=LOSSES.build(term.loss, options),
                on=term.on,
                judges=term.judges or "",
                against=term.against or (),
                weight=term.weight,
                ramp=term.ramp,
            )
        )
    return Objective(terms)


def build_step(settings: Settings, task: Task) -> TrainingStep:
    """Build the training step, and let its network see one empty patch.

    Raises:
        UserError: The network cannot take the recipe's patch.
    """
    network = build_network(settings, task)
    choice = settings.optimizer
    _refuse_patch(network, settings, len(task.channels))
    _refuse_parts(settings)
    objective = build_objective(settings)
    _refuse_losses(settings, objective, len(task.labels), len(task.channels))
    sources = build_sources(settings, task, network)
    average = WeightAverage(network, choice.averaging) if choice.averaging else None
    if settings.network.recompute:  # Not of the average, which only answers.
        _recompute(network, settings)
    trained = [network, *(source.network for source in sources if source.network is not None)]
    return TrainingStep(
        network,
        build_objective(settings),
        build_optimizer(settings, trained),
        Schedule(choice.learning_rate, choice.warmup, SCHEDULES.build(choice.schedule.name, choice.schedule.options)),
        build_course(settings),
        precision_of(settings),
        choice.clip_norm,
        settings.seed,
        settings.alternate,
        average,
        settings.data.accumulate,
        sources,
    )


def build_optimizer(settings: Settings, networks: Sequence[torch.nn.Module]) -> torch.optim.Optimizer:
    """Build the optimizer of all weights of some networks.

    Raises:
        UserError: It refuses its options.
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
    """Build the course of a training: how many steps it has, and what was decided on the way.

    Raises:
        UserError: The corrections are not those of any training.
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


def _refuse_parts(settings: Settings) -> None:
    data = settings.data
    parts = data.accumulate
    sizes = [getattr(data, BATCHES[kind]) for kind in settings.kinds]
    messages = [f"{parts} does not divide a batch of {size}" for size in sizes if size % parts]
    problems = [Problem("data.accumulate", "bad-recipe", message, "give a divisor") for message in messages]
    if problems:
        raise UserError("The recipe does not fit itself.", problems)


def _refuse_losses(settings: Settings, objective: Objective, classes: int, channels: int) -> None:
    """Let each of our losses judge a small empty batch: some options fit no scan of these dimensions, or no total."""
    size = [min(side, 8) for side in settings.data.patch_size]
    image = torch.zeros(1, channels, *size)
    label = torch.zeros(1, 1, *size, dtype=torch.long)
    logits = torch.zeros(1, classes, *size)
    examples = {"image": image, "label": label, "mask": label == 0, "logits": logits}
    examples |= {"teacher": logits, "reconstruction": image}
    problems = []
    for n, term in enumerate(objective.terms):
        if not type(term.loss).__module__.startswith("pipeline."):
            continue
        try:
            value = term.loss(*(examples[name] for name in (term.loss.judges, *term.loss.against)))
            message = "" if value.ndim == 0 else "gives a number a case, and a total is one number: use mean or sum"
        except (ValueError, RuntimeError) as error:
            message = _first_line(error)
        if message:
            remedy = "`fewmask components` lists every loss and its options"
            problems.append(Problem(f"objective.{n}.options", "bad-component", f"{term.name}: {message}", remedy))
    if problems:
        raise UserError("The objective does not fit the scans.", problems)


def _refuse_patch(network: torch.nn.Module, settings: Settings, channels: int) -> None:
    size = tuple(settings.data.patch_size)
    try:
        with torch.no_grad():
            answer = network.eval()(torch.zeros(1, channels, *size, device=settings.device))
        if answer.shape[2:] != size:
            raise ValueError(f"it answers with {tuple(answer.shape[2:])}")
    except (RuntimeError, ValueError, MemoryError) as error:
        if is_out_of_memory(error):
            raise told(error, settings, "to try the network once") from None
        message = f"{settings.network.name} cannot take {size}: {_first_line(error)}"
        remedy = "use multiples of 2 to the power of the number of levels less 1, at least twice that"
        raise UserError(
            "The recipe does not fit its network.", [Problem("data.patch_size", "bad-patch", message, remedy)]
        ) from None


@contextmanager
def memory_for_step(settings: Settings) -> Iterator[None]:
    """Turn an error that says that memory ran out for a step into a user's."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        raise told(error, settings, "for a step") from error.__cause__


def told(error: Exception, settings: Settings, what: str) -> Exception:
    """Return an error; where it says that memory ran out, a user's that says what to make smaller."""
    if not is_out_of_memory(error):
        return error
    data = settings.data
    what = f"on {settings.device} {what} with patches of {data.patch_size}, {data.batch_size} a batch"
    remedy = "lower data.batch_size or data.patch_size; a run that has begun goes on only with its own"
    problem = memory_problem("data.batch_size", what, error, None, remedy)
    return UserError("The recipe does not fit the device.", [problem])


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def build_batches(settings: Settings, split: Split, cache: Cache) -> StepBatches:
    """Build the batches of all steps; unlabelled ones only where a term of the objective looks at them."""
    data = settings.data
    streams = {}
    if split.labelled:
        streams["labelled"] = Stream(split.labelled, data.batch_size, 1)
    if split.unlabelled and "unlabelled" in settings.kinds:
        streams["unlabelled"] = Stream(split.unlabelled, data.unlabelled_batch_size, 2)
    read = Resident(cache.get, settings.device).get if data.resident else cache.get
    return StepBatches(streams, read, data.patch_size, build_augmentation(settings), settings.seed, _views_of(settings))


def build_augmentation(settings: Settings) -> AugmentationChain:
    """Build the augmentations of every recipe, and after them the further ones of this."""
    more = settings.augmentation.more
    steps = standard(**settings.augmentation.model_dump(exclude={"more"}))
    steps += tuple(AUGMENTATIONS.build(choice.augmentation, choice.options) for choice in more)
    return AugmentationChain(steps, Patch(settings.data.spacing_mm, settings.data.patch_size))


def build_metrics(settings: Settings) -> dict[str, CaseMetric]:
    """Build the further columns of the scores by their names; one that stands twice gets a number behind its name."""
    metrics = {}
    seen: Counter[str] = Counter()
    for choice in settings.metrics:
        metrics[numbered(choice.metric, seen)] = METRICS.build(choice.metric, choice.options)
    return metrics


def build_postprocessing(settings: Settings, task: Task) -> tuple[PostprocessingStep, ...]:
    """Build the changes to predicted label maps.

    Raises:
        UserError: One is of a label that the task does not know.
    """
    steps = tuple(POSTPROCESSING.build(choice.step, choice.options) for choice in settings.postprocessing)
    known = ", ".join(f"{value} ({name})" for value, name in task.labels.items() if value != 0)
    problems = [
        Problem(f"postprocessing.{n}.options.label", "no-such-label", f"is {step.label}", f"give one of {known}")
        for n, step in enumerate(steps)
        if isinstance(step, LabelStep) and step.label not in task.labels
    ]
    if problems:
        raise UserError("The recipe does not fit the dataset.", problems)
    return steps


def numbered(name: str, seen: Counter[str]) -> str:
    """Return a name, with a number behind it where it was seen before."""
    seen[name] += 1
    return name if seen[name] == 1 else f"{name}_{seen[name]}"


def _views_of(settings: Settings) -> tuple[str, ...]:
    """Return the further views of a sample that a term or a source looks at."""
    needed = {name for term in build_objective(settings).terms for name in term.needs}
    needed |= {name for choice in settings.sources for name in SOURCES[choice.source].needs}
    return tuple(view for view in VIEWS if view in needed)


def build_predictor(settings: Settings, task: Task, network: torch.nn.Module) -> Predictor:
    """Build what turns a scan's files into a label map."""
    return Predictor(
        network,
        build_grid(settings),
        settings.data.patch_size,
        tuple(task.labels),
        precision_of(settings),
        ranges=build_ranges(settings),
        mirrors=settings.augmentation.flip_axes if settings.predict_mirrored else (),
        postprocessing=build_postprocessing(settings, task),
        tell=note,
    )


def build_cache(settings: Settings, index: Index, folder: Path | None) -> Cache:
    """Build the cache of prepared scans, in a folder or nowhere."""
    return Cache(folder, index, build_grid(settings), build_ranges(settings))


def build_ranges(settings: Settings) -> tuple[IntensityRange | None, ...]:
    """Build the way each channel is normalised; None is by the scan's own voxels."""
    return tuple(
        IntensityRange(way.low, way.high, way.mean, way.std) if isinstance(way, WindowSettings) else None
        for way in settings.data.normalization
    )


def build_grid(settings: Settings) -> Grid:
    """Build the common grid; slices keep each scan's own distance."""
    x, y, z = (*settings.data.spacing_mm, 0.0)[:3]
    return Grid(settings.data.orientation, (x, y, z))


def precision_of(settings: Settings) -> torch.dtype:
    """Return the type of the network's arithmetic."""
    return getattr(torch, settings.precision)  # type: ignore[no-any-return]
