"""Look at datasets before anything else does."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from rich.console import Console
from rich.progress import track

from pipeline.data.check import Check, Index
from pipeline.data.layouts import Dataset, open_dataset

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

T = TypeVar("T")

PROGRESS = Console(stderr=True)


def check(source: Path, root: Path | None = None) -> Index:
    """Look at every file of a dataset.

    Raises:
        UserError: With every problem of every file.
    """
    return check_dataset(open_dataset(source, root))


def check_dataset(dataset: Dataset) -> Index:
    """As :func:`check`, for a dataset that is open."""
    look = Check(dataset)
    for _ in progress(look, "checking", len(look)):
        pass
    return look.index()


def progress(items: Iterable[T], what: str, total: int) -> Iterable[T]:
    """Pass items on, and show on a terminal how many of them are done."""
    return track(items, what, total, console=PROGRESS, transient=True, disable=not PROGRESS.is_terminal)
