"""Folders without a list: images and masks of equal names, or scans alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.data.layouts.channels import gaps, group, numbers_channels, without_number
from pipeline.data.layouts.dataset import LAYOUTS, Dataset, Layout, no_dataset, say_which
from pipeline.data.layouts.lists import describes_folders, list_in, read_about, read_json, sections_of
from pipeline.data.layouts.names import (
    bare_mask,
    counted,
    mask_endings,
    named_as_masks,
    namesakes,
    owner,
    pair,
    without_ending,
)
from pipeline.data.layouts.synonyms import holds_images, holds_masks, names_masks, tokens
from pipeline.errors import Problem, UserError, nearest
from pipeline.files import path_hint
from pipeline.nifti.container import is_nifti, is_other_scan, stem
from pipeline.types import Case

if TYPE_CHECKING:
    from collections.abc import Iterable

HERE = "."


@LAYOUTS.register("folder")
@dataclass(frozen=True, kw_only=True)
class Folder(Layout):
    """Plain folder: ``images/`` beside ``labels/``, ``masks/``, … with equal names; an image without a mask is unlabelled.

    Attributes:
        labels: Names and values as in any layout, or the folder of the masks.
        images: The folder of the images; ``.`` for the dataset's own.
        label_suffix: What the masks' names end in, behind the name of their image: ``_seg``.
        unlabelled: A folder of more scans, which train without masks.
    """  # noqa: E501 - one line, as every list of layouts shows it

    images: str | None = None
    label_suffix: str | None = None
    unlabelled: str | None = None

    @classmethod
    def detect(cls, source: Path) -> str | None:
        """Look for a folder of images without a list beside it, or for masks beside images in one folder."""
        _, content = list_in(source)
        if not source.is_dir() or (content and (sections_of(content) or describes_folders(content))):
            return None
        if places := _image_folders(source):
            return f"it has a folder {places[0].name}/"
        names = {stem(path) for path in source.iterdir() if is_nifti(path)}
        if endings := mask_endings(names):
            return f"names such as …{next(iter(endings))} are those of masks of others"
        return None

    def declare(self, dataset: Dataset) -> Dataset:
        """Return a dataset with what the options declare; a text for ``labels`` names a folder and declares nothing."""
        named = replace(self, labels=None) if isinstance(self.labels, str) else self
        return Layout.declare(named, dataset)

    def read(self, source: Path, root: Path | None) -> Dataset:
        """Pair images and masks by name."""
        if not source.is_dir():
            raise no_dataset(source, "no-folder", "is no folder", "name the folder, or another layout")
        images = self._images(source)
        paths, problems = list_scans(images)
        labels = self._labels(source, images)
        marks, wrong = list_scans(labels) if labels else ([], [])
        problems += wrong
        ending = self.label_suffix or self._ending_here(source, images, paths)
        others: list[Path] = []
        if ending and labels is None:
            paths, marks, others = _parted(paths, ending)
        else:
            problems += _masks_among(images, paths)
        masks = {stem(path): path for path in marks}
        if ending:
            masks = {base: path for name, path in masks.items() if (base := without_ending(name, ending))}
        if self.label_suffix and not masks:
            raise no_dataset(labels or images, "bad-layout", f"has no mask whose name ends in {ending}", _look(marks))
        scans, wrong = _scans(paths, masks)
        mask_of, unclear = _paired(labels or images, scans, masks)
        problems += wrong + unclear
        if not scans and not problems:
            message = "holds no .nii or .nii.gz file"
            problems.append(Problem(str(images), "no-scans", message, "put the scans there"))
        cases = [
            Case(id=name, images=files, label=masks.get(mask_of.get(name, "")), patient=name)
            for name, files in scans.items()
        ]
        more, wrong = _more_scans(unlabelled_folder(source, self.unlabelled), scans.keys())
        declared, about = _about(source)
        problems += wrong + about
        left_out = frozenset[Path]()
        if ending:  # Masks that were not chosen by it are left out, where their scan has one that was.
            spare = {*others, *marks} - {*masks.values()}
            left_out = frozenset(path for path in spare if owner(stem(path), scans) in mask_of)
        return Dataset(
            source=source,
            layout="folder",
            cases=(*cases, *more),
            **declared,
            problems=tuple(problems),
            left_out=left_out,
        )

    def _images(self, source: Path) -> Path:
        if self.images is not None:
            return subfolder(source, self.images, "images")
        places = _image_folders(source)
        if len(places) > 1:
            message = f"has several folders of images: {', '.join(place.name for place in places)}"
            ways = say_which(*(f"images={place.name}" for place in places))
            raise no_dataset(source, "ambiguous-layout", message, ways)
        if not places and any(map(is_nifti, source.iterdir())):
            return source
        if not places:
            remedy = "put the scans there, or name another folder: images=FOLDER, or name another layout"
            raise no_dataset(source, "no-folder", "has no folder images/", remedy)
        return places[0]

    def _labels(self, source: Path, images: Path) -> Path | None:
        if isinstance(self.labels, str):
            return subfolder(source, self.labels, "labels")
        places = [place for place in subfolders(source) if holds_masks(place.name) and place != images]
        places = [place for place in places if any(is_nifti(path) or is_other_scan(path) for path in place.iterdir())]
        if len(places) > 1:
            message = f"has several folders of masks: {', '.join(place.name for place in places)}"
            ways = say_which(*(f"labels={place.name}" for place in places))
            raise no_dataset(source, "ambiguous-layout", message, ways)
        if places:
            return places[0]
        return None

    def _ending_here(self, source: Path, images: Path, paths: list[Path]) -> str | None:
        """Return the ending of masks that lie among images in the dataset's own folder; None if there are none."""
        alone = images == source and not isinstance(self.labels, str)
        endings: Counter[str] = Counter()
        if alone:
            endings = mask_endings({stem(path) for path in paths})
        if len(endings) > 1:
            message = f"has masks of several kinds: {counted(endings)}"
            ways = say_which(*(f"label_suffix={ending}" for ending in endings))
            raise no_dataset(images, "ambiguous-layout", message, ways)
        return next(iter(endings), None)


