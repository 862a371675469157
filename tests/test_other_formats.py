"""Scans in NRRD, MetaImage and DICOM: the grid and voxels that SimpleITK gives them, and what is refused."""

import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from runs_fixtures import command_runner, make_phantom, train
from series import draw_image, series_image, write_series

from pipeline import nifti, runs
from pipeline.data.layouts import open_dataset
from pipeline.data.stamps import stamps
from pipeline.errors import UserError
from pipeline.nifti import itk_files
from pipeline.runs.checking import check_dataset


def assert_is(scan, image, folder):
    """The scan is what SimpleITK writes of the image as NIfTI and nibabel reads."""
    path = folder / "oracle.nii"
    sitk.WriteImage(image, str(path))
    oracle = nib.load(path)
    np.testing.assert_allclose(scan.affine, oracle.affine, atol=2e-4)
    expected = oracle.get_fdata()
    expected = expected.reshape(*expected.shape[:3], -1) if expected.ndim > 2 else expected[..., None, None]
    found = np.moveaxis(scan.voxels, 0, 3)
    np.testing.assert_array_equal(found, expected.astype(found.dtype))


@pytest.mark.parametrize("kind", ["uint8", "int16", "uint16", "int32", "float32", "float64", "int64"])
@pytest.mark.parametrize("ending", ["nrrd", "mha", "mhd"])
def test_grid_and_voxels_are_those_of_simpleitk(tmp_path, ending, kind):
    rng = np.random.default_rng(len(kind) + len(ending))
    for number, packs in enumerate((False, True)):
        image = draw_image(rng, kind)
        path = tmp_path / f"scan{number}.{ending}"
        sitk.WriteImage(image, str(path), packs)
        scan = nifti.load(path)
        assert_is(scan, image, tmp_path)
        assert scan.stored.dtype == np.dtype(kind)
        assert scan.path == path


@pytest.mark.parametrize("ending", ["nrrd", "mha"])
def test_channels_and_slices(tmp_path, ending):
    rng = np.random.default_rng(1)
    image = draw_image(rng, "float32", components=2)
    sitk.WriteImage(image, str(tmp_path / f"two.{ending}"))
    scan = nifti.load(tmp_path / f"two.{ending}")
    np.testing.assert_array_equal(np.moveaxis(scan.voxels, 0, 3), sitk.GetArrayFromImage(image).transpose(2, 1, 0, 3))
    image = draw_image(rng, "int16", dimensions=2)
    sitk.WriteImage(image, str(tmp_path / f"flat.{ending}"))
    flat = nifti.load(tmp_path / f"flat.{ending}")
    np.testing.assert_array_equal(flat.voxels[0, :, :, 0], sitk.GetArrayFromImage(image).T)
    np.testing.assert_allclose(flat.spacing_mm[:2], image.GetSpacing(), rtol=1e-6)


def code_of(path):
    with pytest.raises(UserError) as raised:
        nifti.load(path)
    (problem,) = raised.value.problems
    return problem.code


def test_headers_that_lead_elsewhere_promise_too_much_or_make_no_sense_are_refused(tmp_path):
    image = draw_image(np.random.default_rng(0), "int16")
    mha, mhd, nrrd = (tmp_path / f"scan.{ending}" for ending in ("mha", "mhd", "nrrd"))
    for path in (mha, mhd, nrrd):
        sitk.WriteImage(image, str(path))
    shutil.copy(tmp_path / "scan.raw", tmp_path.parent / "other.raw")

    def changed(path, old, new):
        other = path.with_name(f"changed{path.suffix}")
        content = path.read_bytes()
        assert old in content
        other.write_bytes(content.replace(old, new))
        return code_of(other)

    size = b"DimSize = " + b" ".join(str(side).encode() for side in image.GetSize())
    assert changed(mha, b"= LOCAL", b"= scan.raw") == "external-data"
    for name in (
        b"../other.raw",
        b"/etc/passwd",
        b"LIST",
        b"scan%d.raw 1 2 1",
        b"a/scan.raw",
        b"scan*.raw",
        b"..",
        b"r" * 300,
    ):
        assert changed(mhd, b"scan.raw", name) == "external-data", name
    assert changed(mhd, b"scan.raw", b"gone.raw") == "missing-file"
    (tmp_path / "link.raw").symlink_to(tmp_path.parent / "other.raw")
    assert changed(mhd, b"scan.raw", b"link.raw") == "missing-file"
    assert changed(nrrd, b"encoding:", b"data file: scan.raw\nencoding:") == "external-data"
    assert changed(mha, size, b"DimSize = 30000 30000 30000") == "truncated"
    assert changed(mha, size, size + b"\nDimSize = 2 2 2") == "bad-format"
    assert changed(mha, size, b"DimSize = 0 5 5") == "bad-format"
    assert changed(mha, size, b"DimSize = 1 5 -5") == "bad-format"
    assert changed(mha, b"MET_SHORT", b"MET_ASCII_CHAR") == "bad-datatype"
    assert changed(nrrd, b"encoding: raw", b"encoding: bzip2") == "unsupported-file"
    assert changed(nrrd, b"type: short", b"type: block") == "bad-datatype"
    assert changed(nrrd, b"NRRD0", b"NRXD0") == "unsupported-file"
    for path in (mha, nrrd):
        cut = path.with_name(f"cut{path.suffix}")
        cut.write_bytes(path.read_bytes()[:-20])
        assert code_of(cut) in ("truncated", "bad-format")
        cut.write_bytes(b"")
        assert code_of(cut) == "empty-file"
    packed = tmp_path / "bomb.mha"
    sitk.WriteImage(image, str(packed), True)
    assert code_of_text(packed, size, b"DimSize = 40000 40000 40000") in ("truncated", "too-large")
    assert code_of(tmp_path / "none.nrrd") == "missing-file"


