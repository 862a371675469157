"""Look at every file of a dataset once and report everything that is wrong with it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from pipeline.bounds import LEAST_MM, MOST_MM
from pipeline.data.astray import astray
from pipeline.data.checked import FilesChangedError, read_case
from pipeline.data.classes import classes_of, dataset_warnings
from pipeline.data.codes import is_warning
from pipeline.data.examining import examine, in_parallel
from pipeline.data.index import FACTS, Index, rows_of
from pipeline.data.inspection import CaseFacts, Declared
from pipeline.data.label_values import filling_value
from pipeline.data.packed import Packed
from pipeline.data.stamps import case_files, stamps
from pipeline.errors import Problem, UserError
from pipeline.shards import WHOLE, Shard

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.data.layouts import Dataset
    from pipeline.types import Case

# With at least so many masks, a label value that only one of them has is reported.
MANY_MASKS = 5
# The largest sensible ratio between a voxel's volume and the median's: a factor of 10 along each axis.
MAX_VOLUME_RATIO = 1000.0
# And between the lengths of a voxel's edges.
MAX_EDGE_RATIO = 1000.0


def read_facts(path: Path) -> dict[str, CaseFacts]:
    """Read the facts of cases, by id, from a JSON file of the rows of :func:`rows_of`.

    A file of another version, or one with an impossible grid, has no facts.

    Raises:
        OSError: The file cannot be read.
    """
    try:
        rows = FACTS.validate_json(path.read_bytes())
    except ValidationError:
        return {}
    return {facts.case: facts for facts in rows}


@dataclass
class Check:
    """One pass over a dataset: iterate it to its end, then read ``problems`` and ``warnings`` or call :meth:`index`.

    Iterating yields the id of each case as it is done, so that a caller can show progress.

    Attributes:
        dataset: The dataset; the problems of its list are reported with those of its files.
        strict: Count warnings as problems.
        known: Facts of an earlier check, by case: files that have not changed since are not read again.
        to_train: Whether the dataset is to be trained on; only then classes without masks are reported.
        shard: The share of the cases to look at. Only a look at all of them compares cases with each other.
        seen: What was found of all cases that could be read: cases are compared whatever else is wrong with them.
        sound: The ids of the cases without a problem.
        problems: What keeps the dataset from being used.
        warnings: What does not keep it from being used.
    """

    dataset: Dataset
    strict: bool = False
    known: Mapping[str, CaseFacts] = field(default_factory=dict)
    to_train: bool = True
    shard: Shard = field(default=WHOLE, kw_only=True)
    seen: Packed[CaseFacts] = field(default_factory=Packed, init=False)
    sound: list[str] = field(default_factory=list, init=False)
    problems: list[Problem] = field(default_factory=list, init=False)
    warnings: list[Problem] = field(default_factory=list, init=False)

    def __repr__(self) -> str:
        return f"Check(cases={len(self)}, problems={len(self.problems)}, warnings={len(self.warnings)})"

    def __len__(self) -> int:
        return len(self.shard.of(self.dataset.cases))

    def __iter__(self) -> Iterator[str]:
        cases = self.shard.of(self.dataset.cases)
        found: list[Problem] = [*self.dataset.problems, *self._zero_ignored()]
        self.seen = Packed()
        self.sound = []
        for case, (facts, problems) in zip(cases, in_parallel(self._examine, cases), strict=True):
            found += problems
            if facts is not None:
                self.seen[case.id] = facts
                if all(map(is_warning, problems)):
                    self.sound.append(case.id)
            yield case.id
        found += [*self._at_masks(self._unannotated_labels()), *astray(self.dataset, found)]
        if self.shard == WHOLE:
            found += self._across_cases()
        self.problems = [problem for problem in found if self.strict or not is_warning(problem)]
        self.warnings = [problem for problem in found if not self.strict and is_warning(problem)]

    def _examine(self, case: Case) -> tuple[CaseFacts | None, list[Problem]]:
        known = self.known.get(case.id)
        if known is not None and known.stamps == stamps(case_files(case)):
            return replace(known, annotated=case.annotated), []
        channels = self.dataset.channels
        count = None
        if channels is not None:
            count = len(channels)
        own = self.dataset.relabelling or self.dataset
        facts, problems = examine(case, Declared(own.labels, own.ignore, count))
        if known is not None and facts is not None and _is_same(case, known, facts):
            # The older facts are kept, so that plans and prepared scans that depend on them stay valid.
            facts = replace(known, sha256=facts.sha256, stamps=facts.stamps, annotated=case.annotated)
        return facts, problems

    @property
    def findings(self) -> list[Problem]:
        """Problems, then warnings."""
        return self.problems + self.warnings

    def as_rows(self) -> list[dict[str, Any]]:
        """Return the facts of the sound cases as JSON-ready rows, in the order of the cases."""
        return rows_of(self.seen[name] for name in self.sound)

    def index(self) -> Index:
        """Return the index of a dataset that has passed.

        Raises:
            UserError: It has not; with every problem of every file.
        """
        if self.problems:
            places = {problem.where for problem in self.problems}
            found = f"{self.dataset.source}: {len(self.problems)} problem(s) in {len(places)} place(s)."
            if all(place.startswith(("labels.", "regions.")) for place in places):  # Keys of the recipe.
                found = f"{self.dataset.source} has not what the recipe asks for."
            raise UserError(found, self.problems)
        return Index(
            dataset=self.dataset,
            facts=self.seen,
            labels=self._labels(),
            channels=self._channels(),
            warnings=tuple(self.warnings),
        )

    def _labels(self) -> dict[int, str]:
        if self.dataset.labels is not None:
            return dict(self.dataset.labels)
        values = {value for facts in self.seen.values() for value in facts.label_voxels or ()}
        return {0: "background"} | {v: f"label {v}" for v in sorted(values - {0, self.dataset.ignore})}

    def _channels(self) -> tuple[str, ...]:
        if self.dataset.channels is not None:
            return self.dataset.channels
        count = next(iter(self.seen.values())).channels
        if count == 1:
            return ("image",)
        return tuple(f"channel {n}" for n in range(count))

    def _across_cases(self) -> list[Problem]:
        """Find what only a comparison of cases shows."""
        if not self.seen:
            return []
        found = [*self._channel_counts(), *self._dimensions(), *self._voxel_sizes(), *self._lengths()]
        problems = self._at_images(found) + self._at_masks(self._rare_labels())
        drawn = all(case.role != "validation" for case in self.dataset.cases)
        problems += copies(self.dataset.cases, self.seen, drawn=drawn)
        problems += [*self._chosen_labels(), *self._looks_unannotated()]
        return problems + self._classes({problem.case for problem in problems if problem.code == "rare-label"})

    def _at_images(self, found: Iterable[tuple[str, str, str, str]]) -> list[Problem]:
        """Return findings, each a case's id, a code, a message and a remedy, as problems of the cases' first images."""
        images = {case.id: str(case.images[0]) for case in self.dataset.cases}
        return [Problem(images[name], *about, case=name) for name, *about in found]

    def _at_masks(self, found: Iterable[tuple[str, str, str, str]]) -> list[Problem]:
        """Return findings as :meth:`_at_images` does, as problems of the cases' masks."""
        masks = {case.id: str(case.label) for case in self.dataset.cases}
        return [Problem(masks[name], *about, case=name) for name, *about in found]

    def _chosen_labels(self) -> list[Problem]:
        """Compare the labels that are chosen with those in the masks, once every mask is known."""
        masks = [case.id for case in self.dataset.cases if case.label]
        if self.dataset.relabelling is None or not self.to_train or not {*masks} <= {*self.sound}:
            return []
        return [Problem(*found) for found in self.dataset.relabelling.findings([self.seen[name] for name in masks])]

    def _classes(self, rare: set[str]) -> list[Problem]:
        """Find classes that are not trained on or not validated, once every mask is known."""
        labelled = [case.id for case in self.dataset.cases if case.label and case.role != "test"]
        if not self.to_train or not {*labelled} <= {*self.sound}:
            return []
        classes = classes_of({name: self.seen[name] for name in labelled}, self.dataset.ignore)
        once = Counter(value for found in classes.values() for value in found)
        # A class that only one of many masks has is reported as `rare-label` already.
        said = {value for name in rare for value in classes[name] if once[value] == 1}
        labels = {value: name for value, name in self._labels().items() if value not in said}
        return dataset_warnings(self.dataset, labels, classes)

    def _zero_ignored(self) -> Iterator[Problem]:
        """Refuse masks in which 0 is no background, where nothing says what is."""
        if self.dataset.ignore == 0:
            message = "has 0 as the value that nobody has annotated, and no label is called background"
            remedy = "declare the value of each, such as labels={background: 1, liver: 2}"
            yield Problem(str(self.dataset.source), "bad-labels", message, remedy)

    @property
    def unannotated(self) -> int | None:
        """The value that most of many masks consist of, where nothing says which values there are; None for none."""
        if self.dataset.labels is not None or self.dataset.ignore is not None:
            return None
        return filling_value([facts.label_voxels for facts in self.seen.values() if facts.label_voxels])

    def _looks_unannotated(self) -> Iterator[Problem]:
        if value := self.unannotated:
            message = f"has {value} in most voxels of most masks, as where nobody has annotated"
            remedy = f"if it is that: --layout-option ignore={value}, for train layout.options.ignore={value}"
            yield Problem(str(self.dataset.source), "looks-unannotated", message, remedy)

    def _channel_counts(self) -> Iterator[tuple[str, str, str, str]]:
        declared = self.dataset.channels
        common = Counter(facts.channels for facts in self.seen.values()).most_common(1)[0][0]
        expected = len(declared) if declared is not None else common
        source = "expected are" if declared is not None else "most scans have"
        remedy = "give every scan these channels, or correct channel_names where they are declared"
        for name, facts in self.seen.items():
            if facts.channels != expected:
                yield name, "channel-count", f"has {facts.channels} channel(s), {source} {expected}", remedy

    def _dimensions(self) -> Iterator[tuple[str, str, str, str]]:
        flat = [name for name, facts in self.seen.items() if facts.flat]
        if 2 * sum(min(facts.shape) == 1 for facts in self.seen.values()) > len(self.seen):
            return  # a dataset of slices
        for name in flat:
            message = "is a 2-D image among volumes"
            remedy = "leave it out, or train on 2-D images alone"
            yield name, "mixed-dimensions", message, remedy

    def _voxel_sizes(self) -> Iterator[tuple[str, str, str, str]]:
        volumes = {name: float(np.prod(facts.spacing_mm)) for name, facts in self.seen.items()}
        median = float(np.median(list(volumes.values())))
        for name, volume in volumes.items():
            if about := voxel_size_problem(self.seen[name], volume / median, "the median voxel of the dataset"):
                yield name, *about

    def _lengths(self) -> Iterator[tuple[str, str, str, str]]:
        # Sorted, since the axes of files may stand in any order.
        lengths = {name: np.sort(np.multiply(f.shape, f.spacing_mm)) for name, f in self.seen.items()}
        median = np.median(list(lengths.values()), axis=0)
        for name, length in lengths.items():
            if (2 * length < median).any() and min(self.seen[name].shape) > 1:
                message = f"is {_triple(length)} mm large, where the median is {_triple(median)}: it will be padded"
                yield name, "small-scan", message, "nothing, if it shows what it has to show"

    def _unannotated_labels(self) -> Iterator[tuple[str, str, str, str]]:
        """Find voxels of classes that are said not to be annotated in their case."""
        for name, facts in self.seen.items():
            if facts.annotated is None or facts.label_voxels is None:
                continue
            for value in facts.label_voxels.keys() - {0, self.dataset.ignore, *facts.annotated}:
                message = f"has {facts.label_voxels[value]} voxels of {value} in its mask, which is not annotated there"
                yield name, "unannotated-label", message, "add it to annotated, or take it out of the mask"

    def _rare_labels(self) -> Iterator[tuple[str, str, str, str]]:
        """Find values that one of many masks has alone, where nothing says which values there are."""
        masks = {name: facts.label_voxels for name, facts in self.seen.items() if facts.label_voxels}
        if self.dataset.labels is not None or len(masks) < MANY_MASKS:
            return
        holders = Counter(value for voxels in masks.values() for value in voxels if value != self.dataset.ignore)
        for name, voxels in masks.items():
            for value in (value for value in voxels if holders[value] == 1):
                message = f"has the label {value}, which no other of {len(masks)} masks has"
                yield name, "rare-label", message, "correct the mask, or declare the labels"


