"""What a prediction holds and how long it takes, file to file: ours, the plain way, and MONAI's.

    python benchmarks/bench_predict.py --quick
    python benchmarks/bench_predict.py --whole 5 --rows 30-classes hippocampus
    python benchmarks/bench_predict.py --rows 100-classes 3-classes --ways ours --json results.json

A row is a scan, a network and a window; a way predicts it in a process of its own, alone. Peaks are of ``ru_maxrss``,
above that of the same process once it has imported all libraries and built the networks. Beside the seconds stand those
of the processor, of all threads, which other programs change less. The networks are small: a large one would add the
same time and memory to every way.

With ``--whole N`` a row is the time of whole commands instead, ``fewmask predict CHECKPOINT SCAN --output MASK`` beside
a script of MONAI's transforms, N times in turn, from the start of the interpreter to its end, and the medians of both.
The network is the same small SegResNet, from the same weights; where the processor has bfloat16, ours in that too.

- ``ours``: what ``fewmask predict`` does with a scan: ``examine``, ``load``, ``Predictor`` or ``Ensemble``,
  ``save_labels``. Beside its peak stands what ``Footprint`` says, with the unpacked scan.
- ``plain``: every class of the whole scan at once, the slow reference of the tests (``tests/plain_prediction.py``).
- ``monai``: ``LoadImaged``, ``Orientationd``, ``Spacingd``, ``NormalizeIntensityd``, ``SlidingWindowInferer``,
  ``Invertd``, ``AsDiscreted`` and ``SaveImaged``, as MONAI's bundles have it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
# Of the network of whole commands.
SEGRESNET = {"init_filters": 8, "blocks_down": (1, 1), "blocks_up": (1,)}
WAYS = ("ours", "plain", "monai")
# What a way has to say once it is done.
Told = Callable[[], dict[str, float]]


@dataclass(frozen=True)
class Row:
    """A scan and what segments it."""

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    target_mm: tuple[float, float, float]
    classes: int
    patch: tuple[int, int, int]
    mirrors: tuple[int, ...] = ()
    features: int = 8
    members: int = 1
    goal_gb: float | None = None


ONE_MM = (1.0, 1.0, 1.0)
ROWS = {
    "100-classes": Row((384,) * 3, ONE_MM, ONE_MM, 100, (128,) * 3, (0, 1, 2), 16, goal_gb=4.5),
    "3-classes": Row((512, 512, 600), (0.8, 0.8, 1.0), (1.0, 1.0, 1.5), 3, (128,) * 3, goal_gb=3.0),
    "30-classes": Row((256,) * 3, ONE_MM, (1.5, 1.5, 1.5), 30, (96,) * 3, goal_gb=5.65 / 5),
    "30-classes-own-grid": Row((256,) * 3, ONE_MM, ONE_MM, 30, (96,) * 3, goal_gb=5.65 / 5),
    "30-classes-smaller": Row((192, 192, 160), ONE_MM, (1.5, 1.5, 1.5), 30, (96,) * 3),
    "60-classes": Row((256,) * 3, ONE_MM, (1.5, 1.5, 1.5), 60, (96,) * 3),
    "one-fold": Row((256, 256, 200), ONE_MM, (1.2, 1.2, 1.2), 5, (96,) * 3, (0, 1, 2), 32),
    "five-folds": Row((256, 256, 200), ONE_MM, (1.2, 1.2, 1.2), 5, (96,) * 3, (0, 1, 2), 32, members=5),
    "hippocampus": Row((36, 50, 35), ONE_MM, ONE_MM, 3, (40, 56, 40), (0,)),
    "quick": Row((64, 64, 48), ONE_MM, (1.5, 1.5, 1.5), 12, (32,) * 3, (0,), goal_gb=1.0),
    "quick-whole": Row((96, 96, 64), ONE_MM, (1.5, 1.5, 1.5), 30, (48,) * 3, (0,)),
    "quick-folds": Row((64, 64, 48), ONE_MM, (1.5, 1.5, 1.5), 5, (32,) * 3, members=3),
}


def network_of(row: Row, seed: int = 0) -> Any:
    """Return a small network with a last layer of one voxel: a convolution, a norm and the layer."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    body = nn.Conv3d(1, row.features, 3, padding=1)
    return nn.Sequential(body, nn.LeakyReLU(inplace=True), nn.Conv3d(row.features, row.classes, 1)).eval()


