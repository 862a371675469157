"""Losses for scans without masks that look at predictions alone: consistency with a teacher, and entropy."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pipeline.losses.base import LOSSES, ImageLoss

if TYPE_CHECKING:
    from torch import Tensor


@LOSSES.register("consistency")
class ConsistencyLoss(ImageLoss):
    """Mean squared difference between the probabilities of a network and of its teacher.

    Per case, over the K classes of the N voxels inside the mask::

        J = sum_u sum_k (p_uk - q_uk)^2 / (K N)

    with p of the logits that are judged and q of the teacher's, which never receive a gradient. A case without a voxel
    inside the mask is left out: its loss and gradient are 0, and it is not counted in the mean.

    Laine & Aila, ICLR 2017, arXiv 1610.02242; Tarvainen & Valpola, NeurIPS 2017, arXiv 1703.01780.

    Args:
        softmax: Whether both inputs are logits; False for probabilities.
        reduction: ``mean`` or ``sum`` over cases, or ``none``: the value of each case, ``[B]``.

    Raises:
        ValueError: ``reduction`` is unknown.

    >>> import torch
    >>> p, q = (torch.tensor([a, 1 - a]).view(1, 2, 1, 1) for a in (0.9, 0.5))
    >>> round(ConsistencyLoss(softmax=False)(p, q).item(), 4)
    0.16
    """

    against = ("teacher", "mask")

    def forward(self, logits: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the loss.

        Args:
            logits: ``[B, K, H, W(, D)]``; one channel is read as two classes.
            teacher: Of the same shape; gets no gradient.
            mask: ``[B, 1, ...]`` or ``[B, ...]``, nonzero inside; None for everywhere.

        Raises:
            ValueError: A shape does not fit.
        """
        if logits.shape != teacher.shape:
            raise ValueError(f"the teacher has shape {tuple(teacher.shape)}, and the logits {tuple(logits.shape)}")
        p = self.probabilities(logits)
        q = self.probabilities(teacher.detach())
        inside = self.read_mask(mask, p)
        voxels = inside.flatten(1).sum(dim=1)
        squares = (p - q).where(inside, 0).square().flatten(1).sum(dim=1)
        return self.reduce(squares / (p.shape[1] * voxels.clamp(min=1)), voxels > 0)


@LOSSES.register("entropy")
class EntropyLoss(ImageLoss):
    """Mean entropy of the predicted probabilities, divided by the largest possible entropy.

    Per case, over the N voxels inside the mask::

        J = -sum_u sum_k p_uk log p_uk / (N log K)

    It is 0 if every voxel is certain and 1 if all classes are equally likely everywhere. A case without a voxel inside
    the mask is left out: its loss and gradient are 0, and it is not counted in the mean. Grandvalet & Bengio, NeurIPS
    2004.

    Args:
        softmax: Whether the input is logits; False for probabilities.
        reduction: ``mean`` or ``sum`` over cases, or ``none``: the value of each case, ``[B]``.

    Raises:
        ValueError: ``reduction`` is unknown.

    >>> import torch
    >>> round(EntropyLoss()(torch.zeros(1, 3, 2, 2)).item(), 6)
    1.0
    """

    against = ("mask",)

    def forward(self, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the loss.

        Args:
            logits: ``[B, K, H, W(, D)]``; one channel is read as two classes.
            mask: ``[B, 1, ...]`` or ``[B, ...]``, nonzero inside; None for everywhere.

        Raises:
            ValueError: A shape does not fit.
        """
        log_p = self.log_probabilities(logits)
        inside = self.read_mask(mask, log_p)
        voxels = inside.flatten(1).sum(dim=1)
        # Outside nothing counts, whatever is predicted there, NaN included.
        certain = log_p.where(inside, 0)
        entropy = -(certain.exp() * certain).flatten(1).sum(dim=1)
        return self.reduce(entropy / (math.log(log_p.shape[1]) * voxels.clamp(min=1)), voxels > 0)
