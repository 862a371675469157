"""Tell early that a class is predicted nowhere, and what to change."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.errors import listed
from pipeline.reports.intervals import plural

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.types import CaseResult

# Names that one message holds.
NAMED = 5


def note_on_unpredicted(results: Sequence[CaseResult]) -> str | None:
    """Return what to say of classes that are true in validation cases and predicted in none; None without any.

    Args:
        results: One result for each class of each case.
    """
    names = {row.name for row in results if row.voxels_truth}
    missed = [name for name in dict.fromkeys(row.name for row in results) if name in names]
    missed = [name for name in missed if not any(row.voxels_predicted for row in results if row.name == name)]
    if not missed:
        return None
    told = listed(missed, NAMED)
    cases = len({row.case for row in results})
    return (
        f"warning: predicted in none of {plural(cases, 'validation case')} so far: {told}. Small classes come late; if "
        "that stays so, train longer, centre more patches on foreground (data.foreground_share=0.9), or weigh these "
        "classes in the objective (class_weights of cross_entropy)."
    )
