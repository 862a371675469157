"""Evaluate masks, made by any tool, against true ones."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from pipeline import __version__
from pipeline.data.checked import read_file
from pipeline.data.examining import THREADS
from pipeline.memory import memory_for
from pipeline.metrics.case import TOLERANCE_MM, score_case
from pipeline.outputs import Output
from pipeline.reports.files import write_cases_csv
from pipeline.reports.summary import Summary, notes_on_unannotated, summarise
from pipeline.reports.volumes import Gallery
from pipeline.runs.folder import SCORES
from pipeline.runs.pairing import TOO_LARGE, all_names, checked_pairs, declared_labels, patients_of, scored_regions
from pipeline.runs.reporting import report_masks
from pipeline.strict_json import write_json
from pipeline.terminal import note, progress

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pipeline.metrics.registered import CaseMetric
    from pipeline.types import CaseResult


def evaluate(
    predictions: Path,
    labels: Path,
    output: Path,
    ignore: int | None = None,
    tolerance_mm: float = TOLERANCE_MM,
    regions: Mapping[str, Sequence[int]] | None = None,
    names: Mapping[int, str] | None = None,
    patient: str | None = None,
    metrics: Mapping[str, CaseMetric] | None = None,
) -> Summary:
    """Score a folder of masks, made by any tool, against a folder of true masks of the same names.

    Args:
        predictions: Folder of masks; those without a true mask are left out.
        labels: Folder of true masks. A ``dataset.json`` in or above this folder, or in the other, names the labels.
        output: Folder for ``cases.csv``, ``summary.json`` and ``report.html``; made if it is missing.
        ignore: Voxels of this true value are not scored; by default those that ``dataset.json`` calls ``ignore``.
        tolerance_mm: Distance up to which surfaces agree in the surface Dice.
        regions: Names and values of unions of labels that are scored in the place of single ones; by default those that
            ``dataset.json`` asks for, and ``{}`` for none.
        names: Of label values; by default those of ``dataset.json``, or of the model that our ``predict`` has used.
        patient: A pattern, of which the first group in a mask's name is the patient; by default each is one.
        metrics: Further metrics, by name.

    Returns:
        The summary that was written.

    Raises:
        UserError: A file is in the way, a prediction is missing, a file is unsound, grids differ, or a region is none;
            nothing is written then.
    """
    made = Output(output, "evaluate")
    made.refuse_foreign(SCORES)
    declared = declared_labels(labels, predictions)
    ignore = declared["ignore"] if ignore is None else ignore
    pairs, values, hashes = checked_pairs(predictions, labels, ignore)
    patients = patients_of(pairs, patient)
    unions = scored_regions(declared["asked"] if regions is None else regions)
    given = {**(names or declared["labels"] or {}), **{each.label: name for name, each in unions.items()}}
    called = all_names(values - {ignore}, given)
    score = partial(score_case, labels=called, ignore=ignore, tolerance_mm=tolerance_mm, metrics=metrics)
    parts = tuple(unions.values())
    gallery = Gallery(n_cases=len(pairs), labels=called, ignore=ignore)
    partly: dict[str, bool] = {}

    def scored(case: str) -> list[CaseResult]:
        with memory_for(str(pairs[case][0]), "to score it", None, TOO_LARGE):
            true, guess = map(read_file, pairs[case], hashes[case])
            maps = true.labels, guess.labels
            partly[case] = ignore is not None and bool((true.labels == ignore).any())
            gallery.add(case, None, *maps, true.affine)
            return score(case, *maps, spacing_mm=true.spacing_mm, patient=patients[case], regions=parts)

    with ThreadPoolExecutor(THREADS) as pool:
        by_case = progress(pool.map(scored, pairs), "scoring", len(pairs))
        results = [result for rows in by_case for result in rows]
    notes = notes_on_unannotated([*partly.values()])
    return _written(made, (predictions, labels), results, gallery, tolerance_mm, notes)


def _written(
    made: Output,
    folders: tuple[Path, Path],
    results: Sequence[CaseResult],
    gallery: Gallery,
    tolerance_mm: float,
    notes: Sequence[str],
) -> Summary:
    for text in notes:
        note(text)
    summary = summarise(results)
    about = {"version": __version__, "tolerance_mm": tolerance_mm, "notes": list(notes)}
    with made.writing(SCORES) as stage:
        write_cases_csv(stage / "cases.csv", results)
        write_json(stage / "summary.json", about | summary.as_dict())
        report_masks(stage, *folders, results, summary, gallery, tolerance_mm, notes)
    return summary
