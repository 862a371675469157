"""Cross-entropy in which every class present in the batch weighs the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import nll_loss

from pipeline.losses.base import LOSSES, LabelLoss

if TYPE_CHECKING:
    from torch import Tensor


@LOSSES.register("balanced_ce")
class BalancedCELoss(LabelLoss):
    """Cross-entropy weighted by the inverse size of each class in the batch.

    With ``count_c`` the annotated voxels of class c in the whole batch, and ``l_u = -log p_u`` of the true
    class of voxel u::

        w_c = 1 / (count_c + 1e-6)
        loss = sum_u w_u l_u / sum_u w_u

    This is the mean over the classes present of the mean log-loss inside each. A class absent from the batch has no
    voxels and contributes nothing, nor do voxels without an annotation. A batch with nothing annotated gives 0 with a
    zero gradient. Log-probabilities are computed from the logits directly, so that large logits do not overflow.

    Class weights from inverse frequency: Xie & Tu, HED, ICCV 2015, doi:10.1109/ICCV.2015.164, there for two classes and
    one image at a time.

    Args:
        softmax: Whether the input is logits; False for probabilities.
        ignore: Voxels with this label, or any negative one, do not count.
        reduction: ``mean`` as above; ``sum`` is ``sum_u w_u l_u``, as in PyTorch's weighted cross-entropy; ``none`` is
            ``w_u l_u / sum w`` for every voxel, ``[B, H, W(, D)]``, which adds up to the mean.

    Raises:
        ValueError: ``reduction`` is unknown.

    Three voxels of background at log-loss 0.5 and one of foreground at 2.0 (the plain mean is 0.875):

    >>> import torch
    >>> p = torch.tensor([0.5, 0.5, 0.5, 2.0]).neg().exp()
    >>> p = torch.where(torch.tensor([False, False, False, True]), p, 1 - p).view(1, 1, 1, 4)
    >>> round(BalancedCELoss(softmax=False)(p, torch.tensor([[[0, 0, 0, 1]]])).item(), 4)
    1.25
    """

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
        counts = torch.stack([(index == k).count_nonzero() for k in range(log_p.shape[1])]).to(log_p.dtype)
        weights = 1 / (counts + 1e-6)
        # Only the reductions of this function are not deterministic on CUDA.
        weighted = nll_loss(log_p, index, weights, ignore_index=-1, reduction="none")
        if self.reduction == "sum":
            return weighted.sum()
        # The sum of weights is about the number of classes present: below 0.5 only where it is 0.
        share = weighted / (weights * counts).sum().clamp(min=0.5)
        if self.reduction == "none":
            return share
        return share.sum()
