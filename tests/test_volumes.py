import base64
import zlib

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from report_fixtures import blob_case

from pipeline.reports import volumes
from pipeline.reports.volumes import LEAST_BYTES, MOST_BYTES, PAGE_BYTES, Gallery, canonical, pack


def unpack(about, block):
    """The volumes of a block, as the viewer sees them."""
    bytes_ = np.frombuffer(zlib.decompress(base64.b64decode(block)), np.uint8)
    return list(bytes_.reshape(-1, *reversed(about.shape)).transpose(0, 3, 2, 1))


def random_affine(rng):
    """Any order and direction of the axes, up to 20 degrees off them."""
    turn = np.linalg.qr(np.eye(3) + 0.15 * rng.normal(size=(3, 3)))[0]
    turn *= np.sign(np.diag(turn))
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.eye(3)[rng.permutation(3)] @ np.diag(rng.choice([-1, 1], 3) * rng.uniform(0.5, 5, 3))
    return affine


def test_axes_become_right_anterior_superior_as_nibabel_turns_them():
    rng = np.random.default_rng(0)
    for _ in range(50):
        volume, affine = rng.integers(0, 9, (3, 4, 5)), random_affine(rng)
        turn = ornt_transform(io_orientation(affine), axcodes2ornt("RAS"))
        np.testing.assert_array_equal(canonical(volume, affine), nib.apply_orientation(volume, turn))


def test_spacing_goes_with_its_axis():
    image, truth, prediction, _ = blob_case(0)
    affine = np.zeros((4, 4))
    affine[2, 0], affine[0, 1], affine[1, 2], affine[3, 3] = -4, 2, 3, 1  # the file runs I, R, A
    about, _ = pack("a", image, truth, prediction, affine)
    assert about.spacing_mm == (2, 3, 4)
    assert about.shape == (14, 10, 12)


def test_small_case_is_whole_and_exact():
    image, truth, prediction, affine = blob_case(1)
    about, block = pack("a", image, truth, prediction, affine)
    grey, *masks = unpack(about, block)
    np.testing.assert_array_equal(masks, [truth, prediction])
    assert (about.note, about.has_image, grey.min(), grey.max()) == ("", True, 0, 255)
    low, high = np.percentile(image, [0.5, 99.5])  # the margin around the masks is all of this small scan
    np.testing.assert_allclose(grey, np.clip((image - low) / (high - low), 0, 1) * 255, atol=0.51)


def test_a_scan_with_the_largest_of_numbers_is_drawn():
    """Warnings are errors here."""
    image, truth, prediction, affine = blob_case(1)
    most = np.finfo(np.float32).max
    for voxels in (np.where(image > np.median(image), most, -most), np.where(image == image.max(), most, image)):
        about, block = pack("a", voxels.astype(np.float32), truth, prediction, affine)
        grey, *_ = unpack(about, block)
        assert (about.has_image, grey.min(), grey.max()) == (True, 0, 255)


def test_masks_alone_need_no_scan():
    _, truth, prediction, affine = blob_case(1)
    about, block = pack("a", None, truth, prediction, affine)
    np.testing.assert_array_equal(unpack(about, block), [truth, prediction])
    assert not about.has_image


@pytest.mark.parametrize("budget", [LEAST_BYTES, 100_000, 400_000])
def test_large_case_is_cut_to_its_masks_and_thinned_out_to_its_budget(budget):
    image, truth, prediction, affine = blob_case(0, (160, 150, 40), (0.7, 0.7, 3.0))
    about, block = pack("a", image, truth, prediction, affine, budget)
    assert len(block) <= budget
    assert "cut to 20 mm around the masks" in about.note
    assert ("thinned out" in about.note) == (np.prod(about.shape) < 37 * 38 * 14)
    _, true, _ = unpack(about, block)
    volume = (true > 0).sum() * np.prod(about.spacing_mm)
    assert volume == pytest.approx((truth > 0).sum() * 0.7 * 0.7 * 3, rel=0.25)


