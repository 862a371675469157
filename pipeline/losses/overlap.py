"""MONAI's losses of overlap and shape as ours: labels with voxels that nobody annotated, one channel or several."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field

from pipeline.bounds import LabelValue, Scale
from pipeline.losses.base import LOSSES, LabelLoss, Reduction, require_positive
from pipeline.losses.untraced import untraced

if TYPE_CHECKING:
    from torch import Tensor

Factor = Annotated[float, Field(ge=0, le=1e6)]
Exponent = Annotated[float, Field(ge=1, le=10)]
Iterations = Annotated[int, Field(ge=0, le=100)]


class MonaiLoss(LabelLoss):
    """Base of the losses that MONAI computes of probabilities and one-hot labels, for each case by itself.

    Voxels without an annotation are given to MONAI as ones where no class is predicted and none is true: they add to
    no sum of products or of probabilities. A case with nothing annotated is left out: it adds nothing to the sum, is
    not counted in the mean, and is 0 under ``reduction="none"``.

    A subclass sets ``monai``, a loss of MONAI with ``reduction="none"`` and without an activation of its own.

    Args:
        softmax: Whether the input is logits; False for probabilities.
        ignore: Voxels with this label, or any negative one, do not count.
        reduction: ``mean`` or ``sum`` over cases, or ``none``: the value of each case, ``[B]``.

    Raises:
        ValueError: ``reduction`` is unknown.
    """

    monai: Any

    @untraced
    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss.

        Args:
            logits: ``[B, K, H, W(, D)]``; one channel is read as two classes.
            labels: ``[B, 1, H, W(, D)]`` or ``[B, H, W(, D)]``.

        Raises:
            ValueError: A shape, type or label does not fit.
        """
        y = self.one_hot(labels, like=logits)
        annotated = y.any(dim=1, keepdim=True)
        p = self.probabilities(logits).where(annotated, 0)
        counted = annotated.flatten(1).any(dim=1)
        if not p.numel():
            return self.reduce(p.flatten(1).sum(dim=1), counted)
        per_case = self.per_case(p, y.to(p.dtype), annotated)
        # A NaN in the background gives NaN also where it takes no part.
        return self.reduce(per_case.masked_fill(p[:, 0].flatten(1).isnan().any(dim=1), math.nan), counted)

    @abstractmethod
    def per_case(self, p: Tensor, y: Tensor, annotated: Tensor) -> Tensor:
        """Return the value of each case, ``[B]``.

        Args:
            p: Probabilities ``[B, K, ...]``, 0 where nobody annotated.
            y: One-hot labels of the same shape and type, 0 there too.
            annotated: Booleans ``[B, 1, ...]``.
        """


@LOSSES.register("tversky")
class TverskyLoss(MonaiLoss):
    """MONAI's Tversky loss: soft overlap in which voxels invented and voxels missed weigh differently.

    With probabilities ``p``, one-hot labels ``y`` and ``smooth`` s, for each class over the annotated voxels of a case,
    then the mean over classes::

        1 - (sum(p * y) + s) / (sum(p * y) + alpha sum(p * (1 - y)) + beta sum((1 - p) * y) + s)

    ``alpha = beta = 0.5`` is the Dice loss; a larger ``beta`` finds more of a small structure and invents more. A class
    that is absent and not predicted gives 0; so does a batch with nothing annotated, with a zero gradient.

    Equal to MONAI's ``TverskyLoss(softmax=True, to_onehot_y=True)`` where every voxel is annotated. Salehi et al.,
    MLMI 2017, doi:10.1007/978-3-319-67389-9_44.

    Args:
        alpha: The weight of voxels that are predicted and not true.
        beta: The weight of voxels that are true and not predicted.
        include_background: Whether class 0 takes part.
        smooth: Added to numerator and denominator, in voxels.
        softmax: Whether the input is logits; False for probabilities.
        ignore: Voxels with this label, or any negative one, do not count.
        reduction: ``mean`` or ``sum`` over cases, or ``none``: the value of each case, ``[B]``.

    Raises:
        ValueError: ``alpha`` and ``beta`` are both 0, ``smooth`` is not above 0, or ``reduction`` is unknown.

    One of three foreground voxels is found, and two are missed:

    >>> p = torch.tensor([[[[1.0, 0.0, 0.0]]]])
    >>> loss = TverskyLoss(alpha=0.3, beta=0.7, softmax=False, include_background=False)
    >>> round(loss(p, torch.tensor([[[1, 1, 1]]])).item(), 4)  # 1 - 1 / (1 + 0.7 * 2)
    0.5833
    """

    def __init__(
        self,
        *,
        alpha: Factor = 0.5,
        beta: Factor = 0.5,
        include_background: bool = True,
        smooth: Scale = 1e-5,
        softmax: bool = True,
        ignore: LabelValue = -1,
        reduction: Reduction = "mean",
    ) -> None:
        from monai.losses import TverskyLoss as Computed

        super().__init__(softmax=softmax, ignore=ignore, reduction=reduction)
        require_positive(smooth=smooth)
        if not alpha + beta > 0:
            raise ValueError(f"alpha is {alpha} and beta {beta}; expected one of them above 0")
        self.monai = Computed(
            include_background=include_background,
            alpha=alpha,
            beta=beta,
            smooth_nr=smooth,
            smooth_dr=smooth,
            reduction="none",
        )

    def per_case(self, p: Tensor, y: Tensor, annotated: Tensor) -> Tensor:
        """Return the mean over classes of each case, ``[B]``."""
        per_class: Tensor = self.monai(p, y)
        return per_class.mean(dim=1)


