"""Compare runs, or evaluations of masks, which were scored on the same cases: two of them, or two groups."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import __version__
from pipeline.config import written
from pipeline.errors import Problem, UserError, listed
from pipeline.outputs import Output
from pipeline.reports.comparison import MASKS, TRAININGS, Comparison, compare_results, paired_rows
from pipeline.reports.figures import REPORT_FILES
from pipeline.reports.files import read_cases_csv, write_csv
from pipeline.reports.groups import Group, GroupComparison, compare_groups, group_rows
from pipeline.runs.folder import read_split
from pipeline.runs.reporting import report_comparison, report_groups
from pipeline.runs.resuming import differing_settings, flat
from pipeline.runs.stored import CONFIG, OUT_OF_FOLD, SUMMARY, read_config, read_index, read_own
from pipeline.strict_json import write_json
from pipeline.terminal import note

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

# Settings that change no training but by its masks, which are told by themselves, or not what is compared.
OF_NO_MATTER = (
    *("metrics", "data.validation_fraction", "data.fold"),
    *("data.split_by", "data.split_fold", "data.split_seed"),
)
# Settings that one message names.
NAMED = 8
FILES = ("compare.csv", "compare.json", *REPORT_FILES)


def compare(a: Path | Sequence[Path], b: Path | Sequence[Path], output: Path) -> Comparison | GroupComparison:
    """Pair sets of scores by case; write ``report.html``, ``compare.json`` and ``compare.csv``.

    Args:
        a: A folder with a ``cases.csv``: a run, one of its validations, or the output of an evaluation; or that of a
            cross-validation; or several; or a folder of trainings with several seeds, which stands for all of them.
        b: The other side, likewise.
        output: Where the files go; made where it is not there.

    Returns:
        The comparison of two trainings, or where a side has several, that of two methods.

    Raises:
        UserError: A file is in the way, a folder is named twice or without scores, or the sides were scored on other
            cases, classes or masks.
    """
    named = [[side] if isinstance(side, Path) else list(side) for side in (a, b)]
    if not all(named):
        problem = Problem(
            "RUN", "no-run", "is not given for one of the sides", "name two runs, or RUN ... --with RUN ..."
        )
        raise UserError("Nothing was compared.", [problem])
    sides = [[place for folder in side for place in trainings_in(folder) or [_scored(folder)]] for side in named]
    made = Output(output, "compare")
    made.refuse_foreign(FILES)
    _refuse_twice(sides)
    if all(len(side) == 1 for side in sides):
        return _compare_two(sides[0][0], sides[1][0], made)
    names = _names_of(*(side[0].resolve() for side in named))
    groups = [_group(name, side) for name, side in zip(names, sides, strict=True)]
    tolerance_mm = _tolerance_of([place for side in sides for place in side])
    differ = [key for key in _differing(sides[0][0], sides[1][0]) if key != "seed"]
    comparison = replace(compare_groups(*groups), differ_in=differ)
    if differ:
        note(f"the first trainings of the two methods differ in {listed(differ, NAMED)}")
    rows = group_rows(*groups)
    with made.writing(FILES) as stage:
        write_csv(stage / "compare.csv", list(rows[0]), rows)
        write_json(stage / "compare.json", {"version": __version__} | comparison.as_dict())
        report_groups(stage, comparison, groups, sides, tolerance_mm)
    return comparison


def trainings_in(folder: Path) -> list[Path]:
    """Return the scored trainings of a folder of seeds, by rising seed; none if it is no such folder."""
    found = [path for path in folder.glob("seed-*") if path.name[5:].isdecimal() and (path / "cases.csv").is_file()]
    return sorted(found, key=lambda path: int(path.name[5:]))


def _scored(folder: Path) -> Path:
    """Return where a folder's scores lie: those of a cross-validation are out of fold."""
    return next((place for place in (folder, folder / OUT_OF_FOLD) if (place / "cases.csv").is_file()), folder)