def _is_same(case: Case, known: CaseFacts, facts: CaseFacts) -> bool:
    """Tell whether files whose stamps have changed hold the same bytes, or the same values on the same grid."""
    if facts.sha256 == known.sha256:
        return True
    try:
        images, mask = read_case(case, known)
    except FilesChangedError:
        return False
    return tuple(scan.sha256 for scan in (*images, mask) if scan is not None) == facts.sha256


def copies(cases: Sequence[Case], facts: Mapping[str, CaseFacts], *, drawn: bool) -> list[Problem]:
    """Find copies of one scan in two roles or, where a draw may part them, under two patients.

    A copy is known by its voxels, whatever type, order and direction of axes they are stored in.

    Args:
        cases: The cases to compare.
        facts: What the check found of each, by id; cases that could not be read are left out.
        drawn: Whether the validation cases are drawn at random.
    """
    first: dict[tuple[str, ...], Case] = {}
    problems = []
    for case in (case for case in cases if case.id in facts):
        # Voxels in the order of the file tell a copy of which the affine was lost.
        others = [first.setdefault(tuple(sorted(key)), case) for key in facts[case.id].known_by]
        for other in dict.fromkeys(others):
            drawable = drawn and case.role != "test" and (case.label or other.label)
            parted = drawable and other.patient != case.patient
            if other.role != case.role or parted:
                message = f"is the same scan as {other.images[0]}, so it could be trained on and tested"
                remedy = "keep one of them, or give both one patient and one role in a list"
                problems.append(Problem(str(case.images[0]), "scan-leaks", message, remedy, case=case.id))
                break
    return problems


