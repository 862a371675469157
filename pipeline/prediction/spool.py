"""Probabilities that are needed again once a label map is post-processed, on the disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pipeline.engines.postprocessing import PostprocessingStep
    from pipeline.metrics.calibration import Expectation


@dataclass
class Spool:
    """What may be asked for of each voxel: the probabilities of its label, of the background, and of labels that grow.

    Most steps change a voxel to background or, where holes are filled, to the label around it. So of a hundred classes
    few have to be kept.

    Attributes:
        label_values: The label of each class, background among them.
        steps: What is going to be done.
    """

    label_values: Sequence[int]
    steps: Sequence[PostprocessingStep]
    _file: IO[bytes] = field(default_factory=TemporaryFile, init=False)
    _parts: list[tuple[int, int, slice]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        values = np.unique(np.array(self.label_values))
        foreground = {value for value in self.label_values if value != 0}
        given = {label for step in self.steps for label in step.given_labels(tuple(foreground))}
        self._growing = sorted(given & foreground)
        self._kept = np.searchsorted(values, [0, *self._growing])

    def add(self, shares: NDArray[np.float32], codes: NDArray[np.intp], where: tuple[int, int, slice]) -> None:
        """Keep a part of a scan.

        Args:
            shares: The probability of each label, ``[labels, N]``.
            codes: The place of each voxel's label among them.
            where: The axis that planes lie across, the number of the plane, and its voxels.
        """
        own = np.take_along_axis(shares, codes[None], axis=0)
        self._file.write(np.concatenate([own, shares[self._kept]]).tobytes())
        self._parts.append(where)

    def tell(self, expectation: Expectation, found: NDArray[Any], processed: NDArray[Any]) -> None:
        """Add the post-processed label map to an expectation that knows all probabilities, and forget what was kept."""
        self._file.seek(0)
        rows = 1 + len(self._kept)
        for axis, number, part in self._parts:
            before, after = (np.moveaxis(each, axis, 0)[number].reshape(-1)[part] for each in (found, processed))
            kept = np.frombuffer(self._file.read(4 * rows * len(before)), np.float32).reshape(rows, -1)
            confidence = np.where(after == before, kept[0], kept[1])
            for label, probability in zip(self._growing, kept[2:], strict=True):
                confidence = np.where((after != before) & (after == label), probability, confidence)
            truth = expectation.true_plane(axis, number)
            expectation.add_labels(after, confidence, kept[1], None if truth is None else truth[part])
        self._file.close()
