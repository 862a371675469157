"""How large the structures of masks are."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipeline.prediction.postprocessing import voxel_ml
from pipeline.reports.files import write_csv

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from pipeline.nifti.volume import Scan
    from pipeline.types import Task


class Volume(NamedTuple):
    """How large a structure is in a mask: one row of ``volumes.csv``.

    Attributes:
        mask: The mask's name.
        label: Its value.
        name: Its name.
        voxels: 0 where it is not in the mask.
        volume_ml: Their volume.
    """

    mask: str
    label: int
    name: str
    voxels: int
    volume_ml: float


def volumes_in(mask: Scan, labels: Mapping[int, str], task: Task | None = None) -> list[Volume]:
    """Return how large each label of a mask is, in their order; one that is not there has 0 voxels.

    Args:
        mask: As it was read.
        labels: Values and names, without background.
        task: Whose regions, if it has any, the labels stand for; None for labels that exclude each other.
    """
    counts: dict[int, int] = {}
    for plane in np.moveaxis(mask.labels, -1, 0):
        for label, count in zip(*np.unique(plane, return_counts=True), strict=True):
            counts[int(label)] = counts.get(int(label), 0) + int(count)
    one = voxel_ml(mask.spacing_mm)
    volumes = []
    for label, name in labels.items():
        values = task.values_of(label) if task else (label,)
        voxels = sum(counts.get(value, 0) for value in values)
        # Without the last digits, in which nothing but rounding stands.
        volumes.append(Volume(mask.path.name, label, name, voxels, float(f"{voxels * one:.12g}")))
    return volumes


def write_volumes(path: Path, volumes: Iterable[Volume]) -> None:
    """Write a table of one row a label of a mask."""
    write_csv(path, Volume._fields, (volume._asdict() for volume in volumes))
