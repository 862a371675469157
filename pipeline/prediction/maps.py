"""Probabilities and doubt of every voxel of a scan, taken plane by plane and written a label at a time."""

from __future__ import annotations

import math
import weakref
from contextlib import contextmanager
from dataclasses import dataclass, field
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING

import numpy as np

from pipeline.files import WriteError
from pipeline.nifti import save_volumes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.nifti.volume import Scan

# A byte is so many parts of 1.
PARTS = 255


@dataclass
class Maps:
    """What is asked for of a scan beside its label map: bytes, which stand for 0 to 1.

    Probabilities wait on the disk, a byte a voxel and label, until the scan is done, since they come plane by plane and
    are stored label by label; the entropy waits in memory. Probabilities are those before any post-processing.

    Attributes:
        label_values: The label of each of the K classes; classes with one label count as one. Of regions, the label
            of each, in their own order.
        shape: Of the scan.
        folder: On the disk that is written to.
        probabilities: Whether they are asked for.
        entropy: Whether that is asked for; of regions, the mean of the entropies of each.
        regions: Whether probabilities are of regions, which do not exclude each other.
    """

    label_values: Sequence[int]
    shape: tuple[int, int, int]
    folder: Path
    probabilities: bool = field(kw_only=True)
    entropy: bool = field(kw_only=True)
    regions: bool = field(default=False, kw_only=True)
    _parts: list[tuple[int, int, slice, int]] = field(default_factory=list, init=False)
    _spool: IO[bytes] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.values = np.array(self.label_values)
        self._places = np.arange(len(self.values))
        if not self.regions:
            self.values = np.unique(self.values)
            self._places = np.searchsorted(self.values, self.label_values)
        self._doubt = np.empty(self.shape, np.uint8, order="F") if self.entropy else None
        if self.probabilities:
            with self._told():
                self._spool = TemporaryFile(dir=self.folder)  # noqa: SIM115 - it goes with this object
            weakref.finalize(self, self._spool.close)

    def add(self, probabilities: NDArray[np.float32], where: tuple[int, int, slice]) -> None:
        """Take in a part of a scan.

        Args:
            probabilities: Of each class, ``[K, N]``.
            where: The axis that planes lie across, the number of the plane, and its voxels.

        Raises:
            WriteError: The disk is full or fails.
        """
        shares = np.zeros((len(self.values), probabilities.shape[1]), np.float32)
        for place, probability in zip(self._places, probabilities, strict=True):
            shares[place] += probability
        axis, number, part = where
        if self._doubt is not None:
            np.moveaxis(self._doubt, axis, 0)[number].flat[part] = _as_bytes(self._entropy(shares))
        if self._spool is not None:
            with self._told():
                self._spool.write(_as_bytes(shares).data)
            self._parts.append((axis, number, part, shares.shape[1]))

    def _entropy(self, shares: NDArray[np.float32]) -> NDArray[np.float32]:
        if not self.regions:
            return entropy_of(shares)
        each: NDArray[np.float32] = np.mean([entropy_of(np.stack([p, 1 - p])) for p in shares], axis=0)
        return each

    def write_entropy(self, path: Path, like: Scan) -> None:
        """Write the entropy by the logarithm of the number of labels, ``[X, Y, Z]`` on the grid of a scan.

        Raises:
            WriteError: The disk is full or fails.
        """
        assert self._doubt is not None
        save_volumes(path, [self._doubt], 1, like, 1 / PARTS)

    def write_probabilities(self, path: Path, like: Scan) -> None:
        """Write the probabilities, ``[X, Y, Z, labels]`` by rising value or in the order of regions, on a scan's grid.

        Raises:
            WriteError: The disk is full or fails.
        """
        save_volumes(path, self._volumes(), len(self.values), like, 1 / PARTS)

    def _volumes(self) -> Iterator[NDArray[np.uint8]]:
        """Yield the probability of each label; every one is the same array, filled anew."""
        assert self._spool is not None
        volume = np.empty(self.shape, np.uint8, order="F")
        starts = np.cumsum([0, *(len(self.values) * count for *_, count in self._parts)])
        for place in range(len(self.values)):
            for (axis, number, part, count), start in zip(self._parts, starts, strict=False):
                if part.start == 0:
                    plane = np.moveaxis(volume, axis, 0)[number]
                    flat = np.empty(plane.size, np.uint8)
                self._spool.seek(int(start) + place * count)
                flat[part.start : part.start + count] = np.frombuffer(self._spool.read(count), np.uint8)
                if part.start + count == plane.size:
                    plane[...] = flat.reshape(plane.shape)
            yield volume

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            needed = len(self.values) * math.prod(self.shape)
            raise WriteError(self.folder / "probabilities", error, needed) from None


def entropy_of(shares: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the entropy of probabilities ``[labels, N]`` by its largest value, in [0, 1]; 0 of one label.

    >>> entropy_of(np.array([[0.5, 1.0], [0.5, 0.0]], np.float32)).tolist()
    [1.0, 0.0]
    """
    if len(shares) == 1:
        return np.zeros(shares.shape[1], np.float32)
    logarithms = np.log(np.maximum(shares, np.finfo(np.float32).tiny))
    logarithms *= shares
    found: NDArray[np.float32] = np.abs(logarithms.sum(axis=0)) / np.float32(math.log(len(shares)))
    return found


def _as_bytes(numbers: NDArray[np.float32]) -> NDArray[np.uint8]:
    levels: NDArray[np.uint8] = np.rint(numbers.clip(0, 1) * PARTS).astype(np.uint8)
    return levels
