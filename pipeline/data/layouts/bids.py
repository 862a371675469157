"""BIDS: subjects in folders, images by suffix, masks beside them or under ``derivatives/``."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.data.layouts.dataset import LAYOUTS, Dataset, Layout, no_dataset, say_which
from pipeline.data.layouts.entities import OTHER_MASKS, Mask, Name, as_mask, parse
from pipeline.data.layouts.folders import HERE, other_scans
from pipeline.data.layouts.names import counted, namesakes
from pipeline.data.layouts.synonyms import KEYS, meaning, names_masks
from pipeline.data.layouts.tables import read_table
from pipeline.errors import Names, Problem, nearest
from pipeline.nifti.container import is_nifti
from pipeline.types import Case

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

SUBJECT = re.compile(r"sub-([^_/]+)")
# What the option calls derivatives that are in no folder of their own.
DIRECTLY = "derivatives"


@dataclass
class Kind:
    """Masks of one kind: those that are called the same in several scans.

    Attributes:
        place: The folder under ``derivatives/`` that holds them, or ``.`` for masks beside their scans.
        name: What they are called, such as ``desc-manual_dseg``.
        masks: The masks, by the id of the scan that they belong to.
        lone: Masks that belong to no scan, or could belong to several.
    """

    place: str
    name: str
    masks: dict[str, list[Mask]] = field(default_factory=dict)
    lone: list[Mask] = field(default_factory=list)

    def __str__(self) -> str:
        places = {HERE: "beside the scans", DIRECTLY: "in derivatives"}
        return f"{self.name} {places.get(self.place, f'in derivatives/{self.place}')}"

    def __iter__(self) -> Iterator[Mask]:
        return iter([mask for masks in self.masks.values() for mask in masks] + self.lone)

    @property
    def options(self) -> dict[str, str]:
        """The options that select these masks and their values, in the order in which they are recommended."""
        first = next(iter(self))
        key, _, value = first.suffix.partition("-")
        about = {**first.about, key: value}
        told = {key: about[key] for key in ("label", "desc") if about.get(key)}
        return {"derivative": self.place, "label_suffix": first.suffix, **told}


@LAYOUTS.register("bids")
@dataclass(frozen=True, kw_only=True)
class Bids(Layout):
    """BIDS: ``sub-X[/ses-Y]/…/…_SUFFIX.nii.gz``, one kind of mask beside them or under ``derivatives/``; a subject is a patient.

    Attributes:
        suffix: The suffix of the images, such as ``T1w``, or several, one a channel.
        derivative: The folder under ``derivatives/`` that holds the masks; ``.`` for masks beside their scans.
        label_suffix: What the masks' names end in: ``dseg``, ``seg-manual``, ``label-L_mask``.
        label: The entity ``label`` of the masks.
        desc: The entity ``desc`` of the masks.
    """  # noqa: E501 - one line, as every list of layouts shows it

    suffix: str | tuple[str, ...] | None = None
    derivative: str | None = None
    label_suffix: str | None = None
    label: str | None = None
    desc: str | None = None

    @classmethod
    def detect(cls, source: Path) -> str | None:
        """Look for folders of subjects, whose files have the subject's name."""
        if not source.is_dir():
            return None
        subjects = [path for path in source.iterdir() if path.is_dir() and SUBJECT.fullmatch(path.name)]
        files = [path for place in subjects for path in place.rglob("*") if is_nifti(path)]
        if not subjects or (files and not any(map(parse, files))):
            return None
        return f"it has {len(subjects)} folder(s) sub-*"

    def read(self, source: Path, root: Path | None) -> Dataset:
        """Find scans and masks by their names' entities."""
        content = sorted(path for place in source.glob("sub-*") if place.is_dir() for path in place.rglob("*"))
        names = [name for path in content if is_nifti(path) and (name := parse(path))]
        suffixes = self._suffixes(source, names)
        problems = other_scans(_named_as(content, suffixes))
        scans, wrong = _scans(source, [name for name in names if not self._is_mask(name)], suffixes)
        problems += wrong
        kinds = self._kinds(source, names, suffixes)
        kind = self._kind(source, kinds)
        derived = _below(source / "derivatives")
        problems += other_scans(_named_as(derived, None)) + _misnamed(derived)
        labels, wrong = _labels(source, [kind] if kind else kinds, scans)
        problems += wrong
        problems += _participants(source, {SUBJECT.match(name)[0] for name in scans})  # type: ignore[index]
        cases = tuple(
            Case(
                id=name,
                images=tuple(found[suffix] for suffix in suffixes),
                label=labels.get(name),
                patient=SUBJECT.match(name)[0],  # type: ignore[index]
            )
            for name, found in scans.items()
            if len(found) == len(suffixes)
        )
        channels = None
        if len(suffixes) > 1:
            channels = suffixes
        left_out = self._left_out(names, suffixes, [other for other in kinds if other is not kind])
        return Dataset(
            source=source,
            layout="bids",
            cases=cases,
            channels=channels,
            problems=tuple(problems),
            left_out=left_out,
            names_patients=True,
        )

    def _suffixes(self, source: Path, names: Sequence[Name]) -> tuple[str, ...]:
        there = sorted({name.suffix for name in names if not self._is_mask(name)})
        wanted = (self.suffix,) if isinstance(self.suffix, str) else self.suffix or tuple(there)
        if not there:
            raise no_dataset(source, "no-scans", "has no NIfTI file under sub-*/", "put the scans there")
        if self.suffix is None and len(there) > 1:
            message = f"has images of several suffixes: {', '.join(there)}"
            ways = say_which(*(f"suffix={suffix}" for suffix in there))
            remedy = f"{ways}; or several, one a channel; what masks end in is label_suffix"
            raise no_dataset(source, "ambiguous-layout", message, remedy)
        missing = [suffix for suffix in wanted if suffix not in there]
        if missing:
            remedy = "that of masks is label_suffix"
            if not names_masks(missing[0]):
                remedy = nearest(missing[0], there)
            raise no_dataset(source, "bad-layout", f"has no images of suffix {missing[0]}", remedy)
        return wanted

    def _is_mask(self, name: Name) -> bool:
        return name.is_mask or (self.label_suffix is not None and name.suffix == self.label_suffix.strip("_"))

    def _kinds(self, source: Path, names: Sequence[Name], wanted: Sequence[str]) -> list[Kind]:
        """Return the kinds of masks, each with the scans that its masks belong to."""
        place = source / "derivatives"
        if self.derivative not in (None, HERE, DIRECTLY) and not (place / str(self.derivative)).is_dir():
            there = []
            if place.is_dir():
                there = sorted(path.name for path in place.iterdir() if path.is_dir())
            remedy = "leave the option out: there is no derivatives/"
            if there:
                remedy = nearest(str(self.derivative), there)
            raise no_dataset(place / str(self.derivative), "no-folder", "is no folder", remedy)
        derived = [name for path in _below(place) if is_nifti(path) and (name := parse(path))]
        suffixes = tuple(sorted({name.suffix for name in names if not self._is_mask(name)}))
        by_subject: dict[str, list[Name]] = {}
        for scan in names:
            if scan.suffix in wanted and not self._is_mask(scan):
                by_subject.setdefault(scan.entities["sub"], []).append(scan)
        kinds: dict[tuple[str, str], Kind] = {}
        for name in filter(self._is_mask, [*names, *derived]):
            inside = _place_of(name.path, place)
            mask = as_mask(name, inside, suffixes)
            kind = kinds.setdefault((inside, mask.kind), Kind(inside, mask.kind))
            owners = [scan for scan in by_subject.get(mask.entities.get("sub", ""), []) if mask.belongs_to(scan)]
            # A mask with fewer entities than a scan belongs to the scan if no other scan fits.
            cases = {scan.case for scan in owners if mask.has_all_of(scan)} or {scan.case for scan in owners}
            if len(cases) == 1:
                kind.masks.setdefault(cases.pop(), []).append(mask)
            else:
                kind.lone.append(mask)
        return list(kinds.values())

    def _kind(self, source: Path, kinds: Sequence[Kind]) -> Kind | None:
        """Return the kind of mask to read; None if there is none whose masks belong to scans.

        Raises:
            UserError: There are several, or none that the options describe.
        """
        options = ("derivative", "label_suffix", "label", "desc")
        told = {key: getattr(self, key) for key in options if getattr(self, key) is not None}
        found = [kind for kind in kinds if (kind.masks and kind.name.rpartition("_")[2] not in OTHER_MASKS) or told]
        seen = counted({str(kind): len(list(kind)) for kind in (found or kinds)}) or "none at all"
        chosen = [kind for kind in found if _fits(kind, told)]
        if told and not chosen:
            asked = ", ".join(f"{key}={value}" for key, value in told.items())
            message = f"has no masks with {asked}; there are {seen}"
            raise no_dataset(source, "bad-layout", message, "name one of these kinds, or leave the option out")
        if len(chosen) > 1:
            message = f"has masks of several kinds: {counted({str(kind): len(list(kind)) for kind in chosen})}"
            ways = say_which(*(_distinguishing(kind, chosen) for kind in chosen[:4]))
            raise no_dataset(source, "ambiguous-layout", message, ways)
        if chosen:
            return chosen[0]
        return None

    def _left_out(self, names: Iterable[Name], suffixes: Sequence[str], others: Iterable[Kind]) -> frozenset[Path]:
        """Return the files that options leave out: images of other suffixes, and masks of other kinds."""
        told = (self.derivative, self.label_suffix, self.label, self.desc) != (None, None, None, None)
        images = {name.path for name in names if not self._is_mask(name) and name.suffix not in suffixes}
        return frozenset(images | {mask.path for kind in others for mask in kind if told})


