"""MONAI's focal loss as ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from pipeline.bounds import LabelValue
from pipeline.losses.base import LOSSES, LabelLoss, Reduction
from pipeline.losses.untraced import untraced

if TYPE_CHECKING:
    from torch import Tensor


@LOSSES.register("focal")
class FocalLoss(LabelLoss):
    """MONAI's focal loss: cross-entropy in which voxels that are nearly right count little.

    With ``p_u`` the probability of the true class of voxel u, over the annotated voxels of the whole batch, and K
    classes::

        loss = sum_u (1 - p_u)^gamma (-log p_u) / (K count)

    The division by K is MONAI's, which takes the mean over classes too. Voxels without an annotation contribute
    nothing. A batch with nothing annotated gives 0 with a zero gradient.

    Equal to MONAI's ``FocalLoss(use_softmax=True, to_onehot_y=True)`` where every voxel is annotated. Lin et al., ICCV
    2017, doi:10.1109/ICCV.2017.324.

    Args:
        gamma: The power. 0 is cross-entropy; between 0 and 1 the gradient of a voxel that is right has no bound.
        softmax: Whether the input is logits; False for probabilities.
        ignore: Voxels with this label, or any negative one, do not count.
        reduction: ``mean`` or ``sum`` over annotated voxels; ``none``: the value of every voxel, ``[B, H, W(, D)]``.

    Raises:
        ValueError: ``gamma`` is neither 0 nor 1 or more, or ``reduction`` is unknown.

    >>> import torch
    >>> p = torch.tensor([[[[0.5, 0.9]]]])
    >>> round(FocalLoss(softmax=False)(p, torch.tensor([[[1, 1]]])).item(), 4)  # (0.25 log 2 + 0.01 log 10/9) / 4
    0.0436
    """

    def __init__(
        self,
        *,
        gamma: Annotated[float, Field(ge=0, le=10)] = 2.0,
        softmax: bool = True,
        ignore: LabelValue = -1,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(softmax=softmax, ignore=ignore, reduction=reduction)
        if not (gamma == 0 or gamma >= 1):
            raise ValueError(f"gamma is {gamma}; expected 0, or 1 or more")
        self.gamma = gamma

    @untraced
    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss.

        Args:
            logits: ``[B, K, H, W(, D)]``; one channel is read as two classes.
            labels: ``[B, 1, H, W(, D)]`` or ``[B, H, W(, D)]``.

        Raises:
            ValueError: A shape, type or label does not fit.
        """
        from monai.losses.focal_loss import softmax_focal_loss

        y = self.one_hot(labels, like=logits)
        annotated = y.any(dim=1, keepdim=True)
        # Log-probabilities are logits whose softmax changes nothing. The class of MONAI would make them float32.
        log_p = self.log_probabilities(logits).where(annotated, 0)
        per_voxel: Tensor = softmax_focal_loss(log_p, y.to(log_p.dtype), self.gamma).mean(dim=1)
        if self.reduction == "none":
            return per_voxel
        total = per_voxel.sum()
        if self.reduction == "sum":
            return total
        return total / annotated.count_nonzero().clamp(min=1)
