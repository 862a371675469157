"""Report files in a dataset's folders that no case uses: passed over in silence, they would hide mistakes."""

from __future__ import annotations

import os
from shlex import quote
from typing import TYPE_CHECKING

from pipeline.data.layouts.folders import subfolders
from pipeline.data.layouts.names import bare_mask
from pipeline.data.layouts.synonyms import holds_images, names_masks, part_of
from pipeline.errors import Problem, listed
from pipeline.nifti.container import SUFFIXES, is_nifti, is_other_scan, stem

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from pipeline.data.layouts.dataset import Dataset

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar")
# Formats that may hold an image or a mask, if the folder is named after images or masks.
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".npy", ".npz", ".h5", ".hdf5", ".mat", ".stl", ".vtk")
# Names in one message, and folders that are named one by one.
NAMED = 4
FOLDERS = 3


def leftovers(dataset: Dataset) -> list[Problem]:
    """Return a warning for each folder with files that are or could be scans or masks, and that nothing uses.

    All folders below the dataset's own are searched. For a list with another name than ``dataset.json``, which may lie
    above many datasets, only the folders of its files are searched, and those beside them that are named after images
    or masks.
    """
    used = {path for case in dataset.cases for path in (*case.images, case.label) if path}
    named = {problem.where for problem in dataset.problems}
    known = used | dataset.left_out
    base = _base(dataset, used)
    # Folders that the user has to choose from are reported already.
    asked = {problem.where for problem in dataset.problems if problem.code == "ambiguous-layout"}
    unused = [
        path
        for path in _files(dataset, base, used)
        if path not in known and str(path) not in named and str(path.parent) not in asked
    ]
    return [_finding(place, paths, dataset, base) for place, paths in _by_place(unused, base).items()]


def _base(dataset: Dataset, used: Iterable[Path]) -> Path:
    """Return the dataset's folder in the form that the paths of its cases have, which may have links resolved."""
    folder = dataset.source if dataset.source.is_dir() else dataset.source.parent
    if any(path.is_relative_to(folder) for path in used):
        return folder
    return folder.resolve()


def _files(dataset: Dataset, base: Path, used: Iterable[Path]) -> Iterator[Path]:
    if dataset.source.is_dir() or dataset.source.name == "dataset.json":
        yield from _below(base)
    elif dataset.layout == "scans":
        return  # one file, that somebody has named
    else:
        for place in _folders_of_list(base, {path.parent for path in used}):
            yield from _in(place) if place == base else _below(place)
    # A list's files may lie elsewhere than the list, among others that it has nothing to do with.
    for place in sorted({path.parent for path in used if not path.is_relative_to(base)}):
        yield from _in(place)


def _folders_of_list(base: Path, named: Iterable[Path]) -> list[Path]:
    """Return the folders beside a list that its files lie in, and others that are named after images or masks."""
    inside = [place.relative_to(base).parts for place in named if place.is_relative_to(base)]
    tops = {base / parts[0] if parts else base for parts in inside}
    if tops - {base}:
        tops |= {place for place in subfolders(base) if _is_role(place.name)}
    return sorted(tops)


def _is_role(folder: str) -> bool:
    return holds_images(folder) or names_masks(folder) or part_of(folder) is not None


def _in(place: Path) -> Iterator[Path]:
    if place.is_dir():
        yield from (path for path in sorted(place.iterdir()) if could_hold_voxels(path) and not path.is_dir())


def _below(place: Path) -> Iterator[Path]:
    """Yield files below a folder that are or could be scans; links are followed once, and never upwards."""
    seen: set[tuple[int, int]] = set()
    above = {*place.resolve().parents}
    for base, folders, files in os.walk(place, followlinks=True):
        here = place / os.path.relpath(base, place)
        about = here.stat()
        if (about.st_dev, about.st_ino) in seen or here.resolve() in above:
            folders.clear()
            continue
        seen.add((about.st_dev, about.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        yield from (here / name for name in sorted(files) if could_hold_voxels(here / name))


def could_hold_voxels(path: Path) -> bool:
    """Tell by its name whether a file is a scan or an archive, or a picture in a folder for images or masks."""
    name = path.name.lower()
    if name.startswith("."):
        return False
    pictured = name.endswith(PICTURES) and _is_role(path.parent.name)
    return is_nifti(path) or is_other_scan(path) or name.endswith(ARCHIVES) or pictured


def _by_place(paths: Sequence[Path], base: Path) -> dict[Path, list[Path]]:
    """Group files by folder; if that gives many groups, by folders further up, so that each finding is made once."""
    parts = {path: path.parent.relative_to(base).parts for path in paths if path.is_relative_to(base)}
    for depth in range(max(map(len, parts.values()), default=0), -1, -1):
        places: dict[Path, list[Path]] = {}
        for path in paths:
            place = base.joinpath(*parts[path][:depth]) if path in parts else path.parent
            places.setdefault(place, []).append(path)
        if len(places) <= FOLDERS:
            break
    return places


def _finding(place: Path, paths: Sequence[Path], dataset: Dataset, base: Path) -> Problem:
    names = listed([str(path.relative_to(place)) for path in paths], NAMED)
    message = f"holds {len(paths)} file(s) that no case uses: {names}"
    ids = {case.id for case in dataset.cases}
    masks = names_masks(place.name) or any(stem(path) in ids or bare_mask(stem(path)) in ids for path in paths)
    if not any(path.name.lower().endswith(SUFFIXES) for path in paths):
        remedy = "convert to NIfTI, or unpack, what is a scan or a mask; or nothing"
        return Problem(str(place), "unused-files", message, remedy)
    # An option names one folder, whose files it then reads.
    alone = place != base and base in place.parents and all(path.parent == place for path in paths)
    remedy = _remedy(str(place.relative_to(base)) if alone else "", dataset.layout, masks=masks)
    return Problem(str(place), "unused-files", message, remedy)


def _remedy(name: str, layout: str, *, masks: bool) -> str:
    """Return the option that would use the files of a folder, where there is one."""
    if layout in ("decathlon", "datalist", "table"):
        return "name them in the list, or nothing, if they are not to be used"
    if layout == "bids" and masks:
        return "nothing; or put masks beside their scans or under derivatives/, and choose one kind by an option"
    if name and masks and part_of(name) in (None, "training"):
        if layout == "scans":
            ways = f"--layout folder --layout-option images=. --layout-option {quote(f'labels={name}')}"
            return f"nothing; or {ways} trains on both"
        if layout == "folder":
            ways = f"--layout-option {quote(f'labels={name}')}"
            return f"nothing; or {ways} reads them as masks, in the place of others"
    if name and layout in ("folder", "nnunet") and not masks:
        return f"nothing; or --layout-option {quote(f'unlabelled={name}')} trains on them without masks"
    return "nothing, if they are not to be used; the layout's options say which files are"
