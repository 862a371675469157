"""JSON lists: the Medical Segmentation Decathlon's ``dataset.json`` and MONAI's datalist."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from json import JSONDecodeError
from typing import TYPE_CHECKING, Any

from pipeline import strict_json
from pipeline.data.codes import is_warning
from pipeline.data.layouts.annotated import read_annotated
from pipeline.data.layouts.channels import NumberedFiles
from pipeline.data.layouts.dataset import LAYOUTS, BadEntryError, Dataset, Layout, no_dataset, read_labels, repeats
from pipeline.data.layouts.records import Folds, Keys, is_scan_name, make_case, read_files, read_role
from pipeline.data.layouts.synonyms import (
    ABOUT,
    DECLARED,
    MOST_UNKNOWN,
    SECTIONS,
    TAKE_OUT,
    meaning,
    names_masks,
    simple,
    slip,
)
from pipeline.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from pipeline.types import Case, Role

SECTION_ROLES: dict[str, Role] = {
    "training": "training",
    "unlabeled": "training",
    "validation": "validation",
    "test": "test",
}
# What only the Decathlon's lists have.
DECATHLON_KEYS = ("modality", "tensorImageSize", "numTraining")
# Keys that count the entries of a section.
COUNTS = {
    **{"numtraining": "training", "numtrain": "training", "numtest": "test", "numtesting": "test"},
    **{"numvalidation": "validation", "numval": "validation"},
    **{"numunlabeled": "unlabeled", "numunlabelled": "unlabeled"},
}
FORMAT = "docs/datasets.md has the format"
ENTRY = 'write {"image": PATH, "label": PATH}'


@dataclass(frozen=True, kw_only=True)
class List(Layout):
    """A JSON file that lists scans.

    Attributes:
        fold: Entries with this ``fold`` validate; entries with another fold are trained on.
    """

    fold: int | str | None = None


@LAYOUTS.register("decathlon")
@dataclass(frozen=True, kw_only=True)
class Decathlon(List):
    """Medical Segmentation Decathlon: ``dataset.json``; its ``test`` scans have no masks and train as unlabelled."""

    @classmethod
    def detect(cls, source: Path) -> str | None:
        """Look for a list with the Decathlon's keys."""
        path, content = list_in(source)
        if path and content and is_decathlon(content):
            return f"{path.name} has {_keys(content)}"
        return None

    def read(self, source: Path, root: Path | None) -> Dataset:
        """Read ``dataset.json``."""
        return _read_list(source, root, "decathlon", SECTION_ROLES | {"test": "training"}, Folds(self.fold))


@LAYOUTS.register("datalist")
@dataclass(frozen=True, kw_only=True)
class Datalist(List):
    """MONAI datalist: JSON with ``training``, ``validation``, ``unlabeled`` and ``test``, which is never trained on."""

    @classmethod
    def detect(cls, source: Path) -> str | None:
        """Look for a list with sections; a JSON file that cannot be read counts, so that its mistake is reported."""
        path, content = list_in(source)
        if path is None or (content is not None and is_decathlon(content)):
            return None
        if content is None or (source.is_file() and not describes_folders(content)):
            return f"{path.name} is a list"
        if sections_of(content):
            return f"{path.name} has {_keys(content)}"
        return None

    def read(self, source: Path, root: Path | None) -> Dataset:
        """Read the list."""
        return _read_list(source, root, "datalist", SECTION_ROLES, Folds(self.fold))


def list_in(source: Path) -> tuple[Path | None, dict[str, Any] | None]:
    """Return the JSON file that a source is or holds, and its content if that is a JSON object; else None."""
    path = source / "dataset.json" if source.is_dir() else source
    if path.suffix.lower() != ".json" or not path.is_file():
        return None, None
    try:
        content = strict_json.read_json(path)
    except (OSError, ValueError):
        return path, None
    return path, content if isinstance(content, dict) else None


def sections_of(content: Mapping[str, Any]) -> dict[str, str]:
    """Return the keys of a list that name sections, with the section that each means."""
    found = {key: meaning(key, SECTIONS) for key in content}
    return {key: section for key, section in found.items() if section}


def is_decathlon(content: Mapping[str, Any]) -> bool:
    """Tell the Decathlon's list from a datalist, whose test scans are never trained on."""
    sections = sections_of(content)
    listed = any(section == "training" and isinstance(content[key], list) for key, section in sections.items())
    return listed and any(key in content for key in DECATHLON_KEYS) and set(sections.values()) <= {"training", "test"}


