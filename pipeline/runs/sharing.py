"""Cases that the processes of a training share: each is scored once, by one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from pipeline import distributed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.engines.evaluator import CaseScores
    from pipeline.reports.volumes import Gallery
    from pipeline.types import Case

T = TypeVar("T")


class SharedCases:
    """Deals cases out to the processes, and brings what was found together in all of them."""

    def of(self, cases: Sequence[Case]) -> Sequence[Case]:
        """Return the cases that this process scores."""
        return cases[distributed.rank() :: distributed.size()]

    def together(
        self, found: Mapping[str, CaseScores], gallery: Gallery | None, cases: Sequence[Case]
    ) -> dict[str, CaseScores]:
        """Return the scores of all cases in their order, and put all their pictures into the gallery.

        Args:
            found: The scores of this process's cases, by their ids.
            gallery: The pictures of this process's cases; None without pictures.
            cases: All of them.
        """
        if distributed.size() == 1:
            return dict(found)
        told = distributed.agree((dict(found), gallery.content() if gallery else {}))
        if gallery:
            gallery.refill(_in_order([pictures for _, pictures in told], cases))
        return _in_order([scores for scores, _ in told], cases)


def _in_order(shares: Sequence[Mapping[str, T]], cases: Sequence[Case]) -> dict[str, T]:
    every = {case: content for share in shares for case, content in share.items()}
    return {case.id: every[case.id] for case in cases}
