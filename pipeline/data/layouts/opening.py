"""Find out what layout a dataset has, and read it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.data.layouts.dataset import LAYOUTS, Dataset, Layout, no_dataset
from pipeline.errors import Problem, UserError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

AUTO = "auto"


def open_dataset(
    source: Path, root: Path | None = None, layout: str = AUTO, options: Mapping[str, Any] | None = None
) -> Dataset:
    """As :func:`read_dataset`, and refuse a dataset whose list has mistakes.

    Raises:
        UserError: It is no dataset, or its list is broken; every mistake of the list is named.
    """
    dataset = read_dataset(source, root, layout, options)
    if dataset.problems:
        raise UserError(f"{dataset.source} has {len(dataset.problems)} mistake(s).", dataset.problems)
    return dataset


def read_dataset(
    source: Path, root: Path | None = None, layout: str = AUTO, options: Mapping[str, Any] | None = None
) -> Dataset:
    """Detect the layout of a file or folder and read it.

    Args:
        source: A dataset folder, a list, or a scan.
        root: Folder that a list's paths are relative to; by default the list's own.
        layout: A registered name, or ``auto``.
        options: Of the layout.

    Returns:
        The dataset, with what is wrong with its list among its problems.

    Raises:
        UserError: There is no such file or folder, or it is no dataset, or could be several, or the layout is unknown.
    """
    if not source.exists():
        raise no_dataset(source, "missing-dataset", "there is no such file or folder", "check the path")
    name = _detect(source) if layout == AUTO else layout
    wrong = LAYOUTS.problems(name, options or {})
    if wrong:
        remedy = "`fewmask components` lists every layout and its options"
        problems = [
            Problem(f"layout.options.{key}" if key else "layout", "bad-layout", text, remedy) for key, text in wrong
        ]
        raise UserError("The dataset cannot be opened.", problems)
    reader: Layout = LAYOUTS.build(name, _as_tuples(options or {}))
    return reader.declare(reader.read(source, root))


def _as_tuples(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}


def _detect(source: Path) -> str:
    """Return the one layout that a source has.

    Raises:
        UserError: It has none, or more than one; with what was seen.
    """
    seen = {name: what for name in LAYOUTS.names if (what := LAYOUTS[name].detect(source))}
    if len(seen) == 1:
        return next(iter(seen))
    if seen:
        message = "could be " + " or ".join(f"{name} ({what})" for name, what in seen.items())
        raise no_dataset(source, "ambiguous-layout", message, f"say which: --layout {next(iter(seen))}, or layout=NAME")
    if source.is_dir():
        lists = sorted(path.name for end in ("json", "csv", "tsv") for path in source.glob(f"*.{end}"))
        content = sorted(path.name for path in source.iterdir())
        message = f"has no layout that is known; it holds {', '.join(content[:8]) or 'nothing'}"
        remedy = (
            f"name the list itself: {', '.join(lists[:5])}" if lists else "see `fewmask components` for the layouts"
        )
    else:
        message, remedy = (
            "is no list, no table and no scan that can be read",
            "see `fewmask components` for the layouts",
        )
    raise no_dataset(source, "no-dataset", message, remedy)
