"""Make a cross-validation of folds that were trained apart, with ``data.fold: [N, K]`` in a recipe."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from pipeline.config import written
from pipeline.decisions import NONE
from pipeline.errors import Problem, UserError
from pipeline.files import LOCK, PARTIAL
from pipeline.planning.augmentation import CHOSEN
from pipeline.recipe import Recipe
from pipeline.runs.cross_validation import score_folds, write_folds
from pipeline.runs.folder import CACHE, STOP, RunFolder, fold_folder
from pipeline.runs.resuming import covers, differing_keys, differing_settings, flat, other_scans
from pipeline.runs.splitting import check_dataset_of, pool_of
from pipeline.runs.stored import SUMMARY, read_config, read_decisions, read_index
from pipeline.terminal import note

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.runs.scoring import Scores

# What a fold's run need not take along.
LEFT = (CACHE, STOP, LOCK, "tensorboard", "wandb", f"{PARTIAL}*")
# Keys in which folds may differ: the fold itself, and what each chose for the machine that it was trained on.
OWN = ("data.fold", "data.split_fold", "device", "validate_every", "network.memory_format", "data.resident")
# What a plan may choose otherwise from the training cases of another fold, or from the time that they leave.
PLANNED = (
    *(f"data.{key}" for key in ("dimensions", "orientation", "spacing_mm", "crop_to_body", "normalization")),
    *(f"data.{key}" for key in ("patch_size", "batch_size", "unlabelled_batch_size", "accumulate", "units")),
    *(f"augmentation.{key}" for key in CHOSEN),
    *(f"network.options.{key}" for key in ("channels", "strides", "kernels")),
    "max_steps",
)


def join(folds: Sequence[Path], run: Path) -> list[Scores]:
    """Copy runs that were each trained with another fold of one recipe into a cross-validation, and score that.

    The folder is that of ``train --folds`` with ``postprocessing: []``: the folds keep the post-processing that their
    runs have, which has to be the same in all.

    Args:
        folds: The folders of the runs, in any order.
        run: The folder to make.

    Returns:
        As :func:`pipeline.runs.folds.cross_validate`.

    Raises:
        UserError: They are not all folds of one recipe and one dataset, or not finished; or the folder is there.
    """
    if run.exists() and (not run.is_dir() or any(run.iterdir())):
        problem = Problem(str(run), "in-the-way", "is there, and is not empty", "name another --output")
        raise UserError("Nothing was joined.", [problem])
    recipes = {place: read_config(place) for place in folds}
    if problems := [*_not_each_fold(folds, recipes), *_unlike(recipes)]:
        raise UserError("Nothing was joined.", problems)
    first = next(iter(recipes))
    recipe = _common(recipes)
    index = check_dataset_of(recipe, read_index(first))
    everything = pool_of(recipe, index, len(recipes))
    run.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=PARTIAL, dir=run.parent) as temporary:
        folder = RunFolder(Path(temporary) / run.name)
        folder.path.mkdir()
        for place, its_own in recipes.items():
            number, _ = its_own.data.fold or (0, 0)
            shutil.copytree(place, fold_folder(folder.path, number), ignore=shutil.ignore_patterns(*LEFT))
        folder.take()
        write_folds(folder, recipe, index, everything, len(recipes), NONE.begun_with(read_decisions(first).taken))
        folder.path.replace(run)
    return score_folds(run)


def _not_each_fold(folds: Sequence[Path], recipes: dict[Path, Recipe]) -> list[Problem]:
    """Return what keeps runs from being all folds of a cross-validation, each once."""
    remedy = "give all K folds once, each trained with data.fold=[N,K]"
    problems = []
    seen: dict[int, Path] = {}
    for place in folds:
        number, count = recipes[place].data.fold or (0, 0)
        if not number:
            what = "is no fold of a cross-validation"
            if recipes[place].data.split_fold is not None:
                what = f"{what}, but a training by itself (data.split_fold)"
                how = f"{remedy} in the place of data.split_fold, where K is how many the file of data.split has"
                problems.append(Problem(str(place), "not-each-fold", what, how))
            else:
                problems.append(Problem(str(place), "not-each-fold", what, remedy))
        elif count != len(folds):
            what = f"is fold {number} of {count}, and {len(folds)} are given"
            problems.append(Problem(str(place), "not-each-fold", what, remedy))
        elif number in seen:
            problems.append(Problem(str(place), "not-each-fold", f"is fold {number}, as {seen[number]} is", remedy))
        elif not (place / SUMMARY).is_file():
            going_on = f"go on with it: fewmask train {place / 'config.yaml'} --output {place} --resume"
            problems.append(Problem(str(place), "not-finished", "is not trained to its end", going_on))
        seen[number] = place
    return problems


def _common(recipes: dict[Path, Recipe]) -> Recipe:
    """Return the recipe of all folds, in which what was planned otherwise for one of them is ``auto`` again."""
    recipe, *others = recipes.values()
    own = flat(written(recipe))
    differing = {key for other in others for key in differing_settings(own, flat(written(other)))}
    planned = {key for key in differing if any(covers(name, key) for name in PLANNED)}
    if planned:
        note(f"each fold is planned from its own training cases: they differ in {', '.join(sorted(planned))}")
    content = recipe.model_dump()
    content["data"] |= {"fold": None, "split_fold": None}
    for key in planned:
        *sections, last = key.split(".")
        section = content
        for name in sections:
            section = section[name]
        section[last] = "auto"
    return Recipe.model_validate(content)


def _unlike(recipes: dict[Path, Recipe]) -> list[Problem]:
    """Return in what runs differ from the first in more than the fold and what follows from its cases."""
    first, recipe = next(iter(recipes.items()))
    scans = read_index(first)
    problems = []
    for place, other in recipes.items():
        keys = differing_keys(flat(written(recipe)), flat(written(other)), (*OWN, *PLANNED))
        steps = [key for key in keys if covers("postprocessing", key)]
        if steps:
            how = f"fewmask train {place} --resume 'postprocessing=[]' --allow-change postprocessing"
            found = Problem(str(place), "changed", "has another post-processing", f"take it out of each fold: {how}")
            problems.append(found)
        fold = "[{},{}]".format(*other.data.fold or ("N", "K"))
        remedy = f"train it as {first} was: fewmask train {first / 'config.yaml'} data.fold={fold} --output NEW"
        if rest := [key for key in keys if key not in steps]:
            problems.append(Problem(str(place), "changed", f"has another {', '.join(rest)}", remedy))
        if cases := other_scans(scans, read_index(place)):
            problems.append(Problem(str(place), "scans-changed", f"has other scans, such as {cases[0]}", remedy))
    return problems
