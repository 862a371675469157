"""Cross-validation: each mask is predicted by a network that was not trained on its patient; together they predict.

The folder of a cross-validation holds one run for each fold, ``fold-1`` and so on, and ``folds.json``, which makes it
one. Whatever takes a run takes it too: it predicts with the mean of all folds' networks. ``out-of-fold/`` holds the
scores of all labelled cases; from the same masks follows what ``postprocessing.json`` says is done to predictions.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.bounds import seconds_of
from pipeline.checkpoints import output_of
from pipeline.data.checked import read_label
from pipeline.data.splits import all_cases, split_cases
from pipeline.decisions import NONE
from pipeline.engines.postprocessing import (
    DropSmall,
    FillHoles,
    KeepLargest,
    LabelStep,
    name_of,
    postprocess,
    voxel_ml,
)
from pipeline.errors import Problem, UserError
from pipeline.files import locked
from pipeline.metrics.case import TOLERANCE_MM, score_case
from pipeline.metrics.lesions import component_sizes
from pipeline.reports.comparison import ALPHA, EQUAL, Wilcoxon, signed_rank
from pipeline.reports.files import write_json
from pipeline.reports.intervals import FEWEST, means_of_patients
from pipeline.runs import resuming, scoring
from pipeline.runs.folder import SCORES, RunFolder, count_folds, write_own
from pipeline.runs.models import fold_folder, load_folds, load_metrics
from pipeline.runs.planning import absolute, check_dataset_of, refuse_parted_copies
from pipeline.runs.scoring import Scores, notes_on, write_scores
from pipeline.runs.starting import train
from pipeline.runs.stored import FOLDS, INDEX, OUT_OF_FOLD, POSTPROCESSING, SPLIT, read_index, read_own
from pipeline.terminal import note

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import torch
    from numpy.typing import NDArray

    from pipeline.checkpoints import Which
    from pipeline.data.inspection import CaseFacts
    from pipeline.data.nifti import Scan
    from pipeline.decisions import Decisions
    from pipeline.metrics.calibration import Expectation
    from pipeline.prediction.predictor import Segmenter
    from pipeline.recipe import Recipe
    from pipeline.types import Case, Task

# Of a budget, what the folds themselves share; the rest is for predicting every labelled case once more.
FOLDS_SHARE = 0.95
# A component that is dropped as too small has at most this share of the smallest true one's volume.
SMALL = 0.5


def cross_validate(
    recipe: Recipe,
    run: Path,
    folds: int,
    *,
    resume: bool = False,
    allow_change: Sequence[str] = (),
    started: float | None = None,
    decided: Decisions = NONE,
) -> list[Scores]:
    """Train one network a fold, score each on the patients it was not trained on, and choose the post-processing.

    Args:
        recipe: What every fold does; a time budget is shared by the folds.
        run: The folder of the cross-validation.
        folds: How many parts the labelled patients are parted into.
        resume: Go on with the cross-validation that is there.
        allow_change: As for :func:`train`.
        started: As for :func:`train`.
        decided: As for :func:`train`, in every fold.

    Returns:
        The scores out of fold and, where the dataset has a validation list, those of all folds together on that.

    Raises:
        UserError: As :func:`train`, or there are fewer labelled patients than folds.
        Stopped: As :func:`train`.
    """
    began = time.monotonic() if started is None else started
    recipe = absolute(recipe)
    if recipe.segments is not None:
        problem = Problem("--folds", "no-labels", "parts masks, and this recipe learns from none", "leave it out")
        raise UserError("Nothing was started.", [problem])
    if folds < 2:
        raise UserError("Nothing was started.", [Problem("--folds", "too-few", f"is {folds}", "give 2 or more")])
    _refuse_folders(run, resume, folds)
    index = check_dataset_of(recipe, read_index(run) if resume and (run / INDEX).exists() else None)
    everything = all_cases(index.dataset)
    refuse_parted_copies(index)
    # Too many folds are refused before anything is written.
    split_cases(index.dataset, 0.0, recipe.seed, fold=(folds, folds))
    run.mkdir(parents=True, exist_ok=True)
    with locked(run):
        folder = RunFolder(run)
        folder.take()
        if folder.holds_run:
            resuming.refuse_changes(run, recipe, decided, allow_change)
            resuming.refuse_other_scans(run, index, everything)
        folder.write_facts(everything.as_dict(), index.as_rows(), recipe.plugins)
        write_json(run / FOLDS, {"folds": folds})
        folder.write_config(recipe, decided)  # Last, as in any run.
        how: dict[str, Any] = {"resume": True, "allow_change": allow_change, "decided": decided}
        for fold in range(1, folds + 1):
            note(f"fold {fold} of {folds}")
            place = fold_folder(run, fold)
            write_own(place, INDEX, index.as_rows())  # So that the files are not read again.
            its_own = recipe_of_fold(recipe, run, (fold, folds))
            train(its_own, place, started=began if fold == 1 else None, **how)
    scores = [score_out_of_fold(run)]
    return [*scores, validate(run)] if everything.validation else scores


def _refuse_folders(run: Path, resume: bool, folds: int) -> None:
    """Refuse a folder in which something is in the way, of the last fold or the scores too."""
    RunFolder(run).refuse(resume, folds)
    for place in run.glob("fold-*"):
        RunFolder(place).refuse(resume=True)
    output_of(run / OUT_OF_FOLD).refuse_foreign(SCORES)


def recipe_of_fold(recipe: Recipe, run: Path, fold: tuple[int, int]) -> Recipe:
    """Return the recipe of one fold, given as which of how many; all folds share one cache and the time."""
    place = run.resolve() / "cache" if recipe.data.cache == "run" else recipe.data.cache
    changed: dict[str, Any] = {"data": recipe.data.model_copy(update={"fold": fold, "cache": place})}
    if recipe.time_budget is not None:
        changed["time_budget"] = f"{FOLDS_SHARE * seconds_of(recipe.time_budget) / fold[1]:.1f}s"
    return recipe.model_copy(update=changed)


@dataclass(frozen=True)
class OutOfFold:
    """Answers for each scan with the predictor that was not trained on it.

    Attributes:
        by_images: The predictor of each scan, by the scan's files.
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

    def segment(self, scans: Sequence[Scan], expectation: Expectation | None = None) -> NDArray[np.integer[Any]]:
        """Segment one of the scans."""
        return self.by_images[tuple(scan.path for scan in scans)].segment(scans, expectation)


