"""Evaluate masks from anywhere against true ones."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from pipeline import __version__
from pipeline.data import nifti
from pipeline.data.checked import read_file
from pipeline.data.examining import THREADS
from pipeline.data.inspection import examine_pair
from pipeline.data.layouts import scans_in
from pipeline.data.layouts.dataset import BadEntryError, read_labels
from pipeline.data.layouts.lists import read_json
from pipeline.errors import Names, Problem, UserError, nearest
from pipeline.memory import memory_for
from pipeline.metrics.case import TOLERANCE_MM, score_case
from pipeline.outputs import Output
from pipeline.reports.files import write_cases_csv, write_json
from pipeline.reports.summary import Summary, summarise
from pipeline.reports.volumes import Gallery
from pipeline.runs.folder import SCORES
from pipeline.runs.reporting import report_masks
from pipeline.terminal import progress

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.types import CaseResult


TOO_LARGE = "crop the masks, or leave them out"


def evaluate(
    predictions: Path, labels: Path, output: Path, ignore: int | None = None, tolerance_mm: float = TOLERANCE_MM
) -> Summary:
    """Score a folder of masks, made by any tool, against a folder of true masks of the same names.

    Args:
        predictions: Masks; those without a counterpart are left out. Other files, such as those that nnU-Net writes
            beside its masks, are too.
        labels: True masks; each must have a prediction. A ``dataset.json`` in or above this folder, or in that of the
            predictions, names the labels.
        output: Where ``cases.csv``, ``summary.json`` and ``report.html`` go; made where it is not there.
        ignore: Voxels with this true value count nowhere; by default the one that ``dataset.json`` calls ``ignore``.
        tolerance_mm: Of the surface Dice.

    Raises:
        UserError: A file is in the way, a prediction is missing, a file is unsound, or grids differ; nothing is
            written then.
    """
    made = Output(output, "evaluate")
    made.refuse_foreign(SCORES)
    declared = _declared_labels(labels, predictions)
    ignored = declared["ignore"] if ignore is None else ignore
    pairs, values, hashes = _checked_pairs(predictions, labels, ignored)
    known = {0: "background"} | (declared["labels"] or {})
    names = {value: known.get(value, f"label {value}") for value in sorted(values | known.keys())}
    gallery = Gallery(len(pairs), names, ignored)

    def scored(pair: tuple[str, tuple[Path, Path]]) -> list[CaseResult]:
        with memory_for(str(pair[1][0]), "to score it", None, TOO_LARGE):
            case = pair[0]
            (true, guess) = map(read_file, pair[1], hashes[pair[0]])
            maps = true.labels, guess.labels
            gallery.add(case, None, *maps, true.affine)
            return score_case(case, *maps, names, true.spacing_mm, ignore=ignored, tolerance_mm=tolerance_mm)

    with ThreadPoolExecutor(THREADS) as pool:
        by_case = progress(pool.map(scored, pairs.items()), "scoring", len(pairs))
        results = [result for rows in by_case for result in rows]
    summary = summarise(results)
    about = {"version": __version__, "tolerance_mm": tolerance_mm}
    with made.writing(SCORES) as stage:
        write_cases_csv(stage / "cases.csv", results)
        write_json(stage / "summary.json", about | summary.as_dict())
        report_masks(stage, predictions, labels, results, summary, gallery, tolerance_mm)
    return summary


def _checked_pairs(
    predictions: Path, labels: Path, ignored: int | None
) -> tuple[dict[str, tuple[Path, Path]], set[int], dict[str, tuple[str, ...]]]:
    """Return the masks of each case, every label value in them, and the files' hashes, once all are sound."""
    truth, predicted = ({nifti.stem(path): path for path in scans_in(folder)} for folder in (labels, predictions))
    known = Names(predicted)
    problems = [
        Problem(
            str(path),
            "no-prediction",
            f"has no counterpart in {predictions}",
            nearest(name, known) if predicted else "predict it",
        )
        for name, path in truth.items()
        if name not in predicted
    ]
    pairs = {name: (path, predicted[name]) for name, path in truth.items() if name in predicted}
    values = {0}
    hashes = {}
    for name, pair in progress(pairs.items(), "checking", len(pairs)):
        with memory_for(str(pair[0]), "to look at it", None, TOO_LARGE):
            found, hashes[name], wrong = examine_pair(*pair, ignored)
        values |= found
        problems += wrong
    if not truth:
        problems.append(
            Problem(str(labels), "no-scans", "holds no .nii or .nii.gz file", "name the folder of true masks")
        )
    if problems:
        raise UserError("Nothing was evaluated.", problems)
    return pairs, values, hashes


def _declared_labels(labels: Path, predictions: Path) -> dict[str, Any]:
    """Read what a ``dataset.json`` of the Decathlon or of nnU-Net says of labels; nothing where there is none."""
    places = (folder / "dataset.json" for folder in (labels, labels.resolve().parent, predictions))
    listing = next((path for path in places if path.is_file()), None)
    if listing is None:
        return read_labels(None)
    try:
        content = read_json(listing)
        return read_labels(content.get("labels"), content.get("ignore"))
    except BadEntryError as error:
        code, message, remedy = error.args
        raise UserError("Nothing was evaluated.", [Problem(f"{listing}: labels", code, message, remedy)]) from None
