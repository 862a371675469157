from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from pipeline.data.normalization import Normalized
from pipeline.data.transforms import (
    FIRST_CLASS,
    OUTSIDE,
    UNANNOTATED,
    Annotated,
    Decoded,
    Grid,
    RandomPatchd,
    Strength,
    case_transforms,
    class_locations,
    sample_transforms,
    scan_transforms,
)

CODES = ["".join(code) for axes in permutations(("RL", "AP", "SI")) for code in product(*axes)]
RAS = Grid("RAS", (0.0, 0.0, 0.0))
STILL = Strength((), 0, 0, 0, 0, 0)


def blob(shape, spacing=(1, 1, 1)):
    """A smooth body, brightest off its centre, with different extents along its axes."""
    axes = [(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(shape, spacing, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    reach = [n * mm for n, mm in zip(shape, spacing, strict=True)]
    distance = ((x - 1) / reach[0]) ** 2 + ((y + 1) / reach[1]) ** 2 + ((z - 0.5) / reach[2]) ** 2
    return np.exp(-12 * distance).astype(np.float32)


def turned(array, affine, code):
    """The same scan with its voxels stored in another order."""
    start, end = nib.io_orientation(affine), nib.orientations.axcodes2ornt(code)
    change = nib.orientations.ornt_transform(start, end)
    other = nib.orientations.apply_orientation(array, change)
    return other, affine @ nib.orientations.inv_ornt_aff(change, array.shape)


def dice(first, second):
    return 2 * (first & second).sum() / (first.sum() + second.sum())


def there_and_back(path, grid, threshold):
    """Bring a scan to the grid, and its thresholded self back, as prediction does."""
    transforms = scan_transforms(grid)
    image = transforms({"image": [str(path)]})["image"]
    body = (image.as_tensor() > threshold(image.as_tensor())).float()
    answer = MetaTensor(body, affine=image.affine, applied_operations=image.applied_operations)
    return image, transforms.inverse({"image": answer})["image"].as_tensor()[0].numpy()


def above_middle(image):
    return (image.min() + image.max()) / 2


SHAPE, SPACING = (10, 12, 14), (1.0, 1.5, 2.0)


@pytest.mark.parametrize("code", CODES)
def test_every_orientation_is_prepared_alike_and_comes_back(make_scan, code):
    assert len(CODES) == 48
    array, affine = blob(SHAPE, SPACING) * 100, np.diag([*SPACING, 1.0])
    other, other_affine = turned(array, affine, code)
    assert "".join(nib.aff2axcodes(other_affine)) == code
    expected = scan_transforms(RAS)({"image": [str(make_scan("ras.nii", array, affine))]})["image"]
    image, back = there_and_back(make_scan("other.nii", other, other_affine), RAS, above_middle)
    assert image.shape == (1, *SHAPE)
    np.testing.assert_allclose(image.numpy(), expected.numpy(), atol=1e-5)
    assert back.shape == other.shape
    np.testing.assert_array_equal(back > 0.5, other > (other.min() + other.max()) / 2)


@pytest.mark.parametrize("code", ["RAS", "LPS", "SAR", "PIL"])
@pytest.mark.parametrize(
    ("shape", "spacing", "target"),
    [
        ((30, 32, 12), (1.0, 1.0, 3.0), (1.0, 1.0, 1.0)),
        ((31, 25, 40), (0.7, 0.9, 0.6), (1.0, 1.0, 1.0)),
        ((24, 24, 24), (1.0, 1.0, 1.0), (1.0, 1.3, 0.8)),
    ],
)
def test_a_smooth_label_survives_resampling_there_and_back(make_scan, shape, spacing, target, code):
    array, affine = turned(blob(shape, spacing), np.diag([*spacing, 1.0]), code)
    image, back = there_and_back(make_scan("a.nii", array, affine), Grid("RAS", target), above_middle)
    expected = [round((n - 1) * mm / to) + 1 for n, mm, to in zip(shape, spacing, target, strict=True)]
    assert np.abs(np.array(image.shape[1:]) - expected).max() <= 1
    assert back.shape == array.shape
    assert dice(back > 0.5, array > array.max() / 2) > 0.95


def test_an_oblique_scan_comes_back_on_its_grid(make_scan):
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[:3, :3] = nib.eulerangles.euler2mat(0.2, 0.1, -0.15) @ affine[:3, :3]
    array = blob((22, 24, 14), (1, 1, 2))
    _, back = there_and_back(make_scan("a.nii", array, affine), Grid("RAS", (1.0, 1.0, 1.0)), above_middle)
    assert back.shape == array.shape
    assert dice(back > 0.5, array > array.max() / 2) > 0.95


def test_a_mask_follows_its_image_to_the_grid(make_scan):
    spacing = (1.0, 0.8, 2.5)
    array, affine = turned(blob((20, 30, 14), spacing), np.diag([*spacing, 1.0]), "PSL")
    image = make_scan("image.nii", array, affine)
    label = make_scan("label.nii", np.where(array > array.max() / 2, 300, 0).astype(np.int16), affine)
    prepared = case_transforms(Grid("RAS", (1.0, 1.0, 1.0)), [0, 5, 300])(
        {"image": [str(image)], "annotation": str(label)}
    )
    codes, bright = prepared["annotation"].numpy()[0], prepared["image"].numpy()[0]
    assert codes.dtype == np.uint8
    assert codes.shape == bright.shape
    assert set(np.unique(codes)) == {FIRST_CLASS, FIRST_CLASS + 2}
    # Labels are not interpolated, so slices of 2.5 mm become steps.
    assert dice(codes == FIRST_CLASS + 2, bright > (bright.min() + bright.max()) / 2) > 0.92


def test_files_of_one_scan_become_channels(make_scan):
    arrays = [blob(SHAPE) + n * np.indices(SHAPE)[n] for n in range(3)]
    paths = [str(make_scan(f"{n}.nii", array)) for n, array in enumerate(arrays)]
    image = scan_transforms(RAS)({"image": paths})["image"].numpy()
    for channel, array in zip(image, arrays, strict=True):
        np.testing.assert_allclose(
            channel, (array - array[array != 0].mean()) / array[array != 0].std(ddof=1), atol=1e-4
        )


def test_a_slice_is_a_volume_of_one(make_scan):
    image, back = there_and_back(make_scan("a.nii", blob((12, 14, 1))[..., 0]), RAS, above_middle)
    assert image.shape == (1, 12, 14, 1)
    assert back.shape == (12, 14, 1)


# Standardising.


def standardized(array):
    return Normalized("image")({"image": torch.as_tensor(array)})["image"]


def test_zeros_move_along_but_do_not_weigh_in():
    body = torch.tensor([1.0, 2.0, 3.0, 4.0])
    result = standardized(torch.cat([torch.zeros(100), body])[None].clone())[0]
    torch.testing.assert_close(result[100:], (body - 2.5) / body.std())
    torch.testing.assert_close(result[:100], torch.full((100,), -2.5 / float(body.std())))


@pytest.mark.parametrize("value", [0.0, 7.0, -3.5, 0.1])
def test_a_constant_channel_becomes_zero(value):
    array = torch.stack([torch.full((5, 6, 7), value), torch.arange(210.0).reshape(5, 6, 7)])
    result = standardized(array)
    assert (result[0] == 0).all()
    assert result[1].std() > 0.9


@pytest.mark.parametrize("bright", [1, 2, 10])
def test_a_mask_as_a_channel_has_the_statistics_of_all_its_voxels(bright):
    array = torch.zeros(1, 4, 4, 4)
    array.view(-1)[:bright] = 5
    result = standardized(array.clone())
    assert result.mean().item() == pytest.approx(0, abs=1e-6)
    assert result.std().item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 1e3, 1e6, 1e-6])
def test_the_scale_of_a_scan_does_not_matter(scale):
    array = torch.from_numpy(blob(SHAPE)[None].copy())
    torch.testing.assert_close(standardized(array * scale), standardized(array.clone()), atol=1e-4, rtol=1e-4)


def test_a_large_offset_does_not_eat_the_contrast():
    array = torch.arange(1.0, 101.0)[None] + 1e6
    result = standardized(array)
    assert float(result.mean()) == pytest.approx(0, abs=1e-5)
    assert float(result.std()) == pytest.approx(1, abs=1e-3)


# Annotations.


def test_label_values_become_codes_in_the_order_of_the_classes():
    label = MetaTensor(torch.tensor([[0.0, 5.0, 300.0, 5.0]]))
    codes = Annotated("annotation", [0, 5, 300])({"annotation": label})["annotation"]
    assert codes.tolist() == [[2, 3, 4, 3]]
    assert codes.dtype == torch.uint8
    shuffled = Annotated("annotation", [0, 300, 5])({"annotation": label})["annotation"]
    assert shuffled.tolist() == [[2, 4, 3, 4]]


def test_a_scan_without_a_mask_is_inside_and_not_annotated():
    image = MetaTensor(torch.zeros(2, 3, 4, 5))
    codes = Annotated("annotation", [0, 1])({"image": image})["annotation"]
    assert codes.shape == (1, 3, 4, 5)
    assert (codes == UNANNOTATED).all()
    assert codes.dtype == torch.uint8


def test_codes_decode_to_labels_and_a_mask():
    codes = torch.tensor([[[OUTSIDE, UNANNOTATED, FIRST_CLASS, FIRST_CLASS + 1, FIRST_CLASS + 7]]])
    sample = Decoded("annotation")({"image": MetaTensor(torch.zeros(1, 1, 5)), "annotation": MetaTensor(codes)})
    assert sample["label"].tolist() == [[[-1, -1, 0, 1, 7]]]
    assert sample["mask"].tolist() == [[[False, True, True, True, True]]]
    assert {type(value) for value in sample.values()} == {torch.Tensor}
    assert sample["label"].dtype == torch.int64


# Patches.


def numbered(shape, annotation):
    """A case whose voxels are their own flat indices, counted from 1."""
    image = 1 + np.arange(np.prod(shape), dtype=np.float32).reshape(1, *shape)
    annotation = np.asarray(annotation, dtype=np.uint8).reshape(1, *shape)
    return {"image": image, "annotation": annotation, "locations": class_locations(annotation, 2)}


def labelled(shape):
    codes = np.full(shape, FIRST_CLASS)
    codes[-2:, -2:, -2:] = FIRST_CLASS + 1
    return numbered(shape, codes)


def patches(case, size, draws, seed=0):
    cut = RandomPatchd(("image", "annotation"), size, "locations")
    cut.set_random_state(seed)
    for _ in range(draws):
        patch = cut(case)
        assert "locations" not in patch
        yield patch


def test_a_patch_is_a_block_of_the_scan():
    case = labelled((9, 10, 11))
    corners = set()
    for patch in patches(case, (4, 5, 6), 50):
        first = np.unravel_index(int(patch["image"][0, 0, 0, 0]) - 1, (9, 10, 11))
        block = (slice(None), *(slice(a, a + n) for a, n in zip(first, (4, 5, 6), strict=True)))
        np.testing.assert_array_equal(patch["image"], case["image"][block])
        np.testing.assert_array_equal(patch["annotation"], case["annotation"][block])
        corners.add(first)
    assert len(corners) > 10


def test_every_place_of_an_unlabelled_scan_is_drawn_alike():
    case = numbered((5, 4, 4), np.full((5, 4, 4), UNANNOTATED))
    firsts = [int(patch["image"][0, 0, 0, 0]) for patch in patches(case, (4, 4, 4), 400)]
    counts = [firsts.count(value) for value in sorted(set(firsts))]
    assert len(counts) == 2
    assert min(counts) > 150


def test_a_scan_smaller_than_the_patch_is_centred_in_padding():
    case = labelled((3, 8, 4))
    for patch in patches(case, (6, 4, 4), 10):
        assert patch["image"].shape == (1, 6, 4, 4)
        outside = patch["annotation"][0] == OUTSIDE
        assert outside[[0, 4, 5]].all() or outside[[0, 1, 5]].all()
        assert outside.sum() == 3 * 16
        assert (patch["image"][0][outside] == 0).all()


def test_two_thirds_of_labelled_patches_are_centred_on_a_class():
    codes = np.full((60, 4, 4), FIRST_CLASS)
    codes[30, 2, 2] = FIRST_CLASS + 1
    case = numbered((60, 4, 4), codes)
    places = [patch["annotation"][0] == FIRST_CLASS + 1 for patch in patches(case, (4, 4, 4), 3000)]
    # A third of the patches is centred on the one voxel of class 1; the rest holds it by chance, 4 places in 57.
    assert np.mean([place.any() for place in places]) == pytest.approx(1 / 3 + 2 / 3 * 4 / 57, abs=0.03)
    assert np.mean([place[2].any() for place in places]) == pytest.approx(1 / 3 + 2 / 3 * 1 / 57, abs=0.03)


def test_an_absent_class_is_not_drawn():
    case = numbered((9, 9, 9), np.full((9, 9, 9), FIRST_CLASS))
    assert all((patch["annotation"] == FIRST_CLASS).all() for patch in patches(case, (4, 4, 4), 20))


def test_equal_seeds_draw_equal_patches():
    case = labelled((9, 10, 11))
    first, again, other = ([p["image"] for p in patches(case, (4, 4, 4), 8, seed)] for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_locations_are_indices_of_each_class_spread_over_it():
    codes = np.full((1, 20, 20, 20), FIRST_CLASS, dtype=np.uint8)
    codes[0, 15:] = FIRST_CLASS + 2
    locations = class_locations(codes, 3, most=100)
    assert locations.shape == (3, 100)
    for k, low, high in ((0, 0, 6000), (2, 6000, 8000)):
        found = locations[k][locations[k] >= 0]
        assert (codes.ravel()[found] == FIRST_CLASS + k).all()
        assert len(found) == 100
        assert found.min() == low
        assert found.max() > high - 100
    assert (locations[1] == -1).all()


# Whole samples.

STRONG = Strength((0, 1, 2), 30, 0.2, 0.2, 0.3, 0.3)


def test_no_strength_is_the_plain_patch():
    case = labelled((8, 8, 8))
    sample = sample_transforms((8, 8, 8), STILL)(case)
    np.testing.assert_array_equal(sample["image"], case["image"])
    np.testing.assert_array_equal(sample["label"], case["annotation"].astype(int) - FIRST_CLASS)
    assert sample["mask"].all()


@pytest.mark.parametrize(("size", "shape"), [((8, 6, 4), (1, 8, 6, 4)), ((8, 6), (1, 8, 6))])
def test_samples_have_the_patch_s_axes_and_plain_tensors(size, shape):
    transforms = sample_transforms(size, STRONG)
    transforms.set_random_state(0)
    for _ in range(10):
        sample = transforms(labelled((9, 10, 11)))
        assert {key: (type(sample[key]), tuple(sample[key].shape), sample[key].dtype) for key in sample} == {
            "image": (torch.Tensor, shape, torch.float32),
            "label": (torch.Tensor, shape, torch.int64),
            "mask": (torch.Tensor, shape, torch.bool),
        }
        assert torch.isfinite(sample["image"]).all()


def test_what_rotation_brings_in_is_neither_label_nor_scan():
    transforms = sample_transforms((16, 16, 16), Strength((), 45, 0, 0, 0, 0))
    transforms.set_random_state(0)
    outside = 0
    for _ in range(10):
        sample = transforms(labelled((16, 16, 16)))
        assert ((sample["label"] >= 0) == sample["mask"]).all(), "a scan with a mask is annotated wherever it is"
        assert set(sample["label"].unique().tolist()) <= {-1, 0, 1}
        outside += int((~sample["mask"]).sum())
    assert outside > 1000


def test_an_unlabelled_scan_stays_unlabelled_and_inside():
    case = numbered((12, 12, 12), np.full((12, 12, 12), UNANNOTATED))
    transforms = sample_transforms((8, 8, 8), STRONG)
    transforms.set_random_state(0)
    for _ in range(10):
        sample = transforms(case)
        assert (sample["label"] == -1).all()
        assert sample["mask"].float().mean() > 0.4


def test_flips_turn_image_and_label_together():
    case = labelled((8, 8, 8))
    transforms = sample_transforms((8, 8, 8), Strength((1,), 0, 0, 0, 0, 0))
    transforms.set_random_state(0)
    seen = set()
    for _ in range(20):
        sample = transforms(case)
        flipped = bool((sample["image"].numpy() == case["image"][:, :, ::-1]).all())
        assert flipped or (sample["image"].numpy() == case["image"]).all()
        codes = case["annotation"][:, :, ::-1] if flipped else case["annotation"]
        np.testing.assert_array_equal(sample["label"], codes.astype(int) - FIRST_CLASS)
        seen.add(flipped)
    assert seen == {True, False}


def test_changes_of_brightness_leave_labels_alone():
    case = labelled((8, 8, 8))
    transforms = sample_transforms((8, 8, 8), Strength((), 0, 0, 0.2, 0.3, 0.3))
    transforms.set_random_state(0)
    samples = [transforms(case) for _ in range(10)]
    assert all((sample["label"].numpy() == case["annotation"].astype(int) - FIRST_CLASS).all() for sample in samples)
    assert any(not np.array_equal(sample["image"], case["image"]) for sample in samples)


def test_a_sample_changes_nothing_in_the_case_it_is_cut_from():
    case = labelled((8, 8, 8))
    before = {key: value.copy() for key, value in case.items()}
    transforms = sample_transforms((8, 8, 8), STRONG)
    for seed in range(5):
        transforms.set_random_state(seed)
        transforms(case)
    assert all(np.array_equal(case[key], before[key]) for key in before)


def test_a_seed_decides_the_whole_sample():
    transforms, case = sample_transforms((6, 6, 6), STRONG), labelled((9, 9, 9))

    def draw(seed):
        transforms.set_random_state(seed=seed)
        return transforms(case)["image"]

    assert torch.equal(draw(3), draw(3))
    assert len({draw(seed).numpy().tobytes() for seed in range(10)}) == 10
