"""Mean Teacher: the student is trained towards the predictions of a running average of its weights."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch

from pipeline.engines.sources.base import SOURCES, Source

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from pipeline.engines.values import StreamValues


@SOURCES.register("mean_teacher")
class MeanTeacher(Source):
    """The predictions of a running average of the student's weights, on the scan's own intensities.

    After step t, counted from 1, every weight and every floating-point buffer ``a`` of the teacher moves to the
    student's ``w``; other buffers are copied::

        a <- d a + (1 - d) w,    d = min(1 - 1 / (t + 1), decay)

    It provides ``teacher``: logits ``[B, K, …]``, and ``pseudo_label``: the likeliest class ``[B, 1, …]``, -1 outside
    the scan and where its probability is below ``confidence``, so that losses leave such voxels out. Neither has a
    gradient. Of regions, it has a channel each: 1 inside and 0 outside. For an ensemble, the teacher averages all
    members and predicts as an ensemble.

    Tarvainen & Valpola, NeurIPS 2017, arXiv 1703.01780; the threshold as in FixMatch, Sohn et al., NeurIPS 2020,
    arXiv 2001.07685.

    Args:
        student: The network that is trained.
        new_network: Not used.
        decay: The largest decay of the average, 0 to 1.
        confidence: The least probability of a pseudo-label, 0 to 1.

    Raises:
        ValueError: A number is outside of its range.
    """

    provides = ("teacher", "pseudo_label")
    needs = ("plain_image",)

    def __init__(
        self,
        student: nn.Module,
        new_network: Callable[[int], nn.Module] | None = None,
        *,
        decay: float = 0.99,
        confidence: float = 0.0,
    ) -> None:
        for name, value in (("decay", decay), ("confidence", confidence)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {value!r}; expected 0 to 1")
        super().__init__(student, new_network)
        self.decay = decay
        self.confidence = confidence
        self.teacher = copy.deepcopy(student).requires_grad_(False).eval()

    @torch.no_grad()
    def __call__(self, known: StreamValues) -> dict[str, Any]:
        """Return the teacher's logits of the batch, and its labels where it is confident."""
        logits = self.teacher(known["plain_image"])
        confident = confident_regions if self.regions else confident_labels
        return {"teacher": logits, "pseudo_label": confident(logits, known["mask"], self.confidence)}

    @torch.no_grad()
    def after_update(self, step: int) -> None:
        """Move the teacher to the student."""
        ours = self.teacher.state_dict()
        theirs = self.student.state_dict()
        floating = [name for name, value in ours.items() if value.is_floating_point()]
        share = 1 - min(1 - 1 / (step + 1), self.decay)
        torch._foreach_lerp_([ours[name] for name in floating], [theirs[name] for name in floating], share)
        for name in ours.keys() - set(floating):
            ours[name].copy_(theirs[name])

    def state_dict(self) -> dict[str, Any]:
        """Return the teacher."""
        return {"teacher": self.teacher.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the teacher."""
        self.teacher.load_state_dict(state["teacher"])


def confident_labels(logits: Tensor, mask: Tensor, confidence: float) -> Tensor:
    """Return the likeliest class ``[B, 1, …]``, -1 outside the mask and where its probability is below a threshold.

    >>> logits = torch.tensor([[2.0, 0.1, -3.0], [0.0, 0.0, 0.0]]).view(1, 2, 1, 3)
    >>> confident_labels(logits, torch.ones(1, 1, 1, 3, dtype=torch.bool), 0.8).tolist()
    [[[[0, -1, 1]]]]
    """
    most, label = logits.float().softmax(dim=1).max(dim=1, keepdim=True)
    return label.masked_fill(~mask | (most < confidence), -1)


def confident_regions(logits: Tensor, mask: Tensor, confidence: float) -> Tensor:
    """Return where each region is, ``[B, R, …]``, -1 outside the mask and where that is less sure than a threshold.

    >>> logits = torch.tensor([[2.0, 0.1, -3.0]]).view(1, 1, 1, 3)
    >>> confident_regions(logits, torch.ones(1, 1, 1, 3, dtype=torch.bool), 0.8).tolist()
    [[[[1, -1, 0]]]]
    """
    inside = logits.float().sigmoid()
    return (logits >= 0).long().masked_fill(~mask | (torch.maximum(inside, 1 - inside) < confidence), -1)
