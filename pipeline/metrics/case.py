"""All scores of one case, class by class.

An average that drops empty masks hides two mistakes: a structure that was missed, and one that was invented. Here both
get the worst possible value, and an outcome of their own; only a class that is in neither map has no number.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from scipy.ndimage import find_objects

from pipeline.metrics.lesions import count_lesions
from pipeline.metrics.overlap import Overlap, chunks, encode, joint_counts
from pipeline.metrics.registered import measure
from pipeline.metrics.surface import flat_axes, surface_distances
from pipeline.types import CaseResult

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.metrics.overlap import Codes, Counts, Labels
    from pipeline.metrics.registered import CaseMetric
    from pipeline.metrics.surface import Mask, Spacing
    from pipeline.types import Outcome, Region

    Box: TypeAlias = tuple[slice, ...]

TOLERANCE_MM = 1.0


def score_case(
    case: str,
    truth: Labels,
    prediction: Labels,
    labels: Mapping[int, str],
    spacing_mm: Spacing,
    *,
    patient: str | None = None,
    ignore: int | None = None,
    tolerance_mm: float = TOLERANCE_MM,
    overlap_only: bool = False,
    metrics: Mapping[str, CaseMetric] | None = None,
    regions: Sequence[Region] = (),
    annotated: Collection[int] | None = None,
) -> list[CaseResult]:
    """Score every foreground class, or every region, of one case.

    Args:
        case: The case's id.
        truth: Integer labels with one to three axes, ``[X, Y, Z]``.
        prediction: Integer labels of the same shape.
        labels: The name of each value. Background is 0, listed or not, and is not scored.
        spacing_mm: Size of a voxel along each axis.
        patient: The patient; by default the case's id.
        ignore: Where the truth has this value, both maps count as background; where the prediction alone does, it does.
        tolerance_mm: Distance up to which surfaces agree in the surface Dice.
        overlap_only: Leave out surfaces, lesions and further metrics, which take most of the time. Distances are then
            None, and numbers of lesions 0.
        metrics: Further metrics, by name.
        regions: Unions of labels that are scored in the place of single ones, each under its label.
        annotated: The values of the classes that are annotated in the truth; the others have no number. None for all.

    Returns:
        One result for each foreground class or region, by rising value.

    Raises:
        ValueError: The shapes differ, an array holds no integers, or a value is not in ``labels``.
        UserError: A further metric returns neither a finite number nor None.

    >>> truth, prediction = np.array([[[0, 5, 5, 5]]]), np.array([[[0, 0, 5, 5]]])
    >>> for result in score_case("a", truth, prediction, {5: "liver", 300: "spleen"}, (1.0, 1.0, 2.0)):
    ...     print(result.name, result.dice, result.hd95_mm, result.outcome)
    liver 0.8 2.0 scored
    spleen None None absent
    """
    truth, prediction = _validated(case, np.asarray(truth), np.asarray(prediction))
    foreground = {int(value): name for value, name in labels.items() if value not in (0, ignore)}
    known = np.array(sorted({0, *foreground}), dtype=np.int64)
    maps = _encoded(truth, prediction, known, ignore)
    counts = joint_counts(*maps, len(known) + 1)
    _refuse_unknown(case, truth, prediction, known, counts, ignore)
    scan = _Scan(case, patient or case, truth.shape, _Measured(_mm(spacing_mm), tolerance_mm, metrics or {}, annotated))
    boxes = [] if overlap_only else [find_objects(codes, len(known)) for codes in maps]
    unions = {region.label: region.values for region in regions} or {value: (value,) for value in foreground}
    results = []
    for value, parts in sorted(unions.items()):
        codes = np.flatnonzero(np.isin(known, parts))
        masks = _cut_out(maps, codes, [found[code - 1] for found in boxes for code in codes]) if boxes else None
        results.append(scan.result(value, foreground[value], _overlap(counts, codes), masks))
    return results


def _mm(spacing_mm: Spacing) -> Spacing:
    """Return sizes of a voxel as Python's numbers: those of a header are NumPy's, in single precision."""
    x, y, z = map(float, spacing_mm)
    return x, y, z


@dataclass(frozen=True)
class _Measured:
    """How to measure what is not overlap, and which classes can be measured at all; None for all."""

    spacing_mm: Spacing
    tolerance_mm: float
    metrics: Mapping[str, CaseMetric]
    annotated: Collection[int] | None


@dataclass(frozen=True)
class _Scan:
    """What the results of one case have in common."""

    case: str
    patient: str
    shape: tuple[int, ...]
    how: _Measured

    def result(self, label: int, name: str, overlap: Overlap, masks: tuple[Mask, Mask] | None) -> CaseResult:
        """Return the scores of one class.

        Args:
            label: The value of the class.
            name: Its name.
            overlap: Its numbers of voxels.
            masks: Its true and predicted mask, cut to a box that holds both; None scores overlap alone.
        """
        if self.how.annotated is not None and label not in self.how.annotated:
            return self._unknown(label, name, overlap)
        voxel_ml = math.prod(self.how.spacing_mm) / 1000
        more: dict[str, Any] = {}
        if masks is not None:
            more = self._looked_into(overlap.outcome, masks)
        return CaseResult(
            case=self.case,
            patient=self.patient,
            label=label,
            name=name,
            outcome=overlap.outcome,
            voxels_truth=overlap.truth,
            voxels_predicted=overlap.predicted,
            volume_truth_ml=overlap.truth * voxel_ml,
            volume_predicted_ml=overlap.predicted * voxel_ml,
            dice=overlap.dice,
            iou=overlap.iou,
            precision=overlap.precision,
            recall=overlap.recall,
            volume_difference=overlap.volume_difference,
            **more,
        )

    def _unknown(self, label: int, name: str, overlap: Overlap) -> CaseResult:
        """Return the result of a class that is not annotated: what is predicted of it, and no score."""
        voxel_ml = math.prod(self.how.spacing_mm) / 1000
        return CaseResult(
            case=self.case,
            patient=self.patient,
            label=label,
            name=name,
            outcome="not_annotated",
            voxels_truth=0,
            voxels_predicted=overlap.predicted,
            volume_predicted_ml=overlap.predicted * voxel_ml,
            dice=None,
            more=dict.fromkeys(self.how.metrics),
        )

    def _looked_into(self, outcome: Outcome, masks: tuple[Mask, Mask]) -> dict[str, Any]:
        """Return the scores that need masks: lesions, distances and further metrics."""
        more = dict.fromkeys(self.how.metrics) if outcome == "absent" else self._further(masks)
        return self._lesions(masks) | self._distances(outcome, masks) | {"more": more}

    def _further(self, masks: tuple[Mask, Mask]) -> dict[str, float | None]:
        return measure(self.how.metrics, self.case, masks, self.how.spacing_mm)

    def _lesions(self, masks: tuple[Mask, Mask]) -> dict[str, Any]:
        return {f"lesions_{name}": count for name, count in asdict(count_lesions(*masks)).items()}

    def _distances(self, outcome: Outcome, masks: tuple[Mask, Mask]) -> dict[str, Any]:
        if outcome == "absent":
            return {}
        if outcome != "scored":
            return {"hd95_mm": self._diagonal_mm(), "assd_mm": self._diagonal_mm(), "surface_dice": 0.0}
        found = surface_distances(*masks, self.how.spacing_mm)
        return {
            "hd95_mm": found.hd95_mm,
            "assd_mm": found.assd_mm,
            "surface_dice": found.surface_dice(self.how.tolerance_mm),
        }

    def _diagonal_mm(self) -> float:
        """Return the diagonal of the field of view, which no distance exceeds; an axis of one voxel has no length."""
        sides = zip(self.shape, self.how.spacing_mm, flat_axes(self.shape), strict=True)
        return math.hypot(*(n * size for n, size, flat in sides if not flat))


def _validated(case: str, truth: Labels, prediction: Labels) -> tuple[Labels, Labels]:
    """Refuse maps that cannot be compared voxel by voxel; return others with three axes, of integers."""
    if truth.ndim > 3:
        raise ValueError(f"case {case!r}: the truth has shape {truth.shape}; give three axes at most")
    if truth.shape != prediction.shape:
        raise ValueError(f"case {case!r}: truth is {truth.shape} but prediction is {prediction.shape}")
    for what, array in (("truth", truth), ("prediction", prediction)):
        if array.dtype.kind not in "iub":
            raise ValueError(f"case {case!r}: the {what} is {array.dtype}; labels must be integers")
    shape = (*truth.shape, 1, 1, 1)[:3]
    whole, guess = (a.view(np.uint8) if a.dtype.kind == "b" else a for a in (truth, prediction))
    return whole.reshape(shape), guess.reshape(shape)


def _encoded(truth: Labels, prediction: Labels, known: Counts, ignore: int | None) -> tuple[Codes, Codes]:
    """Return both maps as indices into ``known``, cut to a box outside of which both are background."""
    box = _foreground_box(truth, prediction)
    truth = truth[box]
    prediction = prediction[box]
    codes = encode(truth, known), encode(prediction, known)
    if ignore is not None:
        ignored = truth == ignore
        codes[0][ignored] = 0
        codes[1][ignored | (prediction == ignore)] = 0
    return codes


def _foreground_box(truth: Labels, prediction: Labels) -> Box:
    """Return the box around the foreground of both maps, computed for a few planes at a time to save memory."""
    planes: Mask = np.zeros(len(truth), bool)
    shadow: Mask = np.zeros(truth.shape[1:], bool)
    for part in chunks(truth):
        block = (truth[part] != 0) | (prediction[part] != 0)
        planes[part] = block.any(axis=(1, 2))
        shadow |= block.any(axis=0)
    return tuple(_extent(line) for line in (planes, np.any(shadow, axis=1), np.any(shadow, axis=0)))


def _extent(line: Mask) -> slice:
    places = np.flatnonzero(line)
    if places.size:
        return _with_margin(int(places[0]), int(places[-1]) + 1, line.size)
    return slice(0)


def _with_margin(start: int, stop: int, size: int) -> slice:
    """Return a range with a voxel more on either side, so that a box is flat only along flat axes of the scan."""
    return slice(max(start - 1, 0), min(stop + 1, size))


def _overlap(counts: Counts, parts: NDArray[np.intp]) -> Overlap:
    """Return the overlap of some codes together, from the voxels of every pair."""
    both = counts[np.ix_(parts, parts)]
    return Overlap(*map(int, (counts[parts].sum(), counts[:, parts].sum(), both.sum())))


def _cut_out(maps: tuple[Codes, Codes], parts: NDArray[np.intp], boxes: list[Box | None]) -> tuple[Mask, Mask]:
    """Return the true and the predicted mask of one class or of several together, cut to a box that holds both."""
    axes = zip(maps[0].shape, *(box for box in boxes if box is not None), strict=True)
    box = tuple(
        _with_margin(min(s.start for s in spans), max(s.stop for s in spans), size) if spans else slice(0)
        for size, *spans in axes
    )
    if len(parts) == 1:
        truth, prediction = (codes[box] == parts[0] for codes in maps)
    else:
        truth, prediction = (np.isin(codes[box], parts) for codes in maps)
    return truth, prediction


def _refuse_unknown(
    case: str, truth: Labels, prediction: Labels, known: Counts, counts: Counts, ignore: int | None
) -> None:
    """Refuse maps with values that are no labels; their counts are in the last row and column."""
    if not counts[-1].any() and not counts[:, -1].any():
        return
    counted = np.ones(truth.shape, dtype=bool)
    allowed = known.tolist()
    if ignore is not None:
        counted = truth != ignore
        allowed.append(ignore)
    for what, array in (("truth", truth), ("prediction", prediction)):
        unknown = np.setdiff1d(array[counted], allowed).tolist()
        if unknown:
            raise ValueError(
                f"case {case!r}: the {what} holds {unknown}; the labels are {known.tolist()}, "
                "so declare those values or mend the map"
            )