@LAYOUTS.register("scans")
@dataclass(frozen=True, kw_only=True)
class Scans(Layout):
    """Scans alone: one file, or a folder of files; files ``NAME_0000``, ``NAME_0001`` are the channels of one scan."""

    @classmethod
    def detect(cls, source: Path) -> str | None:
        """Look for NIfTI files, or scans in other formats, which are then named."""
        if source.is_file():
            if is_nifti(source) or is_other_scan(source):
                return "it is a scan"
            return None
        if not source.is_dir():
            return None
        found = [path.name for path in source.iterdir() if is_nifti(path) or is_other_scan(path)]
        if found:
            return f"it holds scans such as {min(found)}"
        return None

    def read(self, source: Path, root: Path | None) -> Dataset:
        """Read every file as an unlabelled scan, or as a channel of one."""
        paths, problems = ([source], []) if not source.is_dir() else list_scans(source)
        if not paths and not problems:
            raise no_dataset(source, "no-scans", "holds no .nii or .nii.gz file", "name scans or a folder of them")
        scans, wrong = _scans(paths, ()) if source.is_dir() else ({stem(source): (source,)}, [])
        masks = [name for name in scans if any(map(names_masks, tokens(name)[-1:]))]
        if masks and len(masks) < len(scans):
            message = f"holds {len(masks)} of {len(scans)} scans with the name of a mask, such as {masks[0]}"
            remedy = "--layout folder, or a list, tells images from masks; or take the masks away"
            problems.append(Problem(str(source), "mask-among-scans", message, remedy))
        cases = tuple(
            Case(id=name, images=images, label=None, patient=name, role="test") for name, images in scans.items()
        )
        return Dataset(source=source, layout="scans", cases=cases, problems=tuple(problems + wrong))


def _image_folders(source: Path) -> list[Path]:
    """Return the folders that hold images by their names: those with scans in them, and ``images`` even if empty."""
    return [
        place
        for place in subfolders(source)
        if holds_images(place.name) and (place.name.lower() == "images" or any(map(is_nifti, place.iterdir())))
    ]


def _scans(paths: list[Path], labels: Iterable[str]) -> tuple[dict[str, tuple[Path, ...]], list[Problem]]:
    """Return the files of each scan by its name, and what is wrong with the numbers of their channels."""
    if not group(paths)[0] or not numbers_channels(paths, {n for label in labels for n in (label, bare_mask(label))}):
        return {stem(path): (path,) for path in paths}, []
    grouped, others = group(paths)
    scans = {name: tuple(files[number] for number in sorted(files)) for name, files in grouped.items()}
    return scans, gaps(grouped, None) + without_number(others)


def _parted(paths: list[Path], ending: str) -> tuple[list[Path], list[Path], list[Path]]:
    """Divide the files of one folder into images, masks with this ending, and masks with another."""
    marks = [path for path in paths if without_ending(stem(path), ending)]
    rest = [path for path in paths if not without_ending(stem(path), ending)]
    endings = mask_endings({stem(path) for path in rest})
    others = [path for path in rest if any(without_ending(stem(path), other) for other in endings)]
    return [path for path in rest if path not in others], marks, others


