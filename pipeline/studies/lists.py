"""Write the lists that the trainings of a study use: in each, a drawn set of patients keeps its masks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.data.layouts.painting import asked_labels
from pipeline.data.relabelling import as_in_the_files
from pipeline.data.splits import split_cases
from pipeline.errors import Problem, UserError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pipeline.data.layouts import Dataset
    from pipeline.types import Case

FRACTION = 0.2
SEED = 0


def draw_lists(dataset: Dataset, counts: Mapping[int, tuple[int, ...]]) -> dict[tuple[int, int], dict[str, Any]]:
    """Return a list for each number of labelled patients and each draw, as the ``datalist`` layout reads it.

    All lists have the same validation cases: the dataset's own, or those of a fifth of the patients with masks. A draw
    puts the other patients in a random order, and the first of them keep their masks. So the patients of a smaller
    number are among those of a larger one.

    Args:
        dataset: The dataset.
        counts: The draws to make, by number of labelled patients.

    Returns:
        The lists, with absolute paths, by number and draw.

    Raises:
        UserError: It has too few patients with masks.
    """
    dataset = as_in_the_files(dataset)
    split = split_cases(dataset, FRACTION, SEED)
    patients = sorted({case.patient for case in split.labelled})
    if len(patients) < max(counts):
        message = f"asks for {max(counts)}, and {len(patients)} patients with masks are left beside those that validate"
        problem = Problem("labelled", "too-few-labels", message, "ask for fewer, and a smaller goal")
        raise UserError("The study cannot begin.", [problem])
    lists = {}
    for count, draws in counts.items():
        for draw in draws:
            order = np.random.default_rng([draw, 0xD2A3]).permutation(len(patients))
            chosen = {patients[place] for place in order[:count]}
            kept = [case for case in split.labelled if case.patient in chosen]
            hidden = [case for case in split.labelled if case.patient not in chosen]
            lists[count, draw] = _facts(dataset) | {
                "training": [_entry(case, case.label) for case in kept],
                "unlabeled": [_entry(case, None) for case in (*hidden, *split.unlabelled)],
                "validation": [_entry(case, case.label) for case in split.validation],
            }
    return lists


def _facts(dataset: Dataset) -> dict[str, Any]:
    """Return what a list declares beside its cases: labels, channels and the ignore value."""
    labels = None
    if dataset.labels:
        labels = {name: value for value, name in dataset.labels.items()}
    told = {"labels": labels, "channel_names": dataset.channels, "ignore": dataset.ignore}
    return {key: value for key, value in told.items() if value is not None} | asked_labels(dataset.asked)


def _entry(case: Case, label: Path | None) -> dict[str, Any]:
    images = [str(path.resolve()) for path in case.images]
    entry: dict[str, Any] = {"id": case.id, "image": images if len(images) > 1 else images[0]}
    if case.patient != case.id:  # A list that names no patients is warned of names that look like one's.
        entry["patient"] = case.patient
    if label:
        entry["label"] = str(label.resolve())
        if case.annotated is not None:
            entry["annotated"] = list(case.annotated)
    return entry
