"""MONAI's networks, registered by name, each for 2-D and 3-D.

Every network maps ``[B, in_channels, …]`` to logits ``[B, out_channels, …]``, or in training, under deep supervision,
to a tuple of them: the network's output, and then those of its coarser levels, each at its own resolution.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import torch
from monai.networks.blocks import Convolution, ResidualUnit
from monai.networks.blocks.dynunet_block import UnetBasicBlock, UnetResBlock, UnetUpBlock
from monai.networks.blocks.segresnet_block import ResBlock
from monai.networks.layers.factories import Norm
from monai.networks.nets import DynUNet, SegResNet, UNet
from pydantic import Field
from torch import nn
from torch.nn.functional import instance_norm
from torch.utils.checkpoint import checkpoint

from pipeline.bounds import Depths, Dropout, Factors, Kernels, Widths
from pipeline.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

NETWORKS = Registry(
    name="network", description="image in, logits out", given=frozenset({"spatial_dims", "in_channels", "out_channels"})
)
# MONAI's blocks of one or more convolutions; :func:`recompute_blocks` keeps their inputs alone.
BLOCKS = (UnetUpBlock, UnetBasicBlock, UnetResBlock, ResBlock, ResidualUnit, Convolution)
# By the number of axes, batch and channels included.
CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


class InstanceNorm(nn.GroupNorm):
    """Instance norm, on a CPU computed in the fastest way that PyTorch has for the memory format.

    As the group norm of single channels, or with channels last as the batch norm of single samples, it is the same
    function. But PyTorch's instance norm returns a view, which an activation in place copies there and back: a
    step takes up to a fifth longer; and the backward pass of its group norm takes ten times longer with channels last.
    """

    def __init__(self, num_features: int, affine: bool = False) -> None:
        super().__init__(num_features, num_features, affine=affine)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``[B, C, …]`` over all but the first two axes."""
        if input.device.type == "cuda":
            return instance_norm(input, weight=self.weight, bias=self.bias, eps=self.eps)
        order = CHANNELS_LAST.get(input.ndim)
        if order is None or input.is_contiguous() or not input.is_contiguous(memory_format=order):
            return super().forward(input)
        # Not that of torch.nn.functional, which refuses a single voxel.
        given = (self.weight, self.bias, None, None, True, 0.0, self.eps, False)
        return torch.cat([torch.batch_norm(sample, *given) for sample in input.chunk(len(input))])


Norm.add_factory_class("instance_of_groups", InstanceNorm)
PLAIN_NORM = "instance_of_groups"
AFFINE_NORM = (PLAIN_NORM, {"affine": True})


@NETWORKS.register("unet")
def unet(
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    *,
    channels: Widths = (16, 32, 64, 128),
    strides: Factors | None = None,
    num_res_units: Annotated[int, Field(ge=0, le=16)] = 2,
    dropout: Dropout = 0.0,
) -> nn.Module:
    """Residual U-Net of MONAI (Kerfoot et al. 2019, doi 10.1007/978-3-030-12029-0_40), halving at each level.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Image channels.
        out_channels: Classes, background included.
        channels: Features of each level.
        strides: How each step down shrinks each axis, one step less than levels; by default by 2. A patch must be
            divisible by their product.
        num_res_units: Convolutions of a residual unit; 0 for plain convolutions.
        dropout: Probability of dropping a feature.
    """
    network: nn.Module = UNet(
        spatial_dims,
        in_channels,
        out_channels,
        channels,
        _steps(strides, channels, spatial_dims),
        num_res_units=num_res_units,
        norm=PLAIN_NORM,
        dropout=dropout,
    )
    return network


