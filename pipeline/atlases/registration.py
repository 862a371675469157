"""Register several scans to one at once: an affine map for each, then a smooth displacement, by gradient descent.

Coordinates are voxels of the common grid, counted from the middle of a scan.
"""

from __future__ import annotations

import math
from copy import copy
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

# At most so many voxels of the fixed scan are compared: a finer grid takes five times as long for hardly better maps.
COMPARED = 10_000
# Voxels of the full grid between two knots of the displacement.
BETWEEN_KNOTS = 6
AFFINE_STEPS = 15
AFFINE_RATE = 0.02
# Larger than that of the matrix, whose changes move the border of a scan by half of its side times as much.
SHIFT_RATE = 0.4
SMOOTH_STEPS = 30
SMOOTH_RATE = 0.4
STIFFNESS = 0.005
# Weight of the cost for voxels that lie outside of the moving scan.
OUTSIDE_COST = 0.1


class Moving:
    """Scans of one grid that are to be registered, padded to one shape behind their last voxels.

    Args:
        images: The scans, each ``[C, X, Y, Z]``, normalised to standard deviation 1.
    """

    def __init__(self, images: Sequence[Tensor]) -> None:
        device = images[0].device
        self.shape = tuple(max(image.shape[axis] for image in images) for axis in (1, 2, 3))
        self.middle = torch.tensor([[(side - 1) / 2 for side in image.shape[1:]] for image in images], device=device)
        self.image = torch.stack([padded(image, self.shape) for image in images])
        self.inside = torch.stack([padded(torch.ones_like(image[:1]), self.shape) for image in images])

    def some(self, numbers: Sequence[int]) -> Moving:
        """Return some of the scans."""
        chosen = copy(self)
        chosen.middle = self.middle[list(numbers)]
        chosen.image = self.image[list(numbers)]
        chosen.inside = self.inside[list(numbers)]
        return chosen

    def at(self, volumes: Tensor, points: Tensor, some: slice = slice(None)) -> Tensor:
        """Return the values ``[A, C, …]`` of volumes ``[A, C, X, Y, Z]`` at points ``[A, …, 3]``, 0 outside.

        Args:
            volumes: On the grids of the scans that ``some`` selects.
            points: In voxels from the middle of each scan.
            some: The scans; by default all.
        """
        last = torch.tensor([max(side - 1, 1) for side in self.shape], device=points.device)
        unit = (points + self.middle[some].view(-1, 1, 1, 1, 3)) / last * 2 - 1
        return F.grid_sample(volumes, unit.flip(-1), mode="bilinear", padding_mode="zeros", align_corners=True)


def padded(volume: Tensor, shape: Sequence[int]) -> Tensor:
    """Return ``[C, …]`` padded to a shape with zeros behind its last voxels."""
    missing = [
        side for have, want in zip(volume.shape[:0:-1], reversed(shape), strict=True) for side in (0, want - have)
    ]
    return F.pad(volume, missing)


def register(moving: Moving, fixed: Tensor) -> Tensor:
    """Register scans to a fixed one: find the point in each moving scan that corresponds to each fixed voxel.

    Two steps minimise ``1 - NCC`` on a coarse grid, with the normalised cross-correlation over the voxels that both
    scans have. The first finds an affine map about the middle of the scan. The second adds a displacement that is
    linear between knots; its cost has the mean squared difference between neighbouring knots as well.

    Args:
        moving: The A scans to register.
        fixed: ``[C, X, Y, Z]`` on the same grid.

    Returns:
        Points ``[A, X, Y, Z, 3]`` in each moving scan, in voxels from its middle.
    """
    shape = fixed.shape[1:]
    steps = coarse_steps(shape)
    points = _points(shape, steps, fixed.device).expand(len(moving.image), -1, -1, -1, -1)
    x, y, z = steps
    target = _blurred(fixed[None], steps)[..., ::x, ::y, ::z].expand(len(moving.image), -1, -1, -1, -1)
    image = _blurred(moving.image, steps)

    def cost(places: Tensor) -> Tensor:
        inside = moving.at(moving.inside, places)
        alike = correlation(moving.at(image, places), target, inside)
        return (1 - alike).sum() + OUTSIDE_COST * (1 - inside.mean(dim=(1, 2, 3, 4))).square().sum()

    matrix, shift = _affine(cost, points)
    start = apply_affine(points, matrix, shift)
    knots = _smooth(cost, start, [max(2, round(side / BETWEEN_KNOTS) + 1) for side in shape])
    everywhere = _points(shape, (1, 1, 1), fixed.device).expand(len(moving.image), -1, -1, -1, -1)
    return apply_affine(everywhere, matrix, shift) + _between(knots, shape)


