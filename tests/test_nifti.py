import gzip
import os
import shutil
import struct
import tracemalloc

import nibabel as nib
import numpy as np
import pytest

from pipeline import nifti
from pipeline.errors import UserError

AFFINE = np.array([[1.0, 0, 0, -20], [0, 2, 0, 7], [0, 0, 3, 11], [0, 0, 0, 1]])
ARRAY = np.random.default_rng(0).integers(-900, 900, size=(5, 6, 7), dtype=np.int16)
# Where NIfTI-1 keeps its fields.
DIM, DATATYPE, BITPIX, VOX_OFFSET, SLOPE, INTER, UNITS = 40, 70, 72, 108, 112, 116, 123
QFORM_CODE, SFORM_CODE, QUATERNION, SFORM = 252, 254, 256, 280
AGAIN, BY_ITS_TOOL = "copy or download the file again", "write the file again with its own tool"


def sound(array=ARRAY, affine=AFFINE, kind=nib.Nifti1Image):
    return kind(array, affine).to_bytes()


def patched(offset, form, *values, body=None):
    body = bytearray(sound() if body is None else body)
    struct.pack_into("<" + form, body, offset, *values)
    return bytes(body)


def packed(body):
    return gzip.compress(body, mtime=0)


def write(folder, name, data):
    (folder / name).write_bytes(data)
    return folder / name


def only_problem(path):
    with pytest.raises(UserError) as raised:
        nifti.load(path)
    (problem,) = raised.value.problems
    assert problem.where == str(path)
    assert raised.value.__cause__ is None
    return problem


def attempt(path):
    """Return the scan, or None and its problems."""
    try:
        return nifti.load(path), ()
    except UserError as error:
        return None, error.problems


def flipped(data, place):
    return data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]


