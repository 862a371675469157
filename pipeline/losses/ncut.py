"""N-cut, pairwise: the exact soft normalised cut over all pairs of voxels closer than a radius."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field

from pipeline.bounds import Millimetres, Scale, Steps
from pipeline.losses.base import LOSSES, ImageLoss, Reduction, require_positive
from pipeline.losses.ncut_pairs import choose_pair_sums, draw_offsets, half_window
from pipeline.losses.untraced import untraced

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from pipeline.losses.ncut_layout import Window

# The noise is estimated at this many voxels of a scan, spread evenly; smaller scans give all of theirs.
NOISE_VOXELS = 1 << 17


@LOSSES.register("ncut")
class NCutLoss(ImageLoss):
    """Soft normalised cut over all pairs of voxels closer than ``radius``.

    Per case, with K classes and positions x::

        w_uv = exp(-|I_u - I_v|^2 / sigma_I^2) exp(-|x_u - x_v|^2 / sigma_X^2)  where |x_u - x_v| < radius
        J = K - sum_k (sum_u p_uk sum_v w_uv p_vk) / (sum_u p_uk sum_v w_uv)

    ``u = v`` is a pair of weight 1; pairs with one end outside the scan or the mask are left out. A map in which all
    classes are equally likely everywhere and a map of one class both cost K - 1, or 1 with ``normalize``. The ratio is
    0 for a class whose probability is 0 everywhere, or so small that its gradient would overflow. A case without a
    voxel inside the mask is left out: its loss and gradient are 0, and it is not counted in the mean.

    An automatic ``sigma_I`` is computed for each case and channel from the voxels inside the mask. It is 2.5 times the
    noise, ``1.4826 median |I_u - I_v| / sqrt 2`` over direct neighbours, but at least 1 % of the range of intensities,
    and 1 for a constant image. It makes the loss independent of the scale and shift of the intensities. In scans above
    131072 voxels the noise is estimated at so many voxels, evenly spread. If most of a scan is empty background, give a
    mask; otherwise the noise is estimated as 0.

    With ``offsets``, each call sums over a random sample of about so many offsets of the window. Numerator and
    denominator are right on average. The draw comes from PyTorch's generator on the CPU, which a training seeds at
    every step.

    Sums over pairs are computed in float32 by a compiled kernel on the CPU or a Triton kernel on CUDA, and in float64,
    or if the kernel is not available, in plain PyTorch. The results agree, and do not depend on the number of threads.

    Xia & Kulis: W-Net, 2017, arXiv:1711.08506; after Shi & Malik, 2000, doi:10.1109/34.868688.

    Args:
        radius: Pairs are closer than this, in voxels, or in mm with ``spacing_mm``; it may be fractional, or larger
            than the scan.
        sigma_space: ``sigma_X`` in the same unit; ``auto`` is 0.8 times the radius.
        sigma_intensity: ``sigma_I`` in units of intensity, for all channels, or ``auto``.
        spacing_mm: Size of a voxel along each axis; in a recipe, ``data`` is the spacing of the scans. None measures
            distances in voxels.
        offsets: How many pairs of opposite offsets to draw in each call; ``all`` is exact.
        normalize: Whether to divide by K - 1.
        softmax: Whether the input is logits; False for probabilities.
        reduction: ``mean`` or ``sum`` over cases, or ``none``: the value of each case, ``[B]``.

    Raises:
        ValueError: ``radius``, a sigma, a spacing or ``offsets`` is not a finite number above 0, or ``reduction`` is
            unknown.

    Of four voxels, two are dark and two bright: a cut between them costs little, a cut through both costs much:

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
        radius: Annotated[float, Field(gt=0, le=1000)] = 4.0,
        sigma_space: Scale | Literal["auto"] = "auto",
        sigma_intensity: Scale | Literal["auto"] = "auto",
        spacing_mm: Annotated[tuple[Millimetres, ...], Field(min_length=2, max_length=3)]
        | Literal["data"]
        | None = None,
        offsets: Steps | Literal["all"] = "all",
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
        if spacing_mm is not None and spacing_mm != "data":
            require_positive(**{f"spacing_mm[{axis}]": step for axis, step in enumerate(spacing_mm)})
            spacing_mm = tuple(spacing_mm)
        self.spacing_mm = spacing_mm
        if offsets != "all":
            require_positive(offsets=offsets)
        self.offsets = offsets
        self.normalize = normalize

    @untraced
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
        counted = inside.flatten(1).any(dim=1)
        if not p.numel():
            return self.reduce(p.flatten(1).sum(dim=1), counted)
        sigma = noise_sigma(image, inside) if self.sigma_intensity == "auto" else self.sigma_intensity
        # The classes of a softmax add up to the mask, which then needs no sums of its own.
        rest = None
        if not self.softmax:
            rest = inside.to(p.dtype)
        ratios: Tensor = _Ratios.apply(p, image / sigma, rest, self._window(p))  # type: ignore[no-untyped-call]
        classes = p.shape[1]
        cost = classes - ratios.sum(dim=1)
        scaled = cost / (classes - 1) if self.normalize else cost
        return self.reduce(scaled.to(p.dtype), counted)

    def _window(self, p: Tensor) -> Window:
        size = tuple(p.shape[2:])
        spacing = self.spacing_mm
        if spacing is not None and (spacing == "data" or len(spacing) != len(size)):
            raise ValueError(f"spacing_mm is {spacing!r}; expected {len(size)} numbers, one for each axis of the scan")
        window = half_window(self.radius, self.sigma_space, size, spacing)
        if self.offsets == "all":
            return window
        return draw_offsets(window, self.offsets)


