"""The box of the body: what is constant outside is left out of prepared scans, and nothing else."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from commands import fewmask
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.transforms import BoundingRect
from runs_fixtures import make_phantom, state_of, train

from pipeline import runs
from pipeline.data.annotation import ANNOTATION, FIRST_CLASS, IMAGE
from pipeline.data.body import body_box, grown
from pipeline.data.cache import Cache
from pipeline.data.transforms import Grid
from pipeline.runs.planning import prepare


def sizes(box):
    return tuple(side.stop - side.start for side in box)


@given(arrays(np.int8, st.tuples(*[st.integers(1, 6)] * 3), elements=st.sampled_from([0, 0, 0, 1])))
def test_box_is_monais_where_outside_is_zero(volume):
    volume = np.pad(volume, 1)  # A constant in all corners other than 0 would be outside.
    box = body_box([volume])
    if not volume.any():
        assert sizes(box) == volume.shape
    else:
        found = BoundingRect()(volume[None])[0].reshape(3, 2)
        assert [(side.start, side.stop) for side in box] == [tuple(sides) for sides in found.tolist()]


def test_every_channel_and_everything_marked_is_within():
    first, second, mask = (np.zeros((9, 8, 7)) for _ in range(3))
    first[4, 4, 4], second[2, 3, 5], mask[6, 4, 1] = 1, 5, 2
    assert body_box([first]) == (slice(4, 5), slice(4, 5), slice(4, 5))
    assert body_box([first, second]) == (slice(2, 5), slice(3, 5), slice(4, 6))
    assert body_box([first, second], mask) == (slice(2, 7), slice(3, 5), slice(1, 6))
    assert body_box([first, second], mask, ignore=2) == body_box([first, second])


def test_a_constant_that_is_not_zero_is_outside_too():
    scan = np.pad(np.random.default_rng(0).integers(1, 9, (5, 6, 7)), ((4, 3), (5, 5), (1, 9)))
    expected = (slice(4, 9), slice(5, 11), slice(1, 8))
    assert body_box([scan]) == body_box([scan - 1024]) == body_box([scan.astype(np.float32) - 0.3]) == expected


@given(st.integers(1, 9), st.data())
def test_a_grown_box_holds_the_old_one_and_is_as_large_as_it_can_be(length, data):
    start = data.draw(st.integers(0, length - 1))
    stop = data.draw(st.integers(start + 1, length))
    least = data.draw(st.integers(1, 12))
    side = grown((slice(start, stop),) * 3, (length,) * 3, (least,) * 3)[1]
    assert 0 <= side.start <= start
    assert stop <= side.stop <= length
    assert side.stop - side.start == min(length, max(least, stop - start))


@pytest.fixture(scope="module")
def padded(tmp_path_factory):
    """A phantom, and the same with its scans within a larger black field, off the middle."""
    small = make_phantom(tmp_path_factory.mktemp("small"), labelled=4, unlabelled=1)
    large = make_phantom(tmp_path_factory.mktemp("large"), labelled=4, unlabelled=1)
    for path in sorted(large.rglob("*.nii.gz")):
        image = nib.load(path)
        values = np.pad(np.asarray(image.dataobj), ((20, 10), (12, 16), (8, 4)))
        shifted = image.affine.copy()
        shifted[:3, 3] -= shifted[:3, :3] @ (20, 12, 8)
        nib.save(nib.Nifti1Image(values, shifted, dtype=image.get_data_dtype()), path)
    return small, large


def cached(dataset, crop):
    index = prepare(runs.read_recipe(Path("supervised"), [f"dataset={dataset}"])).index
    cases = {case.id: case for case in index.dataset.cases}
    cache = Cache(folder=None, index=index, grid=Grid("RAS", (0.0, 0.0, 0.0)), crop=crop)
    return {name: cache.get(case) for name, case in cases.items()}


def test_prepared_scans_are_those_without_the_field_bit_for_bit(padded):
    small, large = (cached(dataset, (1, 1, 1)) for dataset in padded)
    assert small.keys() == large.keys()
    for name, arrays_ in small.items():
        for part in (IMAGE, ANNOTATION, "locations"):
            np.testing.assert_array_equal(large[name][part], arrays_[part])
    whole = cached(padded[1], None)
    for name, arrays_ in whole.items():
        assert (arrays_[ANNOTATION] > FIRST_CLASS).sum() == (large[name][ANNOTATION] > FIRST_CLASS).sum()
        assert arrays_[IMAGE].size > 2 * large[name][IMAGE].size


def test_as_much_is_left_as_a_sample_takes(padded):
    whole, body, left = (cached(padded[1], crop) for crop in (None, (1, 1, 1), (64, 8, 48)))
    for name, arrays_ in left.items():
        most, least = (np.array(each[name][IMAGE].shape[1:]) for each in (whole, body))
        assert arrays_[IMAGE].shape[1:] == tuple(np.minimum(most, np.maximum(least, (64, 8, 48))))


def test_the_plan_crops_where_much_is_constant_and_says_so(padded, tmp_path):
    small, large = (prepare(runs.read_recipe(Path("supervised"), [f"dataset={dataset}"])).plan for dataset in padded)
    assert (small.recipe.data.crop_to_body, large.recipe.data.crop_to_body) == (False, True)
    assert small.shape == large.shape
    assert small.recipe.data.patch_size == large.recipe.data.patch_size
    reason = next(choice.reason for choice in large.choices if choice.key == "data.crop_to_body")
    assert "of a scan's voxels (median), and the rest is constant" in reason
    atlas = prepare(runs.read_recipe(Path("atlas"), [f"dataset={padded[1]}"])).plan
    assert atlas.recipe.data.crop_to_body is False
    given_ = prepare(runs.read_recipe(Path("supervised"), [f"dataset={padded[1]}", "data.crop_to_body=false"])).plan
    assert given_.recipe.data.crop_to_body is False
    assert given_.shape > large.shape


def test_a_cropped_training_predicts_whole_scans(padded, tmp_path):
    run = train(tmp_path, padded[1], "run", "data.crop_to_body=true", max_steps=3)
    assert yaml.safe_load((run / "config.yaml").read_text())["data"]["crop_to_body"] is True
    scan = sorted(padded[1].rglob("imagesTr/*.nii.gz"))[0]
    fewmask("predict", run, scan, "--output", tmp_path / "masks")
    mask = nib.load(next((tmp_path / "masks").glob("*.nii.gz")))
    assert mask.shape == nib.load(scan).shape
    again = train(tmp_path, padded[1], "run", "data.crop_to_body=true", max_steps=3, resume=True)
    assert state_of(again)["step"] == 3
