"""Grids drawn at random, written by nibabel and SimpleITK and read by all three: where a voxel lies is one answer."""

from dataclasses import dataclass
from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from pipeline import nifti
from pipeline.data.annotation import UNANNOTATED
from pipeline.data.codes import is_warning
from pipeline.data.inspection import Declared, examine_case
from pipeline.data.transforms import Grid, case_transforms, scan_transforms
from pipeline.nifti.forms import corners_of, nearest_axes
from pipeline.nifti.grids import corner_distances, distance_between
from pipeline.prediction.predictor import Predictor
from pipeline.types import Case

sitk = pytest.importorskip("SimpleITK", reason="needs SimpleITK, the oracle of grids")

TURNS = [(order, signs) for order in permutations(range(3)) for signs in product((-1, 1), repeat=3)]
FORMS = [(1, 0), (0, 1), (1, 1), (2, 0), (0, 4)]
# ITK's axes run to the left and to the back, NIfTI's to the right and to the front.
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
# Draws in the normal suite and in the slow one.
SOME, MANY = range(24), range(2000)
AS_STORED, RESAMPLED = Grid("RAS", (0.0, 0.0, 0.0)), Grid("RAS", (1.1, 0.9, 1.3))


@dataclass
class Drawn:
    """A grid, and what tells where it came from."""

    affine: np.ndarray
    shape: tuple[int, int, int]
    sheared: bool = False
    tied: bool = False


def draw_grid(rng, longest=28):
    """Draw a grid: any of 48 orientations, upright, tilted about one axis or all, at 45 degrees, or sheared."""
    kind = ("upright", "one tilt", "any tilt", "slight tilt", "45 degrees", "sheared")[rng.integers(6)]
    axis = np.eye(3)[rng.integers(3)]
    turn = {
        "one tilt": axis * rng.uniform(-0.7, 0.7),
        "any tilt": rng.uniform(-0.6, 0.6, 3),
        "slight tilt": rng.uniform(-1e-3, 1e-3, 3),
        "45 degrees": axis * np.pi / 4 * rng.choice([-1, 1]),
    }.get(kind, np.zeros(3))
    order, signs = TURNS[rng.integers(len(TURNS))]
    spacing = rng.choice([0.4, 0.6, 0.9375, 1.0, 1.3671875, 3.0], 3) if rng.random() < 0.5 else rng.uniform(0.3, 4, 3)
    directions = (Rotation.from_rotvec(turn).as_matrix())[:, order] * signs
    if kind == "sheared":
        directions = directions @ np.array([[1, 0, 0], [0, 1, rng.uniform(-0.4, 0.4)], [0, 0, 1.0]])
        directions /= np.linalg.norm(directions, axis=0)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = directions * spacing, rng.uniform(-200, 200, 3)
    x, y, z = rng.integers(6, longest, 3)
    return Drawn(affine, (int(x), int(y), int(z)), kind == "sheared", kind == "45 degrees")


def draw_voxels(rng, shape):
    """Return a scan with a long body away from its middle, and the body's mask: turned, it is elsewhere."""
    centre, radii = np.array(shape) * rng.uniform(0.28, 0.42, 3), np.array(shape) * [0.30, 0.18, 0.14] + 1
    distance = (((np.indices(shape).T - centre) / radii) ** 2).sum(-1).T
    return (rng.normal(100, 10, shape) + 200 * (distance < 1)).astype(np.float32), (distance < 1).astype(np.uint8)


def by_nibabel(path, voxels, affine, forms, kind=nib.Nifti1Image):
    image = kind(voxels, affine)
    image.set_qform(affine if forms[0] else None, forms[0])
    image.set_sform(affine if forms[1] else None, forms[1])
    nib.save(image, path)
    return path