def predictors(row: Row) -> list[Any]:
    """Return one predictor of ours a member."""
    import torch

    from pipeline.data.transforms import Grid
    from pipeline.prediction.predictor import Predictor

    values = tuple(range(row.classes))
    return [
        Predictor(
            network=network_of(row, seed),
            grid=Grid("RAS", row.target_mm),
            patch_size=row.patch,
            label_values=values,
            precision=torch.float32,
            mirrors=row.mirrors,
        )
        for seed in range(row.members)
    ]


def segmenter(row: Row) -> Any:
    """Return the predictor, or the ensemble of the members."""
    from pipeline.prediction.predictor import Ensemble

    members = predictors(row)
    return members[0] if row.members == 1 else Ensemble(tuple(members))


def ours(row: Row, scan: Path, mask: Path) -> Told:
    """Predict as ``fewmask predict`` does."""
    from pipeline.data.examining import examine
    from pipeline.data.inspection import Declared
    from pipeline.nifti.volume import load, save_labels
    from pipeline.types import Case

    before, peaks = peak_bytes(), {}
    examine(Case(id="scan", images=(scan,), label=None, patient=""), Declared(channels=1))
    peaks["peak_of_check_gb"] = (peak_bytes() - before) / 1e9
    loaded = load(scan)
    labels = segmenter(row).segment([loaded])
    peaks["peak_of_segmenting_gb"] = (peak_bytes() - before) / 1e9
    save_labels(mask, labels, loaded)
    return lambda: peaks | formula(row, loaded)


def formula(row: Row, loaded: Any) -> dict[str, float]:
    """Return what the formula says, with the unpacked scan."""
    told = segmenter(row).footprint(loaded.header.forms, 1)
    about = {f"formula_{name}_gb": size / 1e9 for name, size in asdict(told).items()}
    return about | {"formula_gb": (told.total + len(loaded.body)) / 1e9}


def plain(row: Row, scan: Path, mask: Path) -> Told:
    """Predict with every class of the whole scan at once."""
    from plain_prediction import plain as plainly

    from pipeline.nifti.volume import load, save_labels

    loaded = load(scan)
    save_labels(mask, plainly(segmenter(row)).segment([loaded]).labels, loaded)
    return dict


def with_monai(row: Row, scan: Path, mask: Path, network: Any = None) -> Told:
    """Predict with MONAI's dictionary transforms, one network."""
    import torch
    from monai import transforms
    from monai.inferers import SlidingWindowInferer

    before = transforms.Compose(
        [
            transforms.LoadImaged("image", ensure_channel_first=True),
            transforms.Orientationd("image", axcodes="RAS", labels=None),
            transforms.Spacingd("image", pixdim=row.target_mm, mode="bilinear"),
            transforms.NormalizeIntensityd("image", nonzero=True),
        ]
    )
    after = transforms.Compose(
        [
            transforms.Invertd("logits", before, orig_keys="image", nearest_interp=False, to_tensor=True),
            transforms.AsDiscreted("logits", argmax=True),
            transforms.SaveImaged(
                "logits",
                output_dir=mask.parent,
                output_postfix="monai",
                output_dtype="uint8",
                separate_folder=False,
                print_log=False,
            ),
        ]
    )
    network = network or network_of(row)
    inferer = SlidingWindowInferer(row.patch, 4, 0.5, "gaussian")

    def mirrored(windows: Any) -> Any:
        axes = [axis + 2 for axis in row.mirrors]
        images = [[axis for n, axis in enumerate(axes) if chosen >> n & 1] for chosen in range(1 << len(axes))]
        total = network(windows)
        for image in images[1:]:
            total += network(windows.flip(image)).flip(image)
        return total / len(images)

    with torch.no_grad():
        data = before({"image": str(scan)})
        data["logits"] = inferer(data["image"][None], mirrored)[0]
        after(data)
    return dict


