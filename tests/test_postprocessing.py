import numpy as np
import pytest
from scipy.ndimage import binary_fill_holes, label

from pipeline.engines.postprocessing import Mending, component_sizes, mend, voxel_ml


def line(*labels):
    return np.array(labels, np.uint8).reshape(-1, 1, 1)


@pytest.mark.parametrize(
    ("mending", "before", "after"),
    [
        (Mending(1, "largest"), (1, 0, 1, 1, 0, 2), (0, 0, 1, 1, 0, 2)),
        (Mending(1, "largest"), (1, 0, 1), (1, 0, 0)),  # of equal ones the first
        (Mending(1, "largest"), (0, 2, 0), (0, 2, 0)),
        (Mending(1, "minimum", 2.0), (1, 0, 1, 1, 0, 2), (0, 0, 1, 1, 0, 2)),
        (Mending(1, "minimum", 2.1), (1, 0, 1, 1, 0, 2), (0, 0, 0, 0, 0, 2)),
        (Mending(1, "minimum", 0.0), (1, 0, 1), (1, 0, 1)),
        (Mending(1, "fill"), (1, 0, 1, 2, 1), (1, 1, 1, 2, 1)),
        (Mending(2, "fill"), (1, 0, 1), (1, 0, 1)),
    ],
)
def test_hand_made_table(mending, before, after):
    labels = line(*before)
    np.testing.assert_array_equal(mend(labels, 1.0, [mending]), line(*after))
    np.testing.assert_array_equal(labels, line(*before))


def test_voxels_that_touch_by_a_corner_are_one_component():
    labels = np.zeros((3, 3, 3), np.uint8)
    labels[0, 0, 0] = labels[1, 1, 1] = 1
    assert component_sizes(labels == 1).tolist() == [2]
    np.testing.assert_array_equal(mend(labels, 1.0, [Mending(1, "largest")]), labels)


@pytest.mark.parametrize("flat", [False, True])
def test_hole_is_filled_in_a_volume_and_in_a_slice_but_not_an_opening(flat):
    labels = np.ones((5, 5, 1 if flat else 5), np.uint16)
    labels[2, 2, 0 if flat else 2] = 0
    np.testing.assert_array_equal(mend(labels, 1.0, [Mending(1, "fill")]), np.ones_like(labels))
    labels[2, :3] = 0
    np.testing.assert_array_equal(mend(labels, 1.0, [Mending(1, "fill")]), labels)


def plainly(labels, voxel_ml, mending):
    """Over the whole label map, without boxes."""
    before = labels == mending.label
    if mending.what == "fill":
        after = binary_fill_holes(before.squeeze()).reshape(before.shape)
    else:
        components, count = label(before, np.ones((3,) * 3))
        sizes = np.bincount(components[before], minlength=count + 1)
        kept = [n for n in range(1, count + 1) if sizes[n] * voxel_ml >= mending.least_ml]
        after = np.isin(components, kept if mending.what == "minimum" else [sizes.argmax()]) & before
    labels = np.where(before & ~after, 0, labels)
    return np.where(after & (labels == 0), mending.label, labels)


@pytest.mark.parametrize("seed", range(60))
def test_boxes_around_labels_make_no_difference(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 12, 3)) if seed % 3 else (*rng.integers(4, 12, 2), 1)
    labels = rng.choice([0, 1, 2], size=shape, p=[0.35, 0.6, 0.05] if seed % 2 else [0.7, 0.2, 0.1]).astype(np.uint8)
    for what in ("fill", "largest", "minimum"):
        mending = Mending(1 + seed % 2, what, 3.0)
        np.testing.assert_array_equal(mend(labels, 1.0, [mending]), plainly(labels, 1.0, mending), what)


def test_changes_follow_each_other_and_the_type_stays():
    labels = line(1, 0, 1, 0, 2, 2, 0, 2)
    mended = mend(labels, 1.0, [Mending(2, "largest"), Mending(1, "minimum", 2.0)])
    assert mended.dtype == np.uint8
    np.testing.assert_array_equal(mended, line(0, 0, 0, 0, 2, 2, 0, 0))


def test_volume_of_a_voxel_and_what_a_change_is_called():
    assert voxel_ml((2.0, 2.0, 5.0)) == pytest.approx(0.02)
    assert str(Mending(1, "minimum", 0.0123)) == "components under 0.0123 ml dropped"
    assert len({str(Mending(1, what)) for what in ("fill", "largest", "minimum")}) == 3
