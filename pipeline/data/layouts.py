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
    from collections.abc import Callable, Mapping
    from pathlib import Path

LAYOUTS = Registry("layout", "ways in which a dataset may lie on disk", given=frozenset({"source", "root"}))

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
    """MONAI datalist: JSON with ``training``, ``validation``, ``unlabeled`` and ``test``; ``test`` is never trained on."""
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
        problems.append(Problem(str(root / "images"), "no-scans", "holds no .nii or .nii.gz file", "put the scans there"))
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
        problems = [Problem(str(place / name), "name-twice", "is there as .nii and as .nii.gz", "keep one") for name in twice]
        raise UserError(f"The folder {place} names a scan twice.", problems)
    return paths


def _read_list(source: Path, root: Path, layout: str, sections: Mapping[str, Role]) -> Dataset:
    content = _read_json(source)
    reader = _ListReader(source, root.resolve())
    cases = [
        case
        for section, role in sections.items()
        for position, entry in enumerate(reader.entries(content, section))
        if (case := reader.case(entry, f"{section}.{position}", role, section)) is not None
    ]
    channels, labels = reader.channels(content), reader.labels(content)
    if not cases and not reader.problems:
        reader.report("", "no-cases", f"has no entries under {', '.join(sections)}", "see the README for the format")
    reader.report_repeats(cases)
    if reader.problems:
        raise UserError(f"The list {source} has {len(reader.problems)} mistake(s).", reader.problems)
    return Dataset(source, layout, tuple(cases), channels, labels)


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


class _ListReader:
    """Turns the entries of a JSON list into cases and collects what is wrong with them."""

    def __init__(self, source: Path, root: Path) -> None:
        self.source, self.root = source, root
        self.problems: list[Problem] = []

    def report(self, place: str, code: str, message: str, remedy: str) -> None:
        self.problems.append(Problem(f"{self.source}{place and f' {place}'}", code, message, remedy))

    def entries(self, content: Mapping[str, Any], section: str) -> list[Any]:
        entries = content.get(section, [])
        if isinstance(entries, list):
            return entries
        self.report(section, "bad-entry", "is no list", "give a list of entries")
        return []

    def case(self, entry: Any, place: str, role: Role, section: str) -> Case | None:
        entry = entry if isinstance(entry, dict) else {"image": entry}
        images, label = entry.get("image"), entry.get("label")
        images = images if isinstance(images, list) else [images]
        if not images or not all(isinstance(name, str) and name for name in images):
            return self.report(place, "bad-entry", "names no image", 'write {"image": PATH, "label": PATH}')
        if label is None and role == "validation":
            return self.report(place, "missing-label", "has no label to validate against", "name its label")
        if label is None and section == "training":
            return self.report(place, "missing-label", "has an image without a label", 'name its label, or move it to "unlabeled"')
        if label is not None and not isinstance(label, str):
            return self.report(place, "bad-entry", f"label is {label!r}, no path", "name one label file")
        paths = [self.path(name, place) for name in (*images, *([label] if label else []))]
        if not all(paths):
            return None
        known = [path for path in paths if path is not None]
        scans = tuple(known[: len(images)])
        name = str(entry.get("id") or stem(scans[0]))
        return Case(name, scans, known[-1] if label else None, str(entry.get("patient") or name), role)

    def path(self, name: str, place: str) -> Path | None:
        """Return an entry's path, or None and a problem where it leaves the root."""
        path = self.root / name
        # The text decides, not where links lead: a dataset of links into an archive is usual and is the user's own doing.
        if path.is_relative_to(self.root) and ".." not in path.parts:
            return path
        return self.report(place, "outside-root", f"{name} lies outside {self.root}", "name the folder above both: root=DIR")

    def report_repeats(self, cases: list[Case]) -> None:
        seen: dict[Path, Case] = {}
        for case in cases:
            other = seen.setdefault(case.images[0], case)
            if other is not case:
                self.report(case.id, "scan-twice", f"is under {other.role} and under {case.role}", "keep it in one list")
        ids = Counter(case.id for case in cases if seen[case.images[0]] is case)
        for name, count in ids.items():
            if count > 1:
                self.report(name, "id-twice", f"{count} scans have this name", 'give each entry an "id"')

    def channels(self, content: Mapping[str, Any]) -> tuple[str, ...] | None:
        named = content.get("channel_names", content.get("modality"))
        if isinstance(named, dict) and named:
            return tuple(str(value) for _, value in sorted(named.items(), key=lambda item: int(item[0]) if str(item[0]).isdigit() else 0))
        return None

    def labels(self, content: Mapping[str, Any]) -> dict[int, str] | None:
        named = content.get("labels")
        if not isinstance(named, dict) or not named:
            return None
        try:
            # The Decathlon writes {"1": "liver"}, nnU-Net {"liver": 1}.
            pairs = {int(k): str(v) for k, v in named.items()} if all(map(_is_int, named)) else {int(v): str(k) for k, v in named.items()}
        except (TypeError, ValueError):
            return self.report("labels", "bad-labels", f"is {named}", 'write {"0": "background", "1": NAME}')
        return dict(sorted(({0: "background"} | pairs).items()))


def _is_int(text: str) -> bool:
    return text.removeprefix("-").isdigit()
