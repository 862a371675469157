"""Reconstruction: the difference between a scan and the image that a decoder makes of its segmentation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.losses.base import LOSSES, ImageLoss, Reduction, widen

if TYPE_CHECKING:
    from torch import Tensor


@LOSSES.register("reconstruction")
class ReconstructionLoss(ImageLoss):
    """Mean squared difference between a network's reconstruction and the image.

    Per case, over the C channels of the N voxels inside the mask::

        J = sum_u |x_u - r_u|^2 / (C N)

    Scans are standardised before training, so a reconstruction of zeros costs about 1. A case without a voxel inside
    the mask is left out: its loss and gradient are 0, and it is not counted in the mean. The loss needs a network with
    a decoder, such as ``wnet``.

    Xia & Kulis: W-Net, 2017, arXiv:1711.08506, whose J is the sum instead of the mean.

    Args:
        reduction: ``mean`` or ``sum`` over cases, or ``none``: the value of each case, ``[B]``.

    Raises:
        ValueError: ``reduction`` is unknown.

    >>> import torch
    >>> image = torch.tensor([0.0, 0.0, 3.0, 5.0]).view(1, 1, 1, 4)
    >>> ReconstructionLoss()(image.clamp(max=3), image).item()
    1.0
    """

    judges = "reconstruction"

    def __init__(self, *, reduction: Reduction = "mean") -> None:
        super().__init__(softmax=False, reduction=reduction)

    def forward(self, reconstruction: Tensor, image: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the loss.

        Args:
            reconstruction: ``[B, C, H, W(, D)]``.
            image: Of the same shape; gets no gradient.
            mask: ``[B, 1, ...]`` or ``[B, ...]``, nonzero inside; None for everywhere.

        Raises:
            ValueError: A shape does not fit.
        """
        made = widen(reconstruction)
        if made.shape != image.shape:
            raise ValueError(f"the reconstruction has shape {tuple(made.shape)}, and the image {tuple(image.shape)}")
        inside = self.read_mask(mask, made)
        squares = (made - image.detach().to(made.dtype)).where(inside, 0).square()
        voxels = inside.flatten(1).sum(dim=1)
        per_case = squares.flatten(1).sum(dim=1) / (image.shape[1] * voxels.clamp(min=1))
        return self.reduce(per_case, voxels > 0)
