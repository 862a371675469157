"""The scores of one recipe trained with several seeds: the mean over trainings, and how far they differ by chance.

``seeds.json`` in the folder of such trainings:

    {"n": 5,                                 trainings
     "dice": {"mean": 0.81, "std": 0.01,     of the trainings' mean Dice; std with n - 1
       "min": 0.79, "max": 0.82},
     "classes": [{"name": "organ", "mean": 0.9, …}, …]}

``seeds.csv`` has a row for each training.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from pipeline.reports.files import read_cases_csv, write_csv
from pipeline.reports.summary import summarise
from pipeline.runs.stored import SUMMARY
from pipeline.strict_json import write_json
from pipeline.studies.results import minutes_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.outputs import Output

TABLES = ("seeds.csv", "seeds.json")


@dataclass(frozen=True, slots=True)
class SeedResult:
    """One training.

    Attributes:
        seed: Its seed.
        dice: Mean over classes of the mean over validation cases; None if no class has a number.
        classes: Mean Dice of each class by name; likewise.
        minutes: Elapsed time.
    """

    seed: int
    dice: float | None
    classes: dict[str, float | None]
    minutes: float


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean, standard deviation (None of a single number), least and greatest of trainings' Dice."""

    mean: float
    std: float | None
    min: float
    max: float


def folder_of_seed(output: Path, seed: int) -> Path:
    """Return the folder of the training with a seed."""
    return output / f"seed-{seed}"


def gather_seeds(output: Path, seeds: Sequence[int]) -> list[SeedResult]:
    """Read the scores of the trainings that are done.

    Raises:
        UserError: A file of scores, or that of times, is damaged.
    """
    minutes = minutes_of(output)
    results = []
    for seed in seeds:
        place = folder_of_seed(output, seed)
        if (place / SUMMARY).is_file():
            summary = summarise(read_cases_csv(place / "cases.csv"))
            classes = {row.name: row.dice.mean for row in summary.classes}
            results.append(SeedResult(seed, summary.mean_dice, classes, minutes.get(place.name, 0.0)))
    return results


def spread_of(values: Sequence[float | None]) -> Spread | None:
    """Return the mean and the spread of trainings' Dice; None if none has a number.

    >>> spread_of([0.5, 0.75, 1.0, None])
    Spread(mean=0.75, std=0.25, min=0.5, max=1.0)
    """
    known = [value for value in values if value is not None]
    if not known:
        return None
    std = stdev(known) if len(known) > 1 else None
    return Spread(mean=fmean(known), std=std, min=min(known), max=max(known))


def spreads(results: Sequence[SeedResult]) -> dict[str, Spread | None]:
    """Return the spread of each class by name, and under "" that of the mean over classes."""
    names = dict.fromkeys(name for row in results for name in row.classes)
    by_class = {name: spread_of([row.classes.get(name) for row in results]) for name in names}
    return by_class | {"": spread_of([row.dice for row in results])}


def write_spreads(results: Sequence[SeedResult], folder: Output) -> None:
    """Write both tables."""
    found = spreads(results)
    names = [name for name in found if name]
    rows = [
        {"seed": row.seed, "dice": row.dice, "minutes": round(row.minutes, 2)}
        | {f"dice of {name}": row.classes.get(name) for name in names}
        for row in results
    ]
    content = {
        "n": len(results),
        "dice": _plain(found[""]),
        "classes": [{"name": name} | _plain(found[name]) for name in names],
    }
    with folder.writing(TABLES) as stage:
        write_csv(stage / "seeds.csv", ["seed", "dice", *(f"dice of {name}" for name in names), "minutes"], rows)
        write_json(stage / "seeds.json", content)


def _plain(spread: Spread | None) -> dict[str, float | None]:
    if spread is None:
        return dict.fromkeys(("mean", "std", "min", "max"))
    return {"mean": spread.mean, "std": spread.std, "min": spread.min, "max": spread.max}
