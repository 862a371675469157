"""Write a mask, and the files that are asked for beside each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import nifti
from pipeline.nifti.dicom_segmentation import Segment, write_segmentation
from pipeline.reports.label_tables import colours_of
from pipeline.runs.beside import ENTROPY, PROBABILITIES, segmentation_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.nifti.volume import Scan
    from pipeline.prediction.maps import Maps
    from pipeline.runs.beside import Beside
    from pipeline.types import Task


@dataclass(frozen=True, kw_only=True)
class MaskFiles:
    """The files of each mask.

    Attributes:
        beside: What is asked for beside the masks.
        task: What the model was trained to do.
        labels: Values and names of the labels that masks may hold, without background.
    """

    beside: Beside
    task: Task
    labels: Mapping[int, str]

    @cached_property
    def _segments(self) -> list[Segment]:
        colours = colours_of(self.task.labels)
        return [
            Segment(label=label, name=name, values=self.task.values_of(label), colour=str(colours[label]))
            for label, name in self.labels.items()
        ]

    def beside_mask(self, name: str) -> tuple[str, ...]:
        """Return the files that belong to the mask of a name, below its folder."""
        return self.beside.files_with(name, self.labels)

    def write(self, path: Path, mask: NDArray[Any], like: Scan, maps: Maps | None, made_of: Mapping[str, str]) -> None:
        """Write a mask and what belongs to it.

        Args:
            path: Of the mask; the folders beside it are there.
            mask: Label values ``[X, Y, Z]``.
            like: The scan that was segmented.
            maps: Its probabilities and their entropy, if these are asked for.
            made_of: What a DICOM segmentation tells of the model and its settings.
        """
        folder = path.parent
        name = path.name
        nifti.save_labels(path, mask, like)
        if maps is not None and maps.probabilities:
            maps.write_probabilities(folder / PROBABILITIES / name, like)
        if maps is not None and maps.entropy:
            maps.write_entropy(folder / ENTROPY / name, like)
        if self.beside.split_labels:
            for label, place in self.beside.split(self.labels).items():
                inside = np.isin(mask, self.task.values_of(label))
                nifti.save_labels(folder / place / name, inside.view(np.uint8), like)
        if self.beside.dicom_seg:
            write_segmentation(folder / segmentation_of(name), like.path, mask, self._segments, made_of)