DOES = {"ours": ours, "plain": plain, "monai": with_monai}


def peak_bytes() -> int:
    """Return the most that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def child(way: str, name: str, scan: Path, mask: Path) -> None:
    """Predict once and say what it took."""
    libraries = ("monai.inferers", "monai.transforms", "nibabel", "pipeline.prediction.predictor", "plain_prediction")
    for library in (*libraries, "pipeline.data.examining"):
        importlib.import_module(library)
    row = ROWS[name]
    network = network_of(row)
    network(network[0].weight.new_zeros(1, 1, 16, 16, 16))  # What PyTorch sets up once.
    before, began, computed = peak_bytes(), time.perf_counter(), time.process_time()
    about = DOES[way](row, scan, mask)
    spent = {"seconds": time.perf_counter() - began, "processor_s": time.process_time() - computed}
    found = spent | {"peak_gb": (peak_bytes() - before) / 1e9}
    print("RESULT " + json.dumps(found | about()))


def save_model(row: Row, folder: Path, precision: str = "float32") -> Path:
    """Write a checkpoint of a small SegResNet with drawn weights, and return it."""
    import torch

    from pipeline.checkpoints import save_checkpoint
    from pipeline.decisions import NONE
    from pipeline.networks import NETWORKS
    from pipeline.planning.settings import Settings
    from pipeline.runs.checkpoint_facts import about_training
    from pipeline.types import Task

    data = {"dimensions": 3, "orientation": "RAS", "spacing_mm": row.target_mm, "patch_size": row.patch}
    data |= {"normalization": ({"scheme": "zscore"},), "accumulate": 1, "units": 1, "workers": 0}
    data |= {"resident": False, "batch_size": 1, "unlabelled_batch_size": 1}
    flips = {"flip_axes": row.mirrors, "rotation_degrees": 0.0, "scaling": 0.0, "elastic_mm": 0.0}
    network = {"name": "segresnet", "options": SEGRESNET, "members": 1, "recompute": False}
    settings = Settings.model_validate(
        {
            "dataset": Path(),
            "device": "cpu",
            "max_steps": 1,
            "precision": precision,
            "data": data,
            "network": network | {"memory_format": "contiguous"},
            "augmentation": flips,
            "objective": ({"loss": "dice"},),
            "regions": None,
            "postprocessing": (),
        }
    )
    torch.manual_seed(0)
    built = NETWORKS.build("segresnet", SEGRESNET, spatial_dims=3, in_channels=1, out_channels=row.classes)
    task = Task({n: f"label {n}" for n in range(row.classes)}, ("image",))
    state = {"step": 1, "best": None, "network": built.state_dict()}
    return save_checkpoint(folder, "last", about_training(settings, NONE, task) | state)


def monai_alone(name: str, scan: Path, mask: Path, weights: Path) -> None:
    """Predict with MONAI and nothing of ours, from the same weights."""
    import torch
    from monai.networks.nets import SegResNet

    row = ROWS[name]
    network = SegResNet(3, out_channels=row.classes, **SEGRESNET).eval()
    network.load_state_dict(torch.load(weights, weights_only=True)["network"])
    with_monai(row, scan, mask, network)


def compare_whole(name: str, folder: Path, times: int) -> dict[str, Any]:
    """Run the commands in turn, and return the medians of their seconds and the ratios."""
    from pipeline.planning.devices import find_hardware

    row = ROWS[name]
    scan = folder / f"{name}.nii.gz"
    make_scan(row, scan)
    weights = save_model(row, folder / f"model-{name}")
    models = {"ours": weights}
    if "bfloat16" in find_hardware("cpu").precisions:  # Then a training chooses it where it is faster.
        models["ours_bfloat16"] = save_model(row, folder / f"model-{name}-bfloat16", "bfloat16")
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in (*models, "monai")}
    for number in range(times):
        masks = folder / f"{name}-{number}"
        masks.mkdir()
        commands = {"monai": [__file__, "--alone", name, str(scan), str(masks / "mask.nii.gz"), str(weights)]}
        for way, model in models.items():
            target = str(masks / f"{way}.nii.gz")
            commands[way] = [str(ROOT / "run.py"), "predict", str(model), str(scan), "--output", target, "--quiet"]
        # Whoever is first may find the disk cold.
        for way, words in list(commands.items())[:: 1 if number % 2 == 0 else -1]:
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            began = time.perf_counter()
            subprocess.run([sys.executable, *words], check=True, capture_output=True)
            spent = time.perf_counter() - began
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            found[way].append((spent, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime))
    scan.unlink()
    medians = {way: [statistics.median(each) for each in zip(*runs, strict=True)] for way, runs in found.items()}
    result: dict[str, Any] = {"row": name, "times": times}
    for n, what in enumerate(("seconds", "processor_s")):
        result |= {f"{way}_{what}": median[n] for way, median in medians.items()}
        result |= {f"ratio_of_{what}_{way}": medians["monai"][n] / medians[way][n] for way in models}
    return result


def make_scan(row: Row, path: Path) -> None:
    """Write a scan of soft balls in noise."""
    import nibabel as nib
    import numpy as np

    rng = np.random.default_rng(0)
    voxels = np.empty(row.shape, np.int16)
    for z in range(row.shape[2]):
        voxels[..., z] = rng.normal(300 + 200 * np.sin(z / 20), 60, row.shape[:2])
    voxels[:10] = 0
    nib.save(nib.Nifti1Image(voxels, np.diag([*row.spacing_mm, 1.0])), path)


def measure(way: str, name: str, scan: Path) -> dict[str, Any]:
    """Predict in a process of its own."""
    with tempfile.TemporaryDirectory(dir=scan.parent) as folder:
        words = [sys.executable, __file__, "--child", way, name, str(scan), str(Path(folder) / "mask.nii.gz")]
        done = subprocess.run(words, capture_output=True, text=True)
    found = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not found:
        return {"row": name, "way": way, "failed": f"exit {done.returncode}: {done.stderr.strip()[-300:]}"}
    return {"row": name, "way": way, "goal_gb": ROWS[name].goal_gb, **json.loads(found[0].removeprefix("RESULT "))}


def main() -> None:
    """Measure rows one after the other, each way once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two small rows, to see that all of it runs")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=[name for name in ROWS if "quick" not in name])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["ours"])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--whole", type=int, metavar="N", help="time whole commands, N times in turn")
    parser.add_argument("--child", nargs=4)
    parser.add_argument("--alone", nargs=4)
    given = parser.parse_args()
    if given.alone:
        name, *paths = given.alone
        monai_alone(name, *map(Path, paths))
        return
    if given.child:
        way, name, scan, mask = given.child
        child(way, name, Path(scan), Path(mask))
        return
    rows, ways = (("quick", "quick-folds"), WAYS) if given.quick else (given.rows, given.ways)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        if given.whole or given.quick:
            for name in ("quick-whole",) if given.quick else rows:
                results.append(compare_whole(name, Path(folder), given.whole or 1))
                print(json.dumps(results[-1]), flush=True)
        for name in () if given.whole else rows:
            scan = Path(folder) / f"{name}.nii.gz"
            make_scan(ROWS[name], scan)
            for way in ways:
                if way == "monai" and ROWS[name].members > 1:
                    continue
                results.append(measure(way, name, scan))
                print(json.dumps(results[-1]), flush=True)
            scan.unlink()
    if given.json:
        given.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
