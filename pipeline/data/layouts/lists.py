"""JSON lists: the Medical Segmentation Decathlon's ``dataset.json`` and MONAI's datalist."""

from __future__ import annotations

from dataclasses import dataclass
from json import JSONDecodeError
from typing import TYPE_CHECKING, Any

from pipeline import strict_json
from pipeline.data.container import stem
from pipeline.data.layouts.dataset import (
    LAYOUTS,
    BadEntryError,
    Dataset,
    Layout,
    inside,
    no_dataset,
    read_labels,
    repeats,
)
from pipeline.errors import Problem
from pipeline.types import Case, Role

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SECTIONS: dict[str, Role] = {
    "training": "training",
    "unlabeled": "training",
    "unlabelled": "training",
    "validation": "validation",
    "test": "test",
}
# What only the Decathlon's lists have, and what they never have.
DECATHLON_KEYS, DATALIST_SECTIONS = (
    ("modality", "tensorImageSize", "numTraining"),
    ("validation", "unlabeled", "unlabelled"),
)
FORMAT = "see the README for the format"


@LAYOUTS.register("decathlon")
@dataclass(frozen=True, kw_only=True)
class Decathlon(Layout):
    """Medical Segmentation Decathlon: ``dataset.json``; its ``test`` scans have no masks and train as unlabelled."""

    @classmethod
    def detect(cls, source: Path) -> str | None:
        """Look for a list with the Decathlon's keys."""
        path, content = list_in(source)
        return f"{path.name} has {_keys(content)}" if path and content and is_decathlon(content) else None

    def read(self, source: Path, root: Path | None) -> Dataset:
        """Read ``dataset.json``."""
        return _read_list(source, root, "decathlon", SECTIONS | {"test": "training"})


@LAYOUTS.register("datalist")
@dataclass(frozen=True, kw_only=True)
class Datalist(Layout):
    """MONAI datalist: JSON with ``training``, ``validation``, ``unlabeled`` and ``test``, which is never trained on."""

    @classmethod
    def detect(cls, source: Path) -> str | None:
        """Look for a list with sections; a JSON file that cannot be read counts, so that its mistake is named."""
        path, content = list_in(source)
        if path is None or (content is not None and is_decathlon(content)):
            return None
        if content is None or (source.is_file() and not _describes_folders(content)):
            return f"{path.name} is a list"
        return f"{path.name} has {_keys(content)}" if SECTIONS.keys() & content.keys() else None

    def read(self, source: Path, root: Path | None) -> Dataset:
        """Read the list."""
        return _read_list(source, root, "datalist", SECTIONS)


def list_in(source: Path) -> tuple[Path | None, dict[str, Any] | None]:
    """Return the JSON file that a source is or holds, and its content where it is a JSON object."""
    path = source / "dataset.json" if source.is_dir() else source
    if path.suffix.lower() != ".json" or not path.is_file():
        return None, None
    try:
        content = strict_json.read_json(path)
    except (OSError, ValueError):
        return path, None
    return path, content if isinstance(content, dict) else None


def is_decathlon(content: Mapping[str, Any]) -> bool:
    """Tell the Decathlon's list from a datalist, whose test scans are never trained on."""
    listed = isinstance(content.get("training"), list) and any(key in content for key in DECATHLON_KEYS)
    return listed and not any(key in content for key in DATALIST_SECTIONS)


def _describes_folders(content: Mapping[str, Any]) -> bool:
    """Tell whether this is nnU-Net's ``dataset.json``, which names no scans."""
    return not SECTIONS.keys() & content.keys() and "file_ending" in content


def _keys(content: Mapping[str, Any]) -> str:
    known = (*SECTIONS, *DECATHLON_KEYS)
    return ", ".join(key for key in content if key in known)


def _read_list(source: Path, root: Path | None, layout: str, sections: Mapping[str, Role]) -> Dataset:
    source = source / "dataset.json" if source.is_dir() else source
    content, root = read_json(source), (root or source.parent).resolve()
    cases: list[Case] = []
    problems: list[Problem] = []
    for section, role in sections.items():
        entries = content.get(section, [])
        for position, entry in enumerate(entries if isinstance(entries, list) else [entries]):
            try:
                cases.append(_read_case(entry, section, role, root))
            except BadEntryError as error:
                problems.append(Problem(f"{source} {section}.{position}", *error.args))
    declared: dict[str, Any] = {}
    try:
        declared = read_labels(content.get("labels"), content.get("ignore"))
    except BadEntryError as error:
        problems.append(Problem(f"{source} labels", *error.args))
    problems += repeats(source, cases)
    if not cases and not problems:
        raise no_dataset(source, "no-cases", f"has no entries under {', '.join(sections)}", FORMAT)
    unique = tuple({case.id: case for case in reversed(cases)}.values())[::-1]
    return Dataset(source, layout, unique, read_channels(content), **declared, problems=tuple(problems))


def read_json(source: Path) -> dict[str, Any]:
    """Read a JSON object in which no key stands twice.

    Raises:
        UserError: It is none.
    """
    try:
        content = strict_json.read_json(source)
    except (OSError, ValueError) as error:
        comma = isinstance(error, JSONDecodeError) and error.doc[: error.pos].rstrip().endswith(",")
        hint = "JSON has no comma before a closing bracket: take it away" if comma else "correct the JSON"
        raise no_dataset(source, "bad-json", str(error), f"{hint}, or name the right file") from None
    if not isinstance(content, dict):
        raise no_dataset(source, "bad-json", "holds no JSON object", FORMAT)
    return content


def _read_case(entry: Any, section: str, role: Role, root: Path) -> Case:
    entry = entry if isinstance(entry, dict) else {"image": entry}
    images, label = entry.get("image"), entry.get("label") or None
    images = images if isinstance(images, list) else [images]
    if not images or not all(isinstance(name, str) and name for name in images):
        raise BadEntryError("bad-entry", "names no image", 'write {"image": PATH, "label": PATH}')
    if label is None and section in ("training", "validation"):
        message = f"has the image {images[0]} without a label"
        raise BadEntryError("missing-label", message, 'name its label, or move it to "unlabeled"')
    if label is not None and not isinstance(label, str):
        raise BadEntryError("bad-entry", f"has the label {label!r}, which is no path", "name one label file")
    if label is not None and role == "training" and section != "training":
        message = f"has the label {label}, and scans under {section} train without one"
        raise BadEntryError("unwanted-label", message, 'move it to "training", or take its label out of the list')
    scans, mask = tuple(inside(root, name) for name in images), inside(root, label) if label else None
    if mask in scans:
        raise BadEntryError("label-is-image", f"has {label} as image and as label", "name the label's own file")
    name = str(entry.get("id") or stem(scans[0]))
    return Case(name, scans, mask, str(entry.get("patient") or name), role)


def read_channels(content: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Read the channels' names, ``{"0": "T1", "1": "T2"}``, in the order of their numbers."""
    named = content.get("channel_names", content.get("modality"))
    if not isinstance(named, dict) or not named:
        return None
    return tuple(str(named[key]) for key in sorted(named, key=lambda key: (len(key), key)))
