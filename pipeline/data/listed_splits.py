"""Split a dataset as a file says, and refuse a file that does not fit it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.data.split_files import FOLD, Sides, bad_split, read_folds
from pipeline.data.splits import Split
from pipeline.errors import Names, Problem, UserError, is_other_number, listed, nearest
from pipeline.terminal import note

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from pathlib import Path

    from pipeline.data.layouts import Dataset
    from pipeline.types import Case

# Cases that one message names.
NAMED = 8


def split_by_file(
    dataset: Dataset,
    path: Path,
    column: str = FOLD,
    chosen: int | str | None = None,
    fold: tuple[int, int] | None = None,
    *,
    with_labels: bool = True,
) -> Split:
    """Split a dataset by one of the splits of a file, which counts instead of the dataset's own lists.

    Scans without masks are trained on, unless they are of a patient who validates. Cases of the dataset's own
    ``validation`` list that the file does not name are left out, and so is its test set.

    Args:
        dataset: The dataset.
        path: The file, as for :func:`pipeline.data.split_files.read_folds`.
        column: As there.
        chosen: The name of the fold that validates; None where the file holds one split.
        fold: In a cross-validation, which fold, counted from 1, and of how many.
        with_labels: Whether masks are trained on. If not, training cases lose theirs.

    Raises:
        UserError: The file cannot be read, does not fit the dataset, or no fold of it is chosen; with all problems.
    """
    folds = read_folds(path, dataset, column)
    if fold:
        _refuse_count(path, folds, fold[1], "data.fold", f"data.fold=[{fold[0]},{len(folds)}]")
        name = list(folds)[fold[0] - 1]
    else:
        name = _chosen(path, folds, chosen)
    sides = folds[name]
    new = _new_masks(dataset, sides) if sides.of_run else []
    sides = replace(sides, train=sides.train.union(new))
    problems = _problems(path, dataset, name, sides, with_labels=with_labels)
    if problems:
        raise UserError("The dataset cannot be split as the file says.", problems)
    if with_labels and new:
        note(f"trained on too, with masks that {path} does not know: {listed(new, NAMED)}")
    return _applied(dataset, sides, with_labels=with_labels)


def pool_by_file(dataset: Dataset, path: Path, folds: int, column: str = FOLD) -> Split:
    """Return the cases that the folds of a file together train on, and the dataset's own ``validation`` list.

    Args:
        dataset: The dataset.
        path: As for :func:`split_by_file`.
        folds: The number of folds that is asked for.
        column: As for :func:`split_by_file`.

    Raises:
        UserError: The file cannot be read, has another number of folds, or does not fit the dataset, with the problems
            of all folds; or a case validates in two folds.
    """
    found = read_folds(path, dataset, column)
    _refuse_count(path, found, folds, "--folds", f"--folds {len(found)}")
    problems = [problem for name, sides in found.items() for problem in _problems(path, dataset, name, sides)]
    counts = {case.id: sum(case.id in sides.validation for sides in found.values()) for case in dataset.cases}
    if twice := [name for name, count in counts.items() if count > 1]:
        message = f"lets {listed(twice, NAMED)} validate in several folds, and each case is scored out of fold once"
        problems.append(Problem(str(path), "split-both-sides", message, "train single folds: data.split_fold=FOLD"))
    if problems:
        raise UserError("The dataset cannot be split as the file says.", list(dict.fromkeys(problems)))
    named = frozenset().union(*(sides.train | sides.validation for sides in found.values()))
    pool = _applied(dataset, Sides(named, frozenset()), with_labels=True)
    own = [case for case in dataset.cases if case.role == "validation" and case.id not in named]
    tested = {case.patient for case in own}
    if leaked := [case.id for case in pool.labelled if case.patient in tested]:
        message = f"trains on {listed(leaked, NAMED)}, of patients in the dataset's own validation list"
        raise UserError(
            "The dataset cannot be split as the file says.",
            [Problem(str(path), "split-both-sides", message, "name their other cases too, or none of them")],
        )
    return Split(pool.labelled, pool.unlabelled, tuple(own))


def _new_masks(dataset: Dataset, sides: Sides) -> list[str]:
    """Return the cases whose masks the run that wrote a split did not have; patients who validate have no others."""
    known = (sides.train - sides.unlabelled) | sides.validation
    held_out = {case.patient for case in dataset.cases if case.id in sides.validation}
    return [
        case.id
        for case in dataset.cases
        if case.label and case.role in (None, "training") and case.id not in known and case.patient not in held_out
    ]


def _hint(strange: Collection[str], usable: Collection[str]) -> str:
    """Return how the first name that is no case's may have been meant, or what the cases are called."""
    known = sorted(usable)
    first = min(strange, default="")
    near = Names(known).nearest(first)
    if near is not None and not is_other_number(first, near):
        return f"is {first} {near}? correct the names, or take them out"
    return f"the dataset's cases are called {listed(known[:2], NAMED)}; correct the names, or take them out"


