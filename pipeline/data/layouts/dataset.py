"""The dataset that every layout reads, and the base class of layouts."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass, field, replace
from shlex import quote
from typing import TYPE_CHECKING, Any

from pipeline.bounds import MAX_LABEL, LabelValue
from pipeline.data.layouts.painting import UnpaintableError, painted_labels
from pipeline.data.layouts.patterns import REMEDY, BadPatternError, first_groups
from pipeline.errors import Problem, UserError, shown
from pipeline.files import LONGEST_NAME
from pipeline.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pipeline.data.relabelling import Relabelling
    from pipeline.types import Case, Region

LAYOUTS = Registry(name="layout", description="ways in which a dataset may lie on disk")

# An annotation is one byte a voxel, and two of its values are not classes.
MAX_CLASSES = 250
# Bytes of a path with all its folders, beyond which no system opens a file.
LONGEST_PATH = 4096
LABELS_REMEDY = f'write {{"0": "background", "1": "liver"}}: at most {MAX_CLASSES} values from 0 to {MAX_LABEL}'


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Cases, and what the dataset itself says about them.

    Attributes:
        source: The folder or list that it was read from.
        layout: The registered name of the layout.
        cases: Labelled and unlabelled cases, each id once.
        channels: Names of the image channels, or None where nothing declares them.
        labels: Label values and their names, background included, or None where nothing declares them.
        ignore: The label value of voxels that nobody has annotated; None where there is none.
        regions: Names of structures that are unions of labels, and the values of each.
        asked: Regions that the dataset asks a network to be trained on, as nnU-Net's ``regions_class_order`` does, and
            the values of each, in the order of painting; those of a single value are among them.
        targets: Regions that are trained and scored; empty where labels are.
        problems: Problems and warnings about the list or the folders; ``cases`` are those that could be read.
        left_out: Files that an option leaves out, and that are not reported as unused.
        names_patients: Whether the dataset names the patient of every case.
        annotated: By case, the names or values of the annotated classes, where the dataset says that not all are.
        relabelling: What its own labels are, where ``labels`` and ``ignore`` are those that its masks are read with.
    """

    source: Path
    layout: str
    cases: tuple[Case, ...]
    channels: tuple[str, ...] | None = None
    labels: Mapping[int, str] | None = None
    ignore: int | None = None
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    asked: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    targets: tuple[Region, ...] = ()
    problems: tuple[Problem, ...] = ()
    left_out: frozenset[Path] = frozenset()
    names_patients: bool = False
    annotated: Mapping[str, tuple[int | str, ...]] = field(default_factory=dict)
    relabelling: Relabelling | None = None


@dataclass(frozen=True, kw_only=True)
class Layout(ABC):
    """One way in which a dataset may lie on disk. Its options declare what the dataset itself does not.

    Attributes:
        labels: Label names and values, such as ``{liver: 1}``; text only for layouts in which it names a folder.
        channel_names: Names of the channels.
        ignore: The label value of voxels that nobody has annotated.
        patient: A regular expression; its first group in a case's id, or else the whole match, is the patient.
    """

    labels: dict[str, int] | str | None = None
    channel_names: tuple[str, ...] | None = None
    ignore: LabelValue | None = None
    patient: str | None = None

    @classmethod
    @abstractmethod
    def detect(cls, source: Path) -> str | None:
        """Return in a few words by what a file or folder is recognised as this layout; None if it is not."""

    @abstractmethod
    def read(self, source: Path, root: Path | None) -> Dataset:
        """Read a dataset that :meth:`detect` recognised, or whose layout the user has named.

        Args:
            source: The file or folder.
            root: The folder that a list's paths are relative to, where it is not the list's own.

        Raises:
            UserError: Nothing can be read. Problems of single entries go into ``Dataset.problems``.
        """

    def declare(self, dataset: Dataset) -> Dataset:
        """Return a dataset with what the options declare; a bad option becomes one of its problems."""
        problems = list(dataset.problems)
        declared: dict[str, Any] = {}
        if self.labels is not None:
            try:
                declared |= read_labels(self.labels, self.ignore)
            except BadEntryError as error:
                problems.append(Problem("layout.options.labels", *error.args))
        if self.channel_names is not None:
            declared["channels"] = self.channel_names
        if self.ignore is not None:
            named = dataset.labels and {v: n for v, n in dataset.labels.items() if v != self.ignore}
            declared = {"labels": named} | declared | {"ignore": self.ignore}
        cases, wrong = self._with_patients(dataset)
        known = dataset.names_patients or self.patient is not None
        return replace(dataset, **declared, cases=cases, problems=(*problems, *wrong), names_patients=known)

    def _with_patients(self, dataset: Dataset) -> tuple[tuple[Case, ...], list[Problem]]:
        if self.patient is None:
            return dataset.cases, []
        try:
            found = first_groups(self.patient, [case.id for case in dataset.cases])
        except BadPatternError as error:
            return dataset.cases, [Problem(self.patient, "bad-pattern", *error.args)]
        problems = [
            Problem(str(case.images[0]), "bad-pattern", f"{self.patient} is not in {case.id}", REMEDY, case=case.id)
            for case, patient in zip(dataset.cases, found, strict=True)
            if patient is None
        ]
        patients = [patient or case.id for case, patient in zip(dataset.cases, found, strict=True)]
        cases = tuple(replace(case, patient=of) for case, of in zip(dataset.cases, patients, strict=True))
        return cases, problems


