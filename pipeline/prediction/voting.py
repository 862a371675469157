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
        probabilities: Of the classes, ``[K, X, Y, Z]`` on the network's grid, also where the network says regions.
    """

    probabilities: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """Return the logarithms of probabilities ``[K, N]``; for regions, the logits of the sums over their classes."""
        if regions := self.predictor.regions:
            values = self.predictor.label_values
            inside = features.new_tensor([[value in region.values for value in values] for region in regions])
            return (inside @ features).logit(eps=LEAST)
        return features.clamp(min=LEAST).log()

    def _stitched(self) -> Iterator[Tensor]:
        yield from self.probabilities.movedim(self.windows.slab + 1, 0)
