"""Cross-teaching: the members of an ensemble, which is trained anyway, are each other's teachers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from pipeline.engines.ensemble import DeepEnsemble
from pipeline.engines.sources.base import SOURCES, Source
from pipeline.engines.sources.mean_teacher import confident_labels, confident_regions

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from pipeline.engines.values import StreamValues

# The least probability whose logit counts.
LEAST = 1e-6


@SOURCES.register("cross_teaching")
class CrossTeaching(Source):
    """The labels that the other members of an ensemble predict for the member whose turn it is.

    It provides ``peer_label`` ``[B, 1, …]``: the likeliest class by the mean of the others' probabilities, predicted on
    the scan's own intensities; -1 outside the scan and where that mean is below ``confidence``. Of regions it has a
    channel each: 1 inside and 0 outside. It has no gradient. The members differ in their first weights and in the
    batches they see.

    Chen et al., cross pseudo supervision, CVPR 2021, arXiv 2106.01226; Luo et al., cross-teaching, MIDL 2022,
    arXiv 2112.04894, where both networks are updated in every step.

    Args:
        student: The ensemble that is trained.
        new_network: Not used.
        confidence: The least mean probability of a label, 0 to 1.

    Raises:
        ValueError: The student is a single network, or ``confidence`` is outside of its range.
    """

    provides = ("peer_label",)
    needs = ("plain_image",)

    def __init__(
        self,
        student: nn.Module,
        new_network: Callable[[int], nn.Module] | None = None,
        *,
        confidence: float = 0.0,
    ) -> None:
        if not isinstance(student, DeepEnsemble):
            raise ValueError("cross_teaching needs several networks; write network.members=2 or more")
        if not 0 <= confidence <= 1:
            raise ValueError(f"confidence is {confidence!r}; expected 0 to 1")
        super().__init__(student, new_network)
        self.confidence = confidence

    @torch.no_grad()
    def __call__(self, known: StreamValues) -> dict[str, Any]:
        """Return the labels that the other members predict."""
        count = len(self.student.members)
        others = [self.student.members[(self.student.turn + n) % count].eval() for n in range(1, count)]
        image = known["plain_image"]
        each = [other(image).float() for other in others]
        for other in others:
            other.train()
        if self.regions:
            logits = torch.stack([one.sigmoid() for one in each]).mean(dim=0).logit(eps=LEAST)
            return {"peer_label": confident_regions(logits, known["mask"], self.confidence)}
        mean = torch.stack([one.softmax(dim=1) for one in each]).mean(dim=0)
        return {"peer_label": confident_labels(mean.log(), known["mask"], self.confidence)}
