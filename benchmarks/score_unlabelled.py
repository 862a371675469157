"""What a study's methods gain on scans that took part in all of its trainings without their masks.

    python benchmarks/score_unlabelled.py studies/hearts --labels data/ACDC/labels --csv results.csv

A study validates on patients that no training has seen. Those whose scans semi-supervised trainings have seen, without
their masks, are another question: that of whoever wants the masks of these very scans. This predicts the scans of the
patients that no draw has labelled with the last weights of every training, scores them where their masks lie in a
folder under the scans' names, and prints what each method gains over the control there, with the interval for other
draws and other patients. The study has a list for each draw, with an id and a patient in each entry.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.data.content import hash_values
from pipeline.data.layouts.dataset import read_labels
from pipeline.metrics.case import score_case
from pipeline.nifti import load
from pipeline.reports.crossed import crossed_interval
from pipeline.runs import predict
from pipeline.studies.grid import Cell, Study, read_study
from pipeline.studies.results import folder_of_cell

if TYPE_CHECKING:
    from collections.abc import Iterator

# Of each training, the Dice of each patient.
Dice = dict[Cell, dict[str, float]]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="the output of `fewmask study`")
    parser.add_argument("--labels", type=Path, required=True, help="the folder of masks")
    parser.add_argument("--csv", type=Path, help="where to write the Dice of each scan")
    arguments = parser.parse_args()
    study = read_study(arguments.study / "study.yaml")
    cells = [cell for cell in study.cells() if cell.labelled != study.goal]
    listed = {cell: json.loads(study.list_of(cell.labelled, cell.draw).read_text("utf-8")) for cell in cells}
    root = study.list_of(cells[0].labelled, cells[0].draw).parent
    scans = spare_scans(list(listed.values()), root)
    names = read_labels(listed[cells[0]]["labels"])["labels"]
    dice: Dice = {}
    rows: list[tuple[Any, ...]] = []
    for cell in cells:
        found = defaultdict(list)
        for entry, value in scored(folder_of_cell(arguments.study, cell), scans, root, arguments.labels, names):
            found[entry["patient"]].append(value)
            rows.append(
                (cell.method, cell.labelled, cell.draw, cell.seed, entry["patient"], entry["id"], f"{value:.4f}")
            )
        dice[cell] = {patient: fmean(values) for patient, values in found.items()}
        print(f"{cell.name}: {100 * fmean(dice[cell].values()):.2f}", flush=True)
    if arguments.csv:
        with arguments.csv.open("w", newline="") as file:
            csv.writer(file).writerows([("method", "labelled", "draw", "seed", "patient", "case", "dice"), *rows])
    for line in gains(study, dice):
        print(line)


def spare_scans(lists: list[dict[str, Any]], root: Path) -> list[dict[str, Any]]:
    """Return the entries of the scans without masks in all lists, of patients who have a mask in none.

    A scan that is stored under another name with a mask is left out: ACDC has one patient twice.
    """
    labelled = {entry["id"]: entry for found in lists for entry in found["training"]}
    known = {entry["patient"] for entry in labelled.values()}
    seen = {content_of(root, entry) for entry in labelled.values()}
    common = set.intersection(*({entry["id"] for entry in found["unlabeled"]} for found in lists))
    spare = [entry for entry in lists[0]["unlabeled"] if entry["id"] in common and entry["patient"] not in known]
    return [entry for entry in spare if content_of(root, entry) not in seen]


def content_of(root: Path, entry: dict[str, Any]) -> str:
    """Return a hash of the voxels of an entry's scan."""
    return hash_values(load(root / entry["image"]).voxels[0])


def scored(
    run: Path, scans: list[dict[str, Any]], root: Path, labels: Path, names: dict[int, str]
) -> Iterator[tuple[dict[str, Any], float]]:
    """Yield each scan with the mean Dice of the structures in the mask that a run predicts."""
    with tempfile.TemporaryDirectory() as folder:
        masks = predict(run, [root / entry["image"] for entry in scans], Path(folder))
        for entry, mask in zip(scans, masks, strict=True):
            truth = load(labels / Path(entry["image"]).name)
            rows = score_case("", truth.labels, load(mask).labels, names, truth.spacing_mm, overlap_only=True)
            yield entry, fmean(row.dice for row in rows if row.dice is not None)


def gains(study: Study, dice: Dice) -> Iterator[str]:
    """Yield a line for each method and number of labelled patients."""
    for labelled in study.labelled:
        for method in study.methods[1:]:
            pairs = [
                (cell, Cell(study.control.name, labelled, cell.draw, cell.seed))
                for cell in dice
                if (cell.method, cell.labelled) == (method.name, labelled)
            ]
            patients = sorted(dice[pairs[0][0]])
            table = 100 * np.array(
                [[dice[ours][name] - dice[control][name] for name in patients] for ours, control in pairs]
            )
            interval = crossed_interval(table) or (float("nan"), float("nan"))
            draws = " ".join(f"{mean:+.2f}" for mean in table.mean(axis=1))
            yield (
                f"{method.name}, {labelled} patients with masks, {len(patients)} others: {table.mean():+.2f} points "
                f"({interval[0]:+.2f} to {interval[1]:+.2f}); by draw {draws}"
            )


if __name__ == "__main__":
    main()
