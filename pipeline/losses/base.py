"""What every loss shares: how logits, labels, images, masks and reductions are read."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable
from torch.nn.modules.loss import _Loss

from pipeline.bounds import LabelValue
from pipeline.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from pipeline.types import Output, Reference

LOSSES = Registry("loss", "Terms of an objective: logits in, one number out.")

Reduction: TypeAlias = Literal["mean", "sum", "none"]
# Numbers gone through at a time: on a CPU what stays in its cache, elsewhere few launches and little memory.
CPU_PIECE, PIECE = 1 << 17, 1 << 24


class SegmentationLoss(_Loss):
    """Base of all losses: reads logits as class probabilities.

    A loss says what it is compared with, ``reference``, and which of the network's answers it judges, ``output``.

    Args:
        softmax: Whether the input is logits; False where probabilities are given.
        reduction: ``mean``, ``sum`` or ``none``, over cases unless the loss says otherwise.

    Raises:
        ValueError: ``reduction`` is none of the three.
    """

    reference: ClassVar[Reference]
    output: ClassVar[Output] = "logits"

    def __init__(self, *, softmax: bool = True, reduction: Reduction = "mean") -> None:
        if reduction not in get_args(Reduction):
            raise ValueError(f"reduction is {reduction!r}; expected one of {', '.join(get_args(Reduction))}")
        super().__init__(reduction=reduction)
        self.softmax = softmax

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return class probabilities ``[B, K, ...]`` in float32 or wider.

        A single channel is read as two classes: ``(1 - sigmoid, sigmoid)`` of a logit,
        ``(1 - p, p)`` of a probability.

        Raises:
            ValueError: The logits are not ``[B, K, H, W]`` or ``[B, K, H, W, D]``.
        """
        wide = widen(logits)
        if wide.shape[1] == 1:
            foreground = wide.sigmoid() if self.softmax else wide
            return torch.cat([1 - foreground, foreground], dim=1)
        return wide.softmax(dim=1) if self.softmax else wide

    def log_probabilities(self, logits: Tensor) -> Tensor:
        """Return the logarithm of the class probabilities ``[B, K, ...]``, exact for any logits.

        Given probabilities are first raised to the smallest normal number, so that a zero gives a
        large finite loss; its gradient is zero.

        Raises:
            ValueError: The logits are not ``[B, K, H, W]`` or ``[B, K, H, W, D]``.
        """
        if not self.softmax:
            given = self.probabilities(logits)
            return given.clamp(min=torch.finfo(given.dtype).tiny).log()
        wide = widen(logits)
        if wide.shape[1] == 1:
            return torch.cat([F.logsigmoid(-wide), F.logsigmoid(wide)], dim=1)
        return wide.log_softmax(dim=1)

    def reduce(self, per_case: Tensor, counted: Tensor | None = None) -> Tensor:
        """Reduce one value a case as ``reduction`` says.

        Args:
            per_case: ``[B]``.
            counted: ``[B]``, False for a case that has nothing to say: its value and its gradient are
                zero, and the mean is over the other cases. None counts every case.

        Returns:
            A number; ``[B]`` for ``none``. Zero where no case is counted.
        """
        if counted is None:
            counted = torch.ones_like(per_case, dtype=torch.bool)
        kept = per_case.where(counted, 0)
        if self.reduction == "none":
            return kept
        return kept.sum() if self.reduction == "sum" else kept.sum() / counted.sum().clamp(min=1)