class BadEntryError(Exception):
    """Code, message and remedy of a problem of one entry; the caller adds where the entry stands."""


def no_dataset(source: Path, code: str, message: str, remedy: str) -> UserError:
    """Return the error of a dataset that cannot be read at all."""
    return UserError("The dataset cannot be opened.", [Problem(str(source), code, message, remedy)])


def say_which(*options: str) -> str:
    """Return the remedy for an ambiguity: options to choose from, as ``check`` and as ``train`` take them."""
    ways = " or ".join(f"--layout-option {quote(option)}" for option in options)
    return f"say which: {ways}; for train: {quote(f'layout.options.{options[0]}')}"


def repeats(source: Path, cases: Sequence[Case]) -> list[Problem]:
    """Find files that are in two entries, and ids that two cases have."""
    first: dict[Path, Case] = {}
    problems = []
    for case in cases:
        other = first.setdefault(case.images[0], case)
        if other is not case:
            roles = ""
            if other.role and case.role:
                roles = f", under {other.role} and {case.role}"
            message = f"{case.images[0].name} is there twice{roles}"
            problems.append(Problem(str(source), "scan-twice", message, "keep one of its entries", case=case.id))
    for name, count in Counter(case.id for case in first.values()).items():
        if count > 1:
            message = f"{count} scans have the name {name}"
            problems.append(Problem(str(source), "id-twice", message, 'give each of these entries an "id"', case=name))
    return problems


def inside(root: Path, name: str) -> Path:
    """Return the path of an entry below the root. Only its text is looked at: links inside the root may lead out.

    Raises:
        BadEntryError: It leads out of the root, or no file can have such a name.
    """
    if not _could_be_a_file(name):
        raise BadEntryError("bad-entry", f"names {shown(name)}, which no file can be called", "correct the name")
    path = root / name
    if ".." not in path.parts:
        if path.is_relative_to(root):
            return path
        for base in path.parents:  # An absolute path may go by a link to the root.
            if os.path.realpath(base) == str(root):
                return root / path.relative_to(base)
    raise BadEntryError("outside-root", f"names {name}, outside {root}", "name a folder above all files: root=DIR")


def _could_be_a_file(name: str) -> bool:
    try:
        encoded = os.fsencode(name)
    except UnicodeEncodeError:  # Half of a surrogate pair.
        return False
    return b"\0" not in encoded and len(encoded) < LONGEST_PATH and max(map(len, encoded.split(b"/"))) <= LONGEST_NAME


