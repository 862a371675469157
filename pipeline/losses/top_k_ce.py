"""Cross-entropy of the worst voxels alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field
from torch.nn.functional import nll_loss

from pipeline.bounds import LabelValue
from pipeline.losses.base import LOSSES, LabelLoss, Reduction

if TYPE_CHECKING:
    from torch import Tensor


@LOSSES.register("top_k_ce")
class TopKCrossEntropyLoss(LabelLoss):
    """Mean log-loss of the worst share of the annotated voxels.

    With ``l_u = -log p_u`` of the true class of voxel u, and the annotated voxels of the whole batch ordered by it, the
    worst first::

        loss = mean of the first ceil(share * count) of l_u

    ``share=1`` is cross-entropy. Voxels without an annotation are never among them. A batch with nothing annotated
    gives 0 with a zero gradient. The default of a tenth is that of nnU-Net's loss of this name. Wu, Shen, van den
    Hengel 2016, arXiv 1605.06885.

    Args:
        share: The share of voxels that count.
        softmax: Whether the input is logits; False for probabilities.
        ignore: Voxels with this label, or any negative one, do not count.
        reduction: ``mean`` or ``sum`` over the worst voxels; ``none``: ``l_u`` of every voxel, 0 for all others,
            ``[B, H, W(, D)]``.

    Raises:
        ValueError: ``share`` is not above 0 and up to 1, or ``reduction`` is unknown.

    Of four voxels at log-loss 0.5, 0.5, 0.5 and 2.0 the worst half has a mean of 1.25:

    >>> p = torch.tensor([0.5, 0.5, 0.5, 2.0]).neg().exp().view(1, 1, 1, 4)
    >>> round(TopKCrossEntropyLoss(share=0.5, softmax=False)(p, torch.tensor([[[1, 1, 1, 1]]])).item(), 4)
    1.25
    """

    def __init__(
        self,
        *,
        share: Annotated[float, Field(gt=0, le=1)] = 0.1,
        softmax: bool = True,
        ignore: LabelValue = -1,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(softmax=softmax, ignore=ignore, reduction=reduction)
        if not 0 < share <= 1:
            raise ValueError(f"share is {share}; expected above 0, and up to 1")
        self.share = share

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss.

        Args:
            logits: ``[B, K, H, W(, D)]``; one channel is read as two classes.
            labels: ``[B, 1, H, W(, D)]`` or ``[B, H, W(, D)]``.

        Raises:
            ValueError: A shape, type or label does not fit.
        """
        log_p = self.log_probabilities(logits)
        index = self.indices(labels, logits)
        per_voxel = nll_loss(log_p, index, ignore_index=-1, reduction="none")
        most = math.ceil(self.share * index.numel())
        # Others are below every loss. The number that count stays on the device, where a look at it would wait.
        ranked = per_voxel.masked_fill(index < 0, -1).flatten().topk(most)
        count = (self.share * (index >= 0).count_nonzero()).ceil()
        worst = torch.arange(most, device=index.device) < count
        values = ranked.values.where(worst, 0)
        if self.reduction == "none":
            return torch.zeros_like(per_voxel).flatten().scatter(0, ranked.indices, values).view_as(per_voxel)
        if self.reduction == "sum":
            return values.sum()
        return values.sum() / count.clamp(min=1)
