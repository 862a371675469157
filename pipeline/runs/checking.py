"""Check datasets or shares of them, write reports, and repair copies."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import __version__
from pipeline.data.check import Check, read_facts
from pipeline.data.index import Index, count_codes, rows_of
from pipeline.data.inspection import FACTS_VERSION
from pipeline.data.layouts import Dataset, read_dataset
from pipeline.data.repairs import Repair, log_rows, refuse_unknown, repair_dataset
from pipeline.errors import Problem, UserError
from pipeline.files import regular
from pipeline.outputs import Output
from pipeline.shards import WHOLE, Shard
from pipeline.strict_json import write_json
from pipeline.terminal import note, progress

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.data.inspection import CaseFacts


def check(
    source: Path,
    root: Path | None = None,
    layout: str = "auto",
    options: Mapping[str, Any] | None = None,
    known: Mapping[str, CaseFacts] | None = None,
    cache: Path | None = None,
) -> Index:
    """Read every file of a dataset and return its index; warnings are counted on the terminal.

    Args:
        source: The dataset.
        root: Folder that the paths of a list are relative to; by default the list's own.
        layout: A registered layout, or ``auto``.
        options: Options of the layout, by name.
        known: Facts of an earlier check, by case: files that have not changed since are not read again.
        cache: A folder that runs share, in which the facts of the check are kept for later ones; None for none.

    Raises:
        UserError: There are problems; with those of all files.
    """
    return check_dataset(read_dataset(source, root, layout, options), known, cache)


def check_dataset(
    dataset: Dataset,
    known: Mapping[str, CaseFacts] | None = None,
    cache: Path | None = None,
    *,
    to_train: bool = True,
) -> Index:
    """Check a dataset as :func:`check` does, whose layout is read already.

    Args:
        dataset: The dataset.
        known: As for :func:`check`.
        cache: As for :func:`check`.
        to_train: Whether the dataset is to be trained on; only then classes without masks are reported.

    Raises:
        UserError: There are problems; with those of all files.
    """
    index = survey(dataset, known=known, cache=cache, to_train=to_train).index()
    tell_warnings(index.warnings)
    return index


def _facts_name(dataset: Dataset) -> str:
    """Return what names of files with facts begin with: a hash of all that facts depend on beside the cases' files."""
    labels = dataset.labels and sorted(dataset.labels.items())
    declared = (labels, dataset.ignore, dataset.channels)
    about: list[Any] = [__version__, FACTS_VERSION, str(dataset.source.resolve()), *declared]
    if dataset.relabelling is not None:
        about.append(dataset.relabelling.pairs)
    return f"facts-{hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]}"


def _kept_facts(cache: Path, dataset: Dataset) -> dict[str, CaseFacts]:
    """Return what earlier checks, of all cases or of shares of them, have kept."""
    kept: dict[str, CaseFacts] = {}
    for path in sorted(cache.glob(f"{_facts_name(dataset)}*.json")):
        with suppress(OSError):
            kept |= read_facts(regular(path))
    return kept


def _keep_facts(look: Check, kept: Mapping[str, CaseFacts], path: Path) -> None:
    """Write the facts of cases without problems and warnings; if that fails, the next check reads the files again."""
    blamed = {problem.case for problem in look.findings}
    facts = {name: look.seen[name] for name in look.sound if name not in blamed}
    if facts.items() <= kept.items():
        return
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, rows_of(facts.values()))


def examine(
    folder: Path | None,
    source: Path,
    root: Path | None,
    layout: str,
    options: Mapping[str, Any],
    fixes: Sequence[str] = (),
    *,
    strict: bool = False,
    cache: Path | None = None,
    shard: Shard = WHOLE,
) -> tuple[Check, list[Repair]]:
    """Check a dataset and write its report; with repairs, write a repaired copy first and check that.

    Args:
        folder: For the report, named by :func:`report_name`, and the copy; None writes nothing.
        source: The dataset.
        root: As for :func:`check`.
        layout: As for :func:`check`.
        options: As for :func:`check`.
        fixes: Names of repairs; none makes no copy.
        strict: Whether warnings count as problems.
        cache: As for :func:`check`.
        shard: The share of the cases to look at.

    Returns:
        The finished check, of the copy if there is one, and the log of the repairs.

    Raises:
        UserError: The dataset cannot be opened, a file is in the way, nothing can be repaired, or a copy is asked for
            of a share or without a folder.
    """
    if fixes:
        refuse_unknown(fixes, folder)
        _refuse_share(shard)
    if folder is not None:
        report_in(folder).refuse_foreign([report_name(shard)])
    dataset = read_dataset(source, root, layout, options)
    look = survey(dataset, strict=strict, cache=cache, shard=shard)
    if folder is None:
        return look, []
    log: list[Repair] = []
    if fixes:
        look, log = repair(look, fixes, folder)
    write_report(look, folder)
    return look, log


