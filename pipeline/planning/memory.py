"""Estimate the memory that training takes, by counting instead of running."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.autograd.graph import saved_tensors_hooks

from pipeline.networks import blocks_of

if TYPE_CHECKING:
    from collections.abc import Callable

# Float32 maps with as many channels as there are classes that the objective holds at its peak: logits, softmax and its
# logarithm, gradients of as many, and what a loss such as N-cut makes of them.
OBJECTIVE_MAPS = 8
# Bytes a parameter: itself, its gradient, AdamW's two moments and its average in float32; and without the average.
PARAMETER_BYTES = 20
UNAVERAGED_BYTES = 16
# What is held beside the counted tensors, such as copies in other layouts and gaps between blocks: measured for three
# networks, two precisions, 2-D and 3-D, it came to a half of them.
OVERHEAD = 1.5


# Up to so many times what is estimated may have been too much.
TOO_HIGH = 1.75


def training_bytes(
    build: Callable[[], torch.nn.Module],
    shape: tuple[int, ...],
    classes: int,
    precision: torch.dtype,
    *,
    recompute: bool = False,
    members: int = 1,
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
        recompute: Whether blocks keep their inputs alone; then the features of the largest block come on top.
        members: So many networks are held, of which a step trains one.
    """
    with torch.device("meta"):
        network = build().train()
        images = torch.empty(shape)
    parameters = list(network.parameters())
    network.to(precision)
    kept = _Kept(recompute)
    for block in blocks_of(network):
        block.register_forward_pre_hook(lambda _, inputs: kept.enter(inputs))
        block.register_forward_hook(lambda *_: kept.leave())
    with saved_tensors_hooks(kept.keep, lambda tensor: tensor):
        network(images.to(precision))
    weights = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    sizes = kept.sizes(without=weights)
    maps = OBJECTIVE_MAPS * 4 * classes * images[:, :1].numel()
    state = members * PARAMETER_BYTES * sum(parameter.numel() for parameter in parameters)
    return round(OVERHEAD * (state + sum(sizes) + 2 * max(sizes, default=0) + maps + 4 * images.numel()))


def least_bytes(estimated: int, build: Callable[[], torch.nn.Module], *, averaged: bool, members: int = 1) -> int:
    """Return the least that an estimate may mean: parameters are counted exactly, all else up to 1.75 times too high.

    Args:
        estimated: What :func:`training_bytes` returned.
        build: Makes the network.
        averaged: Whether an average of the weights is kept.
        members: So many networks are held.
    """
    with torch.device("meta"):
        count = members * sum(parameter.numel() for parameter in build().parameters())
    rest = max(0.0, estimated - OVERHEAD * PARAMETER_BYTES * count)
    return round((PARAMETER_BYTES if averaged else UNAVERAGED_BYTES) * count + rest / TOO_HIGH)


class _Kept:
    """Counts what is kept for the backward pass: all of it, or outside of blocks and at their entrances alone."""

    def __init__(self, recompute: bool) -> None:
        self.recompute = recompute
        self.outside: dict[int, torch.UntypedStorage] = {}
        self.inside: list[dict[int, torch.UntypedStorage]] = []
        self._place = self.outside

    def enter(self, inputs: tuple[torch.Tensor, ...]) -> None:
        """Come into a block."""
        if self.recompute:
            for tensor in inputs:
                self.keep(tensor)
            self._place = {}
            self.inside.append(self._place)

    def leave(self) -> None:
        """Come out of it."""
        self._place = self.outside

    def keep(self, tensor: torch.Tensor) -> torch.Tensor:
        """Count a tensor's storage, which has many tensors, once."""
        self._place[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    def sizes(self, without: set[int]) -> list[int]:
        """Return the bytes of each storage, of those inside a block only the largest block's."""
        outside = [storage.nbytes() for key, storage in self.outside.items() if key not in without]
        inside = [
            [storage.nbytes() for key, storage in place.items() if key not in without | self.outside.keys()]
            for place in self.inside
        ]
        return outside + max(inside, key=sum, default=[])
