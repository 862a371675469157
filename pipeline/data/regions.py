"""Train on regions of a dataset, unions of its labels that may lie in each other, in the place of its labels."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal, TypeAlias

from pipeline.data.layouts.painting import UnpaintableError, in_order, painted_labels
from pipeline.data.relabelling import Relabelling, values_of
from pipeline.errors import Problem
from pipeline.types import Region

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.data.layouts import Dataset

# Regions of a recipe: those that the dataset asks for, none, or names with the values or names of labels.
Regions: TypeAlias = "Mapping[str, Sequence[int | str]] | Literal['auto'] | None"
# The key of the recipe.
KEY = "regions"
CODE = "bad-regions"
# Of a dataset whose labels are regions, and of which no order of painting makes targets.
NOT_ASKED = "regions-not-asked"


def with_regions(dataset: Dataset, chosen: Regions, *, to_train: bool = True) -> Dataset:
    """Return a dataset of which regions are trained and scored.

    Masks stay as they are, but for labels of no region, which become background.

    Args:
        dataset: The dataset.
        chosen: For each region the values or names of its labels, in the order of painting as :func:`in_order` mends
            it; ``auto`` for those that the dataset asks for, None for labels that exclude each other.
        to_train: Whether the dataset is to be trained on; only then it must have every value.

    Returns:
        The dataset, with the mistakes in ``chosen`` among its problems.
    """
    regions: Mapping[str, Sequence[int | str]] = dataset.asked
    if chosen != "auto":
        regions = chosen or {}
        problems = tuple(problem for problem in dataset.problems if problem.code != NOT_ASKED)
        dataset = replace(dataset, problems=problems)
    if not regions:
        return dataset
    values, mistakes = _values_of(dataset, regions, to_train=to_train)
    if partly := [case.id for case in dataset.cases if case.annotated is not None]:
        message = f"need every class annotated in every mask; not so in {len(partly)}, such as {partly[0]}"
        mistakes.append(Problem(KEY, CODE, message, "give null, or leave these cases out"))
    if not mistakes:
        try:
            return _as_regions(dataset, values, painted_labels(in_order(values)))
        except UnpaintableError as error:
            mistakes = [Problem(f"regions.{error.name}", CODE, *error.args)]
    return replace(dataset, problems=(*dataset.problems, *mistakes))


def _values_of(
    dataset: Dataset, chosen: Mapping[str, Sequence[int | str]], *, to_train: bool
) -> tuple[dict[str, tuple[int, ...]], list[Problem]]:
    """Return the values of each region, each once, and the mistakes."""
    problems: list[Problem] = []
    found: dict[str, tuple[int, ...]] = {}
    for region, parts in chosen.items():
        values, mistakes = values_of(dataset, parts, to_train=to_train)
        if region in ("background", "ignore"):
            mistakes.append(("cannot be a region", "leave it out: what is in no region is background"))
        problems += [Problem(f"regions.{region}", CODE, *mistake) for mistake in mistakes]
        found[region] = tuple(dict.fromkeys(values))
    return found, problems


def _as_regions(dataset: Dataset, values: Mapping[str, tuple[int, ...]], painted: Mapping[str, int]) -> Dataset:
    before = dataset.relabelling
    made_of: dict[str, tuple[int, ...]] = {name: (label,) for name, label in painted.items()}
    if before is not None:  # The labels are chosen ones already, each made of the file's own.
        own = dict(zip(before.new_values, before.made_of.values(), strict=True))
        made_of = {name: own.get(label, ()) for name, label in painted.items()}
    stored = before or dataset
    relabelling = Relabelling(
        labels=stored.labels,
        ignore=stored.ignore,
        made_of=made_of,
        new_values=tuple(painted.values()),
        key=KEY,
    )
    return replace(
        dataset,
        cases=tuple(replace(case, relabelled=relabelling.pairs) for case in dataset.cases),
        labels=relabelling.new_labels,
        ignore=relabelling.new_ignore,
        regions=dict(values),
        targets=tuple(Region(label, values[name]) for name, label in painted.items()),
        relabelling=relabelling,
    )
