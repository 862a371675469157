"""Commands around datasets: look at one, fetch or make one, clear up what was prepared of one."""

from __future__ import annotations

import sys
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from pipeline.arguments import Layout, LayoutOptions, Plugins, Root, command, destination, operand
from pipeline.bounds import refuse_outside
from pipeline.console import show_findings
from pipeline.errors import Problem, UserError
from pipeline.files import path_hint, to_write
from pipeline.shards import WHOLE, read_shard
from pipeline.terminal import complain, give, progress, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.data.check import Check


@command
def check(
    dataset: tyro.conf.Positional[Annotated[Path, operand("DATASET", "A dataset folder, a list or a scan.")]],
    root: Root = None,
    *,
    layout: Layout = "auto",
    layout_options: LayoutOptions = (),
    strict: Annotated[bool, tyro.conf.arg(help="Count warnings as problems.")] = False,
    fixes: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]],
        tyro.conf.arg(name="fix", help="Write a repaired copy to --output; docs/checks.md lists the repairs."),
    ] = (),
    output: Annotated[
        Path | None, destination("Folder for check.json, and for the copy that --fix makes; by default no file.")
    ] = None,
    cache: Annotated[
        Path | None,
        tyro.conf.arg(help="Folder that keeps what is found: files that have not changed are not read again."),
    ] = None,
    shard: Annotated[
        str, tyro.conf.arg(help="Only every N-th case from the I-th on; array/N in a job array.", metavar="I/N")
    ] = "1/1",
    plugins: Plugins = (),
) -> None:
    """Look at every file of a dataset and report everything that is wrong with it.

    Example: fewmask check data/Task04_Hippocampus
    """
    from pipeline.config import read_options
    from pipeline.plugins import load_plugins
    from pipeline.runs import examine, report_name, report_of

    load_plugins(plugins)
    options = read_options(layout_options)
    share = read_shard(shard)
    target = output and to_write(output)
    look, log = examine(target, dataset, root, layout, options, fixes, strict=strict, cache=cache, shard=share)
    for line in log:
        say(f"{line.fix}: {line.file}: {line.done}")
    if fixes and output:
        say(f"Wrote the repaired copy {output / 'dataset.json'} and {output / 'repairs.json'}.")
        dataset = output
    give(report_of(look))
    _show_check(look, dataset, report_name(share), output)
    if share != WHOLE:
        looked = f"Looked at {len(look)} of {len(look.dataset.cases)} cases, each by itself"
        say(f"{looked}; a check without --shard compares all with each other.")
        return
    if look.dataset.layout == "scans":  # A folder of scans alone has nothing to train on.
        say(f"Next: fewmask predict RUN {quote(str(dataset))} --output MASKS")
        return
    asked = [] if layout == "auto" or fixes else [f"layout={layout}"]
    if not fixes:
        asked += [f"layout.options.{option}" for option in layout_options]
        asked += [f"root={root}"] if root else []
    if plugins:
        asked.append(f"plugins=[{', '.join(map(str, plugins))}]")
    _say_how_to_train(dataset, asked, look)


def _say_how_to_train(dataset: Path, settings: Sequence[str], look: Check) -> None:
    """Print the command that trains on a dataset, and if masks are or look partial that for a few strokes."""
    whole = " ".join(["fewmask train", *map(quote, [str(dataset), *settings])])
    value = look.unannotated
    ignore = [] if value is None else [f"layout.options.ignore={value}"]
    strokes = " ".join(["fewmask train scribbles", *map(quote, [f"dataset={dataset}", *settings, *ignore])])
    if value is not None:
        say(f"Next, if {value} is what nobody has annotated: {strokes}")
        say(f"Or, if it is a structure: {whole}")
    else:
        say(f"Next: {whole}")
        if look.dataset.ignore is not None:
            say(f"Or, if the masks are a few strokes each: {strokes}")


def _show_check(look: Check, dataset: Path, report: str, output: Path | None) -> None:
    """Print what a check has found, and end the command with code 2 if there are problems."""
    show_findings(look.problems, look.warnings, dataset)
    if look.problems:
        places = len({problem.where for problem in look.problems})
        more = f"see {output / report}" if output else f"--output DIR writes them to {report}"
        complain(f"error: {dataset}: {len(look.problems)} problem(s) in {places} place(s); {more}")
        sys.exit(2)
    if look.shard == WHOLE:
        for name, value in look.index().describe():
            say(f"{name:>12}  {value}")
    if output:
        say(f"Wrote {output / report}.")


