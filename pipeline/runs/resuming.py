"""Resume a run: refuse another recipe or other scans than the run's, and complete a recipe by what the run knows."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipeline import config
from pipeline.bounds import seconds_of
from pipeline.decisions import Decisions, Taken
from pipeline.errors import Problem, UserError, nearest
from pipeline.plugins import remember
from pipeline.recipe import Recipe
from pipeline.runs.origins import digest_of_model, like_its_model
from pipeline.runs.stored import BUDGET, PLUGINS, SPLIT, read_config, read_decisions, read_index, read_own

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pipeline.data.index import Index
    from pipeline.data.inspection import CaseFacts
    from pipeline.data.splits import Split
    from pipeline.runs.folder import RunFolder

# Keys that may differ in a resumed run without changing it. The dataset's content is compared by its hashes, and who
# trains and who validates by the cases.
HARMLESS = (
    "dataset",
    "root",
    "tensorboard",
    "mlflow",
    "wandb",
    "checkpoint_every",
    "data.workers",
    "data.cache",
    "data.split",
    "layout.name",
    "network.recompute",
)


def refuse_allowing(resume: bool, allowed: Sequence[str]) -> None:
    """Refuse ``--allow-change`` without ``--resume``, where it would have no effect.

    Raises:
        UserError: Keys are allowed to change, and no run is resumed.
    """
    if allowed and not resume:
        problem = Problem(
            "--allow-change", "not-resumed", "is for a run that is resumed", "add --resume, or leave it out"
        )
        raise UserError("Nothing was started.", [problem])


def refuse_changes(
    run: Path,
    recipe: Recipe,
    decided: Decisions,
    allowed: Sequence[str] = (),
    facts: Mapping[str, CaseFacts] | None = None,
) -> None:
    """Refuse a recipe or decisions that differ from the run's own, and report every difference.

    Args:
        run: The run's folder.
        recipe: The recipe to go on with.
        decided: The decisions to go on with.
        allowed: Keys, or sections, that may differ.
        facts: Of the scans to go on with, of which the recipe's plan may come: other ones are named beside.

    Raises:
        UserError: Something else differs, or an allowed key is in neither recipe.
    """
    old = flat(config.written(read_config(run), read_decisions(run)))
    new = flat(config.written(recipe, decided))
    keys = old.keys() | new.keys()
    sections = {".".join(key.split(".")[:n]) for key in keys for n in range(1, len(key.split(".")) + 1)}
    sections |= {*Recipe.model_fields}  # Those of which both have nothing, too.
    problems = [
        Problem("--allow-change", "no-such-key", f"there is no {name!r}", nearest(name, sorted(sections)))
        for name in allowed
        if name not in sections
    ]
    problems += [
        Problem(
            key,
            "changed",
            f"the run has {old.get(key)!r}, and now it would be {new.get(key)!r}",
            f"give the run's value, start a new run, or let it change from here on: --allow-change {_setting_of(key)}",
        )
        for key in differing_keys(old, new, allowed)
    ]
    if not any(covers(name, "plugins") for name in allowed):
        problems += _changed_plugins(run, recipe)
    if problems:
        scans = [] if facts is None else _changed_scans(run, facts)  # First, since a plan may have changed by them.
        raise UserError(f"{run} holds another run; nothing was resumed.", [*scans, *problems])


def differing_keys(old: Mapping[str, Any], new: Mapping[str, Any], allowed: Sequence[str] = ()) -> list[str]:
    """Return the keys of two flat recipes that differ, but for those that are harmless or allowed to."""
    return [
        key
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not any(covers(name, key) for name in (*HARMLESS, *allowed))
    ]


def differing_settings(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return what two flat recipes differ in: as :func:`differing_keys`, but of a list the list."""
    return list(dict.fromkeys(map(_setting_of, differing_keys(old, new))))


def _setting_of(key: str) -> str:
    """Return the setting that a flat key belongs to: itself, or of an entry of a list the whole list.

    >>> _setting_of("optimizer.weight_decay"), _setting_of("objective.2.weight")
    ('optimizer.weight_decay', 'objective')
    """
    return re.split(r"\.\d+(?:\.|$)", key)[0]


def _changed_plugins(run: Path, recipe: Recipe) -> list[Problem]:
    known = []
    if (run / PLUGINS).exists():
        known = read_own(run, PLUGINS)["plugins"]
    message = "is not what the run was trained with"
    remedy = "bring it back, or let it be another from here on: --allow-change plugins"
    return [
        Problem(now["path"], "plugin-changed", message, remedy)
        for now, then in zip(remember(recipe.plugins), known, strict=False)
        if now["path"] == then["path"] and now["sha256"] != then["sha256"]
    ]


def with_time_of(run: Path, recipe: Recipe) -> Recipe:
    """Return a recipe in which the time budget is replaced by the number of steps that the run has by it.

    A recipe without a budget is returned as it is.

    Raises:
        UserError: The run was not started with that budget.
    """
    if recipe.time_budget is None:
        return recipe
    if not (run / BUDGET).exists() or read_own(run, BUDGET)["seconds"] != seconds_of(recipe.time_budget):
        message = f"is {recipe.time_budget}, and the run was not started with that"
        problem = Problem("time_budget", "changed", message, "give the run's own, or start a new run")
        raise UserError(f"{run} holds another run; nothing was resumed.", [problem])
    own = read_config(run)
    taken = {"max_steps": own.max_steps, "validate_every": own.validate_every, "time_budget": None}
    return recipe.model_copy(update=taken)


