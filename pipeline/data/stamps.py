"""The files of a case, and stamps by which an unchanged file is recognised without reading it."""

from __future__ import annotations

from stat import S_ISDIR
from typing import TYPE_CHECKING
from zlib import crc32

from pipeline.nifti.itk_files import voxel_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.types import Case


def case_files(case: Case) -> tuple[Path, ...]:
    """Return the files of a case: its images, then its label."""
    if case.label:
        return (*case.images, case.label)
    return case.images


def stamps(paths: Sequence[Path]) -> tuple[tuple[int, ...], ...]:
    """Return size, time of change in ns and inode of each file; an empty tuple for a missing one.

    Of a scan in several files, a folder of slices or an ``.mhd``: the size of all, the newest time, and a checksum of
    all three of each file.
    """
    return tuple(map(_stamp, paths))


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        about = path.stat()
        if S_ISDIR(about.st_mode):
            return _stamp_of_all([file for file in sorted(path.iterdir()) if file.is_file()])
        if (voxels := voxel_file(path)) is not None:
            return _stamp_of_all([path, voxels])
    except OSError:
        return ()
    return about.st_size, about.st_mtime_ns, about.st_ino


def _stamp_of_all(files: Sequence[Path]) -> tuple[int, ...]:
    found = [(file.name, about.st_size, about.st_mtime_ns, about.st_ino) for file in files for about in [file.stat()]]
    sizes = [size for _, size, _, _ in found]
    return sum(sizes), max((time for _, _, time, _ in found), default=0), crc32(repr(found).encode())
