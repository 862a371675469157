"""Read files again after they were checked; a file that has changed since is refused.

The hash is taken of the very bytes that are then used, so a file cannot be exchanged between the two, and nothing is
read twice. A file that was copied or touched is the same. So is one that was saved anew in another type, compression or
order of its axes, as long as it has the same values on the same grid.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline import nifti
from pipeline.data.codes import is_warning
from pipeline.data.content import hash_values
from pipeline.data.relabelling import relabelled
from pipeline.data.stamps import case_files, stamps
from pipeline.errors import Problem, UserError
from pipeline.nifti.grids import grid_problems, rename_axes, renaming

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.data.inspection import CaseFacts
    from pipeline.nifti.volume import Scan
    from pipeline.types import Case


class FilesChangedError(UserError):
    """Files are not those that were checked."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("The dataset has changed since it was checked.", problems)


def read_case(case: Case, facts: CaseFacts) -> tuple[list[Scan], Scan | None]:
    """Read a case's images and, where it has one, its mask, which lies on the grid of the first image.

    Args:
        case: The case.
        facts: What the check found of it.

    Raises:
        FilesChangedError: A file is not the one that was checked; with every such file of the case.
    """
    scans = _load(case, facts)
    count = len(case.images)
    if problems := _apart(case, facts, scans):
        raise FilesChangedError(problems)
    return scans[:count], scans[count] if case.label else None


def read_images(case: Case, facts: CaseFacts) -> list[Scan]:
    """Read a case's images; all else as :func:`read_case`."""
    return read_case(replace(case, label=None), facts)[0]


def read_label(case: Case, facts: CaseFacts) -> Scan:
    """Read a case's mask alone; all else as :func:`read_case`.

    Raises:
        ValueError: The case has none.
    """
    if case.label is None:
        raise ValueError(f"case {case.id} has no label")
    return _load(case, facts, len(case.images))[0]


def read_file(path: Path, sha256: str) -> Scan:
    """Read a file that is known by its SHA-256 alone.

    Raises:
        FilesChangedError: It is not the one that was checked.
    """
    scan = nifti.load(path)
    if scan.sha256 != sha256:
        message = "is not the file that was checked"
        remedy = "try again once nothing writes to it"
        raise FilesChangedError([Problem(str(path), "file-changed", message, remedy)])
    return scan


def changed_files(case: Case, facts: CaseFacts) -> list[Problem]:
    """Find files of a case that are not those that were checked; files are read only if a stamp has changed.

    Args:
        case: With all its files.
        facts: What the check found of it.
    """
    files = case_files(case)
    if len(files) != len(facts.sha256):
        why = f"its case had {len(facts.sha256)} files with the mask, and has {len(files)}"
        return [_changed(files[0], why, case)]
    if stamps(files) == facts.stamps[: len(files)]:
        return []
    try:
        read_case(case, facts)
    except FilesChangedError as error:
        return list(error.problems)
    return []


def _load(case: Case, facts: CaseFacts, first: int = 0) -> list[Scan]:
    """Read the files of a case from number ``first`` on."""
    scans: list[Scan] = []
    problems = []
    channel = 0
    if first:
        channel = facts.channels
    for number, path in list(enumerate(case_files(case)))[first:]:
        try:
            scan = nifti.load(path)
            if case.relabelled and number == len(case.images):
                scan = relabelled(scan, case.relabelled)
        except UserError as error:
            problems.append(_changed(path, error.problems[0].message, case))
            continue
        known = facts.content[channel : channel + scan.channels]
        channel += scan.channels
        if not _is_known(scan, facts, number) and (why := _difference(scan, known, facts)):
            problems.append(_changed(path, why, case))
        scans.append(scan)
    if problems:
        raise FilesChangedError(problems)
    return scans


def _is_known(scan: Scan, facts: CaseFacts, number: int) -> bool:
    """Tell whether a case's file ``number`` has the bytes that were checked."""
    return facts.sha256[number : number + 1] == (scan.sha256,)


def _difference(scan: Scan, known: Sequence[str], facts: CaseFacts) -> str:
    """Say how a file differs from the one that was checked; "" where it holds the same values on the same grid."""
    turned = renaming(facts.forms, scan.header.forms)
    if turned is None:
        return "it has another grid"
    found = [hash_values(rename_axes(channel, *turned)) for channel in scan.voxels]
    return "" if found == list(known) else "it holds other values"


def _apart(case: Case, facts: CaseFacts, scans: Sequence[Scan]) -> list[Problem]:
    """Find files that were saved anew and no longer lie voxel on voxel with the rest of their case."""
    known = [_is_known(scan, facts, number) for number, scan in enumerate(scans)]
    if all(known):
        return []
    first, *others = scans
    apart = [other for other in others if not all(map(is_warning, grid_problems(first, other, "file")))]
    if not known[0] and apart:
        return [_changed(first.path, f"it no longer lies on the grid of {apart[0].path.name}", case)]
    return [_changed(other.path, f"it no longer lies on the grid of {first.path.name}", case) for other in apart]


def _changed(path: Path, why: str, case: Case) -> Problem:
    message = f"is not the file that was checked: {why}"
    remedy = "bring it back, or start anew"
    return Problem(str(path), "file-changed", message, remedy, case=case.id)