def describes_folders(content: Mapping[str, Any]) -> bool:
    """Tell whether this is nnU-Net's ``dataset.json``, which names no scans."""
    return not sections_of(content) and "file_ending" in content


def _keys(content: Mapping[str, Any]) -> str:
    sections = sections_of(content)
    return ", ".join(key for key in content if key in sections or key in DECATHLON_KEYS)


def _read_list(source: Path, root: Path | None, layout: str, roles: Mapping[str, Role], folds: Folds) -> Dataset:
    if source.is_dir():
        source = source / "dataset.json"
    content = read_json(source)
    root = (root or source.parent).resolve()
    keys = Keys(what="key", misspelt="misspelt-key")
    numbered = NumberedFiles()
    cases: list[Case] = []
    problems: list[Problem] = []
    patients = 0
    annotated: dict[str, tuple[int | str, ...]] = {}
    for section, key, position, entry in _entries(content):
        try:
            fields = keys.fields(entry) if isinstance(entry, dict) else {"image": entry}
            case = _read_case(fields, key, section, roles[section], root)
            folds.add(fields, case.id)
            if told := read_annotated(fields):
                annotated[case.id] = told
            # Named by the list itself: the numbers of channels are no part of an id.
            cases.append(replace(case, images=tuple(path for scan in case.images for path in numbered.of(scan))))
            patients += bool(fields.get("patient"))
        except BadEntryError as error:
            problems.append(Problem(f"{source} {key}.{position}", *error.args))
    declared, wrong = read_about(content, source)
    counted = [*keys.problems(str(source), len(cases)), *folds.problems(str(source), len(cases))]
    problems += [*wrong, *counted, *_counts(content, source), *repeats(source, cases)]
    if not cases and all(map(is_warning, problems)):
        message = f"has no entries under {', '.join(roles)}"
        found = "; ".join(problem.message for problem in problems if problem.code == "unknown-key")
        if found:
            message += f"; it {found}"
        raise no_dataset(source, "no-cases", message, FORMAT)
    unique = tuple({case.id: case for case in reversed(folds.applied(cases))}.values())[::-1]
    known = patients == len(cases)
    return Dataset(
        source=source,
        layout=layout,
        cases=unique,
        **declared,
        problems=tuple(problems),
        names_patients=known,
        annotated=annotated,
    )


def _entries(content: Mapping[str, Any]) -> Iterator[tuple[str, str, int, Any]]:
    """Yield section, its key, position and content of every entry, sections in the order of their roles."""
    sections = sections_of(content)
    for section in SECTION_ROLES:
        for key in (key for key, what in sections.items() if what == section):
            entries = content[key]
            for position, entry in enumerate(entries if isinstance(entries, list) else [entries]):
                yield section, key, position, entry


def read_json(source: Path) -> dict[str, Any]:
    """Read a JSON object in which no key stands twice.

    Raises:
        UserError: It is none.
    """
    try:
        content = strict_json.read_json(source)
    except OSError as error:
        raise no_dataset(
            source, "bad-json", f"cannot be read: {error.strerror}", "name the right file, or layout=auto"
        ) from None
    except ValueError as error:
        comma = isinstance(error, JSONDecodeError) and error.doc[: error.pos].rstrip().endswith(",")
        hint = "correct the JSON"
        if comma:
            hint = "JSON has no comma before a closing bracket: take it away"
        raise no_dataset(source, "bad-json", str(error), f"{hint}, or name the right file") from None
    if not isinstance(content, dict):
        raise no_dataset(source, "bad-json", "holds no JSON object", FORMAT)
    return content


def _read_case(fields: Mapping[str, Any], key: str, section: str, role: Role, root: Path) -> Case:
    """Read one entry of a section, which the list calls ``key``."""
    scans, mask = read_files(fields, root, ENTRY)
    images = ", ".join(scan.name for scan in scans)
    told = read_role(fields)
    if told and told != role:
        message = f"stands under {key}, and its own role is {told}"
        raise BadEntryError("bad-entry", message, "take its role out, or move it to that section")
    if mask is None and section in ("training", "validation"):
        message = f"has the image {images} without a label"
        raise BadEntryError("missing-label", message, 'name its label, or move it to "unlabeled"')
    if mask is not None and role == "training" and section != "training":
        message = f"has the label {mask.name}, and scans under {key} train without one"
        raise BadEntryError("unwanted-label", message, 'move it to "training", or take its label out of the list')
    return make_case(fields, scans, mask, role)


