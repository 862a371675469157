"""The evaluator: MONAI's, over whole cases, scored on each scan's own grid."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ignite.engine import Events
from monai.engines import Evaluator

from pipeline.data import nifti
from pipeline.metrics.case import score_case

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch
    from ignite.engine import Engine

    from pipeline.engines.predictor import Predictor
    from pipeline.types import Case, CaseResult


class SegmentationEvaluator(Evaluator):
    """Predicts and scores every case once; ``results`` holds the scores of the last run.

    ``state.output`` is the list of a case's results, one a class; any MONAI or Ignite handler attaches.

    Args:
        predictor: Turns a case's images into a label map.
        cases: Cases with a mask.
        labels: Label values and names, background included.
        device: Where the network lies.
        ignore: Voxels of the mask with this value are not scored.
    """

    def __init__(
        self,
        predictor: Predictor,
        cases: Sequence[Case],
        labels: Mapping[int, str],
        device: torch.device,
        ignore: int | None = None,
    ) -> None:
        super().__init__(device=device, val_data_loader=list(cases), iteration_update=self._score, decollate=False)
        self.predictor, self.labels, self.ignore = predictor, labels, ignore
        self.results: list[CaseResult] = []
        self.add_event_handler(Events.STARTED, lambda: self.results.clear())
        self.add_event_handler(Events.ITERATION_COMPLETED, lambda: self.results.extend(self.state.output))

    def _score(self, _: Engine, case: Case) -> list[CaseResult]:
        if case.label is None:
            raise ValueError(f"case {case.id} has no label to be scored against")
        truth = nifti.load(case.label)
        prediction = self.predictor(case.images)
        return score_case(
            case.id, truth.labels, prediction, self.labels, truth.spacing_mm, ignore=self.ignore, patient=case.patient
        )
