"""Cross-entropy in which every voxel weighs the same, or as much as its class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field
from torch.nn.functional import nll_loss

from pipeline.bounds import LabelValue
from pipeline.losses.base import LOSSES, LabelLoss, Reduction

if TYPE_CHECKING:
    from torch import Tensor

Weight = Annotated[float, Field(ge=0, le=1e6)]


@LOSSES.register("cross_entropy")
class CrossEntropyLoss(LabelLoss):
    """Mean log-loss of the annotated voxels.

    With ``l_u = -log p_u`` of the true class of voxel u and ``w_u`` the weight of that class, over the annotated voxels
    of the whole batch::

        loss = sum_u w_u l_u / sum_u w_u

    Without ``class_weights`` all weights are 1. Voxels without an annotation contribute nothing. A batch with nothing
    annotated, or nothing that weighs, gives 0 with a zero gradient. Log-probabilities are computed from the logits
    directly, so that large logits do not overflow.

    Equal to PyTorch's ``cross_entropy(logits, labels, weight=class_weights, ignore_index=ignore)``, and deterministic
    on every device.

    Args:
        class_weights: A weight for each class, the background first; in a recipe also by name, and then 1 for a class
            that is not named. None weighs all the same.
        softmax: Whether the input is logits; False for probabilities.
        ignore: Voxels with this label, or any negative one, do not count.
        reduction: ``mean`` as above; ``sum`` is ``sum_u w_u l_u``; ``none``: ``w_u l_u`` of every voxel,
            ``[B, H, W(, D)]``.

    Raises:
        ValueError: A weight is below 0, or ``reduction`` is unknown.

    Three voxels at log-loss 0.5 and one at 2.0:

    >>> import torch
    >>> p = torch.tensor([0.5, 0.5, 0.5, 2.0]).neg().exp().view(1, 1, 1, 4)
    >>> round(CrossEntropyLoss(softmax=False)(p, torch.tensor([[[1, 1, 1, 1]]])).item(), 4)
    0.875
    """

    def __init__(
        self,
        *,
        class_weights: tuple[Weight, ...] | dict[str, Weight] | None = None,
        softmax: bool = True,
        ignore: LabelValue = -1,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(softmax=softmax, ignore=ignore, reduction=reduction)
        if class_weights is not None and not isinstance(class_weights, dict):
            if not all(0 <= weight < float("inf") for weight in class_weights):
                raise ValueError(f"class_weights are {list(class_weights)}; expected finite numbers, 0 or more")
            class_weights = tuple(class_weights)
        self.class_weights = class_weights

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss.

        Args:
            logits: ``[B, K, H, W(, D)]``; one channel is read as two classes.
            labels: ``[B, 1, H, W(, D)]`` or ``[B, H, W(, D)]``.

        Raises:
            ValueError: A shape, type or label does not fit; or the weights are not one for each class.
        """
        log_p = self.log_probabilities(logits)
        index = self.indices(labels, logits)
        weights = self._weights(log_p)
        # Only the reductions of this function are not deterministic on CUDA.
        per_voxel = nll_loss(log_p, index, weights, ignore_index=-1, reduction="none")
        if self.reduction == "none":
            return per_voxel
        total = per_voxel.sum()
        if self.reduction == "sum":
            return total
        if weights is None:
            return total / (index >= 0).count_nonzero().clamp(min=1)
        weighed = weights[index.clamp(min=0)].where(index >= 0, 0).sum()
        return total / weighed.clamp(min=torch.finfo(total.dtype).tiny)

    def _weights(self, log_p: Tensor) -> Tensor | None:
        """Return the weights of the classes in the type of the log-probabilities; None where all weigh the same."""
        given = self.class_weights
        if given is None:
            return None
        if isinstance(given, dict):
            raise ValueError("class_weights are by name, which only a recipe's dataset can tell; expected a list")
        if len(given) != log_p.shape[1]:
            raise ValueError(f"class_weights are {len(given)}; expected {log_p.shape[1]}, the background's first")
        return log_p.new_tensor(given)