def _place_of(path: Path, derivatives: Path) -> str:
    """Return the folder under ``derivatives/`` that a file lies in, ``derivatives`` for none, ``.`` for elsewhere."""
    if not path.is_relative_to(derivatives):
        return HERE
    first = path.relative_to(derivatives).parts[0]
    if SUBJECT.match(first):
        return DIRECTLY
    return first


def _fits(kind: Kind, told: Mapping[str, str]) -> bool:
    """Tell whether a kind of mask fits the options; ``label_suffix`` may be the suffix of BIDS or the whole name."""
    own = kind.options
    suffixes = (own["label_suffix"], kind.name)
    return all(
        (value.strip("_") in suffixes) if key == "label_suffix" else own.get(key) == value
        for key, value in told.items()
    )


def _distinguishing(kind: Kind, others: Sequence[Kind]) -> str:
    """Return an option, as ``key=value``, that selects one kind alone among some."""
    for key, value in kind.options.items():
        if sum(other.options.get(key) == value for other in others) == 1:
            return f"{key}={value}"
    return f"label_suffix={kind.name}"


def _scans(
    source: Path, names: Iterable[Name], suffixes: Sequence[str]
) -> tuple[dict[str, dict[str, Path]], list[Problem]]:
    """Return the files of each scan by suffix, and problems: two files for one suffix, or none."""
    scans: dict[str, dict[str, Path]] = {}
    problems = []
    for name in (name for name in names if name.suffix in suffixes):
        other = scans.setdefault(name.case, {}).setdefault(name.suffix, name.path)
        if other is not name.path:
            message = f"has the name of {other.relative_to(source)}"
            problems.append(Problem(str(name.path), "name-twice", message, "keep one", case=name.case))
    for case, found in scans.items():
        gone = [suffix for suffix in suffixes if suffix not in found]
        if gone:
            where = str(next(iter(found.values())))
            message = f"has no {gone[0]} beside it"
            problems.append(Problem(where, "missing-channel", message, "add the file, or name one suffix", case=case))
    return scans, problems