def validate(
    run: Path,
    source: Path | None = None,
    which: Which = "last",
    plugins: Sequence[Path] = (),
    tolerance_mm: float = TOLERANCE_MM,
    **how: Any,
) -> Scores:
    """Score a run as :func:`pipeline.runs.scoring.validate`, or a cross-validation out of fold.

    That is what a cross-validation has where no other dataset is named and its own has no validation list.
    """
    told = [key for key, value in how.items() if value not in (None, "auto", {})]
    if source is None and told:
        message = f"is not given, and {told[0]} says how it lies on disk"
        remedy = "name it, or leave that out"
        raise UserError("There is nothing to open.", [Problem("--dataset", "no-dataset", message, remedy)])
    if source is None and (run / FOLDS).exists() and not read_own(run, SPLIT)["validation"]:
        return score_out_of_fold(run, which, plugins, tolerance_mm)
    return scoring.validate(run, source, which, plugins, tolerance_mm, **how)


def score_out_of_fold(
    run: Path, which: Which = "last", plugins: Sequence[Path] = (), tolerance_mm: float = TOLERANCE_MM
) -> Scores:
    """Score every labelled case of a cross-validation, and choose the post-processing by the masks of ``last``.

    The scores are those before post-processing, since that is chosen by the same cases. Those of ``best`` are apart, in
    ``validation/best``: that checkpoint is another in each fold, chosen by the cases that are scored.

    Raises:
        UserError: A checkpoint of a fold or the dataset cannot be used.
    """
    output_of(run / "validation" / "best" if which == "best" else run / OUT_OF_FOLD).refuse_foreign(SCORES)
    models = load_folds(run, which, plugins)
    dataset, facts = scoring.own_dataset(run, "labelled")
    truth = replace(models[0].task, ignore=dataset.ignore)
    images = {case.id: case.images for case in dataset.cases}
    predictors = {images[name]: models[fold - 1].predictor for name, fold in _fold_of_each(run, set(images)).items()}
    trial = Trial(truth, tuple(_candidates(dataset.cases, facts, truth)) if which == "last" else ())
    scored = scoring.score(
        OutOfFold(predictors),
        dataset.cases,
        facts,
        truth,
        matched=False,
        tolerance_mm=tolerance_mm,
        pictures=True,
        watch=trial.add,
        metrics=load_metrics(run, models[0].recipe),
    )
    step = min(model.step for model in models)
    notes = (
        f"Out of fold: each case was segmented by the one of {len(models)} networks that was not trained on its "
        "patient.",
        *notes_on(models[0].recipe, which),
    )
    if which == "best":
        return write_scores(run / "validation" / "best", run, scored, which, step, notes)
    kept = trial.kept()
    write_own(run, POSTPROCESSING, {"steps": [{"step": name_of(step), "options": asdict(step)} for step in kept]})
    notes += (
        "Post-processing is chosen by these cases and is not in the figures.",
        *(
            f"Post-processing of predictions: {truth.labels[step.label]}, {step} ({gain})."
            for step, gain in kept.items()
        ),
    )
    return write_scores(run / OUT_OF_FOLD, run, scored, which, step, notes)


