"""What a person sees of a command: text as it is, and tables."""

from __future__ import annotations

import errno
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

from rich.console import Console

from pipeline.errors import UserError, printable
from pipeline.memory import LIMITED, is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.errors import Problem
    from pipeline.registry import Registry

OUT = Console()
ERR = Console(stderr=True)
for console in (OUT, ERR):
    if not console.width:  # COLUMNS=0, as some containers have it: Rich would print nothing at all.
        console.width = 80

# Names and paths may hold what a console would take for markup.
PLAIN: dict[str, Any] = {"markup": False, "highlight": False, "soft_wrap": True}


def say(text: str) -> None:
    """Print text as it is."""
    OUT.print(printable(text), **PLAIN)


def complain(text: str) -> None:
    """Print text as it is where errors go, if anybody is still there to read it."""
    with suppress(OSError):
        ERR.print(printable(text), **PLAIN)


def fail(message: str) -> NoReturn:
    """Print what is wrong, and exit with code 2."""
    try:
        complain(f"error: {message}")
    except MemoryError:  # To lay out text, Rich loads more than there may be memory for.
        sys.stderr.write(f"error: {printable(message)}\n")
    sys.exit(2)


def explained(error: Exception) -> str | None:
    """Return in words what a user, or the machine, has done wrong; None where it is a mistake of the program."""
    if isinstance(error, UserError):
        return str(error)
    if is_out_of_memory(error):
        error.__traceback__ = None  # Whose frames hold what has filled the memory.
        remedy = f"{LIMITED}; to train, lower data.batch_size and data.workers"
        return f"too little memory, here or on the GPU; {remedy}"
    if isinstance(error, OSError) and error.errno not in (None, errno.EPIPE):
        return f"{error.filename or 'the disk'}: {error.strerror}; check its permissions and free space"
    return None


def show_scores(summary: object, folder: Path, checkpoint: str = "", notes: tuple[str, ...] = ()) -> None:
    """Print the table of a summary, and where the rest of it is."""
    from pipeline.reports.tables import results_table

    OUT.print(results_table(summary))  # type: ignore[arg-type]
    scored = f"Scored the {checkpoint} checkpoint. " if checkpoint else ""
    say(f"{scored}Wrote {folder / 'report.html'}, summary.json and cases.csv.")
    for note in notes:
        say(f"Note: {note}")


def show_findings(problems: Sequence[Problem], warnings: Sequence[Problem], dataset: Path) -> None:
    """Print what a check found, if anything, a row each, and how often each code."""
    from pipeline.reports.findings import counts_table, findings_table

    if problems or warnings:
        width = OUT.width if OUT.is_terminal else 200
        OUT.print(findings_table([*problems, *warnings], dataset if dataset.is_dir() else dataset.parent), width=width)
        OUT.print(counts_table(problems, warnings))


def show_components(registries: Sequence[Registry]) -> None:
    """Print the components of each registry, a line each, and their options."""
    for registry in registries:
        say(f"\n{registry.name} ({registry.description})")
        for name in registry.names:
            options = ", ".join(f"{key}={option.default!r}" for key, option in registry.options(name).items())
            say(f"  {name}: {registry.summary(name)}" + (f"\n      {options}" if options else ""))
