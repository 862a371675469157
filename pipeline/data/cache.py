"""Keep prepared cases on disk, memory-mapped, so that they are prepared once and never all in memory.

An entry is one uncompressed ``.npz``: whole or not there, with a checksum of every array. It is made and verified while
a run starts; a sample then maps it, reads the pages that its crop needs, and lets go of it. Pages of a file are shared
by all processes that read them, so neither the number of cases nor that of workers costs memory.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import re
import struct
import time
import zlib
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile, ZipFile

import monai
import nibabel as nib
import numpy as np
import torch

from pipeline.data.annotation import ANNOTATION, DETOUR, IMAGE, class_locations, implied_background
from pipeline.data.checked import read_case
from pipeline.data.packed import Packed
from pipeline.data.transforms import Grid, case_transforms
from pipeline.files import PARTIAL, atomic_write, byte_locked, sweep
from pipeline.memory import memory_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import BinaryIO

    from numpy.typing import NDArray

    from pipeline.data.index import Index
    from pipeline.data.normalization import IntensityRange
    from pipeline.types import Case

# Part of every key: raise it when a change of the transforms changes what they make.
VERSION = 7
# Part of every key too: another version of these may prepare other bits.
LIBRARIES = {module.__name__: str(module.__version__) for module in (monai, nib, np, torch)}
PARTS = (IMAGE, ANNOTATION, "locations")
LOCK = "lock"
# Names of entries, of what checks and shares of checks have found, and of either before it is whole.
OURS = re.compile(r"(\.partial-[0-9a-f]{8}\.)?([0-9a-f]{32}\.npz|facts-[0-9a-f]{32}(-\d+-of-\d+)?\.json)")
DAY_S = 24 * 3600


# Bytes for each voxel of the network's grid while a scan is resampled to it: for the voxel's coordinates in the scan,
# and for each channel's values before and after, in two precisions. With one channel and a mask 60 were measured.
PLACE_BYTES = 40
VALUE_BYTES = 20


def preparing_bytes(shape: Sequence[int], channels: int) -> int:
    """Return the bytes that it takes to bring a scan to a grid of this shape.

    >>> preparing_bytes((100, 100, 100), 1) / 1e6
    60.0
    """
    return math.prod(shape) * (PLACE_BYTES + VALUE_BYTES * channels)


@dataclass(frozen=True)
class _Entry:
    """Where the arrays of a sound entry lie in its file; looking that up for every sample would cost more than a crop.

    Attributes:
        path: The file.
        places: Byte, shape and type of each array, in the order of ``PARTS``.
    """

    path: str
    places: tuple[tuple[int, tuple[int, ...], np.dtype[Any]], ...]

    @classmethod
    def of(cls, path: Path) -> _Entry:
        """Read the places from the file."""
        with ZipFile(path) as archive, path.open("rb") as file:
            return cls(str(path), tuple(_place(file, member.header_offset) for member in archive.infolist()))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Map the arrays, read-only; the file stays mapped as long as one of them lives."""
        with open(self.path, "rb") as file:  # noqa: PTH123 - a Path costs as much as the rest of this
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return {
            part: np.ndarray(shape, dtype, mapped, start)
            for part, (start, shape, dtype) in zip(PARTS, self.places, strict=True)
        }


def _place(file: BinaryIO, start: int) -> tuple[int, tuple[int, ...], np.dtype[Any]]:
    """Find a stored ``.npy`` member: behind the zip's own header of 30 bytes, a name and an extra field."""
    file.seek(start + 26)
    name, extra = struct.unpack("<HH", file.read(4))
    file.seek(name + extra, os.SEEK_CUR)
    np.lib.format.read_magic(file)
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    return file.tell(), shape, dtype


