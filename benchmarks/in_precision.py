"""Mixed precision for MONAI's trainer on a CPU; its own `amp` is for CUDA alone."""

from __future__ import annotations

import torch


class InPrecision(torch.nn.Module):
    """A network in autocast, with its output in float32.

    Args:
        network: An image in, logits out, or several of them in a tuple.
        precision: ``bfloat16``, or ``float32``, which changes nothing.
    """

    def __init__(self, network: torch.nn.Module, precision: str) -> None:
        super().__init__()
        self.network, self.precision = network, precision

    def forward(self, image: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Return the network's output in float32."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bfloat16"):
            output = self.network(image)
        return output.float() if isinstance(output, torch.Tensor) else [level.float() for level in output]