def by_itk(path, voxels, affine):
    """Write the same grid as ITK writes it: its own qform and sform, from direction cosines and spacing."""
    image = sitk.GetImageFromArray(voxels.T)
    turned, spacing = LPS @ affine, np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((turned[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(turned[:3, 3].tolist())
    sitk.WriteImage(image, str(path))
    return path


def itk_affine(path):
    image = sitk.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return LPS @ affine


def write_pair(folder, rng, grid, image, mask):
    """Write a scan and its mask, each in forms of its own: what no form can hold, a shear, is in sforms alone."""
    forms = [(0, 1)] if grid.sheared else FORMS
    scan = by_nibabel(folder / "scan.nii", image, grid.affine, forms[rng.integers(len(forms))])
    writer = rng.integers(2 if grid.sheared else 4)
    if writer == 3:
        return scan, by_itk(folder / "mask.nii", mask, grid.affine)
    # Read back, and written again: the affine has been through float32 twice.
    affine = nib.load(scan).affine if writer == 2 else grid.affine
    kind = nib.Nifti2Image if writer == 1 else nib.Nifti1Image
    return scan, by_nibabel(folder / "mask.nii", mask, affine, forms[rng.integers(len(forms))], kind)


def prepared(scan, mask, grid):
    case = case_transforms(grid, [0, 1])({"image": nifti.load(scan), "annotation": nifti.load(mask)})
    return case["image"].numpy()[0], case["annotation"].numpy()[0]


def in_the_suite(draws):
    return [pytest.param(SOME, id="some"), pytest.param(draws, marks=pytest.mark.slow, id="many")]


@pytest.mark.parametrize("draws", in_the_suite(MANY))
def test_a_mask_is_prepared_on_its_image_s_grid_whoever_wrote_its_header(tmp_path, draws):
    for seed in draws:
        rng = np.random.default_rng(seed)
        grid = draw_grid(rng)
        image, mask = draw_voxels(rng, grid.shape)
        scan, label = write_pair(tmp_path, rng, grid, image, mask)
        facts, problems = examine_case(Case(id="a", images=(scan,), label=label, patient="a"), Declared())
        assert facts is not None, (seed, problems)
        assert all(map(is_warning, problems)), (seed, problems)
        # Under its image's own header, the mask is this file.
        own = tmp_path / "own.nii"
        nib.save(nib.Nifti1Image(mask, None, nib.load(scan).header), own)
        for target in (AS_STORED, RESAMPLED):
            bright, under = prepared(scan, label, target)
            np.testing.assert_array_equal(under, prepared(scan, own, target)[1], str(seed))
            assert under.shape == bright.shape
            inside = bright[under > UNANNOTATED + 1]
            assert np.median(inside) > np.median(bright) + 1, seed


@pytest.mark.parametrize("draws", in_the_suite(MANY))
def test_the_affine_is_the_one_that_nibabel_and_itk_read(tmp_path, draws):
    for seed in draws:
        rng = np.random.default_rng(seed)
        grid = draw_grid(rng)
        while grid.sheared:  # ITK does not open it
            grid = draw_grid(rng)
        voxels = np.zeros(grid.shape, np.uint8)
        for forms in FORMS:
            path = by_nibabel(tmp_path / "a.nii", voxels, grid.affine, forms)
            read = nifti.load(path).header.forms
            bound = read.precision_mm(corners_of(grid.shape)) / min(read.spacing_mm)
            for other in (grid.affine, nib.load(path).affine):
                assert (corner_distances(read.affine, other, grid.shape) <= bound).all(), (seed, forms)
            assert corner_distances(read.affine, itk_affine(path), grid.shape).max() < 1e-3, (seed, forms)


@pytest.mark.parametrize("draws", in_the_suite(MANY))
def test_voxels_are_ordered_as_nibabel_orders_them(tmp_path, draws):
    for seed in draws:
        rng = np.random.default_rng(seed)
        grid = draw_grid(rng)
        if grid.tied:  # nibabel's order is then decided by the last bits
            continue
        path = by_nibabel(tmp_path / "a.nii", draw_voxels(rng, grid.shape)[0], grid.affine, (0, 1))
        ours = scan_transforms(AS_STORED)({"image": nifti.load(path)})["image"].numpy()[0]
        theirs = nib.as_closest_canonical(nib.load(path)).get_fdata(dtype=np.float32)
        assert ours.shape == theirs.shape, seed
        np.testing.assert_allclose(ours, (theirs - theirs.mean()) / theirs.std(), atol=0.01)


class Bright(torch.nn.Module):
    """Two classes, told apart by a soft look at a voxel and its neighbours: no voxel is far from the border."""

    def __init__(self):
        super().__init__()
        self.blur = torch.nn.Conv3d(1, 1, 3, padding=1, bias=False)
        torch.nn.init.constant_(self.blur.weight, 1 / 27)

    def forward(self, windows):
        near = self.blur(windows)
        return torch.cat([-near, near], dim=1)


class Spread(torch.nn.Module):
    """Three classes of a look at a voxel and its neighbours, in a volume or a slice."""

    def __init__(self):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, windows):
        near = windows + windows.roll(1, 2) + windows.roll(1, 3)
        return torch.cat([-near, near, self.factor * near - 3], dim=1)


@pytest.mark.parametrize("draws", in_the_suite(range(300)))
def test_one_scan_has_one_prediction_whichever_form_it_is_stored_in(tmp_path, draws):
    predictor = Predictor(
        network=Bright(), grid=RESAMPLED, patch_size=(16, 16, 16), label_values=(0, 1), precision=torch.float32
    )
    for seed in draws:
        rng = np.random.default_rng(seed)
        grid = draw_grid(rng, longest=20)
        while grid.sheared:
            grid = draw_grid(rng, longest=20)
        image, _ = draw_voxels(rng, grid.shape)
        forms = ((1, 0), (0, 1), (1, 1))
        paths = [by_nibabel(tmp_path / f"{n}.nii.gz", image, grid.affine, form) for n, form in enumerate(forms)]
        scans = [scan_transforms(RESAMPLED)({"image": nifti.load(path)})["image"].numpy() for path in paths]
        masks = [predictor([path]) for path in paths]
        assert 0 < masks[0].mean() < 1
        for scan, mask in zip(scans[1:], masks[1:], strict=True):
            np.testing.assert_array_equal(scan, scans[0], str(seed))
            np.testing.assert_array_equal(mask, masks[0], str(seed))


def has_clear_axes(grid):
    """Whether each voxel axis has an axis of the body of its own, whatever order they are asked in."""
    cosines = np.abs(grid.affine[:3, :3] / np.linalg.norm(grid.affine[:3, :3], axis=0))
    return sorted(cosines.argmax(axis=0)) == [0, 1, 2] and cosines.max(axis=0).min() > 0.75 and not grid.sheared


@pytest.mark.parametrize("draws", in_the_suite(range(528)))
def test_a_scan_in_another_order_has_the_prediction_in_that_order_where_all_readers_find_it(tmp_path, draws):
    for seed in draws:
        rng = np.random.default_rng(seed)
        grid = draw_grid(rng, longest=20)
        while not has_clear_axes(grid):
            grid = draw_grid(rng, longest=20)
        spacing = tuple(rng.choice([0.0, 0.9, 1.3, 2.0], 3))
        patch = ((8, 16, 8), (16, 16, 16), (16, 8))[seed % 3]
        predictor = Predictor(
            network=Spread(),
            grid=Grid("RAS", (*spacing[:2], spacing[2] * (len(patch) == 3))),
            patch_size=patch,
            label_values=(0, 1, 7),
            precision=torch.float32,
        )
        order, signs = TURNS[seed % len(TURNS)]
        turn, forms = np.array([*zip(order, signs, strict=True)]), FORMS[seed % len(FORMS)]
        affine = grid.affine @ nib.orientations.inv_ornt_aff(turn, grid.shape)
        voxels, masks = draw_voxels(rng, grid.shape)[0], []
        for name, stored, place in (
            ("first", voxels, grid.affine),
            ("second", nib.orientations.apply_orientation(voxels, turn), affine),
        ):
            path = by_nibabel(tmp_path / f"{name}.nii", stored, place, forms)
            scan = nifti.load(path)
            masks.append(predictor.segment([scan]))
            nifti.save_labels(tmp_path / "mask.nii.gz", masks[-1], scan)
            assert len(np.unique(masks[-1])) > 1
            np.testing.assert_array_equal(nib.load(tmp_path / "mask.nii.gz").affine, nib.load(path).affine)
            np.testing.assert_array_equal(itk_affine(tmp_path / "mask.nii.gz"), itk_affine(path))
            by_itk_read = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "mask.nii.gz"))).T
            np.testing.assert_array_equal(by_itk_read, masks[-1], str(seed))
        np.testing.assert_array_equal(nib.orientations.apply_orientation(masks[0], turn), masks[1], str(seed))


