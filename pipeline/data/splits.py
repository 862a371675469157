"""Decide which cases are trained on and which are held out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import Problem, UserError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from pipeline.data.layouts import Dataset
    from pipeline.types import Case


@dataclass(frozen=True)
class Split:
    """The cases of a run, by what they are used for.

    Attributes:
        labelled: Training cases with a mask.
        unlabelled: Training cases without a mask, or whose mask is not trained on.
        validation: Cases with a mask that nothing is trained on.
        unlike: Cases without a mask that look like none that has one, and are left out.
    """

    labelled: tuple[Case, ...]
    unlabelled: tuple[Case, ...]
    validation: tuple[Case, ...]
    unlike: tuple[Case, ...] = ()

    @property
    def atlases(self) -> tuple[Case, ...]:
        """Training cases whose masks tell every class."""
        return tuple(case for case in self.labelled if case.annotated is None)

    def as_dict(self) -> dict[str, list[str]]:
        """Return the ids, JSON-ready."""
        return {name: [case.id for case in getattr(self, name)] for name in self.__dataclass_fields__}


def split_cases(
    dataset: Dataset,
    fraction: float,
    seed: int,
    *,
    with_labels: bool = True,
    fold: tuple[int, int] | None = None,
    classes: Mapping[str, Collection[int]] | None = None,
) -> Split:
    """Split a dataset by its own ``validation`` list or, without one, by a seeded draw of labelled patients.

    No patient is on both sides: scans of a held-out patient are not trained on, labelled or not. For a fold, the
    labelled patients outside of the ``validation`` list are divided by a seeded draw, and those of one part validate;
    the list itself is not used. If a draw would leave no mask with some class to train on, another patient is held out;
    otherwise the draw is the same with and without ``classes``.

    Args:
        dataset: The dataset.
        fraction: Share of labelled patients to hold out; at least one is, and at least one is not.
        seed: Of the draw.
        with_labels: Whether masks are trained on. If not, they only validate: training cases lose theirs, and a dataset
            without any mask has no validation cases.
        fold: Which fold, counted from 1, and of how many; ``fraction`` then has no effect.
        classes: The classes in the mask of each labelled case, by id; None or nothing for a plain draw.

    Raises:
        UserError: Nothing is left to train on, or, where labels are trained on, nothing to validate on.
    """
    everything = all_cases(dataset)
    validation = everything.validation
    holders = _holders(everything.labelled, classes or {})
    if fold:
        held_out = _fold_patients(dataset, everything.labelled, seed, fold, holders)
        validation = _scans_of(held_out, everything.labelled)
    elif not validation:
        held_out = _draw_patients(dataset, everything.labelled, fraction, seed, int(with_labels), holders)
        validation = _scans_of(held_out, everything.labelled)
    tested = {case.patient for case in validation}
    trained_on = {case.id for case in everything.labelled + everything.unlabelled if case.patient not in tested}
    kept = [case for case in dataset.cases if case.id in trained_on]
    if not with_labels:
        kept = [replace(case, label=None) for case in kept]
    split = Split(tuple(c for c in kept if c.label), tuple(c for c in kept if not c.label), validation)
    _refuse_nothing(dataset, split, with_labels=with_labels)
    return split


def without_validation(dataset: Dataset, *, with_labels: bool = True) -> Split:
    """Return a split in which every case but those of the test set is trained on, and none validates.

    Args:
        dataset: The dataset.
        with_labels: Whether masks are trained on. If not, training cases lose theirs.

    Raises:
        UserError: Nothing is left to train on, or, where labels are trained on, no case has a mask.
    """
    kept = [case for case in dataset.cases if case.role != "test"]
    if not with_labels:
        kept = [replace(case, label=None) for case in kept]
    split = Split(tuple(c for c in kept if c.label), tuple(c for c in kept if not c.label), ())
    _refuse_nothing(dataset, split, with_labels=with_labels)
    return split


def _refuse_nothing(dataset: Dataset, split: Split, *, with_labels: bool) -> None:
    if with_labels and not split.labelled:
        raise _too_few(dataset, "no labelled case is left to train on")
    if not split.labelled + split.unlabelled:
        raise _too_few(dataset, "no case is left to train on")


def all_cases(dataset: Dataset) -> Split:
    """Return the cases that all folds together train on, and the dataset's own ``validation`` list."""
    validation = tuple(case for case in dataset.cases if case.role == "validation")
    tested = {case.patient for case in validation}
    kept = [case for case in dataset.cases if case.role in (None, "training") and case.patient not in tested]
    return Split(tuple(case for case in kept if case.label), tuple(case for case in kept if not case.label), validation)


