"""Cross-entropy in which every voxel weighs the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn.functional import nll_loss

from pipeline.losses.base import LOSSES, LabelLoss

if TYPE_CHECKING:
    from torch import Tensor


@LOSSES.register("cross_entropy")
class CrossEntropyLoss(LabelLoss):
    """Mean log-loss of the annotated voxels.

    With ``l_u = -log p_u`` of the true class of voxel u, over the annotated voxels of the whole batch::

        loss = sum_u l_u / count

    Voxels without an annotation contribute nothing. A batch with nothing annotated gives 0 with a zero gradient.
    Log-probabilities are computed from the logits directly, so that large logits do not overflow.

    Equal to PyTorch's ``cross_entropy(logits, labels, ignore_index=ignore)``, and deterministic on every device.

    Args:
        softmax: Whether the input is logits; False for probabilities.
        ignore: Voxels with this label, or any negative one, do not count.
        reduction: ``mean`` or ``sum`` over annotated voxels; ``none``: ``l_u`` of every voxel, ``[B, H, W(, D)]``.

    Raises:
        ValueError: ``reduction`` is unknown.

    Three voxels at log-loss 0.5 and one at 2.0:

    >>> import torch
    >>> p = torch.tensor([0.5, 0.5, 0.5, 2.0]).neg().exp().view(1, 1, 1, 4)
    >>> round(CrossEntropyLoss(softmax=False)(p, torch.tensor([[[1, 1, 1, 1]]])).item(), 4)
    0.875
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
        # Only the reductions of this function are not deterministic on CUDA.
        per_voxel = nll_loss(log_p, index, ignore_index=-1, reduction="none")
        if self.reduction == "none":
            return per_voxel
        total = per_voxel.sum()
        if self.reduction == "sum":
            return total
        return total / (index >= 0).count_nonzero().clamp(min=1)
