"""Any loss applied to each region: a binary problem of its own, with one logit."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch

from pipeline.losses.base import SegmentationLoss, levels_of
from pipeline.types import VIEWS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from pipeline.losses.base import Prediction
    from pipeline.types import Region

# Values that are the same for all regions.
SHARED = ("image", "mask", "reconstruction", *VIEWS)


class RegionLoss(SegmentationLoss):
    """The mean over regions of a loss of each: ``J = sum_r loss_r(logits_r, target_r) / R``.

    Channel r of what is judged is the logit of region r, and the loss reads it as two classes, ``(1 - sigmoid,
    sigmoid)``. A map of classes becomes 1 in the classes that the region consists of, 0 in the others, and -1 where
    it is negative; what has a channel a region is cut to the region's.

    Args:
        losses: Of each region.
        names: What is judged, and what that is compared with.
        classes: The numbers of the classes that each region consists of, one or more.
    """

    against: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, losses: Sequence[SegmentationLoss], names: Sequence[str], classes: Sequence[Sequence[int]]
    ) -> None:
        super().__init__()
        self.losses = tuple(losses)
        self.names = tuple(names)
        self.classes = tuple(map(tuple, classes))

    def compare(self, judged: Prediction, *targets: Tensor) -> Tensor:
        """Return the mean over regions; the levels of deep supervision as each loss takes them.

        Args:
            judged: ``[B, R, ...]``, or one for each level.
            targets: The values that it is compared with, in their order.

        Raises:
            LossValueError: A loss is no single floating-point number with a gradient.
            ValueError: What is judged has another number of channels.
        """
        levels = levels_of(judged)
        if levels[0].shape[1] != len(self.losses):
            raise ValueError(f"{self.names[0]} has {levels[0].shape[1]} channels; expected {len(self.losses)} regions")
        values = []
        for number, loss in enumerate(self.losses):
            own = tuple(level[:, number : number + 1] for level in levels)
            compared = (self._own(number, *pair) for pair in zip(self.names[1:], targets, strict=True))
            values.append(loss.compare(own if isinstance(judged, tuple) else own[0], *compared))
        return torch.stack(values).mean()

    def _own(self, number: int, name: str, target: Tensor) -> Tensor:
        """Return what a region is compared with."""
        if name in SHARED:
            return target
        if target.shape[1] == 1 and not target.is_floating_point():
            first, *others = self.classes[number]
            inside = target == first
            for other in others:
                inside |= target == other
            return inside.long().masked_fill_(target < 0, -1)
        return target[:, number : number + 1]


def classes_of_regions(regions: Sequence[Region], labels: Mapping[int, str]) -> list[list[int]]:
    """Return the numbers of the classes that each region consists of.

    >>> from pipeline.types import Region
    >>> classes_of_regions([Region(2, (1, 2, 4)), Region(4, (4,))], {0: "", 1: "core", 2: "whole", 4: "enhancing"})
    [[1, 2, 3], [3]]
    """
    return [[k for k, value in enumerate(labels) if value in region.values] for region in regions]