def test_thinning_out_makes_voxels_more_cubic_and_keeps_the_extent():
    rng = np.random.default_rng(0)
    truth = np.ones((120, 120, 20), np.uint8)
    about, block = pack("a", rng.normal(size=truth.shape), truth, truth, np.diag([0.5, 0.5, 4, 1]), 60_000)
    assert 30_000 < len(block) <= 60_000
    assert about.shape[2] == 20
    assert np.multiply(about.shape, about.spacing_mm) == pytest.approx([60, 60, 80])


def test_scan_is_thinned_out_by_means_and_masks_by_single_voxels():
    ramp = np.arange(12.0)[:, None, None] * np.ones((12, 2, 2))
    thin = volumes._thin(ramp, np.array([3.0, 1, 1]), is_mask=False)
    np.testing.assert_allclose(thin[:, 0, 0], [1, 4, 7, 10])
    mask = volumes._thin((ramp % 3 == 1).astype(np.uint8) * 7, np.array([3.0, 1, 1]), is_mask=True)
    np.testing.assert_array_equal(mask, 7)


def test_voxels_that_are_no_numbers_are_black_or_white():
    image, truth, prediction, affine = blob_case(0)
    image[0, 0, :3] = np.nan, np.inf, -np.inf
    about, block = pack("a", image, truth, prediction, affine)
    assert unpack(about, block)[0][0, 0, :3].tolist() == [0, 255, 0]


@pytest.mark.parametrize("value", [0, 7])
def test_constant_scan_and_empty_masks_are_packed(value):
    empty = np.zeros((5, 6, 7), np.uint8)
    about, block = pack("a", np.full(empty.shape, value), empty, empty, np.eye(4))
    assert about.focus == (2, 3, 3)
    assert unpack(about, block)[0].max() == 0


def test_slice_of_one_voxel_is_kept():
    flat = np.ones((300, 300, 1), np.uint8)
    noise = np.random.default_rng(0).normal(size=flat.shape)
    about, block = pack("a", noise, flat, flat, np.eye(4), 20_000)
    assert about.shape[2] == 1
    assert len(block) <= 20_000


def test_viewer_opens_where_most_is_wrong():
    truth = np.zeros((9, 9, 9), np.uint8)
    prediction = truth.copy()
    prediction[6, 1:4, 2] = 1
    prediction[7, 2, 2] = 1
    assert pack("a", None, truth, prediction, np.eye(4))[0].focus == (6, 2, 2)
    truth[3, 4:6, 5:8] = 1
    assert pack("a", None, truth, truth, np.eye(4))[0].focus == (3, 4, 5)


def test_gallery_stores_places_of_label_values_and_background_for_others():
    truth = np.array([0, 5, 300, 9])[:, None, None] * np.ones((1, 2, 2), int)
    gallery = Gallery(n_cases=1, labels={0: "background", 5: "a", 300: "b"})
    gallery.add("x", None, truth, truth, np.eye(4))
    about, *_ = gallery.packed["x"]
    (block,) = gallery.blocks(["x"])
    assert unpack(about, block)[0][:, 0, 0].tolist() == [0, 1, 2, 0]


def test_gallery_gives_back_each_case_in_any_order():
    gallery = Gallery(n_cases=3, labels={1: "a", 2: "b"})
    cases = {name: blob_case(n) for n, name in enumerate("abc")}
    for name, case in cases.items():
        gallery.add(name, *case)
    for name, block in zip("cab", gallery.blocks("cab"), strict=True):
        np.testing.assert_array_equal(unpack(gallery.packed[name][0], block)[2], cases[name][2])


@pytest.mark.parametrize(("n", "room"), [(1, 10), (10, 10), (200, 200), (833, 833), (5000, 833)])
def test_cases_share_the_bytes_of_a_page(n, room):
    gallery = Gallery(n_cases=n, labels={1: "a"})
    assert LEAST_BYTES <= gallery.budget <= MOST_BYTES
    assert gallery.room == room
    assert gallery.budget * gallery.room <= PAGE_BYTES
