"""Soft Dice: the overlap of probabilities and labels, as a loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.bounds import LabelValue, Scale
from pipeline.losses.base import LOSSES, LabelLoss, Reduction, class_sums, require_positive

if TYPE_CHECKING:
    from torch import Tensor


@LOSSES.register("dice")
class DiceLoss(LabelLoss):
    """Soft Dice loss per case and class, averaged over classes.

    With probabilities ``p``, labels as 0 or 1 ``y`` and ``smooth`` s, over the annotated voxels of a case::

        1 - (2 sum(p * y) + s) / (sum p + sum y + s)

    A class absent from a case gives ``1 - s / (sum p + s)``: 0 where it is not predicted either. A case
    with nothing annotated is left out: it adds nothing to the sum, is not counted in the mean, and is 0
    under ``reduction="none"``. A batch with nothing annotated gives 0 with a zero gradient.

    Equal to MONAI's ``DiceLoss(softmax=True, to_onehot_y=True, smooth_nr=s, smooth_dr=s)`` where every
    voxel is annotated. Milletari, Navab, Ahmadi: V-Net, 3DV 2016, doi:10.1109/3DV.2016.79; the
    denominator is linear here and squared there.

    Args:
        include_background: Whether class 0 takes part in the mean over classes.
        smooth: Added to numerator and denominator, in voxels.
        softmax: Whether the input is logits; False where probabilities are given.
        ignore: The label that counts nowhere; nor does any negative label.
        reduction: ``mean`` or ``sum`` over cases, or ``none``: one value a case, ``[B]``.

    Raises:
        ValueError: ``smooth`` is not a finite number above 0, or ``reduction`` is unknown.

    One of three foreground voxels is found:

    >>> import torch
    >>> p = torch.tensor([[[[1.0, 0.0, 0.0]]]])
    >>> labels = torch.tensor([[[1, 1, 1]]])
    >>> loss = DiceLoss(softmax=False, include_background=False, smooth=1.0)
    >>> round(loss(p, labels).item(), 4)  # 1 - (2 * 1 + 1) / (1 + 3 + 1)
    0.4
    """

    def __init__(
        self,
        *,
        include_background: bool = True,
        smooth: Scale = 1.0,
        softmax: bool = True,
        ignore: LabelValue = -1,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(softmax=softmax, ignore=ignore, reduction=reduction)
        require_positive(smooth=smooth)
        self.include_background = include_background
        self.smooth = smooth

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss.

        Args:
            logits: ``[B, K, H, W(, D)]``; one channel is read as two classes.
            labels: Integers ``[B, 1, H, W(, D)]`` or ``[B, H, W(, D)]``.

        Raises:
            ValueError: A shape, type or label does not fit.
        """
        index = self.indices(labels, logits)
        is_plain = self.softmax and logits.shape[1] > 1
        values = logits if is_plain else self.probabilities(logits)
        inside, everywhere, voxels = class_sums(values, index, softmax=is_plain)
        per_class = 1 - (2 * inside + self.smooth) / (everywhere + voxels + self.smooth)
        per_case = (per_class if self.include_background else per_class[:, 1:]).mean(dim=1)
        return self.reduce(per_case, voxels.sum(dim=1) > 0)
