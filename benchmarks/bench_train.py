"""Steps a second on the network, patch, batch and augmentation of nnU-Net's hippocampus plan: ours, nnU-Net's, MONAI's.

    python -m venv nnunet && nnunet/bin/pip install torch==2.13.0 nnunetv2==2.8.1
    python benchmarks/bench_train.py --nnunet nnunet/bin/python --hippocampus data/Task04_Hippocampus --json train.json
    python benchmarks/bench_train.py --quick

A U-Net of 32 to 256 features with deep supervision, patches of 40 x 56 x 40, seven a step, with rotation, scaling,
noise, blur, brightness, contrast, low resolution, gamma and mirroring. nnU-Net runs its own plan, trainer and loader as
installed; MONAI's is `SupervisedTrainer` with `CacheDataset`, DynUNet and DiceCE, on a CPU, for which it has no `amp`,
also in the precision that ours takes; ours is what `fewmask train` runs, in the precision and the memory format that it
chooses for the machine. Each measurement is a process of its own, one after the other in turn; the first steps are not
counted. Memory is the largest resident set of the training process, on CUDA what PyTorch has allocated there at most.
There it also prints in what share of the time the GPU was busy with ours.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.engines.steps import TrainingStep

PATCH, BATCH, FEATURES = (40, 56, 40), 7, (32, 64, 128, 256)
WARM = 2
MONAI_IN_OURS = "MONAI, our precision"

NNUNET = """
import json, multiprocessing, os, resource, sys, time
import torch
from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
if __name__ == "__main__":
    name, steps, warm, device = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    folder = f"{nnUNet_preprocessed}/{name}"
    plans, dataset = (json.load(open(f"{folder}/{file}.json")) for file in ("nnUNetPlans", "dataset"))
    plans["continue_training"] = False
    trainer = nnUNetTrainer(plans, "3d_fullres", 0, dataset, device=torch.device(device))
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    times = []
    for _ in range(warm + steps):
        start = time.perf_counter()
        trainer.train_step(next(trainer.dataloader_train))
        times.append(time.perf_counter() - start)
    memory = torch.cuda.max_memory_allocated() / 1e6 if device == "cuda" else 0
    memory = memory or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    print("RESULT " + json.dumps({"times": times[warm:], "memory_mb": memory}), flush=True)
    # Its loader's processes would go on, and keep the pipe open that is waited for.
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(0)
"""


def batches_of_ours(folder: Path, store: Path) -> tuple[TrainingStep, Iterator[dict[str, dict[str, object]]]]:
    """Return the training step and the batches that `fewmask train` would make."""
    import torch

    from pipeline.data.augmentation import AugmentationChain, Patch, standard
    from pipeline.data.cache import Cache
    from pipeline.data.check import Check
    from pipeline.data.layouts import read_dataset
    from pipeline.data.loaders import StepBatches, StepLoader, Stream
    from pipeline.data.resident import Resident
    from pipeline.data.transforms import Grid
    from pipeline.engines.averaging import WeightAverage
    from pipeline.engines.schedules import Schedule
    from pipeline.engines.steps import TrainingStep
    from pipeline.losses.cross_entropy import CrossEntropyLoss
    from pipeline.losses.dice import DiceLoss
    from pipeline.losses.objective import Objective, Term
    from pipeline.networks import NETWORKS
    from pipeline.pacing.course import Course
    from pipeline.planning.devices import find_hardware
    from pipeline.planning.plan import choose_precision

    check = Check(read_dataset(folder))
    list(check)
    index = check.index()
    cache = Cache(folder=store, index=index, grid=Grid("RAS", (1.0, 1.0, 1.0)))
    list(cache.fill(index.dataset.cases))
    cases = tuple(case for case in index.dataset.cases if case.label)
    strengths = {"noise": 0.3, "blur": 1.0, "brightness": 0.25, "contrast": 0.25, "low_resolution": 1.0, "gamma": 0.3}
    chain = standard(flip_axes=(0, 1, 2), rotation_degrees=30, scaling=0.3, **strengths)
    hardware = find_hardware("auto")
    read = Resident(cache.get, hardware.device).get if hardware.is_cuda else cache.get
    batches = StepBatches(
        {"labelled": Stream(cases, BATCH, 1)}, read, PATCH, AugmentationChain(chain, Patch((1.0,) * 3)), 0
    )
    network = NETWORKS.build("dynunet", {"channels": FEATURES}, spatial_dims=3, in_channels=1, out_channels=3)
    network.to(hardware.device)
    terms = [
        Term(name="dice", loss=DiceLoss(), on="labelled"),
        Term(name="cross_entropy", loss=CrossEntropyLoss(), on="labelled"),
    ]
    precision = getattr(torch, choose_precision(hardware))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=hardware.is_cuda)
    schedule, average = Schedule(1e-3, 0.05), WeightAverage(network, 0.02)
    step = TrainingStep(
        network=network,
        objective=Objective(terms),
        optimizer=optimizer,
        schedule=schedule,
        course=Course(10_000),
        precision=precision,
        clip_norm=12.0,
        seed=0,
        average=average,
    )
    return step, iter(StepLoader(batches, range(10_000), 0, pin_memory=False))


def take_the_faster_format(step: TrainingStep, batches: Iterator[dict[str, dict[str, object]]]) -> None:
    """Try both memory formats, as `fewmask train --time-budget` does."""
    from pipeline.networks import to_channels_last
    from pipeline.runs.timing import FASTER, TRIAL_TIMED, TRIAL_WARM, time_steps

    plain, before = copy.deepcopy(step.network), time_steps(step, lambda: batches, TRIAL_WARM, TRIAL_TIMED)
    to_channels_last(step.network)
    if time_steps(step, lambda: batches, TRIAL_WARM, TRIAL_TIMED) > FASTER * before:
        for mine, kept in zip(step.network.parameters(), plain.parameters(), strict=True):
            mine.data = kept.data


def measure_ours(folder: Path, store: Path, steps: int) -> dict[str, object]:
    """Time our steps, their batches included."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    step, batches = batches_of_ours(folder, store)
    take_the_faster_format(step, batches)

    def run(numbers: range) -> list[float]:
        times = []
        for number in numbers:
            start = time.perf_counter()
            step(SimpleNamespace(state=SimpleNamespace(iteration=number)), next(batches))
            times.append(time.perf_counter() - start)
        return times

    found: dict[str, object] = {"times": run(range(1, WARM + steps + 1))[WARM:]}
    if torch.cuda.is_available():
        step.settle()
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            start = time.perf_counter()
            run(range(1, steps + 1))
            step.settle()
            passed = time.perf_counter() - start
        found["busy"] = sum(event.self_device_time_total for event in profiler.key_averages()) / 1e6 / passed
    return found


