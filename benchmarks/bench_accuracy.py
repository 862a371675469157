"""Dice against minutes: ours, nnU-Net's and MONAI's trainers on the same scans and the same machine.

    python -m venv nnunet && nnunet/bin/pip install torch==2.13.0 nnunetv2==2.8.1
    python benchmarks/bench_accuracy.py --nnunet nnunet/bin/python --json accuracy.json --picture docs/accuracy
    python benchmarks/bench_accuracy.py --list HEARTS --budgets 15m 30m 60m --seeds 0 1 --nnunet … --json hearts.json
    python benchmarks/bench_accuracy.py --quick

The list's training cases are learnt from, and its validation cases are scored, by `fewmask evaluate` in their own
grids; they choose nothing. Each training is told a budget and must finish its schedule in it:

- ours is `fewmask train LIST --time-budget T`, imports, checks, validation and report included, and the network that
  its last checkpoint predicts with;
- nnU-Net is its own planner, trainer (fold `all`) and prediction. Its steps are timed first, and their number is cut,
  and corrected after a third and two thirds of it, so that the learning rate reaches its end within the budget.
  Planning, preprocessing and prediction are not counted;
- MONAI is its `SupervisedTrainer` with `CacheDataset`, DynUNet and `DiceCELoss` under deep supervision: our plan's
  patch, batch and (one) network, AdamW with the same learning rate, warm-up and decay as ours, in the precision
  that ours takes, timed and cut before it begins. Loading, caching and prediction are not counted.

`--budgets` and `--seeds` make a table of all tools, with ours and nnU-Net in 2-D and in 3-D besides (`ours` is as it
plans by itself); `--only` names some. `--steps N` gives all three N steps instead of a time. What the file of `--json`
holds is not run again, so the table can be gathered over days, each machine's in a file of its own; run nothing else
meanwhile. The standard error is over cases.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nibabel as nib

from pipeline.bounds import seconds_of
from pipeline.planning.devices import find_hardware
from pipeline.planning.plan import choose_precision

ROOT = Path(__file__).resolve().parents[1]
# Tool, budget, seeds.
TABLE = (
    ("ours", "5m", (0,)),
    ("ours", "10m", (0, 1, 2)),
    ("ours", "20m", (0,)),
    ("ours", "40m", (0,)),
    ("MONAI", "5m", (0,)),
    ("MONAI", "20m", (0,)),
    ("nnU-Net", "5m", (0,)),
    ("nnU-Net", "20m", (0,)),
)
QUICK = (("ours", "25s", (0,)), ("MONAI", "15s", (0,)))
SHOWN = 0.04  # Dice, in the upper part of the picture
COLOURS = {"ours": "#0072b2", "MONAI": "#d55e00", "nnU-Net": "#009e73"}
# What else there is, where budgets are given: a tool in the dimensions that it would not choose, or would.
FLAT, SOLID = "-2d", "-3d"
VARIANTS = ("ours", f"ours{FLAT}", f"ours{SOLID}", "MONAI", f"nnU-Net{FLAT}", f"nnU-Net{SOLID}")

NNUNET = """
import json, multiprocessing, os, sys, time
import torch
from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
if __name__ == "__main__":
    seconds, steps, seed, device = float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    configuration = sys.argv[5]
    torch.manual_seed(seed)
    folder = f"{nnUNet_preprocessed}/Dataset001_Listed"
    plans, dataset = (json.load(open(f"{folder}/{file}.json")) for file in ("nnUNetPlans", "dataset"))
    plans["continue_training"] = False
    trainer = nnUNetTrainer(plans, configuration, "all", dataset, device=torch.device(device))
    start = time.perf_counter()
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    kept = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    times = []
    for _ in range(10):
        before = time.perf_counter()
        trainer.train_step(next(trainer.dataloader_train))
        times.append(time.perf_counter() - before)
    trainer.network.load_state_dict(kept)
    trainer.optimizer.state.clear()
    step_s = sum(times[4:]) / 6  # By then its loader has filled its queues.
    told = steps
    steps = steps or max(1, int((seconds - (time.perf_counter() - start)) / step_s))
    trainer.num_epochs = trainer.lr_scheduler.max_steps = epochs = 50
    done, checks, began = 0, [1 / 3, 2 / 3], time.perf_counter()
    trainer.network.train()
    while done < steps:
        trainer.current_epoch = done * epochs // steps
        trainer.lr_scheduler.step(trainer.current_epoch)
        trainer.train_step(next(trainer.dataloader_train))
        done += 1
        if not told and checks and done / steps >= checks[0]:  # As ours, it may correct its steps twice.
            checks.pop(0)
            now = time.perf_counter()
            steps = max(done + 1, done + int((seconds - (now - start)) / ((now - began) / done)))
    took = time.perf_counter() - start
    trainer.save_checkpoint(f"{trainer.output_folder}/checkpoint_final.pth")
    print("RESULT " + json.dumps({"steps": steps, "took_s": took}), flush=True)
    # Its loader's processes would go on, and keep the pipe open that is waited for.
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(0)
"""


def train_ours(listing: Path, folder: Path, seed: int, budget: str | None, steps: int, words: list[str]) -> dict:
    """Train with our command, and predict the validation scans with the run."""
    run, start = folder / "run", time.perf_counter()
    length = [f"max_steps={steps}"] if steps else ["--time-budget", str(budget)]
    fewmask("train", "supervised", f"dataset={listing}", f"seed={seed}", *words, *length, "--output", str(run))
    took = time.perf_counter() - start
    fewmask("predict", str(run), str(folder.parent / "scans"), "--output", str(folder / "masks"))
    return {"steps": len((run / "history.csv").read_text().splitlines()) - 1, "took_s": took}


def train_monai(listing: Path, folder: Path, seed: int, budget: str | None, steps: int, words: list[str]) -> dict:
    """Train with MONAI's trainer, and predict the validation scans through our predictor, its sliding window."""
    from with_monai import predict, train

    trained = train(["supervised", f"dataset={listing}", f"seed={seed}", *words], seed, budget=budget, steps=steps)
    scans = {scan.name: [scan] for scan in sorted((folder.parent / "scans").iterdir())}
    predict(trained, scans, folder / "masks")
    return {"steps": trained.steps, "took_s": trained.took_s}


