"""The files of a case, and what tells at a glance that they are still the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.types import Case


def case_files(case: Case) -> tuple[Path, ...]:
    """Return the files of a case: its images, then its label."""
    return (*case.images, case.label) if case.label else case.images


def stamps(paths: Sequence[Path]) -> tuple[tuple[int, ...], ...]:
    """Return size, time of change in ns and inode of files; nothing for one that is not there."""
    return tuple(map(_stamp, paths))


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        about = path.stat()
    except OSError:
        return ()
    return about.st_size, about.st_mtime_ns, about.st_ino
