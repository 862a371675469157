"""From settings to batches: the common grid, the cache of prepared scans, augmentations and streams."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pipeline.data.annotation import annotated_classes
from pipeline.data.augmentation import AUGMENTATIONS, AugmentationChain, Patch, standard
from pipeline.data.cache import Cache
from pipeline.data.loaders import StepBatches, Stream
from pipeline.data.normalization import IntensityRange
from pipeline.data.resident import Resident
from pipeline.data.transforms import Grid
from pipeline.engines.sources import SOURCES
from pipeline.engines.units import own_slots
from pipeline.planning.settings import WindowSettings
from pipeline.runs.objectives import build_objective
from pipeline.types import VIEWS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from pipeline.data.index import Index
    from pipeline.data.splits import Split
    from pipeline.planning.settings import Settings


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
        _annotated(split, list(cache.index.labels)),
        partial(own_slots, parts=data.accumulate, units=data.units),
    )


def _annotated(split: Split, values: Sequence[int]) -> dict[str, NDArray[np.bool_]]:
    """Return which classes are annotated in each case that is trained on; nothing where all are in all."""
    if all(case.annotated is None for case in split.labelled):
        return {}
    return {case.id: annotated_classes(values, case.annotated) for case in (*split.labelled, *split.unlabelled)}


def build_augmentation(settings: Settings) -> AugmentationChain:
    """Build the chain of augmentations: those of every recipe, and after them the recipe's further ones."""
    more = settings.augmentation.more
    steps = standard(**settings.augmentation.model_dump(exclude={"more"}))
    steps += tuple(AUGMENTATIONS.build(choice.augmentation, choice.options) for choice in more)
    return AugmentationChain(steps, Patch(settings.data.spacing_mm, settings.data.patch_size))


def _views_of(settings: Settings) -> tuple[str, ...]:
    """Return the further views of a sample that a term or a source needs."""
    needed = {name for term in build_objective(settings).terms for name in term.needs}
    needed |= {name for choice in settings.sources for name in SOURCES[choice.source].needs}
    return tuple(view for view in VIEWS if view in needed)


def build_cache(settings: Settings, index: Index, folder: Path | None) -> Cache:
    """Build the cache of prepared scans in a folder; without one, scans are prepared whenever they are read."""
    return Cache(
        folder=folder,
        index=index,
        grid=build_grid(settings),
        ranges=build_ranges(settings),
        background_mm=settings.data.background_mm,
        crop=(*settings.data.patch_size, 1)[:3] if settings.data.crop_to_body else None,
    )


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