def measure_monai(folder: Path, steps: int, autocast: bool) -> dict[str, object]:
    """Time the iterations of MONAI's trainer, on a CPU in float32 or in the precision that ours takes."""
    import torch
    from ignite.engine import Events
    from in_precision import InPrecision
    from monai import transforms as mt
    from monai.data import CacheDataset, DataLoader
    from monai.engines import SupervisedTrainer
    from monai.losses import DeepSupervisionLoss, DiceCELoss
    from monai.networks.nets import DynUNet

    from pipeline.planning.devices import find_hardware
    from pipeline.planning.plan import choose_precision

    keys, angle = ("image", "label"), float(np.deg2rad(30))
    transforms = [
        mt.LoadImaged(keys),
        mt.EnsureChannelFirstd(keys),
        mt.Orientationd(keys, axcodes="RAS", labels=None),
        mt.Spacingd(keys, pixdim=(1, 1, 1), mode=("bilinear", "nearest")),
        mt.NormalizeIntensityd("image", nonzero=True),
        mt.SpatialPadd(keys, PATCH),
        mt.EnsureTyped(keys, track_meta=False),
        mt.FgBgToIndicesd("label"),
        mt.RandCropByPosNegLabeld(
            keys, "label", PATCH, pos=2, neg=1, fg_indices_key="label_fg_indices", bg_indices_key="label_bg_indices"
        ),
        mt.SelectItemsd(keys),
        *(mt.RandFlipd(keys, prob=0.5, spatial_axis=axis) for axis in range(3)),
        mt.RandAffined(
            keys,
            prob=0.2,
            rotate_range=(angle,) * 3,
            scale_range=(0.3,) * 3,
            mode=("bilinear", "nearest"),
            padding_mode="zeros",
        ),
        mt.RandGaussianNoised("image", prob=0.1, std=0.3),
        mt.RandGaussianSmoothd("image", (0.5, 1), (0.5, 1), (0.5, 1), prob=0.2),
        mt.RandScaleIntensityd("image", 0.25, prob=0.15),
        mt.RandSimulateLowResolutiond("image", prob=0.25, zoom_range=(0.5, 1)),
        mt.RandAdjustContrastd("image", prob=0.3, gamma=(0.7, 1.5)),
    ]
    files = [
        {"image": str(path), "label": str(folder / "labels" / path.name)}
        for path in sorted((folder / "images").iterdir())
    ]
    data = CacheDataset(files, mt.Compose(transforms), progress=False, num_workers=None)
    cuda = torch.cuda.is_available()
    workers = min(8, os.cpu_count() or 1) if cuda else 0
    net: torch.nn.Module = DynUNet(
        3, 1, 3, [3] * 4, [1, 2, 2, 2], [2, 2, 2], filters=FEATURES, deep_supervision=True, deep_supr_num=2
    )
    device = torch.device("cuda" if cuda else "cpu")
    if not cuda:  # Where `amp` does nothing.
        net = InPrecision(net, choose_precision(find_hardware("auto")) if autocast else "float32")
    network = net.to(device)
    single = DiceCELoss(to_onehot_y=True, softmax=True)
    loss = DeepSupervisionLoss(single)
    times: list[float] = []
    trainer = SupervisedTrainer(
        device=device,
        max_epochs=1000,
        train_data_loader=DataLoader(data, batch_size=BATCH, shuffle=True, num_workers=workers, drop_last=True),
        network=network,
        optimizer=torch.optim.AdamW(network.parameters(), lr=1e-3),
        loss_function=lambda outputs, labels: loss(list(outputs.unbind(1)), labels),
        amp=cuda,
        decollate=False,
    )
    before = [time.perf_counter()]

    def note() -> None:
        now = time.perf_counter()
        times.append(now - before[0])
        before[0] = now
        if len(times) == WARM + steps:
            trainer.terminate()

    trainer.add_event_handler(Events.STARTED, lambda: before.__setitem__(0, time.perf_counter()))
    trainer.add_event_handler(Events.ITERATION_COMPLETED, note)
    trainer.run()
    return {"times": times[WARM:]}