def decisions_of(run: Path, recipe: Recipe, given: Decisions) -> Decisions:
    """Return the decisions that a run goes on with.

    Args:
        run: The run's folder.
        recipe: The recipe to go on with.
        given: The decisions that came with the recipe.

    Returns:
        The run's own decisions for a recipe with a time budget. Otherwise those given, with the corrections of a run
        without a budget that was asked to end early, if none are given.
    """
    own = read_decisions(run)
    if recipe.time_budget is not None:
        return own
    same_length = recipe.max_steps == read_config(run).max_steps
    if same_length and not given.corrections and not (run / BUDGET).exists():
        return Decisions(corrections=own.corrections, threads=given.threads)
    return given


def completed(folder: RunFolder, recipe: Recipe) -> Recipe:
    """Return a recipe with what the run in its folder has measured, or with what the model says that it starts from."""
    if folder.holds_run:
        return with_measured_of(folder.path, recipe)
    return like_its_model(recipe)


def with_measured_of(run: Path, recipe: Recipe) -> Recipe:
    """Return a recipe in which each ``auto`` that depends on the machine has the run's value: it might differ now."""
    own = read_config(run)
    network = recipe.network
    known = dict[str, Any]()
    timed = recipe.time_budget is not None  # A budget may change patch and batch too, and with them the levels.
    if own.network.name == network.name:
        options = own.network.options.items()
        keys = ["channels"]
        if timed:
            keys += ["strides", "kernels"]
        if recipe.start is not None:  # Its network is the model's, which need not be there any more.
            keys = [key for key, _ in options]
        planned = {key: value for key, value in options if key in keys and network.options.get(key, "auto") == "auto"}
        known["options"] = network.options | planned
    sizes: tuple[str, ...] = ()
    if timed:
        sizes = ("patch_size", "batch_size", "unlabelled_batch_size", "accumulate")
    taken = {key: getattr(own.data, key) for key in sizes if getattr(recipe.data, key) == "auto"}
    for key in ("members", "memory_format"):
        if getattr(network, key) == "auto":
            known[key] = getattr(own.network, key)
    if recipe.start is not None and recipe.data.dimensions == "auto":
        taken["dimensions"] = own.data.dimensions
    if recipe.data.units == "auto":
        taken["units"] = own.data.units
    if recipe.data.resident == "auto":
        taken["resident"] = own.data.resident
    if taken.get("resident", recipe.data.resident) is True:
        # Processes cannot share what is in a device's memory, and a recipe that has both cannot be read again.
        taken["workers"] = 0
    changed: dict[str, Any] = {
        "network": network.model_copy(update=known),
        "data": recipe.data.model_copy(update=taken),
    }
    if recipe.precision == "auto":
        changed["precision"] = own.precision
    return recipe.model_copy(update=changed)


def pinned(folder: RunFolder, recipe: Recipe, decided: Decisions) -> Decisions:
    """Return decisions by which every fold begins with the same file, where the recipe names a model."""
    if folder.holds_run:
        return decided.begun_with(read_decisions(folder.path).taken)
    return decided if recipe.start is None else decided.begun_with(Taken(sha256=digest_of_model(recipe.start)))


def covers(name: str, key: str) -> bool:
    """Tell whether a flat key is one of a recipe's key or section, or that itself."""
    return key == name or key.startswith(f"{name}.")


def refuse_other_scans(run: Path, index: Index, split: Split) -> None:
    """Refuse a dataset whose cases or split have changed: the steps would be neither run's.

    Raises:
        UserError: A case is new, gone or changed, or the split is another.
    """
    problems = _changed_scans(run, index.facts)
    if not problems and read_own(run, SPLIT) != split.as_dict():
        message = "its cases are in other lists, in another order or of other patients"
        problems = [Problem(str(run / SPLIT), "split-changed", message, "bring the dataset back as it was")]
    if problems:
        raise UserError(f"The dataset of {run} has changed; nothing was resumed.", problems)


def _changed_scans(run: Path, new: Mapping[str, CaseFacts]) -> list[Problem]:
    old = read_index(run)
    anew = f"start={run} data.split={run / SPLIT} --output NEW"
    remedy = f"bring the dataset back as it was, or train on from its weights: {anew}"
    return [
        Problem(case, "scans-changed", _what_changed(case, old, new), remedy, case=case)
        for case in other_scans(old, new)
    ]


def other_scans(old: Mapping[str, CaseFacts], new: Mapping[str, CaseFacts]) -> list[str]:
    """Return the ids of cases that are new, gone or of another content."""
    return [case for case in sorted(old.keys() | new.keys()) if _content(old.get(case)) != _content(new.get(case))]


def _what_changed(case: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    if case not in old:
        return "is new"
    if case not in new:
        return "is gone"
    if _content(replace(new[case], annotated=old[case].annotated)) == _content(old[case]):
        return "has other classes annotated than it had"
    return "has other files than it had"


def _content(facts: CaseFacts | None) -> CaseFacts | None:
    """Return the facts about a case's content, which stay the same if a file is copied or saved anew.

    How it looks is left out, too: another version describes that otherwise.
    """
    return facts and replace(facts, sha256=(), stamps=(), appearance=None, body=None)


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Return the leaves of nested dictionaries and lists by dotted path."""
    if not isinstance(value, (dict, list)):
        return {path: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {
        key: leaf for name, inner in items for key, leaf in flat(inner, f"{path}.{name}" if path else str(name)).items()
    }
