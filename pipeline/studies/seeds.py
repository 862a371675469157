"""One recipe trained with several seeds on the same split, each training a run of its own."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

from pipeline.config import dump, read, written
from pipeline.decisions import NONE
from pipeline.errors import Problem, UserError
from pipeline.files import atomic_write, locked
from pipeline.outputs import Output
from pipeline.runs.cross_validation import recipe_of_part
from pipeline.runs.folder import RunFolder
from pipeline.runs.planning import absolute
from pipeline.runs.resuming import differing_keys, flat
from pipeline.runs.stored import SUMMARY
from pipeline.shards import WHOLE
from pipeline.studies.results import TIMES
from pipeline.studies.running import train_one
from pipeline.studies.spreads import TABLES, SeedResult, folder_of_seed, gather_seeds, write_spreads
from pipeline.terminal import note

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.decisions import Decisions
    from pipeline.recipe import Recipe
    from pipeline.shards import Shard

OWNER = "seeds"
RECIPE = "recipe.yaml"
# The share of a time budget that the trainings divide; the rest is for what lies between them.
SEEDS_SHARE = 0.98


def train_seeds(
    recipe: Recipe,
    output: Path,
    count: int,
    *,
    resume: bool = False,
    started: float | None = None,
    decided: Decisions = NONE,
    shard: Shard = WHOLE,
) -> list[SeedResult]:
    """Train a recipe with its seed and those that follow it, each in a run of its own below ``output``.

    All have the same cases to validate on and share one cache; a time budget is divided among those of a call. Calls
    that run side by side with ``resume`` leave to each other what another one trains.

    Args:
        recipe: The recipe.
        output: The folder, for ``seed-0`` and so on, ``seeds.csv``, ``seeds.json``, ``recipe.yaml`` and ``times.csv``.
        count: Number of trainings, 2 or more.
        resume: Go on with the trainings that the folder holds; there may be more of them now.
        started: As for :func:`pipeline.runs.starting.train`.
        decided: As there, in every training.
        shard: Train only this share of the seeds.

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
    with locked(output, wait=True):
        folder.own((TIMES, RECIPE))
        with atomic_write(output / RECIPE) as partial:
            partial.write_text(dump(recipe), encoding="utf-8")
    together = ceil(count / shard.count)  # They are trained one after the other, and divide the time.
    for number, seed in shard.of([*enumerate(seeds, 1)]):
        place = folder_of_seed(output, seed)
        if (place / SUMMARY).is_file():
            continue
        note(f"training {number} of {count}: seed {seed}")
        its_own = _recipe_of(recipe, output, seed, together)
        begun = started if number == shard.place else None
        failed += train_one(its_own, place, output, f"seed-{seed}", started=begun, decided=decided)
        write_spreads(gather_seeds(output, seeds), folder)
    if failed:
        raise UserError(f"{len(failed)} of {count} trainings failed; the others are done.", failed)
    return gather_seeds(output, seeds)


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
    changed = differing_keys(flat(read(output / RECIPE)), flat(written(recipe)))
    if not changed:
        return []
    message = f"holds trainings that differ in {', '.join(changed)}"
    return [Problem(str(output), "recipe-differs", message, "name another --output")]


def _recipe_of(recipe: Recipe, output: Path, seed: int, together: int) -> Recipe:
    part = recipe_of_part(recipe, output, folder_of_seed(output, seed), SEEDS_SHARE / together)
    data = part.data
    if data.split_seed is None and data.split is None:  # Each validates on the cases that the recipe's own seed draws.
        data = data.model_copy(update={"split_seed": recipe.seed})
    return part.model_copy(update={"seed": seed, "data": data})