def _triple(lengths: NDArray[Any]) -> str:
    return " x ".join(f"{length:.3g}" for length in lengths)


def voxel_size_problem(facts: CaseFacts, ratio: float, reference: str) -> tuple[str, str, str] | None:
    """Return code, message and remedy where a scan's voxels are so large or small that a unit must be wrong.

    Resampled to the reference, the scan would have ``ratio`` times its voxels. An axis of one slice may be of any
    length against the others.
    """
    edges = [length for length, count in zip(facts.spacing_mm, facts.shape, strict=True) if count > 1]
    unlike = max(edges, default=1.0) / min(edges, default=1.0)
    # Headers hold float32, which is a little off.
    if not all(0.9999 * LEAST_MM <= length <= 1.0001 * MOST_MM for length in facts.spacing_mm):
        message = f"and voxels are read from {LEAST_MM:g} to {MOST_MM:g} mm"
    elif unlike > MAX_EDGE_RATIO:
        message = f"which are {unlike:.3g} times as long as wide"
    elif not 1 / MAX_VOLUME_RATIO <= ratio <= MAX_VOLUME_RATIO:
        message = f"{ratio:.3g} times {reference}: resampling it would give {ratio:.3g} as many"
    else:
        return None
    size = " x ".join(f"{length:.3g}" for length in facts.spacing_mm)
    return "voxel-size", f"has voxels of {size} mm, {message}", "correct the units of its affine: NIfTI's are mm"