class SupervisedDynUNet(DynUNet):
    """MONAI's DynUNet, whose coarser outputs in training keep their own resolution.

    MONAI enlarges them to that of the image, so that the loss of each level costs as much as that of the finest.
    """

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return logits, or in training, under deep supervision, those of each level, the finest first."""
        logits: Tensor = self.output_block(self.skip_layers(image))
        if self.training and self.deep_supervision:
            return (logits, *self.heads)
        return logits


@NETWORKS.register("dynunet")
def dynunet(
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    *,
    channels: Widths = (32, 64, 128, 256),
    strides: Factors | None = None,
    kernels: Kernels | None = None,
    deep_supervision: bool = True,
    residual: bool = False,
) -> nn.Module:
    """The U-Net of nnU-Net as MONAI builds it (Isensee et al. 2021, doi 10.1038/s41592-020-01008-z).

    Args:
        spatial_dims: 2 or 3.
        in_channels: Image channels.
        out_channels: Classes, background included.
        channels: Features of each level, three or more.
        strides: How each step down shrinks each axis, one step less than levels; by default by 2. A patch must be
            divisible by their product.
        kernels: Size of each level's convolutions; by default 3.
        deep_supervision: Whether the levels between first and last are trained too, each half as much as the one above.
        residual: Whether blocks are residual.
    """
    levels = _levels(spatial_dims, channels, strides, kernels, deep_supervision)
    return SupervisedDynUNet(spatial_dims, in_channels, out_channels, res_block=residual, **levels)


class ResidualEncoderUNet(SupervisedDynUNet):
    """Several residual blocks a level on the way down, each level's first block the one that shrinks."""

    def __init__(self, *args: Any, blocks: tuple[int, ...], **kwargs: Any) -> None:
        self.blocks = blocks  # The parent's constructor asks for the levels.
        super().__init__(*args, res_block=True, **kwargs)

    def get_input_block(self) -> nn.Module:
        """Return the first level."""
        return self._level(0, super().get_input_block())

    def get_downsamples(self) -> nn.ModuleList:
        """Return the levels between the first and the last."""
        return nn.ModuleList(self._level(n, first) for n, first in enumerate(super().get_downsamples(), 1))

    def get_bottleneck(self) -> nn.Module:
        """Return the last level."""
        return self._level(len(self.filters) - 1, super().get_bottleneck())

    def _level(self, level: int, first: nn.Module) -> nn.Module:
        features = self.filters[level]
        shape = (self.spatial_dims, features, features, self.kernel_size[level], 1, self.norm_name, self.act_name)
        return nn.Sequential(first, *(UnetResBlock(*shape) for _ in range(1, self.blocks[level])))


@NETWORKS.register("resenc")
def resenc(
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    *,
    channels: Widths = (32, 64, 128, 256, 320, 320),
    strides: Factors | None = None,
    kernels: Kernels | None = None,
    blocks: Depths = (1, 3, 4, 6, 6, 6),
    deep_supervision: bool = True,
) -> nn.Module:
    """U-Net with a residual encoder, as in nnU-Net's ResEnc presets (Isensee et al. 2024, arXiv 2404.09556).

    The way up is that of ``dynunet``, two convolutions a level where theirs has one.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Image channels.
        out_channels: Classes, background included.
        channels: Features of each level, three or more.
        strides: How each step down shrinks each axis, one step less than levels; by default by 2. A patch must be
            divisible by their product.
        kernels: Size of each level's convolutions; by default 3.
        blocks: Residual blocks of each level on the way down, of two convolutions each. What is beyond the levels has
            no effect, and further levels have as many as the last.
        deep_supervision: Whether the levels between first and last are trained too, each half as much as the one above.
    """
    if not blocks or min(blocks) < 1:
        raise ValueError("expected one block or more for each level")
    every = blocks + blocks[-1:] * (len(channels) - len(blocks))
    levels = _levels(spatial_dims, channels, strides, kernels, deep_supervision)
    return ResidualEncoderUNet(spatial_dims, in_channels, out_channels, blocks=every, **levels)


def _levels(
    dimensions: int,
    channels: tuple[int, ...],
    strides: tuple[tuple[int, ...], ...] | None,
    kernels: tuple[tuple[int, ...], ...] | None,
    deep_supervision: bool,
) -> dict[str, Any]:
    """Return the arguments by which MONAI's DynUNet describes its levels."""
    steps = _steps(strides, channels, dimensions)
    return {
        "kernel_size": kernels or [(3,) * dimensions] * len(channels),
        "strides": [(1,) * dimensions, *steps],
        "upsample_kernel_size": steps,
        "filters": channels,
        "norm_name": AFFINE_NORM,
        "deep_supervision": deep_supervision,
        "deep_supr_num": max(1, len(channels) - 2),
    }


