"""Runs that train without labels: the values of their segments, and matching these to labels for scores."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from pipeline.data.checked import read_case
from pipeline.metrics.matching import match_segments
from pipeline.types import Task

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.data.index import Index
    from pipeline.data.inspection import CaseFacts
    from pipeline.metrics.matching import SegmentMatch
    from pipeline.prediction.predictor import Predictor
    from pipeline.recipe import Recipe
    from pipeline.types import Case

MATCHED = (
    "The segments were matched to the labels of these very cases: the figures say how well segments fit labels once "
    "somebody has named them, and flatter."
)


def labels_of(index: Index) -> Task:
    """Return the labels and channels of a dataset as a task."""
    return Task(index.labels, index.channels, index.ignore, index.dataset.targets)


def task_of(recipe: Recipe, index: Index) -> Task:
    """Return what a run predicts: the dataset's labels or, with ``segments``, the values 1 to K.

    No segment has the value 0, since none is known to be background.
    """
    if recipe.segments is None:
        return labels_of(index)
    return Task({value: f"segment {value}" for value in range(1, recipe.segments + 1)}, index.channels)


def match(
    predictor: Predictor, cases: Sequence[Case], facts: Mapping[str, CaseFacts], truth: Task
) -> tuple[Predictor, list[SegmentMatch]]:
    """Match a predictor's segments to the labels of cases; return a predictor of these labels, and the matches.

    Voxels without an annotation do not count. A segment without a label becomes background. The cases are predicted
    here, and again when they are scored: keeping all label maps would take more memory than a network.
    """
    pairs = _pairs(predictor, cases, facts)
    matches = match_segments(pairs, [value for value in truth.labels if value != truth.ignore], predictor.label_values)
    return replace(predictor, label_values=tuple(match.label or 0 for match in matches)), matches


def _pairs(
    predictor: Predictor, cases: Sequence[Case], facts: Mapping[str, CaseFacts]
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    for case in cases:
        scans, mask = read_case(case, facts[case.id])
        if mask is None:
            raise ValueError(f"case {case.id} has no label to be matched with")
        yield mask.labels, predictor.segment(scans)


def describe(matches: Sequence[SegmentMatch], truth: Task) -> dict[str, Any]:
    """Return a matching as ``summary.json`` has it; each null in it has a reason of the same name."""
    return {"matched": True, "segments": [asdict(match) | _name(match, truth) for match in matches]}


def _name(match: SegmentMatch, truth: Task) -> dict[str, Any]:
    if match.label is not None:
        return {"name": truth.labels[match.label], "reasons": {}}
    why = "it is in no case"
    if match.voxels:
        why = "no label is left for it; it counts as background"
    return {"name": None, "reasons": dict.fromkeys(("label", "overlap", "name"), why)}
