"""Choose the post-processing of a cross-validation: the changes that improve the out-of-fold masks."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.data.checked import read_label
from pipeline.metrics.case import score_case
from pipeline.metrics.lesions import component_sizes
from pipeline.prediction.postprocessing import (
    DropSmall,
    FillHoles,
    KeepLargest,
    LabelStep,
    postprocess,
    voxel_ml,
)
from pipeline.reports.comparison import ALPHA, EQUAL, Wilcoxon, signed_rank
from pipeline.reports.intervals import FEWEST, means_of_patients

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.data.inspection import CaseFacts
    from pipeline.nifti.volume import Scan
    from pipeline.types import Case, Task

# Components below this share of the volume of the smallest true one are dropped, if that helps.
SMALL = 0.5


def candidates(cases: Sequence[Case], facts: Mapping[str, CaseFacts], truth: Task) -> Iterator[LabelStep]:
    """Yield the changes to try: three for each label that is in a mask; none with regions.

    What is painted of a region in a mask is not its shape.
    """
    if truth.regions:
        return
    smallest_ml: dict[int, float] = {}
    for case in cases:
        mask = read_label(case, facts[case.id])
        for value in [value for value in truth.labels if value != 0]:
            sizes = component_sizes(mask.labels == value)
            if sizes.size:
                smallest = float(sizes.min()) * voxel_ml(mask.spacing_mm)
                smallest_ml[value] = min(smallest, smallest_ml.get(value, smallest))
    for value, smallest in sorted(smallest_ml.items()):
        yield FillHoles(value)
        yield KeepLargest(value)
        yield DropSmall(value, SMALL * smallest)


@dataclass
class PostprocessingTrial:
    """Measures what changes to the predicted masks would do to Dice.

    A change is kept if it changes six patients or more, the mean and the median of their gains are above 0, and
    Wilcoxon's signed-rank test has p < 0.05. Of the changes that drop components, each label gets at most one, the
    better one. A class that is in neither mask, or not annotated in a case, counts as Dice 1.

    Attributes:
        truth: The labels of the true masks.
        candidates: The changes, each tried alone.
    """

    truth: Task
    candidates: tuple[LabelStep, ...]
    _gains: dict[LabelStep, list[float]] = field(default_factory=lambda: defaultdict(list), init=False)
    _patients: list[str] = field(default_factory=list, init=False)

    def add(self, case: Case, _: Sequence[Scan], truth: Scan, labels: NDArray[Any]) -> None:
        """Try every change on a predicted mask."""
        self._patients.append(case.patient)
        before = self._dice(case, truth, labels)
        for candidate in self.candidates:
            after = postprocess(labels, truth.spacing_mm, [candidate])
            same = np.array_equal(after, labels)
            dice = before if same else self._dice(case, truth, after)
            self._gains[candidate].append(dice[candidate.label] - before[candidate.label])

    def _dice(self, case: Case, truth: Scan, labels: NDArray[Any]) -> dict[int, float]:
        results = score_case(
            "",
            truth.labels,
            labels,
            self.truth.labels,
            truth.spacing_mm,
            ignore=self.truth.ignore,
            overlap_only=True,
            regions=self.truth.regions,
            annotated=case.annotated,
        )
        return {result.label: 1.0 if result.dice is None else result.dice for result in results}

    def kept(self) -> dict[LabelStep, str]:
        """Return the changes that are kept, in the order of their application, each with its gain in words."""
        gains = {candidate: means_of_patients(values, self._patients) for candidate, values in self._gains.items()}
        tests = {candidate: signed_rank(found) for candidate, found in gains.items()}
        sure = [candidate for candidate, test in tests.items() if _helps(gains[candidate], test)]
        best: dict[tuple[int, bool], LabelStep] = {}
        for step in sorted(sure, key=lambda step: float(gains[step].mean())):
            best[step.label, not isinstance(step, FillHoles)] = step
        return {best[key]: _in_words(gains[best[key]], tests[best[key]]) for key in sorted(best)}


def _helps(gains: NDArray[np.float64], test: Wilcoxon) -> bool:
    """Tell whether a change helps; a low p-value alone may also mean that it does harm."""
    if test.p_value is None or test.p_value >= ALPHA or test.n < FEWEST:
        return False
    return bool(gains.mean() > 0 and np.median(gains[abs(gains) > EQUAL]) > 0)


def _in_words(gains: NDArray[np.float64], test: Wilcoxon) -> str:
    better = int((gains > EQUAL).sum())
    worse = int((gains < -EQUAL).sum())
    return f"Dice {gains.mean():+.4f}; {better} patients gain, {worse} lose, Wilcoxon p = {test.p_value:.2g}"
