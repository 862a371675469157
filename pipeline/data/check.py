"""Look at every file of a dataset once and report everything that is wrong with it."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.data.inspection import CaseFacts, examine_case
from pipeline.errors import Problem, UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from pipeline.data.layouts import Dataset
    from pipeline.types import Case

THREADS = 4


@dataclass(frozen=True)
class Index:
    """A dataset that passed the check: whatever reads scans afterwards reads only these.

    Attributes:
        dataset: The dataset.
        facts: One entry a case, by id.
        labels: Label values and names, background (0) first.
        channels: Channel names.
    """

    dataset: Dataset
    facts: Mapping[str, CaseFacts]
    labels: Mapping[int, str]
    channels: tuple[str, ...]

    def as_rows(self) -> list[dict[str, Any]]:
        """Return the facts as JSON-ready rows, in the order of the cases."""
        return [asdict(self.facts[case.id]) for case in self.dataset.cases]

    def describe(self) -> list[tuple[str, str]]:
        """Return what a person wants to see of a sound dataset, as names and values."""
        cases, facts = self.dataset.cases, list(self.facts.values())
        roles = Counter((case.role or "training", "with" if case.label else "without") for case in cases)
        shapes, spacings = np.array([f.shape for f in facts]), np.array([f.spacing_mm for f in facts])
        return [
            ("dataset", f"{self.dataset.source} ({self.dataset.layout})"),
            *((role, f"{count} {mask} masks") for (role, mask), count in sorted(roles.items())),
            ("patients", str(len({case.patient for case in cases}))),
            ("labels", ", ".join(f"{value} {name}" for value, name in self.labels.items())),
            ("channels", ", ".join(self.channels)),
            ("shape", _extent(shapes, "d", "")),
            ("spacing", _extent(spacings, ".3g", " mm")),
            ("problems", "none"),
        ]


def _extent(rows: NDArray[Any], form: str, unit: str) -> str:
    """Say smallest, median and largest of one triple a case."""
    triples = (rows.min(axis=0), np.median(rows, axis=0).astype(rows.dtype), rows.max(axis=0))
    low, middle, high = (" x ".join(format(value, form) for value in triple) for triple in triples)
    return f"{middle}{unit} (median), {low} to {high}"


class Check:
    """One pass over a dataset: iterate it to its end, then read ``problems`` or call :meth:`index`.

    Iterating yields the id of each case as it is done, so that a caller can show progress.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.facts: dict[str, CaseFacts] = {}
        self.problems: list[Problem] = []

    def __len__(self) -> int:
        return len(self.dataset.cases)

    def __iter__(self) -> Iterator[str]:
        self.facts, self.problems = {}, []
        with ThreadPoolExecutor(THREADS) as pool:  # gzip and NumPy release the interpreter lock
            for case, (facts, problems) in zip(
                self.dataset.cases, pool.map(self._examine, self.dataset.cases), strict=True
            ):
                self.problems += problems
                if facts is not None:
                    self.facts[case.id] = facts
                yield case.id
        self.problems += self._across_cases()

    def _examine(self, case: Case) -> tuple[CaseFacts | None, list[Problem]]:
        return examine_case(case, self.dataset.labels)

    def index(self) -> Index:
        """Return the index of a dataset that has passed.

        Raises:
            UserError: It has not; with every problem of every file.
        """
        if self.problems:
            count = len({problem.where for problem in self.problems})
            raise UserError(
                f"{self.dataset.source}: {len(self.problems)} problem(s) in {count} place(s).", self.problems
            )
        return Index(self.dataset, self.facts, self._labels(), self._channels())

    def _labels(self) -> dict[int, str]:
        if self.dataset.labels is not None:
            return dict(self.dataset.labels)
        values = {value for facts in self.facts.values() for value in facts.label_voxels or ()}
        return {0: "background"} | {value: f"label {value}" for value in sorted(values - {0})}

    def _channels(self) -> tuple[str, ...]:
        if self.dataset.channels is not None:
            return self.dataset.channels
        count = next(iter(self.facts.values())).channels
        return ("image",) if count == 1 else tuple(f"channel {n}" for n in range(count))

    def _across_cases(self) -> list[Problem]:
        """Find what no file shows alone: differing channels, and one scan on both sides of a split."""
        return self._channel_problems() + self._leaks()

    def _channel_problems(self) -> list[Problem]:
        if not self.facts:
            return []
        cases = {case.id: case for case in self.dataset.cases}
        common = Counter(facts.channels for facts in self.facts.values()).most_common(1)[0][0]
        expected = len(self.dataset.channels) if self.dataset.channels is not None else common
        source = "the dataset declares" if self.dataset.channels is not None else "most scans have"
        return [
            Problem(
                str(cases[name].images[0]),
                "channel-count",
                f"has {facts.channels} channel(s), {source} {expected}",
                "give every scan the same channels, or correct channel_names in the list",
                name,
            )
            for name, facts in self.facts.items()
            if facts.channels != expected
        ]

    def _leaks(self) -> list[Problem]:
        """Find copies of one scan in two roles, or under two patients where a draw may part them."""
        drawn = all(case.role != "validation" for case in self.dataset.cases)
        first: dict[tuple[str, ...], Case] = {}
        problems = []
        for case in self.dataset.cases:
            if case.id not in self.facts:
                continue
            key = self.facts[case.id].sha256[: len(case.images)]
            other = first.setdefault(key, case)
            if other.role != case.role or (drawn and other.patient != case.patient):
                message = f"is the same scan as {other.images[0]}, so it could teach and test"
                remedy = "keep one of them, or give both one patient and one role in a list"
                problems.append(Problem(str(case.images[0]), "scan-leaks", message, remedy, case.id))
        return problems
