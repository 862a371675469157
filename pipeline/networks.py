"""MONAI's networks, registered, each for 2-D and 3-D.

Every network maps ``[B, in_channels, …]`` to logits ``[B, out_channels, …]``, or in training, under deep supervision,
to a tuple of them: the network's answer, and then those of its coarser levels, each at its own resolution.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai.networks.nets import DynUNet, SegResNet, UNet
from torch import nn

from pipeline.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

NETWORKS = Registry("network", "image in, logits out", given=frozenset({"spatial_dims", "in_channels", "out_channels"}))


@NETWORKS.register("unet")
def unet(
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    *,
    channels: tuple[int, ...] = (16, 32, 64, 128),
    strides: tuple[tuple[int, ...], ...] | None = None,
    num_res_units: int = 2,
    dropout: float = 0.0,
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
        dropout=dropout,
    )
    return network


class SupervisedDynUNet(DynUNet):
    """MONAI's, but for its coarser levels' answers in training: MONAI enlarges them, and a loss then pays for that."""

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return logits, or in training, under deep supervision, those of each level, the finest first."""
        logits: Tensor = self.output_block(self.skip_layers(image))
        return (logits, *self.heads) if self.training and self.deep_supervision else logits


@NETWORKS.register("dynunet")
def dynunet(
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    *,
    channels: tuple[int, ...] = (32, 64, 128, 256),
    strides: tuple[tuple[int, ...], ...] | None = None,
    kernels: tuple[tuple[int, ...], ...] | None = None,
    deep_supervision: bool = True,
    residual: bool = False,
) -> nn.Module:
    """The U-Net of nnU-Net as MONAI builds it (Isensee et al. 2021, doi 10.1038/s41592-020-01008-z).

    Args:
        spatial_dims: 2 or 3.
        in_channels: Image channels.
        out_channels: Classes, background included.
        channels: Features of each level.
        strides: How each step down shrinks each axis, one step less than levels; by default by 2. A patch must be
            divisible by their product.
        kernels: Size of each level's convolutions; by default 3.
        deep_supervision: Whether coarser levels are trained too; needs four levels or more.
        residual: Whether blocks are residual.
    """
    steps = _steps(strides, channels, spatial_dims)
    network: nn.Module = SupervisedDynUNet(
        spatial_dims,
        in_channels,
        out_channels,
        kernel_size=kernels or [(3,) * spatial_dims] * len(channels),
        strides=[(1,) * spatial_dims, *steps],
        upsample_kernel_size=steps,
        filters=channels,
        deep_supervision=deep_supervision,
        deep_supr_num=max(1, len(channels) - 2),
        res_block=residual,
    )
    return network


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
    init_filters: int = 16,
    blocks_down: tuple[int, ...] = (1, 2, 2, 4),
    blocks_up: tuple[int, ...] = (1, 1, 1),
    dropout: float = 0.0,
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

    It answers with the logits of the segments, as every network does with those of its classes; the second U-Net works
    only where :meth:`reconstruct` asks for it. Both are the U-Net of ``dynunet`` without deep supervision, instead of
    the paper's separable convolutions with batch norm, which would tell the scans of a small batch from each other.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Image channels.
        out_channels: Segments.
        channels: Features of each level of both; a patch must be divisible by ``2 ** (len(channels) - 1)``.
    """

    def __init__(
        self, spatial_dims: int, in_channels: int, out_channels: int, *, channels: tuple[int, ...] = (16, 32, 64, 128)
    ) -> None:
        super().__init__()
        self.encoder = dynunet(spatial_dims, in_channels, out_channels, channels=channels, deep_supervision=False)
        self.decoder = dynunet(spatial_dims, out_channels, in_channels, channels=channels, deep_supervision=False)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits ``[B, out_channels, …]`` of an image ``[B, in_channels, …]``."""
        logits: Tensor = self.encoder(image)
        return logits

    def reconstruct(self, logits: Tensor) -> Tensor:
        """Return the image ``[B, in_channels, …]`` that the soft segmentation, ``softmax(logits)``, tells."""
        image: Tensor = self.decoder(logits.softmax(dim=1))
        return image
