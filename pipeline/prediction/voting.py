"""What is said of a whole scan at once, such as by atlases, on its way to the scan's own grid beside networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.prediction.sweep import Sweep

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

# The least probability that counts; its logarithm is still a number in any precision.
LEAST = 1e-6


@dataclass(frozen=True, kw_only=True)
class VoteSweep(Sweep):
    """Probabilities that are there already, as a network's way over a scan.

    Attributes:
        probabilities: ``[K, X, Y, Z]`` on the network's grid.
    """

    probabilities: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """Return the logarithms of probabilities ``[K, N]``."""
        return features.clamp(min=LEAST).log()

    def _stitched(self) -> Iterator[Tensor]:
        yield from self.probabilities.movedim(self.windows.slab + 1, 0)
