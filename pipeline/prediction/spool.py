"""Probabilities that are needed again once a label map is post-processed, on the disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile, gettempdir
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from pipeline.files import WriteError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from pipeline.metrics.calibration import Expectation
    from pipeline.metrics.region_calibration import RegionExpectation
    from pipeline.prediction.postprocessing import PostprocessingStep

    Where = tuple[int, int, slice]


@dataclass
class Rows:
    """Rows of numbers of each voxel, ``[rows, N]``, in parts: they go to a file and come back in their order.

    Attributes:
        count: The number of rows.
    """

    count: int
    _file: IO[bytes] = field(default_factory=TemporaryFile, init=False)
    _parts: list[tuple[Where, int]] = field(default_factory=list, init=False)

    def add(self, rows: NDArray[np.float32], where: Where) -> None:
        """Keep a part of a scan: the axis that planes lie across, the number of the plane, and its voxels.

        Raises:
            WriteError: The disk of temporary files is full or fails.
        """
        values = np.ascontiguousarray(rows, np.float32)
        try:
            self._file.write(values.data)
        except OSError as error:
            raise WriteError(Path(gettempdir(), "probabilities"), error, values.nbytes) from None
        self._parts.append((where, rows.shape[1]))

    def take(self) -> Iterator[tuple[NDArray[np.float32], Where]]:
        """Yield each part and where it is, and forget them all."""
        self._file.seek(0)
        for where, voxels in self._parts:
            read = self._file.read(4 * self.count * voxels)
            yield np.frombuffer(read, np.float32).reshape(self.count, voxels), where
        self._file.close()


class Spool:
    """What may be asked for of each voxel: the probabilities of its label, of the background, and of labels that grow.

    Most steps change a voxel to background or, where holes are filled, to the label around it. So of a hundred classes
    few have to be kept.

    Args:
        expectation: Is told of the label map in the end, and knows all probabilities.
        steps: What is going to be done.
    """

    def __init__(self, expectation: Expectation, steps: Sequence[PostprocessingStep]) -> None:
        self.expectation = expectation
        foreground = {int(value) for value in expectation.values if value != 0}
        given = {label for step in steps for label in step.given_labels(tuple(foreground))}
        self._growing = sorted(given & foreground)
        self._kept = expectation.codes(np.array([0, *self._growing]))
        self._rows = Rows(1 + len(self._kept))

    def add(self, shares: NDArray[np.float32], labels: NDArray[Any], where: Where) -> None:
        """Keep a part of a scan.

        Args:
            shares: The probability of each label, ``[labels, N]``.
            labels: The label of each voxel.
            where: The axis that planes lie across, the number of the plane, and its voxels.
        """
        self.expectation.add_shares(shares)
        own = np.take_along_axis(shares, self.expectation.codes(labels)[None], axis=0)
        self._rows.add(np.concatenate([own, shares[self._kept]]), where)

    def tell(self, found: NDArray[Any], processed: NDArray[Any]) -> None:
        """Add the post-processed label map to the expectation, and forget what was kept."""
        for kept, (axis, number, part) in self._rows.take():
            before, after = (np.moveaxis(each, axis, 0)[number].reshape(-1)[part] for each in (found, processed))
            confidence = np.where(after == before, kept[0], kept[1])
            for label, probability in zip(self._growing, kept[2:], strict=True):
                confidence = np.where((after != before) & (after == label), probability, confidence)
            truth = self.expectation.true_plane(axis, number)
            self.expectation.add_labels(after, confidence, kept[1], None if truth is None else truth[part])


class RegionSpool:
    """The probability of every region at each voxel: few, and all may be asked for.

    Args:
        expectation: Is told of the label map in the end.
    """

    def __init__(self, expectation: RegionExpectation) -> None:
        self.expectation = expectation
        self._rows = Rows(len(expectation.regions))

    def add(self, shares: NDArray[np.float32], labels: NDArray[Any], where: Where) -> None:
        """Keep a part of a scan, whose labels do not matter yet; arguments as for :meth:`Spool.add`."""
        self._rows.add(shares, where)

    def tell(self, found: NDArray[Any], processed: NDArray[Any]) -> None:
        """Add the post-processed label map to the expectation, and forget what was kept."""
        for shares, (axis, number, part) in self._rows.take():
            after = np.moveaxis(processed, axis, 0)[number].reshape(-1)[part]
            truth = self.expectation.true_plane(axis, number)
            self.expectation.add(shares, after, None if truth is None else truth[part])
