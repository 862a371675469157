"""The objective: named terms, each a loss on some of the scans, summed with weights that ramp up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from pipeline.errors import Problem, UserError
from pipeline.losses.base import LossValueError, levels_of, one_number
from pipeline.losses.partial import merged

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch import Tensor

    from pipeline.losses.base import SegmentationLoss
    from pipeline.types import Scans

Batch = dict[str, Any]
STREAMS = ("labelled", "unlabelled")
LABEL = "label"
# Which classes are annotated in each case of a batch, [B, K]; a batch of cases that have all annotated may lack it.
ANNOTATED = "annotated"


@dataclass(frozen=True, kw_only=True)
class Term:
    """One summand of the objective.

    Attributes:
        name: Its column in a run's history.
        loss: The loss.
        on: The scans that it is computed on.
        judges: The value that the loss judges; "" is the loss's own choice.
        against: The values that this is compared with, in the order of the loss's arguments; () is its own choice.
        weight: Its factor.
        ramp: Share of the training over which the weight grows linearly from 0.
    """

    name: str
    loss: SegmentationLoss
    on: Scans
    judges: str = ""
    against: tuple[str, ...] = ()
    weight: float = 1.0
    ramp: float = 0.0

    @property
    def needs(self) -> tuple[str, ...]:
        """The names of all values that it needs, beginning with the one that it judges."""
        return (self.judges or self.loss.judges, *(self.against or self.loss.against))

    @property
    def reads_label(self) -> bool:
        """Whether it compares with the masks, in which some classes may not be annotated."""
        return LABEL in self.needs[1:]

    @property
    def streams(self) -> tuple[str, ...]:
        """The streams whose scans it is computed on."""
        return tuple(kind for kind in STREAMS if self.on in (kind, "all"))

    def weight_at(self, progress: float) -> float:
        """Return the factor at ``progress``, the share of the training that is done, 0 to 1."""
        if self.ramp:
            return self.weight * min(1.0, progress / self.ramp)
        return self.weight


class Objective:
    """Sums terms over a labelled and an unlabelled batch: ``J = sum_t w_t(progress) loss_t``.

    Args:
        terms: The summands; names are unique.
    """

    def __init__(self, terms: Sequence[Term]) -> None:
        self.terms = tuple(terms)

    @property
    def names(self) -> tuple[str, ...]:
        """The terms' names, in order."""
        return tuple(term.name for term in self.terms)

    def by_term(self) -> tuple[Objective, ...]:
        """Return one objective for each term, for a training that updates the weights for each in turn."""
        return tuple(Objective([term]) for term in self.terms)

    def needed(self, batches: Mapping[str, Batch], progress: float) -> tuple[tuple[str, str], ...]:
        """Return the streams and the names of the values that a call at ``progress`` looks at, each once.

        Args:
            batches: The batch of each stream that is given.
            progress: Share of the training that is done, 0 to 1.
        """
        found = {
            (kind, name): None
            for term in self.terms
            if term.weight_at(progress) > 0
            for name in ((*term.needs, ANNOTATED) if term.reads_label else term.needs)
            for kind in term.streams
            if kind in batches and (name != ANNOTATED or ANNOTATED in batches[kind])
        }
        return tuple(found)

    def __call__(self, streams: Mapping[str, Mapping[str, Any]], progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the total and each term's own value before its weight.

        A term whose scans are not given, or whose weight is 0 at this point, is left out: it has no value, and nothing
        that it alone needs is computed.

        Args:
            streams: For each stream, its values by name: tensors ``[B, …]``, or predictions of several levels.
            progress: Share of the training that is done, 0 to 1.

        Raises:
            UserError: A loss returns no number, or one without a gradient of what it judges.
        """
        values: dict[str, Tensor] = {}
        total = torch.zeros(())
        for term in self.terms:
            given = [streams[kind] for kind in term.streams if kind in streams]
            weight = term.weight_at(progress)
            if given and weight > 0:
                judged, *targets = (_joined([known[name] for known in given]) for name in term.needs)
                if term.reads_label and ANNOTATED in given[0]:
                    annotated = _joined([known[ANNOTATED] for known in given])
                    judged, targets = _marginal(term, judged, targets, annotated)
                value = _value_of(term, judged, *targets)
                total = total + weight * value
                values[term.name] = value.detach()
        return total, values


def _marginal(term: Term, judged: Any, targets: list[Any], annotated: Tensor) -> tuple[Any, list[Any]]:
    """Return what a loss judges, and what it is compared with, of cases in which some classes are not annotated."""
    if term.loss.takes_annotated:
        return judged, [*targets, annotated]
    levels = tuple(merged(level, annotated, softmax=term.loss.softmax) for level in levels_of(judged))
    return levels if isinstance(judged, tuple) else levels[0], targets


def _value_of(term: Term, judged: Any, *targets: Any) -> Tensor:
    """Return a term's value; refuse what a plugin's loss may return and nothing can be trained by."""
    try:
        return one_number(term.loss.compare(judged, *targets), judged, *targets)
    except LossValueError as error:
        message = f"the loss returned {error}, and a total is a sum of single floating-point numbers with a gradient"
        remedy = "let the loss reduce what it computes, as with .mean(), and neither round nor detach it"
        problem = Problem(f"objective: {term.name}", "bad-loss", message, remedy)
        raise UserError("Training stopped.", [problem]) from None


def nothing_learnt(names: Iterable[str]) -> UserError:
    """Return the error of terms whose values depend on no weight that is trained."""
    message = f"{', '.join(names)}: nothing that is judged depends on weights that are trained"
    remedy = "let one term judge logits, or what a source makes of the trained network"
    return UserError("Training stopped.", [Problem("objective", "bad-loss", message, remedy)])


def _joined(parts: list[Any]) -> Any:
    """Concatenate the values of several streams along the batch, level by level under deep supervision."""
    if isinstance(parts[0], tuple):
        return tuple(torch.cat(level) for level in zip(*parts, strict=True))
    return torch.cat(parts)