def _affine(cost: Callable[[Tensor], Tensor], points: Tensor) -> tuple[Tensor, Tensor]:
    count = len(points)
    matrix = torch.eye(3, device=points.device).repeat(count, 1, 1).requires_grad_()
    shift = torch.zeros(count, 3, device=points.device, requires_grad=True)
    groups = [{"params": [matrix], "lr": AFFINE_RATE}, {"params": [shift], "lr": SHIFT_RATE}]
    _descend(torch.optim.Adam(groups), AFFINE_STEPS, lambda: cost(apply_affine(points, matrix, shift)))
    return matrix.detach(), shift.detach()


def _smooth(cost: Callable[[Tensor], Tensor], start: Tensor, counts: Sequence[int]) -> Tensor:
    knots = torch.zeros(len(start), 3, *counts, device=start.device, requires_grad=True)

    def total() -> Tensor:
        bent = sum(knots.diff(dim=axis).square().mean(dim=(1, 2, 3, 4)).sum() for axis in (2, 3, 4))
        return cost(start + _between(knots, start.shape[1:4])) + STIFFNESS * bent

    _descend(torch.optim.Adam([knots], lr=SMOOTH_RATE), SMOOTH_STEPS, total)
    return knots.detach()


def _descend(optimizer: torch.optim.Optimizer, steps: int, cost: Callable[[], Tensor]) -> None:
    with torch.enable_grad():
        for _ in range(steps):
            optimizer.zero_grad()
            torch.autograd.backward(cost())
            optimizer.step()


def apply_affine(points: Tensor, matrix: Tensor, shift: Tensor) -> Tensor:
    """Return ``matrix p + shift`` for points ``[A, X, Y, Z, 3]``."""
    return torch.einsum("axyzd,aed->axyze", points, matrix) + shift.view(-1, 1, 1, 1, 3)


def correlation(one: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    """Return the normalised cross-correlation of ``[A, C, …]`` over weighted voxels, averaged over channels, ``[A]``.

    It is 0 for an image without contrast.

    Args:
        one: The first images.
        other: The second images.
        weight: The weight of each voxel, ``[A, 1, …]``.
    """
    axes = (2, 3, 4)
    count = weight.sum(dim=axes, keepdim=True).clamp(min=1)
    first = (one - (one * weight).sum(dim=axes, keepdim=True) / count) * weight
    second = (other - (other * weight).sum(dim=axes, keepdim=True) / count) * weight
    powers = first.square().sum(dim=axes) * second.square().sum(dim=axes)
    return ((first * second).sum(dim=axes) / powers.clamp(min=1e-6).sqrt()).mean(dim=1)


def coarse_steps(shape: Sequence[int]) -> list[int]:
    """Return the distance, in voxels along each axis, of the voxels that are compared.

    The axis with the most is halved until at most ``COMPARED`` voxels are left.

    >>> coarse_steps((36, 50, 35)), coarse_steps((216, 256, 10))
    ([2, 2, 2], [8, 8, 1])
    """
    steps = [1, 1, 1]
    counts = list(shape)
    while math.prod(counts) > COMPARED:
        axis = counts.index(max(counts))
        steps[axis] *= 2
        counts[axis] = -(-shape[axis] // steps[axis])
    return steps


def _points(shape: Sequence[int], steps: Sequence[int], device: torch.device) -> Tensor:
    axes = [
        torch.arange(0, side, step, device=device) - (side - 1) / 2 for side, step in zip(shape, steps, strict=True)
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def _blurred(volumes: Tensor, steps: Sequence[int]) -> Tensor:
    """Return means over small boxes, so that voxels between those of the coarse grid count too."""
    sides = [2 * (step // 2) + 1 for step in steps]
    return F.avg_pool3d(volumes, sides, 1, [side // 2 for side in sides], count_include_pad=False)


def _between(knots: Tensor, shape: Sequence[int]) -> Tensor:
    """Interpolate displacements at knots ``[A, 3, …]`` to a grid with the same corners, ``[A, X, Y, Z, 3]``."""
    return F.interpolate(knots, size=tuple(shape), mode="trilinear", align_corners=True).movedim(1, -1)
