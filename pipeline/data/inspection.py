"""Examine the files of one case: what is in them, and everything that is wrong with them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.data import nifti
from pipeline.data.layouts import MAX_CLASSES
from pipeline.data.statistics import ChannelStatistics, channel_statistics
from pipeline.errors import Problem, UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.types import Case

AFFINE_TOLERANCE_VOXELS = 0.1
# The transforms carry labels in float32, which holds every integer up to here.
MAX_LABEL = 2**24


@dataclass(frozen=True)
class CaseFacts:
    """What one pass over a case's files found.

    Attributes:
        case: The case's id.
        sha256: Of each image file, then of the label file.
        shape: Voxels along the axes of the file.
        spacing_mm: Voxel size along the same axes.
        affine: Voxel indices to mm, row by row.
        channels: Number of image channels.
        label_voxels: Voxels of each value of the mask; None without a mask.
        intensities: One entry a channel.
    """

    case: str
    sha256: tuple[str, ...]
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    affine: tuple[tuple[float, ...], ...]
    channels: int
    label_voxels: Mapping[int, int] | None
    intensities: tuple[ChannelStatistics, ...] = ()


def examine_case(case: Case, labels: Mapping[int, str] | None) -> tuple[CaseFacts | None, list[Problem]]:
    """Read all files of a case.

    Args:
        case: The case.
        labels: Declared label values, or None to accept any.

    Returns:
        The facts, or None where a file cannot be read, and every problem found.
    """
    scans, problems = _load_all([*case.images, *([case.label] if case.label else [])])
    for path, scan in scans.items():
        problems += (
            _label_problems(scan, labels) if path == case.label else _image_problems(scan, case.label is not None)
        )
    first = scans.get(case.images[0])
    if first is not None:
        for path, scan in scans.items():
            problems += _grid_problems(first, scan, "label" if path == case.label else "channel")
    problems = [Problem(p.where, p.code, p.message, p.remedy, case.id) for p in problems]
    if first is None or problems:
        return None, problems
    histogram = None
    if case.label is not None:
        values, counts = np.unique(scans[case.label].voxels, return_counts=True)
        histogram = {int(value): int(count) for value, count in zip(values, counts, strict=True)}
    return (
        CaseFacts(
            case.id,
            tuple(scan.sha256 for scan in scans.values()),
            first.shape,
            first.spacing_mm,
            tuple(tuple(map(float, row)) for row in first.affine),
            sum(scans[path].channels for path in case.images),
            histogram,
            channel_statistics(
                (channel for path in case.images for channel in scans[path].voxels),
                scans[case.label].labels if case.label else None,
            ),
        ),
        [],
    )


def examine_pair(truth: Path, prediction: Path) -> tuple[set[int], list[Problem]]:
    """Read a true and a predicted mask; return the label values in them and every problem found."""
    scans, problems = _load_all([truth, prediction])
    problems += [problem for scan in scans.values() for problem in _label_problems(scan, None)]
    if len(scans) == 2:
        problems += _grid_problems(scans[truth], scans[prediction], "prediction")
    values = {int(value) for scan in scans.values() for value in np.unique(scan.voxels)} if not problems else set()
    return values, problems


def _load_all(paths: Sequence[Path]) -> tuple[dict[Path, nifti.Scan], list[Problem]]:
    scans: dict[Path, nifti.Scan] = {}
    problems: list[Problem] = []
    for path in paths:
        try:
            scans[path] = nifti.load(path)
        except UserError as error:
            problems += error.problems
    return scans, problems


def _image_problems(scan: nifti.Scan, labelled: bool) -> list[Problem]:
    voxels, where = scan.voxels, str(scan.path)
    if not np.isfinite(voxels).all():
        bad = int(voxels.size - np.isfinite(voxels).sum())
        return [
            Problem(
                where,
                "not-finite",
                f"has {bad} voxel(s) that are NaN or infinite",
                "replace them, or leave the scan out",
            )
        ]
    if labelled and voxels.min() == voxels.max():
        return [
            Problem(
                where,
                "constant-image",
                f"is {voxels.flat[0]:g} everywhere",
                "replace the scan, or leave it out",
            )
        ]
    return []


def _label_problems(scan: nifti.Scan, labels: Mapping[int, str] | None) -> list[Problem]:
    where, voxels = str(scan.path), scan.voxels
    if scan.channels > 1:
        return [Problem(where, "label-channels", f"has {scan.channels} volumes", "save one volume of integer labels")]
    if not np.isfinite(voxels).all():
        return [Problem(where, "label-not-finite", "has NaN or infinite labels", "replace them by label values")]
    values, counts = np.unique(voxels, return_counts=True)
    broken = values[values != np.round(values)]
    if broken.size:
        message = f"has labels that are no integers, such as {broken[0]:g}"
        return [
            Problem(
                where,
                "label-not-integer",
                message,
                "save the mask with nearest-neighbour interpolation, as integers",
            )
        ]
    if np.abs(values).max() > MAX_LABEL:
        message = f"has the label {int(max(values, key=abs))}"
        return [Problem(where, "label-too-large", message, f"number the labels from 0 to {MAX_LABEL} at most")]
    if labels is None:
        return _undeclared_problems(where, values)
    strange = {int(v): int(n) for v, n in zip(values, counts, strict=True) if int(v) not in labels}
    if strange:
        listed = ", ".join(f"{value} ({count} voxels)" for value, count in list(strange.items())[:8])
        message = f"has label values outside {sorted(labels)}: {listed}"
        return [Problem(where, "label-out-of-range", message, "correct the mask, or declare the values under labels")]
    return []


def _undeclared_problems(where: str, values: NDArray[Any]) -> list[Problem]:
    if values.size > MAX_CLASSES:
        return [
            Problem(
                where,
                "label-too-many",
                f"has {values.size} different values",
                "is this the scan instead of its mask?",
            )
        ]
    if values[0] < 0:
        return [
            Problem(
                where,
                "label-negative",
                f"has the label {int(values[0])}",
                "use 0 for background and values above 0",
            )
        ]
    return []


def _grid_problems(image: nifti.Scan, other: nifti.Scan, kind: str) -> list[Problem]:
    if other is image:
        return []
    where = str(other.path)
    if other.shape != image.shape:
        message = f"has shape {other.shape}, {image.path.name} has {image.shape}"
        return [Problem(where, "shapes-differ", message, f"resample the {kind} to the grid of {image.path.name}")]
    distance = grid_distance(image.affine, other.affine, image.shape)
    if distance > AFFINE_TOLERANCE_VOXELS:
        message = f"lies up to {distance:.3g} voxels away from {image.path.name}: their affines differ"
        return [Problem(where, "affines-differ", message, f"resample the {kind} to that grid, or correct its affine")]
    return []


def grid_distance(first: NDArray[np.float64], second: NDArray[np.float64], shape: tuple[int, ...]) -> float:
    """Return how far apart two affines place the corners of a grid, in voxels of the first.

    >>> shifted = np.eye(4); shifted[0, 3] = 0.5
    >>> grid_distance(np.eye(4), shifted, (10, 10, 10))
    0.5
    """
    corners = np.array([[*corner, 1.0] for corner in product(*((0, n - 1) for n in shape))])
    offsets = corners @ (np.linalg.solve(first, second) - np.eye(4)).T
    return float(np.linalg.norm(offsets[:, :3], axis=1).max())