def blocks_of(network: nn.Module) -> Iterator[nn.Module]:
    """Yield the outermost blocks of MONAI's in a network."""
    for module in network.children():
        if isinstance(module, BLOCKS):
            yield module
        else:
            yield from blocks_of(module)


def recompute_blocks(network: nn.Module) -> None:
    """Save memory: let every block keep its input alone, and compute its features again in the backward pass.

    This is activation checkpointing. No bit of a gradient changes; a step takes up to a third longer.

    Raises:
        ValueError: The network has no block that is known.
    """
    blocks = list(blocks_of(network))
    if not blocks:
        raise ValueError("it has no block that could be computed again")
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def to_channels_last(network: nn.Module) -> None:
    """Lay out the kernels of 2-D and 3-D convolutions with their channels last, as their outputs then are."""
    for parameter in network.parameters():
        if parameter.ndim in CHANNELS_LAST:  # A copy, since strides of kernels with one channel pass for either order.
            parameter.data = parameter.data.clone(memory_format=CHANNELS_LAST[parameter.ndim])


def _steps(
    strides: tuple[tuple[int, ...], ...] | None, channels: tuple[int, ...], dimensions: int
) -> tuple[tuple[int, ...], ...]:
    steps = strides or ((2,) * dimensions,) * (len(channels) - 1)
    if len(steps) != len(channels) - 1 or any(len(step) != dimensions for step in steps):
        raise ValueError(f"expected {len(channels) - 1} strides of {dimensions} numbers for {len(channels)} levels")
    return tuple(tuple(step) for step in steps)


@NETWORKS.register("segresnet")
def segresnet(
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    *,
    init_filters: Annotated[int, Field(ge=1, le=4096)] = 16,
    blocks_down: Depths = (1, 2, 2, 4),
    blocks_up: Depths = (1, 1, 1),
    dropout: Dropout = 0.0,
) -> nn.Module:
    """Residual encoder-decoder of Myronenko 2018 (doi 10.1007/978-3-030-11726-9_28), without its autoencoder.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Image channels.
        out_channels: Classes, background included.
        init_filters: Features of the first level; each further level has twice as many.
        blocks_down: Residual blocks of each level on the way down.
        blocks_up: Residual blocks of each level on the way up.
        dropout: Probability of dropping a feature.
    """
    network: nn.Module = SegResNet(
        spatial_dims,
        init_filters,
        in_channels,
        out_channels,
        dropout_prob=dropout or None,
        blocks_down=blocks_down,
        blocks_up=blocks_up,
    )
    return network


@NETWORKS.register("wnet")
class WNet(nn.Module):
    """Two U-Nets end to end, image to segments and segments to image (Xia & Kulis 2017, arXiv 1711.08506).

    Its output is the logits of the segments, as every network's is those of its classes; the second U-Net works
    only where :meth:`reconstruct` asks for it. Both are the U-Net of ``dynunet`` without deep supervision, instead of
    the paper's separable convolutions with batch norm, which would tell the scans of a small batch from each other.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Image channels.
        out_channels: Segments.
        channels: Features of each level of both; a patch must be divisible by ``2 ** (len(channels) - 1)``.
    """

    def __init__(
        self, spatial_dims: int, in_channels: int, out_channels: int, *, channels: Widths = (16, 32, 64, 128)
    ) -> None:
        super().__init__()
        self.encoder = dynunet(spatial_dims, in_channels, out_channels, channels=channels, deep_supervision=False)
        self.decoder = dynunet(spatial_dims, out_channels, in_channels, channels=channels, deep_supervision=False)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits ``[B, out_channels, …]`` of an image ``[B, in_channels, …]``."""
        logits: Tensor = self.encoder(image)
        return logits

    def reconstruct(self, logits: Tensor) -> Tensor:
        """Return the image ``[B, in_channels, …]`` that the decoder makes of the segmentation ``softmax(logits)``."""
        image: Tensor = self.decoder(logits.softmax(dim=1))
        return image
