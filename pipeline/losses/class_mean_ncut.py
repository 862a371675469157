"""N-cut by class means: the common approximation, in which a voxel is compared with the mean of each class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field

from pipeline.bounds import Scale
from pipeline.losses.base import LOSSES, ImageLoss, Reduction, require_positive

if TYPE_CHECKING:
    from torch import Tensor


@LOSSES.register("class_mean_ncut")
class ClassMeanNCutLoss(ImageLoss):
    """Soft normalised cut with every class's weights taken from its mean intensity.

    Per case, with K classes, image I and a Gaussian G::

        m_k = mean(I p_k) / (mean p_k + 1e-5)
        w_k = exp(-d_k^2 / sigma_2^2),  d_k = sum over channels of (I - m_k)^2
        J = K - sum_k |sum(p_k G(p_k w_k)) / (sum(p_k G(w_k)) + 1e-6)|

    G is the zero-padded correlation with ``exp(-|d|^2 / (2 sigma_1^2))`` over the cube ``|d_i| <= radius``,
    peak 1; the identity for ``spatial=False``. Mind that ``d_k`` is squared again, so ``sigma_2`` is in
    squared units of intensity: a sigma of :class:`NCutLoss` does not carry over.

    Without the spatial kernel any hard labelling that uses all classes costs about 0: the loss then only makes
    predictions more certain. A class that is nowhere has ratio 0. Voxels outside the mask are treated as the zero
    padding of G: ``p``, intensity and weight are 0, and they are not counted in the means. A case without a voxel
    inside the mask is left out: its loss and gradient are 0, and it is not counted in the mean over cases.

    An approximation to Xia & Kulis: W-Net, 2017, arXiv:1711.08506.

    Args:
        radius: Half the edge of the window, in voxels.
        sigma_1: Width of the Gaussian, in voxels.
        sigma_2: Width of the intensity term, in squared units of intensity.
        spatial: Whether to use the spatial kernel.
        batch: Whether the two sums of a ratio run over the whole batch, which then has one J; ``none`` gives ``[1]``.
            The means ``m_k`` stay those of each case.
        softmax: Whether the input is logits; False for probabilities.
        reduction: ``mean`` or ``sum`` over cases, or ``none``: the value of each case, ``[B]``.

    Raises:
        ValueError: ``radius`` or a sigma is not a finite number above 0, or ``reduction`` is unknown.

    An even map of two classes has ratios of one half each:

    >>> import torch
    >>> image = torch.arange(16.0).view(1, 1, 4, 4)
    >>> round(ClassMeanNCutLoss()(torch.zeros(1, 2, 4, 4), image).item(), 4)
    1.0
    """

    def __init__(
        self,
        *,
        radius: Annotated[int, Field(ge=1, le=1000)] = 5,
        sigma_1: Scale = 4.0,
        sigma_2: Scale = 10.0,
        spatial: bool = True,
        batch: bool = False,
        softmax: bool = True,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(softmax=softmax, reduction=reduction)
        require_positive(radius=radius, sigma_1=sigma_1, sigma_2=sigma_2)
        self.radius = radius
        self.sigma_1 = sigma_1
        self.sigma_2 = sigma_2
        self.spatial = spatial
        self.batch = batch

    def forward(self, logits: Tensor, image: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the loss.

        Args:
            logits: ``[B, K, H, W(, D)]``; one channel is read as two classes.
            image: ``[B, C, H, W(, D)]``; gets no gradient.
            mask: ``[B, 1, ...]`` or ``[B, ...]``, nonzero inside; None for everywhere.

        Raises:
            ValueError: A shape does not fit.
        """
        p, image, inside = self.read(logits, image, mask)
        # Autocast would run the matrix products in 16 bits.
        with torch.autocast(p.device.type, enabled=False):
            weights = self._weights(p, image, inside)
            # G is symmetric, so sum(p G(q)) = sum(G(p) q): one pass of G serves both sums.
            edges = (self._smooth(p) if self.spatial else p) * weights
        numerator = (edges * p).flatten(2).sum(dim=2)
        denominator = edges.flatten(2).sum(dim=2)
        counted = inside.flatten(1).any(dim=1)
        if self.batch:
            numerator = numerator.sum(dim=0, keepdim=True)
            denominator = denominator.sum(dim=0, keepdim=True)
            counted = counted.any(dim=0, keepdim=True)
        ratios = (numerator / (denominator + 1e-6)).abs()
        return self.reduce(p.shape[1] - ratios.sum(dim=1), counted)

    def _weights(self, p: Tensor, image: Tensor, inside: Tensor) -> Tensor:
        """Return ``w_k`` of every voxel, ``[B, K, ...]``: zero outside the mask."""
        voxels = inside.flatten(1).sum(dim=1).clamp(min=1).view(-1, 1, 1)
        sums = image.flatten(2) @ p.flatten(2).transpose(1, 2)
        means = sums / voxels / (p.flatten(2).sum(dim=2).unsqueeze(1) / voxels + 1e-5)
        means = means.view(*means.shape, *[1] * (p.ndim - 2))
        squares = [(image[:, [c]] - means[:, c]).square() for c in range(image.shape[1])]
        exponent = -torch.stack(squares).sum(dim=0).square() / self.sigma_2**2
        # Weights below exp(-60) change nothing, but exp is many times slower where results are denormal.
        return exponent.clamp(min=-60).exp().where(inside, 0)

    def _smooth(self, p: Tensor) -> Tensor:
        """Apply G, axis by axis, as a product with a banded matrix."""
        for axis in range(2, p.ndim):
            position = torch.arange(p.shape[axis], dtype=p.dtype, device=p.device)
            offset = position[:, None] - position
            band = (-offset.square() / (2 * self.sigma_1**2)).exp().where(offset.abs() <= self.radius, 0)
            p = (p.transpose(axis, -1) @ band).transpose(axis, -1)
        return p
