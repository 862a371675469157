"""N-cut, pairwise: the exact soft normalised cut over all pairs of voxels closer than a radius."""

from __future__ import annotations

import itertools
import math
import operator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from pipeline.losses.base import LOSSES, ImageLoss, Reduction, require_positive

if TYPE_CHECKING:
    from torch import Tensor

Window: TypeAlias = tuple[tuple[tuple[int, ...], float], ...]

# A block of voxels that stays in the cache of a CPU core while all offsets pass over it.
BLOCK = 1 << 17


@LOSSES.register("ncut")
class NCutLoss(ImageLoss):
    """Soft normalised cut over all pairs of voxels closer than ``radius``.

    Per case, with K classes and positions x in voxels::

        w_uv = exp(-|I_u - I_v|^2 / sigma_I^2) exp(-|x_u - x_v|^2 / sigma_X^2)  where |x_u - x_v| < radius
        J = K - sum_k (sum_u p_uk sum_v w_uv p_vk) / (sum_u p_uk sum_v w_uv)

    ``u = v`` is a pair of weight 1, and pairs that leave the scan or the mask do not exist. An even map and
    a map of one class both cost K - 1, or 1 with ``normalize``. The ratio is 0 for a class that is nowhere,
    or so nearly that its gradient would overflow. A case wholly masked out is left out: 0, with a zero
    gradient, and not counted in the mean.

    An automatic ``sigma_I`` is found per case and channel, inside the mask: 2.5 times the noise, which is
    ``1.4826 median |I_u - I_v| / sqrt 2`` over direct neighbours, and at least 1 % of the range of
    intensities (1 for a constant image). It makes the loss the same for any scale and shift of the
    intensities. Where most of a scan is an empty background, give a mask: else the noise found is 0.

    Xia & Kulis: W-Net, 2017, arXiv:1711.08506; after Shi & Malik, 2000, doi:10.1109/34.868688.

    Args:
        radius: Pairs are closer than this, in voxels; it may be fractional, or larger than the scan.
        sigma_space: ``sigma_X`` in voxels; ``auto`` is 0.8 times the radius.
        sigma_intensity: ``sigma_I`` in units of intensity, for all channels, or ``auto``.
        normalize: Whether to divide by K - 1.
        softmax: Whether the input is logits; False where probabilities are given.
        reduction: ``mean`` or ``sum`` over cases, or ``none``: one value a case, ``[B]``.

    Raises:
        ValueError: ``radius`` or a sigma is not a finite number above 0, or ``reduction`` is unknown.

    Four voxels, dark and bright: to cut between them costs little, to cut through both costs much:

    >>> import torch
    >>> image = torch.tensor([0.0, 0.0, 9.0, 9.0]).view(1, 1, 1, 4)
    >>> loss = NCutLoss(radius=2, sigma_intensity=5.0, softmax=False)
    >>> between = torch.tensor([0.0, 0.0, 1.0, 1.0]).view(1, 1, 1, 4)
    >>> through = torch.tensor([0.0, 1.0, 1.0, 0.0]).view(1, 1, 1, 4)
    >>> round(loss(between, image).item(), 4), round(loss(through, image).item(), 4)
    (0.0157, 0.8009)
    """

    def __init__(
        self,
        *,
        radius: float = 4.0,
        sigma_space: float | Literal["auto"] = "auto",
        sigma_intensity: float | Literal["auto"] = "auto",
        normalize: bool = True,
        softmax: bool = True,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(softmax=softmax, reduction=reduction)
        require_positive(radius=radius)
        self.radius = radius
        self.sigma_space = 0.8 * radius if sigma_space == "auto" else sigma_space
        require_positive(sigma_space=self.sigma_space)
        if sigma_intensity != "auto":
            require_positive(sigma_intensity=sigma_intensity)
        self.sigma_intensity = sigma_intensity
        self.normalize = normalize

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
        sigma = noise_sigma(image, inside) if self.sigma_intensity == "auto" else self.sigma_intensity
        window = half_window(self.radius, self.sigma_space, tuple(p.shape[2:]))
        ratios: Tensor = _Ratios.apply(p, image / sigma, inside.to(p.dtype), window)  # type: ignore[no-untyped-call]
        classes = p.shape[1]
        cost = classes - ratios.sum(dim=1)
        scaled = cost / (classes - 1) if self.normalize else cost
        return self.reduce(scaled.to(p.dtype), inside.flatten(1).any(dim=1))


class _Ratios(torch.autograd.Function):
    """The ratios ``N_k / D_k``, float64 ``[B, K]``, of probabilities that are 0 outside the mask.

    What the gradient needs, the forward has at hand, so it is formed there, in place: the backward is one
    multiplication, and K numbers a voxel are all that is kept.
    """

    @staticmethod
    def forward(ctx: Any, p: Tensor, features: Tensor, inside: Tensor, window: Window) -> Tensor:
        a, d = associations(p, features, inside, window)
        within = (p * a).flatten(2).sum(dim=2, dtype=torch.float64)
        total = (p * d).flatten(2).sum(dim=2, dtype=torch.float64)
        present = total > 1e6 * torch.finfo(p.dtype).tiny
        inverse = (1 / total).where(present, 0)
        ratios = within * inverse
        if ctx.needs_input_grad[0]:
            # dR_k / dp_uk = (2 a_uk - R_k d_u) / D_k
            columns = (*ratios.shape, *[1] * (p.ndim - 2))
            a.mul_((2 * inverse).to(p.dtype).view(columns))
            a.addcmul_(d, (ratios * inverse).to(p.dtype).view(columns), value=-1)
            ctx.save_for_backward(a)
        return ratios

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (derivative,) = ctx.saved_tensors
        scale = grad.to(derivative.dtype).view(*grad.shape, *[1] * (derivative.ndim - 2))
        return scale * derivative, None, None, None


def associations(p: Tensor, features: Tensor, inside: Tensor, window: Window) -> tuple[Tensor, Tensor]:
    """Return ``a = W p`` and ``d = W m`` for the weights W of a window.

    Every axis is padded at its end by the reach of the window, so that each offset is one shift of the
    flattened batch: a pair that leaves the scan on any side has one end in padding, where p and m are 0.
    One array of weights serves all classes and, W being symmetric, both directions of an offset.

    Args:
        p: ``[B, K, ...]``, zero outside the mask.
        features: Image over sigma ``[B, C, ...]``, finite everywhere.
        inside: The mask m, ``[B, 1, ...]``, as 0 and 1.
        window: Half the offsets, as :func:`half_window` gives them.

    Returns:
        ``a`` ``[B, K, ...]`` and ``d`` ``[B, 1, ...]``: views of a padded array that the caller may change.
    """
    size = p.shape[2:]
    reach = [max((abs(offset[axis]) for offset, _ in window), default=0) for axis in range(len(size))]
    padded = [n + r for n, r in zip(size, reach, strict=True)]
    strides = [math.prod(padded[axis + 1 :]) for axis in range(len(size))]
    shifts = [(sum(map(operator.mul, offset, strides)), cost) for offset, cost in window]
    q, rows = _flatten(torch.cat([p, inside], dim=1), reach), _flatten(features, reach)
    sums = _sum_over_pairs(q, rows, shifts).view(-1, p.shape[0], *padded).transpose(0, 1)
    for axis, n in enumerate(size, start=2):
        sums = sums.narrow(axis, 0, n)
    return sums[:, :-1], sums[:, -1:]


def _flatten(volume: Tensor, reach: list[int]) -> Tensor:
    """Pad the end of each axis and return channels as rows: ``[C, B * voxels]``."""
    ends = [length for r in reversed(reach) for length in (0, r)]
    return F.pad(volume.transpose(0, 1), ends).reshape(volume.shape[1], -1).contiguous()


def _sum_over_pairs(q: Tensor, rows: Tensor, shifts: list[tuple[int, float]]) -> Tensor:
    """Return ``W q`` for weights ``exp(-|difference of rows|^2 - cost)`` at shifts and their opposites."""
    sums = q.clone()  # a voxel and itself: weight 1
    voxels = q.shape[1]
    block = min(BLOCK, voxels) if q.device.type == "cpu" else voxels
    weights, differences = q.new_empty(block), q.new_empty(block)
    for start in range(0, voxels, block):
        for shift, cost in shifts:
            count = min(block, voxels - shift - start)
            if count <= 0:
                continue
            here, there = slice(start, start + count), slice(start + shift, start + shift + count)
            w, difference = weights[:count].fill_(-cost), differences[:count]
            for row in rows:
                torch.sub(row[here], row[there], out=difference)
                w.addcmul_(difference, difference, value=-1)
            # Weights below exp(-60) change nothing, but exp is many times slower where results are denormal.
            w.clamp_(min=-60).exp_()
            sums[:, here].addcmul_(q[:, there], w)
            sums[:, there].addcmul_(q[:, here], w)
    return sums


@lru_cache(maxsize=64)
def half_window(radius: float, sigma: float, size: tuple[int, ...]) -> Window:
    """Return one of each pair of opposite offsets shorter than ``radius``, with ``|offset|^2 / sigma^2``.

    >>> half_window(1.5, 1.0, (8, 1))
    (((1, 0), 1.0),)
    >>> [offset for offset, _ in half_window(1.5, 1.0, (8, 8))]
    [(0, 1), (1, -1), (1, 0), (1, 1)]
    """
    reach = [min(math.ceil(radius), n) - 1 for n in size]
    offsets = itertools.product(*(range(-r, r + 1) for r in reach))
    origin = (0,) * len(size)
    half = (offset for offset in offsets if offset > origin and math.hypot(*offset) < radius)
    return tuple((offset, sum(d * d for d in offset) / sigma**2) for offset in half)


def noise_sigma(image: Tensor, inside: Tensor) -> Tensor:
    """Return the automatic intensity sigma ``[B, C, 1, ...]``; see :class:`NCutLoss`.

    Args:
        image: ``[B, C, ...]``.
        inside: Boolean mask ``[B, 1, ...]``.
    """
    spread = [[_noise(channel, mask[0]) for channel in scan] for scan, mask in zip(image, inside, strict=True)]
    axes = tuple(range(2, image.ndim))
    highest = image.where(inside, -math.inf).amax(dim=axes, keepdim=True)
    lowest = image.where(inside, math.inf).amin(dim=axes, keepdim=True)
    noise = torch.stack([torch.stack(row) for row in spread]).view_as(highest)
    sigma = torch.maximum(2.5 * noise, 0.01 * (highest - lowest))
    return sigma.where(sigma > 0, 1)


def _noise(channel: Tensor, inside: Tensor) -> Tensor:
    """Return a robust estimate of the standard deviation of the noise of one channel, ``[...]``."""
    steps = []
    for axis, n in enumerate(channel.shape):
        pair = inside.narrow(axis, 1, n - 1) & inside.narrow(axis, 0, n - 1)
        steps.append(channel.diff(dim=axis).abs().where(pair, math.nan).flatten())
    # A median of everything, not along an axis: only that is deterministic on every device.
    return 1.4826 / math.sqrt(2) * torch.cat(steps).nanmedian().nan_to_num(nan=0.0)
