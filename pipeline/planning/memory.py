"""Estimate the memory that training takes, by counting instead of running."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.autograd.graph import saved_tensors_hooks

if TYPE_CHECKING:
    from collections.abc import Callable

# Float32 maps with as many channels as there are classes that the objective holds at its peak: logits, softmax and its
# logarithm, gradients of as many, and what a loss such as N-cut makes of them.
OBJECTIVE_MAPS = 8
# Bytes a parameter: itself, its gradient, AdamW's two moments and its average in float32.
PARAMETER_BYTES = 20
# What is held beside the counted tensors, such as copies in other layouts and gaps between blocks: measured for three
# networks, two precisions, 2-D and 3-D, it came to a half of them.
OVERHEAD = 1.5


def training_bytes(
    build: Callable[[], torch.nn.Module], shape: tuple[int, ...], classes: int, precision: torch.dtype
) -> int:
    """Return the bytes that a training step holds at its peak, beside the program and its libraries.

    The network is built and run on PyTorch's ``meta`` device, where a tensor has a shape and no data. Counted are
    ``parameters * 20``, every tensor that autograd keeps for the backward pass, twice the largest of them for the
    gradients under way, and what the objective makes of the logits; then half as much again for the allocator.

    Args:
        build: Makes the network.
        shape: Of the batch of images, ``[B, C, …]``.
        classes: Channels of the logits.
        precision: Of the network's arithmetic.
    """
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    with torch.device("meta"):
        network, images = build().train(), torch.empty(shape)
    parameters = list(network.parameters())
    network.to(precision)
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        network(images.to(precision))
    for parameter in network.parameters():
        kept.pop(parameter.untyped_storage()._cdata, None)
    sizes = [storage.nbytes() for storage in kept.values()]
    maps = OBJECTIVE_MAPS * 4 * classes * images[:, :1].numel()
    weights = PARAMETER_BYTES * sum(parameter.numel() for parameter in parameters)
    return round(OVERHEAD * (weights + sum(sizes) + 2 * max(sizes, default=0) + maps + 4 * images.numel()))