class LabelLoss(SegmentationLoss):
    """Base of the losses that compare logits with labels: ``loss(logits, labels)``.

    Labels are integers ``[B, 1, H, W(, D)]`` or ``[B, H, W(, D)]``. The ``ignore`` value counts nowhere,
    and neither does any negative label, since padding is negative too.

    Args:
        softmax: Whether the input is logits; False where probabilities are given.
        ignore: The label of voxels that nobody annotated.
        reduction: ``mean``, ``sum`` or ``none``.

    Raises:
        ValueError: ``reduction`` is none of the three.
    """

    reference = "label"

    def __init__(self, *, softmax: bool = True, ignore: LabelValue = -1, reduction: Reduction = "mean") -> None:
        super().__init__(softmax=softmax, reduction=reduction)
        self.ignore = ignore

    def indices(self, labels: Tensor, like: Tensor) -> Tensor:
        """Return the class of each voxel: integers ``[B, ...]``, -1 where nothing counts.

        The range of the labels is checked on the CPU only: elsewhere, looking at a value would make the
        host wait for the device in every step, so there a label too large counts nowhere. The check of
        the data set has seen every label before any training.

        Args:
            labels: The labels as ``forward`` got them.
            like: Logits or probabilities of the same voxels; one channel is two classes.

        Raises:
            ValueError: The labels are not integers, have another shape, or name a class that is not there; or the
                logits are not ``[B, K, H, W]`` or ``[B, K, H, W, D]``.
        """
        _refuse_shape(like)
        batch, channels, *size = like.shape
        classes = max(2, channels)
        if labels.is_floating_point() or labels.is_complex():
            raise ValueError(f"labels are {labels.dtype}; expected integers, one class index a voxel")
        shapes = [(batch, 1, *size), (batch, *size)]
        if tuple(labels.shape) not in shapes:
            raise ValueError(f"labels have shape {tuple(labels.shape)}; expected {shapes[0]} or {shapes[1]}")
        index = labels.reshape(shapes[1]).long()
        if index.device.type == "cpu" and index.numel():
            low, high = map(int, index.aminmax())
            if low >= 0 and high < classes and not low <= self.ignore <= high:
                return index  # Most batches: nothing is copied.
            largest = int(index.masked_fill(index == self.ignore, -1).max())
            if largest >= classes:
                raise ValueError(f"a label is {largest}; expected 0 to {classes - 1} or ignore={self.ignore}")
        return index.masked_fill((index < 0) | (index == self.ignore) | (index >= classes), -1)

    def one_hot(self, labels: Tensor, like: Tensor) -> Tensor:
        """Return where each class is: booleans ``[B, K, ...]``, False in all classes where nothing counts.

        It is for losses that are not computed often; the sums of :func:`class_sums` need no such copy of the labels.

        Args:
            labels: The labels as ``forward`` got them.
            like: Logits or probabilities of the same voxels.

        Raises:
            ValueError: As :meth:`indices`.
        """
        classes = torch.arange(max(2, like.shape[1]), device=labels.device)
        return self.indices(labels, like)[:, None] == classes.view(-1, *[1] * (like.ndim - 2))


