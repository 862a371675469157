"""Choose, merge, rename and reorder the labels of a dataset as its masks are read; the files stay as they are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import Problem, nearest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from pipeline.data.inspection import CaseFacts
    from pipeline.data.layouts import Dataset
    from pipeline.nifti.volume import Scan
    from pipeline.types import Case

# For each new label, the values or names of the dataset's own labels that it is made of.
Chosen = dict[str, tuple[int | str, ...]]
CODE = "bad-labels"
BACKGROUND = "background"


@dataclass(frozen=True, kw_only=True)
class Relabelling:
    """What a dataset's own labels are, and what becomes of them.

    Attributes:
        labels: The dataset's own label values and names, or None where nothing declares them.
        ignore: Its own value of voxels that nobody has annotated; None where there is none.
        made_of: For each new name, the own values that it is made of.
        new_values: The value of each new name.
        key: Of the recipe, which chooses them.
    """

    labels: Mapping[int, str] | None
    ignore: int | None
    made_of: Mapping[str, tuple[int, ...]]
    new_values: tuple[int, ...]
    key: str = "labels"

    @property
    def new_labels(self) -> dict[int, str]:
        """The new values and names, by rising value, background (0) first."""
        return {0: BACKGROUND} | dict(sorted(zip(self.new_values, self.made_of, strict=True)))

    @property
    def new_ignore(self) -> int | None:
        """The own value to ignore, or another one where a new label or background has it."""
        if self.ignore is not None and self.ignore in (0, *self.new_values):
            return max(self.new_values) + 1
        return self.ignore

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Own and new values; those that are not named become 0."""
        made_of = zip(self.new_values, self.made_of.values(), strict=True)
        found = [(value, new) for new, values in made_of for value in values]
        if self.ignore is not None and self.new_ignore is not None:
            found.append((self.ignore, self.new_ignore))
        return tuple(found)

    def left_out(self, value: int) -> bool:
        """Tell whether an own value becomes background without being it."""
        named = any(value == own for own, _ in self.pairs)
        return value not in (0, self.ignore) and not named and (self.labels or {}).get(value) != BACKGROUND

    def read(self, case: Case) -> Case:
        """Return a case whose mask is read with the new labels."""
        return replace(case, relabelled=self.pairs, annotated=self.annotated(case.annotated))

    def annotated(self, own: Collection[int] | None) -> tuple[int, ...] | None:
        """Return the new values of annotated classes, from the own ones; None for all."""
        if own is None or all(value in own for values in self.made_of.values() for value in values):
            return None
        made_of = zip(self.new_values, self.made_of.values(), strict=True)
        return tuple(sorted(new for new, values in made_of if {*values} <= {*own}))

    def halves(self, cases: Sequence[Case]) -> Iterator[Problem]:
        """Find new labels of which a part is annotated in a case, and another part is not."""
        for case, (name, values) in product(cases, self.made_of.items()):
            known = [value for value in values if case.annotated is None or value in case.annotated]
            if known and len(known) < len(values):
                wanting = ", ".join(str(value) for value in values if value not in known)
                message = f"is made of values of which {case.id} has {wanting} not annotated"
                yield Problem(f"labels.{name}", CODE, message, "make a label of each", case=case.id)

    def findings(self, facts: Sequence[CaseFacts]) -> Iterator[tuple[str, str, str, str]]:
        """Compare with the masks of all cases: values that none of them has, and values that become background.

        Args:
            facts: What the check found of each case.

        Yields:
            Place, code, message and remedy.
        """
        masks = [found.stored_voxels for found in facts if found.stored_voxels is not None]
        there = {value for voxels in masks for value, count in voxels.items() if count}
        for name, values in self.made_of.items():
            for value in (value for value in values if value not in there):
                message = f"has {value}, which none of {len(masks)} masks has"
                remedy = f"correct or leave out the value; they have {', '.join(map(str, sorted(there - {0})))}"
                yield f"{self.key}.{name}", CODE, message, remedy
        for value in sorted(filter(self.left_out, there)):
            count = sum(voxels.get(value, 0) for voxels in masks)
            holders = sum(bool(voxels.get(value)) for voxels in masks)
            what = f"{value} ({self.labels[value]})" if self.labels and value in self.labels else str(value)
            message = f"does not name {what}, which becomes background: {count} voxels of {holders} masks"
            yield self.key, "label-left-out", message, "nothing, if it is not to be found"