class _Ratios(torch.autograd.Function):
    """The ratios ``N_k / D_k``, float64 ``[B, K]``, of probabilities that are 0 outside the mask.

    With ``a = W p`` and ``d = W m``, ``N_k = sum_u p_uk a_uk``, ``D_k = sum_u p_uk d_u``. The forward pass has all that
    the gradient needs, so it computes the derivative in place: the backward pass is one multiplication, and only K
    numbers per voxel are kept beside the inputs. For a second derivative the formula is computed again.
    """

    @staticmethod
    def forward(ctx: Any, p: Tensor, features: Tensor, inside: Tensor | None, window: Window) -> Tensor:
        a, d = _neighbours(_pair_sums, p, features, inside, window)
        ratios, inverse = _ratios(p, a, d, features)
        if ctx.needs_input_grad[0]:
            # dR_k / dp_uk = (2 a_uk - R_k d_u) / D_k
            a.mul_(_columns(2 * inverse, p))
            a.addcmul_(d, _columns(ratios * inverse, p), value=-1)
            ctx.save_for_backward(a, p, features, inside)
            ctx.window = window
        return ratios

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        derivative, p, features, inside = ctx.saved_tensors
        if torch.is_grad_enabled():
            a, d = _neighbours(_PairSums.apply, p, features, inside, ctx.window)
            ratios, inverse = _ratios(p, a, d, features)
            derivative = a * _columns(2 * inverse, p) - d * _columns(ratios * inverse, p)
        return _columns(grad, p) * derivative, None, None, None


class _PairSums(torch.autograd.Function):
    """``W q`` as a function that can be differentiated any number of times: W is symmetric."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, features: Tensor, window: Window) -> Tensor:
        ctx.save_for_backward(features)
        ctx.window = window
        return _pair_sums(q, features, window)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _PairSums.apply(grad, *ctx.saved_tensors, ctx.window), None, None  # type: ignore[no-untyped-call]


def _pair_sums(q: Tensor, features: Tensor, window: Window) -> Tensor:
    if window:
        return choose_pair_sums(q)(q, features, window)
    return q.clone()


def _neighbours(
    pair_sums: Callable[..., Tensor], p: Tensor, features: Tensor, inside: Tensor | None, window: Window
) -> tuple[Tensor, Tensor]:
    """Return ``a = W p`` ``[B, K, ...]`` and ``d = W m`` ``[B, 1, ...]``; None for the mask if classes add up to it."""
    if inside is None:
        a = pair_sums(p, features, window)
        return a, a.detach().sum(dim=1, keepdim=True)
    sums = pair_sums(torch.cat([p, inside], dim=1), features, window)
    return sums[:, :-1], sums[:, -1:]


def _ratios(p: Tensor, a: Tensor, d: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ratios ``N_k / D_k`` and ``1 / D_k``, both float64 ``[B, K]``; 0 for a class that is nowhere."""
    total = _dot(p, d)
    absent = total <= 1e6 * torch.finfo(p.dtype).tiny
    inverse = (1 / total.masked_fill(absent, 1)).masked_fill(absent, 0)
    # A NaN in the image gives NaN: not every kernel would pass it on.
    inverse = inverse.masked_fill(features.flatten(1).isnan().any(dim=1, keepdim=True), math.nan)
    return _dot(p, a) * inverse, inverse


def _columns(values: Tensor, like: Tensor) -> Tensor:
    """Return ``[B, K]`` as ``[B, K, 1, ...]`` in the type of ``like``, to multiply it with that."""
    return values.to(like.dtype).view(*values.shape, *[1] * (like.ndim - 2))


def _dot(p: Tensor, values: Tensor) -> Tensor:
    """Return ``sum_u p_uk values_uk`` in float64, ``[B, K]``; a class at a time, to need little memory."""
    columns = [
        (p[:, k] * values[:, min(k, values.shape[1] - 1)]).flatten(1).sum(dim=1, dtype=torch.float64)
        for k in range(p.shape[1])
    ]
    return torch.stack(columns, dim=1)


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
    voxels = channel.numel()
    values = channel.reshape(-1)
    mask = inside.reshape(-1)
    step = -(-voxels // NOISE_VOXELS)
    while math.gcd(step, voxels) > 1:  # else whole rows and planes would be left out
        step += 1
    here = torch.arange(0, voxels, step, device=channel.device)
    steps = []
    stride = 1
    for n in reversed(channel.shape):
        last = here // stride % n == n - 1
        there = torch.where(last, here, here + stride)
        pair = mask[here] & mask[there] & ~last
        steps.append((values[there] - values[here]).abs().where(pair, math.nan))
        stride *= n
    # A median of everything, not along an axis: only that is deterministic on every device.
    return 1.4826 / math.sqrt(2) * torch.cat(steps).nanmedian().nan_to_num(nan=0.0)
