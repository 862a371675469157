"""The box of the body: what is constant outside is left out of prepared scans, and nothing else."""

import re
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from commands import fewmask
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.transforms import BoundingRect
from runs_fixtures import assert_same_run, make_phantom, plug_pulled_at, train

from pipeline import runs
from pipeline.data.annotation import ANNOTATION, FIRST_CLASS, IMAGE
from pipeline.data.body import body_box, grown
from pipeline.data.cache import Cache
from pipeline.data.transforms import Grid
from pipeline.planning import doctor
from pipeline.planning.devices import find_hardware
from pipeline.runs.planning import prepare
from pipeline.runs.resuming import other_scans


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


@pytest.mark.parametrize("outside", [0, -1024, 3])
def test_a_cropped_scan_is_normalised_as_it_is_whole(outside, tmp_path):
    """Of the box of a cylinder less than a quarter is outside: nothing would be found there by itself."""
    x, y, z = np.indices((60, 60, 30))
    body = ((x - 30) ** 2 + (y - 28) ** 2 < 15**2) & (abs(z - 14) < 10)
    values = np.where(body, np.random.default_rng(0).integers(100, 900, body.shape), outside).astype(np.int16)
    for folder, voxels in (("images", values), ("labels", (body & (x < 25)).astype(np.uint8))):
        (tmp_path / folder).mkdir()
        for name in "abc":
            shifted = np.diag([1.0, 1.0, 1.0 + ord(name) / 1000, 1.0])
            nib.save(nib.Nifti1Image(np.roll(voxels, ord(name) % 3, 0), shifted), tmp_path / folder / f"{name}.nii.gz")
    cropped, whole = (cached(tmp_path, crop) for crop in ((1, 1, 1), None))
    for name in whole:
        image = whole[name][IMAGE][0]
        inside = np.abs(image - image[0, 0, 0]) > 1e-5
        assert image[inside].std() == pytest.approx(1, abs=1e-3)
        assert cropped[name][IMAGE].shape == (1, 29, 29, 19)
        np.testing.assert_array_equal(cropped[name][IMAGE][0], image[body_box([image])])


def test_what_nobody_has_annotated_does_not_keep_the_field(tmp_path):
    scan, mask = np.zeros((30, 20, 10), np.int16), np.full((30, 20, 10), 9, np.uint8)
    scan[5:15, 5:15, 2:8] = np.random.default_rng(0).integers(100, 900, (10, 10, 6))
    mask[6:10, 6:10, 3:5] = 1
    for folder, voxels in (("images", scan), ("labels", mask)):
        (tmp_path / folder).mkdir()
        for n, name in enumerate("abc"):
            nib.save(nib.Nifti1Image(np.roll(voxels, n, 0), np.eye(4)), tmp_path / folder / f"{name}.nii.gz")
    (tmp_path / "dataset.json").write_text('{"labels": {"background": 0, "organ": 1, "ignore": 9}}')
    assert {each[IMAGE].shape for each in cached(tmp_path, (1, 1, 1)).values()} == {(1, 10, 10, 6)}


def test_facts_of_a_version_that_did_not_look_for_the_body_are_of_the_same_scans(padded):
    facts = dict(prepare(runs.read_recipe(Path("supervised"), [f"dataset={padded[1]}"])).index.facts)
    assert all(each.body for each in facts.values())
    older = {name: replace(each, body=None, appearance=None) for name, each in facts.items()}
    assert other_scans(facts, older) == []
    assert [each.cropped().shape for each in older.values()] == [each.shape for each in facts.values()]


def test_disk_is_asked_for_what_is_left(padded, tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "size", str)  # In bytes
    needs = []
    for crop in ("true", "false"):
        words = [f"dataset={padded[1]}", f"data.crop_to_body={crop}"]
        prepared = prepare(runs.read_recipe(Path("supervised"), words))
        findings = doctor.diagnose(find_hardware("cpu"), tmp_path, prepared.plan, prepared.visible)
        (text,) = [each.needs for each in findings if each.what == "disk"]
        needs.append(int(re.search(r"\d+", text)[0]))
    assert needs[0] < 0.6 * needs[1]


def test_entries_of_the_cache_are_named_by_what_is_cropped(padded):
    index = prepare(runs.read_recipe(Path("supervised"), [f"dataset={padded[1]}"])).index
    case = index.dataset.cases[0]
    crops = (None, (1, 1, 1), (16, 16, 16))
    names = {
        Cache(folder=None, index=index, grid=Grid("RAS", (1.0, 1.0, 2.0)), crop=crop)._name(case) for crop in crops
    }
    assert len(names) == 3


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


def test_a_cropped_training_predicts_whole_scans_and_goes_on_to_the_same_bits(padded, tmp_path):
    whole = train(tmp_path, padded[1], "whole", "data.crop_to_body=false", max_steps=4)
    run = train(tmp_path, padded[1], "run", "data.crop_to_body=true", max_steps=4)
    voxels = [sum(np.load(path)[IMAGE].size for path in (place / "cache").glob("*.npz")) for place in (whole, run)]
    assert voxels[0] > 2 * voxels[1]
    scan = sorted(padded[1].rglob("imagesTr/*.nii.gz"))[0]
    fewmask("predict", run, scan, "--output", tmp_path / "masks")
    mask = nib.load(next((tmp_path / "masks").glob("*.nii.gz")))
    assert mask.shape == nib.load(scan).shape
    with plug_pulled_at(3):
        train(tmp_path, padded[1], "again", "data.crop_to_body=true", max_steps=4)
    again = train(tmp_path, padded[1], "again", "data.crop_to_body=true", max_steps=4, resume=True)
    assert_same_run(again, run)
