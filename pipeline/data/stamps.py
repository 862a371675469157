"""The files of a case, and stamps by which an unchanged file is recognised without reading it."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    """Return size, time of change in ns and inode of each file; an empty tuple for a missing one."""
    return tuple(map(_stamp, paths))


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        about = path.stat()
    except OSError:
        return ()
    return about.st_size, about.st_mtime_ns, about.st_ino
