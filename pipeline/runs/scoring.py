"""Validate a run: predict cases, score them, and write scores and report."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

from pipeline import __version__
from pipeline.engines.evaluator import SegmentationEvaluator, Watch, reliability_of
from pipeline.metrics.case import TOLERANCE_MM
from pipeline.reports.files import write_cases_csv
from pipeline.reports.summary import Summary, notes_on_unannotated, summarise
from pipeline.reports.volumes import Gallery
from pipeline.runs.checking import check_dataset
from pipeline.runs.fitting import refuse_misfits
from pipeline.runs.folder import SCORES, RunFolder
from pipeline.runs.models import load_model
from pipeline.runs.parts_of_run import load_metrics
from pipeline.runs.reporting import add_case, curves_of, report_run
from pipeline.runs.scored_cases import folder_of_scores, other_cases, own_cases, unseen_cases
from pipeline.runs.segments import MATCHED, describe, labels_of, match
from pipeline.strict_json import write_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pipeline.data.inspection import CaseFacts
    from pipeline.data.layouts import Dataset
    from pipeline.metrics.registered import CaseMetric
    from pipeline.planning.settings import Settings
    from pipeline.prediction.predictor import Predictor, Segmenter
    from pipeline.recipe import Recipe
    from pipeline.runs.models import TrainedModel
    from pipeline.runs.sharing import SharedCases
    from pipeline.runs.targets import OpenAs
    from pipeline.types import Case, CaseResult, Task, Which


# Below this mean Dice a network hardly finds the structures yet, and the largest pieces of what it finds may be others.
YOUNG = 0.5
PIECES = (
    "Masks are cut to their largest pieces (`postprocessing` in config.yaml), which at this Dice may be the wrong "
    "ones: `fewmask predict --postprocess off` keeps all; `fewmask train RUN --resume 'postprocessing=[]' "
    "--allow-change postprocessing` keeps and scores all from then on, and trains no further."
)
# By so much less Dice than at an earlier validation something went wrong.
FALL = 0.1
NOBODY_KNOWN = "The file does not tell which scans the model was trained on: scores of those flatter."


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Cases that were predicted and scored.

    Attributes:
        results: One result for each class of each case.
        calibration: The calibration of the network's probabilities, as in ``summary.json``.
        matching: How segments were matched to labels, as in ``summary.json``; empty for a run trained on labels.
        tolerance_mm: The tolerance of the surface Dice.
        gallery: The scans with both masks, for the report; None without pictures.
        notes: Notes for the reader of the figures.
    """

    results: list[CaseResult]
    calibration: dict[str, Any] = field(default_factory=dict)
    matching: dict[str, Any] = field(default_factory=dict)
    tolerance_mm: float = TOLERANCE_MM
    gallery: Gallery | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scores:
    """The scores of a validation.

    Attributes:
        summary: The statistics over all cases.
        folder: Where ``cases.csv``, ``summary.json`` and ``report.html`` were written.
        notes: Notes for the reader of the figures.
    """

    summary: Summary
    folder: Path
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return folder, notes and statistics, JSON-ready."""
        return {"folder": str(self.folder), "notes": list(self.notes)} | self.summary.as_dict()


def validate_run(
    run: Path,
    source: Path | None = None,
    which: Which = "last",
    plugins: Sequence[Path] = (),
    tolerance_mm: float = TOLERANCE_MM,
    open_as: OpenAs = (None, "auto", {}),
) -> Scores:
    """Score a run's checkpoint on its own validation cases, or on the labelled cases of another dataset.

    Scans that the run was trained on are left out of another dataset, whatever they are called there. Results of
    ``last`` on the run's own cases go into the run itself, others to ``validation/best`` or ``validation/DATASET``.

    Args:
        run: The run's folder; or a model file, whose results go into ``FILE-validation/DATASET`` beside it.
        source: The other dataset, with the run's labels; its channels are the run's unless it names them.
        which: The checkpoint.
        plugins: As for :func:`load_model`.
        tolerance_mm: Distance up to which surfaces agree in the surface Dice.
        open_as: How the other dataset lies on disk: root, layout and options, as for :func:`open_dataset`.

    Returns:
        The scores, and where they were written.

    Raises:
        UserError: The checkpoint or the dataset cannot be used, or there is nothing to validate on.
    """
    folder = folder_of_scores(run, source, which)
    RunFolder(folder).output.refuse_foreign(SCORES)
    alone = run.is_file()
    curves_of(run)  # Before anything is computed that could not be reported.
    model = load_model(run, which, plugins)
    dataset, known = _dataset_of(run, source, model, open_as)
    segments = model.settings.segments is not None
    # Segments have names of their own: what they are scored against, the dataset says.
    index = check_dataset(dataset if segments else replace(dataset, labels=model.task.labels), to_train=False)
    refuse_misfits(index, model)
    truth = labels_of(index) if segments else replace(model.task, ignore=index.ignore)
    validations: list[float] = []
    if source is None:
        cases = dataset.cases
        notes = (*notes_on_choices(model.settings, which), *model.notes)
        validations = RunFolder(run).validation_dice()
    else:
        cases = index.dataset.cases if alone else unseen_cases(run, index)
        notes = _notes_on_others(len(dataset.cases) - len(cases), known=not alone)
    scored = score(
        model.predictor,
        cases,
        index.facts if source else known,
        truth,
        matched=segments,
        tolerance_mm=tolerance_mm,
        pictures=True,
        metrics=load_metrics(run, model.settings),
    )
    notes += _notes_on_end(model, which) + notes_on_low_dice(validations, model.settings, scored)
    return write_scores(folder, run, scored, which, model.step, notes, source)


def _dataset_of(
    run: Path, source: Path | None, model: TrainedModel, open_as: OpenAs
) -> tuple[Dataset, dict[str, CaseFacts]]:
    """Return the dataset that is scored, and of a run's own cases what the check found when it began."""
    if source is None:
        return own_cases(run)
    return other_cases(source, model.task, open_as, model.settings), {}