@command
def fetch(
    name: tyro.conf.Positional[Annotated[str, operand("NAME", "A task of the Decathlon, such as Task04_Hippocampus.")]],
    *,
    output: Annotated[Path, destination("Where the dataset's folder goes.")] = Path("data"),
) -> None:
    """Download a public dataset, and verify it.

    Example: fewmask fetch Task04_Hippocampus --output data
    """
    from pipeline.data.fetch import fetch as download

    folder = download(name, to_write(output))
    give({"folder": folder})
    say(f"Wrote {folder}: fewmask train {quote(str(folder))}")


@command
def phantom(
    folder: tyro.conf.Positional[Annotated[Path, operand("DIR", "An empty or new folder.")]],
    *,
    labelled: Annotated[int, tyro.conf.arg(help="Scans with a mask.")] = 6,
    unlabelled: Annotated[int, tyro.conf.arg(help="Scans without one.")] = 18,
    seed: Annotated[int, tyro.conf.arg(help="Makes the same dataset again.")] = 0,
) -> None:
    """Write a synthetic dataset to try things on.

    Example: fewmask phantom demo/data --labelled 6 --unlabelled 18
    """
    from pipeline.data.phantom import write_phantom

    for name, number in (("--labelled", labelled), ("--unlabelled", unlabelled), ("--seed", seed)):
        refuse_outside(name, number, 0, 99_999)
    cases = write_phantom(folder, labelled=labelled, unlabelled=unlabelled, seed=seed)
    for _ in progress(cases, "writing", labelled + unlabelled):
        pass
    give({"folder": folder, "labelled": labelled, "unlabelled": unlabelled})
    say(f"Wrote {labelled} scans with masks and {unlabelled} without to {folder}.")


@command
def simulate_labels(
    dataset: tyro.conf.Positional[Annotated[Path, operand("DATASET", "A dataset with whole masks.")]],
    root: Root = None,
    *,
    kind: Annotated[
        Literal["scribbles", "slices", "boxes", "points", "classes"], tyro.conf.arg(help="What is kept of each mask.")
    ],
    output: Annotated[Path, destination("An empty or new folder for the copy.")],
    amount: Annotated[
        int | None,
        tyro.conf.arg(
            help="Strokes of a structure in a slice, slices or boxes of a mask, points of a structure, or classes of a "
            "case; by default 1, 3, 3, 20 and 1."
        ),
    ] = None,
    seed: Annotated[int, tyro.conf.arg(help="Makes the same masks again.")] = 0,
    layout: Layout = "auto",
    layout_options: LayoutOptions = (),
) -> None:
    """Make partial masks of whole ones; those that validate stay whole.

    Example: fewmask simulate-labels data/Task04_Hippocampus --kind scribbles --output scribbled
    """
    from pipeline.config import read_options
    from pipeline.runs import simulate_labels as simulate

    refuse_outside("--amount", amount, 1, 1000)
    refuse_outside("--seed", seed, 0, 2**32 - 1)
    options = read_options(layout_options)
    found = simulate(
        dataset, to_write(output), kind, amount=amount, seed=seed, root=root, layout=layout, options=options
    )
    give({"folder": output, "cases": found})
    told = ", ".join(f"{count} {section}" for section, count in found.items())
    say(f"Wrote {told} case(s) to {output}; {found['training']} masks are partial.")
    recipe = "supervised" if kind == "classes" else "scribbles"
    say(f"Next: fewmask train {recipe} dataset={quote(str(output))}")


@command
def prune(
    cache: tyro.conf.Positional[Annotated[Path, operand("CACHE", "A folder of prepared scans, such as RUN/cache.")]],
    *,
    unused_days: Annotated[float, tyro.conf.arg(help="Keep what a run has used in so many days.")] = 30,
) -> None:
    """Delete prepared scans that no run has used for some time.

    Example: fewmask prune ~/.cache/fewmask --unused-days 30
    """
    from pipeline.data.cache import prune as delete

    refuse_outside("--unused-days", unused_days, 0, 1e6)
    if not cache.is_dir():
        raise UserError("Nothing was deleted.", [Problem(str(cache), "no-folder", "is no folder", path_hint(cache))])
    count, size = delete(cache, unused_days)
    give({"files": count, "bytes": size})
    say(f"Deleted {count} file(s), {size / 1e6:.1f} MB.")
