"""Random changes of a batch of patches.

What changes is drawn apart from the change itself: :meth:`Augmentation.draw` turns a sample's random numbers into plain
numbers, on the host and for next to nothing; :func:`move` and :func:`recolour` are deterministic functions
of them, in tensor operations on whatever device the batch lies on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import affine_grid, grid_sample, interpolate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

# Shares of the samples that each change is made to.
FLIPPED = 0.5
TURNED = 0.5
BENT = 0.2
NOISY = 0.2
BLURRED = 0.2
BRIGHTENED = 0.3
CONTRASTED = 0.2
COARSENED = 0.2
CURVED = 0.3
# Points of an elastic deformation along each axis: bends of about a quarter of the patch.
KNOTS = 5
# Gaussians are cut off beyond so many sigmas.
REACH_SIGMAS = 3


@dataclass(frozen=True)
class Strength:
    """How strongly samples are augmented; 0 switches a change off. Fields as in the recipe."""

    flip_axes: tuple[int, ...] = ()
    rotation_degrees: float = 0.0
    scaling: float = 0.0
    elastic_mm: float = 0.0
    noise: float = 0.0
    blur: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    low_resolution: float = 0.0
    gamma: float = 0.0


@dataclass(frozen=True)
class Change:
    """What happens to one sample, in the order of the fields.

    Attributes:
        flips: The axes that are mirrored.
        affine: Where each voxel's value comes from, in voxels from the centre, ``[axes, axes]``; None moves nothing.
        bends: Displacements in voxels at the knots of a coarse grid, ``[axes, knots, …]``, added to that; or None.
        blur: Sigma of a Gaussian in voxels, 0 for none.
        noise: Standard deviation of added noise, 0 for none.
        noise_seed: Of that noise.
        gain: Factor of the intensities.
        contrast: Factor of their distance to the patch's mean.
        coarseness: How many times larger the voxels become before they are interpolated back.
        gamma: Exponent of the intensities within their own range.
    """

    flips: tuple[int, ...] = ()
    affine: NDArray[np.float64] | None = None
    bends: NDArray[np.float64] | None = None
    blur: float = 0.0
    noise: float = 0.0
    noise_seed: int = 0
    gain: float = 1.0
    contrast: float = 1.0
    coarseness: float = 1.0
    gamma: float = 1.0

    @property
    def moves(self) -> bool:
        """Whether voxels are interpolated elsewhere."""
        return self.affine is not None or self.bends is not None


@dataclass(frozen=True)
class Augmentation:
    """Flips, rotations, zooms, bends, and changes of intensity and resolution, as nnU-Net makes them.

    Attributes:
        strength: The largest of each.
        spacing_mm: Voxel size along each axis of a patch: a rotation turns millimetres, not voxels.
        patch_size: Voxels along each axis. A long, thin patch is turned, and a small one bent, no further than half of
            it stays within; without a size both go as far as ``strength`` says.
    """

    strength: Strength
    spacing_mm: tuple[float, ...]
    patch_size: tuple[int, ...] | None = None

    def draw(self, rng: np.random.Generator) -> Change:
        """Draw one sample's change."""
        most = self.strength

        def factor(share: float, reach: float) -> float:
            return 1 + reach * rng.uniform(-1, 1) if rng.random() < share else 1.0

        return Change(
            flips=tuple(axis for axis in most.flip_axes if axis < len(self.spacing_mm) and rng.random() < FLIPPED),
            affine=self._draw_affine(rng) if rng.random() < TURNED else None,
            bends=self._draw_bends(rng) if most.elastic_mm and rng.random() < BENT else None,
            blur=most.blur * rng.uniform(0.5, 1) if rng.random() < BLURRED else 0.0,
            noise=most.noise * rng.random() if rng.random() < NOISY else 0.0,
            noise_seed=int(rng.integers(2**32)),
            gain=factor(BRIGHTENED, most.brightness),
            contrast=factor(CONTRASTED, most.contrast),
            coarseness=1 + most.low_resolution * rng.random() if rng.random() < COARSENED else 1.0,
            gamma=factor(CURVED, most.gamma),
        )

    def _draw_affine(self, rng: np.random.Generator) -> NDArray[np.float64] | None:
        axes = len(self.spacing_mm)
        most = self.strength.scaling
        angle = np.deg2rad(self.strength.rotation_degrees)
        if not (most or angle):
            return None
        matrix = np.diag(1 + most * rng.uniform(-1, 1, axes))
        for first, second in ((0, 1), (0, 2), (1, 2))[: 1 if axes == 2 else 3]:
            turned = min(angle, self._farthest(first, second)) * rng.uniform(-1, 1)
            matrix = matrix @ _rotation(axes, first, second, turned)
        spacing = np.array(self.spacing_mm)
        return np.asarray(matrix * spacing / spacing[:, None])

    def _draw_bends(self, rng: np.random.Generator) -> NDArray[np.float64]:
        axes = len(self.spacing_mm)
        column = (-1, *(1,) * axes)
        bends = self.strength.elastic_mm * rng.uniform(-1, 1, (axes, *(KNOTS,) * axes))
        bends = bends / np.array(self.spacing_mm).reshape(column)
        if self.patch_size is None:
            return np.asarray(bends)
        half = np.array(self.patch_size).reshape(column) / 2
        return np.asarray(bends.clip(-half, half))

    def _farthest(self, first: int, second: int) -> float:
        """Return the angle by which the ends of a patch's longer side move by half of its shorter side."""
        if self.patch_size is None:
            return np.inf
        one, other = (self.patch_size[axis] * self.spacing_mm[axis] for axis in (first, second))
        return float(np.arcsin(min(one, other) / max(one, other)))


