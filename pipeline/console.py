"""What the commands show: errors in words, scores, findings and components."""

from __future__ import annotations

import errno
from shlex import quote
from typing import TYPE_CHECKING

from pipeline.errors import UserError
from pipeline.memory import LIMITED, is_out_of_memory
from pipeline.terminal import CLOSED_PIPE, complain, flush, say, show

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.errors import Problem
    from pipeline.interruption import Stopped
    from pipeline.registry import Registry
    from pipeline.reports.comparison import Comparison
    from pipeline.reports.groups import GroupComparison
    from pipeline.reports.plans import Found, Setting
    from pipeline.studies.spreads import SeedResult


def explained(error: Exception) -> str | None:
    """Return the message of an error that the user or the machine has caused; None for a bug of the program.

    Raises:
        Stopped: Standard output is a pipe that its reader has closed.
    """
    if isinstance(error, BrokenPipeError):
        flush("\n")  # Raises if it was standard output; a pipe between processes is no reason to stop.
    if isinstance(error, UserError):
        return str(error)
    if is_out_of_memory(error):
        error.__traceback__ = None  # Its frames hold the objects that fill the memory.
        remedy = f"{LIMITED}; to train, lower data.batch_size and data.workers"
        return f"too little memory, here or on the GPU; {remedy}"
    if isinstance(error, OSError) and error.errno not in (None, errno.EPIPE):
        return f"{error.filename or 'the disk'}: {error.strerror}; check its permissions and free space"
    return None


def tell_stop(stop: Stopped, *, trains: bool) -> None:
    """Say how to go on after a requested stop; nothing if the reason is a closed pipe."""
    if stop.code != CLOSED_PIPE:
        complain("stopped; `train` goes on with --resume" if trains else "stopped; no file is half-written")


def show_scores(summary: object, folder: Path, checkpoint: str = "", notes: tuple[str, ...] = ()) -> None:
    """Print the table of a summary, and where the rest of it is."""
    from pipeline.reports.tables import results_table

    show(results_table(summary))  # type: ignore[arg-type]
    scored = ""
    if checkpoint:
        scored = f"Scored the {checkpoint} checkpoint. "
    say(f"{scored}Wrote {folder / 'report.html'}, summary.json and cases.csv.")
    for note in notes:
        say(f"Note: {note}")


def show_seeds(results: Sequence[SeedResult], folder: Path) -> None:
    """Print the Dice of each training of several seeds, with mean and standard deviation, and where the runs are."""
    from pipeline.reports.tables import number, seeds_table
    from pipeline.studies.spreads import spreads

    found = spreads(results)
    names = [name for name in found if name]
    rows = [(str(row.seed), *(number(row.classes.get(name)) for name in names), number(row.dice)) for row in results]
    means = [f"{number(of.mean)} ± {number(of.std)}" if of else number(None) for of in map(found.get, [*names, ""])]
    show(seeds_table(rows, [*names, "all classes"], ["mean ± std", *means]))
    say(f"Wrote {folder / 'seeds.csv'}, seeds.json and a run for each seed; ± is the standard deviation over them.")
    first = quote(str(folder / f"seed-{results[0].seed}"))
    say(f"Next: fewmask predict {first} SCANS --output MASKS; each seed is a run of its own")


def show_findings(problems: Sequence[Problem], warnings: Sequence[Problem], dataset: Path) -> None:
    """Print the findings of a check by their codes; nothing if there are none."""
    from pipeline.reports.findings import findings_text

    if problems or warnings:
        say(findings_text(problems, warnings, dataset if dataset.is_dir() else dataset.parent))


def show_plan(choices: Sequence[Setting]) -> None:
    """Print the choices of a plan with their reasons, one in a row."""
    from pipeline.reports.plans import plan_table

    show(plan_table(choices))


def show_machine(findings: Sequence[Found]) -> None:
    """Print what the machine has, one finding in a row."""
    from pipeline.reports.plans import machine_table

    show(machine_table(findings))


def show_comparison(comparison: Comparison) -> None:
    """Print the table of a comparison, and what follows from it."""
    from pipeline.reports.tables import comparison_table, plain

    show(comparison_table(comparison))
    say(plain(f"{comparison.conclusion} {comparison.scope}").plain)


def show_groups(comparison: GroupComparison) -> None:
    """Print the table of a comparison of two methods, and what follows from it."""
    from pipeline.reports.tables import groups_table, plain

    show(groups_table(comparison))
    say(plain(comparison.conclusion).plain)


def show_components(registries: Sequence[Registry]) -> None:
    """Print the components of each registry with their options, those without a default by name alone."""
    for registry in registries:
        say(f"\n{registry.name} ({registry.description})")
        for name in registry.names:
            options = registry.options(name).items()
            told = [key if value.default is value.empty else f"{key}={value.default!r}" for key, value in options]
            say(f"  {name}: {registry.summary(name)}")
            if told:
                say(f"      {', '.join(told)}")
