"""DICOM segmentations: where pydicom alone finds each structure, what they tell and refer to, and what is refused."""

import shutil
from collections import defaultdict

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from pydicom.data import get_testdata_file
from runs_fixtures import command_runner, make_phantom, train
from scipy.spatial import KDTree
from series import series_image, write_series

import fewmask
from pipeline import nifti
from pipeline.errors import UserError
from pipeline.nifti import dicom_segmentation
from pipeline.nifti.dicom_segmentation import Segment, write_segmentation
from pipeline.runs.beside import Beside

STUDY = {"0020|000d": "1.2.3.1", "0020|0052": "1.2.3.2", "0010|0020": "P7"}
ORGAN = Segment(label=1, name="organ", values=(1,), colour="#e69f00")
TUMOUR = Segment(label=7, name="tumour", values=(7,), colour="#56b4e9")
WHOLE = Segment(label=2, name="whole", values=(1, 7), colour="#009e73")


def found_in(path):
    """Return the places in mm (left, back, up) of the voxels of each segment, by pydicom and its own description."""
    file = pydicom.dcmread(path)
    shared = file.SharedFunctionalGroupsSequence[0]
    orientation = np.reshape(shared.PlaneOrientationSequence[0].ImageOrientationPatient, (2, 3)).astype(float)
    row_mm, column_mm = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    frames = file.pixel_array.reshape(-1, file.Rows, file.Columns)
    places = defaultdict(list)
    for frame, about in zip(frames, file.PerFrameFunctionalGroupsSequence, strict=True):
        origin = np.array(about.PlanePositionSequence[0].ImagePositionPatient, float)
        rows, columns = np.nonzero(frame)
        here = origin + np.outer(columns * column_mm, orientation[0]) + np.outer(rows * row_mm, orientation[1])
        groups = about if "SegmentIdentificationSequence" in about else shared
        places[groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber].append(here)
    return file, {number: np.concatenate(each) for number, each in places.items()}


def assert_same_places(found, mask, affine):
    """The places are those of a mask's voxels by its affine, which counts to the right and to the front."""
    expected = nib.affines.apply_affine(affine, np.argwhere(mask)) * [-1, -1, 1]
    assert len(found) == len(expected)
    if len(found):
        assert KDTree(expected).query(found)[0].max() < 1e-3
        assert KDTree(found).query(expected)[0].max() < 1e-3


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("segments", [(ORGAN, TUMOUR), (WHOLE, TUMOUR), (TUMOUR,)])
def test_structures_lie_where_the_mask_has_them(tmp_path, seed, segments):
    folder = write_series(tmp_path / "series", series_image(seed), **STUDY)
    scan = nifti.load(folder)
    labels = np.random.default_rng(seed).choice([0, 1, 7], size=scan.shape, p=[0.8, 0.1, 0.1]).astype(np.uint8)
    write_segmentation(tmp_path / "seg.dcm", folder, labels, segments, {"model": "m"})
    file, places = found_in(tmp_path / "seg.dcm")
    assert [each.SegmentLabel for each in file.SegmentSequence] == [each.name for each in segments]
    for number, segment in enumerate(segments, 1):
        mask = np.isin(labels, segment.values)
        assert_same_places(places.get(number, np.empty((0, 3))), mask, scan.affine)
    shown = pydicom.dcmread(folder / sorted(path.name for path in folder.iterdir())[0])
    for name in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientName", "PatientID"):
        assert getattr(file, name) == getattr(shown, name), name
    assert (file.Modality, file.SOPClassUID.name) == ("SEG", "Segmentation Storage")


