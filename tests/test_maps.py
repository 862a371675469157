"""Probabilities and entropy beside the mask: against the plain way, and on the scan's own grid."""

import gzip

import nibabel as nib
import numpy as np
import pytest
import torch
from plain_prediction import plain
from test_sweep import Pointwise, draw_scan, draw_segmenter

from pipeline.data.transforms import Grid
from pipeline.files import WriteError
from pipeline.nifti import save_labels
from pipeline.nifti.volume import load
from pipeline.prediction import deciding
from pipeline.prediction.maps import Maps, entropy_of
from pipeline.prediction.predictor import Predictor

sitk = pytest.importorskip("SimpleITK", reason="needs SimpleITK")


def mapped(segmenter, scan, folder, **asked):
    """Predict a scan with maps; return its labels, and the maps as nibabel images."""
    maps = Maps(segmenter.label_values, scan.shape, folder, **{"probabilities": True, "entropy": True} | asked)
    labels = segmenter.segment([scan], None, maps)
    if maps.probabilities:
        maps.write_probabilities(folder / "p.nii.gz", scan)
    if maps.entropy:
        maps.write_entropy(folder / "e.nii.gz", scan)
    return labels, *(nib.load(folder / name) if (folder / name).exists() else None for name in ("p.nii.gz", "e.nii.gz"))


@pytest.mark.parametrize("seed", range(16))
def test_maps_are_those_of_the_plain_way_and_agree_with_the_mask(make_scan, tmp_path, monkeypatch, seed):
    rng = np.random.default_rng(seed)
    scan, segmenter = draw_scan(rng, make_scan, 20), draw_segmenter(rng)
    monkeypatch.setattr(deciding, "BLOCK", int(rng.choice([50, 1000, 1 << 20])))
    labels, stored, doubt = mapped(segmenter, scan, tmp_path)
    p = torch.from_numpy(plain(segmenter).segment([scan]).logits).softmax(0).numpy()
    found = np.asanyarray(stored.dataobj)
    assert stored.get_data_dtype() == np.uint8
    assert found.shape == (*scan.shape, len(p))
    np.testing.assert_allclose(np.moveaxis(found, 3, 0), p, atol=0.5 / 255 + 1e-4)
    entropy = -(p * np.log(np.maximum(p, 1e-38))).sum(0) / np.log(len(p))
    np.testing.assert_allclose(np.asanyarray(doubt.dataobj), entropy, atol=0.5 / 255 + 2e-3)
    # A byte is no smaller for a larger probability, so that no other label has a larger byte than the mask's.
    own = segmenter.segment([scan]) if not getattr(segmenter, "postprocessing", ()) else None
    if own is not None:
        np.testing.assert_array_equal(labels, own)
        place = np.searchsorted(np.array(segmenter.label_values), labels)
        np.testing.assert_array_equal(np.take_along_axis(found, place[..., None], 3)[..., 0], found.max(axis=3))


def small_predictor():
    return Predictor(
        network=Pointwise(),
        grid=Grid("RAS", (1.3, 0.9, 1.1)),
        patch_size=(16, 12, 16),
        label_values=tuple(range(7)),
        precision=torch.float32,
    )


@pytest.mark.parametrize("seed", range(12))
def test_maps_lie_where_the_mask_lies(make_scan, tmp_path, seed):
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0] * rng.choice([0.5, 1.0, 2.3], 3)
    affine = np.block([[turn, rng.normal(size=(3, 1)) * 50], [np.zeros((1, 3)), 1]])
    kind = nib.Nifti1Image if seed % 3 else nib.Nifti2Image
    image = kind(rng.gamma(2, 50, size=tuple(rng.integers(2, 20, 3))).astype(np.float32), affine)
    image.set_qform(affine, int(rng.integers(0, 3)))
    image.set_sform(affine, int(rng.integers(1, 4)))
    nib.save(image, tmp_path / "scan.nii.gz")
    scan = load(tmp_path / "scan.nii.gz")
    labels, stored, doubt = mapped(small_predictor(), scan, tmp_path)
    save_labels(tmp_path / "mask.nii.gz", labels, scan)
    mask = nib.load(tmp_path / "mask.nii.gz")
    for found in (stored, doubt):
        np.testing.assert_array_equal(found.affine, mask.affine)
        for name in ("qform_code", "sform_code", "quatern_b", "qoffset_x", "srow_x", "xyzt_units"):
            np.testing.assert_array_equal(found.header[name], mask.header[name])
        np.testing.assert_array_equal(found.header["pixdim"][:4], mask.header["pixdim"][:4])
    assert doubt.shape == mask.shape == stored.shape[:3]
    if seed % 3:
        ours, theirs = (sitk.ReadImage(str(tmp_path / name)) for name in ("e.nii.gz", "mask.nii.gz"))
        for what in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
            assert getattr(ours, what)() == getattr(theirs, what)()
        volume = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "p.nii.gz")))  # labels, Z, Y, X
        np.testing.assert_allclose(volume.T, np.asanyarray(stored.dataobj), atol=1e-6)


def test_what_is_not_asked_for_is_not_held(make_scan, tmp_path):
    scan = draw_scan(np.random.default_rng(0), make_scan, 16)
    _, stored, doubt = mapped(small_predictor(), scan, tmp_path, entropy=False)
    assert (stored is not None, doubt) == (True, None)
    with gzip.open(tmp_path / "p.nii.gz") as stream:
        assert len(stream.read()) == 352 + 7 * np.prod(scan.shape)


def test_a_slice_has_maps_of_a_slice(make_scan, tmp_path):
    scan = load(make_scan("flat.nii.gz", np.random.default_rng(0).gamma(2, 50, size=(18, 21)).astype(np.float32)))
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3, padding=1))
    predictor = Predictor(
        network=network,
        grid=Grid("RAS", (0.0, 0.0, 0.0)),
        patch_size=(16, 16),
        label_values=(0, 1, 2),
        precision=torch.float32,
    )
    _, stored, doubt = mapped(predictor, scan, tmp_path)
    assert (stored.shape, doubt.shape) == ((18, 21, 1, 3), (18, 21))


def test_disk_that_fails_is_told_with_what_was_needed(make_scan, tmp_path, monkeypatch):
    class Full:
        def write(self, _):
            raise OSError(28, "No space left on device")

    scan = draw_scan(np.random.default_rng(0), make_scan, 16)
    maps = Maps(tuple(range(7)), scan.shape, tmp_path, probabilities=True, entropy=False)
    maps._spool = Full()
    with pytest.raises(WriteError, match="No space left"):
        small_predictor().segment([scan], None, maps)


def test_entropy_is_0_to_1():
    assert entropy_of(np.ones((1, 2), np.float32)).tolist() == [0, 0]
    assert entropy_of(np.full((4, 1), 0.25, np.float32)).tolist() == [1]
    assert entropy_of(np.eye(3, dtype=np.float32)).tolist() == [0, 0, 0]