def _fold_of_each(run: Path, cases: set[str]) -> dict[str, int]:
    """Return the fold that each labelled case of a cross-validation was held out of."""
    folds = range(1, count_folds(run) + 1)
    held_out = {name: fold for fold in folds for name in read_own(fold_folder(run, fold), SPLIT)["validation"]}
    if apart := sorted(cases ^ held_out.keys()):
        message = f"does not tell the same cases as the folds do, such as {apart[0]}"
        problem = Problem(str(run / SPLIT), "damaged-run", message, "bring the file back as it was written")
        raise UserError("The run's folder is not whole.", [problem])
    return held_out


def _candidates(cases: Sequence[Case], facts: Mapping[str, CaseFacts], truth: Task) -> Iterator[LabelStep]:
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
class Trial:
    """What each of some changes to the predicted masks would do to Dice.

    A change is kept where the patients gain by it on average and mostly, and Wilcoxon's signed-rank test of six or more
    that it changes says that it is no chance (p < 0.05). Of those that drop components, a label gets the better one. A
    class that is rightly nowhere counts as Dice 1.

    Attributes:
        truth: What the masks tell.
        candidates: The changes, each tried alone.
    """

    truth: Task
    candidates: tuple[LabelStep, ...]
    _gains: dict[LabelStep, list[float]] = field(default_factory=lambda: defaultdict(list), init=False)
    _patients: list[str] = field(default_factory=list, init=False)

    def add(self, case: Case, _: Sequence[Scan], truth: Scan, labels: NDArray[Any]) -> None:
        """Try every change on a predicted mask."""
        self._patients.append(case.patient)
        before = self._dice(truth, labels)
        for candidate in self.candidates:
            after = postprocess(labels, truth.spacing_mm, [candidate])
            same = np.array_equal(after, labels)
            dice = before if same else self._dice(truth, after)
            self._gains[candidate].append(dice[candidate.label] - before[candidate.label])

    def _dice(self, truth: Scan, labels: NDArray[Any]) -> dict[int, float]:
        results = score_case(
            "", truth.labels, labels, self.truth.labels, truth.spacing_mm, ignore=self.truth.ignore, overlap_only=True
        )
        return {result.label: 1.0 if result.dice is None else result.dice for result in results}

    def kept(self) -> dict[LabelStep, str]:
        """Return the changes that are kept, in the order of their application, and what each gains in words."""
        gains = {candidate: means_of_patients(values, self._patients) for candidate, values in self._gains.items()}
        tests = {candidate: signed_rank(found) for candidate, found in gains.items()}
        sure = [candidate for candidate, test in tests.items() if _helps(gains[candidate], test)]
        best: dict[tuple[int, bool], LabelStep] = {}
        for step in sorted(sure, key=lambda step: float(gains[step].mean())):
            best[step.label, not isinstance(step, FillHoles)] = step
        return {best[key]: _in_words(gains[best[key]], tests[best[key]]) for key in sorted(best)}


def _helps(gains: NDArray[np.float64], test: Wilcoxon) -> bool:
    """Tell whether a change helps: the test alone would also say so of one that mostly does harm."""
    if test.p_value is None or test.p_value >= ALPHA or test.n < FEWEST:
        return False
    return bool(gains.mean() > 0 and np.median(gains[abs(gains) > EQUAL]) > 0)


def _in_words(gains: NDArray[np.float64], test: Wilcoxon) -> str:
    better = int((gains > EQUAL).sum())
    worse = int((gains < -EQUAL).sum())
    return f"Dice {gains.mean():+.4f}; {better} patients gain, {worse} lose, Wilcoxon p = {test.p_value:.2g}"
