"""Scans of a tumour within a tumour: labels 2 around 1 around 4, as in BraTS, of which regions are unions."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

REGIONS = {"whole": [1, 2, 4], "core": [1, 4], "enhancing": 4}
# What nnU-Net's dataset.json says of the same.
NNUNET = {"labels": {"background": 0} | REGIONS, "regions_class_order": [2, 1, 4]}
PLAIN = {"labels": {"0": "background", "1": "necrosis", "2": "oedema", "4": "active"}}


def draw(rng: np.random.Generator, shape: tuple[int, int, int] = (20, 20, 12)) -> tuple[np.ndarray, np.ndarray]:
    """Return a scan and its mask."""
    places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1) - np.array(shape) / 2
    away = np.linalg.norm((places - rng.uniform(-1.5, 1.5, 3)) / (1, 1, 0.6), axis=-1)
    size = rng.uniform(6.5, 8.0)
    mask = np.select([away < 0.4 * size, away < 0.7 * size, away < size], [4, 1, 2], 0).astype(np.uint8)
    scan = np.select([mask == 4, mask == 1, mask == 2], [5.0, 3.5, 2.0], 1.0) + rng.normal(0, 0.3, shape)
    return scan.astype(np.float32), mask


def write_nested(
    folder: Path, labelled: int = 4, unlabelled: int = 0, about: dict | None = None, seed: int = 0
) -> Path:
    """Write a dataset in nnU-Net's layout, or a list if scans have no mask; by default it asks for the regions."""
    rng = np.random.default_rng(seed)
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for number in range(labelled + unlabelled):
        scan, mask = draw(rng)
        nib.save(nib.Nifti1Image(scan, np.eye(4)), folder / "imagesTr" / f"case_{number:02d}_0000.nii.gz")
        if number < labelled:
            nib.save(nib.Nifti1Image(mask, np.eye(4)), folder / "labelsTr" / f"case_{number:02d}.nii.gz")
    told: dict[str, Any] = {"channel_names": {"0": "MR"}, "numTraining": labelled}
    if unlabelled:
        cases = [f"case_{number:02d}" for number in range(labelled + unlabelled)]
        entries = [{"image": f"imagesTr/{case}_0000.nii.gz", "label": f"labelsTr/{case}.nii.gz"} for case in cases]
        told["training"] = entries[:labelled]
        told["unlabeled"] = [{"image": entry["image"]} for entry in entries[labelled:]]
    else:
        told["file_ending"] = ".nii.gz"
    (folder / "dataset.json").write_text(json.dumps(told | (NNUNET if about is None else about)))
    return folder
