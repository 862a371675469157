"""What every loss shares: how logits, labels and reductions are read."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch.nn.modules.loss import _Loss

from pipeline.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.types import Reference

LOSSES = Registry("loss", "Terms of an objective: logits in, one number out.")

REDUCTIONS = ("mean", "sum", "none")


class SegmentationLoss(_Loss):  # type: ignore[misc]
    """Base of all losses: reads logits as class probabilities.

    Args:
        softmax: Whether the input is logits; False where probabilities are given.
        reduction: ``mean``, ``sum`` or ``none``, over cases unless the loss says otherwise.

    Raises:
        ValueError: ``reduction`` is none of the three.
    """

    reference: ClassVar[Reference]

    def __init__(self, *, softmax: bool = True, reduction: str = "mean") -> None:
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction is {reduction!r}; expected one of {', '.join(REDUCTIONS)}")
        super().__init__(reduction=reduction)
        self.softmax = softmax

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return class probabilities ``[B, K, ...]`` in float32 or wider.

        A single channel is read as two classes: ``(1 - sigmoid, sigmoid)`` of a logit,
        ``(1 - p, p)`` of a probability.
        """
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if wide.shape[1] == 1:
            foreground = wide.sigmoid() if self.softmax else wide
            return torch.cat([1 - foreground, foreground], dim=1)
        return wide.softmax(dim=1) if self.softmax else wide

    def reduce(self, per_case: Tensor) -> Tensor:
        """Reduce one value a case as ``reduction`` says."""
        if self.reduction == "none":
            return per_case
        return per_case.sum() if self.reduction == "sum" else per_case.mean()
