"""Read what is to be trained, a recipe, a dataset or a checkpoint, and report every mistake in it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import config
from pipeline.archives import load_checkpoint
from pipeline.checkpoints import Checkpoint
from pipeline.data.codes import is_warning
from pipeline.data.layouts import read_dataset
from pipeline.decisions import NONE
from pipeline.distributed import launched
from pipeline.errors import Problem, UserError
from pipeline.plugins import load_plugins
from pipeline.runs.components import COMPONENTS
from pipeline.runs.folder import is_run
from pipeline.runs.stored import CONFIG, read_written_of
from pipeline.terminal import note

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.decisions import Decisions
    from pipeline.recipe import Recipe


# The ending of a checkpoint's name.
CHECKPOINT = ".pt"
# Settings of the command line that take more letters than this are counted in messages.
MOST_TOLD = 60


@dataclass(frozen=True)
class Request:
    """What is to be trained.

    Attributes:
        recipe: The recipe.
        decided: The decisions of the run that the recipe is from; with them that run is repeated bit for bit.
        start: The checkpoint to start from; None starts with new weights.
    """

    recipe: Recipe
    decided: Decisions = NONE
    start: Checkpoint | None = None


def read_recipe(source: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe with its overrides, load its plugins, and check everything in it.

    Args:
        source: A recipe's file, the name of a shipped recipe, a dataset, for which a shipped recipe is chosen, or a
            checkpoint, whose own recipe is read.
        overrides: ``key=value`` settings, which replace the recipe's own.

    Raises:
        UserError: The recipe has mistakes, with all of them; or there is nothing of that name.
    """
    return _read(source, overrides).recipe


def read_request(
    source: Path, overrides: Sequence[str] = (), folds: int | None = None, seeds: int | None = None
) -> Request:
    """Read a recipe as :func:`read_recipe` does, and the decisions and the checkpoint that come with it.

    Args:
        source: As for :func:`read_recipe`.
        overrides: As for :func:`read_recipe`.
        folds: The number of folds of a cross-validation; None for a single run.
        seeds: The number of trainings of several seeds; None for a single run.

    Raises:
        UserError: As for :func:`read_recipe`; or the source is a checkpoint, from which neither a time budget, nor a
            cross-validation, nor several trainings can start, nor a network with another model's weights; or several
            processes were started for more than one training.
    """
    refuse_several(folds, seeds)
    request = _read(source, overrides)
    told = {
        "time_budget": request.recipe.time_budget,
        "start": request.recipe.start,
        "--folds": folds,
        "--seeds": seeds,
    }
    problems = [
        Problem(key, "not-from-the-start", "is for a training from its first step on", "leave it out")
        for key, value in told.items()
        if value is not None
    ]
    if request.start and problems:
        raise UserError("Nothing was started.", problems)
    return request


def refuse_several(folds: int | None, seeds: int | None) -> None:
    """Refuse folds or seeds in one of several processes, which were started for one training.

    Raises:
        UserError: As it says.
    """
    if launched() == 1:
        return
    apart = {
        "--folds": "train folds apart, each with data.fold=[N, FOLDS] and an --output of its own",
        "--seeds": "train seeds apart, each with seed=N and an --output of its own",
    }
    message = f"makes one training after the other, and {launched()} processes were started for one training"
    problems = [
        Problem(key, "not-shared", message, f"{apart[key]}, or start one process")
        for key, count in {"--folds": folds, "--seeds": seeds}.items()
        if count is not None
    ]
    if problems:
        raise UserError("Nothing was started.", problems)


def _read(source: Path, overrides: Sequence[str]) -> Request:
    if source.suffix == CHECKPOINT:
        start = Checkpoint(source, load_checkpoint(source))
        return replace(parse_request(_of_checkpoint(start, overrides), _called(source, overrides)), start=start)
    path = config.find(source)
    if path is not None:
        return parse_request(config.read(path, overrides), _called(path, overrides))
    return Request(_recipe_for(source, overrides))


def _called(recipe: Path | str, overrides: Sequence[str]) -> str:
    """Return what to call a recipe in messages: a mistake in it may be one of the command line."""
    told = " ".join(overrides)
    if len(told) > MOST_TOLD:
        told = f"{len(overrides)} settings of its own"
    return " with ".join([str(recipe), *filter(None, [told])])


def parse_request(raw: dict[str, Any], source: str) -> Request:
    """Load the plugins that raw keys and values name, and parse these into a recipe and decisions.

    Args:
        raw: The recipe, and perhaps the decisions of its run.
        source: What to call it in messages.

    Raises:
        UserError: The recipe has mistakes; with all of them.
    """
    return Request(_parse(raw, source), config.parse_decisions(raw, source))


def _recipe_for(source: Path, overrides: Sequence[str]) -> Recipe:
    """Return the shipped recipe that suits a dataset, and note its name on the terminal."""
    if given := [override for override in overrides if override.startswith("dataset=")]:
        message = f"is given twice: {source}, and {given[0]}"
        raise UserError("Nothing was trained.", [Problem("dataset", "bad-override", message, "leave one out")])
    if is_run(source):
        own = source / CONFIG
        remedy = f"go on with it: {own} --output {source} --resume; train anew as it was: {own} --output NEW; or begin "
        remedy += f"with its weights: a recipe, and start={source}"
        raise UserError("Nothing was trained.", [Problem(str(source), "run-as-data", "is a run's folder", remedy)])
    recipe = _parse(_for(source, "semisupervised", overrides), _called(f"for {source}", overrides))
    dataset = read_dataset(source, recipe.root, recipe.layout.name, recipe.layout.options)
    training = [case for case in dataset.cases if case.role in (None, "training")]
    problems = [problem for problem in dataset.problems if not is_warning(problem)]
    if not training:
        message = f"holds {len(dataset.cases)} scan(s) to predict, and none to train on"
        remedy = "where masks lie among the scans, `fewmask check` names the options that say so; to train on scans "
        remedy += "alone, put them into a folder images/, and name the one above it"
        nothing = Problem(str(source), "too-few-labels", message, remedy)
        raise UserError(f"{source}: nothing can be trained on.", problems or [nothing])
    bare = sum(case.label is None for case in training)
    name = "supervised"
    if bare:
        name = "semisupervised"
    if bare == len(training):
        name = "unsupervised"
    note(f"{source}: {len(training) - bare} scans with masks and {bare} without, so the recipe is {name!r}")
    if dataset.ignore is not None and bare < len(training):
        note(f"voxels of the value {dataset.ignore} are not annotated; for masks of a few strokes there is 'scribbles'")
    return _parse(_for(source, name, overrides), _called(name, overrides))


def _of_checkpoint(start: Checkpoint, overrides: Sequence[str]) -> dict[str, Any]:
    """Return the recipe of a checkpoint with overrides; as it holds no paths, these must name the dataset."""
    changed = config.override(config.written(*read_written_of(start)), overrides)
    if not any(override.startswith("dataset=") for override in overrides):
        problem = Problem("dataset", "no-dataset", "is not given, and a checkpoint does not tell", "add dataset=PATH")
        raise UserError("There is nothing to train on.", [problem])
    return changed


def _for(source: Path, name: str, overrides: Sequence[str]) -> dict[str, Any]:
    return config.read(config.shipped()[name], overrides) | {"dataset": str(source)}


def _parse(raw: dict[str, Any], source: str) -> Recipe:
    plugins = raw.get("plugins")
    if isinstance(plugins, list) and all(isinstance(plugin, str) for plugin in plugins):
        load_plugins([Path(plugin) for plugin in plugins])
    return config.parse(raw, source, COMPONENTS)
