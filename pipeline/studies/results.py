"""The results of a study: the Dice of each training, and the gain of each method over the control with its interval."""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import asdict, dataclass, fields, replace
from statistics import fmean, median
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import Problem, UserError
from pipeline.reports.crossed import crossed_interval
from pipeline.reports.files import read_cases_csv, write_csv
from pipeline.reports.pairs import patient_means, side_of, tables_of
from pipeline.runs.stored import SUMMARY
from pipeline.studies.plot import draw_study

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pipeline.outputs import Output
    from pipeline.reports.intervals import Numbers
    from pipeline.reports.pairs import Side
    from pipeline.studies.grid import Cell, Study

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
        dice: Mean over the validation patients of the mean over their cases and classes; None where none has a number.
        minutes: Elapsed time.
    """

    method: str
    labelled: int
    draw: int
    seed: int
    dice: float | None
    minutes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """One method at one number of labelled patients.

    Attributes:
        method: The name of the method.
        labelled: Number of patients with masks.
        draws: Number of draws in which this method and the control are done with the same seeds.
        dice: Mean Dice over these draws, in which a structure that is absent, and that another training of so many
            patients invents, counts 1.
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
    sides = {
        cell: side_of(read_cases_csv(folder_of_cell(output, cell) / "cases.csv"))
        for cell in study.cells()
        if is_done(output, cell)
    }
    minutes = minutes_of(output)
    trainings = {}
    for cell, side in sides.items():
        alone = _dice_of_patients({cell: side})
        dice = float(alone[cell].mean()) if alone else None
        trainings[cell] = TrainingResult(**asdict(cell), dice=dice, minutes=minutes.get(cell.name, 0.0))
    gains = []
    for labelled in study.labelled:
        goal = [row.dice for row in trainings.values() if row.labelled == study.goal and row.dice is not None]
        values = _dice_of_patients({cell: side for cell, side in sides.items() if cell.labelled == labelled})
        there = [own for cell, own in values.items() if cell.method == study.control.name]
        gap = 0.0
        if goal and there:
            gap = fmean(goal) - float(np.mean(there))
        for method in study.methods:
            pairs = _pairs(values, method.name, study.control.name)
            if pairs:
                taken = median(trainings[ours].minutes for ours, _ in pairs)
                gains.append(_gain(values, pairs, gap, taken))
    return Results(tuple(trainings.values()), tuple(gains))


def _pairs(dice: Mapping[Cell, Numbers], method: str, control: str) -> list[tuple[Cell, Cell]]:
    """Return pairs of a training of a method and that of the control with the same masks and seed, if both are done."""
    pairs = [(cell, replace(cell, method=control)) for cell in dice if cell.method == method]
    return [(cell, other) for cell, other in pairs if other in dice]


def _gain(dice: Mapping[Cell, Numbers], pairs: Sequence[tuple[Cell, Cell]], gap: float, minutes: float) -> Gain:
    """Compare a method with the control over all pairs at one number of labelled patients.

    Args:
        dice: The mean Dice of each validation patient, by training.
        pairs: A method's trainings, each with that of the control.
        gap: What the control gains by the study's goal; 0 or less if unknown.
        minutes: Median duration of the method's trainings.
    """
    ours = [cell for cell, _ in pairs]
    draws = _by_draw({cell: dice[cell] for cell in ours}).mean(axis=1)
    spread = None
    if len(draws) > 1:
        spread = float(draws.std(ddof=1))
    gain = low = high = worst = of_gap = None
    if ours[0] != pairs[0][1]:
        differences = _by_draw({cell: dice[cell] - dice[control] for cell, control in pairs})
        gain = float(differences.mean())
        low, high = crossed_interval(differences) or (None, None)
        worst = float(differences.mean(axis=1).min())
        if gap > 0:
            of_gap = gain / gap
    return Gain(
        method=ours[0].method,
        labelled=ours[0].labelled,
        draws=len(draws),
        dice=float(draws.mean()),
        spread=spread,
        gain=gain,
        low=low,
        high=high,
        worst=worst,
        of_gap=of_gap,
        minutes=minutes,
    )


def _by_draw(values: Mapping[Cell, Numbers]) -> Numbers:
    """Return ``[draws, patients]``, the mean over the seeds of each draw."""
    draws = defaultdict(list)
    for cell, of_patients in values.items():
        draws[cell.draw].append(of_patients)
    return np.array([np.mean(group, axis=0) for group in draws.values()], dtype=np.float64)


def _dice_of_patients(sides: Mapping[Cell, Side]) -> dict[Cell, Numbers]:
    """Return the mean Dice of each patient in each training, of the cases and classes that all trainings have.

    Where a training invents a structure that is absent, it counts 1 in those that do not. Without any patient who has a
    number there is nothing.
    """
    common = sorted(set.intersection(*map(set, sides.values()))) if sides else []
    if not common:
        return {}
    patients = {case: next(iter(sides.values()))[case, label].patient or case for case, label in common}
    labels = sorted({label for _, label in common})
    found = [{key: side[key] for key in common} for side in sides.values()]
    values = patient_means(tables_of(found, list(patients), labels, "dice"), list(patients.values()))
    return dict(zip(sides, values, strict=True)) if values.size else {}


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
    """Write ``trainings.csv``, ``gains.csv``, ``results.md`` and, if a training has a figure, ``results.png``."""
    with folder.writing(RESULTS) as stage:
        for name, kind, rows in (
            ("trainings.csv", TrainingResult, results.trainings),
            ("gains.csv", Gain, results.gains),
        ):
            write_csv(stage / name, [field.name for field in fields(kind)], map(asdict, rows))
        (stage / "results.md").write_text(as_markdown(results.gains), encoding="utf-8")
        if any(row.dice is not None for row in results.trainings):
            draw_study(stage / "results.png", results.trainings)


def as_markdown(gains: Sequence[Gain]) -> str:
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