def read_about(content: Mapping[str, Any], source: Path) -> tuple[dict[str, Any], list[Problem]]:
    """Read what a JSON list declares beside its sections.

    Args:
        content: The list.
        source: Its file.

    Returns:
        ``labels``, ``ignore``, ``regions``, ``asked`` and ``channels`` of a :class:`Dataset`; problems and warnings.
    """
    where = str(source)
    problems: list[Problem] = []
    keys: dict[str, str] = {}
    unknown: list[str] = []
    for key, value in content.items():
        what = meaning(key, ABOUT)
        if not meaning(key, SECTIONS) and (what is None or (what == "about" and _scans_in(value))):
            unknown.append(key)
        elif what in keys and what != "about" and value != content[keys[what]]:
            message = f"has {keys[what]!r} and {key!r}, which differ and mean the same"
            problems.append(Problem(where, "same-meaning", message, "keep one of them"))
        elif what:
            keys.setdefault(what, key)
    if len(unknown) > MOST_UNKNOWN:
        message = f"has {len(unknown)} keys that nothing reads, such as {unknown[0]!r}"
        problems.append(Problem(where, "unknown-key", message, TAKE_OUT))
    else:
        problems += [_unknown(key, content[key], where) for key in unknown]
    told = {what: content[keys[what]] for what in DECLARED if what in keys}
    declared: dict[str, Any] = {}
    try:
        declared = read_labels(told.get("labels"), told.get("ignore"), told.get("regions_class_order"))
    except BadEntryError as error:
        problems.append(Problem(f"{source} labels", *error.args))
    if declared.get("regions") and not declared["asked"]:
        message = f"names regions ({', '.join(declared['regions'])}), and the values that they are made of are trained"
        remedy = "nothing, if that is meant; else add regions_class_order, or give regions in the recipe"
        problems.append(Problem(f"{source} labels", "regions-not-asked", message, remedy))
    try:
        declared["channels"] = _read_channels(told.get("channel_names"))
    except BadEntryError as error:
        problems.append(Problem(f"{source} {keys['channel_names']}", *error.args))
    return declared, problems


def _unknown(key: str, value: Any, where: str) -> Problem:
    scans = _scans_in(value)
    message = f"has a section {key!r} of {scans} scan(s), and nothing reads it"
    if scans and (names_masks(key) or "image" in simple(key)):
        # Images in one list and masks in another, to be paired by their order.
        return Problem(where, "unknown-key", message, f"{ENTRY} for each pair, under training")
    if known := slip(key, [SECTIONS, ABOUT]):
        return Problem(where, "misspelt-key", f"has a key {key!r}", f"did you mean {known!r}?")
    if scans:
        return Problem(where, "unknown-key", message, "call it training, validation, unlabeled or test; or take it out")
    return Problem(where, "unknown-key", f"has a key {key!r}, and nothing reads it", TAKE_OUT)


def _scans_in(value: Any) -> int:
    """Count the entries of a list, or of a mapping, that name scans."""
    entries = list(value.values()) if isinstance(value, dict) else value
    if not isinstance(entries, list):
        entries = [entries]
    return sum(any(map(is_scan_name, e.values())) if isinstance(e, dict) else is_scan_name(e) for e in entries)


def _counts(content: Mapping[str, Any], source: Path) -> list[Problem]:
    """Compare the numbers of entries that a list declares with those that it has."""
    found = Counter(section for section, *_ in _entries(content))
    problems = []
    for key, told in content.items():
        section = COUNTS.get(simple(key))
        if section and str(told) != str(found[section]):
            message = f"says {key} {told}, and lists {found[section]} under {section}"
            problems.append(Problem(str(source), "count-differs", message, "find the lost entries, or correct it"))
    return problems


def _read_channels(named: Any) -> tuple[str, ...] | None:
    """Read the channels' names: ``{"0": "T1", "1": "T2"}`` in the order of the numbers, or a list, or one name.

    Raises:
        BadEntryError: They are none of these.
    """
    if named in (None, {}, [], ""):
        return None
    if isinstance(named, dict) and all(isinstance(name, (str, int)) for name in named.values()):
        return tuple(str(named[key]) for key in sorted(named, key=lambda key: (len(key), key)))
    names = [named] if isinstance(named, str) else named
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadEntryError("bad-entry", f"is {named!r}", 'write {"0": "T1", "1": "T2"}')
    return tuple(names)
