"""Label fusion: atlases vote on the class of each voxel, weighted by how similar the scans are around it."""

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
# The mean squared difference, in variances of a scan, at which the weight of a vote is 1 / e.
SCALE = 0.1
# The least weight of a vote, so that there is one where no atlas is similar at all.
LEAST = 1e-6


@dataclass(frozen=True)
class Vote:
    """The vote of all atlases on a scan.

    Attributes:
        probabilities: The weighted mean of the atlases' masks, ``[K, X, Y, Z]``.
        likeness: The normalised cross-correlation of each atlas with the scan after registration, ``[A]``.
    """

    probabilities: Tensor
    likeness: Tensor


class Atlases:
    """Labelled scans, prepared on one grid.

    Args:
        images: The scans, each ``[C, X, Y, Z]``, normalised to standard deviation 1.
        labels: Their classes, each ``[X, Y, Z]``, negative for voxels without an annotation.
        classes: The number of classes K.

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
        """Register every atlas to a scan ``[C, X, Y, Z]`` and return their common vote.

        The weight of an atlas at a voxel is ``exp(-d / 0.1)``, where d is the squared difference of the two scans,
        averaged over a box of 3 voxels along each axis and over channels. An atlas does not vote beyond its border, or
        where it has no annotation; where none votes, all classes are equally likely.
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
        """Return the mean Dice of each atlas' mask against the vote of all other patients' atlases on its scan.

        Background and voxels without an annotation do not count. If all atlases are of one patient, the result is 0.

        Args:
            patients: The patient of each atlas.
        """
        if len(set(patients)) == 1:
            return 0.0
        others = [[n for n, other in enumerate(patients) if other != patient] for patient in patients]
        return fmean(self._found(number, rest) for number, rest in enumerate(others))

    def _found(self, number: int, others: Sequence[int]) -> float:
        """Return the mean Dice, over foreground classes, of the vote of some atlases on another; 0 if it has none."""
        x, y, z = (int(2 * middle) + 1 for middle in self.moving.middle[number])
        own = self.votes[number, :, :x, :y, :z]
        rest = copy(self)
        rest.moving = self.moving.some(others)
        rest.votes = self.votes[list(others)]
        said = rest.vote(self.moving.image[number, :, :x, :y, :z]).probabilities.argmax(dim=0)
        found = F.one_hot(said, len(own)).movedim(-1, 0) * own.sum(dim=0)
        sizes = own.sum(dim=(1, 2, 3))[1:]
        dice = 2 * (found * own).sum(dim=(1, 2, 3))[1:] / (found.sum(dim=(1, 2, 3))[1:] + sizes).clamp(min=1)
        if (sizes > 0).any():
            return float(dice[sizes > 0].mean())
        return 0.0

    def _moved(self, points: Tensor, number: int, volumes: Tensor) -> Tensor:
        """Return the values ``[C, X, Y, Z]`` of one atlas at the voxels of the scan."""
        one = slice(number, number + 1)
        return self.moving.at(volumes[one], points[one], one)[0]


def _votes(label: Tensor, classes: int, shape: Sequence[int]) -> Tensor:
    """Return one-hot labels ``[K, …]``, all 0 for voxels without an annotation, padded to a shape."""
    votes = F.one_hot(label.clamp(min=0).long(), classes).movedim(-1, 0).float()
    return padded(votes * (label >= 0), shape)
