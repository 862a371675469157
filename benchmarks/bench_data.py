"""An epoch of random patches, its time and memory: our cache against MONAI's PersistentDataset and CacheDataset.

    python benchmarks/bench_data.py --dataset data/Task04_Hippocampus --cases 260 5000
    python benchmarks/bench_data.py --quick

Every dataset is prepared alike (RAS, 1 mm, nonzero z-score) and read alike: one patch of 40 x 56 x 40 a case, two
thirds of them around labelled voxels, four a batch, nothing else augmented. MONAI's pipeline is at its best: the voxels
to centre on are found once, and metadata is dropped before the random part. Cases beyond those of the dataset are
copies with one voxel changed, so that each is a file of its own. Each measurement is a process of its own;
memory is what it and its workers hold in proportion (PSS), less what the libraries alone take, at the end of an epoch.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np

PATCH, BATCH = (40, 56, 40), 4
VARIANTS = ("ours", "PersistentDataset", "CacheDataset")


def replicate(source: Path, folder: Path, count: int) -> None:
    """Write ``count`` labelled cases as a plain folder, from those of a Decathlon dataset."""
    listing = json.loads((source / "dataset.json").read_text())["training"]
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for number in range(count):
        entry = listing[number % len(listing)]
        for kind, key in (("images", "image"), ("labels", "label")):
            image = nib.load(source / entry[key])
            voxels = np.asanyarray(image.dataobj).copy()
            if kind == "images":
                voxels[0, 0, 0] = number // len(listing)
            nib.save(nib.Nifti1Image(voxels, image.affine), folder / kind / f"case_{number:05d}.nii")


def pss_bytes() -> int:
    """Return the proportional memory of this process and its children."""
    pids = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


def ours(folder: Path, store: Path):
    """Return a function from workers to a loader of one epoch."""
    from pipeline.data.augmentation import AugmentationChain, Patch, standard
    from pipeline.data.cache import Cache
    from pipeline.data.check import Check
    from pipeline.data.layouts import read_dataset
    from pipeline.data.loaders import StepBatches, StepLoader, Stream
    from pipeline.data.transforms import Grid

    check = Check(read_dataset(folder))
    list(check)
    index = check.index()
    cache = Cache(folder=store, index=index, grid=Grid("RAS", (1.0, 1.0, 1.0)))
    list(cache.fill(index.dataset.cases))
    streams = {"labelled": Stream(index.dataset.cases, BATCH, 1)}
    unchanged = AugmentationChain(standard(), Patch((1.0, 1.0, 1.0)))
    batches = StepBatches(streams, cache.get, PATCH, unchanged, 0)
    steps = -(-len(index.dataset.cases) // BATCH)
    return lambda epoch, workers: StepLoader(
        batches, range(epoch * steps, (epoch + 1) * steps), workers, pin_memory=False
    )


def monai_pipeline():
    """Return MONAI's transforms for the same patches."""
    from monai import transforms as mt

    keys = ("image", "label")
    return mt.Compose(
        [
            mt.LoadImaged(keys),
            mt.EnsureChannelFirstd(keys),
            mt.Orientationd(keys, axcodes="RAS", labels=None),
            mt.Spacingd(keys, pixdim=(1, 1, 1), mode=("bilinear", "nearest"), padding_mode="border"),
            mt.NormalizeIntensityd("image", nonzero=True),
            mt.SpatialPadd(keys, PATCH),
            mt.EnsureTyped(keys, dtype=(np.float32, np.uint8), track_meta=False),
            mt.FgBgToIndicesd("label"),
            mt.RandCropByPosNegLabeld(
                keys, "label", PATCH, pos=2, neg=1, fg_indices_key="label_fg_indices", bg_indices_key="label_bg_indices"
            ),
            mt.SelectItemsd(keys),
        ]
    )


def monai_loader(kind: str, folder: Path, store: Path):
    """Return a function from workers to a loader of one epoch."""
    from monai.data import CacheDataset, DataLoader, PersistentDataset

    files = [
        {"image": str(path), "label": str(folder / "labels" / path.name)}
        for path in sorted((folder / "images").iterdir())
    ]
    if kind == "CacheDataset":
        data = CacheDataset(files, monai_pipeline(), progress=False, num_workers=None)
    else:
        data = PersistentDataset(files, monai_pipeline(), cache_dir=store)
        for number in range(len(files)):
            data[number]
    return lambda epoch, workers: DataLoader(data, batch_size=BATCH, shuffle=True, num_workers=workers)


