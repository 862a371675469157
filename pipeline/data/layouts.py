"""Read what users have on disk as one list of cases."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.data.nifti import is_nifti, stem
from pipeline.errors import Problem, UserError, nearest
from pipeline.registry import Registry
from pipeline.types import Case, Role

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

LAYOUTS = Registry("layout", "ways in which a dataset may lie on disk", given=frozenset({"source", "root"}))

# An annotation is one byte a voxel, and two of its values are not classes.
MAX_CLASSES = 250

SECTIONS: dict[str, Role] = {
    "training": "training",
    "unlabeled": "training",
    "unlabelled": "training",
    "validation": "validation",
    "test": "test",
}


@dataclass(frozen=True)
class Dataset:
    """Cases, and what the dataset itself says about them.

    Attributes:
        source: The folder or list that it was read from.
        layout: The registered name of the layout.
        cases: Labelled and unlabelled cases, each id once.
        channels: Names of the image channels, or None where nothing declares them.
        labels: Label values and their names, background included, or None where nothing declares them.
    """

    source: Path
    layout: str
    cases: tuple[Case, ...]
    channels: tuple[str, ...] | None = None
    labels: Mapping[int, str] | None = None


def open_dataset(source: Path, root: Path | None = None) -> Dataset:
    """Detect the layout of a folder or list and read it.

    Args:
        source: A folder with ``dataset.json``, a folder with ``images/`` and perhaps ``labels/``, or a JSON list.
        root: Folder that a list's paths are relative to; by default the list's own.

    Raises:
        UserError: It is no dataset, or its list is broken; every mistake of the list is named.
    """
    if not source.exists():
        raise _no_dataset(source, "missing-dataset", "there is no such file or folder", "check the path")
    if source.is_file():
        return _open_list(source, root or source.parent)
    if (source / "dataset.json").is_file():
        return _open_list(source / "dataset.json", root or source)
    if (source / "images").is_dir():
        return LAYOUTS.build("folder", {}, source=source, root=source)  # type: ignore[no-any-return]
    lists = sorted(path.name for path in source.glob("*.json"))
    message = "has neither dataset.json nor a folder images/"
    remedy = f"name the list itself: {', '.join(lists[:5])}" if lists else "see `fewmask components` for the layouts"
    raise _no_dataset(source, "no-dataset", message, remedy)


def _no_dataset(source: Path, code: str, message: str, remedy: str) -> UserError:
    return UserError("The dataset cannot be opened.", [Problem(str(source), code, message, remedy)])


def _open_list(source: Path, root: Path) -> Dataset:
    layout = "decathlon" if source.name == "dataset.json" else "datalist"
    return LAYOUTS.build(layout, {}, source=source, root=root)  # type: ignore[no-any-return]


@LAYOUTS.register("decathlon")
def decathlon(source: Path, root: Path) -> Dataset:
    """Medical Segmentation Decathlon: ``dataset.json``; its ``test`` scans have no masks and train as unlabelled."""
    return _read_list(source, root, "decathlon", SECTIONS | {"test": "training"})


@LAYOUTS.register("datalist")
def datalist(source: Path, root: Path) -> Dataset:
    """MONAI datalist: JSON with ``training``, ``validation``, ``unlabeled`` and ``test``, which is never trained on."""
    return _read_list(source, root, "datalist", SECTIONS)


@LAYOUTS.register("folder")
def folder(source: Path, root: Path) -> Dataset:
    """Plain folder: ``images/`` and ``labels/`` with equal names; an image without a label is unlabelled."""
    images = {stem(path): path for path in scans_in(root / "images")}
    labels = {stem(path): path for path in scans_in(root / "labels")} if (root / "labels").is_dir() else {}
    problems = [
        Problem(str(path), "label-without-image", "no image has this name", nearest(name, images))
        for name, path in labels.items()
        if name not in images
    ]
    if not images:
        problems.append(
            Problem(str(root / "images"), "no-scans", "holds no .nii or .nii.gz file", "put the scans there")
        )
    if problems:
        raise UserError(f"The folder {source} is no sound dataset.", problems)
    cases = tuple(Case(name, (path,), labels.get(name), name) for name, path in images.items())
    return Dataset(source, "folder", cases)


def scans_in(place: Path) -> list[Path]:
    """Return the NIfTI files of a folder, sorted.

    Raises:
        UserError: It is no folder, or two files differ in their suffix alone.
    """
    if not place.is_dir():
        raise UserError("There are no scans.", [Problem(str(place), "no-folder", "is no folder", "check the path")])
    paths = sorted(path for path in place.iterdir() if is_nifti(path))
    twice = [name for name, count in Counter(map(stem, paths)).items() if count > 1]
    if twice:
        problems = [
            Problem(str(place / name), "name-twice", "is there as .nii and as .nii.gz", "keep one") for name in twice
        ]
        raise UserError(f"The folder {place} names a scan twice.", problems)
    return paths


def _read_list(source: Path, root: Path, layout: str, sections: Mapping[str, Role]) -> Dataset:
    content, root = _read_json(source), root.resolve()
    cases: list[Case] = []
    problems: list[Problem] = []
    for section, role in sections.items():
        entries = content.get(section, [])
        for position, entry in enumerate(entries if isinstance(entries, list) else [entries]):
            try:
                cases.append(_read_case(entry, section, role, root))
            except _BadEntryError as error:
                problems.append(Problem(f"{source} {section}.{position}", *error.args))
    try:
        labels = _read_labels(content.get("labels"))
    except _BadEntryError as error:
        problems.append(Problem(f"{source} labels", *error.args))
    problems += _repeats(source, cases)
    if not cases and not problems:
        message = f"has no entries under {', '.join(sections)}"
        problems = [Problem(str(source), "no-cases", message, "see the README for the format")]
    if problems:
        raise UserError(f"The list {source} has {len(problems)} mistake(s).", problems)
    return Dataset(source, layout, tuple(cases), _read_channels(content), labels)


class _BadEntryError(Exception):
    """Code, message and remedy of what is wrong with one entry; the caller knows where it stands."""


def _read_json(source: Path) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        repeated = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
        if repeated:
            raise ValueError(f"key {repeated[0]!r} stands twice in one object")
        return dict(pairs)

    try:
        content = json.loads(source.read_text(encoding="utf-8-sig"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise _no_dataset(source, "bad-json", str(error), "correct the JSON, or name the right file") from None
    if not isinstance(content, dict):
        raise _no_dataset(source, "bad-json", "holds no JSON object", "see the README for the format")
    return content


def _read_case(entry: Any, section: str, role: Role, root: Path) -> Case:
    entry = entry if isinstance(entry, dict) else {"image": entry}
    images, label = entry.get("image"), entry.get("label") or None
    images = images if isinstance(images, list) else [images]
    if not images or not all(isinstance(name, str) and name for name in images):
        raise _BadEntryError("bad-entry", "names no image", 'write {"image": PATH, "label": PATH}')
    if label is None and section in ("training", "validation"):
        message = f"has the image {images[0]} without a label"
        raise _BadEntryError("missing-label", message, 'name its label, or move it to "unlabeled"')
    if label is not None and not isinstance(label, str):
        raise _BadEntryError("bad-entry", f"has the label {label!r}, which is no path", "name one label file")
    if label is not None and role == "training" and section != "training":
        message = f"has the label {label}, and scans under {section} train without one"
        raise _BadEntryError("unwanted-label", message, 'move it to "training", or take its label out of the list')
    scans, mask = tuple(_inside(root, name) for name in images), _inside(root, label) if label else None
    if mask in scans:
        raise _BadEntryError("label-is-image", f"has {label} as image and as label", "name the label's own file")
    name = str(entry.get("id") or stem(scans[0]))
    return Case(name, scans, mask, str(entry.get("patient") or name), role)


def _inside(root: Path, name: str) -> Path:
    """Return the path of an entry, judged by its text: links inside the root are the user's own doing."""
    path = root / name
    if path.is_relative_to(root) and ".." not in path.parts:
        return path
    raise _BadEntryError("outside-root", f"names {name}, outside {root}", "name a folder above all files: root=DIR")