GZ = packed(sound())
CONTAINER_FAULTS = {
    "empty": ("a.nii.gz", b"", "empty-file", AGAIN),
    "git-lfs": (
        "a.nii.gz",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
        "lfs-pointer",
        "run `git lfs pull` in its repository",
    ),
    "git-lfs in .nii": ("a.nii", b"version https://git-lfs.github.com/spec/v1\n", "lfs-pointer", "run `git lfs pull`"),
    "web page": ("a.nii.gz", b"\n <!DOCTYPE html><html>Sign in</html>", "web-page", "download the file again"),
    "web page in .nii": ("a.nii", b"<html></html>" * 99, "web-page", "download the file again"),
    "web page with a mark": ("a.nii", b"\xef\xbb\xbf<html></html>", "web-page", "download the file again"),
    "gzip named .nii": ("a.nii", GZ, "misnamed", "rename it to a.nii.gz"),
    ".nii named gzip": ("a.b.nii.gz", sound(), "misnamed", "rename it to a.b.nii,"),
    "gzip cut in half": ("a.nii.gz", GZ[: len(GZ) // 2], "truncated-gzip", AGAIN),
    "last 4 bytes missing": ("a.nii.gz", GZ[:-4], "truncated-gzip", AGAIN),
    "last 8 bytes missing": ("a.nii.gz", GZ[:-8], "truncated-gzip", AGAIN),
    "one byte left": ("a.nii.gz", GZ[:3], "truncated-gzip", AGAIN),
    "checksum": ("a.nii.gz", flipped(GZ, len(GZ) - 6), "corrupt-gzip", AGAIN),
    "length": ("a.nii.gz", flipped(GZ, len(GZ) - 2), "corrupt-gzip", AGAIN),
    "garbage behind the gzip": ("a.nii.gz", GZ + b"garbage", "corrupt-gzip", AGAIN),
    "garbage in the gzip": ("a.nii.gz", packed(sound() + b"garbage"), "trailing-bytes", BY_ITS_TOOL),
    "a second volume": ("a.nii.gz", GZ + GZ, "trailing-bytes", BY_ITS_TOOL),
    "garbage behind few voxels": (
        "a.nii.gz",
        packed(sound(np.ones((2, 2, 2), np.uint8)) + b"garbage"),
        "trailing-bytes",
        BY_ITS_TOOL,
    ),
    "garbage behind .nii": ("a.nii", sound() + b"garbage", "trailing-bytes", BY_ITS_TOOL),
    "cut .nii": ("a.nii", sound()[:-1], "truncated", AGAIN),
    "cut header": ("a.nii", sound()[:200], "not-nifti", "convert it to NIfTI"),
    "short voxels in a whole gzip": ("a.nii.gz", packed(sound()[:-1]), "truncated", AGAIN),
    "text": ("a.nii", b"hello" * 200, "not-nifti", "convert it to NIfTI"),
    "gzipped text": ("a.nii.gz", packed(b"hello" * 200), "not-nifti", "convert it to NIfTI"),
}


@pytest.mark.parametrize(("name", "data", "code", "remedy"), CONTAINER_FAULTS.values(), ids=CONTAINER_FAULTS)
def test_a_damaged_container_is_named_with_its_remedy(tmp_path, name, data, code, remedy):
    problem = only_problem(write(tmp_path, name, data))
    assert problem.code == code
    assert remedy in problem.remedy


REAL = "write the file again as int16 or float32"
SFORM_REMEDY = "write the file again with a valid sform"
HEADER_FAULTS = {
    "zero dim": (patched(DIM + 4, "h", 0), "bad-dimensions", BY_ITS_TOOL),
    "negative dim": (patched(DIM + 4, "h", -6), "bad-dimensions", BY_ITS_TOOL),
    "nine axes": (patched(DIM, "h", 9), "bad-dimensions", BY_ITS_TOOL),
    "no axes": (patched(DIM, "h", 0), "bad-dimensions", BY_ITS_TOOL),
    "terabytes": (patched(DIM, "4h", 3, 30000, 30000, 30000), "truncated", AGAIN),
    "unknown datatype": (patched(DATATYPE, "h", 999), "bad-datatype", REAL),
    "no datatype": (patched(DATATYPE, "2h", 0, 0), "bad-datatype", REAL),
    "bitpix": (patched(BITPIX, "h", 8), "bad-datatype", REAL),
    "vox_offset 0": (patched(VOX_OFFSET, "f", 0), "bad-offset", BY_ITS_TOOL),
    "vox_offset negative": (patched(VOX_OFFSET, "f", -352), "bad-offset", BY_ITS_TOOL),
    "vox_offset NaN": (patched(VOX_OFFSET, "f", np.nan), "bad-offset", BY_ITS_TOOL),
    "vox_offset infinite": (patched(VOX_OFFSET, "f", np.inf), "bad-offset", BY_ITS_TOOL),
    "vox_offset huge": (patched(VOX_OFFSET, "f", 1e30), "truncated", AGAIN),
    "slope NaN": (patched(SLOPE, "f", np.nan), "bad-scaling", BY_ITS_TOOL),
    "slope infinite": (patched(SLOPE, "f", np.inf), "bad-scaling", BY_ITS_TOOL),
    "intercept NaN": (patched(INTER, "f", np.nan), "bad-scaling", BY_ITS_TOOL),
    "affine NaN": (patched(SFORM, "f", np.nan), "bad-affine", SFORM_REMEDY),
    "affine infinite": (patched(SFORM + 12, "f", np.inf), "bad-affine", SFORM_REMEDY),
    "affine zero": (patched(SFORM, "12f", *[0] * 12), "bad-affine", SFORM_REMEDY),
    "affine singular": (patched(SFORM, "12f", *[1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0]), "bad-affine", SFORM_REMEDY),
    "impossible rotation": (
        patched(QFORM_CODE, "h", 1, body=patched(QUATERNION, "3f", 1, 1, 1)),
        "bad-affine",
        "a valid qform",
    ),
    "complex": (sound(ARRAY.astype(np.complex64)), "bad-datatype", "convert it to one real number a voxel"),
    "colours": (
        sound(np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])),
        "bad-datatype",
        "convert it to one real number a voxel",
    ),
    "five axes": (sound(np.zeros((4, 4, 4, 1, 3), np.int16)), "too-many-axes", "save one 3-D or 4-D volume a file"),
    "one axis": (sound(np.zeros(9, np.int16)), "too-few-axes", "save a 2-D or 3-D image"),
    "no magic": (patched(344, "4s", b"no1\0"), "not-nifti", "convert it to NIfTI"),
    "magic of a pair": (patched(344, "4s", b"ni1\0"), "not-nifti", "convert the pair"),
}


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize(("body", "code", "remedy"), HEADER_FAULTS.values(), ids=HEADER_FAULTS)
def test_a_senseless_header_is_named_with_its_remedy(tmp_path, name, body, code, remedy):
    problem = only_problem(write(tmp_path, name, packed(body) if name.endswith("gz") else body))
    assert problem.code == code
    assert remedy in problem.remedy


