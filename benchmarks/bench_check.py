"""Time the data gate against its peers: loading a file, and looking at a whole dataset.

Load: ours reads to the last byte and verifies checksum, length and header; nibabel and MONAI's LoadImage do not.

Hashes: what a look at a scan of 512x512x128 takes to know its voxels again in any type and order of axes.

Check: ours against nnU-Net's integrity check and fingerprint, on one folder in nnU-Net's layout. First case by case,
both in one thread of a process that has imported everything; then as whole commands, both with all cores. Calls
alternate, and the figures are medians.

    python -m venv nnunet && nnunet/bin/pip install torch==2.13.0 && nnunet/bin/pip install nnunetv2==2.8.1
    python benchmarks/bench_check.py DATASET --nnunet nnunet/bin/python --cases 260 5000

DATASET is a Decathlon folder; more cases than it has are copies with one voxel changed.
"""

import argparse
import gzip
import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from itertools import cycle
from pathlib import Path
from statistics import median

import nibabel as nib
import numpy as np
from monai.transforms import LoadImage

from pipeline import nifti
from pipeline.data.content import hash_scan
from pipeline.data.inspection import Declared, examine_case
from pipeline.data.layouts import open_dataset
from pipeline.types import Case

# What nnUNetv2_extract_fingerprint --verify_dataset_integrity does to each case, without its pools of processes.
PEER = """
import sys, time
from pathlib import Path
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from nnunetv2.experiment_planning.verify_dataset_integrity import check_cases, verify_labels
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
folder = Path(sys.argv[1])
labels = sorted((folder / "labelsTr").iterdir())
start = time.perf_counter()
for label in labels:
    images = [str(folder / "imagesTr" / label.name.replace(".nii.gz", "_0000.nii.gz"))]
    assert verify_labels(str(label), SimpleITKIO, [0, 1, 2])
    assert check_cases(images, str(label), 1, SimpleITKIO)
    DatasetFingerprintExtractor.analyze_case(images, str(label), SimpleITKIO, int(10e7 // len(labels)))
print("SECONDS", time.perf_counter() - start)
"""
OURS = """
import sys, time
from pathlib import Path
from pipeline.data import check
from pipeline.data.layouts import read_dataset
check.THREADS = 1
start = time.perf_counter()
look = check.Check(read_dataset(Path(sys.argv[1])))
assert len(list(look)) == len(look.sound) and not look.problems, look.problems[:3]
print("SECONDS", time.perf_counter() - start)
"""


def alternate(rounds, **calls):
    """Call each in turn, several times over, and return the seconds of every call by name."""
    seconds = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            told = call()
            seconds[name].append(told if isinstance(told, float) else time.perf_counter() - start)
    return seconds


def ratio(ours, peer):
    return median(ours) / median(peer)


def time_loads(paths, rounds):
    """Load every file with each reader; milliseconds a file."""
    load_image = LoadImage(image_only=True)
    found = alternate(
        rounds,
        ours=lambda: [nifti.load(path).voxels for path in paths] and None,
        nibabel=lambda: [np.asanyarray(nib.load(path).dataobj) for path in paths] and None,
        monai=lambda: [load_image(path) for path in paths] and None,
    )
    each = {name: 1000 * median(values) / len(paths) for name, values in found.items()}
    return {f"{name}_ms": each[name] for name in each} | {
        "ours_to_nibabel": ratio(found["ours"], found["nibabel"]),
        "ours_to_monai": ratio(found["ours"], found["monai"]),
        "files": len(paths),
    }


def time_hashes(path, rounds):
    """Milliseconds of a look at one scan, and of the hashes of its voxels in it."""
    case, scan = Case(id="large", images=(path,), label=None, patient="large"), nifti.load(path)
    found = alternate(
        rounds,
        look=lambda: examine_case(case, Declared()) and None,
        hashes=lambda: hash_scan(scan.voxels[0], scan.affine) and None,
    )
    return {f"{name}_ms": 1000 * median(seconds) for name, seconds in found.items()} | {
        "share": ratio(found["hashes"], found["look"])
    }


