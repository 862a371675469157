import numpy as np
import pytest
from scipy.ndimage import binary_fill_holes, label

from pipeline.errors import UserError
from pipeline.metrics.lesions import component_sizes
from pipeline.prediction.postprocessing import (
    POSTPROCESSING,
    DropSmall,
    FillHoles,
    KeepLargest,
    KeepLargestForeground,
    PostprocessingStep,
    name_of,
    postprocess,
    voxel_ml,
)

# Of voxels that have a volume of 1 ml.
TEN_MM = (10.0, 10.0, 10.0)


def line(*labels):
    return np.array(labels, np.uint8).reshape(-1, 1, 1)


@pytest.mark.parametrize(
    ("step", "before", "after"),
    [
        (KeepLargest(1), (1, 0, 1, 1, 0, 2), (0, 0, 1, 1, 0, 2)),
        (KeepLargest(1), (1, 0, 1), (1, 0, 0)),  # of equal ones the first
        (KeepLargest(1), (0, 2, 0), (0, 2, 0)),
        (KeepLargestForeground(), (1, 1, 1, 0, 1, 2, 1, 2, 0, 2), (0, 0, 0, 0, 1, 2, 1, 2, 0, 0)),
        (KeepLargestForeground(), (1, 0, 1), (1, 0, 0)),  # of equal ones the first
        (KeepLargestForeground(), (1, 2, 0, 3, 0, 3), (1, 2, 0, 3, 0, 3)),  # 3 is not in it, and stays
        (KeepLargestForeground(), (0, 0), (0, 0)),
        (DropSmall(1, 2.0), (1, 0, 1, 1, 0, 2), (0, 0, 1, 1, 0, 2)),
        (DropSmall(1, 2.1), (1, 0, 1, 1, 0, 2), (0, 0, 0, 0, 0, 2)),
        (DropSmall(1, 0.0), (1, 0, 1), (1, 0, 1)),
        (FillHoles(1), (1, 0, 1, 2, 1), (1, 1, 1, 2, 1)),
        (FillHoles(2), (1, 0, 1), (1, 0, 1)),
    ],
)
def test_hand_made_table(step, before, after):
    labels = line(*before)
    np.testing.assert_array_equal(postprocess(labels, TEN_MM, [step]), line(*after))
    np.testing.assert_array_equal(labels, line(*before))


def test_voxels_that_touch_by_a_corner_are_one_component():
    labels = np.zeros((3, 3, 3), np.uint8)
    labels[0, 0, 0] = labels[1, 1, 1] = 1
    assert component_sizes(labels == 1).tolist() == [2]
    np.testing.assert_array_equal(postprocess(labels, TEN_MM, [KeepLargest(1)]), labels)


@pytest.mark.parametrize("flat", [False, True])
def test_hole_is_filled_in_a_volume_and_in_a_slice_but_not_an_opening(flat):
    labels = np.ones((5, 5, 1 if flat else 5), np.uint16)
    labels[2, 2, 0 if flat else 2] = 0
    np.testing.assert_array_equal(postprocess(labels, TEN_MM, [FillHoles(1)]), np.ones_like(labels))
    labels[2, :3] = 0
    np.testing.assert_array_equal(postprocess(labels, TEN_MM, [FillHoles(1)]), labels)


def plainly(labels, step):
    """Over the whole label map, without boxes."""
    if isinstance(step, KeepLargestForeground):
        components, _ = label(labels > 0, np.ones((3,) * 3))
        sizes = np.bincount(components.ravel())[1:]
        largest = components == 1 + sizes.argmax() if sizes.size else components > 0
        return np.where(~largest & np.isin(labels, labels[largest]), 0, labels)
    before = labels == step.label
    if isinstance(step, FillHoles):
        after = binary_fill_holes(before.squeeze()).reshape(before.shape)
    else:
        components, count = label(before, np.ones((3,) * 3))
        sizes = np.bincount(components[before], minlength=count + 1)
        large = [n for n in range(1, count + 1) if sizes[n] >= getattr(step, "least_ml", 0)]
        after = np.isin(components, large if isinstance(step, DropSmall) else [sizes.argmax()]) & before
    labels = np.where(before & ~after, 0, labels)
    return np.where(after & (labels == 0), step.label, labels)


@pytest.mark.parametrize("seed", range(60))
def test_boxes_around_labels_make_no_difference(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 12, 3)) if seed % 3 else (*rng.integers(4, 12, 2), 1)
    labels = rng.choice([0, 1, 2], size=shape, p=[0.35, 0.6, 0.05] if seed % 2 else [0.7, 0.2, 0.1]).astype(np.uint8)
    value = 1 + seed % 2
    for step in (FillHoles(value), KeepLargest(value), KeepLargestForeground(), DropSmall(value, 3.0)):
        np.testing.assert_array_equal(postprocess(labels, TEN_MM, [step]), plainly(labels, step), str(step))


def test_changes_follow_each_other_and_the_type_stays():
    labels = line(1, 0, 1, 0, 2, 2, 0, 2)
    changed = postprocess(labels, TEN_MM, [KeepLargest(2), DropSmall(1, 2.0)])
    assert changed.dtype == np.uint8
    np.testing.assert_array_equal(changed, line(0, 0, 0, 0, 2, 2, 0, 0))


def test_volume_of_a_voxel_and_what_a_change_is_called():
    assert voxel_ml((2.0, 2.0, 5.0)) == pytest.approx(0.02)
    assert str(DropSmall(1, 0.0123)) == "components under 0.0123 ml dropped"
    assert len({str(step) for step in (FillHoles(1), KeepLargest(1), KeepLargestForeground(), DropSmall(1, 1.0))}) == 4


@pytest.mark.parametrize("step", [FillHoles(1), KeepLargest(2), KeepLargestForeground(), DropSmall(3, 1.5)])
def test_a_step_is_known_by_the_name_that_a_recipe_gives_it(step):
    assert POSTPROCESSING.build(name_of(step), vars(step)) == step
    assert set(step.given_labels((1, 2, 3))) == ({1} if isinstance(step, FillHoles) else set())


@pytest.mark.parametrize("result", [None, np.zeros((2, 1, 1), np.uint8), np.zeros((3, 1, 1))])
def test_a_step_that_returns_no_such_label_map_is_told(result):
    class Wrong(PostprocessingStep):
        def __call__(self, labels, spacing_mm):
            return result

    with pytest.raises(UserError, match=r"Wrong returned no label map of the shape \(3, 1, 1\) and type uint8"):
        postprocess(line(1, 0, 1), TEN_MM, [Wrong()])
    assert Wrong().given_labels((1, 2)) == (1, 2)
