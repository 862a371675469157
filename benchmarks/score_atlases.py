"""What the vote of atlases gains in a study whose trainings have one, beside the same weights without it.

    python benchmarks/score_atlases.py studies/hippocampi --csv results.csv

The weights of the recipe `atlas` are those of `supervised`, bit for bit, so that one training tells both figures: its
validation cases are predicted once with the vote and once without. Prints the mean Dice of both for each training, and
what the vote gains with the interval for other draws and other cases. Where the labelled scans of a draw do not predict
each other's masks well, there is no vote, and both figures are the same.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING

import numpy as np

from pipeline.prediction.predictor import Ensemble
from pipeline.reports.crossed import crossed_interval
from pipeline.runs.models import load_model
from pipeline.runs.scored_cases import own_cases
from pipeline.runs.scoring import score
from pipeline.studies.grid import read_study
from pipeline.studies.results import folder_of_cell

if TYPE_CHECKING:
    from pipeline.prediction.predictor import Predictor

WAYS = ("network", "with atlases")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="the output of `fewmask study`")
    parser.add_argument("--csv", type=Path, help="where to write the Dice of each case")
    arguments = parser.parse_args()
    study = read_study(arguments.study / "study.yaml")
    dice: dict[int, list[list[dict[str, float]]]] = defaultdict(list)
    rows: list[tuple[object, ...]] = []
    for cell in study.cells():
        run = folder_of_cell(arguments.study, cell)
        if not (run / "summary.json").exists():
            print(f"{cell.name}: not trained yet")
            continue
        both = scored_both_ways(run)
        dice[cell.labelled].append(both)
        for way, of_case in zip(WAYS, both, strict=True):
            rows += [
                (way, cell.labelled, cell.draw, cell.seed, case, f"{value:.4f}") for case, value in of_case.items()
            ]
        means = ", ".join(f"{way} {100 * fmean(of_case.values()):.2f}" for way, of_case in zip(WAYS, both, strict=True))
        print(f"{cell.name}: {means}", flush=True)
    if arguments.csv:
        with arguments.csv.open("w", newline="") as file:
            csv.writer(file).writerows([("method", "labelled", "draw", "seed", "case", "dice"), *rows])
    for labelled, trainings in dice.items():
        print(gain(labelled, trainings))


def scored_both_ways(run: Path) -> list[dict[str, float]]:
    """Return the mean Dice of each validation case of a run without and with the vote of its atlases."""
    model = load_model(run, "last")
    alone: Predictor | Ensemble = model.predictor
    if isinstance(alone, Ensemble):
        alone = replace(alone, atlases=None, atlas_weight=0.0)
    dataset, facts = own_cases(run)
    found = []
    for predictor in (alone, model.predictor):
        scored = score(predictor, dataset.cases, facts, model.task, matched=False, overlap_only=True)
        by_case = defaultdict(list)
        for row in scored.results:
            if row.dice is not None:
                by_case[row.case].append(row.dice)
        found.append({case: fmean(values) for case, values in by_case.items()})
    return found


def gain(labelled: int, trainings: list[list[dict[str, float]]]) -> str:
    """Return a line on what the vote gains at a number of labelled scans."""
    cases = sorted(trainings[0][0])
    table = 100 * np.array([[voted[case] - alone[case] for case in cases] for alone, voted in trainings])
    alone = [100 * fmean(of_case.values()) for of_case, _ in trainings]
    spread = f" ± {stdev(alone):.2f}" if len(alone) > 1 else ""
    interval = crossed_interval(table)
    sure = f" ({interval[0]:+.2f} to {interval[1]:+.2f})" if interval else ""
    by_training = ", ".join(f"{mean:+.2f}" for mean in table.mean(axis=1))
    what = f"{labelled} masks, {len(trainings)} training(s), {len(cases)} cases: network {fmean(alone):.2f}{spread}"
    return f"{what}; atlases {table.mean():+.2f} points{sure}; by training {by_training}"


if __name__ == "__main__":
    main()
