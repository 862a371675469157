"""Folders without a list: images and labels of equal names, or scans alone."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.data.container import is_nifti, is_other_scan, stem
from pipeline.data.layouts.dataset import LAYOUTS, Dataset, Layout, no_dataset
from pipeline.data.layouts.lists import SECTIONS, list_in
from pipeline.errors import Names, Problem, UserError
from pipeline.types import Case

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

# nnU-Net's way to write the channels of a scan into the names of its files.
CHANNEL = re.compile(r"(.+)_(\d{4})")


@LAYOUTS.register("folder")
@dataclass(frozen=True, kw_only=True)
class Folder(Layout):
    """Plain folder: ``images/`` and ``labels/`` with equal names; an image without a label is unlabelled."""

    @classmethod
    def detect(cls, source: Path) -> str | None:
        """Look for a folder of images, which no list beside it describes."""
        _, content = list_in(source)
        listed = content is not None and SECTIONS.keys() & content.keys()
        return "it has a folder images/" if (source / "images").is_dir() and not listed else None

    def read(self, source: Path, root: Path | None) -> Dataset:
        """Pair images and labels by name."""
        if not (source / "images").is_dir():
            raise no_dataset(
                source, "no-folder", "has no folder images/", "put the scans there, or name another layout"
            )
        paths, problems = list_scans(source / "images")
        marks, wrong = list_scans(source / "labels") if (source / "labels").is_dir() else ([], [])
        images, labels = ({stem(path): path for path in found} for found in (paths, marks))
        lone = Names(images.keys() - labels)
        problems += wrong + [
            Problem(str(path), "label-without-image", "no image has this name", namesake(name, lone))
            for name, path in labels.items()
            if name not in images
        ]
        if not images and not problems:
            problems.append(
                Problem(str(source / "images"), "no-scans", "holds no .nii or .nii.gz file", "put the scans there")
            )
        cases = tuple(Case(name, (path,), labels.get(name), name) for name, path in images.items())
        return Dataset(source, "folder", cases, problems=tuple(problems))


@LAYOUTS.register("scans")
@dataclass(frozen=True, kw_only=True)
class Scans(Layout):
    """Scans alone: one file, or a folder of files; files ``NAME_0000``, ``NAME_0001`` are the channels of one scan."""

    @classmethod
    def detect(cls, source: Path) -> str | None:
        """Look for NIfTI files, or scans in other formats, which are then named."""
        if source.is_file():
            return "it is a scan" if is_nifti(source) or is_other_scan(source) else None
        if not source.is_dir():
            return None
        found = [path.name for path in source.iterdir() if is_nifti(path) or is_other_scan(path)]
        return f"it holds scans such as {min(found)}" if found else None

    def read(self, source: Path, root: Path | None) -> Dataset:
        """Take every file for an unlabelled scan, or for a channel of one."""
        paths, problems = ([source], []) if not source.is_dir() else list_scans(source)
        if not paths and not problems:
            raise no_dataset(source, "no-scans", "holds no .nii or .nii.gz file", "name scans or a folder of them")
        cases = tuple(Case(name, images, None, name, "test") for name, images in _by_channel(paths).items())
        return Dataset(source, "scans", cases, problems=tuple(problems))


def _by_channel(paths: list[Path]) -> dict[str, tuple[Path, ...]]:
    """Group files by scan where all of their names end in a channel and some scan has more than one."""
    found = [CHANNEL.fullmatch(stem(path)) for path in paths]
    names = [match[1] for match in found if match]
    if len(names) < len(paths) or len(set(names)) == len(names):
        return {stem(path): (path,) for path in paths}
    grouped: dict[str, tuple[Path, ...]] = {}
    for name, path in zip(names, paths, strict=True):
        grouped[name] = (*grouped.get(name, ()), path)
    return grouped


def namesake(name: str, lone: Names) -> str:
    """Return what to do about a label without an image or the reverse: the nearest of those that lack one, too."""
    near = lone.nearest(name)
    return f"did you mean {near!r}?" if near else "rename it after what it belongs to, or take it away"


def list_scans(place: Path) -> tuple[list[Path], list[Problem]]:
    """Return the NIfTI files of a folder, sorted and each name once, and what keeps other files from being read."""
    content = sorted(place.iterdir())
    paths = [path for path in content if is_nifti(path)]
    count = Counter(map(stem, paths))
    problems = [
        Problem(str(place / name), "name-twice", "is there as .nii and as .nii.gz", "keep one")
        for name in count
        if count[name] > 1
    ]
    return [path for path in paths if count[stem(path)] == 1], problems + other_scans(content)


def other_scans(paths: Iterable[Path]) -> list[Problem]:
    """Find scans in formats that are not read."""
    return [
        Problem(str(path), "unsupported-file", "is no .nii or .nii.gz file", "convert it to NIfTI, or take it away")
        for path in paths
        if is_other_scan(path)
    ]


def scans_in(place: Path) -> list[Path]:
    """Return the NIfTI files of a folder, sorted.

    Raises:
        UserError: It is no folder, or two files differ in their suffix alone, or a scan has another format.
    """
    if not place.is_dir():
        raise UserError("There are no scans.", [Problem(str(place), "no-folder", "is no folder", "check the path")])
    paths, problems = list_scans(place)
    if problems:
        raise UserError(f"The folder {place} cannot be read.", problems)
    return paths
