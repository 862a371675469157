"""Records: entries of a list and rows of a table, read by what their keys mean; unknown keys are reported."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, get_args

from pipeline.data.layouts.dataset import BadEntryError, inside
from pipeline.data.layouts.synonyms import (
    KEYS,
    MOST_UNKNOWN,
    ROLES,
    TAKE_OUT,
    meaning,
    names_masks,
    simple,
    slip,
)
from pipeline.errors import Problem, nearest
from pipeline.nifti.container import OTHER_FORMATS, SUFFIXES, stem
from pipeline.types import Case, Role

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

# Of channels in keys of their own: image_0, image_1, img2.
NUMBERED = re.compile(r"(?:images?|imgs?|scans?|volumes?)(?:[_ -]?\d+|[_ -].+)")


@dataclass(kw_only=True)
class Keys:
    """Reads the keys of a list's entries, or the columns of a table, by their meaning, and collects what is odd.

    Attributes:
        what: ``key`` or ``column``, for messages.
        misspelt: The code of the problem that a key is misspelt.
        seen: By key, the number of entries that have a value for it.
        files: Unknown keys whose values look like names of scans.
        twice: By meaning and the two keys that have it in one entry, the number of such entries.
        meanings: The meaning of each key that was seen; None for an unknown one.
    """

    what: str
    misspelt: str
    seen: Counter[str] = field(default_factory=Counter)
    files: set[str] = field(default_factory=set)
    twice: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    meanings: dict[str, str | None] = field(default_factory=dict)

    def fields(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of a record by the meaning of their keys; several images become a list of channels."""
        found: dict[str, tuple[str, Any]] = {}
        channels: list[tuple[str, Any]] = []
        for key, value in record.items():
            self.seen[key] += value not in (None, "")
            what = self._meaning(key, value)
            if what == "channel":
                channels.append((key, value))
            elif what and what in found:
                self.twice[what, found[what][0], key] += 1
            elif what:
                found[what] = key, value
            elif is_scan_name(value):
                self.files.add(key)
        if channels and "image" in found:
            self.twice["image", found["image"][0], channels[0][0]] += 1
        elif channels:
            found["image"] = "image", [value for _, value in sorted(channels, key=lambda pair: in_order(pair[0]))]
        return {what: value for what, (_, value) in found.items()}

    def _meaning(self, key: str, value: Any) -> str | None:
        if key not in self.meanings or (self.meanings[key] is None and _is_channel(key, value)):
            self.meanings[key] = meaning(key, KEYS) or ("channel" if _is_channel(key, value) else None)
        return self.meanings[key]

    def problems(self, where: str, entries: int) -> list[Problem]:
        """Return the problems and warnings about keys, one for each key or pair of keys.

        Args:
            where: The list, for messages.
            entries: The number of its entries.
        """
        problems = []
        unknown = [key for key, what in self.meanings.items() if what is None]
        if len(unknown) > MOST_UNKNOWN:
            message = f"has {len(unknown)} different {self.what}s that nothing reads, such as {unknown[0]!r}"
            problems.append(Problem(where, "unknown-key", message, TAKE_OUT))
            unknown = []
        for key in unknown:
            known = slip(key, [KEYS])
            held = f"{self.seen[key]} of {entries}"
            if known:
                message = f"has a {self.what} {key!r}, in {held} entries"
                problems.append(Problem(where, self.misspelt, message, f"did you mean {known!r}?"))
                continue
            message = f"has a {self.what} {key!r}, in {held} entries, and nothing reads it"
            remedy = TAKE_OUT
            if key in self.files:
                message += ", though it names scans"
                remedy = "call it image_0, image_1, … where it is a channel, or label; or take it out"
            problems.append(Problem(where, "unknown-key", message, remedy))
        for (what, first, second), count in self.twice.items():
            message = f"has {first!r} and {second!r} in {count} of {entries} entries, and both mean {what}"
            problems.append(Problem(where, "same-meaning", message, "keep one of them"))
        return problems


def _is_channel(key: str, value: Any) -> bool:
    fits = NUMBERED.fullmatch(key.strip().lower()) is not None and not names_masks(key)
    return fits and (key[-1:].isdigit() or is_scan_name(value))


def in_order(key: str) -> tuple[Any, ...]:
    """Sort image_2 before image_10."""
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", key))


def is_scan_name(value: Any) -> bool:
    """Tell whether a value, or the first item of a list, is the name of a scan."""
    first = value[0] if isinstance(value, list) and value else value
    if not isinstance(first, str) or first.rpartition("/")[2].startswith("."):
        return False
    return first.lower().endswith((*SUFFIXES, *OTHER_FORMATS))


