"""Out-of-fold scores of a cross-validation: each case is predicted by the network not trained on its patient."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from pipeline.checkpoints import output_of
from pipeline.errors import Problem, UserError
from pipeline.metrics.case import TOLERANCE_MM
from pipeline.prediction.postprocessing import (
    name_of,
)
from pipeline.runs.choosing import PostprocessingTrial, candidates
from pipeline.runs.folder import SCORES, count_folds, fold_folder, write_own
from pipeline.runs.models import load_folds
from pipeline.runs.parts_of_run import load_metrics
from pipeline.runs.scored_cases import own_dataset
from pipeline.runs.scoring import Scores, notes_on_choices, score, write_scores
from pipeline.runs.stored import OUT_OF_FOLD, POSTPROCESSING, SPLIT, read_config, read_own

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from pipeline.metrics.calibration import Expectation
    from pipeline.metrics.region_calibration import RegionExpectation
    from pipeline.nifti.volume import Scan
    from pipeline.prediction.predictor import Segmenter
    from pipeline.types import Which


@dataclass(frozen=True)
class OutOfFold:
    """Predicts each scan with the predictor that was not trained on it.

    Attributes:
        by_images: The predictor of each scan, by the paths of its images.
    """

    by_images: Mapping[tuple[Path, ...], Segmenter]

    @property
    def label_values(self) -> tuple[int, ...]:
        """The dataset's value of each class, in the order of the classes."""
        return next(iter(self.by_images.values())).label_values

    @property
    def device(self) -> torch.device:
        """Where the networks lie."""
        return next(iter(self.by_images.values())).device

    def segment(
        self, scans: Sequence[Scan], expectation: Expectation | RegionExpectation | None = None
    ) -> NDArray[np.integer[Any]]:
        """Segment one of the scans, given by its images, as its predictor does."""
        return self.by_images[tuple(scan.path for scan in scans)].segment(scans, expectation)


def score_out_of_fold(
    run: Path, which: Which = "last", plugins: Sequence[Path] = (), tolerance_mm: float = TOLERANCE_MM
) -> Scores:
    """Score every labelled case of a cross-validation, and with ``last`` choose the post-processing.

    Scores are those before post-processing, since that is chosen by the same cases. Those of ``best`` go into
    ``validation/best``: the best checkpoint of each fold was chosen by the very cases that are scored.

    Raises:
        UserError: A checkpoint of a fold or the dataset cannot be used.
    """
    output_of(run / "validation" / "best" if which == "best" else run / OUT_OF_FOLD).refuse_foreign(SCORES)
    models = load_folds(run, which, plugins)
    dataset, facts = own_dataset(run, "labelled")
    truth = replace(models[0].task, ignore=dataset.ignore)
    images = {case.id: case.images for case in dataset.cases}
    held_out = _fold_of_each(run, set(images))
    predictors = {images[name]: models[fold - 1].predictor for name, fold in held_out.items()}
    cases = tuple(case for case in dataset.cases if case.id in held_out)
    chooses = which == "last" and read_config(run).postprocessing == "auto"
    trial = PostprocessingTrial(truth, tuple(candidates(cases, facts, truth)) if chooses else ())
    scored = score(
        OutOfFold(predictors),
        cases,
        facts,
        truth,
        matched=False,
        tolerance_mm=tolerance_mm,
        pictures=True,
        watch=trial.add,
        metrics=load_metrics(run, models[0].settings),
    )
    step = min(model.step for model in models)
    notes = (
        f"Out of fold: each case was segmented by the one of {len(models)} networks that was not trained on its "
        "patient.",
        *notes_on_choices(models[0].settings, which),
        *dict.fromkeys(note for model in models for note in model.notes),
    )
    if which == "best":
        return write_scores(run / "validation" / "best", run, scored, which, step, notes)
    kept = trial.kept()
    write_own(run, POSTPROCESSING, {"steps": [{"step": name_of(step), "options": asdict(step)} for step in kept]})
    if chooses:
        notes += ("Post-processing is chosen by these cases and is not in the figures (`postprocessing=[]`: none).",)
    notes += tuple(
        f"Post-processing of predictions: {truth.labels[step.label]}, {step} ({gain})." for step, gain in kept.items()
    )
    return write_scores(run / OUT_OF_FOLD, run, scored, which, step, notes)


def _fold_of_each(run: Path, cases: set[str]) -> dict[str, int]:
    """Return the fold that each labelled case of a cross-validation was held out of; no case that all train on."""
    splits = {fold: read_own(fold_folder(run, fold), SPLIT) for fold in range(1, count_folds(run) + 1)}
    held_out = {name: fold for fold, split in splits.items() for name in split["validation"]}
    always = set.intersection(*(set(split["labelled"]) for split in splits.values()))
    if apart := sorted((cases - always) ^ held_out.keys()):
        message = f"does not tell the same cases as the folds do, such as {apart[0]}"
        problem = Problem(str(run / SPLIT), "damaged-run", message, "bring the file back as it was written")
        raise UserError("The run's folder is not whole.", [problem])
    return held_out
