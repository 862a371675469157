"""Random changes of a batch of patches.

What changes is drawn apart from the change itself: :meth:`Augmentation.draw` turns a sample's random numbers into plain
numbers, on the host and for next to nothing, and :meth:`Augmentation.apply` is a deterministic function of them, in
whole-batch tensor operations on whatever device the batch lies on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import affine_grid, grid_sample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

# Shares of the samples that each change is made to.
FLIPPED, TURNED, NOISY, SCALED, CURVED = 0.5, 0.5, 0.2, 0.3, 0.3


@dataclass(frozen=True)
class Strength:
    """How strongly samples are augmented; 0 switches a change off. Fields as in the recipe."""

    flip_axes: tuple[int, ...]
    rotation_degrees: float
    scaling: float
    noise: float
    contrast: float
    gamma: float


@dataclass(frozen=True)
class Change:
    """What happens to one sample.

    Attributes:
        flips: The axes that are mirrored.
        affine: Where each voxel's value comes from, in voxels from the centre, ``[axes, axes]``; None moves nothing.
        noise: Standard deviation of added noise, 0 for none.
        noise_seed: Of that noise.
        gain: Factor of the intensities.
        gamma: Exponent of the intensities within their own range.
    """

    flips: tuple[int, ...] = ()
    affine: NDArray[np.float64] | None = None
    noise: float = 0.0
    noise_seed: int = 0
    gain: float = 1.0
    gamma: float = 1.0


@dataclass(frozen=True)
class Augmentation:
    """Flips, rotations, zooms, noise, contrast and gamma.

    Attributes:
        strength: The largest of each.
        spacing_mm: Voxel size along each axis of a patch: a rotation turns millimetres, not voxels.
    """

    strength: Strength
    spacing_mm: tuple[float, ...]

    def draw(self, rng: np.random.Generator) -> Change:
        """Draw one sample's change."""
        most = self.strength
        return Change(
            flips=tuple(axis for axis in most.flip_axes if axis < len(self.spacing_mm) and rng.random() < FLIPPED),
            affine=self._draw_affine(rng) if rng.random() < TURNED else None,
            noise=most.noise * rng.random() if rng.random() < NOISY else 0.0,
            noise_seed=int(rng.integers(2**32)),
            gain=1 + most.contrast * rng.uniform(-1, 1) if rng.random() < SCALED else 1.0,
            gamma=1 + most.gamma * rng.uniform(-1, 1) if rng.random() < CURVED else 1.0,
        )

    def _draw_affine(self, rng: np.random.Generator) -> NDArray[np.float64] | None:
        axes = len(self.spacing_mm)
        most, angle = self.strength.scaling, np.deg2rad(self.strength.rotation_degrees)
        if not (most or angle):
            return None
        matrix = np.diag(1 + most * rng.uniform(-1, 1, axes))
        for first, second in ((0, 1), (0, 2), (1, 2))[: 1 if axes == 2 else 3]:
            matrix = matrix @ _rotation(axes, first, second, angle * rng.uniform(-1, 1))
        spacing = np.array(self.spacing_mm)
        return np.asarray(matrix * spacing / spacing[:, None])

    def apply(self, image: Tensor, annotation: Tensor, changes: Sequence[Change]) -> None:
        """Change ``image`` ``[B, C, …]`` and ``annotation`` ``[B, 1, …]`` in place; what comes in from outside is 0."""
        for axis in range(image.ndim - 2):
            rows = [n for n, change in enumerate(changes) if axis in change.flips]
            for batch in (image, annotation) if rows else ():
                batch[rows] = batch[rows].flip(2 + axis)
        rows = [n for n, change in enumerate(changes) if change.affine is not None]
        if rows:
            matrices = np.stack([affine for change in changes if (affine := change.affine) is not None])
            grid = _sampling_grid(matrices, image)
            image[rows] = grid_sample(image[rows], grid, "bilinear", "zeros", align_corners=False)
            codes = grid_sample(annotation[rows].float(), grid, "nearest", "zeros", align_corners=False)
            annotation[rows] = codes.to(annotation.dtype)
        for row, change in enumerate(changes):
            _change_intensities(image[row], change)


def _rotation(axes: int, first: int, second: int, angle: float) -> NDArray[np.float64]:
    matrix = np.eye(axes)
    matrix[[first, second], [first, second]] = np.cos(angle)
    matrix[first, second], matrix[second, first] = -np.sin(angle), np.sin(angle)
    return matrix


def _sampling_grid(matrices: NDArray[np.float64], image: Tensor) -> Tensor:
    """Return PyTorch's sampling grid of affine maps that are in voxels from the centre: axes reversed, edges at ±1."""
    half = np.array(image.shape[2:]) / 2
    theta = (matrices * half / half[:, None])[:, ::-1, ::-1]
    theta = np.concatenate([theta, np.zeros((*theta.shape[:2], 1))], axis=2)
    shape = [len(matrices), 1, *image.shape[2:]]
    return affine_grid(torch.from_numpy(theta).to(image), shape, align_corners=False)


def _change_intensities(image: Tensor, change: Change) -> None:
    if change.noise:
        source = torch.Generator(image.device).manual_seed(change.noise_seed)
        image.add_(torch.randn(image.shape, generator=source, device=image.device), alpha=change.noise)
    if change.gain != 1:
        image.mul_(change.gain)
    if change.gamma != 1:
        low, high = torch.aminmax(image)
        reach = (high - low).clamp_min_(1e-7)
        image.sub_(low).div_(reach).pow_(change.gamma).mul_(reach).add_(low)