def train_nnunet(
    python: Path, listing: Path, folder: Path, seed: int, budget: str | None, steps: int, configuration: str
) -> dict[str, object]:
    """Let nnU-Net plan (once), train and predict."""
    work = folder.parent / "nnunet"
    places = {name: str(work / name) for name in ("nnUNet_raw", "nnUNet_preprocessed")}
    environment = os.environ | places | {"nnUNet_results": str(folder / "results")}
    if not (work / "planned").exists():
        link_for_nnunet(listing, work / "nnUNet_raw" / "Dataset001_Listed")
        command = [str(python.parent / "nnUNetv2_plan_and_preprocess"), "-d", "1", "-c", "2d", "3d_fullres", "-np", "2"]
        subprocess.run(command, env=environment, check=True, capture_output=True)
        (work / "train.py").write_text(NNUNET)
        (work / "planned").touch()
    device = find_hardware("auto").device.partition(":")[0]
    words = [str(seconds_of(budget) if budget else 0), str(steps), str(seed), device, configuration]
    found = told(subprocess.run([str(python), str(work / "train.py"), *words], env=environment, capture_output=True))
    images = work / "scans"
    if not images.exists():
        images.mkdir()
        for scan in (folder.parent / "scans").iterdir():
            (images / scan.name.replace(".nii.gz", "_0000.nii.gz")).symlink_to(scan.resolve())
    command = [str(python.parent / "nnUNetv2_predict"), "-i", str(images), "-o", str(folder / "masks"), "-d", "1"]
    command += ["-c", configuration, "-f", "all", "-device", device, "-npp", "1", "-nps", "1"]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return found


def link_for_nnunet(listing: Path, folder: Path) -> None:
    """Lay the training cases of the list out as nnU-Net wants them."""
    content = json.loads(listing.read_text())
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for entry in content["training"]:
        name = Path(entry["image"]).name.removesuffix(".nii.gz")
        (folder / "imagesTr" / f"{name}_0000.nii.gz").symlink_to((listing.parent / entry["image"]).resolve())
        (folder / "labelsTr" / f"{name}.nii.gz").symlink_to((listing.parent / entry["label"]).resolve())
    about = {
        "channel_names": {"0": "MRI"},
        "labels": _by_name(content["labels"]),
        "numTraining": len(content["training"]),
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(about))


def _by_name(labels: dict[str, Any]) -> dict[str, int]:
    """Return the values of labels by name, whichever of the two a list has for its keys."""
    return {str(name): int(value) for value, name in labels.items()} if "0" in labels else labels