def test_the_unchanged_bytes_behind_these_faults_are_sound(tmp_path):
    for name, data in (("a.nii", sound()), ("a.nii.gz", GZ)):
        scan = nifti.load(write(tmp_path, name, data))
        np.testing.assert_array_equal(scan.voxels[0], ARRAY)
        np.testing.assert_array_equal(scan.affine, AFFINE)
        assert scan.spacing_mm == (1, 2, 3)


def test_what_is_no_file_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.nii")
    (tmp_path / "folder.nii.gz").mkdir()
    (tmp_path / "link.nii.gz").symlink_to(tmp_path / "gone.nii.gz")
    expected = {"pipe.nii": "not-a-file", "folder.nii.gz": "not-a-file"}
    for name, code in (expected | {"link.nii.gz": "missing-file", "nothing.nii.gz": "missing-file"}).items():
        problem = only_problem(tmp_path / name)
        assert problem.code == code
        assert any(text in problem.remedy for text in ("name the NIfTI file", "did you mean", "check", "is a link to"))


def test_a_promise_of_terabytes_takes_no_memory(tmp_path):
    small = packed(HEADER_FAULTS["terabytes"][0][:352])
    path = write(tmp_path, "a.nii.gz", small)
    tracemalloc.start()
    try:
        assert "54000000000352 bytes" in only_problem(path).message
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_no_byte_of_a_header_raises_anything_but_a_user_error(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.files.flush_to_disk", lambda path: None)
    rng = np.random.default_rng(2)
    numbers = [*range(4), *range(DIM, 148), *range(QFORM_CODE, 328), *range(344, 352)]
    for place in numbers:
        for value in {0x7F, 0xFF, int(rng.integers(256))}:
            scan, problems = attempt(write(tmp_path, "a.nii", patched(place, "B", value)))
            assert len(problems) == (scan is None)
            if scan is not None:
                assert scan.voxels.shape == (scan.channels, *scan.shape)
                nifti.save_labels(tmp_path / "mask.nii", np.zeros(scan.shape, np.uint8), scan)


def test_trailing_zeros_are_padding(tmp_path):
    for name, data in (
        ("inside.nii.gz", packed(sound() + b"\0" * 512)),
        ("behind.nii.gz", GZ + b"\0" * 512),
        ("plain.nii", sound() + b"\0" * 512),
    ):
        np.testing.assert_array_equal(nifti.load(write(tmp_path, name, data)).voxels[0], ARRAY)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("dtype", [">i2", "<f4", ">f8", "u1", "<u4"])
def test_both_versions_and_byte_orders_read_alike(tmp_path, kind, dtype):
    array = np.abs(ARRAY % 200).astype(dtype)
    image = kind(array, AFFINE)
    swapped = image.header.as_byteswapped(">" if dtype.startswith(">") else "<")
    image = kind(array, AFFINE, swapped)
    scan = nifti.load(write(tmp_path, "a.nii.gz", packed(image.to_bytes())))
    assert scan.header.order == (">" if dtype.startswith(">") else "<")
    np.testing.assert_array_equal(scan.voxels, array[None])
    np.testing.assert_array_equal(scan.affine, AFFINE)


@pytest.mark.parametrize(
    ("slope", "inter", "expected"),
    [(0.5, 10, ARRAY * 0.5 + 10), (0, 99, ARRAY), (0, np.nan, ARRAY), (1, 0, ARRAY)],
)
def test_scaling_is_applied_and_a_slope_of_zero_means_none(tmp_path, slope, inter, expected):
    scan = nifti.load(write(tmp_path, "a.nii", patched(SLOPE, "2f", slope, inter)))
    np.testing.assert_array_equal(scan.voxels[0], expected)
    assert scan.voxels.dtype == (np.float32 if slope == 0.5 else np.int16)


@pytest.mark.parametrize(
    ("shape", "space", "channels"),
    [
        ((5, 6), (5, 6, 1), 1),
        ((1, 6, 7), (1, 6, 7), 1),
        ((5, 6, 1), (5, 6, 1), 1),
        ((5, 6, 7, 1), (5, 6, 7), 1),
        ((5, 6, 7, 2), (5, 6, 7), 2),
        ((5, 6, 7, 2, 1), (5, 6, 7), 2),
    ],
)
def test_axes_become_channels_and_three_of_space(tmp_path, shape, space, channels):
    array = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    scan = nifti.load(write(tmp_path, "a.nii.gz", packed(sound(array))))
    assert (scan.shape, scan.channels) == (space, channels)
    assert scan.voxels.shape == (channels, *space)
    np.testing.assert_array_equal(scan.voxels[-1], array.reshape(*space, channels)[..., -1])


def test_names_may_hold_spaces_and_any_letters(tmp_path):
    path = write(tmp_path, "Füße 7 αβ 脑.scan.NII.gz", GZ)
    assert nifti.load(path).shape == ARRAY.shape
    assert nifti.is_nifti(path)
    assert nifti.stem(path) == "Füße 7 αβ 脑.scan"
    assert not nifti.is_nifti(tmp_path / "._hidden.nii.gz")


def test_the_hash_is_of_the_file(tmp_path):
    first, copy = (nifti.load(write(tmp_path, name, GZ)) for name in ("a.nii.gz", "b.nii.gz"))
    other = nifti.load(write(tmp_path, "c.nii.gz", gzip.compress(sound(), mtime=1)))
    assert first.sha256 == copy.sha256 != other.sha256


def test_public_scans_are_sound(hippocampus):
    for path in sorted((hippocampus / "imagesTr").glob("*.nii.gz"))[:5]:
        scan = nifti.load(path)
        np.testing.assert_array_equal(scan.voxels[0], nib.load(path).get_fdata())


# Saving masks.

CANARIES = {"descrip": b"Jane Doe 1970", "aux_file": b"jane.txt", "db_name": b"ward 7", "intent_name": b"secret"}


def forms_of(path):
    image = nib.load(path)
    codes = [int(image.header[name]) for name in ("sform_code", "qform_code", "xyzt_units")]
    forms = [form for form in (image.get_sform(coded=True)[0], image.get_qform(coded=True)[0]) if form is not None]
    return image.shape, codes, [*forms, image.affine]


@pytest.mark.parametrize(("sform", "qform"), [(2, 1), (1, 0), (0, 3), (0, 0), (4, 4)])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_a_mask_has_the_grid_forms_and_units_of_its_scan(tmp_path, sform, qform, kind):
    oblique = AFFINE.copy()
    oblique[:3, :3] = nib.eulerangles.euler2mat(0.2, -0.1, 0.3) @ oblique[:3, :3]
    image = kind(ARRAY, oblique)
    image.set_sform(oblique, sform, update_affine=False)
    image.set_qform(nib.affines.from_matvec(oblique[:3, :3], [1, 2, 3]), qform, update_affine=False)
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, tmp_path / "scan.nii.gz")
    nifti.save_labels(tmp_path / "mask.nii.gz", (ARRAY > 0).astype(int), nifti.load(tmp_path / "scan.nii.gz"))
    expected, got = forms_of(tmp_path / "scan.nii.gz"), forms_of(tmp_path / "mask.nii.gz")
    assert got[:2] == expected[:2]
    for one, other in zip(got[2], expected[2], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert type(nib.load(tmp_path / "mask.nii.gz")) is kind


def test_no_text_of_the_scan_s_header_reaches_the_mask(tmp_path):
    image = nib.Nifti1Image(ARRAY, AFFINE)
    for field, text in CANARIES.items():
        image.header[field] = text
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"extension of Jane"))
    scan = nifti.load(write(tmp_path, "scan.nii", image.to_bytes()))
    texts = [*CANARIES.values(), b"extension of Jane"]
    assert all(text in scan.path.read_bytes() for text in texts)
    nifti.save_labels(tmp_path / "mask.nii", ARRAY > 0, scan)
    assert not any(text in (tmp_path / "mask.nii").read_bytes() for text in texts)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [((0, 1), "u1"), ((0, 255), "u1"), ((0, 300), "u2"), ((-1, 5), "i1"), ((-1, 200), "i2"), ((0, 70000), "u4")],
)
def test_labels_survive_in_the_narrowest_type_that_holds_them(tmp_path, values, dtype):
    scan = nifti.load(write(tmp_path, "scan.nii.gz", GZ))
    labels = np.where(ARRAY > 0, *values[::-1])
    nifti.save_labels(tmp_path / "mask.nii.gz", labels, scan)
    mask = nifti.load(tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(mask.voxels[0], labels)
    assert mask.stored.dtype == dtype


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 1), (5, 6, 7, 3)])
def test_a_mask_has_the_scan_s_axes_of_space(tmp_path, shape):
    scan = nifti.load(write(tmp_path, "scan.nii", sound(np.ones(shape, np.int16))))
    nifti.save_labels(tmp_path / "mask.nii.gz", np.ones(scan.shape, np.int64), scan)
    assert nib.load(tmp_path / "mask.nii.gz").shape == shape[:3]