@LOSSES.register("generalized_dice")
class GeneralizedDiceLoss(MonaiLoss):
    """MONAI's generalised Dice loss: one ratio over all classes, each weighted by its size.

    With probabilities ``p``, one-hot labels ``y`` and ``smooth`` s, over the annotated voxels of a case::

        1 - (2 sum_k w_k sum(p_k * y_k) + s) / (sum_k w_k (sum p_k + sum y_k) + s)

    ``square``: ``w_k = 1 / (sum y_k)^2``, ``simple``: ``1 / sum y_k``, ``uniform``: 1. A class absent from a case has
    the largest weight of those present. A batch with nothing annotated gives 0 with a zero gradient.

    Equal to MONAI's ``GeneralizedDiceLoss(softmax=True, to_onehot_y=True)`` where every voxel is annotated. Sudre et
    al., DLMIA 2017, doi:10.1007/978-3-319-67558-9_28.

    Args:
        weights: ``square``, ``simple`` or ``uniform``, as above.
        include_background: Whether class 0 takes part.
        smooth: Added to numerator and denominator.
        softmax: Whether the input is logits; False for probabilities.
        ignore: Voxels with this label, or any negative one, do not count.
        reduction: ``mean`` or ``sum`` over cases, or ``none``: the value of each case, ``[B]``.

    Raises:
        ValueError: ``smooth`` is not above 0, or ``weights`` or ``reduction`` is unknown.

    Two background voxels, of which one is taken for foreground, and one of foreground that is found:

    >>> p = torch.tensor([[[[0.0, 1.0, 1.0]]]])
    >>> labels = torch.tensor([[[0, 0, 1]]])
    >>> round(GeneralizedDiceLoss(softmax=False)(p, labels).item(), 4)  # 1 - 2 (1/4 + 1) / (3/4 + 3)
    0.3333
    """

    def __init__(
        self,
        *,
        weights: Literal["square", "simple", "uniform"] = "square",
        include_background: bool = True,
        smooth: Scale = 1e-5,
        softmax: bool = True,
        ignore: LabelValue = -1,
        reduction: Reduction = "mean",
    ) -> None:
        from monai.losses import GeneralizedDiceLoss as Computed

        super().__init__(softmax=softmax, ignore=ignore, reduction=reduction)
        require_positive(smooth=smooth)
        self.monai = Computed(
            include_background=include_background,
            w_type=weights,
            smooth_nr=smooth,
            smooth_dr=smooth,
            reduction="none",
        )

    def per_case(self, p: Tensor, y: Tensor, annotated: Tensor) -> Tensor:
        """Return the value of each case, ``[B]``."""
        value: Tensor = self.monai(p, y)
        return value.flatten(1).mean(dim=1)


