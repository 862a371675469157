import itertools

import numpy as np
import pytest

from pipeline.metrics.matching import match_segments


def by_hand(pairs, labels, segments):
    """Try every one-to-one matching; return the largest sum of overlaps."""
    truth, found = (np.concatenate([np.ravel(pair[side]) for pair in pairs]) for side in (0, 1))

    def overlap(label, segment):
        shared = np.sum((truth == label) & (found == segment))
        # Only voxels whose label is known count.
        return 2 * shared / max(1, np.sum(truth == label) + np.sum((found == segment) & np.isin(truth, labels)))

    few, many = sorted((labels, segments), key=len)
    chosen = itertools.permutations(many, len(few))
    swap = few is not labels
    return max(sum(overlap(*((b, a) if swap else (a, b))) for a, b in zip(few, pick, strict=True)) for pick in chosen)


@pytest.mark.parametrize(
    ("labels", "segments"), [([0, 1, 7], [1, 2, 3]), ([0, 4], [1, 2, 3, 4]), ([0, 1, 2, 3], [1, 2])]
)
@pytest.mark.parametrize("seed", range(5))
def test_sum_of_overlaps_is_the_largest_there_is(labels, segments, seed):
    rng = np.random.default_rng(seed)
    pairs = [(rng.choice(labels, 60), rng.choice(segments, 60)) for _ in range(3)]
    matches = match_segments(pairs, labels, segments)
    assert [match.segment for match in matches] == segments
    assert sum(match.overlap or 0 for match in matches) == pytest.approx(by_hand(pairs, labels, segments))
    taken = [match.label for match in matches if match.label is not None]
    assert len(taken) == len(set(taken)) == min(len(labels), len(segments))


def test_renamed_labels_are_found_again():
    truth = np.random.default_rng(0).integers(0, 4, (5, 6, 7))
    names = np.array([3, 1, 4, 2])
    matches = match_segments([(truth, names[truth])], [0, 1, 2, 3], [1, 2, 3, 4])
    assert [match.label for match in matches] == [1, 3, 0, 2]
    assert {match.overlap for match in matches} == {1.0}


def test_small_label_weighs_as_much_as_a_large_one():
    # Segment 1 shares more voxels with the large label, and nearly all of itself with the small one.
    truth = np.repeat([0, 0, 9, 9], [95, 5, 4, 0])
    found = np.repeat([2, 1, 1, 1], [95, 5, 4, 0])
    assert [match.label for match in match_segments([(truth, found)], [0, 9], [1, 2])] == [9, 0]


def test_voxels_are_pooled_over_the_cases():
    first = (np.array([0, 0, 5, 5]), np.array([1, 1, 1, 2]))
    second = (np.array([5] * 8), np.array([2] * 8))
    one, two = match_segments([first, second], [0, 5], [1, 2])
    assert (one.label, one.overlap, one.voxels) == (0, pytest.approx(2 * 2 / (2 + 3)), 3)
    assert (two.label, two.overlap, two.voxels) == (5, pytest.approx(2 * 9 / (10 + 9)), 9)


def test_segment_that_is_nowhere_has_no_label():
    matches = match_segments([(np.array([0, 1]), np.array([1, 1]))], [0, 1], [1, 2])
    assert [(match.label is None, match.voxels) for match in matches] == [(False, 2), (True, 0)]


def test_voxels_of_other_values_count_nowhere():
    (match,) = match_segments([(np.array([0, 0, 8]), np.array([1, 1, 1]))], [0], [1])
    assert (match.overlap, match.voxels) == (1.0, 2)


def test_no_cases_give_no_matches():
    assert [match.label for match in match_segments([], [0, 1], [1, 2])] == [None, None]