def measure(variant: str, folder: Path, store: Path, epochs: int, workers: list[int]) -> dict[str, dict[str, float]]:
    """Prepare, then time epochs and measure memory for each number of workers."""
    import monai  # noqa: F401 - all variants stand on the same libraries
    import torch

    torch.set_num_threads(1)
    base, start = pss_bytes(), time.perf_counter()
    make = ours(folder, store) if variant == "ours" else monai_loader(variant, folder, store)
    result = {"prepare": {"s": time.perf_counter() - start}}
    for count in workers:
        times = [timed(make(epoch, count)) for epoch in range(epochs)]
        peak = max(pss_bytes() for n, _ in enumerate(make(epochs, count)) if n % 16 == 15) - base
        result[str(count)] = {"ms_per_sample": 1000 * statistics.median(times), "memory_mb": peak / 1e6}
    return result


def timed(loader) -> float:
    """Return the seconds a sample of one epoch, without starting the workers: the first batch is not counted."""
    samples, start = 0, 0.0
    for number, batch in enumerate(loader):
        image = batch.get("labelled", batch)["image"]
        assert tuple(image.shape[2:]) == PATCH
        if number == 0:
            start = time.perf_counter()
        else:
            samples += len(image)
    return (time.perf_counter() - start) / samples


def run_all(
    source: Path, count: int, epochs: int, workers: list[int], rounds: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Measure all variants in turn, each time in a process of its own; return medians over the rounds."""
    found: dict[str, list[dict[str, dict[str, float]]]] = {variant: [] for variant in VARIANTS}
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "dataset"
        replicate(source, folder, count)
        for _ in range(rounds):
            for variant in VARIANTS:
                words = ["--one", variant, str(folder), str(Path(work) / variant), str(epochs), *map(str, workers)]
                done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=True)
                found[variant].append(json.loads(done.stdout.splitlines()[-1]))
    return {
        # The first round prepares; later ones find what was prepared.
        variant: {
            key: {
                name: statistics.median(r[key][name] for r in (rs[:1] if key == "prepare" else rs))
                for name in rs[0][key]
            }
            for key in rs[0]
        }
        for variant, rs in found.items()
    }


def show(count: int, found: dict[str, dict[str, dict[str, float]]], workers: list[int]) -> None:
    """Print one table."""
    print(f"\n{count} cases: milliseconds a sample and megabytes, with {', '.join(map(str, workers))} workers")
    for variant, rows in found.items():
        cells = [f"{rows[str(n)]['ms_per_sample']:7.2f} ms {rows[str(n)]['memory_mb']:7.0f} MB" for n in workers]
        ratios = [f"{rows[str(n)]['ms_per_sample'] / found['ours'][str(n)]['ms_per_sample']:.1f}" for n in workers]
        took = f"prepared in {rows['prepare']['s']:.0f} s"
        print(f"  {variant:18} {' | '.join(cells)} | times ours: {', '.join(ratios)} | {took}")


def main() -> None:
    """Measure what the command line asks for."""
    if sys.argv[1:2] == ["--one"]:
        variant, folder, store, epochs, *workers = sys.argv[2:]
        Path(store).mkdir(exist_ok=True)
        print(json.dumps(measure(variant, Path(folder), Path(store), int(epochs), list(map(int, workers)))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, default=Path("data/Task04_Hippocampus"))
    parser.add_argument("--cases", type=int, nargs="+", default=[260, 5000])
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2, 4])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="80 cases of a phantom, one round")
    parser.add_argument("--json", type=Path, help="write the figures there")
    given = parser.parse_args()
    if given.quick:
        given.cases, given.rounds, given.epochs = [80], 1, 1
    with tempfile.TemporaryDirectory() as work:
        if given.quick:
            from pipeline.data.phantom import write_phantom

            given.dataset = Path(work) / "phantom"
            list(write_phantom(given.dataset, labelled=4, unlabelled=0))
        results = {}
        for count in given.cases:
            results[count] = run_all(given.dataset, count, given.epochs, given.workers, given.rounds)
            show(count, results[count], given.workers)
    if given.json:
        given.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
