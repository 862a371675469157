"""Check the dataset of a recipe, and split it as the recipe says: by a file, by the dataset's lists, or by a draw."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.data.appearance import FEWEST_KNOWN, unlike
from pipeline.data.check import copies
from pipeline.data.layouts import read_dataset
from pipeline.data.listed_splits import pool_by_file, split_by_file
from pipeline.data.regions import with_regions
from pipeline.data.relabelling import relabel
from pipeline.data.splits import Split, all_cases, split_cases, without_validation
from pipeline.errors import Problem, UserError
from pipeline.runs.checking import check_dataset

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from pipeline.data.index import Index
    from pipeline.data.inspection import CaseFacts
    from pipeline.data.layouts import Dataset
    from pipeline.recipe import Recipe


def check_dataset_of(recipe: Recipe, known: Mapping[str, CaseFacts] | None = None) -> Index:
    """Check a recipe's dataset; facts are kept in the cache if ``data.cache`` is a folder that runs share."""
    shared = None
    if isinstance(recipe.data.cache, Path):
        shared = recipe.data.cache
    dataset = read_dataset(recipe.dataset, recipe.root, recipe.layout.name, recipe.layout.options)
    if recipe.labels:
        dataset = relabel(dataset, recipe.labels)
    if recipe.segments is None:
        dataset = with_regions(dataset, recipe.regions)
    return check_dataset(_without_notes_on_split(recipe, dataset), known, shared)


def _without_notes_on_split(recipe: Recipe, dataset: Dataset) -> Dataset:
    """Take back the warning that a list beside the dataset, its folds or a column is not used, where it is."""
    if recipe.data.split is None:
        return dataset
    listed = recipe.data.split.resolve()

    def is_wrong(problem: Problem) -> bool:
        is_column = problem.code == "unknown-key" and f" {recipe.data.split_by!r}, " in problem.message
        return (problem.code in ("unused-list", "fold-unused") or is_column) and Path(problem.where).resolve() == listed

    return replace(dataset, problems=tuple(problem for problem in dataset.problems if not is_wrong(problem)))


def split_of(recipe: Recipe, index: Index, classes: Mapping[str, Collection[int]]) -> Split:
    """Split the checked dataset of a recipe.

    Args:
        recipe: The recipe.
        index: Its dataset.
        classes: The classes in the mask of each labelled case, by id.

    Raises:
        UserError: The dataset cannot be split in this way, or copies of a scan are on both sides.
    """
    data = recipe.data
    with_labels = recipe.segments is None
    if data.validation == "none":
        return without_validation(index.dataset, with_labels=with_labels)
    if data.split is not None:
        split = split_by_file(
            index.dataset, data.split, data.split_by, data.split_fold, data.fold, with_labels=with_labels
        )
        _refuse_copies_on_both_sides(index, split)
        return split
    if data.fold:
        _refuse_parted_copies(index)
    return split_cases(
        index.dataset,
        data.validation_fraction,
        _seed(recipe),
        with_labels=with_labels,
        fold=data.fold,
        classes=classes if with_labels else None,
    )


def without_unlike(recipe: Recipe, index: Index, split: Split, known: Collection[str] | None = None) -> Split:
    """Leave out the scans without masks that look like none that has one, if the recipe trains on both kinds.

    Of fewer than three scans with masks nothing is concluded.

    Args:
        recipe: The recipe.
        index: Its dataset.
        split: The cases that it would train on.
        known: The ids of those that a run which goes on has left out; None decides it.
    """
    if recipe.data.unlike == "keep" or len(recipe.kinds) < 2:
        return split
    left = _unlike(index, split) if known is None else known
    left_out = tuple(case for case in split.unlabelled if case.id in left)
    kept = tuple(case for case in split.unlabelled if case.id not in left)
    return replace(split, unlabelled=kept, unlike=left_out)


def _unlike(index: Index, split: Split) -> set[str]:
    """Return the ids of the scans without masks that look like none that has one."""
    known = [found for case in split.labelled if (found := index.facts[case.id].appearance)]
    if len(known) < FEWEST_KNOWN:
        return set()
    judged = [case.id for case in split.unlabelled if index.facts[case.id].appearance is not None]
    strange = unlike(known, [index.facts[name].appearance or () for name in judged])
    return {name for name, odd in zip(judged, strange, strict=True) if odd}


def pool_of(recipe: Recipe, index: Index, folds: int) -> Split:
    """Return the cases that so many folds together train on, and the dataset's ``validation`` list outside of them.

    Raises:
        UserError: The dataset cannot be parted into so many folds.
    """
    data = recipe.data
    if data.validation == "none":
        problem = Problem("--folds", "no-validation", "lets each part validate", "leave it or data.validation=none out")
        raise UserError("Nothing was started.", [problem])
    if data.split_fold is not None:
        message = "lets one fold validate, and --folds trains all"
        problem = Problem("data.split_fold", "one-fold", message, "leave one of them out")
        raise UserError("Nothing was started.", [problem])
    if data.split is not None:
        return pool_by_file(index.dataset, data.split, folds, data.split_by)
    _refuse_parted_copies(index)
    split_cases(index.dataset, 0.0, _seed(recipe), fold=(folds, folds))  # Refuses more folds than patients.
    return all_cases(index.dataset)


def _seed(recipe: Recipe) -> int:
    """Return the seed of what is drawn, which may be another than that of the training."""
    return recipe.seed if recipe.data.split_seed is None else recipe.data.split_seed


def _refuse_parted_copies(index: Index) -> None:
    """Refuse copies of a scan that could be in two folds; with a validation list, the check itself does not."""
    everything = all_cases(index.dataset)
    if leaks := copies(everything.labelled + everything.unlabelled, index.facts, drawn=True):
        raise UserError("The dataset cannot be parted into folds.", leaks)


def _refuse_copies_on_both_sides(index: Index, split: Split) -> None:
    """Refuse copies of a scan of which a file lets one train and another validate."""
    sided = [replace(case, role="training") for case in split.labelled + split.unlabelled]
    sided += [replace(case, role="validation") for case in split.validation]
    if leaks := copies(sided, index.facts, drawn=False):
        raise UserError("The dataset cannot be split as the file says.", leaks)
