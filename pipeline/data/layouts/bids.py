"""BIDS: subjects in folders, images by suffix, labels under ``derivatives/``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.data.container import is_nifti, stem
from pipeline.data.layouts.dataset import LAYOUTS, Dataset, Layout, no_dataset
from pipeline.data.layouts.folders import namesake, other_scans
from pipeline.data.layouts.tables import read_table
from pipeline.errors import Names, Problem, nearest
from pipeline.types import Case

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

# Suffixes that BIDS gives to label maps: dseg for labels, mask for one structure.
LABEL_SUFFIXES = ("dseg", "mask")
SUBJECT = re.compile(r"sub-([^_/]+)")
# Entities of a derivative that its scan does not have.
DERIVED = re.compile(r"_(desc|label|space|res|den|atlas)-[^_]+")


@LAYOUTS.register("bids")
@dataclass(frozen=True, kw_only=True)
class Bids(Layout):
    """BIDS: ``sub-X[/ses-Y]/…/…_SUFFIX.nii.gz``, labels ``…_dseg`` or ``…_mask`` under ``derivatives/``; a subject is a patient.

    Attributes:
        suffix: The suffix of the images, such as ``T1w``, or several, one a channel.
        derivative: The folder under ``derivatives/`` that holds the labels, where there are several.
    """  # noqa: E501 - one line, as every list of layouts shows it

    suffix: str | tuple[str, ...] | None = None
    derivative: str | None = None

    @classmethod
    def detect(cls, source: Path) -> str | None:
        """Look for folders of subjects."""
        if not source.is_dir():
            return None
        subjects = sum(path.is_dir() and SUBJECT.fullmatch(path.name) is not None for path in source.iterdir())
        return f"it has {subjects} folder(s) sub-*" if subjects else None

    def read(self, source: Path, root: Path | None) -> Dataset:
        """Find scans and labels by their names' entities."""
        content = sorted(path for place in source.glob("sub-*") if place.is_dir() for path in place.rglob("*"))
        files = [path for path in content if is_nifti(path)]
        suffixes = self._suffixes(source, files)
        labels, problems = self._labels(source)
        problems += other_scans(_named_as(content, suffixes))
        scans: dict[str, dict[str, Path]] = {}
        for path in files:
            name, _, suffix = stem(path).rpartition("_")
            if suffix not in suffixes:
                continue
            other = scans.setdefault(name, {}).setdefault(suffix, path)
            if other is not path:
                message = f"has the name of {other.relative_to(source)}"
                problems.append(Problem(str(path), "name-twice", message, "keep one", name))
        for name, found in scans.items():
            gone = [suffix for suffix in suffixes if suffix not in found]
            if gone:
                where, message = str(next(iter(found.values()))), f"has no {gone[0]} beside it"
                problems.append(Problem(where, "missing-channel", message, "add the file, or name one suffix", name))
        known = Names(scans)
        problems += [
            Problem(str(path), "label-without-image", f"no {suffixes[0]} image has this name", namesake(name, known))
            for name, path in labels.items()
            if name not in scans
        ]
        problems += _strange_participants(source, {SUBJECT.match(name)[0] for name in scans})  # type: ignore[index]
        cases = tuple(
            Case(name, tuple(found[suffix] for suffix in suffixes), labels.get(name), SUBJECT.match(name)[0])  # type: ignore[index]
            for name, found in scans.items()
            if len(found) == len(suffixes)
        )
        channels = suffixes if len(suffixes) > 1 else None
        return Dataset(source, "bids", cases, channels, problems=tuple(problems))

    def _suffixes(self, source: Path, files: Sequence[Path]) -> tuple[str, ...]:
        there = sorted({stem(path).rpartition("_")[2] for path in files} - set(LABEL_SUFFIXES))
        wanted = (self.suffix,) if isinstance(self.suffix, str) else self.suffix or tuple(there)
        if not there:
            raise no_dataset(source, "no-scans", "has no NIfTI file under sub-*/", "put the scans there")
        if self.suffix is None and len(there) > 1:
            message = f"has images of several suffixes: {', '.join(there)}"
            raise no_dataset(source, "ambiguous-layout", message, f"say which: --layout-option suffix={there[0]}")
        missing = [suffix for suffix in wanted if suffix not in there]
        if missing:
            raise no_dataset(source, "bad-layout", f"has no images of suffix {missing[0]}", nearest(missing[0], there))
        return wanted

    def _labels(self, source: Path) -> tuple[dict[str, Path], list[Problem]]:
        """Return the label of each scan, by the name that the scan has without its suffix."""
        place = source / "derivatives" / (self.derivative or "")
        if self.derivative and not place.is_dir():
            raise no_dataset(place, "no-folder", "is no folder", "name one that is under derivatives/")
        labels: dict[str, Path] = {}
        problems: list[Problem] = []
        content = sorted(place.rglob("*")) if place.is_dir() else []
        problems += other_scans(_named_as(content, LABEL_SUFFIXES))
        for path in content:
            name, _, suffix = stem(path).rpartition("_")
            if suffix in LABEL_SUFFIXES and is_nifti(path):
                other = labels.setdefault(DERIVED.sub("", name), path)
                if other is not path:
                    message = f"is a second label beside {other.relative_to(source)}"
                    remedy = "say which: --layout-option derivative=FOLDER, or name scans and labels in a table"
                    problems.append(Problem(str(path), "ambiguous-layout", message, remedy))
        return labels, problems


def _named_as(paths: Iterable[Path], suffixes: Sequence[str]) -> Iterator[Path]:
    """Yield what has a subject's name and one of the suffixes, in any format: other tools keep files here too."""
    for path in paths:
        if SUBJECT.match(path.name) and path.name.partition(".")[0].rpartition("_")[2] in suffixes:
            yield path


def _strange_participants(source: Path, subjects: set[str]) -> list[Problem]:
    """Find subjects that ``participants.tsv`` does not know, where there is one."""
    table = source / "participants.tsv"
    if not table.is_file():
        return []
    header, rows = read_table(table)
    if "participant_id" not in header:
        return [Problem(str(table), "bad-table", "has no column participant_id", "add it, or take the file away")]
    known = Names(row["participant_id"] for row in rows)
    return [
        Problem(str(source / name), "bad-table", "is not in participants.tsv", nearest(name, known))
        for name in sorted(subjects.difference(known.sorted))
    ]