def fewmask(*words: str) -> None:
    """Run one of our commands."""
    done = subprocess.run([sys.executable, str(ROOT / "run.py"), *words], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"fewmask {' '.join(words)} failed:\n{done.stderr[-4000:]}")


def told(done: subprocess.CompletedProcess[bytes]) -> dict[str, object]:
    """Return what a process has printed behind RESULT."""
    lines = [line for line in done.stdout.decode().splitlines() if line.startswith("RESULT ")]
    if not lines:
        sys.exit(f"failed:\n{done.stdout.decode()[-2000:]}\n{done.stderr.decode()[-4000:]}")
    found: dict[str, object] = json.loads(lines[-1].removeprefix("RESULT "))
    return found


def measure(tool: str, listing: Path, folder: Path, given: argparse.Namespace, budget: str | None, seed: int) -> dict:
    """Train and score once."""
    shutil.rmtree(folder, ignore_errors=True)  # Of a training that was cut off.
    folder.mkdir(parents=True)
    name, flat = tool.removesuffix(FLAT).removesuffix(SOLID), tool.endswith(FLAT)
    if name == "nnU-Net":
        configuration = "2d" if flat else "3d_fullres"
        found = train_nnunet(given.nnunet, listing, folder, seed, budget, given.steps, configuration)
    else:
        dimensions = [] if name == tool else [f"data.dimensions={2 if flat else 3}"]
        words = [str(listing), str(folder), str(seed), str(budget or ""), str(given.steps), *given.override]
        command = [sys.executable, __file__, "--one", name, *words, *dimensions]
        found = told(subprocess.run(command, capture_output=True))
    truth = folder.parent / "labels"
    fewmask("evaluate", str(folder / "masks"), str(truth), "--output", str(folder / "scores"))
    found |= scores_in(folder / "scores")
    print(tool, budget, seed, found, flush=True)
    return found


def scores_in(folder: Path) -> dict[str, object]:
    """Return the mean Dice over classes, and the standard error over cases of a case's mean over classes."""
    by_case: dict[str, list[float]] = {}
    with (folder / "cases.csv").open(newline="") as stream:
        for row in csv.DictReader(stream):
            if row["dice"]:
                by_case.setdefault(row["case"], []).append(float(row["dice"]))
    means = [statistics.fmean(values) for values in by_case.values()]
    error = statistics.stdev(means) / len(means) ** 0.5 if len(means) > 1 else None
    return {
        "dice": json.loads((folder / "summary.json").read_text())["mean_dice"],
        "standard_error": error,
        "cases": len(means),
    }


def lay_out(listing: Path, output: Path) -> None:
    """Put the validation scans and their masks into folders of their own."""
    for name in ("scans", "labels"):
        (output / name).mkdir(parents=True, exist_ok=True)
    for entry in json.loads(listing.read_text())["validation"]:
        for name, key in (("scans", "image"), ("labels", "label")):
            link = output / name / Path(entry["image"]).name
            if not link.exists():
                link.symlink_to((listing.parent / entry[key]).resolve())


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw Dice against minutes, the mean over seeds; a standard error each way: the best of it above, all below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    best, everything = figure.subplots(2, sharex=True, height_ratios=(3, 2))
    for tool in COLOURS:
        by_budget: dict[str, list[dict[str, Any]]] = {}
        for row in sorted(rows, key=lambda row: seconds_of(row["budget"])):
            if row["tool"] == tool:
                by_budget.setdefault(row["budget"], []).append(row)
        if not by_budget:
            continue
        minutes = [seconds_of(budget) / 60 for budget in by_budget]
        dice, errors = (
            [statistics.fmean(row[key] or 0 for row in seeds) for seeds in by_budget.values()]
            for key in ("dice", "standard_error")
        )
        for axes in (best, everything):
            axes.errorbar(minutes, dice, errors, fmt="o-", color=COLOURS[tool], capsize=3, label=tool)
    top = max(row["dice"] + (row["standard_error"] or 0) for row in rows)
    best.set_ylim(top - SHOWN, top + SHOWN / 20)
    everything.set_ylim(-0.05, 1)
    everything.set_xscale("log")
    ticks = sorted({seconds_of(row["budget"]) / 60 for row in rows})
    everything.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    everything.minorticks_off()
    everything.set_xlabel("Minutes of training")
    for axes in (best, everything):
        axes.grid(alpha=0.3)
    figure.supylabel("Mean Dice of the validation cases", fontsize="medium")
    best.legend(loc="lower right")
    for end in (".png", ".svg"):
        figure.savefig(path.with_suffix(end), dpi=150)