def has_cuda() -> bool:
    """Tell whether there is a CUDA device."""
    import torch

    return torch.cuda.is_available()


def run_one(variant: str, folder: Path, store: Path, steps: int) -> None:
    """Measure one of ours or MONAI's in this process, and print it."""
    import torch

    autocast = variant != "MONAI"
    found = measure_ours(folder, store, steps) if variant == "ours" else measure_monai(folder, steps, autocast)
    memory = torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else 0
    memory = memory or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    print("RESULT " + json.dumps(found | {"memory_mb": memory}), flush=True)


def prepare_nnunet(python: Path, source: Path, work: Path) -> dict[str, str]:
    """Let nnU-Net convert, plan and preprocess the hippocampus set; return the environment that it needs."""
    from compare_plans import link_hippocampus

    places = {name: str(work / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    link_hippocampus(source, work / "nnUNet_raw" / "Dataset004_Hippocampus")
    environment = os.environ | places
    command = [str(python.parent / "nnUNetv2_plan_and_preprocess"), "-d", "4", "-c", "3d_fullres", "-np", "2"]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return environment


def write_cases(source: Path, folder: Path) -> None:
    """Lay the labelled cases out as a plain folder."""
    listing = json.loads((source / "dataset.json").read_text())["training"]
    for kind, key in (("images", "image"), ("labels", "label")):
        (folder / kind).mkdir(parents=True)
        for number, entry in enumerate(listing):
            (folder / kind / f"case_{number:04d}.nii.gz").symlink_to((source / entry[key]).resolve())


def main() -> None:
    """Measure in turn, and print a table with ratios."""
    if sys.argv[1:2] == ["--one"]:
        variant, folder, store, steps = sys.argv[2:]
        run_one(variant, Path(folder), Path(store), int(steps))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nnunet", type=Path, help="Python of an environment with nnunetv2; else it is left out")
    parser.add_argument("--hippocampus", type=Path, default=Path("data/Task04_Hippocampus"))
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a phantom, two steps, one round")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        if given.quick:
            from pipeline.data.phantom import write_phantom

            given.hippocampus, given.steps, given.rounds = work / "phantom", 2, 1
            list(write_phantom(given.hippocampus, labelled=10, unlabelled=0))
        write_cases(given.hippocampus, work / "cases")
        environment = prepare_nnunet(given.nnunet, given.hippocampus, work) if given.nnunet else {}
        commands = {
            name: [sys.executable, __file__, "--one", name, str(work / "cases"), str(work / "cache"), str(given.steps)]
            for name in ("ours", "MONAI", *(() if has_cuda() else (MONAI_IN_OURS,)))
        }
        if given.nnunet:
            (work / "train_nnunet.py").write_text(NNUNET)
            device = "cuda" if has_cuda() else "cpu"
            words = ["Dataset004_Hippocampus", str(given.steps), str(WARM), device]
            commands["nnU-Net"] = [str(given.nnunet), str(work / "train_nnunet.py"), *words]
        found: dict[str, list[dict[str, object]]] = {name: [] for name in commands}
        for _ in range(given.rounds):
            for name, command in commands.items():
                done = subprocess.run(
                    command, env=environment if name == "nnU-Net" else None, capture_output=True, text=True
                )
                lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
                if not lines:
                    sys.exit(f"{name} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
                found[name].append(json.loads(lines[-1].removeprefix("RESULT ")))
                print(name, found[name][-1], flush=True)
    show(found)
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")


def show(found: dict[str, list[dict[str, object]]]) -> None:
    """Print the medians over the rounds, and how many times ours they take."""
    seconds = {name: statistics.median(t for one in rounds for t in one["times"]) for name, rounds in found.items()}
    print("\n| | Seconds a step | Steps a second | Times ours | Spread over rounds | Peak memory |")
    print("|---|---|---|---|---|---|")
    for name, rounds in found.items():
        spread = [statistics.median(one["times"]) for one in rounds]
        memory = max(float(one["memory_mb"]) for one in rounds)
        print(
            f"| {name} | {seconds[name]:.2f} | {1 / seconds[name]:.3f} | {seconds[name] / seconds['ours']:.2f} "
            f"| {min(spread):.2f}–{max(spread):.2f} s | {memory:.0f} MB |"
        )
    if busy := [float(one["busy"]) for one in found["ours"] if "busy" in one]:
        print(f"\nThe GPU was busy with ours for {statistics.median(busy):.0%} of the time.")


if __name__ == "__main__":
    main()