def _refuse_share(shard: Shard) -> None:
    if shard != WHOLE:
        remedy = "leave --shard out: a copy is made of the whole dataset"
        problem = Problem("--shard", "one-shard", "looks at one share, and --fix makes a copy", remedy)
        raise UserError("Nothing was checked.", [problem])


def survey(
    dataset: Dataset,
    *,
    strict: bool = False,
    known: Mapping[str, CaseFacts] | None = None,
    cache: Path | None = None,
    to_train: bool = True,
    shard: Shard = WHOLE,
) -> Check:
    """Read every file of a dataset and return the finished check, with or without problems.

    Args:
        dataset: The dataset.
        strict: Whether warnings count as problems.
        known: As for :func:`check`.
        cache: As for :func:`check`.
        to_train: As for :func:`check_dataset`.
        shard: The share of the cases to look at.
    """
    kept = _kept_facts(cache, dataset) if cache else {}
    look = Check(dataset, strict, kept | dict(known or {}), to_train, shard=shard)
    for _ in progress(look, "checking", len(look)):
        pass
    if cache and not known:  # Only facts of cases without warnings are kept, and the caller's may have had some.
        _keep_facts(look, kept, cache / f"{_facts_name(dataset)}{_part(shard)}.json")
    return look


def _part(shard: Shard) -> str:
    return "" if shard == WHOLE else f"-{shard.place}-of-{shard.count}"


def report_name(shard: Shard = WHOLE) -> str:
    """Return the name of the report: ``check.json``, or ``check-2-of-3.json`` of a share."""
    return f"check{_part(shard)}.json"


def write_report(look: Check, folder: Path) -> Path:
    """Write what a check has found.

    Args:
        look: A finished check.
        folder: Where to write; made if it is missing.

    Returns:
        The file's path.

    Raises:
        UserError: A file of its name is there that no check has written.
    """
    name = report_name(look.shard)
    with report_in(folder).writing([name]) as stage:
        write_json(stage / name, report_of(look))
    return folder / name


def report_of(look: Check) -> dict[str, Any]:
    """Return the problems, warnings, the number of each code, and the facts of the sound cases, JSON-ready."""
    dataset = look.dataset
    return {
        "version": __version__,
        "dataset": str(dataset.source),
        "layout": dataset.layout,
        "shard": f"{look.shard.place}/{look.shard.count}",
        "sound": not look.problems,
        "counts": dict(Counter(problem.code for problem in look.findings)),
        "problems": [problem.as_row() for problem in look.problems],
        "warnings": [problem.as_row() for problem in look.warnings],
        "labels": dict(dataset.labels) if dataset.labels is not None else None,
        "regions": {name: list(values) for name, values in dataset.regions.items()},
        "ignore": dataset.ignore,
        "channels": dataset.channels,
        "cases": look.as_rows(),
    }


def report_in(folder: Path) -> Output:
    """Return the folder that a check writes to, with its list of files."""
    return Output(folder, "check")


def repair(look: Check, names: Sequence[str], folder: Path) -> tuple[Check, list[Repair]]:
    """Write a repaired copy of a dataset, its list and a log of the repairs, and check the copy.

    Args:
        look: A finished check of the dataset.
        names: Names of the repairs.
        folder: Empty or new; gets ``dataset.json``, ``repairs.json`` and the files.

    Returns:
        The finished check of the copy, and the log.

    Raises:
        UserError: Nothing can be repaired.
    """
    content, log = repair_dataset(look, names, folder)
    write_json(folder / "repairs.json", log_rows(log))
    write_json(folder / "dataset.json", content)
    return survey(read_dataset(folder / "dataset.json"), strict=look.strict), log


def tell_warnings(warnings: Sequence[Problem]) -> None:
    """Count warnings on the terminal, by code, with the first of each and its remedy."""
    if warnings:
        text = f"{len(warnings)} warning(s): {count_codes(warnings)}."
        note(f"{text} `fewmask check` shows them; docs/checks.md explains them.")
        for first in {warning.code: warning for warning in reversed(warnings)}.values():
            note(f"  {first.code}: {Path(first.where).name} {first.message}")
            if first.remedy:
                note(f"    remedy: {first.remedy}")