def read_labels(named: Any, ignore: Any = None, order: Any = None) -> dict[str, Any]:
    """Read label values and names: the Decathlon's ``{"1": "liver"}`` or nnU-Net's ``{"liver": 1}`` and regions.

    A region is a name with several values, ``{"tumour": [1, 2], "core": 2}``: a union. With an order in which label
    maps are painted, regions are asked for; without one, a network of exclusive classes learns their parts. A value is
    named after the smallest region that holds it.

    Args:
        named: What the dataset gives; None or ``{}`` declares nothing.
        ignore: The value of voxels that nobody has annotated; a label of the name ``ignore`` says the same.
        order: nnU-Net's ``regions_class_order``: the value that label maps have for each region; None for none.

    Returns:
        ``labels``, ``ignore``, ``regions`` and ``asked`` of a :class:`Dataset`.

    Raises:
        BadEntryError: It is neither, one value has two names or is out of range, or the order is of other regions.

    >>> read_labels({"background": 0, "tumour": [1, 2], "core": 2, "ignore": 3})["labels"]
    {0: 'background', 1: 'tumour', 2: 'core'}
    """
    if ignore is not None and (isinstance(ignore, bool) or not isinstance(ignore, int) or abs(ignore) > MAX_LABEL):
        remedy = f"give a whole number from {-MAX_LABEL} to {MAX_LABEL}"
        raise BadEntryError("bad-labels", f"has the ignore value {shown(ignore)}", remedy)
    if named is None or named == {}:
        return {"labels": None, "ignore": ignore, "regions": {}, "asked": {}}
    try:
        groups = _groups(named)
    except (AttributeError, TypeError, ValueError):
        raise BadEntryError("bad-labels", f"is {shown(named)}", LABELS_REMEDY) from None
    # One more than the classes: the value to ignore.
    if len({value for values in groups.values() for value in values}) > MAX_CLASSES + 1:
        raise BadEntryError("bad-labels", f"is {shown(named)}", LABELS_REMEDY)
    ignored = groups.pop("ignore", () if ignore is None else (ignore,))
    regions = {name: values for name, values in groups.items() if len(values) > 1}
    names: dict[int, str] = {0: "background"}
    for name, values in sorted(groups.items(), key=lambda group: -len(group[1])):
        names |= dict.fromkeys(values, name)
    for value in sorted(names):
        if list(names.values()).count(names[value]) > 1:
            names[value] = f"{names[value]} {value}"
    singles = [values for values in groups.values() if len(values) == 1]
    names = {value: name for value, name in sorted(names.items()) if value not in ignored}
    many = len(set(singles)) < len(singles) or len(ignored) > 1 or len(names) > MAX_CLASSES
    if many or min(names) < 0 or max(map(abs, (*names, *ignored))) > MAX_LABEL:
        raise BadEntryError("bad-labels", f"is {shown(named)}", LABELS_REMEDY)
    return {
        "labels": names,
        "ignore": ignored[0] if ignored else None,
        "regions": regions,
        "asked": _asked(groups, order) if regions and order is not None else {},
    }


def _asked(groups: Mapping[str, tuple[int, ...]], order: Any) -> dict[str, tuple[int, ...]]:
    """Return the regions that an order of painting speaks of, which must be all that is no background."""
    asked = {name: values for name, values in groups.items() if values != (0,)}
    try:
        painted = painted_labels(asked)
    except UnpaintableError as error:
        raise BadEntryError("bad-labels", f"{shown(error.name)} {error.args[0]}", error.args[1]) from None
    if order != list(painted.values()):
        told = f"{list(painted.values())} for {', '.join(painted)}"
        message = f"has regions_class_order {shown(order)}, and the labels that tell its regions apart are {told}"
        raise BadEntryError("bad-labels", message, "correct one of them; a region in another one stands behind it")
    return asked


def _groups(named: Any) -> dict[str, tuple[int, ...]]:
    """Return the values of each name, from ``{value: name}`` or ``{name: value}``."""
    if all(key.lstrip("-").isdigit() for key in named):
        if len({int(key) for key in named}) < len(named) or not all(isinstance(n, str) for n in named.values()):
            raise ValueError("a value twice, or a name that is no text")
        first: dict[str, str] = {}
        # Two values of one name stay two classes: the second gets its value behind its name.
        return {
            (name if first.setdefault(name, key) == key else f"{name} {key}"): (int(key),)
            for key, name in named.items()
        }
    groups = {
        str(name): tuple(map(int, values)) if isinstance(values, list) else (int(values),)
        for name, values in named.items()
    }
    if not all(groups.values()) or any(isinstance(values, bool) for values in named.values()):
        raise ValueError("a name without a value")
    return groups
