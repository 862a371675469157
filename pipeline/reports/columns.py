"""What the report knows about each metric: its name, its unit, and which way is better.

The page, its table and its charts go through these descriptors, so that a metric is added in one place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pipeline.types import CaseResult

Better: TypeAlias = Literal["higher", "lower", "zero", ""]


@dataclass(frozen=True, slots=True)
class Metric:
    """One column of the results.

    Attributes:
        key: The field of ``CaseResult``.
        name: As a reader calls it.
        unit: ``mm``, ``ml`` or nothing.
        better: Which values are better; "" for a plain quantity.
        decimals: Digits behind the point.
        low: The least value that there can be, if any: no axis goes further.
        high: The greatest value that there can be, if any.
        charted: Whether its distribution is drawn.
    """

    key: str
    name: str
    unit: str = ""
    better: Better = "higher"
    decimals: int = 3
    low: float | None = None
    high: float | None = None
    charted: bool = False

    @property
    def title(self) -> str:
        """The name with its unit.

        >>> Metric("hd95_mm", "HD95", "mm").title
        'HD95 (mm)'
        """
        return f"{self.name} ({self.unit})" if self.unit else self.name

    def shown(self, value: float | None) -> str:
        """Return a value as text; a dash where there is none.

        >>> Metric("dice", "Dice").shown(0.5), Metric("dice", "Dice").shown(None)
        ('0.500', '–')
        """
        return "–" if value is None else f"{value:.{self.decimals}f}"


METRICS = (
    Metric("dice", "Dice", low=0, high=1, charted=True),
    Metric("dice_expected", "Expected Dice", better="", low=0, high=1),
    Metric("iou", "IoU", low=0, high=1),
    Metric("surface_dice", "Surface Dice", low=0, high=1, charted=True),
    Metric("hd95_mm", "HD95", "mm", "lower", 2, low=0, charted=True),
    Metric("assd_mm", "ASSD", "mm", "lower", 2, low=0),
    Metric("precision", "Precision", low=0, high=1),
    Metric("recall", "Recall", low=0, high=1),
    Metric("volume_truth_ml", "True volume", "ml", "", 2, low=0),
    Metric("volume_predicted_ml", "Predicted volume", "ml", "", 2, low=0),
    Metric("volume_difference", "Volume difference", "", "zero", 3, low=-2, high=2, charted=True),
    Metric("lesions_truth", "Lesions", "", "", 0, low=0),
    Metric("lesions_found", "Found", "", "higher", 0, low=0),
    Metric("lesions_missed", "Lesions missed", "", "lower", 0, low=0),
    Metric("lesions_false", "Lesions invented", "", "lower", 0, low=0),
    Metric("voxels_truth", "True voxels", "", "", 0, low=0),
    Metric("voxels_predicted", "Predicted voxels", "", "", 0, low=0),
)


def value_of(result: CaseResult, metric: Metric) -> float | None:
    """Return a metric of a result, or None where it has none."""
    value: Any = getattr(result, metric.key, None)
    return None if value is None else float(value)


def metrics_in(results: Sequence[CaseResult]) -> list[Metric]:
    """Return the metrics that have a number in any of the results, in the order of the table."""
    return [metric for metric in METRICS if any(value_of(result, metric) is not None for result in results)]


def classes_in(results: Iterable[CaseResult]) -> list[tuple[int, str]]:
    """Return the value and the name of every class, by rising value."""
    return sorted({(result.label, result.name) for result in results})
