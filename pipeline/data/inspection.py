"""Examine the files of one case: what is in them, and everything that is wrong with them."""

from __future__ import annotations

import math
from collections.abc import Mapping  # noqa: TC003 - read_facts resolves the annotations of CaseFacts
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np

from pipeline import nifti
from pipeline.data.appearance import Appearance, describe
from pipeline.data.codes import is_warning
from pipeline.data.content import hash_scan, hash_values
from pipeline.data.label_values import count_labels, label_problems
from pipeline.data.pieces import largest_pieces
from pipeline.data.relabelling import recounted, relabelled
from pipeline.data.stamps import case_files, stamps
from pipeline.data.statistics import ChannelStatistics, channel_statistics
from pipeline.errors import Problem, UserError
from pipeline.nifti.forms import Forms
from pipeline.nifti.grids import grid_problems, orientation_problems

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.types import Case

Row: TypeAlias = tuple[float, float, float, float]

# Networks compute in float32. A scan of integers of which float32 distinguishes fewer levels than this is refused.
LEAST_LEVELS = 16
# A scan whose values are whole numbers within a range below this is probably a mask.
FEW_VALUES = 8
# The farthest that a voxel may lie from the origin: beyond it, places in a scan are lost in rounding.
FARTHEST_MM = 1e9


@dataclass(frozen=True)
class Declared:
    """What a dataset says of itself; None where it says nothing.

    Attributes:
        labels: Label values and names.
        ignore: The label value of voxels that nobody has annotated.
        channels: Number of channels.
    """

    labels: Mapping[int, str] | None = None
    ignore: int | None = None
    channels: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseFacts:
    """What one pass over a case's files found.

    Attributes:
        case: The case's id.
        sha256: Hash of each image file, then of the label file.
        shape: Voxels along the axes of the file.
        spacing_mm: Voxel size along the same axes.
        affine: Voxel indices to mm, row by row.
        channels: Number of image channels.
        label_voxels: Number of voxels of each value in the mask; None without a mask.
        stored_voxels: The same of the values in the file, where others are read; else None.
        largest_pieces: For each label above 0, and under 0 for all together, the share of the voxels that their largest
            connected component has; empty without a mask, or where it has voxels that nobody has annotated.
        annotated: The label values of the classes that are annotated in the mask; None for all.
        appearance: How each channel looks; empty where one is constant, None where that was not described.
        intensities: Statistics of each channel; empty if the case has problems.
        flat: Whether the file has two axes.
        content: For each channel, then the mask: a hash of the values in the order of the file, whatever their type,
            scaling and compression.
        sums: For each channel: a hash of the sums along the axes of the body, whatever the order of the file.
        stamps: Size, time of change in ns and inode of the same files as ``sha256``. A file whose stamp has not changed
            is not read again.
    """

    case: str
    sha256: tuple[str, ...]
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    affine: tuple[Row, Row, Row, Row]
    channels: int
    label_voxels: Mapping[int, int] | None
    intensities: tuple[ChannelStatistics, ...] = ()
    flat: bool = False
    content: tuple[str, ...] = ()
    sums: tuple[str, ...] = ()
    stamps: tuple[tuple[int, ...], ...] = ()
    stored_voxels: Mapping[int, int] | None = None
    largest_pieces: Mapping[int, float] = field(default_factory=dict)
    appearance: tuple[Appearance, ...] | None = None
    annotated: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse an impossible grid, as an altered ``index.json`` may have it.

        Raises:
            ValueError: The affine is not finite, or its voxels have no volume.
        """
        if not 0 < abs(np.linalg.det(self.affine)) < np.inf:
            raise ValueError(f"its affine is {self.affine}")

    @property
    def known_by(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The hashes that identify the scan, one for each channel: of values, and of sums."""
        return self.content[: self.channels], self.sums

    @property
    def forms(self) -> Forms:
        """The grid, as a header says it."""
        return Forms(
            shape=self.shape,
            pixdim=(1.0, *self.spacing_mm),
            qform_code=0,
            quatern=(0.0, 0.0, 0.0),
            qoffset=(0.0, 0.0, 0.0),
            sform_code=1,
            srow=tuple(number for row in self.affine[:3] for number in row),
        )

    def without_mask(self) -> CaseFacts:
        """Return the facts of the same scan without its mask."""
        scan = tuple(replace(channel, foreground=None) for channel in self.intensities)
        return replace(self, label_voxels=None, largest_pieces={}, intensities=scan, annotated=None)