def _applied(dataset: Dataset, sides: Sides, *, with_labels: bool) -> Split:
    named = sides.train | sides.validation
    validation = tuple(case for case in dataset.cases if case.id in sides.validation)
    own = [case for case in dataset.cases if case.role == "validation" and case.id not in named]
    tested = {case.patient for case in (*validation, *own)}
    kept: list[Case] = []
    for case in dataset.cases:
        spare = case.label is None and case.role in (None, "training") and case.patient not in tested
        if case.id in sides.train or spare:
            kept.append(case if with_labels else replace(case, label=None))
    return Split(tuple(c for c in kept if c.label), tuple(c for c in kept if not c.label), validation)


def _chosen(path: Path, folds: Mapping[str, Sides], chosen: int | str | None) -> str:
    if chosen is not None and "" in folds:
        raise bad_split(path, "holds one split, and no folds", "leave data.split_fold out")
    if chosen is None and len(folds) == 1:
        return next(iter(folds))
    if chosen is None:
        message = f"holds {len(folds)} folds: {', '.join(folds)}"
        remedy = f"say which validates: data.split_fold={next(iter(folds))}; or train all: --folds {len(folds)}"
        raise bad_split(path, message, remedy)
    if str(chosen) not in folds:
        raise bad_split(path, f"has no fold {str(chosen)!r} among {', '.join(folds)}", nearest(str(chosen), folds))
    return str(chosen)


def _refuse_count(path: Path, folds: Mapping[str, Sides], asked: int, option: str, remedy: str) -> None:
    if "" in folds:
        raise bad_split(path, "holds one split, and no folds", f"leave {option} out, or name a file with folds")
    if len(folds) != asked:
        message = f"holds {len(folds)} folds ({', '.join(folds)}), and {asked} are asked for"
        raise bad_split(path, message, remedy if len(folds) > 1 else f"leave {option} out")


def _problems(path: Path, dataset: Dataset, name: str, sides: Sides, *, with_labels: bool = True) -> list[Problem]:
    """Find everything in one split of a file that does not fit a dataset."""
    fold = f"fold {name} " if name else ""
    cases = {case.id: case for case in dataset.cases}
    usable = {case.id for case in dataset.cases if case.role != "test"}
    held_out = {cases[c].patient for c in sides.validation & usable}
    problems = []

    def report(code: str, what: str, found: Iterable[str], remedy: str) -> None:
        names = sorted(found)
        if names:
            problems.append(Problem(str(path), code, f"{fold}{what} {listed(names, NAMED)}", remedy))

    strange = (sides.train | sides.validation) - cases.keys()
    report("split-unknown", "names what is no case of the dataset:", strange, _hint(strange, usable))
    tested = (sides.train | sides.validation) & (cases.keys() - usable)
    report("split-unknown", "names cases of the dataset's test set:", tested, "take them out")
    both = sides.train & sides.validation
    report("split-both-sides", "trains and validates on", both, "keep each case on one side")
    parted = {c for c in (sides.train - both) & usable if cases[c].patient in held_out}
    report("split-both-sides", "trains on scans of patients who validate:", parted, "keep each patient on one side")
    bare = {c for c in sides.validation & usable if cases[c].label is None}
    report("split-without-mask", "validates on cases without a mask:", bare, "label them, or let others validate")
    named = sides.train | sides.validation
    required = {c.id for c in dataset.cases if c.label and c.role in (None, "training") and c.patient not in held_out}
    report("split-missing", "neither trains nor validates on", required - named, "put each on one side")
    if not sides.validation:
        message = f"{fold}names no case that validates"
        problems.append(Problem(str(path), "split-missing", message, "name one"))
    if with_labels and not any(cases[c].label for c in sides.train & usable):
        message = f"{fold}names no case with a mask to train on"
        problems.append(Problem(str(path), "split-missing", message, "name one"))
    return problems
