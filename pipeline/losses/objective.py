"""The objective: named terms, each a loss on some of the scans, summed with weights that ramp up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch.nn.functional import interpolate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from pipeline.losses.base import SegmentationLoss
    from pipeline.types import Output, Scans

Batch = dict[str, Any]
Answer: TypeAlias = "Tensor | tuple[Tensor, ...]"


@dataclass(frozen=True)
class Term:
    """One summand of the objective.

    Attributes:
        name: Of the column in a run's history.
        loss: What is computed.
        on: The scans that it is computed on.
        weight: Its factor.
        ramp: Share of the training over which the weight grows linearly from 0.
    """

    name: str
    loss: SegmentationLoss
    on: Scans
    weight: float = 1.0
    ramp: float = 0.0

    def weight_at(self, progress: float) -> float:
        """Return the factor at ``progress``, the share of the training that is done, 0 to 1."""
        return self.weight * min(1.0, progress / self.ramp) if self.ramp else self.weight


class Objective:
    """Sums terms over a labelled and an unlabelled batch: ``J = sum_t w_t(progress) loss_t``.

    Under deep supervision a loss on labels is the mean over the levels, weighted 1, 1/2, 1/4, …, each against the
    labels at its own resolution; a loss on images looks at the finest level alone.

    Args:
        terms: The summands; names are unique.
    """

    def __init__(self, terms: Sequence[Term]) -> None:
        self.terms = tuple(terms)

    @property
    def names(self) -> tuple[str, ...]:
        """The terms' names, in order."""
        return tuple(term.name for term in self.terms)

    def kinds_at(self, progress: float) -> frozenset[str]:
        """Return which batches any term with a weight above 0 looks at: ``labelled``, ``unlabelled``."""
        scans = {term.on for term in self.terms if term.weight_at(progress) > 0}
        return frozenset({"labelled", "unlabelled"} if "all" in scans else scans)

    def outputs_at(self, progress: float) -> frozenset[Output]:
        """Return which of a network's answers any term with a weight above 0 judges: ``logits``, ``reconstruction``."""
        return frozenset(term.loss.output for term in self.terms if term.weight_at(progress) > 0)

    def parts(self) -> tuple[Objective, ...]:
        """Return one objective a term, for a training that takes the terms in turn."""
        return tuple(Objective([term]) for term in self.terms)

    def __call__(
        self,
        logits: Mapping[str, Answer],
        batches: Mapping[str, Batch],
        progress: float,
        reconstructions: Mapping[str, Tensor] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the total and each term's own value before its weight.

        A term whose scans were not given, or whose weight is 0 at this point, is left out: its value is absent.

        Args:
            logits: By kind of scan, ``[B, K, …]``, or a tuple of them, the finest first.
            batches: By kind of scan, each with ``image``, ``label`` and ``mask``.
            progress: Share of the training that is done.
            reconstructions: By kind of scan, ``[B, C, …]``; needed where a term judges them.
        """
        answers: dict[str, Mapping[str, Answer]] = {"logits": logits, "reconstruction": reconstructions or {}}
        values: dict[str, Tensor] = {}
        total = torch.zeros(())
        for answer in logits.values():
            total = levels_of(answer)[0].new_zeros((), dtype=torch.float32)
        for term in self.terms:
            given = answers[term.loss.output]
            kinds = [kind for kind in ("labelled", "unlabelled") if term.on in (kind, "all") and kind in given]
            weight = term.weight_at(progress)
            if kinds and weight > 0:
                value = _evaluate(term.loss, [given[kind] for kind in kinds], [batches[kind] for kind in kinds])
                total = total + weight * value
                values[term.name] = value.detach()
        return total, values


def levels_of(answer: Answer) -> tuple[Tensor, ...]:
    """Return a network's answer by level: one, or under deep supervision several."""
    return answer if isinstance(answer, tuple) else (answer,)


def _evaluate(loss: SegmentationLoss, answers: Sequence[Answer], batches: Sequence[Batch]) -> Tensor:
    def joined(key: str) -> Tensor:
        return torch.cat([batch[key] for batch in batches])

    levels = [torch.cat(parts) for parts in zip(*map(levels_of, answers), strict=True)]
    if loss.reference == "image":
        return loss(levels[0], joined("image"), joined("mask"))
    labels = joined("label")
    weights = [0.5**level for level in range(len(levels))]
    losses = [weight * loss(level, _shrunk(labels, level)) for weight, level in zip(weights, levels, strict=True)]
    return torch.stack(losses).sum() / sum(weights)


def _shrunk(labels: Tensor, level: Tensor) -> Tensor:
    """Return labels at a coarser resolution: those of the nearest voxels."""
    if labels.shape[2:] == level.shape[2:]:
        return labels
    return interpolate(labels.float(), level.shape[2:], mode="nearest-exact").to(labels.dtype)
