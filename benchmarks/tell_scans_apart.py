"""Which scans without masks are left out of a training: real ones among as many false ones, by kind.

    python benchmarks/tell_scans_apart.py --data ../shared/data
    python benchmarks/tell_scans_apart.py --data ../shared/data --quick --json FILE

For hearts and hippocampi, with 3, 5 and 10 patients with masks and twenty draws each: 4, 12 or half of all other scans
are mixed with as many that are noise, smoothed noise, their own voxels shuffled, their own intensities inverted,
phantoms, or of the other organ. The rows are the shares that are kept.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import gaussian_filter

from pipeline import nifti
from pipeline.data.appearance import Appearance, describe, unlike
from pipeline.data.phantom import write_phantom

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

FOLDERS = {"hearts": "ACDC/images", "hippocampi": "Task04_Hippocampus/imagesTr"}
DRAWS = 20
FEW = (4, 12)
Scans = dict[str, list[Appearance]]


def falsified(voxels: NDArray[Any], rng: np.random.Generator) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield a scan and what is made of it, by name."""
    noise = rng.normal(100, 20, voxels.shape)
    yield "real", voxels
    yield "noise", noise
    yield "smoothed noise", gaussian_filter(noise, rng.uniform(0.5, 3))
    yield "shuffled", rng.permutation(voxels.ravel()).reshape(voxels.shape)
    yield "inverted", voxels.max() - voxels.astype(np.float64) + 1


def describe_folder(folder: Path, every: int, rng: np.random.Generator) -> dict[str, Scans]:
    """Return the appearances of a folder's scans and of what is made of them, by kind and name of the scan."""
    found: dict[str, Scans] = {}
    for path in sorted(folder.glob("*.nii.gz"))[::every]:
        scan = nifti.load(path)
        for kind, voxels in falsified(scan.voxels[0], rng):
            described = describe(voxels, scan.affine)
            assert described is not None
            found.setdefault(kind, {})[path.name.removesuffix(".nii.gz")] = [described]
    return found


def patient_of(name: str) -> str:
    """Return the patient of a scan, of whom there are several."""
    return name.split("_frame")[0]


def shares(real: Scans, false: Scans, patients: int, number: int | None, draw: int) -> tuple[float, float]:
    """Return the shares of real and of false scans that are kept in a mixture of so many of each, None for half."""
    rng = np.random.default_rng([patients, draw])
    everyone = sorted({patient_of(name) for name in real})
    chosen = set(rng.choice(everyone, patients, replace=False))
    known = [scan for name, scan in real.items() if patient_of(name) in chosen]
    others = [scan for name, scan in real.items() if patient_of(name) not in chosen]
    others = [others[place] for place in rng.permutation(len(others))[: number or len(others) // 2]]
    wrong = list(false.values())
    wrong = [wrong[place] for place in rng.permutation(len(wrong))[: len(others)]]
    kept = [not odd for odd in unlike(known, [*others, *wrong])]
    return float(np.mean(kept[: len(others)])), float(np.mean(kept[len(others) :]))


def main() -> None:
    """Print a row for each dataset and number of patients."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds both datasets")
    parser.add_argument("--quick", action="store_true", help="a fourth of the scans")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    every = 4 if given.quick else 1
    found = {name: describe_folder(given.data / folder, every, rng) for name, folder in FOLDERS.items()}
    with tempfile.TemporaryDirectory() as folder:
        list(write_phantom(Path(folder), labelled=1, unlabelled=23, seed=0))
        phantoms = describe_folder(Path(folder) / "imagesTs", 1, rng)["real"]
    rows = []
    for name, kinds in found.items():
        other = next(each for each in found if each != name)
        false = {kind: scans for kind, scans in kinds.items() if kind != "real"}
        false |= {"phantoms": phantoms, other: found[other]["real"]}
        for patients in (3, 5, 10):
            for number, (kind, scans) in itertools.product((*FEW, None), false.items()):
                draws = [shares(kinds["real"], scans, patients, number, draw) for draw in range(DRAWS)]
                row = {"dataset": name, "patients": patients, "others": number, "false": kind}
                row["real"], row["wrong"] = np.mean(draws, axis=0)
                rows.append(row)
                told = f"{name:11} {patients:2} patients, {number or 'half':4} others, {kind:15}"
                print(f"{told} real kept {row['real']:.3f}, false kept {row['wrong']:.3f}")
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