class ImageLoss(SegmentationLoss):
    """Base of the losses that compare logits with the image: ``loss(logits, image, mask=None)``.

    The image is ``[B, C, H, W(, D)]`` and never receives a gradient. The mask is ``[B, 1, ...]`` or
    ``[B, ...]``, nonzero inside; whatever the image holds outside, NaN included, is not looked at.
    """

    reference = "image"

    def read(self, logits: Tensor, image: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return probabilities, image (both zero outside the mask) and the boolean mask ``[B, 1, ...]``.

        Raises:
            ValueError: The shape of the logits, the image or the mask does not fit.
        """
        p = self.probabilities(logits)
        batch, _, *size = p.shape
        if image.ndim != p.ndim or image.shape[0] != batch or list(image.shape[2:]) != size:
            given, expected = tuple(image.shape), ", ".join(map(str, [batch, "C", *size]))
            raise ValueError(f"the image has shape {given}; expected ({expected}), as the logits have")
        inside, image = self.read_mask(mask, p), image.detach().to(p.dtype)
        if mask is None:  # nothing to blank out, and no copy
            return p, image, inside
        return p.where(inside, 0), image.where(inside, 0), inside

    def read_mask(self, mask: Tensor | None, like: Tensor) -> Tensor:
        """Return the boolean mask ``[B, 1, ...]``, True everywhere where none is given.

        Raises:
            ValueError: The mask does not have the shape of ``like`` ``[B, K, ...]``.
        """
        batch, _, *size = like.shape
        shapes = [(batch, 1, *size), (batch, *size)]
        if mask is None:
            return torch.ones(shapes[0], dtype=torch.bool, device=like.device)
        if tuple(mask.shape) not in shapes:
            raise ValueError(f"the mask has shape {tuple(mask.shape)}; expected {shapes[0]} or {shapes[1]}")
        return mask.reshape(shapes[0]) != 0


def require_positive(**options: float) -> None:
    """Raise a ``ValueError`` for the first option that is not a positive, finite number."""
    for name, value in options.items():
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} is {value!r}; expected a finite number above 0")


def widen(logits: Tensor) -> Tensor:
    """Return a network's answer in float32 or wider.

    Raises:
        ValueError: It is not ``[B, K, H, W]`` or ``[B, K, H, W, D]``.
    """
    _refuse_shape(logits)
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _refuse_shape(logits: Tensor) -> None:
    if logits.ndim not in (4, 5):
        given = tuple(logits.shape)
        raise ValueError(f"logits have shape {given}; expected [B, K, H, W] or [B, K, H, W, D]")


def class_sums(values: Tensor, index: Tensor, *, softmax: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Sum the probability of each class where it is and everywhere, without one-hot labels.

    With the probability ``p`` of a class, and over the annotated voxels of a case::

        inside = sum of p where the class is,    everywhere = sum of p,    voxels = how many are of the class

    Only the values themselves are kept for the backward pass: voxels are gone through a piece at a time, and there the
    softmax is taken anew.

    Args:
        values: Logits or probabilities ``[B, K, ...]``, K at least 2.
        index: The class of each voxel ``[B, ...]``, -1 where nothing counts.
        softmax: Whether the values are logits.

    Returns:
        Three times ``[B, K]``, in float32 or wider; no gradient flows through the last.
    """
    # As bytes -1 becomes 255, which is no class either.
    codes = index.to(torch.uint8) if values.shape[1] < 256 else index.masked_fill(index < 0, values.shape[1])
    sums: tuple[Tensor, Tensor, Tensor] = _ClassSums.apply(  # type: ignore[no-untyped-call]
        values.flatten(2), codes.flatten(1), softmax
    )
    return sums


class _ClassSums(torch.autograd.Function):
    """As :func:`class_sums`, for ``[B, K, N]`` and codes ``[B, N]`` that are K or more where nothing counts."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, codes: Tensor, softmax: bool) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(values, codes)
        ctx.softmax = softmax
        wide = torch.promote_types(values.dtype, torch.float32)
        inside, everywhere, voxels = values.new_zeros(3, *values.shape[:2], dtype=wide)
        for _, p, y, annotated in _pieces(values, codes, softmax):
            voxels += y.sum(dim=2)
            everywhere += (p if annotated is None else p * annotated).sum(dim=2)
            inside += y.mul_(p).sum(dim=2)
        ctx.mark_non_differentiable(voxels)
        return inside, everywhere, voxels

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, inside: Tensor, everywhere: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        values, codes = ctx.saved_tensors
        inside, everywhere = inside[..., None], everywhere[..., None]
        gradient = torch.empty_like(values)
        for part, p, y, annotated in _pieces(values, codes, ctx.softmax):
            slope = y.mul_(inside)
            slope = slope.add_(everywhere) if annotated is None else slope.addcmul_(annotated, everywhere)
            if ctx.softmax:
                torch.mul(slope.sub_((slope * p).sum(dim=1, keepdim=True)), p, out=gradient[:, :, part])
            else:
                gradient[:, :, part] = slope
        return gradient, None, None


def _pieces(values: Tensor, codes: Tensor, softmax: bool) -> Iterator[tuple[slice, Tensor, Tensor, Tensor | None]]:
    """Yield a slice of the voxels and their probabilities, one-hot labels, and 1 where annotated (None: all are)."""
    batch, classes, voxels = values.shape
    wide = torch.promote_types(values.dtype, torch.float32)
    names = torch.arange(classes, dtype=codes.dtype, device=codes.device).view(-1, 1)
    on_cpu = values.device.type == "cpu"
    size = max(1, (CPU_PIECE if on_cpu else PIECE) // (batch * classes))
    for start in range(0, voxels, size):
        part = slice(start, start + size)
        code, p = codes[:, None, part], values[:, :, part].to(wide)
        # Written as numbers at once: a comparison of bytes that is converted afterwards takes four times as long.
        y = torch.eq(code, names, out=torch.empty_like(p))
        all_count = on_cpu and int(code.max()) < classes  # Elsewhere the host would wait for the device.
        yield part, p.softmax(dim=1) if softmax else p, y, None if all_count else (code < classes).to(wide)