@pytest.mark.parametrize("forms", FORMS)
def test_a_predicted_mask_has_the_very_numbers_of_its_scan_s_header(tmp_path, forms):
    affine = draw_grid(np.random.default_rng(5)).affine  # oblique
    scan = nifti.load(by_nibabel(tmp_path / "scan.nii", np.zeros((5, 6, 7), np.int16), affine, forms))
    nifti.save_labels(tmp_path / "mask.nii", np.ones((5, 6, 7), np.uint8), scan)
    headers = [nib.load(tmp_path / name).header for name in ("scan.nii", "mask.nii")]
    used = ["pixdim", "qform_code", "sform_code"]
    used += ["quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"] if forms[0] else []
    used += ["srow_x", "srow_y", "srow_z"] if forms[1] else []
    for field in used:
        np.testing.assert_array_equal(headers[0][field], headers[1][field], field)
    np.testing.assert_array_equal(itk_affine(tmp_path / "scan.nii"), itk_affine(tmp_path / "mask.nii"))


@pytest.mark.parametrize("turn_rad", [5e-4, 7e-4, 8e-4, 9e-4, 1.1e-3, 1e-2])
def test_a_mask_has_its_scan_s_quaternion_also_where_readers_differ_in_what_it_means(tmp_path, turn_rad):
    affine = np.eye(4)
    turn = Rotation.from_rotvec([0, 0, turn_rad]).as_matrix() @ np.diag([-1.0, -1.0, 1.0])
    affine[:3, :3], affine[:3, 3] = turn * [0.5, 0.5, 3.0], 30
    scan = nifti.load(by_nibabel(tmp_path / "scan.nii", np.zeros((5, 6, 7), np.int16), affine, (1, 0)))
    nifti.save_labels(tmp_path / "mask.nii", np.ones((5, 6, 7), np.uint8), scan)
    ours, theirs = (nib.load(tmp_path / name) for name in ("mask.nii", "scan.nii"))
    for field in ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "pixdim"):
        np.testing.assert_array_equal(ours.header[field], theirs.header[field], field)
    np.testing.assert_array_equal(ours.affine, theirs.affine)


