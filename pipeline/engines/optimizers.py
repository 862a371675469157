"""Optimizers, registered by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field

from pipeline.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

# Each is called with ``parameters``, all weights that are trained; ``learning_rate``, the peak one, which the schedule
# replaces before every step; and ``weight_decay``.
OPTIMIZERS = Registry(
    name="optimizer",
    description="What updates the weights.",
    given=frozenset({"parameters", "learning_rate", "weight_decay"}),
)

Momentum = Annotated[float, Field(ge=0, lt=1)]


@OPTIMIZERS.register("adamw")
def adamw(parameters: Sequence[Tensor], learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101)."""
    fused = parameters[0].device.type != "cpu"  # One kernel for all weights.
    return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay, fused=fused)


@OPTIMIZERS.register("sgd")
def sgd(
    parameters: Sequence[Tensor],
    learning_rate: float,
    weight_decay: float,
    *,
    momentum: Momentum = 0.99,
    nesterov: bool = True,
) -> torch.optim.Optimizer:
    """Gradient descent with Nesterov's momentum, as in nnU-Net: there with learning_rate 1e-2, weight_decay 3e-5.

    Args:
        parameters: All weights that are trained.
        learning_rate: The peak learning rate.
        weight_decay: The weights times this factor are added to their gradient.
        momentum: The factor of the previous update that is added to the next.
        nesterov: Whether to use Nesterov's form of momentum, which needs one above 0.

    Raises:
        ValueError: ``nesterov`` without momentum.
    """
    fused = parameters[0].device.type != "cpu"
    return torch.optim.SGD(
        parameters, lr=learning_rate, weight_decay=weight_decay, momentum=momentum, nesterov=nesterov, fused=fused
    )