def _masks_among(place: Path, paths: list[Path]) -> list[Problem]:
    endings = named_as_masks({stem(path) for path in paths})
    if not endings:
        return []
    message = f"holds images and, by their names, masks of them: {counted(endings)}"
    remedy = f"--layout-option label_suffix={next(iter(endings))} reads them as masks; or give them a folder"
    return [Problem(str(place), "mask-as-image", message, remedy)]


def _paired(
    place: Path, scans: dict[str, tuple[Path, ...]], masks: dict[str, Path]
) -> tuple[dict[str, str], list[Problem]]:
    """Return the name of each scan's mask, and problems: masks that belong to no scan, scans with several masks."""
    mask_of, endings = pair(scans, masks)
    paired = {*mask_of.values()}
    problems = []
    if endings:
        counts = {ending: sum(name.endswith(ending) for name in masks) for ending in endings}
        what = f"has masks whose names end otherwise than their images': {counted(counts)}"
        owners = Counter(owner(name, scans) for name in masks if name.endswith(tuple(endings)))
        if several := [name for name, count in owners.items() if name and count > 1]:
            what = (
                f"has several masks of {len(several)} scan(s), such as {several[0]}, and masks end in {counted(counts)}"
            )
        ways = say_which(*(f"label_suffix={ending}" for ending in endings))
        problems.append(Problem(str(place), "ambiguous-layout", what, ways))
    asked = tuple(endings)
    lone = [name for name in masks if name not in paired and not (asked and name.endswith(asked))]
    remedies = namesakes(lone, [name for name in scans if name not in mask_of])
    problems += [
        Problem(str(masks[name]), "label-without-image", "no image has this name", remedies[name]) for name in lone
    ]
    return mask_of, problems


def _look(marks: list[Path]) -> str:
    if marks:
        return f"it holds names such as {', '.join(path.name for path in marks[:3])}"
    return "give another ending"


def _more_scans(place: Path | None, known: Iterable[str]) -> tuple[list[Case], list[Problem]]:
    if place is None:
        return [], []
    paths, problems = list_scans(place)
    scans, wrong = _scans(paths, ())
    twice = [name for name in scans if name in known]
    problems += wrong + [
        Problem(str(scans[name][0]), "id-twice", f"two scans have the name {name}", "rename one of them", case=name)
        for name in twice
    ]
    return [
        Case(id=name, images=files, label=None, patient=name) for name, files in scans.items() if name not in twice
    ], problems


def _about(source: Path) -> tuple[dict[str, Any], list[Problem]]:
    """Return what a ``dataset.json`` without a list says of the folders beside it."""
    path, _ = list_in(source)
    return ({}, []) if path is None else read_about(read_json(path), path)


def subfolders(source: Path) -> list[Path]:
    """Return the folders in a folder, sorted, without hidden ones and without ``__MACOSX``, which archives leave."""
    return sorted(p for p in source.iterdir() if p.is_dir() and not p.name.startswith(".") and p.name != "__MACOSX")


def subfolder(source: Path, name: str, option: str) -> Path:
    """Return the folder of a dataset that an option names, in any case of its letters; ``.`` is the dataset's own.

    Raises:
        UserError: There is no such folder; the remedy names the nearest.
    """
    there = {place.name: place for place in subfolders(source)}
    found: Path | None = source
    if name != HERE:
        found = next((p for other, p in there.items() if other.lower() == name.lower()), None)
    if found is None and ".." not in Path(name).parts and not Path(name).is_absolute() and (source / name).is_dir():
        return source / name  # below another one
    if found is None:
        remedy = "put the scans there"
        if there:
            remedy = nearest(name, there)
        raise no_dataset(source, "bad-layout", f"has no folder {name}, which the option `{option}` names", remedy)
    return found


def unlabelled_folder(source: Path, name: str | None) -> Path | None:
    """Return the folder that the option ``unlabelled`` names; None where it names none."""
    if name is None:
        return None
    return subfolder(source, name, "unlabelled")


def list_scans(place: Path) -> tuple[list[Path], list[Problem]]:
    """Return the NIfTI files of a folder, sorted, and problems: names that are there twice, and other formats."""
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
        raise UserError("There are no scans.", [Problem(str(place), "no-folder", "is no folder", path_hint(place))])
    paths, problems = list_scans(place)
    if problems:
        raise UserError(f"The folder {place} cannot be read.", problems)
    return paths
