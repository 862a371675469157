"""An average of the weights over the last part of a training, which predicts better than the weights of one step."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn


class WeightAverage:
    """Running mean of a network's weights over the last part of a training, which grows with the training.

    After step t the average ``a`` moves to the weights ``w``::

        a <- a + r_t (w - a),    r_t = min(1, (g + 1) / (t + g)),    g = 1 / age - 2

    so that the weights of step s count in proportion to about ``s ** g``, and the mean of s is ``(1 - age) t``. The
    length of the training need not be known. Karras et al. 2024 (arXiv 2312.02696), section 3.1: the "power function"
    average.

    Args:
        network: The network. Its weights are averaged, and its running statistics with them.
        age: Mean age of the weights in the average as a share of the steps done, above 0 and below 1/2.

    Attributes:
        network: A copy that holds the average.

    Raises:
        ValueError: ``age`` is not in that range.
    """

    def __init__(self, network: nn.Module, age: float) -> None:
        if not 0 < age < 0.5:
            raise ValueError(f"age is {age!r}; expected a number above 0 and below 0.5")
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.gain = 1 / age - 2

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the weights after a step, counted from 1."""
        ours = _numbers(self.network)
        theirs = _numbers(network)
        torch._foreach_lerp_(ours, theirs, min(1.0, (self.gain + 1) / (step + self.gain)))


def _numbers(network: nn.Module) -> list[Tensor]:
    return [tensor for tensor in network.state_dict().values() if tensor.is_floating_point()]
