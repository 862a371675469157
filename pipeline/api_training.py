"""Planning and training as functions, for programs to call; :mod:`pipeline.api` has the other commands."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from pipeline import runs
from pipeline.api import AnyPath, calling
from pipeline.files import to_write
from pipeline.recipe import Recipe
from pipeline.shards import read_shard
from pipeline.signatures import typed

if TYPE_CHECKING:
    from pipeline.planning.plan import Plan
    from pipeline.runs.requests import Request
    from pipeline.runs.scoring import Scores
    from pipeline.studies.spreads import SeedResult

# A recipe by name or path, a dataset, a checkpoint, or a recipe itself.
RecipeLike: TypeAlias = AnyPath | Recipe | Mapping[str, Any]


@typed
def plan(source: RecipeLike, *, settings: Mapping[str, Any] | None = None, verbose: bool = False) -> Plan:
    """Choose every setting of a training from the data and the machine; nothing is written.

    Args:
        source: As for :func:`train`.
        settings: As for :func:`train`.
        verbose: As for :func:`train`.

    Returns:
        The plan: its ``recipe`` has no ``auto`` left, its ``choices`` have a reason each.

    Raises:
        UserError: The recipe or the dataset has problems.
    """
    from pipeline.runs.origins import like_its_model
    from pipeline.runs.planning import prepare

    with calling(verbose=verbose):
        return prepare(like_its_model(_request(source, settings).recipe)).plan


@typed
def train(
    source: RecipeLike,
    output: AnyPath,
    *,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    allow_change: Sequence[str] = (),
    verbose: bool = False,
) -> Scores | None:
    """Train a network as a recipe says, or as a dataset suggests, and validate it.

    Args:
        source: A recipe by name or path, a dataset, a checkpoint, a :class:`Recipe`, or its keys and values.
        output: The run's folder.
        settings: Values that replace the recipe's own, by dotted key:
            ``{"dataset": "scans/", "optimizer.learning_rate": 1e-3}``.
        resume: Go on with the run that the folder holds; a new one begins where it holds none.
        allow_change: Keys of the recipe whose values may differ from those of the run that is resumed.
        verbose: Print what the command would print, and draw progress.

    Returns:
        The scores of the last weights; None without a validation case.

    Raises:
        UserError: The recipe, the dataset or the folder has problems, or the training diverged.
    """
    with calling(verbose=verbose):
        request = _request(source, settings)
        return runs.train(
            request.recipe,
            to_write(Path(output)),
            resume=resume,
            allow_change=allow_change,
            start=request.start,
            decided=request.decided,
        )


@typed
def cross_validate(
    source: RecipeLike,
    output: AnyPath,
    folds: int,
    *,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    allow_change: Sequence[str] = (),
    shard: str = "1/1",
    verbose: bool = False,
) -> list[Scores]:
    """Train one network for each fold, and score it on the patients that it was not trained on.

    Args:
        source: As for :func:`train`, but no checkpoint.
        output: The folder of the cross-validation.
        folds: Number of parts that the labelled patients are divided into, 2 or more.
        settings: As for :func:`train`.
        resume: As for :func:`train`.
        allow_change: As for :func:`train`.
        shard: Train only this share of the folds, I/N; calls that have the others work in the same folder.
        verbose: As for :func:`train`.

    Returns:
        The out-of-fold scores; then, if the dataset has a validation list, the scores of the folds' ensemble on it.
        Nothing while other folds are not trained yet.

    Raises:
        UserError: As :func:`train`, or there are fewer labelled patients than folds.
    """
    with calling(verbose=verbose):
        request = _request(source, settings, folds)
        return runs.cross_validate(
            request.recipe,
            to_write(Path(output)),
            folds,
            resume=resume,
            allow_change=allow_change,
            decided=request.decided,
            shard=read_shard(shard),
        )


@typed
def train_seeds(
    source: RecipeLike,
    output: AnyPath,
    seeds: int,
    *,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    shard: str = "1/1",
    verbose: bool = False,
) -> list[SeedResult]:
    """Train a recipe several times, each time with a seed more, on the same split.

    Args:
        source: As for :func:`train`, but no checkpoint.
        output: The folder of the runs, ``seed-0`` and so on, and of the tables over them.
        seeds: How often, 2 or more.
        settings: As for :func:`train`.
        resume: Go on with the trainings that the folder holds; there may be more of them now.
        shard: Train only this share of the seeds, I/N.
        verbose: As for :func:`train`.

    Returns:
        Seed, Dice (the mean and that of each class) and minutes of each training that is done.

    Raises:
        UserError: As :func:`train`, or the recipe validates nothing.
    """
    from pipeline.studies.seeds import train_seeds

    with calling(verbose=verbose):
        request = _request(source, settings, None, seeds)
        return train_seeds(
            request.recipe,
            to_write(Path(output)),
            seeds,
            resume=resume,
            decided=request.decided,
            shard=read_shard(shard),
        )


@typed
def join(folds: Sequence[AnyPath], output: AnyPath, *, verbose: bool = False) -> list[Scores]:
    """Make a cross-validation of folds that were trained apart, each with another ``data.fold`` of one recipe.

    Args:
        folds: The folder of each fold's run.
        output: The folder to make.
        verbose: As for :func:`train`.

    Returns:
        As :func:`cross_validate`.

    Raises:
        UserError: They are not all folds of one recipe and one dataset, or not finished; or the folder is there.
    """
    with calling(verbose=verbose):
        return runs.join(list(map(Path, folds)), to_write(Path(output)))


def _request(
    source: RecipeLike, settings: Mapping[str, Any] | None, folds: int | None = None, seeds: int | None = None
) -> Request:
    from pipeline import config
    from pipeline.runs.requests import parse_request, refuse_several

    overrides = [f"{key}={json.dumps(value, default=_plain)}" for key, value in (settings or {}).items()]
    if not isinstance(source, Recipe | Mapping):
        return runs.read_request(Path(source), overrides, folds, seeds)
    refuse_several(folds, seeds)
    given = source.model_dump(mode="json") if isinstance(source, Recipe) else source
    raw = json.loads(json.dumps(given, default=_plain))
    return parse_request(config.override(raw, overrides), "given")


def _plain(value: Any) -> Any:
    """Return numbers and arrays of NumPy as Python's own, and anything else, such as a path, as text."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else str(value)