def _repeats(source: Path, cases: Sequence[Case]) -> list[Problem]:
    first: dict[Path, Case] = {}
    problems = []
    for case in cases:
        other = first.setdefault(case.images[0], case)
        if other is not case:
            message = f"{case.images[0].name} is there twice, under {other.role} and {case.role}"
            problems.append(Problem(str(source), "scan-twice", message, "keep it in one list", case.id))
    for name, count in Counter(case.id for case in first.values()).items():
        if count > 1:
            message = f"{count} scans have the name {name}"
            problems.append(Problem(str(source), "id-twice", message, 'give each of these entries an "id"', name))
    return problems


def _read_channels(content: Mapping[str, Any]) -> tuple[str, ...] | None:
    named = content.get("channel_names", content.get("modality"))
    if not isinstance(named, dict) or not named:
        return None
    return tuple(str(named[key]) for key in sorted(named, key=lambda key: (len(key), key)))


def _read_labels(named: Any) -> dict[int, str] | None:
    """Read the Decathlon's ``{"1": "liver"}`` or nnU-Net's ``{"liver": 1}``."""
    if named is None or named == {}:
        return None
    try:
        if all(key.isdigit() for key in named):
            names = {int(key): str(value) for key, value in named.items()}
        else:
            names = {int(value): str(key) for key, value in named.items()}
        if len(names) < len(named):
            raise ValueError("two labels have one value")
        if min(names) < 0 or len(names) > MAX_CLASSES:
            raise ValueError("labels are 0 for background and values above 0")
    except (AttributeError, TypeError, ValueError):
        message = f"is {named}"
        raise _BadEntryError(
            "bad-labels", message, 'write {"0": "background", "1": "liver"}: at most {MAX_CLASSES} values, none below 0'
        ) from None
    return dict(sorted(({0: "background"} | names).items()))
