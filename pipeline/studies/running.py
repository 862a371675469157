"""Run a study: every training of its grid that is not done yet. Several processes may share the trainings."""

from __future__ import annotations

import csv
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import config
from pipeline.data.layouts import read_dataset
from pipeline.decisions import NONE
from pipeline.errors import Problem, UserError
from pipeline.files import HELD, atomic_write, is_held
from pipeline.outputs import Output
from pipeline.runs.requests import parse_request
from pipeline.runs.starting import train
from pipeline.shards import WHOLE
from pipeline.strict_json import write_json
from pipeline.strict_yaml import write_yaml
from pipeline.studies.grid import Study
from pipeline.studies.lists import draw_lists
from pipeline.studies.results import RESULTS, TIMES, Results, folder_of_cell, gather_cells, is_done, write_results
from pipeline.terminal import note

if TYPE_CHECKING:
    from pipeline.decisions import Decisions
    from pipeline.recipe import Recipe
    from pipeline.shards import Shard
    from pipeline.studies.grid import Cell, Method

OWNER = "study"
STUDY = "study.yaml"
LISTS = "lists"


def run_study(study: Study, output: Path, shard: Shard = WHOLE) -> Results:
    """Run the trainings of a study that are not done, and write its tables after each.

    Other processes with the same folder run other trainings meanwhile. An interrupted training is resumed. Numbers of
    patients, draws, seeds and methods may be added to the study's file at any time.

    Args:
        study: The study.
        output: Its folder, for ``study.yaml``, ``lists/``, ``runs/METHOD/…``, ``times.csv`` and the results.
        shard: Run only this share of the trainings.

    Returns:
        The results of all trainings that are done.

    Raises:
        UserError: A recipe or the dataset has problems; the folder holds another study or other files; or trainings
            have failed, which is raised once all others are done.
    """
    recipes = {cell: _recipe(study, cell, output) for cell in study.cells()}
    folder = Output(output, OWNER)
    folder.refuse_foreign((STUDY, TIMES, *RESULTS))
    _refuse_other(study, output)
    lists = _lists(study, output)
    output.mkdir(parents=True, exist_ok=True)
    folder.own((STUDY, TIMES))
    _write_lists(output, lists)
    with atomic_write(output / STUDY) as partial:
        partial.write_text(write_yaml(study.model_dump(mode="json")), encoding="utf-8")
    failed: list[Problem] = []
    for number, (cell, recipe) in shard.of([*enumerate(recipes.items(), 1)]):
        if is_done(output, cell):
            continue
        note(f"{number} of {len(recipes)}: {cell.name}")
        failed += train_one(recipe, folder_of_cell(output, cell), output, cell.name)
        write_results(gather_cells(study, output), folder)
    results = gather_cells(study, output)
    write_results(results, folder)
    if failed:
        raise UserError(f"{len(failed)} of {len(recipes)} trainings failed; the others are done.", failed)
    return results


def train_one(
    recipe: Recipe,
    place: Path,
    output: Path,
    name: str,
    *,
    started: float | None = None,
    decided: Decisions = NONE,
) -> list[Problem]:
    """Run or resume one of several trainings, and return its problems, so that the others can go on.

    Args:
        recipe: The recipe.
        place: The training's own folder.
        output: The folder of all of them, whose ``times.csv`` gets the seconds that it takes.
        name: What it is called there, and in problems.
        started: As for :func:`train`.
        decided: As for :func:`train`.

    Returns:
        The problems; none if it succeeded, or if another process is running it.
    """
    began = time.monotonic()
    try:
        if place.is_dir() and is_held(place):  # This is found out before the dataset is checked.
            return []
        train(recipe, place, resume=True, started=started, decided=decided)
    except UserError as error:
        told = error.problems or [Problem("training", "failed", str(error), "mend it, and repeat the command")]
        found = [replace(problem, where=f"{name}: {problem.where}") for problem in told if problem.code != HELD]
        if found:  # All are listed in the end, which may be days away.
            note(f"{name} failed: {found[0].message}")
            _write_time(output, name, began)
        return found
    except BaseException:
        _write_time(output, name, began)
        raise
    _write_time(output, name, began)
    return []


def _write_time(output: Path, name: str, began: float) -> None:
    """Add the seconds that a training, or a part of an interrupted one, has taken."""
    with (output / TIMES).open("a", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerow([name, f"{time.monotonic() - began:.1f}"])


def _recipe(study: Study, cell: Cell, output: Path) -> Recipe:
    method = next(method for method in study.methods if method.name == cell.method)
    own: dict[str, Any] = {"seed": cell.seed}
    if study.has_lists:
        own["dataset"] = str(study.list_of(cell.labelled, cell.draw))
    else:
        place = _list_place(output, cell)
        own["dataset"] = str(place)
        own["root"] = place.anchor
        own["layout"] = "auto"  # Of the list; what the settings say of the layout is that of the dataset.
    if "data.cache" not in study.settings | method.settings:
        own["data.cache"] = str((output / "cache").resolve())
    return _read(method, study.settings | method.settings | own)


def _read(method: Method, settings: dict[str, Any]) -> Recipe:
    path = config.shipped().get(method.recipe, Path(method.recipe))
    overrides = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    return parse_request(config.read(path, overrides), f"of {method.name}").recipe


def _list_place(output: Path, cell: Cell) -> Path:
    return output.resolve() / LISTS / f"{cell.labelled:03d}-draw{cell.draw}.json"


def _lists(study: Study, output: Path) -> dict[Path, dict[str, Any]]:
    """Return the lists to write, by path; none if the study has lists, which are read once to find mistakes."""
    if not study.has_lists:
        counts: dict[int, list[int]] = {}
        for cell in study.cells():
            counts.setdefault(cell.labelled, []).append(cell.draw)
        recipe = _read(study.methods[0], study.settings | {"dataset": study.dataset})
        dataset = read_dataset(recipe.dataset, recipe.root, recipe.layout.name, recipe.layout.options)
        drawn = draw_lists(dataset, {count: tuple(dict.fromkeys(draws)) for count, draws in counts.items()})
        return {output / LISTS / f"{count:03d}-draw{draw}.json": content for (count, draw), content in drawn.items()}
    for path in dict.fromkeys(study.list_of(cell.labelled, cell.draw) for cell in study.cells()):
        read_dataset(path)
    return {}


def _write_lists(output: Path, lists: dict[Path, dict[str, Any]]) -> None:
    (output / LISTS).mkdir(exist_ok=True)
    with Output(output / LISTS, OWNER).writing([path.name for path in lists]) as stage:
        for path, content in lists.items():
            write_json(stage / path.name, content)


def _refuse_other(study: Study, output: Path) -> None:
    """Refuse the folder of a study with another dataset, other settings, or another method of the same name."""
    if not (output / STUDY).is_file():
        return
    there = config.read_section(Study, output / STUDY)
    methods = {method.name: method for method in there.methods}
    changed = [method.name for method in study.methods if methods.get(method.name, method) != method]
    changed += [key for key in ("dataset", "settings") if getattr(there, key) != getattr(study, key)]
    if changed:
        message = f"holds a study that differs in {', '.join(changed)}"
        problem = Problem(str(output), "study-differs", message, "name another --output")
        raise UserError("Nothing was started.", [problem])
