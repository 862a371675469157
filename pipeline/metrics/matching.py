"""Match the segments of a network that was trained without labels to the labels of scans.

The matching is fitted to the labels that it is then scored on, so the scores are optimistic: they say how good the
segments are once somebody has named them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import linear_sum_assignment

from pipeline.metrics.overlap import encode, joint_counts

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pipeline.metrics.overlap import Counts, Labels


@dataclass(frozen=True, slots=True)
class SegmentMatch:
    """What one segment was matched to.

    Attributes:
        segment: The segment's value.
        label: The label's value; None for a segment that no label was left for.
        overlap: Their Dice over the pooled voxels of all cases; None without a label.
        voxels: How many voxels of all cases the segment has; 0 where the network never uses it.
    """

    segment: int
    label: int | None
    overlap: float | None
    voxels: int


def match_segments(
    pairs: Iterable[tuple[Labels, Labels]], labels: Sequence[int], segments: Sequence[int]
) -> list[SegmentMatch]:
    """Match segments to labels one to one, with the largest possible sum of overlaps.

    The overlap of label l and segment s is their Dice over the pooled voxels of all cases::

        O_ls = 2 |l & s| / (|l| + |s|)

    The matching is found by the Hungarian method (Kuhn 1955, doi:10.1002/nav.3800020109). Every label takes part,
    background too, and has the same weight however small it is. A label or a segment without a voxel has no overlap,
    and a pair without overlap is no match.

    Args:
        pairs: Truth and segments of each case, integers of one shape.
        labels: The values that the truth may have, rising; voxels with others do not count.
        segments: The values that the segments may have, rising.

    Returns:
        One match for each segment, in their order.

    >>> truth = np.array([0, 0, 0, 5, 5, 5])
    >>> for match in match_segments([(truth, np.array([2, 2, 3, 1, 1, 3]))], [0, 5], [1, 2, 3]):
    ...     print(match.segment, match.label, match.overlap)
    1 5 0.8
    2 0 0.8
    3 None None
    """
    counts = np.zeros((len(labels), len(segments)), dtype=np.int64)
    for truth, predicted in pairs:
        counts += _count_overlap(truth, predicted, labels, segments)
    sizes = counts.sum(axis=1)[:, None] + counts.sum(axis=0)[None, :]
    overlaps = 2 * counts / np.maximum(sizes, 1)
    rows, columns = linear_sum_assignment(overlaps, maximize=True)
    matches = {int(s): int(row) for row, s in zip(rows, columns, strict=True) if counts[row, s]}
    found = []
    for s, segment in enumerate(segments):
        voxels = int(counts[:, s].sum())
        if s in matches:
            row = matches[s]
            found.append(SegmentMatch(segment, labels[row], float(overlaps[row, s]), voxels))
        else:
            found.append(SegmentMatch(segment, None, None, voxels))
    return found


def _count_overlap(truth: Labels, found: Labels, labels: Sequence[int], segments: Sequence[int]) -> Counts:
    """Count the voxels that each label, a row, shares with each segment, a column."""
    codes = [encode(values, np.array(known)) for values, known in ((truth, labels), (found, segments))]
    width = max(len(labels), len(segments)) + 1
    return joint_counts(codes[0], codes[1], width)[: len(labels), : len(segments)]
