"""The evaluator: MONAI's, over whole cases, scored on each scan's own grid."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from ignite.engine import Events
from monai.engines import Evaluator

from pipeline.data.checked import read_case
from pipeline.memory import memory_for
from pipeline.metrics.calibration import Expectation, Reliability
from pipeline.metrics.case import TOLERANCE_MM, score_case
from pipeline.metrics.region_calibration import RegionExpectation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import numpy as np
    from ignite.engine import Engine
    from numpy.typing import NDArray

    from pipeline.data.inspection import CaseFacts
    from pipeline.metrics.registered import CaseMetric
    from pipeline.nifti.volume import Scan
    from pipeline.prediction.predictor import Segmenter
    from pipeline.types import Case, CaseResult, Region

# Called with a case, its scans, its true mask and its prediction, all on the scan's own grid.
Watch: TypeAlias = "Callable[[Case, Sequence[Scan], Scan, NDArray[np.integer[Any]]], None]"


@dataclass(frozen=True)
class CaseScores:
    """The scores of one case.

    Attributes:
        results: One result for each class.
        reliability: Of the network's probabilities in this case; empty where only overlap is measured.
    """

    results: list[CaseResult]
    reliability: Reliability


class SegmentationEvaluator(Evaluator):
    """Predicts and scores every case once; ``found`` holds the scores of the last run.

    They are kept by case, so that cases that several processes have scored add up as those of one.

    ``state.output`` is the list of a case's results, one for each class; any MONAI or Ignite handler can be attached.

    Args:
        predictor: Turns a case's images into a label map.
        cases: Cases with a mask.
        facts: What the check found of each, by id; files that have changed since are refused.
        labels: Label values and names, background included.
        ignore: Voxels of the mask with this value are not scored.
        tolerance_mm: Distance up to which surfaces agree in the surface Dice.
        watch: Called with each case, its scans, its true mask and its prediction, all on the scan's own grid.
        overlap_only: Leave out surfaces, lesions, calibration and further metrics. A training only needs Dice.
        metrics: Further metrics, by name.
        regions: Unions of labels, which the predictor predicts and which are scored in the place of single ones.
    """

    def __init__(
        self,
        predictor: Segmenter,
        cases: Sequence[Case],
        facts: Mapping[str, CaseFacts],
        labels: Mapping[int, str],
        ignore: int | None = None,
        tolerance_mm: float = TOLERANCE_MM,
        watch: Watch = lambda *_: None,
        overlap_only: bool = False,
        metrics: Mapping[str, CaseMetric] | None = None,
        regions: Sequence[Region] = (),
    ) -> None:
        super().__init__(
            device=predictor.device, val_data_loader=list(cases), iteration_update=self._score, decollate=False
        )
        self.predictor = predictor
        self.facts = facts
        self.labels = labels
        self.ignore = ignore
        self.tolerance_mm = tolerance_mm
        self.watch = watch
        self.overlap_only = overlap_only
        self.metrics = metrics or {}
        self.regions = tuple(regions)
        self.found: dict[str, CaseScores] = {}
        self.add_event_handler(Events.STARTED, lambda: self.found.clear())

    @property
    def results(self) -> list[CaseResult]:
        """One result for each class of each case, in the order in which they were scored."""
        return [result for scores in self.found.values() for result in scores.results]

    @property
    def reliability(self) -> Reliability:
        """The reliability of the probabilities in all cases."""
        return reliability_of(self.found.values())

    def _score(self, _: Engine, case: Case) -> list[CaseResult]:
        scans, truth = read_case(case, self.facts[case.id])
        if truth is None:
            raise ValueError(f"case {case.id} has no label to be scored against")
        with memory_for(str(case.images[0]), "to validate it", None, "lower data.patch_size, or leave the scan out"):
            return self._scored(case, scans, truth)

    def _scored(self, case: Case, scans: Sequence[Scan], truth: Scan) -> list[CaseResult]:
        expectation: Expectation | RegionExpectation | None = None
        reliability = Reliability()
        if not self.overlap_only and self.regions:
            expectation = RegionExpectation(self.regions, reliability, truth.labels, self.ignore)
        elif not self.overlap_only:
            expectation = Expectation(self.predictor.label_values, reliability, truth.labels, self.ignore)
        labels = self.predictor.segment(scans, expectation)
        self.watch(case, scans, truth, labels)
        results = score_case(
            case.id,
            truth.labels,
            labels,
            self.labels,
            truth.spacing_mm,
            patient=case.patient,
            ignore=self.ignore,
            tolerance_mm=self.tolerance_mm,
            overlap_only=self.overlap_only,
            metrics=self.metrics,
            regions=self.regions,
        )
        if expectation is not None:
            expected = expectation.dice()
            results = [replace(result, dice_expected=expected.get(result.label)) for result in results]
        self.found[case.id] = CaseScores(results, reliability)
        return results


def reliability_of(scores: Iterable[CaseScores]) -> Reliability:
    """Return the reliability of the probabilities in several cases, added up in their order."""
    whole = Reliability()
    for each in scores:
        whole.merge(each.reliability)
    return whole
