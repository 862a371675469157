"""Scans that other projects ship, through the check and a prediction: what is decided about each, and what others read.

usage: python benchmarks/real_headers.py FOLDER… [--json FILE]

Every .nii and .nii.gz file under the folders is read alone, as a scan without a mask. Accepted scans are segmented by a
threshold. Where nibabel and SimpleITK read a file, its affine must be theirs, and the mask must lie on it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813 - as its users do
import torch

from pipeline import nifti
from pipeline.data.codes import is_warning
from pipeline.data.inspection import Declared, examine_case
from pipeline.data.transforms import Grid
from pipeline.nifti.forms import corners_of
from pipeline.nifti.grids import corner_distances
from pipeline.prediction.predictor import Predictor
from pipeline.types import Case

ANY = Grid("RAS", (0.0, 0.0, 0.0))
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


class Threshold(torch.nn.Module):
    """Two classes: a voxel above the mean, of all channels together, is the second."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(()))

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        bright = windows.sum(dim=1, keepdim=True)
        return torch.cat([-bright, bright], dim=1)


def by_nibabel(path: Path) -> np.ndarray | None:
    try:
        return nib.load(path).affine
    except Exception:  # whatever it is, nibabel does not read the file
        return None


def by_itk(path: Path) -> np.ndarray | None:
    try:
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        axes = min(3, reader.GetDimension())
        affine = np.eye(4)
        directions = np.reshape(reader.GetDirection(), (reader.GetDimension(),) * 2)[:axes, :axes]
        affine[:axes, :axes] = directions * reader.GetSpacing()[:axes]
        affine[:axes, 3] = reader.GetOrigin()[:axes]
        return LPS @ affine
    except RuntimeError:
        return None


def apart(scan: nifti.Scan, other: np.ndarray | None) -> float | None:
    """Return how many times what float32 can hold another reader's affine lies apart at the worst corner."""
    if other is None or not np.isfinite(other).all():
        return None
    forms = scan.header.forms
    bound = 1e-3 + forms.precision_mm(corners_of(scan.shape)) / min(scan.spacing_mm)
    return float((corner_distances(scan.affine, other, scan.shape) / bound).max())


def decide(path: Path, folder: Path) -> dict[str, object]:
    about: dict[str, object] = {"file": path.name, "bytes": path.stat().st_size}
    facts, problems = examine_case(Case(id="a", images=(path,), label=None, patient="a"), Declared())
    if facts is None or any(not is_warning(problem) for problem in problems):
        # Channels may be declared, and then the file is read.
        undeclared = {problem.code for problem in problems if not is_warning(problem)} == {"undeclared-channels"}
        if undeclared:
            facts, problems = examine_case(
                Case(id="a", images=(path,), label=None, patient="a"), Declared(channels=nifti.load(path).channels)
            )
        about["declared"] = undeclared
    about["codes"] = sorted({problem.code for problem in problems})
    about["messages"] = sorted({problem.message for problem in problems})
    accepted = facts is not None and all(map(is_warning, problems))
    about["decision"] = "accepted" if accepted else "refused"
    about["nibabel reads"], about["itk reads"] = by_nibabel(path) is not None, by_itk(path) is not None
    if not accepted:
        return about
    scan = nifti.load(path)
    about["shape"] = list(scan.header.dims)
    about["forms"] = [scan.header.forms.qform_code, scan.header.forms.sform_code]
    about["nibabel apart"], about["itk apart"] = apart(scan, by_nibabel(path)), apart(scan, by_itk(path))
    labels = Predictor(
        network=Threshold(), grid=ANY, patch_size=(64, 64, 64), label_values=(0, 1), precision=torch.float32
    )([path])
    mask = folder / "mask.nii.gz"
    nifti.save_labels(mask, labels, scan)
    about["mask on the scan's grid"] = (
        nifti.load(mask).header.forms.affine.tolist() == scan.affine.tolist() and labels.shape == scan.shape
    )
    return about


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            {"from": root.name} | decide(path, Path(folder))
            for root in options.folders
            for path in sorted(path for path in root.rglob("*") if nifti.is_nifti(path) and path.is_file())
        ]
    groups = Counter((row["from"], row["decision"], ", ".join(row["codes"])) for row in rows)
    for (root, decision, codes), count in sorted(groups.items()):
        print(f"{root:24} {decision:9} {count:4}  {codes}")
    for reader in ("nibabel", "itk"):
        far = [row for row in rows if (row.get(f"{reader} apart") or 0) > 1]
        print(f"{reader}: {len(far)} accepted file(s) whose affine it reads otherwise")
        for row in far:
            print(f"  {row['from']}/{row['file']}: {row[f'{reader} apart']:.3g} times the bound, forms {row['forms']}")
    off = [row["file"] for row in rows if row.get("mask on the scan's grid") is False]
    print(f"{len(rows)} files, masks off their scan's grid: {off or 'none'}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
