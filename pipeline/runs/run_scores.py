"""Score a run or a cross-validation again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.errors import Problem, UserError
from pipeline.metrics.case import TOLERANCE_MM
from pipeline.runs import scoring
from pipeline.runs.out_of_fold import score_out_of_fold
from pipeline.runs.stored import FOLDS, SPLIT, read_own

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.runs.scoring import Scores
    from pipeline.runs.targets import OpenAs
    from pipeline.types import Which


def validate(
    run: Path,
    source: Path | None = None,
    which: Which = "last",
    plugins: Sequence[Path] = (),
    tolerance_mm: float = TOLERANCE_MM,
    open_as: OpenAs = (None, "auto", {}),
) -> Scores:
    """Score a run as :func:`pipeline.runs.scoring.validate_run` does; arguments and errors are the same.

    A cross-validation is scored out of fold, unless another dataset is named or its own has a validation list.
    """
    named = zip(("root", "layout", "options"), open_as, strict=True)
    told = [key for key, value in named if value not in (None, "auto", {})]
    if source is None and told:
        message = f"is not given, and {told[0]} says how it lies on disk"
        remedy = "name it, or leave that out"
        raise UserError("There is nothing to open.", [Problem("--dataset", "no-dataset", message, remedy)])
    if source is None and run.is_file():
        message = "is a file, which has no validation cases of its own"
        remedy = "name a dataset with labels: --dataset DATASET"
        raise UserError("There is nothing to validate on.", [Problem(str(run), "no-labels", message, remedy)])
    if source is None and (run / FOLDS).exists() and not read_own(run, SPLIT)["validation"]:
        return score_out_of_fold(run, which, plugins, tolerance_mm)
    return scoring.validate_run(run, source, which, plugins, tolerance_mm, open_as)
