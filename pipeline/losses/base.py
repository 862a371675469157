"""Base classes of the losses: reading logits, labels, images and masks, and reducing over cases."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from torch.nn.modules.loss import _Loss

from pipeline.bounds import LabelValue
from pipeline.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

Reduction: TypeAlias = Literal["mean", "sum", "none"]
# A network's output: one tensor, or under deep supervision one for each level, the finest first.
Prediction: TypeAlias = "Tensor | tuple[Tensor, ...]"


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value.isidentifier()


class SegmentationLoss(_Loss):
    """Base of all losses: reads logits as class probabilities.

    A subclass names the value that it judges in ``judges``, and the values that this is compared with in ``against``,
    in the order of the arguments of ``forward``: tensors of the batch (``image``, ``label``, ``mask``) or values that a
    source provides. A recipe may name others. Where ``takes_annotated`` is set, ``forward`` takes one more, the classes
    that are annotated in each case, ``[B, K]``; of other losses such cases are merged first.

    A NaN among the numbers that count gives NaN. A batch without a case or without a voxel gives 0 with a zero
    gradient. MONAI's ``MetaTensor`` is read as a plain tensor.

    Args:
        softmax: Whether the input is logits; False for probabilities.
        reduction: ``mean``, ``sum`` or ``none``, over cases unless the loss says otherwise.

    Raises:
        ValueError: ``reduction`` is none of the three.
        TypeError: When a subclass is defined whose ``judges`` is no name, or whose ``against`` is no tuple of names.
    """

    judges: ClassVar[str] = "logits"
    against: ClassVar[tuple[str, ...]]
    takes_annotated: ClassVar[bool] = False
    called_with: ClassVar[dict[str, tuple[str, ...]]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        against = getattr(cls, "against", None)
        if not isinstance(against, tuple) or not all(map(_is_name, (cls.judges, *against))):
            message = f"{cls.__name__} judges {cls.judges!r} against {against!r}; expected a name and a tuple of names"
            raise TypeError(message)
        cls.called_with = {"forward": (cls.judges, *against, *["annotated"] * cls.takes_annotated)}

    def __init__(self, *, softmax: bool = True, reduction: Reduction = "mean") -> None:
        if reduction not in get_args(Reduction):
            raise ValueError(f"reduction is {reduction!r}; expected one of {', '.join(get_args(Reduction))}")
        super().__init__(reduction=reduction)
        self.softmax = softmax

    def __call__(self, *tensors: Tensor | None, **named: Tensor | None) -> Tensor:
        """Return ``forward`` of the tensors."""
        result: Tensor = super().__call__(*map(_plain, tensors), **{key: _plain(one) for key, one in named.items()})
        return result

    def compare(self, judged: Prediction, *targets: Tensor) -> Tensor:
        """Return the loss of a network's output; under deep supervision, of its finest level.

        Args:
            judged: The output, ``[B, K, ...]``, or one for each level.
            targets: The values named by ``against``, in their order.

        Raises:
            LossValueError: The loss is no single floating-point number with a gradient.
        """
        return one_number(self(levels_of(judged)[0], *targets), judged, *targets)

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
        if self.softmax:
            return wide.softmax(dim=1)
        return wide

    def log_probabilities(self, logits: Tensor) -> Tensor:
        """Return the logarithm of the class probabilities ``[B, K, ...]``, exact for any logits.

        Given probabilities are first raised to the smallest normal number, so that a zero gives a
        large finite loss; its gradient is zero. A voxel with a NaN has NaN for every class.

        Raises:
            ValueError: The logits are not ``[B, K, H, W]`` or ``[B, K, H, W, D]``.
        """
        if not self.softmax:
            given = self.probabilities(logits)
            # Plus 0, or NaN where any class is NaN.
            return (
                given.clamp(min=torch.finfo(given.dtype).tiny).log().add_(given.detach().sum(dim=1, keepdim=True) * 0)
            )
        wide = widen(logits)
        if wide.shape[1] == 1:
            return torch.cat([F.logsigmoid(-wide), F.logsigmoid(wide)], dim=1)
        return wide.log_softmax(dim=1)

    def reduce(self, per_case: Tensor, counted: Tensor | None = None) -> Tensor:
        """Reduce the values of cases as ``reduction`` says.

        Args:
            per_case: ``[B]``.
            counted: ``[B]``, False for a case that does not count: its value and its gradient are zero, and the mean is
                over the other cases. None counts every case.

        Returns:
            A number; ``[B]`` for ``none``. Zero where no case is counted.
        """
        if counted is None:
            counted = torch.ones_like(per_case, dtype=torch.bool)
        kept = per_case.where(counted, 0)
        if self.reduction == "none":
            return kept
        if self.reduction == "sum":
            return kept.sum()
        return kept.sum() / counted.sum().clamp(min=1)


LOSSES = Registry(name="loss", description="Terms of an objective: logits in, one number out.", base=SegmentationLoss)


class LabelLoss(SegmentationLoss):
    """Base of the losses that compare logits with labels: ``loss(logits, labels)``.

    Labels are ``[B, 1, H, W(, D)]`` or ``[B, H, W(, D)]``: whole numbers in any type, float32 as MONAI loads them
    included. Voxels with the ``ignore`` value, or any negative label, do not count: padding is negative too.

    Args:
        softmax: Whether the input is logits; False for probabilities.
        ignore: The label of voxels that nobody annotated.
        reduction: ``mean``, ``sum`` or ``none``.

    Raises:
        ValueError: ``reduction`` is none of the three.
    """

    against = ("label",)

    def __init__(self, *, softmax: bool = True, ignore: LabelValue = -1, reduction: Reduction = "mean") -> None:
        super().__init__(softmax=softmax, reduction=reduction)
        self.ignore = ignore

    def compare(self, judged: Prediction, *targets: Tensor) -> Tensor:
        """Return the loss of a network's output; under deep supervision, the weighted mean over its levels.

        The weights are 1, 1/2, 1/4, …. Each level is compared with labels resampled to it by the nearest voxel.

        Args:
            judged: The output, ``[B, K, ...]``, or one for each level.
            targets: The values named by ``against``, in their order.

        Raises:
            LossValueError: The loss of a level is no single floating-point number with a gradient.
        """
        levels = levels_of(judged)
        weights = [0.5**level for level in range(len(levels))]
        losses = [
            weight * one_number(self(level, *(_shrunk(target, level) for target in targets)), level, *targets)
            for weight, level in zip(weights, levels, strict=True)
        ]
        return torch.stack(losses).sum() / sum(weights)

    def indices(self, labels: Tensor, like: Tensor) -> Tensor:
        """Return the class of each voxel: integers ``[B, ...]``, -1 for voxels that do not count.

        Values are checked on the CPU only. On another device that would make the host wait in every step; there, voxels
        with a label that is too large or has a fraction do not count. The check of the dataset has seen every label
        before any training.

        Args:
            labels: ``[B, 1, ...]`` or ``[B, ...]``.
            like: Logits or probabilities ``[B, K, ...]`` of the same voxels; one channel is two classes.

        Raises:
            ValueError: The labels are not whole numbers, have another shape, or name a class that is not there; or
                the logits are not ``[B, K, H, W]`` or ``[B, K, H, W, D]``.
        """
        _refuse_shape(like)
        batch, channels, *size = like.shape
        classes = max(2, channels)
        if labels.is_complex():
            raise ValueError(f"labels are {labels.dtype}; expected whole numbers, one class index a voxel")
        shapes = [(batch, 1, *size), (batch, *size)]
        if tuple(labels.shape) not in shapes:
            raise ValueError(f"labels have shape {tuple(labels.shape)}; expected {shapes[0]} or {shapes[1]}")
        index = (_whole(labels) if labels.is_floating_point() else labels).reshape(shapes[1]).long()
        if index.device.type == "cpu" and index.numel():
            low, high = map(int, index.aminmax())
            if low >= 0 and high < classes and not low <= self.ignore <= high:
                return index  # Most batches: nothing is copied.
            largest = int(index.masked_fill(index == self.ignore, -1).max())
            if largest >= classes:
                raise ValueError(f"a label is {largest}; expected 0 to {classes - 1} or ignore={self.ignore}")
        return index.masked_fill((index < 0) | (index == self.ignore) | (index >= classes), -1)

    def one_hot(self, labels: Tensor, like: Tensor) -> Tensor:
        """Return where each class is: booleans ``[B, K, ...]``, False in all classes for voxels that do not count.

        It takes K bytes per voxel; :func:`class_sums` needs no such copy of the labels.

        Args:
            labels: ``[B, 1, ...]`` or ``[B, ...]``.
            like: Logits or probabilities ``[B, K, ...]`` of the same voxels.

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

    against: ClassVar[tuple[str, ...]] = ("image", "mask")

    def read(self, logits: Tensor, image: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return probabilities, image (both zero outside the mask) and the boolean mask ``[B, 1, ...]``.

        Raises:
            ValueError: The shape of the logits, the image or the mask does not fit.
        """
        p = self.probabilities(logits)
        batch, _, *size = p.shape
        if image.ndim != p.ndim or image.shape[0] != batch or list(image.shape[2:]) != size:
            given = tuple(image.shape)
            expected = ", ".join(map(str, [batch, "C", *size]))
            raise ValueError(f"the image has shape {given}; expected ({expected}), as the logits have")
        inside = self.read_mask(mask, p)
        image = image.detach().to(p.dtype)
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


class LossValueError(ValueError):
    """A loss has returned something that nothing can be trained by; the message says what."""


def one_number(value: Any, *inputs: Any) -> Tensor:
    """Return the value of a loss, or refuse one that nothing can be trained by.

    Args:
        value: What the loss returned.
        inputs: What the loss was computed from: tensors, or predictions of several levels.

    Raises:
        LossValueError: It is no single floating-point number, or has no gradient although an input has one.
    """
    learns = torch.is_grad_enabled() and any(level.requires_grad for each in inputs for level in levels_of(each))
    if not isinstance(value, torch.Tensor):
        raise LossValueError(type(value).__name__)
    if value.ndim:
        raise LossValueError(f"a tensor of shape {tuple(value.shape)}")
    if not value.is_floating_point():
        raise LossValueError(f"a number of type {str(value.dtype).removeprefix('torch.')}")
    if learns and not value.requires_grad:
        raise LossValueError("a number without a gradient")
    return value


def require_positive(**options: float) -> None:
    """Raise a ``ValueError`` for the first option that is not a positive, finite number."""
    for name, value in options.items():
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} is {value!r}; expected a finite number above 0")


def widen(logits: Tensor) -> Tensor:
    """Return a network's output in float32 or wider.

    Raises:
        ValueError: It is not ``[B, K, H, W]`` or ``[B, K, H, W, D]``.
    """
    _refuse_shape(logits)
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _plain(tensor: Tensor | None) -> Tensor | None:
    """Return a ``MetaTensor`` of MONAI as a plain tensor: every operation would copy its metadata."""
    as_tensor = getattr(tensor, "as_tensor", None)
    return as_tensor() if as_tensor else tensor


def _whole(labels: Tensor) -> Tensor:
    """Return float labels, with -1 in place of values that are no integers; on the CPU such a value is an error."""
    whole = (labels.frac() == 0) & (labels.abs() < 2.0**63)  # An integer holds no more.
    if labels.device.type == "cpu" and not whole.all():
        worst = labels[~whole][0].item()
        raise ValueError(f"a label is {worst:g}; expected whole numbers, one class index a voxel")
    return labels.where(whole, -1)


def levels_of(prediction: Prediction) -> tuple[Tensor, ...]:
    """Return the levels of a prediction, the finest first; one without deep supervision."""
    return prediction if isinstance(prediction, tuple) else (prediction,)


def _shrunk(labels: Tensor, level: Tensor) -> Tensor:
    """Return labels resampled to a coarser level by the nearest voxel; what is not of voxels as it is."""
    if labels.ndim == 2 or labels.shape[2:] == level.shape[2:]:
        return labels
    return F.interpolate(labels.float(), level.shape[2:], mode="nearest-exact").to(labels.dtype)


def _refuse_shape(logits: Tensor) -> None:
    if logits.ndim not in (4, 5):
        given = tuple(logits.shape)
        raise ValueError(f"logits have shape {given}; expected [B, K, H, W] or [B, K, H, W, D]")
