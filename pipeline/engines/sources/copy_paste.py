"""Bidirectional copy-paste: boxes of labelled patches are pasted into unlabelled ones, and the reverse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from pipeline.engines.sources.base import SOURCES, Source

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from pipeline.engines.values import StreamValues


def _certain(given: StreamValues) -> Tensor:
    """Return the labels, -1 where background may be a class that is not annotated in the case."""
    label: Tensor = given["label"]
    if "annotated" not in given:
        return label
    partly = ~given["annotated"].all(dim=1)
    return label.masked_fill((label == 0) & partly.view(-1, *[1] * (label.ndim - 1)), -1)


@SOURCES.register("copy_paste")
class CopyPaste(Source):
    """The student's logits of patches that mix labelled and unlabelled scans, and the labels of each part.

    Each unlabelled patch is paired with a labelled one. Of the pairs every other one becomes the labelled patch with a
    box of the unlabelled one, and the rest the reverse; which of them begin is drawn. The box has the share ``side`` of
    the patch along each axis, and its place is drawn too. Of these ``B`` patches it provides ``mixed_logits``,
    ``mixed_label`` (the true labels of the labelled parts, -1 elsewhere) and ``mixed_pseudo_label`` (the labels that
    another source predicts for the unlabelled parts, -1 elsewhere), so that each part can have a term and a weight of
    its own. It is for terms on unlabelled scans.

    Bai et al., CVPR 2023, arXiv 2305.00673: ``side`` 2/3, the unlabelled parts with half of the weight.

    Args:
        student: The network that is trained.
        new_network: Not used.
        side: The box's share of each side of a patch, above 0 and below 1.

    Raises:
        ValueError: ``side`` is outside of its range.
    """

    provides = ("mixed_logits", "mixed_label", "mixed_pseudo_label")
    needs = ("pseudo_label",)
    other_streams = ("labelled",)

    def __init__(
        self,
        student: nn.Module,
        new_network: Callable[[int], nn.Module] | None = None,
        *,
        side: float = 2 / 3,
    ) -> None:
        if not 0 < side < 1:
            raise ValueError(f"side is {side!r}; expected above 0 and below 1")
        super().__init__(student, new_network)
        self.side = side

    def __call__(self, known: StreamValues) -> dict[str, Any]:
        """Return the logits of the mixed patches and the labels of both parts."""
        given = known.streams["labelled"]
        image = known["image"]
        number = torch.arange(len(image), device=image.device)
        partner = number % len(given["image"])
        outward = (number + int(torch.randint(2, ()))) % 2 == 0
        # Where the mixed patches show the labelled ones.
        labelled = self._box(image) ^ outward.view(-1, *[1] * (image.ndim - 1))
        return {
            "mixed_logits": self.student(given["image"][partner].where(labelled, image)),
            "mixed_label": _certain(given)[partner].masked_fill(~labelled, -1),
            "mixed_pseudo_label": known["pseudo_label"].masked_fill(labelled, -1),
        }

    def _box(self, image: Tensor) -> Tensor:
        """Draw where the box is: booleans ``[B, 1, …]``, the same for all patches of a call."""
        box = torch.zeros_like(image[:, :1], dtype=torch.bool)
        place: list[Any] = [slice(None)] * 2
        for length in image.shape[2:]:
            side = max(1, round(self.side * length))
            first = int(torch.randint(length - side + 1, ()))
            place.append(slice(first, first + side))
        box[tuple(place)] = True
        return box
