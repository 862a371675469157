from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from pipeline.data.annotation import FIRST_CLASS
from pipeline.data.normalization import IntensityRange, Normalized
from pipeline.data.transforms import Grid, case_transforms, scan_transforms
from pipeline.export import runner
from pipeline.nifti.volume import load
from pipeline.prediction.images import network_image

CODES = ["".join(code) for axes in permutations(("RL", "AP", "SI")) for code in product(*axes)]
RAS = Grid("RAS", (0.0, 0.0, 0.0))


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
    image = transforms({"image": load(path)})["image"]
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
    expected = scan_transforms(RAS)({"image": load(make_scan("ras.nii", array, affine))})["image"]
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
        {"image": load(image), "annotation": load(label)}
    )
    codes, bright = prepared["annotation"].numpy()[0], prepared["image"].numpy()[0]
    assert codes.dtype == np.uint8
    assert codes.shape == bright.shape
    assert set(np.unique(codes)) == {FIRST_CLASS, FIRST_CLASS + 2}
    # Labels are not interpolated, so slices of 2.5 mm become steps.
    assert dice(codes == FIRST_CLASS + 2, bright > (bright.min() + bright.max()) / 2) > 0.92


def test_files_of_one_scan_become_channels(make_scan):
    arrays = [blob(SHAPE) + n * np.indices(SHAPE)[n] for n in range(3)]
    scans = [load(make_scan(f"{n}.nii", array)) for n, array in enumerate(arrays)]
    image = scan_transforms(RAS)({"image": scans})["image"].numpy()
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


def normalized_everywhere(make_scan, voxels):
    """Return a scan as training, prediction and an ONNX export's program see it, on a coarser grid."""
    grid = Grid("RAS", (1.7, 1.3, 2.9))
    scan = load(make_scan("a.nii", voxels.astype(np.float32)))
    taught = scan_transforms(grid)({"image": [scan]})["image"].as_tensor()
    resampled = scan_transforms(grid, [IntensityRange(-1e9, 1e9, 0, 1)])({"image": [scan]})["image"].as_tensor()
    exported = runner.normalized(resampled[0].numpy(), {"scheme": "zscore"})
    return taught, network_image([scan], grid), torch.from_numpy(exported)[None]


@pytest.mark.parametrize(("factor", "shift"), [(1, -3.6), (0.1, 1e4), (-1, 255)])
def test_a_constant_outside_the_body_weighs_in_as_little_as_zeros(make_scan, factor, shift):
    body = np.random.default_rng(0).uniform(50, 200, (14, 15, 12))
    padded = np.pad(body, 4)
    for seen, known in zip(
        normalized_everywhere(make_scan, factor * padded + shift), normalized_everywhere(make_scan, padded), strict=True
    ):
        torch.testing.assert_close(seen * np.sign(factor), known, atol=2e-3, rtol=0)


def test_a_constant_that_was_resampled_before_is_one_all_the_same(make_scan):
    body = np.random.default_rng(0).uniform(50, 200, (14, 15, 12))
    padded = np.pad(body, 4, constant_values=-3.6).astype(np.float32)
    padded[::2][padded[::2] < 0] = np.nextafter(np.float32(-3.6), np.float32(0))
    for seen, known in zip(
        normalized_everywhere(make_scan, padded), normalized_everywhere(make_scan, np.pad(body + 3.6, 4)), strict=True
    ):
        torch.testing.assert_close(seen, known, atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", ["thin", "corner", "middle"])
def test_what_may_be_part_of_the_body_weighs_in(make_scan, case):
    body = np.random.default_rng(0).uniform(50, 200, (40, 36, 42))
    padded = np.pad(body, 1 if case == "thin" else 4, constant_values=100 if case == "middle" else -7)
    if case == "corner":
        padded[-1, -1, -1] = 50
    for seen in normalized_everywhere(make_scan, padded):
        assert float(seen.mean()) == pytest.approx(0, abs=1e-5)
        assert float(seen.std()) == pytest.approx(1, abs=1e-5)


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
