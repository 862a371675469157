"""Look at every scan before any is predicted, and leave out those that cannot be."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.data.codes import is_warning
from pipeline.data.examining import examine, in_parallel
from pipeline.data.inspection import Declared
from pipeline.data.packed import Packed
from pipeline.runs.checking import tell_warnings
from pipeline.runs.fitting import misfits
from pipeline.terminal import progress

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pipeline.data.inspection import CaseFacts
    from pipeline.errors import Problem
    from pipeline.runs.models import TrainedModel
    from pipeline.types import Case


def checked_scans(targets: dict[Path, Case], model: TrainedModel) -> tuple[Mapping[str, CaseFacts], list[Problem]]:
    """Look at every scan.

    Returns:
        What was found of those that can be predicted, by the mask's path, and all problems of the others.
    """
    seen: Packed[CaseFacts] = Packed()
    cases = [replace(case, label=None) for case in targets.values()]
    declared = Declared(channels=len(model.task.channels))
    found: list[Problem] = []
    looks = progress(in_parallel(lambda case: examine(case, declared), cases), "checking", len(cases))
    for path, case, (facts, wrong) in zip(targets, cases, looks, strict=True):
        unfit = [] if facts is None else misfits(str(case.images[0]), facts, model)
        found += [*wrong, *unfit]
        if facts is not None and all(map(is_warning, [*wrong, *unfit])):
            seen[str(path)] = facts
    tell_warnings([problem for problem in found if is_warning(problem)])
    return seen, [problem for problem in found if not is_warning(problem)]
