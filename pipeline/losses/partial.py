"""Marginal probabilities: a voxel of background may be any structure that is not annotated in its case.

Shi, Xiao, Chen & Zhou, Marginal loss and exclusion loss for partially supervised multi-organ segmentation, Medical
Image Analysis 2021, doi:10.1016/j.media.2021.101979.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pipeline.losses.base import widen

if TYPE_CHECKING:
    from torch import Tensor


def merged(values: Tensor, annotated: Tensor, *, softmax: bool = True) -> Tensor:
    """Add the probabilities of classes that are not annotated in a case to its background.

    With ``U`` the classes that are not annotated, background's probability becomes ``p_0 + sum_{k in U} p_k`` and
    theirs 0; for logits that is ``log(exp z_0 + sum_{k in U} exp z_k)`` and a number that softmax makes 0. Cases in
    which every class is annotated stay as they are.

    Args:
        values: Logits or probabilities ``[B, K, H, W(, D)]``, background first.
        annotated: Booleans ``[B, K]``: whether every voxel of a class is marked in the case; background's does not
            count.
        softmax: Whether the values are logits.

    Returns:
        The same in float32 or wider.

    Raises:
        ValueError: The shapes do not fit, or there is one channel alone.

    >>> p = torch.tensor([[0.25, 0.5, 0.25]]).view(1, 3, 1, 1)
    >>> merged(p, torch.tensor([[True, False, True]]), softmax=False).flatten().tolist()
    [0.75, 0.0, 0.25]
    """
    wide = widen(values)
    if wide.shape[1] < 2 or annotated.shape != wide.shape[:2]:
        given = tuple(annotated.shape)
        raise ValueError(f"annotated classes have shape {given}; expected {tuple(wide.shape[:2])}, two classes or more")
    known = annotated.to(torch.bool).reshape(*annotated.shape, *[1] * (wide.ndim - 2))[:, 1:]
    nothing = torch.finfo(wide.dtype).min / 2 if softmax else 0.0
    parts = torch.cat([wide[:, :1], wide[:, 1:].masked_fill(known, nothing)], dim=1)
    background = parts.logsumexp(dim=1, keepdim=True) if softmax else parts.sum(dim=1, keepdim=True)
    return torch.cat([background, wide[:, 1:].masked_fill(~known, nothing)], dim=1)
