"""Examine the files of one case: what is in them, and everything that is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - read_facts resolves the annotations of CaseFacts
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np

from pipeline import nifti
from pipeline.data.appearance import Appearance, describe
from pipeline.data.body import body_box
from pipeline.data.codes import is_warning
from pipeline.data.content import hash_scan, hash_values
from pipeline.data.image_problems import image_problems
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

# Raise it when the facts of the same files change: those of earlier checks are not taken then.
FACTS_VERSION = 2
Row: TypeAlias = tuple[float, float, float, float]


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
        body: Voxels along the same axes of the box of the body (:mod:`pipeline.data.body`); None where nobody looked.
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
    body: tuple[int, int, int] | None = None

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

    def cropped(self) -> CaseFacts:
        """Return the facts of the box of the body, as if the scan were no larger."""
        return replace(self, shape=self.body or self.shape)

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
        problems += image_problems(image, case.label is not None, declared.channels)
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
            **(_described(images, label, _ignored(case, declared)) if sound else {}),
        ),
        problems,
    )


def _described(images: Sequence[nifti.Scan], mask: nifti.Scan | None, ignore: int | None) -> dict[str, Any]:
    """Return what is found of a case without problems."""
    return {
        "largest_pieces": _pieces(mask, ignore),
        "appearance": _appearance(images),
        "body": _body(images, mask, ignore),
        "intensities": _intensities(images, mask, ignore),
    }


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


def _body(images: Sequence[nifti.Scan], mask: nifti.Scan | None, ignore: int | None) -> tuple[int, int, int]:
    channels = [channel for image in images for channel in image.voxels]
    x, y, z = body_box(channels, None if mask is None else mask.labels, ignore)
    return x.stop - x.start, y.stop - y.start, z.stop - z.start


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
