"""The registries of everything that a recipe can name."""

from __future__ import annotations

from dataclasses import fields

from pipeline.data.augmentation import AUGMENTATIONS
from pipeline.data.layouts import LAYOUTS
from pipeline.engines.optimizers import OPTIMIZERS
from pipeline.engines.schedules import SCHEDULES
from pipeline.engines.sources import SOURCES
from pipeline.losses import LOSSES
from pipeline.metrics.registered import METRICS
from pipeline.networks import NETWORKS
from pipeline.prediction.postprocessing import POSTPROCESSING
from pipeline.registry import Components

COMPONENTS = Components(
    losses=LOSSES,
    sources=SOURCES,
    networks=NETWORKS,
    augmentations=AUGMENTATIONS,
    optimizers=OPTIMIZERS,
    schedules=SCHEDULES,
    metrics=METRICS,
    postprocessing=POSTPROCESSING,
)
# What `fewmask components` lists.
REGISTRIES = (*(getattr(COMPONENTS, field.name) for field in fields(COMPONENTS)), LAYOUTS)