def oblique(degrees_x, degrees_z=0.0, size_mm=0.4):
    """DICOM's directions, tilted: the first part of the quaternion is 0 or near it."""
    affine = np.eye(4)
    turn = Rotation.from_euler("xz", [degrees_x, degrees_z], degrees=True).as_matrix()
    affine[:3, :3] = np.diag([-1.0, -1.0, 1.0]) @ turn * [size_mm, size_mm, 3.0]
    affine[:3, 3] = 80.3, -61.2, 17.9
    return affine


@pytest.mark.parametrize("seed", range(4))
def test_no_sound_scan_of_a_large_grid_is_refused(tmp_path, seed):
    rng = np.random.default_rng(seed)
    for _ in range(15):
        affine = oblique(rng.uniform(-30, 30), rng.choice([0, rng.uniform(-30, 30)]), rng.choice([0.3, 0.4, 0.6]))
        voxels = np.zeros((512, 512, 3), np.uint8)
        voxels[::32, ::32] = 1
        scan = by_nibabel(tmp_path / "scan.nii", voxels, affine, (1, 1))
        forms = FORMS[rng.integers(3)]
        mask = by_nibabel(tmp_path / "mask.nii", voxels, affine, forms)
        found = examine_case(Case(id="a", images=(scan,), label=mask, patient="a"), Declared())[1]
        assert [problem for problem in found if not is_warning(problem)] == []


