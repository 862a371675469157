"""Decide which cases teach and which cases test."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import Problem, UserError

if TYPE_CHECKING:
    from pipeline.data.layouts import Dataset
    from pipeline.types import Case


@dataclass(frozen=True)
class Split:
    """The cases of a run, by what they are used for.

    Attributes:
        labelled: Training cases with a mask.
        unlabelled: Training cases without one, or whose mask no one is to learn from.
        validation: Cases with a mask that no weight is ever learnt from.
    """

    labelled: tuple[Case, ...]
    unlabelled: tuple[Case, ...]
    validation: tuple[Case, ...]

    def as_dict(self) -> dict[str, list[str]]:
        """Return the ids, JSON-ready."""
        return {name: [case.id for case in getattr(self, name)] for name in self.__dataclass_fields__}


def split_cases(
    dataset: Dataset, fraction: float, seed: int, *, labels_teach: bool = True, fold: tuple[int, int] | None = None
) -> Split:
    """Split a dataset by its own ``validation`` list or, without one, by a seeded draw of labelled patients.

    No patient is on both sides: scans of a held-out patient are not trained on, labelled or not. As one fold of several
    the labelled patients of the training are parted by a seeded draw, and those of one part validate; a ``validation``
    list of the dataset then plays no part at all.

    Args:
        dataset: The dataset.
        fraction: Share of labelled patients to hold out; at least one is, and at least one is not.
        seed: Of the draw.
        labels_teach: Whether masks are learnt from. Where they are not, masks only validate: training cases lose
            theirs, so that nothing can look at it, and a dataset without any mask has no validation cases.
        fold: Which fold, counted from 1, and of how many; ``fraction`` is then of no effect.

    Raises:
        UserError: Nothing is left to train on, or, where labels teach, nothing to validate on.
    """
    everything = all_cases(dataset)
    validation = everything.validation
    if fold:
        validation = _scans_of(_fold_patients(dataset, everything.labelled, seed, *fold), everything.labelled)
    elif not validation:
        held_out = _draw_patients(dataset, everything.labelled, fraction, seed, to_teach=1 if labels_teach else 0)
        validation = _scans_of(held_out, everything.labelled)
    tested = {case.patient for case in validation}
    teaching = {case.id for case in everything.labelled + everything.unlabelled if case.patient not in tested}
    kept = [case for case in dataset.cases if case.id in teaching]
    if not labels_teach:
        kept = [replace(case, label=None) for case in kept]
    split = Split(tuple(c for c in kept if c.label), tuple(c for c in kept if not c.label), validation)
    if labels_teach and not split.labelled:
        raise _too_few(dataset, "no labelled case is left to train on")
    if not kept:
        raise _too_few(dataset, "no case is left to train on")
    return split


def all_cases(dataset: Dataset) -> Split:
    """Return what all folds together learn from and are validated on, and the dataset's own ``validation`` list."""
    validation = tuple(case for case in dataset.cases if case.role == "validation")
    tested = {case.patient for case in validation}
    kept = [case for case in dataset.cases if case.role in (None, "training") and case.patient not in tested]
    return Split(tuple(case for case in kept if case.label), tuple(case for case in kept if not case.label), validation)


def _scans_of(patients: set[str], cases: tuple[Case, ...]) -> tuple[Case, ...]:
    return tuple(case for case in cases if case.patient in patients)


def _draw_patients(dataset: Dataset, labelled: tuple[Case, ...], fraction: float, seed: int, to_teach: int) -> set[str]:
    patients = sorted({case.patient for case in labelled})
    if len(patients) < 2 * to_teach:
        raise _too_few(dataset, f"{len(patients)} labelled patient(s), and one must be held out to validate on")
    count = min(max(1, round(fraction * len(patients))), len(patients) - to_teach)
    return {patients[i] for i in np.random.default_rng([seed, 0x5711]).permutation(len(patients))[:count]}


def _fold_patients(dataset: Dataset, labelled: tuple[Case, ...], seed: int, fold: int, folds: int) -> set[str]:
    patients = sorted({case.patient for case in labelled})
    if len(patients) < folds:
        message, remedy = f"{len(patients)} labelled patient(s), and each of {folds} folds holds one out", "use fewer"
        raise UserError(
            "The dataset cannot be split.", [Problem(str(dataset.source), "too-few-labels", message, remedy)]
        )
    order = np.random.default_rng([seed, 0xF01D]).permutation(len(patients))
    return {patients[i] for i in order[fold - 1 :: folds]}


def _too_few(dataset: Dataset, message: str) -> UserError:
    remedy = "label one more scan, or give a list with training and validation"
    return UserError("The dataset cannot be split.", [Problem(str(dataset.source), "too-few-labels", message, remedy)])
