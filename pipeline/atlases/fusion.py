"""Atlases vote on the classes of a scan, each voxel by how alike the scans are around it."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from pipeline.atlases.registration import Moving, correlation, padded, register

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

# The side in voxels of the box around a voxel over which scans are compared.
BOX = 3
# The mean squared difference, in variances of a scan, at which a vote counts e times less.
SCALE = 0.1
# So that there is a vote where no atlas is alike at all.
LEAST = 1e-6


@dataclass(frozen=True)
class Vote:
    """What atlases say of a scan.

    Attributes:
        probabilities: ``[K, X, Y, Z]``: their mean, each weighed by how alike it is.
        likeness: The normalised cross-correlation of each atlas with the scan once it is registered, ``[A]``.
    """

    probabilities: Tensor
    likeness: Tensor


class Atlases:
    """Labelled scans, prepared on one grid.

    Args:
        images: ``[C, X, Y, Z]`` each, in standard deviations.
        labels: ``[X, Y, Z]`` each: classes, negative where nothing is annotated.
        classes: How many there are.

    Raises:
        ValueError: There is no atlas.
    """

    def __init__(self, images: Sequence[Tensor], labels: Sequence[Tensor], classes: int) -> None:
        if not images:
            raise ValueError("there is no labelled scan to be an atlas")
        self.moving = Moving(images)
        self.votes = torch.stack([_votes(label, classes, self.moving.shape) for label in labels])

    def __len__(self) -> int:
        return len(self.votes)

    @torch.no_grad()
    def vote(self, image: Tensor) -> Vote:
        """Register every atlas to a scan ``[C, X, Y, Z]`` and return what they say of it together.

        An atlas votes with ``exp(-d / 0.1)``, d the mean over a box of 3 voxels a side and over channels of the squared
        difference of the two scans. Beyond an atlas' border, and where it is not annotated, it does not vote; where
        none votes, every class is as likely.
        """
        points = register(self.moving, image)
        total = image.new_zeros(self.votes.shape[1], *image.shape[1:])
        weights = image.new_zeros(1, *image.shape[1:])
        likeness = []
        for number in range(len(self)):
            moved = self._moved(points, number, self.moving.image)
            inside = self._moved(points, number, self.moving.inside)
            votes = self._moved(points, number, self.votes)
            difference = (moved - image).square().mean(dim=0, keepdim=True)
            around = F.avg_pool3d(difference[None], BOX, 1, BOX // 2, count_include_pad=False)[0]
            weight = torch.exp(-around / SCALE) + LEAST
            total += weight * votes
            weights += weight * votes.sum(dim=0, keepdim=True)
            likeness.append(correlation(moved[None], image[None], inside[None]))
        known = weights > 0
        even = torch.full_like(total, 1 / len(total))
        return Vote(torch.where(known, total / weights.where(known, 1), even), torch.cat(likeness))

    @torch.no_grad()
    def agreement(self, patients: Sequence[str]) -> float:
        """Return the mean Dice of each atlas' mask with what those of all other patients say of its scan.

        Background does not count, nor do voxels that are not annotated. Atlases of one patient agree with nobody: 0.

        Args:
            patients: Whose scan each is.
        """
        if len(set(patients)) == 1:
            return 0.0
        others = [[n for n, other in enumerate(patients) if other != patient] for patient in patients]
        return fmean(self._found(number, rest) for number, rest in enumerate(others))

    def _found(self, number: int, others: Sequence[int]) -> float:
        """Return how well some atlases find the mask of another."""
        x, y, z = (int(2 * middle) + 1 for middle in self.moving.middle[number])
        own = self.votes[number, :, :x, :y, :z]
        rest = copy(self)
        rest.moving = self.moving.some(others)
        rest.votes = self.votes[list(others)]
        said = rest.vote(self.moving.image[number, :, :x, :y, :z]).probabilities.argmax(dim=0)
        found = F.one_hot(said, len(own)).movedim(-1, 0) * own.sum(dim=0)
        sizes = own.sum(dim=(1, 2, 3))[1:]
        dice = 2 * (found * own).sum(dim=(1, 2, 3))[1:] / (found.sum(dim=(1, 2, 3))[1:] + sizes).clamp(min=1)
        return float(dice[sizes > 0].mean()) if (sizes > 0).any() else 0.0

    def _moved(self, points: Tensor, number: int, volumes: Tensor) -> Tensor:
        """Return the values ``[C, X, Y, Z]`` of one atlas where the scan has its voxels."""
        one = slice(number, number + 1)
        return self.moving.at(volumes[one], points[one], one)[0]


def _votes(label: Tensor, classes: int, shape: Sequence[int]) -> Tensor:
    """Return 1 for the class of each voxel, ``[K, …]``, 0 where nothing is annotated, padded."""
    votes = F.one_hot(label.clamp(min=0).long(), classes).movedim(-1, 0).float()
    return padded(votes * (label >= 0), shape)
