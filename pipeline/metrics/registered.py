"""Further metrics, which a recipe asks for by name; each is a column of the scores beside those of every run."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import fields
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import Problem, UserError
from pipeline.registry import Registry
from pipeline.types import CaseResult

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.metrics.surface import Mask, Spacing


class CaseMetric(ABC):
    """One number of one class in one case. Its options in a recipe are the arguments of its constructor.

    Its registered name is the name of its column. A name that ends in ``_mm`` or ``_ml`` tells the unit.
    """

    @abstractmethod
    def __call__(self, truth: Mask, prediction: Mask, spacing_mm: Spacing) -> float | None:
        """Return the number, or None if it has no value.

        A class that is in neither mask is not measured. If one mask is empty, the worst possible number should be
        returned: with None, a missed structure would count as better than a bad one.

        Args:
            truth: ``[X, Y, Z]``, boolean, read-only as the other, cut to a box that holds all voxels of both masks:
                background cannot be counted.
            prediction: The same box of the prediction.
            spacing_mm: Size of a voxel along each axis.
        """


METRICS = Registry(
    name="metric",
    description="Further columns of the scores, one number of a class in a case.",
    taken=frozenset(field.name for field in fields(CaseResult)),
    base=CaseMetric,
)


@METRICS.register("centre_distance_mm")
class CentreDistance(CaseMetric):
    """The distance between the centres of mass of both masks; None if one of them is empty."""

    def __call__(self, truth: Mask, prediction: Mask, spacing_mm: Spacing) -> float | None:
        """Return the distance in mm.

        >>> truth, prediction = np.zeros((2, 4, 1, 1), bool)
        >>> truth[0] = prediction[1:3] = True
        >>> CentreDistance()(truth, prediction, (2.0, 1.0, 1.0))
        3.0
        """
        if not truth.any() or not prediction.any():
            return None
        centres = [np.argwhere(mask).mean(axis=0) * spacing_mm for mask in (truth, prediction)]
        return float(np.linalg.norm(centres[0] - centres[1]))


def try_metrics(metrics: Mapping[str, CaseMetric]) -> None:
    """Measure two small masks, and an empty one, so that a faulty metric is found before a training and not after it.

    Raises:
        UserError: As :func:`measure`.
    """
    truth, prediction, nothing = np.zeros((3, 4, 4, 4), bool)
    truth[:3, 1:, 1:] = prediction[1:, 1:, :3] = True
    for masks in ((truth, prediction), (truth, nothing)):
        measure(metrics, "made to try it", masks, (1.0, 1.0, 2.0))


def _read_only(mask: Mask) -> Mask:
    """Return a mask that no metric can change for those that come after it."""
    view = mask.view()
    view.flags.writeable = False
    return view


def measure(
    metrics: Mapping[str, CaseMetric], case: str, masks: tuple[Mask, Mask], spacing_mm: Spacing
) -> dict[str, float | None]:
    """Return the numbers of one class in one case, by the names of the metrics.

    Args:
        metrics: The metrics, by name.
        case: The case's id, for messages.
        masks: The true and the predicted mask, ``[X, Y, Z]``.
        spacing_mm: Size of a voxel along each axis.

    Raises:
        UserError: A metric returns something else than a finite number or None.
    """
    truth, prediction = map(_read_only, masks)
    found: dict[str, float | None] = {}
    for name, metric in metrics.items():
        try:
            value = metric(truth, prediction, spacing_mm)
        except Exception as error:
            error.add_note(f"in the case {case}")
            raise
        if value is not None and not (isinstance(value, (int, float, np.number)) and math.isfinite(value)):
            message = f"returned {value!r} for the case {case}, which is neither a finite number nor None"
            problem = Problem(name, "bad-plugin", message, "correct the metric, or leave it out of `metrics`")
            raise UserError("The cases cannot be scored.", [problem])
        found[name] = None if value is None else float(value)
    return found
