"""Soft Dice: the overlap of probabilities and labels, as a loss."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import torch

from pipeline.bounds import LabelValue, Scale
from pipeline.losses.base import LOSSES, LabelLoss, Reduction, require_positive
from pipeline.losses.class_sums import class_sums
from pipeline.losses.partial import merged

if TYPE_CHECKING:
    from torch import Tensor

Average: TypeAlias = Literal["macro", "micro"]


@LOSSES.register("dice")
class DiceLoss(LabelLoss):
    """Soft Dice loss of each case: the mean over classes, or of all classes flattened together.

    With probabilities ``p``, one-hot labels ``y`` and ``smooth`` s, over the annotated voxels of a case::

        1 - (2 sum(p * y) + s) / (sum p + sum y + s)

    ``macro`` computes this for each class and takes the mean. ``micro`` computes it once for each case, with sums over
    all classes, so that large classes weigh more.

    Under ``macro`` a class absent from a case gives ``1 - s / (sum p + s)``, which is 0 if it is not predicted either.
    A case with nothing annotated is left out: it adds nothing to the sum, is not counted in the mean, and is 0
    under ``reduction="none"``. A batch with nothing annotated gives 0 with a zero gradient.

    In a case in which some classes are not annotated, their probabilities are added to background's, and the mean is
    over the other classes: the marginal Dice of Shi et al., see :mod:`pipeline.losses.partial`.

    Equal to MONAI's ``DiceLoss(softmax=True, to_onehot_y=True, smooth_nr=s, smooth_dr=s)`` where every
    voxel is annotated. Milletari, Navab, Ahmadi: V-Net, 3DV 2016, doi:10.1109/3DV.2016.79; the
    denominator is linear here and squared there.

    Args:
        include_background: Whether class 0 takes part, in the mean over classes or in the sums.
        average: ``macro`` or ``micro``, as above.
        smooth: Added to numerator and denominator, in voxels.
        softmax: Whether the input is logits; False for probabilities.
        ignore: Voxels with this label, or any negative one, do not count.
        reduction: ``mean`` or ``sum`` over cases, or ``none``: the value of each case, ``[B]``.

    Raises:
        ValueError: ``smooth`` is not a finite number above 0, or ``average`` or ``reduction`` is unknown.

    One of three foreground voxels is found:

    >>> import torch
    >>> p = torch.tensor([[[[1.0, 0.0, 0.0]]]])
    >>> labels = torch.tensor([[[1, 1, 1]]])
    >>> loss = DiceLoss(softmax=False, include_background=False, smooth=1.0)
    >>> round(loss(p, labels).item(), 4)  # 1 - (2 * 1 + 1) / (1 + 3 + 1)
    0.4

    With the background, whose sums are 0, 2 and 0, the ratios are 3 / 5 and 1 / 3, and of all classes 3 / 7:

    >>> both, flat = DiceLoss(softmax=False), DiceLoss(softmax=False, average="micro")
    >>> round(both(p, labels).item(), 4), round(flat(p, labels).item(), 4)
    (0.5333, 0.5714)
    """

    takes_annotated = True

    def __init__(
        self,
        *,
        include_background: bool = True,
        average: Average = "macro",
        smooth: Scale = 1.0,
        softmax: bool = True,
        ignore: LabelValue = -1,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(softmax=softmax, ignore=ignore, reduction=reduction)
        require_positive(smooth=smooth)
        if average not in get_args(Average):
            raise ValueError(f"average is {average!r}; expected one of {', '.join(get_args(Average))}")
        self.include_background = include_background
        self.average = average
        self.smooth = smooth

    def forward(self, logits: Tensor, labels: Tensor, annotated: Tensor | None = None) -> Tensor:
        """Return the loss.

        Args:
            logits: ``[B, K, H, W(, D)]``; one channel is read as two classes.
            labels: ``[B, 1, H, W(, D)]`` or ``[B, H, W(, D)]``.
            annotated: Booleans ``[B, K]``: the classes that are annotated in each case, background aside; None for all.

        Raises:
            ValueError: A shape, type or label does not fit.
        """
        index = self.indices(labels, logits)
        if annotated is not None:
            logits = merged(logits, annotated, softmax=self.softmax)
        is_plain = self.softmax and logits.shape[1] > 1
        values = logits if is_plain else self.probabilities(logits)
        inside, everywhere, voxels = class_sums(values, index, softmax=is_plain)
        if self.average == "micro":
            first = 0 if self.include_background else 1
            per_case = self._cost(*(each[:, first:].sum(dim=1) for each in (inside, everywhere, voxels)))
        else:
            per_class = self._cost(inside, everywhere, voxels)
            per_case = self._mean(per_class, annotated)
        if not self.include_background:  # A NaN in the background still gives NaN.
            per_case = per_case.masked_fill(everywhere[:, 0].isnan(), math.nan)
        return self.reduce(per_case, voxels.sum(dim=1) > 0)

    def _mean(self, per_class: Tensor, annotated: Tensor | None) -> Tensor:
        """Return the mean over the classes that count in each case; 0 where none does."""
        first = 0 if self.include_background else 1
        if annotated is None:
            return per_class[:, first:].mean(dim=1)
        counted = torch.cat([torch.ones_like(annotated[:, :1]), annotated[:, 1:]], dim=1).to(torch.bool)
        kept = per_class.where(counted, 0)[:, first:]
        return kept.sum(dim=1) / counted[:, first:].sum(dim=1).clamp(min=1)

    def _cost(self, inside: Tensor, everywhere: Tensor, voxels: Tensor) -> Tensor:
        return 1 - (2 * inside + self.smooth) / (everywhere + voxels + self.smooth)