@pytest.mark.parametrize("shape", [(30, 26, 24), (512, 512, 3)])
@pytest.mark.parametrize("how", ["moved", "turned"])
def test_forms_that_differ_by_more_than_rounding_are_refused(tmp_path, shape, how):
    affine = oblique(12.0)
    other = affine.copy()
    if how == "moved":
        other[:3, 3] += affine[:3, 0] * 0.7
    else:  # by three times what a quaternion cannot hold, and by a voxel at least
        angle = max(3 * 1.2e-3, 1 / np.hypot(*shape[:2]))
        other[:3, :3] = Rotation.from_euler("z", angle).as_matrix() @ affine[:3, :3]
    image = nib.Nifti1Image(np.arange(np.prod(shape), dtype=np.int32).reshape(shape), affine)
    image.set_qform(affine, 1)
    image.set_sform(other, 1)
    nib.save(image, tmp_path / "scan.nii")
    _, problems = examine_case(Case(id="a", images=(tmp_path / "scan.nii",), label=None, patient="a"), Declared())
    assert [problem.code for problem in problems] == ["forms-differ"]


@pytest.mark.parametrize(("voxels", "accepted"), [(0.09, True), (0.12, False)])
@pytest.mark.parametrize("forms", FORMS)
def test_no_quaternion_excuses_a_shift(tmp_path, forms, voxels, accepted):
    affine = oblique(9.0)
    shifted = affine.copy()
    shifted[:3, 3] += voxels * affine[:3, 1]
    array = np.zeros((512, 512, 3), np.uint8)
    scan, mask = (
        nifti.load(by_nibabel(tmp_path / name, array, where, forms)).header.forms
        for name, where in (("a.nii", affine), ("b.nii", shifted))
    )
    assert (distance_between(scan, mask) is None) == accepted


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("axis", range(3))
def test_at_45_degrees_the_order_of_axes_does_not_depend_on_the_last_bits(axis, sign):
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(np.eye(3)[axis] * sign * np.pi / 4).as_matrix()
    expected = nearest_axes(matrix)
    rng = np.random.default_rng(0)
    for _ in range(50):
        nudged = matrix.copy()
        nudged[:3, :3] += rng.uniform(-1e-6, 1e-6, (3, 3))
        assert nearest_axes(nudged) == expected


@pytest.mark.parametrize("length", [0.0, -1.0, 1.0])
def test_a_slice_without_a_thickness_and_a_negative_size_are_read_as_nibabel_reads_them(tmp_path, length):
    path = by_nibabel(tmp_path / "a.nii", np.zeros((6, 7, 1), np.uint8), np.diag([2.0, 2.0, 1.0, 1.0]), (1, 0))
    body = bytearray(path.read_bytes())
    body[88:92] = np.float32(length).tobytes()
    path.write_bytes(bytes(body))
    np.testing.assert_allclose(nifti.load(path).affine, nib.load(path).affine, atol=1e-6)


def test_the_size_of_a_voxel_is_one_whichever_form_and_size_a_header_has(tmp_path):
    affine = oblique(11.0, 7.0, 0.9375)
    voxels = np.zeros((5, 6, 7), np.uint8)
    sizes = {nifti.load(by_nibabel(tmp_path / "a.nii", voxels, affine, forms)).spacing_mm for forms in FORMS}
    header = nib.Nifti1Header()
    header.set_sform(affine, 1)  # and pixdim stays 1, 1, 1
    nib.save(nib.Nifti1Image(voxels, None, header), tmp_path / "b.nii")
    sizes.add(nifti.load(tmp_path / "b.nii").spacing_mm)
    assert sizes == {(0.9375, 0.9375, 3.0)}
