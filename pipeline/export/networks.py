"""Networks as other programs take them: layers of PyTorch alone, in float32, without what only training needs."""

from __future__ import annotations

import copy
import io
from typing import TYPE_CHECKING, Any

import torch
from monai.networks.nets.dynunet import DynUNetSkipLayer
from torch import nn

from pipeline.errors import Problem, UserError
from pipeline.networks import InstanceNorm

if TYPE_CHECKING:
    from torch import Tensor
    from torch.export import ExportedProgram

    from pipeline.prediction.predictor import Predictor

# More windows than anybody has memory for.
MOST_WINDOWS = 4096
# What a traced network keeps beside what it computes: the lines of the sources that it was made from, with their paths.
NEEDED = ("val", "tensor_meta")
# By how much of the largest output, float32 computed in another order differs.
TOLERANCE = 1e-3


def plain_network(network: nn.Module) -> nn.Module:
    """Return a copy of a network, in evaluation mode on the CPU, with plain layers in the place of ours."""
    copied = copy.deepcopy(network).to("cpu", torch.float32).eval()
    for parameter in copied.parameters():
        parameter.data = parameter.data.contiguous()
        parameter.requires_grad_(False)
    _make_plain(copied)
    return copied


def _make_plain(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, InstanceNorm):
            plain = nn.GroupNorm(child.num_groups, child.num_channels, child.eps, child.affine).eval()
            plain.load_state_dict(child.state_dict())
            setattr(module, name, plain.requires_grad_(False))
            continue
        if isinstance(child, DynUNetSkipLayer):  # The coarser levels' outputs, which only training looks at.
            child.heads = None
            child.super_head = None
        _make_plain(child)


def trace(predictor: Predictor, channels: int, name: str) -> ExportedProgram:
    """Trace a predictor's network: windows ``[B, C, …]`` of its patch in, logits ``[B, K, …]`` out, B any number.

    Args:
        predictor: Whose network it is.
        channels: Of an image.
        name: Of the network, for a message.

    Returns:
        What ``torch.export`` has found, with no word of the sources and their places.

    Raises:
        UserError: The network does what cannot be traced, or the trace computes something else.
    """
    network = plain_network(predictor.network)
    example = torch.zeros(2, channels, *predictor.patch_size)
    try:
        with torch.no_grad():
            program = torch.export.export(
                network, (example,), dynamic_shapes=({0: torch.export.Dim("batch", max=MOST_WINDOWS)},)
            )
    except Exception as error:  # Whatever a network of a plugin makes torch stumble over.
        raise cannot_export(name, f"cannot be traced: {str(error).partition(chr(10))[0]}") from error
    _forget_sources(program)
    module = program.module()
    windows, expected = tried(predictor, channels)
    with torch.no_grad():
        refuse_other_output(name, module(windows), expected)
        refuse_other_output(name, module(windows[:1]), expected[:1])
    return program


def tried(predictor: Predictor, channels: int) -> tuple[Tensor, Tensor]:
    """Return three windows of noise, and a network's own output to them, float32."""
    windows = torch.randn(3, channels, *predictor.patch_size, generator=torch.Generator().manual_seed(0))
    training = predictor.network.training
    with torch.no_grad():
        expected: Tensor = predictor.network.float().eval()(windows)
    predictor.network.train(training)
    return windows, expected


def refuse_other_output(name: str, found: Tensor, expected: Tensor) -> None:
    """Refuse an exported network whose output is not the network's own.

    Raises:
        UserError: It is another.
    """
    if found.shape != expected.shape:
        raise cannot_export(name, f"gives {tuple(found.shape)} in place of {tuple(expected.shape)} once it is exported")
    difference = float((found - expected).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):
        raise cannot_export(name, f"gives numbers that differ by {difference:.3g} once it is exported")


def cannot_export(name: str, message: str) -> UserError:
    """Return the error of a network that this format cannot hold."""
    remedy = "choose another: --format model takes every network"
    return UserError("The model cannot be exported in this format.", [Problem(name, "bad-network", message, remedy)])


def as_bytes(program: ExportedProgram) -> bytes:
    """Return the content of a ``.pt2`` file, in which no path stands."""
    buffer = io.BytesIO()
    program.example_inputs = None  # Two windows of zeros, which may be larger than the weights.
    torch.export.save(program, buffer)
    return buffer.getvalue()


def _forget_sources(program: ExportedProgram) -> None:
    modules: list[Any] = [
        module for module in program.graph_module.modules() if isinstance(module, torch.fx.GraphModule)
    ]
    for node in (node for module in modules for node in module.graph.nodes):
        for key in [key for key in node.meta if key not in NEEDED]:
            del node.meta[key]