def move(image: Tensor, annotation: Tensor, changes: Sequence[Change]) -> None:
    """Move ``image`` ``[B, C, …]`` and ``annotation`` ``[B, 1, …]`` in place; what comes in from outside is 0.

    Samples are named one by one: a CUDA device would be waited for where a list of them was its index.
    """
    for row, change in enumerate(changes):
        for batch in (image, annotation) if change.flips else ():
            batch[row] = batch[row].flip([1 + axis for axis in change.flips])
    rows = [n for n, change in enumerate(changes) if change.moves]
    if rows:
        grid = _sampling_grid([changes[n] for n in rows], image)
        for batch, mode in ((image, "bilinear"), (annotation, "nearest")):
            still = torch.stack([batch[row] for row in rows]).to(image.dtype)
            moved = grid_sample(still, grid, mode, "zeros", align_corners=False)
            for row, values in zip(rows, moved, strict=True):
                batch[row] = values


def recolour(image: Tensor, changes: Sequence[Change]) -> None:
    """Change the intensities of ``image`` ``[B, C, …]`` in place; no voxel moves."""
    for sample, change in zip(image, changes, strict=True):
        _change_intensities(sample, change)


def _rotation(axes: int, first: int, second: int, angle: float) -> NDArray[np.float64]:
    matrix = np.eye(axes)
    matrix[[first, second], [first, second]] = np.cos(angle)
    matrix[first, second] = -np.sin(angle)
    matrix[second, first] = np.sin(angle)
    return matrix


def _sampling_grid(changes: Sequence[Change], image: Tensor) -> Tensor:
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
    return tensor.pin_memory().to(image.device, non_blocking=True) if image.is_cuda else tensor


def _change_intensities(image: Tensor, change: Change) -> None:
    if change.blur:
        _blur(image, change.blur)
    if change.noise:
        source = torch.Generator(image.device).manual_seed(change.noise_seed)
        image.add_(torch.randn(image.shape, generator=source, device=image.device), alpha=change.noise)
    if change.gain != 1:
        image.mul_(change.gain)
    if change.contrast != 1:
        mean = image
        for _ in range(image.ndim):  # Axis by axis: a sum over all would depend on the number of threads.
            mean = mean.mean(-1)
        image.sub_(mean).mul_(change.contrast).add_(mean)
    if change.coarseness > 1:
        coarse = [max(1, round(side / change.coarseness)) for side in image.shape[1:]]
        mode = "trilinear" if image.ndim == 4 else "bilinear"
        image.copy_(interpolate(interpolate(image[None], coarse, mode="nearest-exact"), image.shape[1:], mode=mode)[0])
    if change.gamma != 1:
        low, high = torch.aminmax(image)
        reach = (high - low).clamp_min_(1e-7)
        image.sub_(low).div_(reach).pow_(change.gamma).mul_(reach).add_(low)


def _blur(image: Tensor, sigma: float) -> None:
    """Average ``[C, …]`` with the weights of a Gaussian along each axis; beyond the edges the nearest voxel goes on."""
    radius = max(1, round(REACH_SIGMAS * sigma))
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    for axis in range(1, image.ndim):
        last = image.shape[axis] - 1
        before = image.clone()
        image.zero_()
        for offset, weight in zip(range(-radius, radius + 1), (weights / weights.sum()).tolist(), strict=True):
            places = torch.arange(offset, offset + last + 1, device=image.device).clamp_(0, last)
            image.add_(before.index_select(axis, places), alpha=weight)
