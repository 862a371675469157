"""Descriptions of the metrics for reports: name, unit, and which values are better.

Page, tables and charts all use them, so that a metric is added in one place.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pipeline.types import CaseResult

UNITS = ("mm", "ml")
Better: TypeAlias = Literal["higher", "lower", "zero", ""]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One column of the results.

    Attributes:
        key: The field of ``CaseResult``, or the name of a further metric.
        name: Its name for readers.
        unit: ``mm``, ``ml`` or "".
        better: Which values are better: higher, lower, or those near zero; "" for a plain quantity.
        decimals: Number of decimals.
        low: The least possible value, where axes end; None if there is none.
        high: The greatest possible value; None if there is none.
        charted: Whether its distribution is drawn.
        note: What it means, in a few words.
    """

    key: str
    name: str
    unit: str = ""
    better: Better = "higher"
    decimals: int = 3
    low: float | None = None
    high: float | None = None
    charted: bool = False
    note: str = ""

    @property
    def title(self) -> str:
        """The name with its unit.

        >>> Metric(key="hd95_mm", name="HD95", unit="mm").title
        'HD95 (mm)'
        """
        if self.unit:
            return f"{self.name} ({self.unit})"
        return self.name

    def shown(self, value: float | None) -> str:
        """Return a value as text; a dash where there is none.

        >>> [Metric(key="dice", name="Dice").shown(value) for value in (0.5, None)]
        ['0.500', '–']
        """
        if value is None:
            return "–"
        return f"{value:.{self.decimals}f}"


SURFACE_DICE = Metric(
    key="surface_dice",
    name="Surface Dice",
    low=0,
    high=1,
    charted=True,
    note="share of both surfaces near enough to the other",
)
METRICS = (
    Metric(
        key="dice",
        name="Dice",
        low=0,
        high=1,
        charted=True,
        note="twice what both masks share over what they have together",
    ),
    Metric(
        key="dice_expected",
        name="Expected Dice",
        better="",
        low=0,
        high=1,
        note="what the network expects of its own mask",
    ),
    Metric(key="iou", name="IoU", low=0, high=1, note="what both masks share over what either has"),
    SURFACE_DICE,
    Metric(
        key="hd95_mm",
        name="HD95",
        unit="mm",
        better="lower",
        decimals=2,
        low=0,
        charted=True,
        note="95 % of either surface is that near to the other",
    ),
    Metric(
        key="assd_mm",
        name="ASSD",
        unit="mm",
        better="lower",
        decimals=2,
        low=0,
        note="how far the surfaces are apart on average",
    ),
    Metric(key="precision", name="Precision", low=0, high=1, note="share of the prediction that is true"),
    Metric(key="recall", name="Recall", low=0, high=1, note="share of the truth that is predicted"),
    Metric(key="volume_truth_ml", name="True volume", unit="ml", better="", decimals=2, low=0),
    Metric(key="volume_predicted_ml", name="Predicted volume", unit="ml", better="", decimals=2, low=0),
    Metric(
        key="volume_difference",
        name="Volume difference",
        better="zero",
        low=-2,
        high=2,
        charted=True,
        note="2 (predicted − true) / (predicted + true): 0 is as large, −1 a third, 1 three times as large; "
        "−2 is missed, 2 invented",
    ),
    Metric(
        key="lesions_truth", name="Lesions", unit="", better="", decimals=0, low=0, note="separate pieces of the truth"
    ),
    Metric(
        key="lesions_found",
        name="Found",
        unit="",
        better="higher",
        decimals=0,
        low=0,
        note="pieces of which a tenth or more is predicted",
    ),
    Metric(key="lesions_missed", name="Lesions missed", unit="", better="lower", decimals=0, low=0),
    Metric(key="lesions_false", name="Lesions invented", unit="", better="lower", decimals=0, low=0),
    Metric(key="voxels_truth", name="True voxels", unit="", better="", decimals=0, low=0),
    Metric(key="voxels_predicted", name="Predicted voxels", unit="", better="", decimals=0, low=0),
)


def value_of(result: CaseResult, metric: Metric) -> float | None:
    """Return the value of a metric in a result, or None if it has none."""
    value: Any = getattr(result, metric.key, result.more.get(metric.key))
    if value is None:
        return None
    return float(value)


def metrics_in(results: Sequence[CaseResult], tolerance_mm: float | None = None) -> list[Metric]:
    """Return the metrics that have a number in any of the results, in the order of the table.

    Args:
        results: One result for each class of each case.
        tolerance_mm: The tolerance of the surface Dice, for its title; None if unknown.
    """
    known = (*METRICS, *map(further_metric, further_in(results)))
    found = [metric for metric in known if any(value_of(result, metric) is not None for result in results)]
    return [with_tolerance(metric, tolerance_mm) for metric in found]


def further_in(results: Iterable[CaseResult]) -> list[str]:
    """Return the names of the further metrics that results have."""
    return list(dict.fromkeys(name for result in results for name in result.more))


def further_metric(key: str) -> Metric:
    """Return the description of a further metric, with name and unit taken from its registered name.

    >>> further_metric("centre_distance_mm").title
    'Centre distance (mm)'
    """
    stem, _, unit = key.rpartition("_")
    name = stem if unit in UNITS else key
    return Metric(key=key, name=name.replace("_", " ").capitalize(), unit=unit if unit in UNITS else "", better="")


def with_tolerance(metric: Metric, tolerance_mm: float | None) -> Metric:
    """Return the surface Dice with its tolerance in title and note; any other metric as it is.

    >>> told = with_tolerance(SURFACE_DICE, 2.0)
    >>> told.title, told.note
    ('Surface Dice (2 mm)', 'share of both surfaces within 2 mm of the other')
    """
    if metric is not SURFACE_DICE or tolerance_mm is None:
        return metric
    size = f"{tolerance_mm:g} mm"
    return replace(metric, unit=size, note=f"share of both surfaces within {size} of the other")


def classes_in(results: Iterable[CaseResult]) -> list[tuple[int, str]]:
    """Return the value and the name of every class, by rising value."""
    return sorted({(result.label, result.name) for result in results})
