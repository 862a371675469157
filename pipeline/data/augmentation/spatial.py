"""Augmentations that move voxels: mirror images, and rotations, zooms and bends in one interpolation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import affine_grid, grid_sample, interpolate

from pipeline.bounds import Degrees, Displacement, FlipAxes, RelativeChange, Share
from pipeline.data.augmentation.base import AUGMENTATIONS, SpatialAugmentation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from pipeline.data.augmentation.base import Patch

# Shares of the samples that each change is made to, where an option says nothing else.
FLIPPED = 0.5
TURNED = 0.5
BENT = 0.2
# Points of an elastic deformation along each axis: bends of about a quarter of the patch.
KNOTS = 5


@AUGMENTATIONS.register("flip")
class Flip(SpatialAugmentation):
    """Mirrors half of the samples along each of some axes.

    Args:
        axes: The axes; those that a patch does not have are left out.
    """

    def __init__(self, axes: FlipAxes) -> None:
        self.axes = axes

    def draw(self, rng: np.random.Generator, patch: Patch) -> tuple[int, ...]:
        """Draw the axes that are mirrored."""
        return tuple(axis for axis in self.axes if axis < len(patch.spacing_mm) and rng.random() < FLIPPED)

    def apply(self, image: Tensor, annotation: Tensor, drawn: Sequence[tuple[int, ...]]) -> None:
        """Mirror the samples.

        They are indexed one by one: indexing by a list would make the host wait for a CUDA device.
        """
        for row, axes in enumerate(drawn):
            if axes:
                for batch in (image, annotation):
                    batch[row] = batch[row].flip([1 + axis for axis in axes])


@dataclass(frozen=True)
class Deformation:
    """Where the values of one sample come from.

    Attributes:
        affine: In voxels from the centre, ``[axes, axes]``; None moves nothing.
        bends: Displacements in voxels at the knots of a coarse grid, ``[axes, knots, …]``, added to that; or None.
    """

    affine: NDArray[np.float64] | None = None
    bends: NDArray[np.float64] | None = None


@AUGMENTATIONS.register("deform")
class Deform(SpatialAugmentation):
    """Turns and zooms a share of the samples, and bends a share of them, as nnU-Net does, in one interpolation.

    Args:
        rotation_degrees: The largest rotation about each axis.
        scaling: The largest relative change of size.
        elastic_mm: The largest displacement of an elastic deformation.
        turned: The share of the samples that are turned and zoomed.
        bent: The share of the samples that are bent.
    """

    def __init__(
        self,
        rotation_degrees: Degrees = 0.0,
        scaling: RelativeChange = 0.0,
        elastic_mm: Displacement = 0.0,
        turned: Share = TURNED,
        bent: Share = BENT,
    ) -> None:
        self.rotation_degrees = rotation_degrees
        self.scaling = scaling
        self.elastic_mm = elastic_mm
        self.turned = turned
        self.bent = bent

    def draw(self, rng: np.random.Generator, patch: Patch) -> Deformation | None:
        """Draw where the values of a sample come from."""
        affine = None
        if rng.random() < self.turned:
            affine = self._draw_affine(rng, patch)
        bends = None
        if self.elastic_mm and rng.random() < self.bent:
            bends = self._draw_bends(rng, patch)
        if affine is None and bends is None:
            return None
        return Deformation(affine, bends)

    def _draw_affine(self, rng: np.random.Generator, patch: Patch) -> NDArray[np.float64] | None:
        axes = len(patch.spacing_mm)
        most = self.scaling
        angle = np.deg2rad(self.rotation_degrees)
        if not (most or angle):
            return None
        matrix = np.diag(1 + most * rng.uniform(-1, 1, axes))
        for first, second in ((0, 1), (0, 2), (1, 2))[: 1 if axes == 2 else 3]:
            turned = min(angle, _farthest(patch, first, second)) * rng.uniform(-1, 1)
            matrix = matrix @ _rotation(axes, first, second, turned)
        spacing = np.array(patch.spacing_mm)
        return np.asarray(matrix * spacing / spacing[:, None])

    def _draw_bends(self, rng: np.random.Generator, patch: Patch) -> NDArray[np.float64]:
        axes = len(patch.spacing_mm)
        column = (-1, *(1,) * axes)
        bends = self.elastic_mm * rng.uniform(-1, 1, (axes, *(KNOTS,) * axes))
        bends = bends / np.array(patch.spacing_mm).reshape(column)
        if patch.size is None:
            return np.asarray(bends)
        half = np.array(patch.size).reshape(column) / 2
        return np.asarray(bends.clip(-half, half))

    def apply(self, image: Tensor, annotation: Tensor, drawn: Sequence[Deformation | None]) -> None:
        """Interpolate the samples that move: the image linearly, the annotation by its nearest voxel."""
        moved = {row: change for row, change in enumerate(drawn) if change is not None}
        if not moved:
            return
        grid = _sampling_grid(list(moved.values()), image)
        for batch, mode in ((image, "bilinear"), (annotation, "nearest")):
            still = torch.stack([batch[row] for row in moved]).to(image.dtype)
            for row, values in zip(moved, grid_sample(still, grid, mode, "zeros", align_corners=False), strict=True):
                batch[row] = values


def _farthest(patch: Patch, first: int, second: int) -> float:
    """Return the angle by which the ends of a patch's longer side move by half of its shorter side."""
    if patch.size is None:
        return np.inf
    one, other = (patch.size[axis] * patch.spacing_mm[axis] for axis in (first, second))
    return float(np.arcsin(min(one, other) / max(one, other)))


def _rotation(axes: int, first: int, second: int, angle: float) -> NDArray[np.float64]:
    matrix = np.eye(axes)
    matrix[[first, second], [first, second]] = np.cos(angle)
    matrix[first, second] = -np.sin(angle)
    matrix[second, first] = np.sin(angle)
    return matrix


def _sampling_grid(changes: Sequence[Deformation], image: Tensor) -> Tensor:
    """Return where each voxel's value comes from in PyTorch's terms: axes reversed, the patch's edges at -1 and 1."""
    size = image.shape[2:]
    half = np.array(size) / 2
    still = np.eye(len(size))
    matrices = np.stack([still if change.affine is None else change.affine for change in changes])
    theta = (matrices * half / half[:, None])[:, ::-1, ::-1]
    theta = np.concatenate([theta, np.zeros((*theta.shape[:2], 1))], axis=2)
    grid = affine_grid(_like(image, theta), [len(changes), 1, *size], align_corners=False)
    for row, change in enumerate(changes):
        if change.bends is not None:
            bends = _like(image, change.bends / half.reshape(-1, *(1,) * len(size)))
            mode = "trilinear" if len(size) == 3 else "bilinear"
            grid[row] += interpolate(bends[None], size, mode=mode, align_corners=True)[0].flip(0).movedim(0, -1)
    return grid


def _like(image: Tensor, numbers: NDArray[np.float64]) -> Tensor:
    """Bring numbers to where an image is; pinned, since a CUDA device is waited for otherwise."""
    tensor = torch.from_numpy(numbers).to(image.dtype)
    if image.is_cuda:
        return tensor.pin_memory().to(image.device, non_blocking=True)
    return tensor
