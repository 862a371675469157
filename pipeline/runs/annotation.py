"""Rank scans without a mask by the Dice that the network expects of them: the worst should be annotated next."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any

from pipeline.metrics.calibration import DiceCurve, fit_dice_curve
from pipeline.reports.files import read_cases_csv, write_csv
from pipeline.runs.stored import OUT_OF_FOLD
from pipeline.terminal import note

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pipeline.runs.models import TrainedModel
    from pipeline.types import Which

ANNOTATE_NEXT = "annotate_next.csv"
COLUMNS = ("rank", "scan", "mask", "dice_expected", "dice_predicted", "weakest", "weakest_dice_predicted")


@dataclass
class AnnotateNext:
    """A list of scans, ranked by their expected Dice.

    Attributes:
        names: The name of each foreground label.
        curves: For each label, the curve from expected to true Dice; without points if the run has too few cases.
        rows: The scans that were added, as rows of the table.
    """

    names: Mapping[int, str]
    curves: Mapping[int, DiceCurve]
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, scan: Path, mask: Path, expected: Mapping[int, float]) -> None:
        """Add a scan with the Dice that the network expects of each label."""
        predicted = {
            label: self.curves[label](dice) if label in self.curves else dice for label, dice in expected.items()
        }
        weakest = min(predicted, key=lambda label: predicted[label])
        means = (fmean(expected.values()), fmean(predicted.values()))
        values = (None, scan, mask.name, *means, self.names[weakest], predicted[weakest])
        self.rows.append(dict(zip(COLUMNS, values, strict=True)))

    def write(self, path: Path) -> None:
        """Write the list as CSV, the scan with the lowest expected mean Dice first, as in the report of predictions."""
        ranked = sorted(self.rows, key=lambda row: (row["dice_expected"], str(row["scan"])))
        write_csv(path, COLUMNS, [row | {"rank": n, "scan": str(row["scan"])} for n, row in enumerate(ranked, 1)])


def annotate_next(run: Path, which: Which, model: TrainedModel) -> AnnotateNext:
    """Return an empty list whose curves are fitted to the validation of a run's checkpoint.

    The curves are for scans without a mask, so the scores of the validation cases do not depend on them. For a
    cross-validation without validation cases, they are fitted to the out-of-fold scores. Segments have no curves, since
    their values are not those of the labels that they were scored against.
    """
    places = (run, run / OUT_OF_FOLD) if which == "last" else (run / "validation" / which,)
    scores = [place / "cases.csv" for place in places if model.settings.segments is None]
    rows = next((read_cases_csv(path) for path in scores if path.exists()), ())
    names = {label: name for label, name in model.task.labels.items() if label != 0}
    pairs: dict[int, list[tuple[float, float]]] = {label: [] for label in names}
    for row in rows:
        if row.dice_expected is not None and row.dice is not None and row.label in pairs:
            pairs[row.label].append((row.dice_expected, row.dice))
    curves = {label: _curve(known) for label, known in pairs.items()}
    if not any(len(curve.expected) for curve in curves.values()):
        note(f"{ANNOTATE_NEXT}: there are too few scores to learn from, so dice_predicted is what the network expects")
    return AnnotateNext(names, curves)


def _curve(pairs: Sequence[tuple[float, float]]) -> DiceCurve:
    return fit_dice_curve([expected for expected, _ in pairs], [found for _, found in pairs])
