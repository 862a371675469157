"""Take a trained network out of a run."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.checkpoints import Which, newest_checkpoint
from pipeline.data.check import read_facts
from pipeline.engines.devices import find_hardware
from pipeline.engines.postprocessing import Mending
from pipeline.engines.predictor import Ensemble
from pipeline.errors import Problem, UserError
from pipeline.memory import is_out_of_memory
from pipeline.networks import NETWORKS
from pipeline.planning.plan import choose_precision
from pipeline.plugins import load_plugins
from pipeline.recipe import Recipe
from pipeline.runs import build
from pipeline.runs.checking import note
from pipeline.strict_yaml import read_yaml
from pipeline.types import Task

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pipeline.data.inspection import CaseFacts
    from pipeline.engines.predictor import Segmenter

CONFIG, SPLIT, INDEX = "config.yaml", "split.json", "index.json"
# Of a cross-validation.
FOLDS, POSTPROCESSING, OUT_OF_FOLD = "folds.json", "postprocessing.json", "out-of-fold"


@dataclass(frozen=True)
class TrainedModel:
    """What a checkpoint holds, ready to predict."""

    recipe: Recipe
    task: Task
    predictor: Segmenter
    step: int


def load_model(run: Path, which: Which, plugins: Sequence[Path] = ()) -> TrainedModel:
    """Build the predictor of a run from one of its checkpoints alone; of a cross-validation, from those of its folds.

    Args:
        run: The run's folder.
        which: ``last`` or ``best``.
        plugins: Files that register the run's network, where it is not one of ours. They are not taken from the
            checkpoint, because what a checkpoint says is never run.

    Raises:
        UserError: There is no such checkpoint, it is damaged, or its network is not known.
    """
    if (run / FOLDS).exists():
        models = load_folds(run, which, plugins)
        ensemble = Ensemble(tuple(model.predictor for model in models), _mendings(run))
        return replace(models[0], predictor=ensemble, step=min(model.step for model in models))
    load_plugins(plugins)
    checkpoint = newest_checkpoint(run, which)
    for problem in checkpoint.damaged:
        note(f"{problem}\nUsing {checkpoint.path.name} instead.")
    try:
        return _build_model(run, checkpoint.state)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        message = f"holds no model of ours: {str(error).splitlines()[0]}"
        problem = Problem(str(checkpoint.path), "foreign-checkpoint", message, "use a checkpoint that Fewmask wrote")
        raise UserError("The model cannot be built.", [problem]) from None


def load_folds(run: Path, which: Which, plugins: Sequence[Path] = ()) -> list[TrainedModel]:
    """Build the predictor of every fold of a cross-validation; all else as :func:`load_model`."""
    return [load_model(fold_folder(run, fold), which, plugins) for fold in range(1, count_folds(run) + 1)]


def fold_folder(run: Path, fold: int) -> Path:
    """Return the folder of a fold, counted from 1, of a cross-validation."""
    return run / f"fold-{fold}"


def count_folds(run: Path) -> int:
    """Return how many folds a folder is a cross-validation of; 0 where it is none.

    Raises:
        UserError: Its ``folds.json`` is damaged.
    """
    return int(read_own(run, FOLDS)["folds"]) if (run / FOLDS).exists() else 0


def _mendings(run: Path) -> tuple[Mending, ...]:
    if not (run / POSTPROCESSING).exists():
        note(f"{run} is not finished, so nothing was chosen to mend predictions by; train goes on with --resume")
        return ()
    return tuple(Mending(**row) for row in read_own(run, POSTPROCESSING)["mendings"])


def _build_model(run: Path, state: dict[str, Any]) -> TrainedModel:
    raw = read_yaml(state["recipe"], str(run))
    if raw["network"]["name"] not in NETWORKS:
        message = f"needs the network {raw['network']['name']!r}, which no loaded file registers"
        raise UserError(
            "The model cannot be built.",
            [Problem(str(run), "unknown-network", message, "name its file: --plugin FILE")],
        )
    # Losses play no part in prediction, and those of a plugin need not be there.
    recipe = Recipe.model_validate_json(json.dumps(raw))
    hardware = find_hardware("auto")
    # What the training machine was good at, this one may not have; float32 is everywhere.
    native = recipe.precision in hardware.precisions
    precision = recipe.precision if native else choose_precision(hardware)
    recipe = recipe.model_copy(update={"device": hardware.device, "precision": precision})
    task = Task(
        {int(value): str(name) for value, name in state["task"]["labels"].items()},
        tuple(state["task"]["channels"]),
    )
    network = build.build_network(recipe, task)
    network.load_state_dict(state.get("average", state["network"]))
    return TrainedModel(recipe, task, build.build_predictor(recipe, task, network), state["step"])


def read_own(run: Path, name: str) -> Any:
    """Read a JSON file that a run wrote about itself.

    Raises:
        UserError: It is gone or damaged.
    """
    try:
        return json.loads((run / name).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        problem = Problem(
            str(run / name), "damaged-run", f"cannot be read: {error}", "bring the file back, or train anew"
        )
        raise UserError("The run's folder is not whole.", [problem]) from None


def facts_of(run: Path, cases: Iterable[str] = ()) -> dict[str, CaseFacts]:
    """Read what a run's ``index.json`` holds of each case, by which its files are known again.

    Args:
        run: The run's folder.
        cases: Ids of cases that have to be in it.

    Raises:
        UserError: It is gone, damaged or of another version, or a case is missing.
    """
    try:
        facts = read_facts(run / INDEX)
        message = "is damaged, or was written by another version of Fewmask"
    except OSError as error:
        facts, message = {}, f"cannot be read: {error.strerror}"
    missing = sorted(set(cases) - facts.keys())
    if missing and facts:
        message = f"says nothing of {len(missing)} case(s), such as {missing[0]}"
    if missing or not facts:
        problem = Problem(str(run / INDEX), "damaged-run", message, "bring the file back, or train anew")
        raise UserError("The run's folder is not whole.", [problem])
    return facts


def portable(recipe: Recipe) -> Recipe:
    """Return a recipe as a checkpoint holds it: without places on this machine, since checkpoints are passed on."""
    data = recipe.data.model_copy(update={"cache": "run"})
    return recipe.model_copy(update={"dataset": Path(), "root": None, "plugins": (), "data": data})


def task_state(task: Task) -> dict[str, Any]:
    """Return a task as a checkpoint holds it."""
    return {"labels": dict(task.labels), "channels": list(task.channels)}


def channel_problem(where: str, count: int, task: Task) -> Problem:
    """Say that a scan has ``count`` channels and the model another number."""
    message = f"has {count} channel(s), the model was trained on {len(task.channels)}: {', '.join(task.channels)}"
    return Problem(where, "channel-count", message, "give scans with the channels of the training")
