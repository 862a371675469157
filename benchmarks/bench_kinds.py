"""Dice of every class on five kinds of data: our plan in a time budget, and MONAI's trainer with as many samples.

    python benchmarks/bench_kinds.py --output kinds --json kinds.json
    python benchmarks/bench_kinds.py --quick

The kinds are generated (``kinds.py``): thick slices, a structure of 0.02 % of the voxels, nested regions in four
channels, CT with twenty classes, and 2-D microscopy. Of each, sixteen cases train and six, which choose nothing, are
scored in their own grids with the weights of the last step. Ours is `fewmask train LIST --time-budget T`, all of it;
MONAI's trainer has our plan without a budget, its network (DynUNet, as nnU-Net's) and batch, and as many samples as
our networks have seen together, however long that takes. What the file of `--json` holds is not run again.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from bench_accuracy import fewmask
from kinds import KINDS, write_kind

Row = dict[str, Any]
TRAINING, VALIDATION = 16, 6
SMALL = ("network=unet", "network.options.channels=[4,8]", "data.patch_size=[16,16,16]")
SMALL_FLAT = ("network=unet", "network.options.channels=[4,8]", "data.patch_size=[32,32]")


def ours(listing: Path, folder: Path, length: list[str], settings: list[str]) -> Row:
    """Train with our command, and predict what validates."""
    start = time.perf_counter()
    fewmask("train", "supervised", f"dataset={listing}", *settings, *length, "--output", str(folder / "run"))
    took = time.perf_counter() - start
    ids = [entry["id"] for entry in json.loads(listing.read_text())["validation"]]
    fewmask("predict", str(folder / "run"), str(listing), "--only", *ids, "--output", str(folder / "masks"))
    from pipeline.runs.stored import read_config

    config = read_config(folder / "run")
    steps = len((folder / "run" / "history.csv").read_text().splitlines()) - 1
    samples = steps * config.data.batch_size * config.network.members
    return {"steps": steps, "samples": samples, "took_s": took}


def monai(listing: Path, folder: Path, samples: int, settings: list[str]) -> Row:
    """Train with MONAI's trainer on so many samples, and predict what validates."""
    from with_monai import predict, train

    trained = train(["supervised", f"dataset={listing}", *settings], 0, samples=samples)
    entries = json.loads(listing.read_text())["validation"]
    files = {f"{entry['id']}.nii.gz": [listing.parent / image for image in entry["image"]] for entry in entries}
    predict(trained, files, folder / "masks")
    return {"steps": trained.steps, "samples": trained.steps * trained.batch, "took_s": trained.took_s}


def scores(listing: Path, folder: Path) -> Row:
    """Score masks, and return the mean Dice, each class's, and the standard error over cases of their means."""
    content = json.loads(listing.read_text())
    truth = folder / "labels"
    truth.mkdir()
    for entry in content["validation"]:
        (truth / f"{entry['id']}.nii.gz").symlink_to((listing.parent / entry["label"]).resolve())
    named = {name: value for name, value in content["labels"].items() if name != "background"}
    way = "--region" if "regions_class_order" in content else "--label"
    words = [word for name, value in named.items() for word in (way, f"{name}={value}")]
    fewmask("evaluate", str(folder / "masks"), str(truth), *words, "--output", str(folder / "scores"))
    by_case, by_class = defaultdict(list), defaultdict(list)
    with (folder / "scores" / "cases.csv").open(newline="") as stream:
        for row in csv.DictReader(stream):
            if row["dice"]:
                by_case[row["case"]].append(float(row["dice"]))
                by_class[row["name"]].append(float(row["dice"]))
    means = [statistics.fmean(values) for values in by_case.values()]
    return {
        "dice": statistics.fmean(means),
        "standard_error": statistics.stdev(means) / len(means) ** 0.5 if len(means) > 1 else None,
        "classes": {name: round(statistics.fmean(values), 4) for name, values in by_class.items()},
    }


def measure(kind: str, tool: str, output: Path, given: argparse.Namespace, rows: list[Row]) -> Row:
    """Train and score one tool on one kind."""
    listing = output / kind / "list.json"
    if not listing.exists():
        shutil.rmtree(output / kind, ignore_errors=True)
        write_kind(kind, output / kind, *((3, 2) if given.quick else (TRAINING, VALIDATION)))
    folder = output / f"{kind}-{tool}"
    shutil.rmtree(folder, ignore_errors=True)  # Of a training that was cut off.
    folder.mkdir()
    settings = list(SMALL_FLAT if kind in ("thick", "cells") else SMALL) if given.quick else []
    if tool == "ours":
        length = ["max_steps=3"] if given.quick else ["--time-budget", given.budget]
        found = ours(listing, folder, length, settings)
    else:
        samples = next(row["samples"] for row in rows if (row["kind"], row["tool"]) == (kind, "ours"))
        found = monai(listing, folder, samples, settings)
    return {"kind": kind, "tool": tool, **found, **scores(listing, folder)}


def main() -> None:
    """Run what was not run yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="folder of data and trainings; by default one that is thrown away")
    parser.add_argument("--budget", default="10m")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--tools", nargs="+", default=["ours", "MONAI"], choices=["ours", "MONAI"])
    parser.add_argument("--quick", action="store_true", help="three steps of a small network")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        output = (given.output or Path(work)).resolve()
        rows = json.loads(given.json.read_text()) if given.json and given.json.exists() else []
        for kind in given.kinds:
            for tool in given.tools:
                if any((row["kind"], row["tool"]) == (kind, tool) for row in rows):
                    continue
                rows.append(measure(kind, tool, output, given, rows))
                print(rows[-1], file=sys.stderr, flush=True)
                if given.json:
                    given.json.write_text(json.dumps(rows, indent=1) + "\n")
    print("| Kind | Tool | Minutes | Samples | Dice | Standard error | Lowest class |\n|---|---|---|---|---|---|---|")
    for row in rows:
        worst = min(row["classes"], key=row["classes"].__getitem__)
        cells = (row["kind"], row["tool"], f"{row['took_s'] / 60:.1f}", row["samples"], f"{row['dice']:.3f}")
        error = "" if row["standard_error"] is None else f"{row['standard_error']:.3f}"
        print(f"| {' | '.join(map(str, cells))} | {error} | {worst} {row['classes'][worst]:.3f} |")


if __name__ == "__main__":
    main()
