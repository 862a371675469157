"""Several networks as one, and networks that MONAI has no class for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class Together(nn.Module):
    """Networks of one kind, whose logits lie one behind the other: ``[B, M K, …]``.

    Args:
        networks: Windows ``[B, C, …]`` in, logits ``[B, K, …]`` out.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Return the logits of all networks."""
        return torch.cat([network(windows) for network in self.networks], dim=1)


class Program(nn.Module):
    """A program of ``torch.export``, weights included; it predicts, and cannot be trained.

    Args:
        path: The ``.pt2`` file.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.program = torch.export.load(path).module()

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        logits: torch.Tensor = self.program(windows)
        return logits

    def train(self, mode: bool = True) -> Program:
        """Stay in evaluation mode, the only one that a program has."""
        self.training = False
        return self