@LOSSES.register("hausdorff")
class HausdorffLoss(MonaiLoss):
    """MONAI's Hausdorff loss: squared errors, weighted by how far they lie from the borders.

    With probabilities ``p``, one-hot labels ``y``, and ``d_q`` the distance in voxels to the border of ``q > 1/2``::

        mean over annotated voxels of (p - y)^2 (d_p^alpha + d_y^alpha),    then the mean over classes

    Distances are computed on the CPU with SciPy, class by class, or on a GPU where cuCIM is installed; no gradient
    flows through them. They are large numbers: give the term a small weight, or a ramp. A mask that fills or leaves
    empty all of the patch has no border, and distance 0. Voxels without an annotation belong to no class, so that a
    structure that goes on among them has a border there, in the prediction and in the truth alike. A batch with
    nothing annotated gives 0 with a zero gradient.

    Equal to MONAI's ``HausdorffDTLoss(softmax=True, to_onehot_y=True)`` where every voxel is annotated. Karimi &
    Salcudean, IEEE TMI 2020, doi:10.1109/TMI.2019.2930068.

    Args:
        alpha: The power of the distances.
        include_background: Whether class 0 takes part.
        softmax: Whether the input is logits; False for probabilities.
        ignore: Voxels with this label, or any negative one, do not count.
        reduction: ``mean`` or ``sum`` over cases, or ``none``: the value of each case, ``[B]``.

    Raises:
        ValueError: ``reduction`` is unknown.

    Of a row of four voxels the last is true and the first is predicted, each 1 from its border and 3 from the other:

    >>> p = torch.tensor([[[[1.0, 0.0, 0.0, 0.0]]]])
    >>> HausdorffLoss(softmax=False)(p, torch.tensor([[[0, 0, 0, 1]]])).item()  # 2 (1 + 9) / 4
    5.0
    """

    def __init__(
        self,
        *,
        alpha: Exponent = 2.0,
        include_background: bool = False,
        softmax: bool = True,
        ignore: LabelValue = -1,
        reduction: Reduction = "mean",
    ) -> None:
        from monai.losses import HausdorffDTLoss as Computed

        super().__init__(softmax=softmax, ignore=ignore, reduction=reduction)
        self.monai = Computed(alpha=alpha, include_background=include_background, reduction="none")

    def per_case(self, p: Tensor, y: Tensor, annotated: Tensor) -> Tensor:
        """Return the mean over annotated voxels and classes of each case, ``[B]``."""
        value: Tensor = self.monai(p, y)
        share = annotated.to(p.dtype).flatten(1).mean(dim=1)
        return value.flatten(1).mean(dim=1) / share.clamp(min=torch.finfo(p.dtype).tiny)


@LOSSES.register("cldice")
class ClDiceLoss(MonaiLoss):
    """MONAI's soft clDice with Dice: also the centre lines of tubes overlap, so that vessels do not break.

    With Dice the mean over classes of the soft Dice loss, and soft skeletons S of probabilities ``p`` and labels ``y``,
    all classes together::

        (1 - alpha) Dice + alpha (1 - 2 P T / (P + T + 1e-4))
        P = sum(S(p) y) / sum S(p),    T = sum(S(y) p) / sum S(y)

    P and T with 1 added to numerator and denominator. Skeletons take ``iterations`` erosions, as many as the
    largest radius of a tube in voxels. Voxels without an annotation belong to no class. A batch with nothing annotated
    gives 0 with a zero gradient.

    Equal to MONAI's ``SoftDiceclDiceLoss`` of probabilities, case by case, where every voxel is annotated. Shit et
    al., CVPR 2021, arXiv 2003.07311.

    Args:
        alpha: The share of clDice, 0 to 1.
        iterations: Erosions of a skeleton.
        include_background: Whether class 0 takes part.
        softmax: Whether the input is logits; False for probabilities.
        ignore: Voxels with this label, or any negative one, do not count.
        reduction: ``mean`` or ``sum`` over cases, or ``none``: the value of each case, ``[B]``.

    Raises:
        ValueError: ``alpha`` is outside of 0 to 1, or ``reduction`` is unknown.

    A line of five voxels of which the middle one is missing is as bad as it can be in overlap of centre lines alone:

    >>> p = torch.tensor([[[[0.0] * 5, [1.0, 1.0, 0.0, 1.0, 1.0], [0.0] * 5]]])
    >>> labels = torch.tensor([[[0] * 5, [1] * 5, [0] * 5]])
    >>> loss = ClDiceLoss(alpha=1.0, softmax=False, include_background=False)
    >>> round(loss(p, labels).item(), 3)  # P = 1, T = 5 / 6
    0.091
    """

    def __init__(
        self,
        *,
        alpha: Annotated[float, Field(ge=0, le=1)] = 0.5,
        iterations: Iterations = 3,
        include_background: bool = False,
        softmax: bool = True,
        ignore: LabelValue = -1,
        reduction: Reduction = "mean",
    ) -> None:
        from monai.losses import SoftDiceclDiceLoss as Computed

        super().__init__(softmax=softmax, ignore=ignore, reduction=reduction)
        # Of one case at a time: without a reduction MONAI's two parts have shapes that do not add up.
        self.monai = Computed(iter_=iterations, alpha=alpha, include_background=include_background)

    def per_case(self, p: Tensor, y: Tensor, annotated: Tensor) -> Tensor:
        """Return the value of each case, ``[B]``."""
        return torch.stack([self.monai(p[case : case + 1], y[case : case + 1]) for case in range(len(p))])
