"""How often a comparison speaks of a difference between two methods: where there is one, and where there is none.

    python benchmarks/bench_groups.py                200 repetitions of each setting, two minutes of a core
    python benchmarks/bench_groups.py --repeats 20

A repetition draws patients, trainings of both methods and their Dice: a patient's own level, how much more the second
method gains on that patient than on average, how good a training is as a whole, and the rest. ``fewmask compare`` then
says which method is better. With no difference that is a false alarm; one in twenty is allowed. The last column
compares the first training of each method alone, as if two runs could speak of methods.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import numpy as np

from pipeline.reports.comparison import compare_results
from pipeline.reports.groups import Group, compare_groups
from pipeline.types import CaseResult

if TYPE_CHECKING:
    from collections.abc import Iterator

# Standard deviations of Dice: between patients, of a patient's own gain, between trainings, and of the rest.
PATIENT = 0.06
GAIN = 0.01
TRAINING = 0.01
REST = 0.015
SETTINGS = ((3, 10), (5, 10), (5, 20), (10, 20))
DIFFERENCES = (0.0, 0.01, 0.02, 0.03)
BETTER = ("a_better", "b_better")


def draw(rng: np.random.Generator, trainings: int, patients: int, difference: float, classes: int = 2) -> list[Group]:
    """Return the trainings of two methods, the second better by a difference on average."""
    level = rng.normal(0.82, PATIENT, (patients, classes))
    gain = rng.normal(difference, GAIN, patients)
    groups = []
    for number, name in enumerate(("A", "B")):
        results = []
        for _ in range(trainings):
            dice = level + number * gain[:, None] + rng.normal(0, TRAINING) + rng.normal(0, REST, level.shape)
            results.append([_row(patient, label, value) for (patient, label), value in np.ndenumerate(dice.clip(0, 1))])
        groups.append(Group(name=name, trainings=results, seeds=range(trainings)))
    return groups


def _row(patient: int, label: int, dice: float) -> CaseResult:
    return CaseResult(
        case=f"p{patient:02d}",
        patient=f"p{patient:02d}",
        label=label + 1,
        name=f"class {label + 1}",
        outcome="scored",
        voxels_truth=1000,
        voxels_predicted=1000,
        dice=float(dice),
        iou=float(dice / (2 - dice)),
        hd95_mm=float(20 * (1 - dice)),
    )


def rates(trainings: int, patients: int, difference: float, repeats: int) -> tuple[float, float, float]:
    """Return how often a method is called better, a class or another metric too, and one of two single trainings."""
    of_methods = []
    of_any = []
    of_two = []
    for number in range(repeats):
        a, b = draw(np.random.default_rng([number, trainings, patients]), trainings, patients, difference)
        found = compare_groups(a, b)
        of_methods.append(found.verdict in BETTER)
        tables = [found.means, *(one.metrics for one in found.classes)]
        corrected = [row.p_holm for table in tables for row in table.values() if row.p_holm is not None]
        of_any.append(min(corrected) < 0.05)
        alone = compare_results(a.trainings[0], b.trainings[0], "A", "B")
        of_two.append(alone.verdict in BETTER)
    return float(np.mean(of_methods)), float(np.mean(of_any)), float(np.mean(of_two))


def lines(repeats: int) -> Iterator[str]:
    """Yield the rows of a Markdown table."""
    yield "| difference of Dice | trainings of each | patients | better method | any class or metric | of two runs |"
    yield "|---|---|---|---|---|---|"
    for difference in DIFFERENCES:
        for trainings, patients in SETTINGS:
            found = " | ".join(f"{rate:.3f}" for rate in rates(trainings, patients, difference, repeats))
            yield f"| {difference:.2f} | {trainings} | {patients} | {found} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=200)
    for line in lines(parser.parse_args().repeats):
        print(line, flush=True)
