"""Check every scan before the first is predicted."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.data.codes import is_warning
from pipeline.data.examining import examine, in_parallel
from pipeline.data.inspection import Declared
from pipeline.data.packed import Packed
from pipeline.errors import Problem, UserError
from pipeline.runs.checking import tell_warnings
from pipeline.runs.fitting import misfits
from pipeline.terminal import progress

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pipeline.data.inspection import CaseFacts
    from pipeline.runs.models import TrainedModel
    from pipeline.types import Case


def checked_scans(targets: dict[Path, Case], model: TrainedModel) -> Mapping[str, CaseFacts]:
    """Check every scan, and that it fits the model.

    Args:
        targets: The case to predict, by the path of its mask.
        model: The model.

    Returns:
        What was found of each scan, by the path of its mask.

    Raises:
        UserError: A scan has a problem; with the problems of all scans.
    """
    seen: Packed[CaseFacts] = Packed()
    cases = [replace(case, label=None) for case in targets.values()]
    declared = Declared(channels=len(model.task.channels))
    found: list[Problem] = []
    looks = progress(in_parallel(lambda case: examine(case, declared), cases), "checking", len(cases))
    for path, case, (facts, wrong) in zip(targets, cases, looks, strict=True):
        found += wrong
        if facts is not None:
            seen[str(path)] = facts
            found += misfits(str(case.images[0]), facts, model)
    problems = [problem for problem in found if not is_warning(problem)]
    if problems:
        places = len({problem.where for problem in problems})
        raise UserError(f"Nothing was predicted: {places} scan(s) cannot be used.", problems)
    tell_warnings(found)
    return seen
