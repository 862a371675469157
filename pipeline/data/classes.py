"""Warn of classes that are in no mask that is trained on, or in no mask that validates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.data.splits import Split, all_cases
from pipeline.errors import Problem, listed

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from pipeline.data.inspection import CaseFacts
    from pipeline.data.layouts import Dataset
    from pipeline.types import Case

# Cases that one message names.
NAMED = 4


def classes_of(facts: Mapping[str, CaseFacts], ignore: int | None) -> dict[str, frozenset[int]]:
    """Return the label values in each case's mask, by case, but for 0 and ``ignore``; none for one without a mask."""
    return {
        name: frozenset(v for v, count in (found.label_voxels or {}).items() if count and v not in (0, ignore))
        for name, found in facts.items()
    }


def dataset_warnings(
    dataset: Dataset, labels: Mapping[int, str], classes: Mapping[str, Collection[int]]
) -> list[Problem]:
    """Warn of classes that no split of a dataset can both train on and validate.

    A dataset with a ``validation`` list has one split. Else patients are drawn, and two of them must have each class.

    Args:
        dataset: The dataset.
        labels: Values and names, background included.
        classes: The label values in the mask of each labelled case, by id.
    """
    split = all_cases(dataset)
    where = str(dataset.source)
    if not split.labelled:
        return []
    if split.validation:
        return split_warnings(split, labels, classes, where)
    problems = []
    for value, name in labels.items():
        holders = [case for case in split.labelled if value in classes[case.id]]
        patients = {case.patient for case in holders}
        if value and not holders:
            problems.append(_unseen(value, name, split.labelled, [], where))
        elif value and len(patients) == 1 and len({case.patient for case in split.labelled}) > 1:
            message = f"has {value} ({name}) in masks of one patient alone, {_named(holders)}: they are trained on"
            remedy = "label one more scan that has it; until then no mask tells how well it is found"
            problems.append(Problem(where, "class-unvalidated", message, remedy))
    return problems


def split_warnings(
    split: Split, labels: Mapping[int, str], classes: Mapping[str, Collection[int]], where: str
) -> list[Problem]:
    """Warn of classes that are in no mask of one side of a split.

    Args:
        split: Which cases are trained on and which validate.
        labels: Values and names, background included.
        classes: The label values in the mask of each labelled case, by id.
        where: The dataset, for messages.
    """
    problems = []
    for value, name in labels.items():
        trained_on = [case for case in split.labelled if value in classes[case.id]]
        tested = [case for case in split.validation if value in classes[case.id]]
        if value and not trained_on:
            problems.append(_unseen(value, name, split.labelled, tested, where))
        elif value and not tested and split.validation:
            message = f"has {value} ({name}) in none of {len(split.validation)} masks that validate"
            remedy = (
                f"let a scan that has it validate, such as {_named(trained_on)}; until then nothing tells how it fares"
            )
            problems.append(Problem(where, "class-unvalidated", message, remedy))
    return problems


def _unseen(value: int, name: str, trained_on: Sequence[Case], tested: Sequence[Case], where: str) -> Problem:
    message = (
        f"has {value} ({name}) in none of {len(trained_on)} masks that are trained on, so that it cannot be learnt"
    )
    remedy = "label a scan that has it, or take it out of the labels"
    if tested:
        message += f"; it is in {_named(tested)}, which validate"
        remedy = "train on one of these"
    return Problem(where, "class-unseen", message, remedy)


def _named(cases: Iterable[Case]) -> str:
    return listed([case.id for case in cases], NAMED)
