"""Sums of class probabilities over the voxels of a case, which overlap losses are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

# Numbers that are computed at a time: on a CPU as many as its cache holds; on a GPU enough to need few kernel launches,
# but not so many that memory runs short.
CPU_PIECE = 1 << 17
PIECE = 1 << 24


def class_sums(values: Tensor, index: Tensor, *, softmax: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Sum the probability of each class over its own voxels and over all, without one-hot labels.

    For each class with probability ``p``, over the annotated voxels of a case::

        inside = sum of p over the voxels of the class,    everywhere = sum of p,    voxels = number of its voxels

    Only the values are kept for the backward pass: voxels are processed in pieces, and the softmax is computed again
    there. Values at voxels without an annotation, NaN included, change no sum.

    Args:
        values: Logits or probabilities ``[B, K, ...]``, K at least 2.
        index: The class of each voxel ``[B, ...]``, -1 for one that does not count.
        softmax: Whether the values are logits.

    Returns:
        The three sums, each ``[B, K]`` in float32 or wider; no gradient flows through the last.
    """
    # As bytes -1 becomes 255, which is no class either.
    codes = index.to(torch.uint8) if values.shape[1] < 256 else index.masked_fill(index < 0, values.shape[1])
    sums: tuple[Tensor, Tensor, Tensor] = _ClassSums.apply(  # type: ignore[no-untyped-call]
        values.flatten(2), codes.flatten(1), softmax
    )
    return sums


class _ClassSums(torch.autograd.Function):
    """Computes :func:`class_sums` for ``[B, K, N]`` and codes ``[B, N]``, K or more for a voxel that does not count."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, codes: Tensor, softmax: bool) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(values, codes)
        ctx.softmax = softmax
        wide = torch.promote_types(values.dtype, torch.float32)
        inside, everywhere, voxels = values.new_zeros(3, *values.shape[:2], dtype=wide)
        for _, p, y, annotated in _pieces(values, codes, softmax):
            voxels += y.sum(dim=2)
            if annotated is not None:
                p = p.where(annotated, 0)
            everywhere += p.sum(dim=2)
            inside += y.mul_(p).sum(dim=2)
        ctx.mark_non_differentiable(voxels)
        return inside, everywhere, voxels

    @staticmethod
    def backward(ctx: Any, inside: Tensor, everywhere: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        values, codes = ctx.saved_tensors
        inside = inside[..., None]
        everywhere = everywhere[..., None]
        if torch.is_grad_enabled():
            return _differentiable_gradient(values, codes, ctx.softmax, inside, everywhere), None, None
        gradient = torch.empty_like(values)
        for part, p, y, annotated in _pieces(values, codes, ctx.softmax):
            slope = y.mul_(inside)
            if annotated is None:
                slope.add_(everywhere)
            else:
                slope.addcmul_(annotated.to(slope.dtype), everywhere)
            if ctx.softmax:
                torch.mul(slope.sub_((slope * p).sum(dim=1, keepdim=True)), p, out=gradient[:, :, part])
            else:
                gradient[:, :, part] = slope
        return gradient, None, None


def _differentiable_gradient(
    values: Tensor, codes: Tensor, softmax: bool, inside: Tensor, everywhere: Tensor
) -> Tensor:
    """Return the gradient of the sums, all voxels at once, in operations that have gradients themselves."""
    names = torch.arange(values.shape[1], dtype=codes.dtype, device=codes.device).view(-1, 1)
    here = codes[:, None] == names
    annotated = codes[:, None] < values.shape[1]
    slope = inside.where(here, 0) + everywhere.where(annotated, 0)
    if softmax:
        p = values.to(slope.dtype).softmax(dim=1)
        slope = p * (slope - (slope * p).sum(dim=1, keepdim=True))
    return slope.to(values.dtype)


def _pieces(values: Tensor, codes: Tensor, softmax: bool) -> Iterator[tuple[slice, Tensor, Tensor, Tensor | None]]:
    """Yield a slice of the voxels, their probabilities, one-hot labels, and which are annotated (None: all are)."""
    batch, classes, voxels = values.shape
    if not values.numel():
        return
    wide = torch.promote_types(values.dtype, torch.float32)
    names = torch.arange(classes, dtype=codes.dtype, device=codes.device).view(-1, 1)
    on_cpu = values.device.type == "cpu"
    size = max(1, (CPU_PIECE if on_cpu else PIECE) // (batch * classes))
    for start in range(0, voxels, size):
        part = slice(start, start + size)
        code = codes[:, None, part]
        p = values[:, :, part].to(wide)
        # Written as numbers at once: a comparison of bytes that is converted afterwards takes four times as long.
        y = torch.eq(code, names, out=torch.empty_like(p))
        if softmax:
            p = p.softmax(dim=1)
        all_count = on_cpu and int(code.max()) < classes  # Elsewhere the host would wait for the device.
        yield part, p, y, None if all_count else code < classes