def _scans_of(patients: set[str], cases: tuple[Case, ...]) -> tuple[Case, ...]:
    return tuple(case for case in cases if case.patient in patients)


def _holders(cases: Sequence[Case], classes: Mapping[str, Collection[int]]) -> list[set[str]]:
    """Return, for each class, the patients whose masks have it."""
    holders: dict[int, set[str]] = {}
    for case in cases:
        for value in classes.get(case.id, ()):
            holders.setdefault(value, set()).add(case.patient)
    return list(holders.values())


def _draw_patients(
    dataset: Dataset,
    labelled: tuple[Case, ...],
    fraction: float,
    seed: int,
    to_train: int,
    holders: Sequence[set[str]],
) -> set[str]:
    """Draw the patients to hold out, at least one. Where possible, the last patient with some class is not held out.

    Args:
        dataset: For messages.
        labelled: The cases with a mask.
        fraction: Share of the patients to hold out.
        seed: Of the draw.
        to_train: How many patients must be left to train on.
        holders: The patients that have each class.
    """
    patients = sorted({case.patient for case in labelled})
    if len(patients) < 2 * to_train:
        raise _too_few(dataset, f"{len(patients)} labelled patient(s), and one must be held out to validate on")
    count = min(max(1, round(fraction * len(patients))), len(patients) - to_train)
    order = [patients[i] for i in np.random.default_rng([seed, 0x5711]).permutation(len(patients))]
    held_out: set[str] = set()
    for patient in order:
        if len(held_out) < count and not any(group <= held_out | {patient} for group in holders if patient in group):
            held_out.add(patient)
    return held_out or set(order[:count][:1])


def _fold_patients(
    dataset: Dataset, labelled: tuple[Case, ...], seed: int, fold: tuple[int, int], holders: Sequence[set[str]]
) -> set[str]:
    number, folds = fold
    patients = sorted({case.patient for case in labelled})
    if len(patients) < folds:
        message = f"{len(patients)} labelled patient(s), and each of {folds} folds holds one out"
        remedy = "use fewer"
        raise UserError(
            "The dataset cannot be split.", [Problem(str(dataset.source), "too-few-labels", message, remedy)]
        )
    order = [patients[i] for i in np.random.default_rng([seed, 0xF01D]).permutation(len(patients))]
    _spread(order, folds, [group for group in holders if len(group) > 1])
    return set(order[number - 1 :: folds])


def _spread(order: list[str], folds: int, holders: Sequence[set[str]]) -> None:
    """Exchange patients between folds until, as far as possible, no fold holds out every patient with some class.

    Args:
        order: Patients, changed in place; patient ``n`` is in fold ``n % folds``.
        folds: The number of folds.
        holders: The patients that have each class, two or more of them.
    """

    def lost() -> int:
        parts = [set(order[first::folds]) for first in range(folds)]
        return sum(any(group <= part for part in parts) for group in holders)

    def exchange(one: int, other: int) -> None:
        kept = order[one]
        order[one] = order[other]
        order[other] = kept

    at_stake = lost()
    while at_stake:
        for one, other in combinations(range(len(order)), 2):
            if one % folds != other % folds:
                exchange(one, other)
                if lost() < at_stake:
                    break
                exchange(one, other)
        else:
            return
        at_stake = lost()


def _too_few(dataset: Dataset, message: str) -> UserError:
    remedy = "label a scan of one more patient, or give a list with training and validation"
    if {case.role for case in dataset.cases} == {"test"}:
        remedy += "; to train on a folder of scans alone, put them into a folder images/, and name the one above it"
    return UserError("The dataset cannot be split.", [Problem(str(dataset.source), "too-few-labels", message, remedy)])