def _notes_on_others(left_out: int, *, known: bool) -> tuple[str, ...]:
    """Return notes on the cases of another dataset, of which some are left out if it is known who was trained on."""
    if not known:
        return (NOBODY_KNOWN,)
    if left_out:
        return (f"{left_out} case(s) that the run was trained on are left out.",)
    return ()


def _notes_on_end(model: TrainedModel, which: Which) -> tuple[str, ...]:
    return (f"This model was {model.unfinished}.",) if which == "last" and model.unfinished else ()


def notes_on_choices(recipe: Recipe, which: Which) -> tuple[str, ...]:
    """Return notes on what was chosen by a run's own validation cases, which makes their scores optimistic."""
    notes = []
    if which == "best":
        notes.append("These cases chose this checkpoint: its figures flatter. Those of `last` do not.")
    if recipe.patience is not None:
        notes.append("These cases decided when the training ended (`patience`): its figures flatter a little.")
    return tuple(notes)


def notes_on_low_dice(validations: Sequence[float], settings: Settings, scored: Scored) -> tuple[str, ...]:
    """Return notes on a Dice that is low: by pieces that post-processing kept, or far below an earlier validation's."""
    dice = summarise(scored.results).mean_dice
    if dice is None:
        return ()
    notes = []
    found = any(row.voxels_predicted for row in scored.results)
    if found and dice < YOUNG and any(choice.step.startswith("keep_largest") for choice in settings.postprocessing):
        notes.append(PIECES)
    best = max(validations, default=0.0)
    if best - dice > FALL:
        notes.append(
            f"An earlier validation had Dice {best:.3f}: `--checkpoint best` takes those weights. These cases chose "
            "them, so that their score flatters."
        )
    return tuple(notes)


def score(
    predictor: Segmenter,
    cases: Sequence[Case],
    facts: Mapping[str, CaseFacts],
    truth: Task,
    *,
    matched: bool,
    tolerance_mm: float = TOLERANCE_MM,
    pictures: bool = False,
    overlap_only: bool = False,
    watch: Watch = lambda *_: None,
    metrics: Mapping[str, CaseMetric] | None = None,
    shared: SharedCases | None = None,
) -> Scored:
    """Predict and score cases on their own grids.

    Args:
        predictor: Predicts the labels of the masks, or segments.
        cases: With masks.
        facts: What the check found of each, by id; files that have changed since are refused.
        truth: The labels of the masks.
        matched: Whether the predictor predicts segments, which are first matched to the labels of these cases.
        tolerance_mm: Distance up to which surfaces agree in the surface Dice.
        pictures: Whether to pack the scans and both masks, on the disk, for a report.
        overlap_only: Leave out surfaces, lesions and calibration.
        watch: Called with each case, its scans, its true mask and its prediction.
        metrics: Further metrics, by name.
        shared: Deals the cases out to several processes, each of which gets the scores of all; None scores all here.
    """
    matching = {}
    if matched:  # Folds are not made of segments.
        predictor, matches = match(cast("Predictor", predictor), cases, facts, truth)
        matching = describe(matches, truth)
    gallery = None
    if pictures:
        gallery = Gallery(n_cases=len(cases), labels=truth.labels, ignore=truth.ignore)

    def show(*case: Any) -> None:
        watch(*case)
        if gallery:
            add_case(gallery, *case)

    mine = shared.of(cases) if shared else cases
    evaluator = SegmentationEvaluator(
        predictor, mine, facts, truth.labels, truth.ignore, tolerance_mm, show, overlap_only, metrics, truth.regions
    )
    if mine:
        evaluator.run()
    found = shared.together(evaluator.found, gallery, cases) if shared else evaluator.found
    return Scored(
        results=[result for scores in found.values() for result in scores.results],
        calibration=reliability_of(found.values()).as_dict(),
        matching=matching,
        tolerance_mm=tolerance_mm,
        gallery=gallery,
        notes=_notes_on_masks(cases, facts, truth.ignore),
    )


def _notes_on_masks(cases: Sequence[Case], facts: Mapping[str, CaseFacts], ignore: int | None) -> tuple[str, ...]:
    """Return a note if there are masks with voxels that nobody annotated, which no score looks at."""
    counts = [facts[case.id].label_voxels or {} for case in cases]
    return notes_on_unannotated([bool(ignore is not None and found.get(ignore)) for found in counts])


def write_scores(
    folder: Path,
    run: Path,
    scored: Scored,
    which: Which,
    step: int,
    notes: tuple[str, ...] = (),
    source: Path | None = None,
) -> Scores:
    """Write ``cases.csv``, ``summary.json`` and ``report.html`` of a run, or of its scores on another dataset."""
    notes += scored.notes
    if scored.matching:
        notes += (MATCHED,)
    summary = summarise(scored.results)
    about: dict[str, Any] = {"checkpoint": which, "step": step, "notes": list(notes), "version": __version__}
    about |= {"tolerance_mm": scored.tolerance_mm, "calibration": scored.calibration}
    if source is not None:
        about["dataset"] = str(source.resolve())
    facts = {"Checkpoint": f"{which}, step {step}"}
    with RunFolder(folder).output.writing(SCORES) as stage:
        write_cases_csv(stage / "cases.csv", scored.results)
        write_json(stage / "summary.json", about | scored.matching | summary.as_dict())
        report_run(
            stage, run, scored.results, summary, scored.gallery, scored.calibration, facts, notes, scored.tolerance_mm
        )
    return Scores(summary, folder, notes)