def test_a_mask_without_any_structure_is_a_segmentation_too(tmp_path):
    image = series_image(1)
    folder = write_series(tmp_path / "series", image, **STUDY)
    labels = np.zeros(image.GetSize(), np.uint8)
    write_segmentation(tmp_path / "seg.dcm", folder, labels, [ORGAN, TUMOUR], {})
    file, places = found_in(tmp_path / "seg.dcm")
    assert len(file.SegmentSequence) == 2
    assert not any(map(len, places.values()))


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm"])
def test_files_of_real_scanners(tmp_path, name):
    folder = tmp_path / "series"
    folder.mkdir()
    shutil.copy(get_testdata_file(name, download=False), folder)
    scan = nifti.load(folder)
    labels = np.zeros(scan.shape, np.uint8)
    labels[3:9, 20:24] = 1
    write_segmentation(tmp_path / "seg.dcm", folder, labels, [ORGAN], {"model": "m"})
    file, places = found_in(tmp_path / "seg.dcm")
    assert_same_places(places[1], labels, scan.affine)
    algorithm = file.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmName, algorithm.AlgorithmParameters) == ("Fewmask", "model=m")


def test_the_same_series_and_model_give_the_same_identifiers(tmp_path):
    folder = write_series(tmp_path / "series", series_image(2), **STUDY)
    labels = np.ones(nifti.load(folder).shape, np.uint8)
    uids = []
    for number, model in enumerate("aab"):
        write_segmentation(tmp_path / f"{number}.dcm", folder, labels, [ORGAN], {"model": model})
        file = pydicom.dcmread(tmp_path / f"{number}.dcm")
        uids.append((file.SOPInstanceUID, file.SeriesInstanceUID))
    assert uids[0] == uids[1] != uids[2]
    assert len({*uids[0], *uids[2]}) == 4


def test_headers_that_say_too_little_are_named(tmp_path):
    folder = write_series(tmp_path / "series", series_image(3))  # Each of its files is of a study of its own.
    labels = np.ones(nifti.load(folder).shape, np.uint8)
    with pytest.raises(UserError, match="headers that a DICOM segmentation cannot refer to"):
        write_segmentation(tmp_path / "seg.dcm", folder, labels, [ORGAN], {})
    assert not (tmp_path / "seg.dcm").exists()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_phantom(tmp_path_factory.mktemp("phantom") / "data", labelled=4, unlabelled=1)


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    return train(tmp_path_factory.mktemp("segmentations"), dataset, "run", max_steps=2)


@pytest.fixture
def series(dataset, tmp_path):
    (scan,) = (dataset / "imagesTs").iterdir()
    return write_series(tmp_path / "series", sitk.Cast(sitk.ReadImage(str(scan)), sitk.sitkInt16), **STUDY)


def test_predict_writes_one_beside_each_mask_and_goes_on(run, series, tmp_path, monkeypatch, capsys):
    do = command_runner(monkeypatch, capsys)
    words = ("predict", run, series, "--output", tmp_path / "masks")
    assert do(*words)[0] == 0
    code, _, said = do(*words, "--dicom-seg")
    assert code == 0, said
    mask = nib.load(tmp_path / "masks" / "series.nii.gz")
    assert set((tmp_path / "masks" / "dicom-seg").iterdir()) == {tmp_path / "masks" / "dicom-seg" / "series.dcm"}
    file, places = found_in(tmp_path / "masks" / "dicom-seg" / "series.dcm")
    for number, label in enumerate((1, 2), 1):
        assert_same_places(places.get(number, np.empty((0, 3))), mask.get_fdata() == label, mask.affine)
    # Whose series it is belongs in it, and in nothing else.
    assert str(file.PatientName) == "Secret^Name"
    others = [path for path in (tmp_path / "masks").iterdir() if path.is_file()]
    assert all(b"Secret" not in path.read_bytes() for path in others)
    before = (tmp_path / "masks" / "dicom-seg" / "series.dcm").stat().st_mtime_ns
    assert do(*words, "--dicom-seg")[0] == 0
    assert (tmp_path / "masks" / "dicom-seg" / "series.dcm").stat().st_mtime_ns == before


def test_scans_that_are_no_series_are_refused_before_anything_is_written(run, series, dataset, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="is no folder of a DICOM series"):
        fewmask.predict(run, [series, dataset / "imagesTs"], tmp_path / "masks", beside=Beside(dicom_seg=True))
    monkeypatch.setattr(dicom_segmentation, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'fewmask\[dicom\]'"):
        fewmask.predict(run, [series], tmp_path / "masks", beside=Beside(dicom_seg=True))
    assert not (tmp_path / "masks").exists()