def quick_list(work: Path) -> Path:
    """Write a phantom with a validation list."""
    from pipeline.data.phantom import write_phantom

    list(write_phantom(work / "phantom", labelled=8, unlabelled=0))
    content = json.loads((work / "phantom" / "dataset.json").read_text())
    content["validation"], content["training"] = content["training"][:2], content["training"][2:]
    path = work / "phantom" / "list.json"
    path.write_text(json.dumps(content))
    assert nib.load(work / "phantom" / content["training"][0]["image"]).ndim == 3
    return path


def main() -> None:
    """Run what was not run yet, and print the table."""
    if sys.argv[1:2] == ["--one"]:
        tool, listing, folder, seed, budget, steps, *words = sys.argv[2:]
        train = train_ours if tool == "ours" else train_monai
        found = train(Path(listing), Path(folder), int(seed), budget or None, int(steps), words)
        print("RESULT " + json.dumps(found))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", type=Path, default=Path("data/Task04_Hippocampus/list_labelled_160_draw0.json"))
    parser.add_argument("--nnunet", type=Path, help="Python of an environment with nnunetv2; else it is left out")
    parser.add_argument("--output", type=Path, help="folder of the trainings; by default one that is thrown away")
    parser.add_argument("--budgets", nargs="+", help="times of a table of all tools, such as 15m 1h")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="seeds of that table")
    parser.add_argument("--only", nargs="+", help="tools and budgets, such as ours or ours/5m")
    parser.add_argument("--steps", type=int, default=0, help="so many steps for each tool, instead of times")
    parser.add_argument("--override", nargs="*", default=[], help="key=value of our recipe, as for `fewmask train`")
    parser.add_argument("--picture", type=Path, help="draw Dice against minutes there, as .png and .svg")
    parser.add_argument("--quick", action="store_true", help="a phantom, seconds, without nnU-Net")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        output = given.output or Path(work) / "runs"
        listing = quick_list(Path(work)) if given.quick else given.list.resolve()
        lay_out(listing, output)
        table = QUICK if given.quick else TABLE
        if given.budgets:
            table = tuple((tool, budget, given.seeds) for budget in given.budgets for tool in VARIANTS)
        if given.steps:
            table = tuple((tool, None, (0,)) for tool in COLOURS)
        if given.quick:
            given.override = ["network=unet", "network.options.channels=[4,8]", "data.patch_size=[16,16,16]"]
        known = {name for tool, budget, _ in table for name in (tool, f"{tool}/{budget}")}
        if unknown := {*(given.only or ())} - known:
            parser.error(f"--only: no {', '.join(sorted(unknown))}; there is {', '.join(sorted(known))}")
        wanted = [
            (tool, budget, seed)
            for tool, budget, seeds in table
            for seed in seeds
            if (given.nnunet or not tool.startswith("nnU-Net"))
            and (not given.only or {tool, f"{tool}/{budget}"} & {*given.only})
        ]
        rows = json.loads(given.json.read_text()) if given.json and given.json.exists() else []
        for tool, budget, seed in wanted:
            steps = given.steps or None
            about = {"tool": tool, "budget": budget, "told": steps, "seed": seed, "list": listing.name}
            about |= {"override": given.override}
            if any(about.items() <= row.items() for row in rows):
                continue
            name = f"{tool}-{budget or f'{steps}steps'}-{seed}"
            rows.append(about | measure(tool, listing, output / name, given, budget, seed))
            if given.json:
                given.json.write_text(json.dumps(rows, indent=2) + "\n")
    print(f"\nOurs in {choose_precision(find_hardware('auto'))}")
    print("| Tool | Budget | Seed | Took | Steps | Mean Dice | Standard error |\n|---|---|---|---|---|---|---|")
    for row in rows:
        error = "" if row["standard_error"] is None else f"{row['standard_error']:.4f}"
        cells = [
            row["tool"],
            row["budget"] or f"{row['told']} steps",
            row["seed"],
            f"{row['took_s'] / 60:.1f} min",
            row["steps"],
        ]
        print(f"| {' | '.join(map(str, cells))} | {row['dice']:.4f} | {error} |")
    if given.picture:
        draw([row for row in rows if row["budget"]], given.picture)


if __name__ == "__main__":
    main()
