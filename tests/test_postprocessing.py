import numpy as np
import pytest

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


def test_changes_follow_each_other_and_the_type_stays():
    labels = line(1, 0, 1, 0, 2, 2, 0, 2)
    mended = mend(labels, 1.0, [Mending(2, "largest"), Mending(1, "minimum", 2.0)])
    assert mended.dtype == np.uint8
    np.testing.assert_array_equal(mended, line(0, 0, 0, 0, 2, 2, 0, 0))


def test_volume_of_a_voxel_and_what_a_change_is_called():
    assert voxel_ml((2.0, 2.0, 5.0)) == pytest.approx(0.02)
    assert str(Mending(1, "minimum", 0.0123)) == "components under 0.0123 ml dropped"
    assert len({str(Mending(1, what)) for what in ("fill", "largest", "minimum")}) == 3