def examine_case(case: Case, declared: Declared) -> tuple[CaseFacts | None, list[Problem]]:
    """Read all files of a case.

    Args:
        case: The case.
        declared: What the dataset says of itself.

    Returns:
        The facts, or None where an image cannot be read, and every problem and warning found.
    """
    stamped = stamps(case_files(case))
    scans, problems = _load_all(case_files(case))
    facts, found = examine_scans(case, scans, declared, problems)
    return facts and replace(facts, stamps=stamped), found


def examine_scans(
    case: Case, scans: Mapping[Path, nifti.Scan], declared: Declared, known: Sequence[Problem] = ()
) -> tuple[CaseFacts | None, list[Problem]]:
    """Examine a case as :func:`examine_case` does, whose files are read already.

    Args:
        case: The case.
        scans: Its files, by path; those that could not be read are left out.
        declared: What the dataset says of itself.
        known: The problems that reading them has found.

    Returns:
        The facts, or None where an image is missing, and every problem and warning, those of ``known`` included.
    """
    problems = list(known)
    images = [scans[path] for path in case.images if path in scans]
    label = None
    if case.label:
        label = scans.get(case.label)
    first = scans.get(case.images[0])
    for image in images:
        problems += _image_problems(image, case.label is not None, declared.channels)
    counts: Mapping[int, int] | None = None
    stored: Mapping[int, int] | None = None
    if label is not None:
        label, counts, stored, wrong = _examine_mask(case, label, declared, images[0] if images else None)
        problems += wrong
    if first is not None:
        problems += orientation_problems(first)
        for image in images[1:]:
            problems += grid_problems(first, image, "channel")
        if label is not None:
            problems += grid_problems(first, label, "label")
    problems = [replace(problem, case=case.id, remedy=_remedy(problem, case)) for problem in problems]
    if first is None or len(images) < len(case.images):
        return None, problems
    sound = all(map(is_warning, problems))
    found = [hash_scan(channel, first.affine) for image in images for channel in image.voxels]
    content, sums = (tuple(each) for each in zip(*found, strict=True))
    return (
        CaseFacts(
            case=case.id,
            sha256=tuple(scans[path].sha256 for path in case_files(case) if path in scans),
            stamps=(),
            content=content + (() if label is None else (hash_values(label.voxels[0]),)),
            sums=sums,
            shape=first.shape,
            spacing_mm=first.spacing_mm,
            affine=cast("tuple[Row, Row, Row, Row]", tuple(map(tuple, first.affine.tolist()))),
            channels=sum(image.channels for image in images),
            flat=len(first.header.dims) == 2,
            label_voxels=counts,
            annotated=case.annotated,
            stored_voxels=stored,
            largest_pieces=_pieces(label, _ignored(case, declared)) if sound else {},
            appearance=_appearance(images) if sound else None,
            intensities=_intensities(images, label, _ignored(case, declared)) if sound else (),
        ),
        problems,
    )


def _examine_mask(
    case: Case, mask: nifti.Scan, declared: Declared, image: nifti.Scan | None
) -> tuple[nifti.Scan, Mapping[int, int], Mapping[int, int] | None, list[Problem]]:
    """Return a mask as it is read, the counts of its values, those of its file where others are read, and problems."""
    counts, wrong = count_labels(mask)
    problems = wrong or label_problems(mask, counts, declared, image)
    if wrong or not case.relabelled:
        return mask, counts, None, problems
    read = recounted(counts, case.relabelled)
    if any(counts) and not any(value not in (0, _ignored(case, declared)) for value in read):
        message = "has no foreground among the labels that are chosen"
        remedy = "nothing, if there is nothing of them to see in the scan"
        problems.append(Problem(str(mask.path), "empty-mask", message, remedy))
    return relabelled(mask, case.relabelled), read, counts, problems


def _ignored(case: Case, declared: Declared) -> int | None:
    """Return the value of voxels that nobody has annotated, as the case's mask is read."""
    if declared.ignore is None:
        return None
    return dict(case.relabelled).get(declared.ignore, declared.ignore)


def _remedy(problem: Problem, case: Case) -> str:
    """Prefer the mask named after the case's own scan to the one whose name is nearest, which may be another case's."""
    if problem.code == "missing-file" and case.label is not None and problem.where == str(case.label):
        own = case.label.with_name(case.images[0].name)
        if own.is_file() and own not in case.images:
            return f"did you mean {own.name!r}?"
    return problem.remedy


