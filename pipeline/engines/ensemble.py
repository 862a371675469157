"""Several networks of one kind that are trained in turns and predict together."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.functional import logsigmoid

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor


class DeepEnsemble(nn.Module):
    """Networks that differ in their first weights and in the batches they see.

    In training its output is that of the member whose turn it is; the others get no gradient and do not change. So a
    step takes as long as that of a single network, N members share the steps of a training, and one schedule of the
    learning rate applies to all. In evaluation its output is the logarithm of the mean of the members' probabilities,
    or the logit of that mean where each channel is a region of its own. Lakshminarayanan, Pritzel, Blundell 2017 (arXiv
    1612.01474).

    Args:
        members: Networks, image ``[B, C, …]`` in, logits ``[B, K, …]`` out.
        regions: Whether channels are regions, which do not exclude each other.

    Attributes:
        turn: The step that is trained, counted from anywhere; it is the turn of member ``turn % N``.
    """

    def __init__(self, members: Iterable[nn.Module], *, regions: bool = False) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.regions = regions
        self.turn = 0

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return logits ``[B, K, …]``; in training the output of the member whose turn it is."""
        if self.training:
            output: Tensor | tuple[Tensor, ...] = self._learner(image)
            return output
        if self.regions:
            wide = torch.stack([member(image).float() for member in self.members])
            return logsigmoid(wide).logsumexp(dim=0) - logsigmoid(-wide).logsumexp(dim=0)
        each = torch.stack([member(image).log_softmax(dim=1, dtype=torch.float32) for member in self.members])
        return each.logsumexp(dim=0) - math.log(len(self.members))

    def reconstruct(self, logits: Tensor) -> Tensor:
        """Return the image ``[B, C, …]`` that the decoder of the member whose turn it is makes of its logits."""
        reconstruct: Any = self._learner.reconstruct
        made: Tensor = reconstruct(logits)
        return made

    @property
    def _learner(self) -> nn.Module:
        return self.members[self.turn % len(self.members)]