def _labels(
    source: Path, kinds: Sequence[Kind], scans: Mapping[str, dict[str, Path]]
) -> tuple[dict[str, Path], list[Problem]]:
    """Return the mask of each scan by the scan's id, and problems: second masks, and masks that belong to no scan."""
    labels: dict[str, Path] = {}
    problems = []
    for kind in kinds:
        if kind.name.rpartition("_")[2] in OTHER_MASKS and len(kinds) > 1:
            continue
        for case, masks in kind.masks.items():
            labels[case] = masks[0].path
            message = f"is a second label beside {masks[0].path.relative_to(source)}"
            remedy = "say which: --layout-option derivative=FOLDER, or name scans and labels in a table"
            problems += [Problem(str(mask.path), "ambiguous-layout", message, remedy) for mask in masks[1:]]
        names = ["_".join(f"{key}-{value}" for key, value in mask.entities.items()) for mask in kind.lone]
        remedies = namesakes(names, scans)
        for mask, case in zip(kind.lone, names, strict=True):
            space = mask.entities.get("space")
            message = "no image has this name"
            if space:
                message += f", in the space {space}"
            problems.append(Problem(str(mask.path), "label-without-image", message, remedies[case]))
    return labels, problems


def _misnamed(paths: Iterable[Path]) -> list[Problem]:
    """Find masks whose names hold a subject, and not at the beginning, so that no scan can have them."""
    remedy = "rename it after its scan, or take it away"
    return [
        Problem(str(path), "label-without-image", "no image has this name", remedy)
        for path in paths
        if is_nifti(path) and parse(path) is None and "sub-" in path.name and names_masks(path.name.rpartition("_")[2])
    ]


def _below(place: Path) -> list[Path]:
    if place.is_dir():
        return sorted(place.rglob("*"))
    return []


def _named_as(paths: Iterable[Path], suffixes: Sequence[str] | None) -> Iterator[Path]:
    """Yield files, in any format, whose names have a subject and one of the suffixes or that of a mask."""
    for path in paths:
        suffix = path.name.partition(".")[0].rpartition("_")[2]
        if SUBJECT.match(path.name) and (names_masks(suffix) or suffix in (suffixes or ())):
            yield path


def _participants(source: Path, subjects: set[str]) -> list[Problem]:
    """Find subjects that ``participants.tsv`` does not list, and its columns of roles or folds, which are not read."""
    table = source / "participants.tsv"
    if not table.is_file():
        return []
    header, rows = read_table(table)
    if "participant_id" not in header:
        return [Problem(str(table), "bad-table", "has no column participant_id", "add it, or take the file away")]
    known = Names(row["participant_id"] for row in rows.values())
    remedy = "write a table with the columns image, label and this one, where it is to count"
    unused = [
        Problem(str(table), "unknown-key", f"has a column {name!r}, which is not read here", remedy)
        for name in header
        if meaning(name, KEYS) in ("role", "fold")
    ]
    return unused + [
        Problem(str(source / name), "bad-table", "is not in participants.tsv", nearest(name, known))
        for name in sorted(subjects.difference(known.sorted))
    ]
