"""From settings to batches: the common grid, the cache of prepared scans, augmentations and streams."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

from pipeline.data.augmentation import AUGMENTATIONS, AugmentationChain, Patch, standard
from pipeline.data.cache import Cache
from pipeline.data.loaders import StepBatches, Stream
from pipeline.data.normalization import IntensityRange
from pipeline.data.resident import Resident
from pipeline.data.transforms import Grid
from pipeline.engines.sources import SOURCES
from pipeline.engines.units import own_slots
from pipeline.errors import Problem, UserError, nearest
from pipeline.losses import LOSSES
from pipeline.losses.objective import Objective, Term
from pipeline.losses.regions import RegionLoss, classes_of_regions
from pipeline.planning.settings import WindowSettings
from pipeline.types import VIEWS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pipeline.data.index import Index
    from pipeline.data.splits import Split
    from pipeline.planning.settings import Settings
    from pipeline.types import Region


def build_objective(
    settings: Settings, labels: Mapping[int, str] | None = None, regions: Sequence[Region] = ()
) -> Objective:
    """Build the objective; the second term of the same loss is named ``LOSS_2``, and so on.

    A loss whose option ``spacing_mm`` is ``data`` gets the spacing of the prepared scans.

    Args:
        settings: The settings, with the terms.
        labels: Values and names of the classes, background included, by which ``class_weights`` may be named; None for
            an objective that is not computed.

        regions: What is trained in the place of classes. Each term is then the mean over regions; of a region only
            what is inside takes part (``include_background``), unless the recipe says otherwise.

    Raises:
        UserError: Class weights name a class that is not there.
    """
    seen: Counter[str] = Counter()
    terms = []
    for n, term in enumerate(settings.objective):
        options = dict(term.options)
        if options.get("spacing_mm") == "data":
            options["spacing_mm"] = settings.data.spacing_mm
        if labels is not None and isinstance(options.get("class_weights"), dict):
            options["class_weights"] = _in_order(options["class_weights"], labels, f"objective.{n}.options")
        loss = LOSSES.build(term.loss, options)
        judges = term.judges or loss.judges
        against = term.against or loss.against
        if labels is not None and regions:
            loss = _of_regions(term.loss, options, (judges, *against), labels, regions)
        terms.append(
            Term(
                name=numbered(term.loss, seen),
                loss=loss,
                on=term.on,
                judges=judges,
                against=against,
                weight=term.weight,
                ramp=term.ramp,
            )
        )
    return Objective(terms)


def _of_regions(
    name: str, options: dict[str, Any], names: Sequence[str], labels: Mapping[int, str], regions: Sequence[Region]
) -> RegionLoss:
    """Build a loss of each region; the weights of classes become those of what is outside and inside of it."""
    if "include_background" in LOSSES.options(name):
        options = {"include_background": False} | options
    values = sorted(labels)
    losses = []
    for region in regions:
        own = options
        weights = options.get("class_weights")
        if weights is not None and len(weights) == len(values):
            own = options | {"class_weights": [weights[0], weights[values.index(region.label)]]}
        losses.append(LOSSES.build(name, own))
    return RegionLoss(losses, names, classes_of_regions(regions, labels))


def _in_order(weights: Mapping[str, float], labels: Mapping[int, str], where: str) -> list[float]:
    """Return the weight of each class in the order of their values; 1 for one that is not named."""
    names = [labels[value] for value in sorted(labels)]
    problems = [
        Problem(f"{where}.class_weights", "no-such-label", f"no label is called {name!r}", nearest(name, names))
        for name in weights
        if name not in names
    ]
    if problems:
        raise UserError("The objective does not fit the labels.", problems)
    return [weights.get(name, 1.0) for name in names]


def build_batches(settings: Settings, split: Split, cache: Cache) -> StepBatches:
    """Build the batches of all steps, with unlabelled ones only if a term of the objective needs them."""
    data = settings.data
    streams = {}
    if split.labelled:
        streams["labelled"] = Stream(split.labelled, data.batch_size, 1)
    if split.unlabelled and "unlabelled" in settings.kinds:
        streams["unlabelled"] = Stream(split.unlabelled, data.unlabelled_batch_size, 2)
    read = Resident(cache.get, settings.device).get if data.resident else cache.get
    return StepBatches(
        streams,
        read,
        data.patch_size,
        build_augmentation(settings),
        settings.seed,
        _views_of(settings),
        data.foreground_share,
        partial(own_slots, parts=data.accumulate, units=data.units),
    )


def build_augmentation(settings: Settings) -> AugmentationChain:
    """Build the chain of augmentations: those of every recipe, and after them the recipe's further ones."""
    more = settings.augmentation.more
    steps = standard(**settings.augmentation.model_dump(exclude={"more"}))
    steps += tuple(AUGMENTATIONS.build(choice.augmentation, choice.options) for choice in more)
    return AugmentationChain(steps, Patch(settings.data.spacing_mm, settings.data.patch_size))


def numbered(name: str, seen: Counter[str]) -> str:
    """Return a name, with its number behind it from the second time on."""
    seen[name] += 1
    if seen[name] == 1:
        return name
    return f"{name}_{seen[name]}"


def _views_of(settings: Settings) -> tuple[str, ...]:
    """Return the further views of a sample that a term or a source needs."""
    needed = {name for term in build_objective(settings).terms for name in term.needs}
    needed |= {name for choice in settings.sources for name in SOURCES[choice.source].needs}
    return tuple(view for view in VIEWS if view in needed)


def build_cache(settings: Settings, index: Index, folder: Path | None) -> Cache:
    """Build the cache of prepared scans in a folder; without one, scans are prepared whenever they are read."""
    return Cache(folder, index, build_grid(settings), build_ranges(settings))


def build_ranges(settings: Settings) -> tuple[IntensityRange | None, ...]:
    """Return the range by which each channel is normalised; None for one normalised by the scan's own voxels."""
    return tuple(
        IntensityRange(way.low, way.high, way.mean, way.std) if isinstance(way, WindowSettings) else None
        for way in settings.data.normalization
    )


def build_grid(settings: Settings) -> Grid:
    """Return the common grid; with slices, the distance between them stays that of each scan."""
    x, y, z = (*settings.data.spacing_mm, 0.0)[:3]
    return Grid(settings.data.orientation, (x, y, z))
