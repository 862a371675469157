"""A network whose last layer mixes features voxel by voxel: stitching and resampling commute with such a layer.

Both are weighted sums over voxels, and the layer is one over features. So the features can be stitched and resampled
in place of the classes that are made of them, however many classes there are.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Head:
    """The last layer of a network: a convolution of one voxel, whose output is the network's.

    Attributes:
        owner: The module that holds it.
        name: Its name there.
        layer: The convolution, features in and classes out.
    """

    owner: nn.Module
    name: str
    layer: nn.Conv2d | nn.Conv3d

    @property
    def weight(self) -> Tensor:
        """``[classes, features]``, float32."""
        return self.layer.weight.detach().flatten(1).float()

    @property
    def bias(self) -> Tensor | None:
        """``[classes]``, float32, or None."""
        if self.layer.bias is None:
            return None
        return self.layer.bias.detach().float()

    @contextmanager
    def removed(self) -> Iterator[None]:
        """Let the network return the features."""
        setattr(self.owner, self.name, nn.Identity())
        try:
            yield
        finally:
            setattr(self.owner, self.name, self.layer)


def find_head(network: nn.Module, image: Tensor) -> Head | None:
    """Return a network's last layer if it has fewer features than classes; else None.

    It counts only where the network's output is the convolution's, and where the network without it and
    then the convolution give the same: nothing has changed the output since.

    Args:
        network: Image ``[B, C, …]`` in, logits ``[B, K, …]`` out; in evaluation mode.
        image: What it is tried on.
    """
    # Without its name: a network that is one convolution has nothing to hold another layer in its place.
    layers = {module: name for name, module in network.named_modules() if name and _is_pointwise(module)}
    layer = _layer_of_output(network, image, list(layers)) if layers else None
    if layer is None:
        return None
    owner, _, name = layers[layer].rpartition(".")
    head = Head(network.get_submodule(owner), name, layer)
    return head if _is_all(network, head, image) else None


def _is_pointwise(module: nn.Module) -> bool:
    return (
        isinstance(module, CONVOLUTIONS)
        and {*module.kernel_size, *module.stride, module.groups} == {1}
        and set(module.padding) == {0}
        and module.in_channels < module.out_channels
    )


def _layer_of_output(network: nn.Module, image: Tensor, layers: list[nn.Module]) -> nn.Conv2d | nn.Conv3d | None:
    """Return the layer whose output is the network's own, and that works once."""
    calls: list[tuple[nn.Module, Tensor]] = []

    def note(module: nn.Module, _: object, output: Tensor) -> None:
        calls.append((module, output))

    handles = [layer.register_forward_hook(note) for layer in layers]
    try:
        final = network(image)
    finally:
        for handle in handles:
            handle.remove()
    found = [layer for layer, output in calls if output is final]
    once = [layer for layer in found if sum(module is layer for module, _ in calls) == 1]
    if once and isinstance(once[0], CONVOLUTIONS):
        return once[0]
    return None


def _is_all(network: nn.Module, head: Head, image: Tensor) -> bool:
    """Tell whether a network without its head, and then the head, is the network."""
    whole = network(image)
    with head.removed():
        features = network(image)
    if not isinstance(features, torch.Tensor) or features.shape[1] != head.layer.in_channels:
        return False
    return torch.allclose(head.layer(features), whole, rtol=1e-4, atol=1e-5)