def write_large(folder, shape=(240, 240, 155)):
    """Write a volume that packs as a brain scan does: smooth, noisy inside and empty outside."""
    rng = np.random.default_rng(0)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij", sparse=True)
    inside = x**2 + y**2 + z**2 < 0.6
    values = (600 + 300 * np.cos(5 * x) * np.cos(4 * y) * np.cos(3 * z) + rng.normal(0, 20, inside.shape)) * inside
    nib.save(nib.Nifti1Image(values.astype(np.int16), np.eye(4)), folder / "large.nii.gz")
    return folder / "large.nii.gz"


def write_cases(source, folder, count):
    """Write ``count`` labelled cases in nnU-Net's layout; a copy of a case gets another last voxel."""
    dataset = open_dataset(source)
    labelled = [case for case in dataset.cases if case.label]
    place = folder / "raw" / "Dataset001_Bench"
    for side in ("imagesTr", "labelsTr"):
        (place / side).mkdir(parents=True)
    for number, case in zip(range(count), cycle(labelled), strict=False):
        image = place / "imagesTr" / f"case_{number:05d}_0000.nii.gz"
        body = bytearray(gzip.decompress(case.images[0].read_bytes()))
        body[-struct.unpack_from("<h", body, 72)[0] // 8] ^= number // len(labelled)  # the last voxel's lowest byte
        image.write_bytes(gzip.compress(bytes(body), 6) if number >= len(labelled) else case.images[0].read_bytes())
        shutil.copy(case.label, place / "labelsTr" / f"case_{number:05d}.nii.gz")
    about = {"channel_names": {"0": "MRI"}, "numTraining": count, "file_ending": ".nii.gz"}
    about["labels"] = {name: value for value, name in dataset.labels.items()}
    (place / "dataset.json").write_text(json.dumps(about))
    return place


def run(*words, **environment):
    """Run a command to its end and return what it printed; a failure shows everything."""
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, env=os.environ | environment, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, words))} failed:\n{done.stdout}\n{done.stderr}")
    return done.stdout


def told_seconds(text):
    return float(text.rpartition("SECONDS")[2])


def time_checks(source, peer, count, rounds):
    """Look at one dataset with both; milliseconds a case inside a process, and seconds of a whole command."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        place = write_cases(source, folder, count)
        where = {f"nnUNet_{key}": str(folder / key) for key in ("raw", "preprocessed", "results")}
        (folder / "peer.py").write_text(PEER)
        (folder / "ours.py").write_text(OURS)
        inside = alternate(
            rounds,
            ours=lambda: told_seconds(run(sys.executable, folder / "ours.py", place)),
            nnunet=lambda: told_seconds(run(peer, folder / "peer.py", place, **where)),
        )
        command = Path(peer).with_name("nnUNetv2_extract_fingerprint")
        words = (command, "-d", 1, "--verify_dataset_integrity", "--clean", "-np", os.cpu_count())
        whole = alternate(
            rounds,
            ours=lambda: run(Path(sys.executable).with_name("fewmask"), "check", place, "--output", folder) and None,
            nnunet=lambda: run(*words, **where) and None,
        )
    return {
        "cases": count,
        **{f"{side}_ms_a_case": 1000 * median(seconds) / count for side, seconds in inside.items()},
        "times_faster_a_case": 1 / ratio(inside["ours"], inside["nnunet"]),
        **{f"{side}_command_s": median(seconds) for side, seconds in whole.items()},
        "command_share": ratio(whole["ours"], whole["nnunet"]),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--nnunet", type=Path, help="a python that has nnunetv2; without it only loading is timed")
    parser.add_argument("--cases", type=int, nargs="+", default=[260])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="few files, 20 cases and one round")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rounds = 1 if given.quick else given.rounds
    dataset = open_dataset(given.dataset)
    paths = [path for case in dataset.cases for path in (*case.images, case.label) if path][
        : 20 if given.quick else None
    ]
    with tempfile.TemporaryDirectory() as name:
        results = {
            "load": time_loads(paths, rounds),
            "load_large": time_loads([write_large(Path(name))], rounds),
            "hashes": time_hashes(write_large(Path(name), (512, 512, 128)), rounds),
            "check": [],
        }
    for count in ([20] if given.quick else given.cases) if given.nnunet else []:
        results["check"].append(time_checks(given.dataset, given.nnunet, count, rounds if count < 1000 else 1))
    results["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(results, indent=2))
    if given.json:
        given.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
