"""The share of a label that is one piece, and the post-processing that a plan makes of it."""

import numpy as np
import pytest
from scipy import ndimage

from pipeline.data.pieces import largest_pieces
from pipeline.planning.postprocessing import choose_postprocessing
from pipeline.sections import StepChoice

LABELS = {0: "background", 1: "liver", 2: "tumour"}


def by_scipy(labels):
    """The same by another library, one label after the other on the whole grid."""
    found = {}
    for value in [0, *np.unique(labels[labels > 0])]:
        mask = labels == value if value else labels > 0
        components, _ = ndimage.label(mask, structure=np.ones((3, 3, 3)))
        sizes = np.bincount(components.ravel())[1:]
        found[int(value)] = sizes.max() / sizes.sum()
    return found


@pytest.mark.parametrize("shape", [(12, 9, 7), (20, 20, 1), (1, 1, 40), (1, 30, 2)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint16, np.int64])
def test_shares_equal_those_of_scipy(shape, dtype):
    rng = np.random.default_rng(sum(shape))
    for dense in (0.05, 0.3, 0.7):
        labels = np.where(rng.random(shape) < dense, rng.integers(1, 5, shape), 0).astype(dtype)
        assert largest_pieces(labels) == pytest.approx(by_scipy(labels))
        assert largest_pieces(np.asfortranarray(labels)) == largest_pieces(labels)


def test_pieces_that_touch_at_a_corner_are_one_and_other_labels_do_not_join_them():
    labels = np.zeros((4, 4, 4), int)
    labels[0, 0, 0] = labels[1, 1, 1] = labels[3, 3, 3] = 7
    labels[2, 2, 2] = 3
    assert largest_pieces(labels) == {0: 1.0, 3: 1.0, 7: pytest.approx(2 / 3)}


def test_a_mask_without_labels_or_with_ignored_voxels_says_nothing():
    assert largest_pieces(np.zeros((3, 4, 5), np.uint8)) == {}
    for ignore in (-1, 255):
        assert largest_pieces(np.array([[[1, 1, 0, ignore]]]), ignore) == {}
        assert largest_pieces(np.array([[[1, 1, 0, 0]]]), ignore) == {0: 1.0, 1: 1.0}


def masks(*shares):
    """The shares of the labels 1 and 2 in masks; None where a mask lacks the label."""
    return [{value: share for value, share in enumerate(each, 1) if share is not None} for each in shares]


def test_a_label_that_is_one_piece_in_all_masks_keeps_its_largest_component():
    steps, reason = choose_postprocessing(LABELS, masks((1.0, 0.4), *[(0.96, 1.0)] * 4))
    assert steps == (StepChoice(step="keep_largest", options={"label": 1}),)
    assert reason == "at least 95% of liver is one piece in each of 5 masks"


def test_labels_that_are_one_piece_together_keep_the_largest_of_all_first():
    together = [{0: 0.95, **each} for each in masks(*[(1.0, 0.4)] * 5)]
    steps, reason = choose_postprocessing(LABELS, together)
    whole = StepChoice(step="keep_largest_foreground")
    assert steps == (whole, StepChoice(step="keep_largest", options={"label": 1}))
    assert reason == "at least 95% of all labels together and of liver is one piece in each of 5 masks"
    assert choose_postprocessing(LABELS, [{0: 1.0, 2: 0.4}] * 5)[0] == (whole,)
    assert choose_postprocessing(LABELS, [*together, {0: 0.94, 1: 1.0}])[0] == steps[1:]


def test_a_single_label_is_all_labels_together():
    steps, _ = choose_postprocessing({0: "background", 3: "liver"}, [{0: 1.0, 3: 1.0}] * 5)
    assert steps == (StepChoice(step="keep_largest", options={"label": 3}),)


@pytest.mark.parametrize(
    "found",
    [
        pytest.param(masks(*[(1.0, None)] * 4), id="four masks"),
        pytest.param(masks(*[(1.0, None)] * 9, (0.94, None)), id="two pieces in one of ten"),
        pytest.param(masks(*[(1.0, None)] * 4, *[(None, None)] * 9), id="in four of thirteen masks"),
        pytest.param([], id="no mask"),
    ],
)
def test_without_that_nothing_is_changed(found):
    steps, reason = choose_postprocessing(LABELS, found)
    assert steps == ()
    assert reason == "no label is one piece in all of 5 masks or more"