def code_of_text(path, old, new):
    path.write_bytes(path.read_bytes().replace(old, new))
    return code_of(path)


def test_without_the_library_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(itk_files, "find_spec", lambda _: None)
    assert code_of(tmp_path / "scan.nrrd") == "no-library"


# DICOM


@pytest.mark.parametrize("seed", range(8))
def test_series_is_the_volume_that_was_written_as_simpleitk_reads_it(tmp_path, seed):
    folder = write_series(tmp_path / "series", series_image(seed))
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    expected = sitk.ReadImage(names)
    found = nifti.load(folder)
    assert_is(found, expected, tmp_path)


def test_series_that_are_no_regular_volume_are_refused(tmp_path):
    image = series_image(3)
    assert image.GetSize()[2] > 4
    assert code_of(write_series(tmp_path / "missing", image, skip=(2,))) == "uneven-slices"
    assert code_of(write_series(tmp_path / "tilted", image, tilt_mm=0.4)) == "gantry-tilt"
    two = write_series(tmp_path / "two", image)
    other = write_series(tmp_path / "other", image, **{"0020|000e": "1.2.3.5"})
    for path in other.iterdir():
        shutil.copy(path, two / f"x{path.name}")
    assert code_of(two) == "several-series"
    twice = write_series(tmp_path / "twice", image)
    first = min(twice.iterdir())
    shutil.copy(first, twice / "again.dcm")
    assert code_of(twice) == "uneven-slices"
    damaged = write_series(tmp_path / "damaged", image)
    path = min(damaged.iterdir())
    path.write_bytes(path.read_bytes()[:-40])
    assert code_of(damaged) in ("bad-format", "truncated")
    path.write_bytes(b"text")
    assert code_of(damaged) == "bad-format"


def test_files_of_other_makers(tmp_path):
    pydicom = pytest.importorskip("pydicom", reason="needs pydicom, for its test files")
    from pydicom.data import get_testdata_file

    def folder_of(name):
        folder = tmp_path / Path(name).stem
        folder.mkdir()
        shutil.copy(get_testdata_file(name, download=False), folder)
        return folder

    kinds = ("", "_RLE", "_bigendian", "_implicit", "_jp2klossless", "_jpeg_ls_lossless")
    for name in ("CT_small.dcm", *(f"MR_small{kind}.dcm" for kind in kinds)):
        scan = nifti.load(folder_of(name))
        # The packed files hold the same picture.
        told = pydicom.dcmread(get_testdata_file(name if name.startswith("CT") else "MR_small.dcm", download=False))
        slope, inter = (float(getattr(told, f"Rescale{key}", n)) for key, n in (("Slope", 1), ("Intercept", 0)))
        np.testing.assert_array_equal(scan.voxels[0, :, :, 0], (told.pixel_array * slope + inter).T)
        x, y, z = map(float, told.ImagePositionPatient)
        np.testing.assert_allclose(scan.affine[:3, 3], [-x, -y, z], atol=1e-4)
        np.testing.assert_allclose(scan.spacing_mm[:2], list(map(float, told.PixelSpacing))[::-1], rtol=1e-5)
    refused = {"SC_rgb_rle.dcm": "not-grey", "examples_palette.dcm": "not-grey", "image_dfl.dcm": "unsupported-file"}
    refused |= dict.fromkeys(("rtplan.dcm", "MR_truncated.dcm", "test-SR.dcm"), "bad-format")
    refused |= {"rtdose.dcm": "unsupported-file"}
    assert {name: code_of(folder_of(name)) for name in refused} == refused


# Commands


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_phantom(tmp_path_factory.mktemp("formats") / "phantom", labelled=3, unlabelled=1)


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    return train(tmp_path_factory.mktemp("formats"), dataset, "run", max_steps=2)