def _intensities(
    images: Sequence[nifti.Scan], label: nifti.Scan | None, ignore: int | None
) -> tuple[ChannelStatistics, ...]:
    labels = None
    if label is not None:
        labels = _annotated(label.labels, ignore)
    return channel_statistics((channel for image in images for channel in image.voxels), labels)


def _appearance(images: Sequence[nifti.Scan]) -> tuple[Appearance, ...]:
    found = [describe(channel, image.affine) for image in images for channel in image.voxels]
    return tuple(each for each in found if each) if all(found) else ()


def _pieces(mask: nifti.Scan | None, ignore: int | None) -> dict[int, float]:
    return {} if mask is None else largest_pieces(mask.labels, ignore)


def _annotated(labels: NDArray[Any], ignore: int | None) -> NDArray[Any]:
    """Return labels in which voxels that nobody has annotated are background."""
    if ignore is None:
        return labels
    return np.where(labels == ignore, 0, labels)


def examine_pair(
    truth: Path, prediction: Path, ignore: int | None = None
) -> tuple[set[int], tuple[str, ...], list[Problem]]:
    """Read a true and a predicted mask; return the values in them, the hashes of their files and every problem found.

    Args:
        truth: The true mask.
        prediction: The predicted mask.
        ignore: The value of voxels that nobody has annotated, which may be below 0.
    """
    scans, problems = _load_all([truth, prediction])
    values: set[int] = set()
    for scan in scans.values():
        counts, wrong = count_labels(scan)
        values |= set(counts)
        problems += wrong or label_problems(scan, counts, Declared(ignore=ignore), None)
    if len(scans) == 2:
        problems += grid_problems(scans[truth], scans[prediction], "prediction")
    problems = [problem for problem in problems if not is_warning(problem)]
    hashes = tuple(scans[path].sha256 for path in (truth, prediction) if path in scans)
    return (set() if problems else values), hashes, problems


def _load_all(paths: Sequence[Path]) -> tuple[dict[Path, nifti.Scan], list[Problem]]:
    scans: dict[Path, nifti.Scan] = {}
    problems: list[Problem] = []
    for path in paths:
        try:
            scans[path] = nifti.load(path)
            problems += scans[path].notes
        except UserError as error:
            problems += error.problems
    return scans, problems


def _image_problems(scan: nifti.Scan, labelled: bool, channels: int | None) -> list[Problem]:
    where = str(scan.path)
    voxels = scan.voxels
    problems = []
    if scan.channels > 1 and channels is None:
        message = f"has a fourth axis of {scan.channels}, and nothing says that these are channels"
        remedy = "declare channel_names, in the list or by --layout-option; or save one volume a file"
        problems.append(Problem(where, "undeclared-channels", message, remedy))
    if (farthest := float(np.abs(scan.affine[:3, 3]).max())) > FARTHEST_MM:
        message = f"lies {farthest:.3g} mm from the origin"
        remedy = "correct the offsets of its affine"
        problems.append(Problem(where, "bad-affine", message, remedy))
    low = voxels.min()  # NaN where any voxel is
    high = voxels.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = int(voxels.size - np.isfinite(voxels).sum())
        message = f"has {bad} voxel(s) that are NaN or infinite"
        remedy = "fill them, as check --fix fill-nonfinite does, or leave it out"
        problems.append(Problem(where, "not-finite", message, remedy))
    elif low == high:
        code = "constant-image" if labelled else "constant-scan"
        message = f"is {low:g} everywhere"
        problems.append(Problem(where, code, message, "replace the scan, or leave it out"))
    elif voxels.dtype.kind in "iu" and (levels := _levels_in_float32(int(low), int(high))) < LEAST_LEVELS:
        message = f"has values from {low} to {high}, of which float32 tells {levels} apart"
        problems.append(Problem(where, "lost-precision", message, "subtract what all voxels have in common"))
    elif float(high) - float(low) < FEW_VALUES and not np.mod(voxels, 1).any():
        message = f"holds whole numbers from {low:g} to {high:g} alone, as a mask does"
        problems.append(Problem(where, "looks-like-mask", message, "name the scan itself, if this is its mask"))
    return problems


def _levels_in_float32(low: int, high: int) -> float:
    """Return about how many of the integers from ``low`` to ``high`` float32 distinguishes; infinity if all."""
    step = int(np.spacing(np.float32(max(abs(low), abs(high)))))
    if step <= 1:
        return math.inf
    return 1 + (high - low) // step
