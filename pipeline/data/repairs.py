"""Repairs that a user asks for by name: a repaired copy of a dataset, and a log of what was done to which file."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import nifti
from pipeline.data.codes import CODES, is_warning
from pipeline.data.layouts.painting import asked_labels
from pipeline.errors import Problem, UserError, nearest
from pipeline.nifti.grids import rename_axes, renaming

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.data.check import Check
    from pipeline.data.layouts import Dataset
    from pipeline.nifti.forms import Forms
    from pipeline.nifti.header import Header
    from pipeline.types import Case


@dataclass(frozen=True)
class Volume:
    """Voxels ``[C, X, Y, Z]`` and the header that they are to be written with."""

    voxels: NDArray[Any]
    header: Header


@dataclass(frozen=True, kw_only=True)
class Repair:
    """One line of the log: what was done to which file, and where the repaired file lies."""

    case: str
    file: str
    code: str
    fix: str
    done: str
    written: str


def _use_sform(volume: Volume, _: Header) -> tuple[Volume, str]:
    return _with_forms(volume, replace(volume.header.forms, qform_code=0)), "dropped the qform"


def _use_qform(volume: Volume, _: Header) -> tuple[Volume, str]:
    return _with_forms(volume, replace(volume.header.forms, sform_code=0)), "dropped the sform"


def _fill_nonfinite(volume: Volume, _: Header) -> tuple[Volume, str]:
    """Give NaN and infinite voxels the smallest finite value of their channel; 0 where there is none."""
    filled = volume.voxels.copy()
    places = ~np.isfinite(volume.voxels)
    for channel, bad in zip(filled, places, strict=True):
        channel[bad] = channel[~bad].min(initial=np.inf) if not bad.all() else 0
    return replace(volume, voxels=filled), f"gave {int(places.sum())} voxel(s) the smallest finite value"


def _round_labels(volume: Volume, _: Header) -> tuple[Volume, str]:
    rounded = np.rint(volume.voxels)
    changed = int((rounded != volume.voxels).sum())
    return replace(volume, voxels=rounded.astype(np.int32)), f"rounded {changed} voxel(s) by at most 0.001"


def _reorient(volume: Volume, image: Header) -> tuple[Volume, str]:
    found = renaming(image.forms, volume.header.forms)
    if found is None:
        return volume, "left as it is: another repair moved its scan to a grid of other points"
    voxels = np.stack([rename_axes(channel, *found) for channel in volume.voxels])
    return _with_forms(Volume(voxels, volume.header), image.forms), "reordered the voxels to the scan's axes"


def _copy_affine(volume: Volume, image: Header) -> tuple[Volume, str]:
    return _with_forms(volume, image.forms), "copied the scan's qform and sform"


def _with_forms(volume: Volume, forms: Forms) -> Volume:
    return replace(volume, header=replace(volume.header, forms=forms))


# In the order in which they are applied: a scan's own forms decide what its label is compared with.
FIXES: dict[str, Callable[[Volume, Header], tuple[Volume, str]]] = {
    "use-sform": _use_sform,
    "use-qform": _use_qform,
    "fill-nonfinite": _fill_nonfinite,
    "round-labels": _round_labels,
    "reorient": _reorient,
    "copy-affine": _copy_affine,
}


def refuse_unknown(names: Sequence[str], folder: Path | None) -> None:
    """Refuse unknown repairs, and a folder for the copy that is not empty, or not given.

    Raises:
        UserError: There is no such repair, no folder, or the folder is not empty.
    """
    problems = [
        Problem(f"--fix {name}", "unknown-fix", "there is no such repair", nearest(name, FIXES))
        for name in names
        if name not in FIXES
    ]
    if names and folder is None:
        message = "writes a repaired copy"
        problems.append(Problem("--fix", "no-output", message, "name an empty or new folder: --output DIR"))
    elif folder and folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        message = "is there already"
        remedy = "name an empty or new folder: --output DIR"
        problems.append(Problem(str(folder), "folder-not-empty", message, remedy))
    if problems:
        raise UserError("Nothing was repaired.", problems)


def repair_dataset(look: Check, names: Sequence[str], folder: Path) -> tuple[dict[str, Any], list[Repair]]:
    """Write a copy of a dataset in which some problems are repaired: new files, and links to those left as they were.

    Args:
        look: A finished check of the dataset.
        names: Of the repairs.
        folder: Empty or new; gets ``images/`` and ``labels/``.

    Returns:
        The content of the copy's ``dataset.json``, and the log.

    Raises:
        UserError: The dataset's list has mistakes, so that a copy would lack cases; or nothing needs these repairs.
    """
    if mistakes := [problem for problem in look.dataset.problems if not is_warning(problem)]:
        raise UserError("Nothing was repaired: mend the list or the folders first.", mistakes)
    wanted: dict[str, list[tuple[str, str]]] = {}
    for problem in look.findings:
        fix = next((name for name in FIXES if name in names and name in CODES[problem.code].fixes), None)
        if fix:
            wanted.setdefault(problem.where, []).append((problem.code, fix))
    if not wanted:
        message = "no problem of the dataset has this repair"
        remedy = "see the column remedy of `fewmask check`"
        problems = [Problem(f"--fix {name}", "nothing-to-fix", message, remedy) for name in names]
        raise UserError("Nothing was repaired.", problems)
    content = _declarations(look.dataset)
    log: list[Repair] = []
    for side in ("images", "labels"):
        (folder / side).mkdir(parents=True, exist_ok=True)
    for number, case in enumerate(look.dataset.cases):
        name = f"{number:05d}_{re.sub(r'[^A-Za-z0-9-]', '_', case.id)}"
        images = [folder / "images" / f"{name}_{n:04d}{_suffix(path)}" for n, path in enumerate(case.images)]
        label = None
        if case.label:
            label = folder / "labels" / f"{name}{_suffix(case.label)}"
        log += _copy_case(case, [*images, *([label] if label else [])], wanted)
        entry: dict[str, Any] = {"id": case.id, "patient": case.patient}
        entry["image"] = [str(path.relative_to(folder)) for path in images]
        if label:
            entry["label"] = str(label.relative_to(folder))
        content.setdefault(_section(case), []).append(entry)
    return content, log


def _copy_case(case: Case, targets: Sequence[Path], wanted: dict[str, list[tuple[str, str]]]) -> list[Repair]:
    """Write or link each file of a case; the first image comes first, since the others are compared with it."""
    log: list[Repair] = []
    first: Header | None = None
    for path, target in zip([*case.images, *([case.label] if case.label else [])], targets, strict=True):
        fixes = sorted(wanted.get(str(path), []), key=lambda fix: list(FIXES).index(fix[1]))
        if not fixes:
            target.symlink_to(path.resolve())
            if first is None and path != case.label:
                with suppress(UserError):  # a file that cannot be read stays as it is, and the next check names it
                    first = nifti.load(path).header
            continue
        scan = nifti.load(path)
        volume = Volume(scan.voxels, scan.header)
        for code, fix in fixes:
            volume, done = FIXES[fix](volume, first or volume.header)
            log.append(Repair(case=case.id, file=str(path), code=code, fix=fix, done=done, written=str(target)))
        first = first or volume.header
        flat = volume.voxels[0] if len(volume.voxels) == 1 else np.moveaxis(volume.voxels, 0, 3)
        nifti.save_volume(target, flat, volume.header)
    return log


def _suffix(path: Path) -> str:
    return path.name[len(nifti.stem(path)) :].lower()


def _section(case: Case) -> str:
    if case.role in ("validation", "test"):
        return case.role
    return "training" if case.label else "unlabeled"


def _declarations(dataset: Dataset) -> dict[str, Any]:
    """Return what the dataset says of itself, as a datalist says it."""
    content: dict[str, Any] = {}
    if dataset.asked:
        content |= asked_labels(dataset.asked)
    elif dataset.labels is not None and not dataset.regions:
        content["labels"] = {str(value): name for value, name in dataset.labels.items()}
    elif dataset.labels is not None:
        singles = {name: value for value, name in dataset.labels.items() if name not in dataset.regions}
        content["labels"] = singles | {name: list(values) for name, values in dataset.regions.items()}
    if dataset.ignore is not None:
        content["ignore"] = dataset.ignore
    if dataset.channels is not None:
        content["channel_names"] = {str(n): name for n, name in enumerate(dataset.channels)}
    return content


def log_rows(log: Sequence[Repair]) -> list[dict[str, str]]:
    """Return the log as JSON-ready rows."""
    return [asdict(repair) for repair in log]