def relabel(dataset: Dataset, chosen: Chosen, *, to_train: bool = True) -> Dataset:
    """Return a dataset whose masks are read with new label values, 1 to K in the order given.

    Args:
        dataset: The dataset.
        chosen: For each new name, the values or names of what it is made of.
        to_train: Whether the dataset is to be trained on; only then it must have every value.

    Returns:
        The dataset, with the mistakes in ``chosen`` among its problems.
    """
    dataset = as_in_the_files(dataset)
    problems: list[Problem] = []
    first: dict[int, str] = {}
    made_of: dict[str, tuple[int, ...]] = {}
    for name, parts in chosen.items():
        found, mistakes = values_of(dataset, parts, to_train=to_train)
        if name in (BACKGROUND, "ignore"):
            remedy = "leave it out: what is not named is background, what is to be ignored stays"
            mistakes.append(("cannot be chosen", remedy))
        for value in found:
            if value in first:
                mistakes.append((f"has {value}, which {first[value]} has too", "give each value to one label"))
            first[value] = name
        problems += [Problem(f"labels.{name}", CODE, *mistake) for mistake in mistakes]
        made_of[name] = tuple(found)
    new_values = tuple(range(1, len(made_of) + 1))
    relabelling = Relabelling(labels=dataset.labels, ignore=dataset.ignore, made_of=made_of, new_values=new_values)
    problems += relabelling.halves(dataset.cases)
    return replace(
        dataset,
        cases=tuple(map(relabelling.read, dataset.cases)),
        labels=relabelling.new_labels,
        ignore=relabelling.new_ignore,
        regions={},
        asked={},
        relabelling=relabelling,
        problems=(*dataset.problems, *problems),
    )


def values_of(
    dataset: Dataset, parts: Sequence[int | str], *, to_train: bool
) -> tuple[list[int], list[tuple[str, str]]]:
    """Return the values of labels that are given by value or name, and message and remedy of each that is none.

    Args:
        dataset: The dataset.
        parts: Values and names.
        to_train: Whether the dataset is to be trained on; only then it must have every value.
    """
    labels = dataset.labels or {}
    names = {name: value for value, name in labels.items()}
    found: list[int] = []
    mistakes: list[tuple[str, str]] = []
    for part in parts:
        value = names.get(part) if isinstance(part, str) else part
        if value is None:
            remedy = nearest(str(part), names) if names else "give values: labels have no names here"
            mistakes.append((f"has {part!r}, which is no label of the dataset", remedy))
        elif value == 0 or value == dataset.ignore:
            mistakes.append((f"has {part!r}, which is no structure", "leave it out"))
        elif to_train and labels and value not in labels:
            there = ", ".join(f"{value} {label}" for value, label in labels.items() if value)
            mistakes.append((f"has {value}, and the dataset declares {there}", "correct or leave out the value"))
        else:
            found.append(value)
    return found, mistakes


def with_background(dataset: Dataset) -> Dataset:
    """Return a dataset whose masks have 0 where nobody has annotated, read with 0 as background.

    Such masks have a value of their own for background, and the dataset names it. The other labels become 1 to K, by
    rising value. A dataset that ignores another value, or none, or names no background, stays as it is.
    """
    labels = dataset.labels or {}
    if dataset.ignore != 0 or BACKGROUND not in labels.values():
        return dataset
    return relabel(dataset, {name: (value,) for value, name in sorted(labels.items()) if name != BACKGROUND})


def as_in_the_files(dataset: Dataset) -> Dataset:
    """Return a dataset with the labels that its files have, if it is read with others."""
    found = dataset.relabelling
    if found is None:
        return dataset
    own = dict(zip(found.new_values, found.made_of.values(), strict=True))
    cases = tuple(
        replace(case, annotated=case.annotated and tuple(value for new in case.annotated for value in own[new]))
        for case in dataset.cases
    )
    return replace(dataset, cases=cases, labels=found.labels, ignore=found.ignore, relabelling=None)


def relabelled(mask: Scan, pairs: Sequence[tuple[int, int]]) -> Scan:
    """Return a mask with other values, as if its file had them; 0 where no pair has the file's own.

    Args:
        mask: A mask of integers, of one channel.
        pairs: Own and new values.
    """
    own = mask.labels
    new = [value for _, value in pairs]
    dtype = np.dtype(np.uint8 if min(new) >= 0 and max(new) < 256 else np.int32)
    values = np.zeros(own.shape, dtype, order="F")
    for before, after in pairs:
        values[own == before] = after
    header = replace(mask.header, dtype=dtype, offset=0, slope=1.0, inter=0.0)
    return replace(mask, header=header, body=values.tobytes(order="F"))


def recounted(counts: Mapping[int, int], pairs: Sequence[tuple[int, int]]) -> dict[int, int]:
    """Return the number of voxels by new value, by rising value, from those by the file's own.

    >>> recounted({0: 90, 1: 4, 2: 5, 7: 1}, [(2, 1), (1, 2)])
    {0: 91, 1: 5, 2: 4}
    """
    becomes = dict(pairs)
    found: dict[int, int] = {}
    for value, count in counts.items():
        new = becomes.get(value, 0)
        found[new] = found.get(new, 0) + count
    return dict(sorted(found.items()))
