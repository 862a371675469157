"""The results of a study: the Dice of each training, and the gain of each method over the control with its interval."""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import asdict, dataclass, fields, replace
from statistics import fmean, median, stdev
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import Problem, UserError
from pipeline.reports.crossed import crossed_interval
from pipeline.reports.files import read_cases_csv, write_csv
from pipeline.runs.stored import SUMMARY
from pipeline.studies.plot import draw_study

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.outputs import Output
    from pipeline.studies.grid import Cell, Study

    # The mean Dice of each validation patient, by training.
    Dice = Mapping[Cell, dict[str, float]]

RUNS = "runs"
TIMES = "times.csv"
RESULTS = ("trainings.csv", "gains.csv", "results.md", "results.png")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """One training that is done.

    Attributes:
        method: The name of the method.
        labelled: Number of patients with masks.
        draw: The number of the draw of these patients.
        seed: The seed of the training.
        dice: Mean over the validation patients of the mean over their cases and classes.
        minutes: Elapsed time.
    """

    method: str
    labelled: int
    draw: int
    seed: int
    dice: float
    minutes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """One method at one number of labelled patients.

    Attributes:
        method: The name of the method.
        labelled: Number of patients with masks.
        draws: Number of draws in which this method and the control are done with the same seeds.
        dice: Mean Dice over these draws.
        spread: Standard deviation over the draws; None for a single draw.
        gain: Mean difference of Dice to the control; None for the control itself.
        low: Lower end of the gain's 95 % interval over draws and patients; None with fewer than three of either.
        high: Upper end of the interval; None likewise.
        worst: The smallest gain of a draw; None for the control itself.
        of_gap: The gain divided by what the control gains with the ``goal`` number of patients; None if unknown.
        minutes: Median duration of a training.
    """

    method: str
    labelled: int
    draws: int
    dice: float
    spread: float | None
    gain: float | None
    low: float | None
    high: float | None
    worst: float | None
    of_gap: float | None
    minutes: float


@dataclass(frozen=True, slots=True)
class Results:
    """All that is done of a study."""

    trainings: tuple[TrainingResult, ...]
    gains: tuple[Gain, ...]


def folder_of_cell(output: Path, cell: Cell) -> Path:
    """Return the folder of a training."""
    return output / RUNS / cell.name


def is_done(output: Path, cell: Cell) -> bool:
    """Tell whether a training was validated at its end."""
    return (folder_of_cell(output, cell) / SUMMARY).is_file()


def gather_cells(study: Study, output: Path) -> Results:
    """Read the scores of all trainings that are done, and compare each method with the control.

    Raises:
        UserError: A file of scores is damaged.
    """
    dice = {cell: _dice_of_patients(folder_of_cell(output, cell)) for cell in study.cells() if is_done(output, cell)}
    minutes = minutes_of(output)
    trainings = {
        cell: TrainingResult(**asdict(cell), dice=fmean(of.values()), minutes=minutes.get(cell.name, 0.0))
        for cell, of in dice.items()
    }
    gains = []
    for labelled in study.labelled:
        goal = [row.dice for row in trainings.values() if row.labelled == study.goal]
        there = [
            row.dice for row in trainings.values() if row.labelled == labelled and row.method == study.control.name
        ]
        gap = 0.0
        if goal and there:
            gap = fmean(goal) - fmean(there)
        for method in study.methods:
            pairs = _pairs(dice, method.name, study.control.name, labelled)
            if pairs:
                taken = median(trainings[ours].minutes for ours, _ in pairs)
                gains.append(_gain(dice, pairs, gap, taken))
    return Results(tuple(trainings.values()), tuple(gains))


def _pairs(dice: Dice, method: str, control: str, labelled: int) -> list[tuple[Cell, Cell]]:
    """Return pairs of a training of a method and that of the control with the same masks and seed, if both are done."""
    ours = [cell for cell in dice if (cell.method, cell.labelled) == (method, labelled)]
    pairs = [(cell, replace(cell, method=control)) for cell in ours]
    return [(cell, other) for cell, other in pairs if other in dice]