@dataclass(kw_only=True)
class Cache:
    """Prepared cases in a folder, keyed by the content of their files and by how they were prepared.

    Several processes may fill one folder: each entry is made by one of them.

    Attributes:
        folder: Where the entries lie; made when first needed. None prepares a case anew whenever it is read.
        index: The checked dataset.
        grid: The grid that cases are brought to.
        ranges: How intensities are normalised, as for :func:`case_transforms`.
        background_mm: How far from structures voxels that nobody annotated count as background, as those behind strokes
            of background do, see :func:`implied_background`; None for nowhere.
        crop: Cases are cropped to the body, of which as many voxels along each axis are left; None for whole scans.
        failure: Why entries are missing, once a write has failed. Those cases are prepared whenever they are read.
    """

    folder: Path | None
    index: Index
    grid: Grid
    ranges: Sequence[IntensityRange | None] = ()
    background_mm: float | None = None
    crop: tuple[int, ...] | None = None
    failure: OSError | None = field(default=None, init=False)
    _entries: Packed[_Entry] = field(default_factory=Packed, init=False, repr=False)

    def fill(self, cases: Sequence[Case], *, verified: bool = False) -> Iterator[str]:
        """Verify or make the entry of every case, and yield each case's id once that is done.

        A damaged entry is made anew. Entries that another process is at work on come last. After a failed write, such
        as on a full disk, nothing more is written: see ``failure``.

        Args:
            cases: The cases.
            verified: Whether other processes have verified just now what is there, so that only missing entries count.
        """
        is_there = Path.is_file if verified else _is_sound
        busy = []
        for case in cases:
            if self._provide(case, is_there, wait=False):
                yield case.id
            else:
                busy.append(case)
        for case in busy:
            self._provide(case, is_there, wait=True)
            yield case.id

    def get(self, case: Case) -> dict[str, NDArray[Any]]:
        """Return a prepared case: ``image`` and ``annotation`` ``[C, X, Y, Z]``, ``locations`` ``[classes, most]``."""
        if self.folder is not None:
            with suppress(FileNotFoundError, IsADirectoryError, NotADirectoryError):
                if case.id not in self._entries:
                    self._entries[case.id] = _Entry.of(self.folder / self._name(case))
                return self._entries[case.id].arrays()
        return self._prepare(case)

    def _provide(self, case: Case, is_there: Callable[[Path], bool], wait: bool) -> bool:
        """Make sure that a case's entry is there; False if another process is making it and ``wait`` is off."""
        if self.folder is None or self.failure:
            return True
        path = self.folder / self._name(case)
        if is_there(path):
            return True
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # The system lets go of a killed process's locks, and locks of a range need no file for each key.
            place = int(path.stem[:15], 16)
            with (self.folder / LOCK).open("ab") as file, byte_locked(file.fileno(), place, wait=wait) as ours:
                if ours and not _is_sound(path):
                    sweep(self.folder, path.name)  # What a killed process has left of it.
                    arrays = self._prepare(case)
                    with atomic_write(path) as temporary:
                        # Before NumPy 2.1, allow_pickle was one more array.
                        np.savez(temporary, **arrays)  # type: ignore[arg-type]
                return ours
        except OSError as error:
            self.failure = error
            return True

    def _prepare(self, case: Case) -> dict[str, NDArray[Any]]:
        images, mask = read_case(case, self.index.facts[case.id])
        scans: dict[str, Any] = {IMAGE: images}
        if mask is not None:
            scans[ANNOTATION] = mask
        values = list(self.index.labels)
        remedy = "give larger numbers for data.spacing_mm, or leave the scan out"
        with memory_for(str(case.images[0]), "to prepare it", self._needed(case), remedy):
            prepared = case_transforms(self.grid, values, self.ranges, self.index.ignore, self.crop)(scans)
            image, annotation = (np.ascontiguousarray(prepared[key].numpy()) for key in (IMAGE, ANNOTATION))
            if self.background_mm is not None:
                annotation = implied_background(annotation, prepared[IMAGE].pixdim.tolist(), self.background_mm)
        return dict(zip(PARTS, (image, annotation, class_locations(annotation, len(values))), strict=True))

    def _needed(self, case: Case) -> int:
        """Return about how many bytes it takes to prepare a case."""
        facts = self.index.facts[case.id]
        wanted = math.prod(step or own for step, own in zip(self.grid.spacing_mm, facts.spacing_mm, strict=True))
        voxels = math.prod(facts.shape) * math.prod(facts.spacing_mm) / wanted
        return preparing_bytes((max(1, round(voxels)),), facts.channels)

    def _name(self, case: Case) -> str:
        how: dict[str, Any] = {
            "versions": [VERSION, LIBRARIES],
            "grid": asdict(self.grid),
            "ranges": [scale and asdict(scale) for scale in self.ranges],
            "labels": list(self.index.labels),
            "ignore": self.index.ignore,
            "masked": case.label is not None,
        }
        if self.background_mm is not None:  # Other entries keep their names.
            how["implied_background"] = [self.background_mm, DETOUR]
        if self.crop is not None:
            how["crop"] = self.crop
        # By values, not by files: a scan that is saved anew, with the same values on the same grid, has the same key.
        facts = self.index.facts[case.id]
        content = [*facts.content, json.dumps(facts.affine), json.dumps(how, sort_keys=True)]
        return hashlib.sha256("\n".join(content).encode()).hexdigest()[:32] + ".npz"


def prune(folder: Path, unused_days: float) -> tuple[int, int]:
    """Delete entries that no run has used for some days, and what killed writers left behind.

    A run that is using them goes on: it prepares the missing scans again. Files that have an entry's name and are none
    are kept, and so are damaged entries, which cannot be told from them.

    Returns:
        The number of files deleted, and their bytes.
    """
    oldest = time.time() - unused_days * DAY_S
    count = size = 0
    for path in folder.iterdir():
        kind = OURS.fullmatch(path.name)
        if not kind or path.is_symlink() or not path.is_file():
            continue
        if (about := path.stat()).st_atime <= (time.time() - DAY_S if kind[1] else oldest) and _is_ours(path):
            path.unlink(missing_ok=True)
            count += 1
            size += about.st_size
    return count, size


def _is_ours(path: Path) -> bool:
    """Tell whether a file is an entry, or holds the facts of a check, and does not only have the name of one."""
    if path.name.startswith(PARTIAL):
        return True
    if path.suffix == ".json":
        with path.open("rb") as stream:
            return re.match(rb'\[\s*\{\s*"case":', stream.read(100)) is not None
    try:
        with ZipFile(path) as archive:
            return archive.namelist() == [f"{part}.npy" for part in PARTS]
    except (BadZipFile, OSError, ValueError):
        return False


def _is_sound(path: Path) -> bool:
    """Tell whether an entry is there and its checksums hold, and note that it is in use."""
    if not path.is_file():  # A pipe would be waited for.
        return False
    try:
        with ZipFile(path) as archive:
            sound = archive.testzip() is None and archive.namelist() == [f"{part}.npy" for part in PARTS]
    except (OSError, BadZipFile, EOFError, ValueError, RuntimeError, zlib.error):
        return False
    with suppress(OSError):  # somebody else's cache, which we may only read
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
    return sound
