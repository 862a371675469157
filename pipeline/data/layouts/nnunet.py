"""nnU-Net's raw datasets, version 2: ``dataset.json`` beside files whose names end in the number of a channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.data.container import SUFFIXES, stem
from pipeline.data.layouts.dataset import LAYOUTS, BadEntryError, Dataset, Layout, no_dataset, read_labels
from pipeline.data.layouts.folders import CHANNEL, list_scans, namesake
from pipeline.data.layouts.lists import list_in, read_channels, read_json
from pipeline.errors import Names, Problem
from pipeline.types import Case

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pipeline.types import Role


@LAYOUTS.register("nnunet")
@dataclass(frozen=True, kw_only=True)
class NnUNet(Layout):
    """nnU-Net v2 raw: ``imagesTr/NAME_0000.nii.gz``, ``labelsTr/NAME.nii.gz``; ``imagesTs`` without ``labelsTs`` trains unlabelled."""  # noqa: E501 - one line, as every list of layouts shows it

    @classmethod
    def detect(cls, source: Path) -> str | None:
        """Look for a ``dataset.json`` that has nnU-Net's keys and lists no scans."""
        path, content = list_in(source)
        if path is None or content is None or "file_ending" not in content:
            return None
        # With a list of its own as well, nnU-Net's keys make it doubtful: both layouts then say what they saw.
        return f"{path.name} has file_ending" if (path.parent / "imagesTr").is_dir() else None

    def read(self, source: Path, root: Path | None) -> Dataset:
        """Read ``dataset.json`` and list the folders beside it."""
        about = source / "dataset.json" if source.is_dir() else source
        content, folder = read_json(about), about.parent
        problems: list[Problem] = []
        declared: dict[str, Any] = {}
        ending = content.get("file_ending", SUFFIXES[0])
        if ending not in SUFFIXES:
            message = f"has the file_ending {ending!r}, which is not read"
            raise no_dataset(about, "unsupported-file", message, f"convert the scans to {' or '.join(SUFFIXES)}")
        if not (folder / "imagesTr").is_dir():
            raise no_dataset(folder, "no-folder", "has no folder imagesTr/", "put the scans there")
        try:
            declared = read_labels(content.get("labels"))
        except BadEntryError as error:
            problems.append(Problem(f"{about} labels", *error.args))
        channels = read_channels(content)
        cases: list[Case] = []
        for end, role in _roles(folder).items():
            found, wrong = _read_side(folder, end, role, len(channels or ()) or None)
            cases += found
            problems += wrong
        told, pairs = content.get("numTraining"), sum(case.label is not None and case.role != "test" for case in cases)
        if told not in (None, pairs) and not problems:
            message = f"says numTraining {told}, and there are {pairs} pairs"
            problems.append(Problem(str(about), "case-count", message, "find the lost files, or correct it"))
        if not cases and not problems:
            raise no_dataset(folder, "no-scans", "holds no scan under imagesTr/", "put the scans there")
        return Dataset(about, "nnunet", tuple(cases), channels, **declared, problems=tuple(problems))


def _roles(folder: Path) -> Mapping[str, Role | None]:
    """Return the ends of the folders' names: scans without any labels teach as unlabelled ones."""
    roles: dict[str, Role | None] = {"Tr": "training"}
    if (folder / "imagesTs").is_dir():
        roles["Ts"] = "test" if (folder / "labelsTs").is_dir() else "training"
    return roles


def _read_side(folder: Path, end: str, role: Role | None, channels: int | None) -> tuple[list[Case], list[Problem]]:
    paths, problems = list_scans(folder / f"images{end}")
    labelled = (folder / f"labels{end}").is_dir() or end == "Tr"
    marks, wrong = list_scans(folder / f"labels{end}") if (folder / f"labels{end}").is_dir() else ([], [])
    labels, problems = {stem(path): path for path in marks}, problems + wrong
    grouped: dict[str, dict[int, Path]] = {}
    misnamed: set[str] = set()
    for path in paths:
        match = CHANNEL.fullmatch(stem(path))
        if match is None:
            message, remedy = "has no channel in its name", f"rename it to {stem(path)}_0000"
            problems.append(Problem(str(path), "missing-channel", message, remedy))
            misnamed.add(stem(path))
        else:
            grouped.setdefault(match[1], {})[int(match[2])] = path
    due = {name: set(range(channels or max(files) + 1)) for name, files in grouped.items()}
    broken = [name for name, files in grouped.items() if files.keys() != due[name]]
    all_broken = Names(broken)
    for name in broken:
        files = grouped[name]
        gone, spare = sorted(due[name] - files.keys()), sorted(files.keys() - due[name])
        message = f"has no {', '.join(f'_{n:04d}' for n in gone)}" if gone else f"has a channel {spare[0]} too many"
        where = str(next(iter(files.values())))
        problems.append(Problem(where, "missing-channel", message, _channel_remedy(name, all_broken), name))
    unlabelled = Names(grouped.keys() - labels.keys())
    unscanned = Names(labels.keys() - grouped.keys() - misnamed)
    for name in sorted(grouped.keys() - labels.keys()) if labelled else ():
        message = f"has no label in labels{end}/"
        hint = namesake(name, unscanned)
        remedy = hint if hint.startswith("did") else "give it its label, or move it to imagesTs/, which trains without"
        problems.append(Problem(str(next(iter(grouped[name].values()))), "missing-label", message, remedy, name))
    for name in sorted(labels.keys() - grouped.keys() - misnamed):
        hint = namesake(name, unlabelled)
        problems.append(Problem(str(labels[name]), "label-without-image", "no image has this name", hint))
    return [
        Case(name, tuple(files[n] for n in sorted(files)), labels.get(name), name, role)
        for name, files in grouped.items()
        if labels.get(name) or not labelled
    ], problems


def _channel_remedy(name: str, broken: Names) -> str:
    near = broken.nearest(name, besides=name)
    return "add the file, or correct its name" + (f"; did you mean {near!r}?" if near else "")
