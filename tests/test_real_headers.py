"""Scans that nibabel ships, from scanners and programs that nobody here chose: what is decided about each, and why."""

import sys
from pathlib import Path

import nibabel as nib
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
pytest.importorskip("SimpleITK", reason="needs SimpleITK, the oracle of grids")
from real_headers import decide

SHIPPED = Path(nib.__file__).parent / "tests" / "data"
# Accepted, with its warnings; or refused, with the reason.
DECISIONS = {
    "anatomical.nii": ("accepted", []),
    "example4d.nii.gz": ("accepted", []),  # once its fourth axis is declared to hold channels
    "example_nifti2.nii.gz": ("accepted", []),
    "functional.nii": ("accepted", []),
    "reoriented_anat_moved.nii": ("accepted", []),
    "standard.nii.gz": ("accepted", []),
    "resampled_anat_moved.nii": ("refused", ["not-finite"]),  # resampled beyond the field of view: NaN voxels
    "row_major.dconn.nii": ("refused", ["too-many-axes"]),  # a CIFTI-2 matrix of connections, no scan
}


@pytest.mark.parametrize("name", DECISIONS)
def test_a_scan_that_nibabel_ships_is_read_as_others_read_it_or_refused_for_a_reason(tmp_path, name):
    if not (SHIPPED / name).is_file():
        pytest.skip(f"this nibabel comes without {name}")
    about = decide(SHIPPED / name, tmp_path)
    assert (about["decision"], about["codes"]) == DECISIONS[name]
    if about["decision"] == "accepted":
        assert about["mask on the scan's grid"]
        assert about["nibabel apart"] < 1
        assert about["itk apart"] is None or about["itk apart"] < 1


def test_every_scan_of_this_nibabel_has_its_decision():
    if not SHIPPED.is_dir():
        pytest.skip("this nibabel comes without its scans")
    assert {path.name for path in SHIPPED.iterdir() if path.name.endswith((".nii", ".nii.gz"))} <= DECISIONS.keys()
