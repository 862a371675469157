"""A scan is known again by its voxels, whatever file they are in."""

import json
import shutil
from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
from exchanges import any_orientation, opened, save, turned
from nibabel.orientations import apply_orientation, inv_ornt_aff
from scipy.spatial.transform import Rotation

from pipeline.data.content import hash_scan, hash_values
from pipeline.data.inspection import Declared, examine_case
from pipeline.data.layouts import read_dataset
from pipeline.nifti.volume import load
from pipeline.runs.checking import survey
from pipeline.types import Case

SHAPE = (9, 7, 8)
ORIENTATIONS = [
    np.stack([order, signs], axis=1) for order in permutations(range(3)) for signs in product([1, -1], repeat=3)
]
NUMBERS = {
    "whole": np.random.default_rng(0).integers(-1000, 3000, SHAPE).astype(np.int16),
    "small": np.random.default_rng(0).integers(0, 200, SHAPE).astype(np.uint8),
    "real": np.random.default_rng(0).normal(size=SHAPE).astype(np.float32),
    "large": np.random.default_rng(0).integers(-(2**24), 2**24, SHAPE).astype(np.int32),
    "larger": np.random.default_rng(0).integers(0, 2**62, SHAPE).astype(np.int64),
}


def oblique(*degrees, spacing=(0.7, 1.2, 2.5)):
    affine = np.diag([*spacing, 1.0])
    affine[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() @ affine[:3, :3]
    affine[:3, 3] = 12.5, -40, 7
    return affine


def hashes(path):
    """As the check finds them."""
    scan = load(path)
    return hash_scan(scan.voxels[0], scan.affine)


@pytest.mark.parametrize("numbers", NUMBERS)
def test_values_are_the_same_in_every_type_that_holds_them(numbers):
    voxels = NUMBERS[numbers]
    expected = hash_scan(voxels, np.eye(4))
    kinds = ["f8", "f4", "i8", "i4", "u4", "i2", ">i2", ">f4", "u2", "u1", "i1"]
    exact = [kind for kind in kinds if (voxels.astype(kind).astype(np.float64) == voxels.astype(np.float64)).all()]
    assert len(exact) > 1
    for kind in exact:
        assert hash_scan(voxels.astype(kind), np.eye(4)) == expected
        assert hash_scan(np.asfortranarray(voxels.astype(kind)), np.eye(4)) == expected


@pytest.mark.parametrize("numbers", NUMBERS)
def test_one_voxel_of_another_value_is_another_scan(numbers):
    voxels = NUMBERS[numbers]
    expected = hash_scan(voxels, np.eye(4))
    for place in [(0, 0, 0), (8, 6, 7), (4, 3, 2)]:
        other = voxels.astype(np.float64)
        other[place] = np.nextafter(np.float32(other[place]), np.float32(np.inf))
        assert not set(hash_scan(other, np.eye(4))) & set(expected)


def test_nought_has_no_sign_and_a_whole_number_no_type():
    voxels = np.array([[[-0.0, 1, 2]]])
    assert hash_scan(voxels, np.eye(4)) == hash_scan(np.array([[[0, 1, 2]]], np.uint8), np.eye(4))
    real = np.array([[[0.0, 0.5]]])
    assert hash_scan(np.copysign(real, [-1, 1]), np.eye(4)) == hash_scan(real, np.eye(4))


def test_shape_counts():
    assert hash_values(np.zeros((2, 3, 4))) != hash_values(np.zeros((4, 3, 2)))


@pytest.mark.parametrize("shape", [(40, 50, 3), (3, 50, 40), (1, 1, 1), (64, 1, 64)])
def test_hashes_do_not_depend_on_how_many_slices_are_looked_at_together(shape, monkeypatch):
    """The values' own hash is of the blocks that the shape decides; the sums' is of the voxels alone."""
    voxels = np.random.default_rng(1).normal(size=shape)
    expected = hash_scan(voxels, np.eye(4))[1]
    monkeypatch.setattr("pipeline.data.content.BLOCK", 128)
    assert hash_scan(voxels, np.eye(4))[1] == expected


# Any order of the axes


@pytest.mark.parametrize("numbers", ["whole", "real", "small"])
@pytest.mark.parametrize(
    "degrees", [(0, 0, 0), (10, -20, 30), (0, 0, 45), (45, 0, 0), (0, -45, 0), (45, 45, 45), (0, 0, 135), (35, 45, 80)]
)
def test_a_scan_is_known_again_in_all_48_orders_of_its_axes(make_scan, numbers, degrees):
    voxels, affine = NUMBERS[numbers], oblique(*degrees)
    expected = hashes(make_scan("a.nii", voxels, affine))[1]
    assert len(ORIENTATIONS) == 48
    for orientation in ORIENTATIONS:
        other = affine @ inv_ornt_aff(orientation, voxels.shape)
        path = make_scan("b.nii", apply_orientation(voxels, orientation), other)
        assert hashes(path)[1] == expected
        image = nib.Nifti1Image(apply_orientation(voxels, orientation), None)
        image.set_qform(other, 1)  # Rounded as a quaternion is.
        image.set_sform(None, 0)
        nib.save(image, path)
        assert hashes(path)[1] == expected


@pytest.mark.parametrize("degrees", [(0, 0, 0), (10, -20, 30), (0, 0, 45)])
def test_a_mirrored_scan_is_another(make_scan, degrees):
    voxels, affine = NUMBERS["whole"], oblique(*degrees)
    expected = hashes(make_scan("a.nii", voxels, affine))
    for axis in range(3):
        assert not set(hashes(make_scan("b.nii", np.flip(voxels, axis), affine))) & set(expected)


@pytest.mark.parametrize("numbers", ["whole", "real", "small"])
def test_simpleitk_saves_the_same_scan(make_scan, tmp_path, numbers):
    sitk = pytest.importorskip("SimpleITK")
    path, again = make_scan("a.nii.gz", NUMBERS[numbers], oblique(10, -20, 30)), tmp_path / "b.nii.gz"
    image = sitk.ReadImage(str(path))
    sitk.WriteImage(image, str(again))
    assert hashes(again) == hashes(path)
    sitk.WriteImage(sitk.Cast(image, sitk.sitkFloat64), str(again))
    assert hashes(again) == hashes(path)
    for order in ("RAS", "LPS", "PIR", "ASL"):
        sitk.WriteImage(sitk.DICOMOrient(image, order), str(again))
        assert hashes(again)[1] == hashes(path)[1]


# The check


def resave(path, how, rng):
    voxels, affine, _ = opened(path)
    if how == "as float64":
        save(path, voxels.astype(np.float64), affine)
    elif how == "turned":
        turned(path, any_orientation(rng))
    elif how == "turned, as float32":
        turned(path, any_orientation(rng))
        save(path, opened(path)[0].astype(np.float32), opened(path)[1])
    elif how == "without its affine":
        save(path, voxels, np.eye(4))


HOW = ["as float64", "turned", "turned, as float32", "without its affine"]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("section", ["validation", "test"])
def test_a_scan_saved_anew_may_not_teach_and_test(make_scan, tmp_path, how, section):
    rng = np.random.default_rng(len(how))
    for name in ("a", "b"):
        make_scan(f"{name}.nii.gz", NUMBERS["whole"], oblique(10, -20, 100))
        make_scan(f"{name}_mask.nii.gz", (NUMBERS["whole"] > 2000).astype(np.uint8), oblique(10, -20, 100))
    state = rng.bit_generator.state
    for name in ("b", "b_mask"):
        rng.bit_generator.state = state  # The mask as its scan.
        resave(tmp_path / f"{name}.nii.gz", how, rng)
    entries = {
        key: [{"image": f"{n}.nii.gz", "label": f"{n}_mask.nii.gz"}] for key, n in (("training", "a"), (section, "b"))
    }
    (tmp_path / "list.json").write_text(json.dumps(entries))
    (problem,) = survey(read_dataset(tmp_path / "list.json")).problems
    assert (problem.code, problem.case) == ("scan-leaks", "b")
    assert str(tmp_path / "a.nii.gz") in problem.message


def test_channels_are_known_again_in_one_file_or_many_and_in_any_order(make_scan, tmp_path):
    first, second = NUMBERS["whole"], NUMBERS["real"]
    paths = [make_scan("a.nii", second, oblique(5, 0, 0)), make_scan("b.nii", first, oblique(5, 0, 0))]
    both = make_scan("both.nii", np.stack([first, second], axis=-1).astype(np.float32), oblique(5, 0, 0))
    apart, _ = examine_case(Case(id="apart", images=tuple(paths), label=None, patient=""), Declared(channels=2))
    together, _ = examine_case(Case(id="together", images=(both,), label=None, patient=""), Declared(channels=2))
    for one, other in zip(apart.known_by, together.known_by, strict=True):
        assert sorted(one) == sorted(other)
        assert len(set(one)) == 2


def test_the_public_decathlon_has_no_scan_twice_and_each_is_known_in_another_order(hippocampus, tmp_path):
    """Eight bits a voxel and few voxels: where would two scans be taken for one, if not here?"""
    paths, rng = sorted((hippocampus / "imagesTr").iterdir()), np.random.default_rng(0)
    found = [hashes(path) for path in paths]
    assert len({value for pair in found for value in pair}) == 2 * len(paths)
    for path, (_, sums) in list(zip(paths, found, strict=True))[:20]:
        shutil.copy(path, tmp_path / path.name)
        turned(tmp_path / path.name, any_orientation(rng))
        assert hashes(tmp_path / path.name)[1] == sums
