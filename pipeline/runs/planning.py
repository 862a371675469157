"""Plan a training: check the recipe's dataset, split it, and fill in every ``auto``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pipeline import config
from pipeline.data.classes import classes_of, split_warnings
from pipeline.data.packed import Packed
from pipeline.data_section import DataChoices
from pipeline.errors import Problem, UserError
from pipeline.files import atomic_write
from pipeline.planning.devices import find_hardware
from pipeline.planning.doctor import Finding, diagnose
from pipeline.planning.limits import refuse_atlases, refuse_step, size
from pipeline.planning.plan import Choice, Plan, make_plan
from pipeline.runs.origins import like_its_model
from pipeline.runs.splitting import check_dataset_of, split_of, without_unlike
from pipeline.terminal import note

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from pipeline.data.index import Index
    from pipeline.data.inspection import CaseFacts
    from pipeline.data.splits import Split
    from pipeline.recipe import Recipe


R = TypeVar("R", bound="Recipe")
# Of scans that are left out, so many are named in a message; split.json names all.
NAMED = 5
EXPLAINED = "docs/training.md#scans-that-have-no-place-among-the-others"


@dataclass(frozen=True)
class Prepared:
    """What a training starts from.

    Attributes:
        index: The checked dataset.
        split: Which cases are trained on, and which are held out.
        visible: The index of the cases that are trained on; without masks if no mask is trained on.
        plan: The recipe without any ``auto``, and the reasons.
    """

    index: Index
    split: Split
    visible: Index
    plan: Plan


def prepare(
    recipe: Recipe, known: Mapping[str, CaseFacts] | None = None, unlike: Collection[str] | None = None
) -> Prepared:
    """Check a recipe's dataset, split it, and plan.

    Args:
        recipe: The recipe.
        known: Facts of an earlier check, as for :func:`check`.
        unlike: As for :func:`without_unlike`.

    Raises:
        UserError: The dataset has problems, or the recipe does not fit it.
    """
    index = check_dataset_of(recipe, known)
    with_labels = recipe.segments is None
    classes = classes_of(index.facts, index.ignore)
    split = without_unlike(recipe, index, split_of(recipe, index, classes), unlike)
    recipe = _told_of_unlike(recipe, split)
    if with_labels:
        found = split_warnings(split, index.labels, classes, str(index.dataset.source))
        for problem in (problem for problem in found if problem not in index.warnings):
            note(str(problem))
    _refuse_unfit(recipe, index, split)
    if recipe.data.background_mm is not None and index.ignore is None:
        what = "no value says which voxels nobody has annotated: layout.options.ignore=VALUE names it"
        note(f"data.background_mm changes nothing, since {what}")
    if recipe.data.split is not None and recipe.data.validation_fraction != DataChoices().validation_fraction:
        note(f"data.validation_fraction changes nothing, since {recipe.data.split} says who validates")
    trained_on = [case.id for case in split.labelled + split.unlabelled]
    # Held-out cases choose nothing, not even the size of a patch.
    facts = {name: index.facts[name] if with_labels else index.facts[name].without_mask() for name in trained_on}
    visible = replace(index, facts=Packed(facts))  # It lives as long as the training.
    hardware = find_hardware(recipe.device)
    plan = make_plan(recipe, visible, hardware)
    refuse_atlases(plan.recipe)
    refuse_step(plan.memory_bytes, plan.least_bytes, hardware)
    wider = plan.wider and absolute(plan.wider)
    lighter = tuple((absolute(other), share) for other, share in plan.lighter)
    plan = replace(plan, recipe=absolute(plan.recipe), wider=wider, lighter=lighter)
    if "unlabelled" not in recipe.kinds:  # No more than their grids was looked at.
        split = replace(split, unlabelled=())
    return Prepared(index, split, visible, plan)


def _told_of_unlike(recipe: Recipe, split: Split) -> Recipe:
    """Say which scans are left out, and return the recipe without its terms on unlabelled scans if none is left."""
    if not split.unlike:
        return recipe
    count = f"{len(split.unlike)} of {len(split.unlike) + len(split.unlabelled)} scans without masks"
    names = ", ".join(case.id for case in split.unlike[:NAMED])
    more = ", ..." if len(split.unlike) > NAMED else ""
    note(f"{count} look like none that has one, and are left out (data.unlike=keep keeps them): {names}{more}")
    terms = tuple(term for term in recipe.objective if term.on != "unlabelled")
    if split.unlabelled or not any(term.weight > 0 for term in terms):
        return recipe
    note(f"None is left: the terms on unlabelled scans are left out too. Few scans may all look unlike: {EXPLAINED}")
    return recipe.model_copy(update={"objective": terms})


def _refuse_unfit(recipe: Recipe, index: Index, split: Split) -> None:
    """Refuse a dataset without a foreground label, and terms on unlabelled scans if there are none."""
    message = "looks at unlabelled scans, and the dataset has none"
    remedy = "add scans without masks, or leave the term out, as the recipe `supervised` does"
    if split.unlike:
        message = f"looks at unlabelled scans, and all {len(split.unlike)} of the dataset look like none with a mask"
        remedy = "train on them all the same: data.unlike=keep"
    problems = [
        Problem(f"objective.{n}", "no-unlabelled", f"{term.loss} {message}", remedy)
        for n, term in enumerate(recipe.objective)
        if term.on == "unlabelled" and not split.unlabelled
    ]
    if recipe.atlases.weight and not split.atlases:
        message = "every mask that is trained on lacks a class, and an atlas has all"
        problems.append(Problem("atlases.weight", "no-atlas", message, "give 0, or label all classes of some scans"))
    if len(index.labels) < 2 and recipe.segments is None:
        source = str(index.dataset.source)
        problems.append(Problem(source, "no-foreground", "every mask is empty", "give masks with values above 0"))
    if problems:
        raise UserError("The recipe does not fit the dataset.", problems)


def absolute(recipe: R) -> R:
    """Return a recipe with absolute paths, so that it names the same files wherever it is read from."""
    root = recipe.root and recipe.root.resolve()
    start = recipe.start and recipe.start.resolve()
    plugins = tuple(path.resolve() for path in recipe.plugins)
    cache = recipe.data.cache.resolve() if isinstance(recipe.data.cache, Path) else recipe.data.cache
    listed = recipe.data.split and recipe.data.split.resolve()
    data = recipe.data.model_copy(update={"cache": cache, "split": listed})
    places = {"dataset": recipe.dataset.resolve(), "root": root, "start": start, "plugins": plugins, "data": data}
    return recipe.model_copy(update=places)


def plan(recipe: Recipe, output: Path | None = None, *, doctor: bool = False) -> tuple[Plan, list[Finding]]:
    """Plan a training, and write the plan: one recipe without any ``auto``, the reasons beside each choice.

    Args:
        recipe: The recipe.
        output: The file to write, which is a recipe itself; None writes nothing.
        doctor: Whether to diagnose the machine too.

    Returns:
        The plan, and with ``doctor`` the findings about the machine.

    Raises:
        UserError: The file is there already, the dataset has problems, or the recipe does not fit it.
    """
    if output is not None:
        _refuse_present(output)
    prepared = prepare(like_its_model(recipe))
    chosen = prepared.plan
    folder = Path()
    if output is not None:
        folder = output.parent
        _write(chosen, output)
    findings = []
    if doctor:
        findings = diagnose(find_hardware(recipe.device), folder, chosen, prepared.visible)
    return chosen, findings


def _write(chosen: Plan, output: Path) -> None:
    reasons = {choice.key: choice.reason for choice in chosen.choices}
    output.parent.mkdir(parents=True, exist_ok=True)
    _refuse_present(output)  # It may have come since.
    with atomic_write(output) as temporary:
        temporary.write_text(_heading(chosen) + config.dump(chosen.recipe, reasons), encoding="utf-8")


def _refuse_present(output: Path) -> None:
    if output.is_symlink() or output.exists():
        message = "is there already"
        remedy = "name another --output, or remove it"
        raise UserError("Nothing was planned.", [Problem(str(output), "plan-exists", message, remedy)])


def _heading(chosen: Plan) -> str:
    memory = memory_choice(chosen)
    return f"# fewmask train THIS_FILE --output RUN\n# A step takes {memory.value}: {memory.reason}.\n"


def memory_choice(chosen: Plan) -> Choice:
    """Return the estimated memory of a step as a row of the plan."""
    if chosen.memory_bytes is None:
        return Choice("memory", "unknown", "this network cannot be built without data")
    return Choice("memory", f"about {size(chosen.memory_bytes)}", "an estimate, beside 1 GB for the program")


def look_at_machine() -> list[Finding]:
    """Return the findings about the machine, without a plan to compare them with."""
    return diagnose(find_hardware("auto"), Path())