def _compare_two(a: Path, b: Path, made: Output) -> Comparison:
    first, second = (read_cases_csv(folder / "cases.csv") for folder in (a, b))
    names = _names_of(a.resolve(), b.resolve())
    tolerance_mm = _one_tolerance(a, b, names)
    scope = TRAININGS if _run_of(a) and _run_of(b) else MASKS
    differ = _differing(a, b)
    comparison = replace(compare_results(first, second, *names, scope), differ_in=differ)
    if differ:
        which = ": the comparison does not tell which of it matters" if len(differ) > 1 else ""
        note(f"the two trainings differ in {listed(differ, NAMED)}{which}")
    rows = paired_rows(first, second)
    with made.writing(FILES) as stage:
        write_csv(stage / "compare.csv", list(rows[0]), rows)
        write_json(stage / "compare.json", {"version": __version__} | comparison.as_dict())
        report_comparison(stage, comparison, first, second, (a, b), tolerance_mm)
    return comparison


def _run_of(folder: Path) -> Path | None:
    """Return the run that scores are of, whichever of its validations they are; None for those of masks."""
    if (folder / CONFIG).is_file():
        return folder
    with suppress(UserError):
        if read_own(folder, SUMMARY)["checkpoint"] is not None:
            above = list(folder.resolve().parents)[:2]
            return next((place for place in above if (place / CONFIG).is_file()), None)
    return None


def _differing(a: Path, b: Path) -> list[str]:
    """Return what two trainings differ in: masks, keys of the recipe, and of a list the list; nothing for masks.

    Which scans have no mask follows from which have one.
    """
    runs = [run for run in (_run_of(a), _run_of(b)) if run]
    found: list[str] = []
    if len(runs) < 2:
        return found
    # What cannot be read of a run says nothing: the scores are compared all the same.
    with suppress(UserError):
        one, other = (set(read_split(run)["labelled"]) for run in runs)
        if one != other:
            counts = f"{len(one)} and {len(other)}, {len(one & other)} in both"
            found.append(f"the masks that they were trained on ({counts})")
        if changed := _changed_masks(runs, one & other):
            found.append(f"what is drawn in the masks of {listed(changed, NAMED)}")
    with suppress(UserError):
        found += differing_settings(*(flat(written(read_config(run))) for run in runs))
    return [key for key in found if key not in OF_NO_MATTER]


def _changed_masks(runs: Sequence[Path], cases: Collection[str]) -> list[str]:
    """Return those of some cases whose masks have other values in one run than in the other."""
    one, other = (read_index(run) for run in runs)
    return sorted(case for case in cases if one[case].content[-1:] != other[case].content[-1:])


def _group(name: str, places: Sequence[Path]) -> Group:
    runs = [_run_of(place) for place in places]
    seeds = [read_config(run).seed if run else None for run in runs]
    return Group(name=name, trainings=[read_cases_csv(place / "cases.csv") for place in places], seeds=seeds)


def _refuse_twice(sides: Sequence[Sequence[Path]]) -> None:
    """Refuse a training that stands for two: it would count as evidence twice."""
    places = [place.resolve() for side in sides for place in side]
    problems = [
        Problem(place.name, "named-twice", "is named twice", "name each training once")
        for place in dict.fromkeys(places)
        if places.count(place) > 1
    ]
    if problems:
        raise UserError("Nothing was compared.", problems)


def _names_of(a: Path, b: Path) -> tuple[str, str]:
    """Return the last parts of two paths, as few as tell them apart: whole paths should not be in a report."""
    for count in range(1, max(len(a.parts), len(b.parts))):
        names = tuple("/".join(path.parts[-count:]) for path in (a, b))
        if names[0] != names[1]:
            return names[0], names[1]
    return a.name, b.name


def _tolerance_of(places: Sequence[Path]) -> float | None:
    """Return the tolerance of every training's surface Dice; None if a summary is missing; refuse several."""
    told = [_one_tolerance(places[0], place, _names_of(places[0].resolve(), place.resolve())) for place in places[1:]]
    return told[0] if None not in told else None


def _one_tolerance(a: Path, b: Path, names: tuple[str, str]) -> float | None:
    """Return the tolerance of both surface Dice; None if a summary is missing; refuse two different ones."""
    if not all((folder / SUMMARY).is_file() for folder in (a, b)):
        return None
    told = [read_own(folder, SUMMARY)["tolerance_mm"] for folder in (a, b)]
    if told[0] != told[1]:
        message = f"was scored with a tolerance of {told[1]} mm, {names[0]} with {told[0]} mm"
        problem = Problem(names[1], "tolerance-differs", message, "score both with one --tolerance-mm")
        raise UserError(f"{names[0]} and {names[1]} cannot be compared.", [problem])
    tolerance: float | None = told[0]
    return tolerance