def test_strange_units_of_a_scan_do_not_lose_its_mask(tmp_path):
    scan = nifti.load(write(tmp_path, "scan.nii", patched(UNITS, "B", 99)))
    nifti.save_labels(tmp_path / "mask.nii", ARRAY > 0, scan)
    assert int(nib.load(tmp_path / "mask.nii").header["xyzt_units"]) == 99


def test_the_same_mask_is_the_same_bytes(tmp_path, monkeypatch):
    scan = nifti.load(write(tmp_path, "scan.nii.gz", GZ))
    for name, now in (("a", 1e9), ("b", 2e9)):
        monkeypatch.setattr("time.time", lambda now=now: now)
        nifti.save_labels(tmp_path / f"{name}.nii.gz", ARRAY > 0, scan)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_a_mask_of_another_shape_is_refused(tmp_path):
    scan = nifti.load(write(tmp_path, "scan.nii.gz", GZ))
    with pytest.raises(ValueError, match="shape"):
        nifti.save_labels(tmp_path / "mask.nii.gz", np.zeros((7, 6, 5), int), scan)
    assert [path.name for path in tmp_path.iterdir()] == ["scan.nii.gz"]


def test_a_failed_write_leaves_the_old_mask_and_nothing_else(tmp_path, monkeypatch):
    scan = nifti.load(write(tmp_path, "scan.nii.gz", GZ))
    shutil.copy(tmp_path / "scan.nii.gz", tmp_path / "mask.nii.gz")

    def full(path, data):
        with path.open("wb") as stream:
            stream.write(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        nifti.save_labels(tmp_path / "mask.nii.gz", ARRAY > 0, scan)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mask.nii.gz", "scan.nii.gz"]
    assert (tmp_path / "mask.nii.gz").read_bytes() == GZ
