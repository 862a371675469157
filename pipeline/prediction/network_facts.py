"""What is found of a network by trying it once on a small patch: its last layer, and what it holds on its way."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from pipeline.memory import is_out_of_memory
from pipeline.prediction.heads import Head, find_head
from pipeline.prediction.memory import voxel_bytes_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import nn

    from pipeline.prediction.predictor import Predictor

# A network is tried on patches down to this side.
LEAST_SIDE = 16


@dataclass(frozen=True)
class NetworkFacts:
    """What was found.

    Attributes:
        head: The last layer, where it makes more classes than it has features; else None.
        features: What is stitched: its features or, without such a layer, the classes.
        voxel_bytes: What the network holds of a voxel on its way, about.
    """

    head: Head | None
    features: int
    voxel_bytes: float


def try_network(network: nn.Module, channels: int, patch: Sequence[int], classes: int) -> NetworkFacts:
    """Try a network in evaluation mode.

    Args:
        network: Image ``[1, C, …]`` in, logits ``[1, K, …]`` out.
        channels: C.
        patch: A size that it takes; smaller ones are tried first.
        classes: K.
    """
    device = next(network.parameters()).device
    for size in _sizes(patch):
        image = torch.linspace(-1, 1, channels * torch.Size(size).numel(), device=device).view(1, channels, *size)
        try:
            head = find_head(network, image)
            if head is None:
                return NetworkFacts(None, classes, voxel_bytes_of(network, image))
            with head.removed():
                return NetworkFacts(head, head.layer.in_channels, voxel_bytes_of(network, image))
        except Exception as error:
            if is_out_of_memory(error):
                break
    return NetworkFacts(None, classes, 0.0)


def _sizes(patch: Sequence[int]) -> list[tuple[int, ...]]:
    """Return sizes of a patch that a network may take, the smallest first and the patch itself last.

    >>> _sizes((96, 64, 40))
    [(48, 32, 20), (96, 64, 40)]
    """
    sizes = [tuple(patch)]
    while all(side % 2 == 0 and side // 2 >= LEAST_SIDE for side in sizes[0]):
        sizes.insert(0, tuple(side // 2 for side in sizes[0]))
    return sizes


@contextmanager
def evaluating(predictor: Predictor) -> Iterator[None]:
    """Let a predictor's network compute as it does in prediction, and give it back its own mode."""
    network = predictor.network
    precision = predictor.precision
    training = network.training
    device = predictor.device
    network.eval()
    try:
        with torch.no_grad(), torch.autocast(device.type, precision, enabled=precision != torch.float32):
            yield
    finally:
        network.train(training)