def _gain(dice: Dice, pairs: Sequence[tuple[Cell, Cell]], gap: float, minutes: float) -> Gain:
    """Compare a method with the control over all pairs at one number of labelled patients.

    Args:
        dice: The mean Dice of each validation patient, by training.
        pairs: A method's trainings, each with that of the control.
        gap: What the control gains by the study's goal; 0 or less if unknown.
        minutes: Median duration of the method's trainings.
    """
    ours = [cell for cell, _ in pairs]
    draws = _by_draw({cell: fmean(dice[cell].values()) for cell in ours})
    spread = None
    if len(draws) > 1:
        spread = stdev(draws)
    gain = low = high = worst = of_gap = None
    if ours[0] != pairs[0][1]:
        differences = _differences(dice, pairs)
        gain = float(differences.mean())
        low, high = crossed_interval(differences) or (None, None)
        worst = float(differences.mean(axis=1).min())
        if gap > 0:
            of_gap = gain / gap
    return Gain(
        method=ours[0].method,
        labelled=ours[0].labelled,
        draws=len(draws),
        dice=fmean(draws),
        spread=spread,
        gain=gain,
        low=low,
        high=high,
        worst=worst,
        of_gap=of_gap,
        minutes=minutes,
    )


def _by_draw(values: Mapping[Cell, float]) -> list[float]:
    """Return the mean over the seeds of each draw."""
    draws = defaultdict(list)
    for cell, value in values.items():
        draws[cell.draw].append(value)
    return [fmean(group) for group in draws.values()]


def _differences(dice: Dice, pairs: Sequence[tuple[Cell, Cell]]) -> NDArray[np.float64]:
    """Return the differences of Dice, method less control, ``[draws, patients]``.

    They are averaged over seeds, and only of patients who have a score in every training.
    """
    patients = sorted(set.intersection(*(set(dice[cell]) for pair in pairs for cell in pair)))
    columns = [_by_draw({ours: dice[ours][name] - dice[control][name] for ours, control in pairs}) for name in patients]
    return np.array(columns, dtype=np.float64).T


def _dice_of_patients(run: Path) -> dict[str, float]:
    """Return each patient's mean Dice over the cases and classes that have one."""
    found = defaultdict(list)
    for result in read_cases_csv(run / "cases.csv"):
        if result.dice is not None:
            found[result.patient or result.case].append(result.dice)
    return {patient: fmean(values) for patient, values in found.items()}


def minutes_of(output: Path) -> dict[str, float]:
    """Return the minutes that each training took, by its name; those of an interrupted one are added up.

    Raises:
        UserError: The file of times is damaged.
    """
    taken: dict[str, float] = defaultdict(float)
    path = output / TIMES
    if not path.exists():
        return taken
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for name, seconds in csv.reader(file):
                taken[name] += float(seconds) / 60
    except (ValueError, csv.Error) as error:
        problem = Problem(str(path), "damaged-study", f"is no table of times: {error}", "remove the file")
        raise UserError("The study's folder is not whole.", [problem]) from None
    return taken


def write_results(results: Results, folder: Output) -> None:
    """Write ``trainings.csv``, ``gains.csv``, the table ``results.md`` and, if there are trainings, ``results.png``."""
    with folder.writing(RESULTS) as stage:
        for name, kind, rows in (
            ("trainings.csv", TrainingResult, results.trainings),
            ("gains.csv", Gain, results.gains),
        ):
            write_csv(stage / name, [field.name for field in fields(kind)], map(asdict, rows))
        (stage / "results.md").write_text(table_of(results.gains), encoding="utf-8")
        if results.trainings:
            draw_study(stage / "results.png", results.trainings)


def table_of(gains: Sequence[Gain]) -> str:
    """Return the gains as a Markdown table; Dice and gains are in hundredths."""
    head = ("masks", "method", "draws", "Dice", "gain", "95 % interval", "worst draw", "of the gap", "min")
    rows = (head, ("---",) * len(head), *map(_cells, gains))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def _cells(row: Gain) -> tuple[str, ...]:
    """Return the cells of one row of the table."""
    dice = f"{100 * row.dice:.2f}"
    if row.spread is not None:
        dice += f" ± {100 * row.spread:.2f}"
    interval = ""
    if row.low is not None:
        interval = f"{_points(row.low)} to {_points(row.high)}"
    of_gap = ""
    if row.of_gap is not None:
        of_gap = f"{row.of_gap:.0%}"
    counts = (str(row.labelled), row.method, str(row.draws))
    return (*counts, dice, _points(row.gain), interval, _points(row.worst), of_gap, f"{row.minutes:.1f}")


def _points(value: float | None) -> str:
    if value is None:
        return ""
    return f"{100 * value:+.2f}"
