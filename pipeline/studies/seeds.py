"""One recipe trained with several seeds on the same split: the mean over trainings, and how far they differ by chance.

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
from typing import TYPE_CHECKING, Any

from pipeline.bounds import seconds_of
from pipeline.config import dump, read, written
from pipeline.decisions import NONE
from pipeline.errors import Problem, UserError
from pipeline.files import atomic_write, locked
from pipeline.outputs import Output
from pipeline.reports.files import read_cases_csv, write_csv
from pipeline.reports.summary import summarise
from pipeline.runs.folder import RunFolder
from pipeline.runs.planning import absolute
from pipeline.runs.stored import SUMMARY
from pipeline.strict_json import write_json
from pipeline.studies.results import TIMES, minutes_of
from pipeline.studies.running import train_one
from pipeline.terminal import note

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.decisions import Decisions
    from pipeline.recipe import Recipe

OWNER = "seeds"
TABLES = ("seeds.csv", "seeds.json")
RECIPE = "recipe.yaml"
# The share of a time budget that the trainings divide; the rest is for what lies between them.
SEEDS_SHARE = 0.98


@dataclass(frozen=True, slots=True)
class SeedResult:
    """One training.

    Attributes:
        seed: Its seed.
        dice: Mean over classes of the mean over validation patients; None if no class has a number.
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


def place_of(output: Path, seed: int) -> Path:
    """Return the folder of the training with a seed."""
    return output / f"seed-{seed}"


def train_seeds(
    recipe: Recipe,
    output: Path,
    count: int,
    *,
    resume: bool = False,
    started: float | None = None,
    decided: Decisions = NONE,
) -> list[SeedResult]:
    """Train a recipe with its seed and those that follow it, each in a run of its own below ``output``.

    All have the same cases to validate on and share one cache; a time budget is divided among them.

    Args:
        recipe: The recipe.
        output: The folder, for ``seed-0`` and so on, ``seeds.csv``, ``seeds.json``, ``recipe.yaml`` and ``times.csv``.
        count: Number of trainings, 2 or more.
        resume: Go on with the trainings that the folder holds; there may be more of them now.
        started: As for :func:`pipeline.runs.starting.train`.
        decided: As there, in every training.

    Returns:
        The results of those that were validated.

    Raises:
        UserError: The recipe validates nothing, or leaves no room for so many seeds; the folder holds such trainings
            and ``resume`` is off, or other files; or trainings have failed, which is raised once all others are done.
    """
    recipe = absolute(recipe)
    _refuse(recipe, output, count, resume=resume)
    folder = Output(output, OWNER)
    output.mkdir(parents=True, exist_ok=True)
    seeds = range(recipe.seed, recipe.seed + count)
    failed: list[Problem] = []
    with locked(output):
        folder.own((TIMES, RECIPE))
        with atomic_write(output / RECIPE) as partial:
            partial.write_text(dump(recipe), encoding="utf-8")
        for number, seed in enumerate(seeds, 1):
            place = place_of(output, seed)
            if (place / SUMMARY).is_file():
                continue
            note(f"training {number} of {count}: seed {seed}")
            its_own = _recipe_of(recipe, output, seed, count)
            begun = started if number == 1 else None
            failed += train_one(its_own, place, output, f"seed-{seed}", started=begun, decided=decided)
            _write(gather(output, seeds), folder)
    if failed:
        raise UserError(f"{len(failed)} of {count} trainings failed; the others are done.", failed)
    return gather(output, seeds)


def gather(output: Path, seeds: Sequence[int]) -> list[SeedResult]:
    """Read the scores of the trainings that are done.

    Raises:
        UserError: A file of scores, or that of times, is damaged.
    """
    minutes = minutes_of(output)
    results = []
    for seed in seeds:
        place = place_of(output, seed)
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


def _refuse(recipe: Recipe, output: Path, count: int, *, resume: bool) -> None:
    """Refuse what cannot be trained several times, before anything is written."""
    problems = []
    if count < 2:
        problems.append(Problem("--seeds", "too-few", f"is {count}", "give 2 or more"))
    if recipe.data.validation == "none":
        message = "is none, so that no training has a figure to compare"
        problems.append(Problem("data.validation", "bad-recipe", message, "leave it out, or leave out --seeds"))
    if recipe.seed + count > 2**32:
        problems.append(Problem("seed", "bad-recipe", f"is {recipe.seed}, and {count} follow", "give a smaller one"))
    if RunFolder(output).holds_run:
        problems.append(Problem(str(output), "run-exists", "this folder holds a run", "name another --output"))
    elif not resume and any(output.glob("seed-*")):
        remedy = "add --resume to go on with them, or name another --output"
        problems.append(Problem(str(output), "run-exists", "this folder holds trainings of several seeds", remedy))
    else:
        problems += _other_recipe(recipe, output)
    if problems:
        raise UserError("Nothing was started.", problems)
    Output(output, OWNER).refuse_foreign((TIMES, RECIPE, *TABLES))


def _other_recipe(recipe: Recipe, output: Path) -> list[Problem]:
    """Return the problem that the trainings that are there have another recipe; none if there are none."""
    if not (output / RECIPE).is_file():
        return []
    there = read(output / RECIPE)
    asked = written(recipe)
    changed = sorted(key for key in there.keys() | asked.keys() if there.get(key) != asked.get(key))
    if not changed:
        return []
    message = f"holds trainings in which {', '.join(changed)} is another"
    return [Problem(str(output), "recipe-differs", message, "name another --output")]


def _recipe_of(recipe: Recipe, output: Path, seed: int, count: int) -> Recipe:
    data = recipe.data
    # Each validates on the cases that the recipe's own seed draws.
    split_seed = recipe.seed if data.split_seed is None and data.split is None else data.split_seed
    cache = output.resolve() / "cache" if data.cache == "run" else data.cache
    changed: dict[str, Any] = {
        "seed": seed,
        "data": data.model_copy(update={"split_seed": split_seed, "cache": cache}),
    }
    if recipe.time_budget is not None:
        changed["time_budget"] = f"{SEEDS_SHARE * seconds_of(recipe.time_budget) / count:.1f}s"
    return recipe.model_copy(update=changed)


def _write(results: Sequence[SeedResult], folder: Output) -> None:
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
