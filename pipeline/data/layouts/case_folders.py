"""Find the folders of cases, and what the name of each file adds to that of its case."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.data.layouts.bids import Bids
from pipeline.data.layouts.folders import subfolders
from pipeline.data.layouts.names import SEPARATORS
from pipeline.data.layouts.synonyms import PARTS, holds_images, holds_masks, part_of
from pipeline.nifti.container import is_nifti, is_other_scan, stem

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.types import Role

# A folder of folders is a patient's where it holds fewer cases than this on average; with more it is a group.
GROUP = 10
# Folders below a dataset's own in which cases are looked for: patient, visit, modality, and one more.
DEPTH = 4


@dataclass
class CaseFolder:
    """The folder of a case.

    Attributes:
        folder: The folder.
        kinds: Its files by kind: what their names add to the case's own, such as ``flair``.
        twice: Files whose kind another one has already.
    """

    folder: Path
    kinds: dict[str, Path] = field(default_factory=dict)
    twice: list[Path] = field(default_factory=list)

    def add(self, kind: str, path: Path) -> None:
        """Note a file; of two of one kind the second is set aside."""
        if kind in self.kinds:
            self.twice.append(path)
        else:
            self.kinds[kind] = path


def common_folder(places: Sequence[CaseFolder]) -> Path:
    """Return the folder that all cases lie below."""
    return Path(os.path.commonpath([place.folder.parent for place in places]))


def role_of(base: Path, folder: Path) -> Role | None:
    """Return the role of a case that lies in train/, val/ or test/ below the folder of all cases."""
    above = folder.relative_to(base).parts[:-1]
    if above:
        return part_of(above[0])
    return None


def ids_of(base: Path, places: Sequence[CaseFolder]) -> dict[Path, str]:
    """Name each case after its folder and those above it; without train/ and test/ if the names still differ then."""
    parts = {place.folder: place.folder.relative_to(base).parts for place in places}
    short = {folder: "_".join(names[1:] if role_of(base, folder) else names) for folder, names in parts.items()}
    if len(set(short.values())) == len(short):
        return short
    return {folder: "_".join(names) for folder, names in parts.items()}


def patients_of(base: Path, places: Sequence[CaseFolder], ids: Mapping[Path, str]) -> dict[str, str]:
    """Return the patient of each case by id: the folder above the case's, or else the case itself.

    The folder above is a patient if such folders hold few cases on average and none is called train, val or test.
    """
    above = Counter(place.folder.parent for place in places)
    groups = len(places) / len(above) >= GROUP or any(part_of(folder.name) for folder in above)
    return {
        ids[place.folder]: ids[place.folder]
        if place.folder.parent == base or groups
        else "_".join(place.folder.parent.relative_to(base).parts)
        for place in places
    }


def find_places(source: Path) -> list[CaseFolder]:
    """Return the folders of cases below a folder; none if it is laid out otherwise."""
    if not source.is_dir() or any(holds_images(place.name) or holds_masks(place.name) for place in subfolders(source)):
        return []
    folders = [folder for place in subfolders(source) for folder in _case_folders(place, {source.resolve()})]
    if any(folder.parent == source and folder.name.lower() in PARTS for folder in folders):
        return []  # train/ and test/, not cases
    places = [CaseFolder(folder) for folder in folders]
    for place in places:
        for path in _scans_below(place.folder):
            place.add(_kind(path, place.folder), path)
    shared = Counter(kind for place in places for kind in place.kinds)
    if len(places) > 1 and max(shared.values(), default=0) == 1:
        return [_by_common_beginning(place) for place in places]
    return places


def holds_voxels(path: Path) -> bool:
    """Tell by its name whether a file is a scan, in any format."""
    return is_nifti(path) or is_other_scan(path)


def _case_folders(folder: Path, above: set[Path]) -> list[Path]:
    """Return the folders of cases in a folder: itself, if scans lie in it or in its folders for images and masks.

    None are returned for a dataset of its own, which holds many cases, and for a link back to a folder above.
    """
    here = folder.resolve()
    if here in above or len(above) > DEPTH or (folder / "dataset.json").is_file() or Bids.detect(folder):
        return []  # a link back, or another dataset
    if any(map(holds_voxels, folder.iterdir())):
        return [folder]
    inner = {place: _case_folders(place, {*above, here}) for place in subfolders(folder)}
    found = [case for cases in inner.values() for case in cases]
    parts = [place for place, cases in inner.items() if cases]
    held = {part: {stem(path) for path in part.iterdir() if is_nifti(path)} for part in parts}
    images = [names for part, names in held.items() if holds_images(part.name)]
    masks = [names for part, names in held.items() if holds_masks(part.name)]
    if any(len(some & others) > 1 for some in images for others in masks):
        return []
    if images or masks:
        return [folder]
    return found


def _scans_below(folder: Path) -> list[Path]:
    found = []
    for base, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        place = folder / os.path.relpath(base, folder)
        found += [place / name for name in sorted(files) if is_nifti(place / name)]
    return found


def _kind(path: Path, folder: Path) -> str:
    """Return what a file's name adds to that of its case: ``flair``, ``segmentations/liver``, or "".

    >>> from pathlib import Path
    >>> _kind(Path("d/P1/P1_seg.nii.gz"), Path("d/P1")), _kind(Path("d/P1/ct.nii"), Path("d/P1"))
    ('seg', 'ct')
    """
    name = stem(path)
    rest = name
    if has_own_name(name, folder):
        rest = name[len(folder.name) :].lstrip(SEPARATORS)
    return "/".join([*path.relative_to(folder).parts[:-1], rest]).strip("/")


def has_own_name(name: str, folder: Path) -> bool:
    """Tell whether a name begins with that of its folder, up to a separator."""
    return re.match(re.escape(folder.name) + r"(?![A-Za-z0-9])", name, re.IGNORECASE) is not None


def _by_common_beginning(place: CaseFolder) -> CaseFolder:
    """Return the folder with new kinds: what follows the beginning, up to a separator, that all its files share."""
    names = {path: stem(path) for path in place.kinds.values()}
    if not names:
        return place
    # All names share what the first and the last in alphabetical order share.
    first = min(names.values())
    last = max(names.values())
    shared = first[: next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))]
    ends = {name[len(shared) :][:1] for name in names.values()}
    if not ends <= {"", *SEPARATORS}:
        shared = re.sub(r"[^_\-. ]*$", "", shared)
    found = CaseFolder(place.folder, twice=place.twice)
    for path, name in names.items():
        folders = path.relative_to(place.folder).parts[:-1]
        found.add("/".join([*folders, name[len(shared) :].lstrip(SEPARATORS)]).strip("/"), path)
    return found
