"""Validate a run, and evaluate masks from anywhere."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline import __version__
from pipeline.data import nifti
from pipeline.data.inspection import examine_pair
from pipeline.data.layouts import Dataset, open_dataset, scans_in
from pipeline.engines.evaluator import SegmentationEvaluator
from pipeline.errors import Problem, UserError, nearest
from pipeline.metrics.overlap import score_case
from pipeline.reports.files import write_cases_csv, write_json
from pipeline.reports.summary import Summary, summarise
from pipeline.runs.checking import check_dataset, progress
from pipeline.runs.models import SPLIT, channel_problem, load_model

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.checkpoints import Which
    from pipeline.config import Recipe
    from pipeline.data.check import Index
    from pipeline.engines.predictor import Predictor
    from pipeline.types import Case, CaseResult, Task


def validate(
    run: Path, source: Path | None = None, which: Which = "last", plugins: Sequence[Path] = ()
) -> tuple[Summary, Path]:
    """Score a run's checkpoint on its own validation cases, or on the labelled cases of another dataset.

    Returns:
        The summary, and the folder that ``cases.csv`` and ``summary.json`` were written to: the run's own, or for
        another dataset ``validation/NAME`` in it.

    Raises:
        UserError: The checkpoint or the dataset cannot be used, or there is nothing to validate on.
    """
    model = load_model(run, which, plugins)
    dataset = _validation_dataset(run, model.recipe, source)
    index = check_dataset(replace(dataset, labels=model.task.labels))
    _refuse_channels(index, model.task)
    folder = run if source is None else run / "validation" / source.resolve().stem
    folder.mkdir(parents=True, exist_ok=True)
    results = score(model.predictor, dataset.cases, model.task)
    return write_report(folder, results, which, model.step), folder


def _validation_dataset(run: Path, recipe: Recipe, source: Path | None) -> Dataset:
    dataset = open_dataset(source or recipe.dataset, None if source else recipe.root)
    if source is None:
        wanted = json.loads((run / SPLIT).read_text(encoding="utf-8"))["validation"]
        missing = [name for name in wanted if name not in {case.id for case in dataset.cases}]
        if missing:
            problems = [
                Problem(name, "case-gone", f"is no longer in {dataset.source}", "bring it back") for name in missing
            ]
            raise UserError("The run's validation cases are not all there.", problems)
        return replace(dataset, cases=tuple(case for case in dataset.cases if case.id in wanted))
    held_out = tuple(case for case in dataset.cases if case.role == "validation")
    cases = held_out or tuple(case for case in dataset.cases if case.label)
    if not cases:
        problem = Problem(str(source), "no-labels", "has no labelled case to validate on", "name a dataset with labels")
        raise UserError("There is nothing to validate on.", [problem])
    return replace(dataset, cases=cases)


def _refuse_channels(index: Index, task: Task) -> None:
    wrong = [facts for facts in index.facts.values() if facts.channels != len(task.channels)]
    problems = [channel_problem(facts.case, facts.channels, task) for facts in wrong]
    if problems:
        raise UserError("The scans do not fit the model.", problems)


def score(predictor: Predictor, cases: Sequence[Case], task: Task) -> list[CaseResult]:
    """Predict and score cases on their own grids."""
    device = next(predictor.network.parameters()).device
    evaluator = SegmentationEvaluator(predictor, cases, task.labels, device)
    evaluator.run()
    return evaluator.results


def write_report(folder: Path, results: list[CaseResult], which: Which, step: int) -> Summary:
    """Write ``cases.csv`` and ``summary.json`` into a folder, and return the summary."""
    summary = summarise(results)
    write_cases_csv(folder / "cases.csv", results)
    about = {"checkpoint": which, "step": step, "version": __version__}
    write_json(folder / "summary.json", about | summary.as_dict())
    return summary


def evaluate(predictions: Path, labels: Path, output: Path) -> Summary:
    """Score a folder of masks, made by any tool, against a folder of true masks of the same names.

    Args:
        predictions: Masks; those without a counterpart are left out.
        labels: True masks; each must have a prediction.
        output: Where ``cases.csv`` and ``summary.json`` go; made where it is not there.

    Raises:
        UserError: A prediction is missing, a file is unsound, or grids differ; nothing is written then.
    """
    truth, predicted = ({nifti.stem(path): path for path in scans_in(folder)} for folder in (labels, predictions))
    problems = [
        Problem(
            str(path),
            "no-prediction",
            f"has no counterpart in {predictions}",
            nearest(name, predicted) if predicted else "predict it",
        )
        for name, path in truth.items()
        if name not in predicted
    ]
    pairs = {name: (path, predicted[name]) for name, path in truth.items() if name in predicted}
    values = {0}
    for true, guess in progress(pairs.values(), "checking", len(pairs)):
        found, wrong = examine_pair(true, guess)
        values |= found
        problems += wrong
    if not truth:
        problems.append(
            Problem(str(labels), "no-scans", "holds no .nii or .nii.gz file", "name the folder of true masks")
        )
    if problems:
        raise UserError("Nothing was evaluated.", problems)
    names = {value: f"label {value}" if value else "background" for value in sorted(values)}
    results = []
    for name, paths in progress(pairs.items(), "scoring", len(pairs)):
        true, guess = (nifti.load(path).voxels[0].round().astype(int) for path in paths)
        results += score_case(name, true, guess, names)
    output.mkdir(parents=True, exist_ok=True)
    write_cases_csv(output / "cases.csv", results)
    summary = summarise(results)
    write_json(output / "summary.json", {"version": __version__} | summary.as_dict())
    return summary