def test_predict_writes_nifti_for_every_format_and_the_same_mask(run, dataset, tmp_path, monkeypatch, capsys):
    (scan,) = (dataset / "imagesTs").iterdir()
    image = sitk.ReadImage(str(scan))
    name = nifti.stem(scan)
    (tmp_path / "scans").mkdir()
    for ending in ("nrrd", "mha", "mhd"):
        sitk.WriteImage(image, str(tmp_path / "scans" / f"{ending}.{ending}"))
    sitk.WriteImage(image, str(tmp_path / f"{name}.nrrd"))
    series = write_series(tmp_path / "series", sitk.Cast(image, sitk.sitkInt16))
    sitk.WriteImage(sitk.Cast(image, sitk.sitkInt16), str(tmp_path / "series.nii.gz"))
    do = command_runner(monkeypatch, capsys)
    code, _, said = do(
        "predict", run, tmp_path / "scans", tmp_path / f"{name}.nrrd", series, "--output", tmp_path / "masks"
    )
    assert code == 0, said
    made = {path.name: nib.load(path) for path in (tmp_path / "masks").glob("*.nii.gz")}
    assert set(made) == {f"{each}.nii.gz" for each in ("nrrd", "mha", "mhd", name, "series")}
    code, _, said = do("predict", run, scan, tmp_path / "series.nii.gz", "--output", tmp_path / "plain")
    assert code == 0, said
    plain = {path.name: nib.load(path) for path in (tmp_path / "plain").glob("*.nii.gz")}
    for key, mask in made.items():
        expected = plain["series.nii.gz" if key.startswith("series") else scan.name]
        np.testing.assert_array_equal(mask.get_fdata(), expected.get_fdata())
        np.testing.assert_allclose(mask.affine, expected.affine, atol=1e-3)
    # Nothing of the header but geometry is in what is written.
    assert all(b"Secret" not in path.read_bytes() for path in (tmp_path / "masks").rglob("*") if path.is_file())
    (tmp_path / "scans" / "bad.mha").write_bytes(b"x")
    code, _, said = do("predict", run, tmp_path / "scans", "--output", tmp_path / "some")
    assert (code, "bad.mha: is no MetaImage file" in said) == (3, True), said


def test_a_list_names_them_for_check_and_train(dataset, tmp_path):
    rows = ["image,label"]
    for path in sorted((dataset / "labelsTr").iterdir()):
        for kind in ("images", "labels"):
            image = sitk.ReadImage(str(dataset / f"{kind}Tr" / path.name))
            sitk.WriteImage(image, str(tmp_path / f"{nifti.stem(path)}-{kind}.nrrd"))
        rows.append(f"{nifti.stem(path)}-images.nrrd,{nifti.stem(path)}-labels.nrrd")
    (tmp_path / "scans.csv").write_text("\n".join(rows))
    index = check_dataset(open_dataset(tmp_path / "scans.csv"))
    known = check_dataset(open_dataset(dataset))
    for case, facts in index.facts.items():
        assert facts.content == known.facts[case.removesuffix("-images")].content
    run = train(tmp_path, tmp_path / "scans.csv", "run", max_steps=1, objective=[{"loss": "dice"}])
    assert runs.validate(run).summary.mean_dice is not None


def test_a_list_names_the_folder_of_a_series(tmp_path):
    image = draw_image(np.random.default_rng(5), "int16")
    write_series(tmp_path / "series", image)
    (tmp_path / "scans.csv").write_text("image\nseries\n")
    index = check_dataset(open_dataset(tmp_path / "scans.csv"), to_train=False)
    assert index.facts["series"].shape == image.GetSize()


def test_voxels_beside_a_header_and_slices_in_a_folder_are_stamped_with_it(tmp_path):
    rng = np.random.default_rng(3)
    sitk.WriteImage(draw_image(rng, "int16"), str(tmp_path / "a.mhd"))
    write_series(tmp_path / "series", series_image(1))
    for scan, part in ((tmp_path / "a.mhd", tmp_path / "a.raw"), (tmp_path / "series", None)):
        part = part or sorted(scan.iterdir())[-1]
        before = stamps([scan])
        assert stamps([scan]) == before
        assert before[0][0] >= part.stat().st_size
        os.utime(part, ns=(1, 1))
        assert stamps([scan]) != before
    assert stamps([tmp_path / "none.mhd"]) == ((),)


def test_a_folder_of_scans_may_have_notes_but_no_scans_of_another_kind(tmp_path):
    sitk.WriteImage(draw_image(np.random.default_rng(4), "int16"), str(tmp_path / "a.nrrd"))
    (tmp_path / "notes.txt").write_text("of the scanner")
    assert nifti.itk_files_in(tmp_path) == [tmp_path / "a.nrrd"]
    (tmp_path / "b.nii.gz").write_bytes(b"")
    assert nifti.itk_files_in(tmp_path) == []
