"""A dataset that passed the check."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import TypeAdapter

from pipeline.data.inspection import CaseFacts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from pipeline.data.layouts import Dataset
    from pipeline.errors import Problem


FACTS = TypeAdapter(tuple[CaseFacts, ...])


@dataclass(frozen=True, kw_only=True)
class Index:
    """A dataset that passed the check: whatever reads scans afterwards reads only these.

    Attributes:
        dataset: The dataset.
        facts: What the check found of each case, by id.
        labels: Label values and names, background (0) first.
        channels: Channel names.
        warnings: What the check found that does not keep the dataset from being used.
    """

    dataset: Dataset
    facts: Mapping[str, CaseFacts]
    labels: Mapping[int, str]
    channels: tuple[str, ...]
    warnings: tuple[Problem, ...] = ()

    @property
    def ignore(self) -> int | None:
        """The label value of voxels that nobody has annotated, where the dataset has one."""
        return self.dataset.ignore

    def as_rows(self) -> list[dict[str, Any]]:
        """Return the facts as JSON-ready rows, in the order of the cases."""
        return rows_of(self.facts[case.id] for case in self.dataset.cases)

    def describe(self) -> list[tuple[str, str]]:
        """Return a summary of the dataset for people, as names and values."""
        cases = self.dataset.cases
        facts = list(self.facts.values())
        roles = Counter((case.role or "training", "with" if case.label else "without") for case in cases)
        shapes = np.array([f.shape for f in facts])
        spacings = np.array([f.spacing_mm for f in facts])
        regions = [f"{name} = {' + '.join(map(str, values))}" for name, values in self.dataset.regions.items()]
        rows = [
            ("dataset", f"{self.dataset.source} ({self.dataset.layout})"),
            *((role, f"{count} {mask} masks") for (role, mask), count in sorted(roles.items())),
            ("patients", str(len({case.patient for case in cases}))),
            ("labels", ", ".join(f"{value} {name}" for value, name in self.labels.items())),
        ]
        if self.dataset.labels is None and len(self.labels) > 1:
            first = list(self.labels)[1]
            given = f"'layout.options.labels={{liver: {first}, …}}'"
            way = "write a dataset.json, or give" if self.dataset.layout == "folder" else "give"
            rows.append(("names", f"none: {way} {given} to train (here --layout-option 'labels=…')"))
        if regions:
            rows.append(("regions", ", ".join(regions)))
        if self.ignore is not None:
            rows.append(("ignored", f"label value {self.ignore}"))
        if partly := sum(found.annotated is not None for found in facts):
            rows.append(("annotated", f"not every class in {partly} cases"))
        rows += [
            ("channels", ", ".join(self.channels)),
            ("shape", _extent(shapes, "d", "")),
            ("spacing", _extent(spacings, ".3g", " mm")),
            ("problems", "none"),
        ]
        if self.warnings:
            rows.append(("warnings", count_codes(self.warnings)))
        return rows


def count_codes(findings: Iterable[Problem]) -> str:
    """Say how many findings there are of each code, the most frequent first; "" where there are none."""
    return ", ".join(f"{count} {code}" for code, count in Counter(f.code for f in findings).most_common())


def rows_of(facts: Iterable[CaseFacts]) -> list[dict[str, Any]]:
    """Return facts as JSON-ready rows."""
    rows: list[dict[str, Any]] = FACTS.dump_python(tuple(facts), mode="json")
    return rows


def _extent(rows: NDArray[Any], form: str, unit: str) -> str:
    """Return median, smallest and largest of ``[cases, 3]`` as text."""
    triples = (rows.min(axis=0), np.median(rows, axis=0).astype(rows.dtype), rows.max(axis=0))
    low, middle, high = (" x ".join(format(value, form) for value in triple) for triple in triples)
    return f"{middle}{unit} (median), {low} to {high}"