def read_text(fields: Mapping[str, Any], what: str) -> str:
    """Return the value of a meaning as text; "" if the record has none.

    Raises:
        BadEntryError: It is neither a text nor a whole number.
    """
    value = fields.get(what)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise BadEntryError("bad-entry", f"has the {what} {value!r}, which is no text", "write one, or a whole number")
    return str(value).strip()


def read_role(fields: Mapping[str, Any]) -> Role | None:
    """Return the role that a record gives; None where it gives none.

    Raises:
        BadEntryError: There is no such role.
    """
    told = read_text(fields, "role")
    if told and simple(told) not in ROLES:
        raise BadEntryError("bad-entry", f"has the role {told!r}", nearest(told, get_args(Role)))
    if told:
        return ROLES[simple(told)]
    return None


def read_files(fields: Mapping[str, Any], root: Path, remedy: str) -> tuple[tuple[Path, ...], Path | None]:
    """Return the images and the label of a record.

    Args:
        fields: The values of the record, by meaning.
        root: The folder that names are relative to.
        remedy: For a record without an image.

    Returns:
        The images, one or more, and the label, or None.

    Raises:
        BadEntryError: A value is no name, a path leads out of the root, or one file is image and label.
    """
    images = fields.get("image")
    label = fields.get("label")
    if not isinstance(images, list):
        images = [images]
    if not images or not all(isinstance(name, str) and name for name in images):
        raise BadEntryError("bad-entry", "names no image", remedy)
    if label not in (None, "") and not isinstance(label, str):
        raise BadEntryError("bad-entry", f"has the label {label!r}, which is no path", "name one label file")
    scans = tuple(inside(root, name) for name in images)
    mask = None
    if label:
        mask = inside(root, label)
    if mask in scans:
        raise BadEntryError("label-is-image", f"has {label} as image and as label", "name the label's own file")
    return scans, mask


def make_case(fields: Mapping[str, Any], scans: tuple[Path, ...], mask: Path | None, role: Role | None) -> Case:
    """Return the case of a record. Its id is by default the name of its first file, its patient the id.

    Raises:
        BadEntryError: Its id or its patient is no text.
    """
    name = read_text(fields, "id") or stem(scans[0])
    return Case(id=name, images=scans, label=mask, patient=read_text(fields, "patient") or name, role=role)


def as_fold(text: str) -> str:
    """Return the name of a fold. Spreadsheets write whole numbers as 0.0 where a row lacks one.

    >>> as_fold("0.0"), as_fold("north")
    ('0', 'north')
    """
    return text.removesuffix(".0") if text.removesuffix(".0").isdigit() else text


@dataclass
class Folds:
    """The folds that entries of a list give, and which of them validates.

    Attributes:
        chosen: The fold that an option lets validate, or None.
        given: The fold of each case that gives one.
    """

    chosen: int | str | None = None
    given: dict[str, str] = field(default_factory=dict)

    def add(self, fields: Mapping[str, Any], name: str) -> None:
        """Note the fold of a case.

        Raises:
            BadEntryError: It is no text.
        """
        if fold := read_text(fields, "fold"):
            self.given[name] = as_fold(fold)

    def applied(self, cases: Sequence[Case]) -> list[Case]:
        """Return the cases with roles: the chosen fold validates and the others train; unchanged without a choice."""
        if self.chosen is None:
            return list(cases)
        roles: dict[bool, Role] = {True: "validation", False: "training"}
        return [
            replace(case, role=roles[self.given[case.id] == str(self.chosen)])
            if case.id in self.given and case.label and case.role in (None, "training")
            else case
            for case in cases
        ]

    def problems(self, where: str, entries: int) -> list[Problem]:
        """Return a problem if the chosen fold does not exist, or a warning if there are folds and none is chosen."""
        there = sorted(set(self.given.values()), key=lambda name: (len(name), name))
        if self.chosen is not None and str(self.chosen) not in there:
            message = f"has no entry of fold {self.chosen}"
            remedy = "leave the option `fold` out"
            if there:
                remedy = nearest(str(self.chosen), there)
            return [Problem(where, "bad-layout", message, remedy)]
        if self.chosen is not None or not there:
            return []
        message = f"gives {len(self.given)} of {entries} entries a fold ({', '.join(there)}), which is not used"
        remedy = (
            f"--layout-option fold={there[0]} lets that fold validate, and data.split in a recipe takes all of them"
        )
        return [Problem(where, "fold-unused", message, remedy)]
