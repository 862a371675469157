"""Write the reports of runs, evaluations and comparisons, with the origin of their figures; draw running trainings."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import __version__, config
from pipeline.logs import read_curves
from pipeline.reports.comparison_page import write_comparison
from pipeline.reports.groups_page import write_groups
from pipeline.reports.page import Origin, write_report
from pipeline.reports.plots import draw_training
from pipeline.reports.predictions import write_predictions
from pipeline.runs.folder import HISTORY, PICTURE, VALIDATION, read_split
from pipeline.runs.stored import INDEX, read_config, read_decisions
from pipeline.strict_yaml import write_yaml
from pipeline.terminal import note

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from numpy.typing import NDArray

    from pipeline.nifti.volume import Scan
    from pipeline.reports.comparison import Comparison
    from pipeline.reports.groups import Group, GroupComparison
    from pipeline.reports.predictions import Structure
    from pipeline.reports.summary import Summary
    from pipeline.reports.volumes import Gallery
    from pipeline.types import Case, CaseResult

Curve = list[tuple[float, float]]
LIBRARIES = ("torch", "monai", "numpy")


def add_case(gallery: Gallery, case: Case, scans: Sequence[Scan], truth: Scan, prediction: NDArray[Any]) -> None:
    """Add a scored case to a gallery: the scan's first channel and both masks."""
    gallery.add(case.id, scans[0].voxels[0], truth.labels, prediction, scans[0].affine)


def report_run(
    folder: Path,
    run: Path,
    results: Sequence[CaseResult],
    summary: Summary,
    gallery: Gallery | None,
    calibration: Mapping[str, Any],
    facts: Mapping[str, str],
    notes: Sequence[str],
    tolerance_mm: float,
) -> None:
    """Write ``report.html`` of a run's validation.

    Args:
        folder: Where to write it.
        run: The run, whose curves and recipe it shows; or a model file, which has neither.
        results: One result for each class of each case.
        summary: The summary of the same results.
        gallery: The packed cases; None for none.
        calibration: As ``summary.json`` has it.
        facts: Names and values to show beside those of the run.
        notes: Notes for the reader of the figures.
        tolerance_mm: The tolerance of the surface Dice.
    """
    (history, validation) = curves_of(run)
    own, told = ({"Model file": run.name}, "") if run.is_file() else _told_by(run)
    origin = Origin(
        title=run.resolve().name,
        facts={**facts, **own, **_versions()},
        notes=notes,
        config=told,
        command="fewmask predict RUN SCANS --output MASKS --report",
        history=history,
        validation=validation,
        tolerance_mm=tolerance_mm,
    )
    write_report(folder, results, summary, origin, gallery, calibration)


def _told_by(run: Path) -> tuple[dict[str, str], str]:
    """Return names and values about a run's data, and its recipe as YAML, without paths."""
    split = read_split(run)
    trained_on = f"{len(split['labelled'])} scans with masks, {len(split['unlabelled'])} without"
    told = _without_places(config.written(read_config(run), read_decisions(run)))
    fingerprint = f"sha256 {hashlib.sha256((run / INDEX).read_bytes()).hexdigest()} of {INDEX}"
    if split["unlike"]:
        trained_on += (
            f" ({len(split['unlike'])} more, unlike those with masks, were left out: {', '.join(split['unlike'])})"
        )
    own = {"Trained on": trained_on, "Dataset": told["dataset"], "Data fingerprint": fingerprint}
    if (steps := told["postprocessing"]) not in ("auto", []):
        own["Post-processing"] = ", ".join(
            " ".join([step["step"], *(f"{key}={value}" for key, value in step["options"].items())]) for step in steps
        )
    return own, write_yaml(told)


def curves_of(run: Path) -> tuple[dict[str, Curve], Curve]:
    """Read the curves of a run: those of its loss by term, and its validation Dice.

    Raises:
        UserError: A log is damaged.
    """
    return read_curves(run / HISTORY), read_curves(run / VALIDATION).get("mean_dice", [])


def report_masks(
    folder: Path,
    predictions: Path,
    labels: Path,
    results: Sequence[CaseResult],
    summary: Summary,
    gallery: Gallery | None,
    tolerance_mm: float,
    notes: Sequence[str],
) -> None:
    """Write ``report.html`` of masks from any tool, with notes for the reader of the figures."""
    origin = Origin(
        title=f"{predictions.resolve().name} against {labels.resolve().name}",
        facts={"Predictions": predictions.resolve().name, "Labels": labels.resolve().name} | _versions(),
        tolerance_mm=tolerance_mm,
        notes=notes,
    )
    write_report(folder, results, summary, origin, gallery)


def report_predictions(
    path: Path, masks: Path, model: Path, which: str, structures: Sequence[Structure], gallery: Gallery
) -> None:
    """Write the page of predictions without a truth.

    Args:
        path: The file.
        masks: Their folder.
        model: The run, or a file.
        which: The run's checkpoint.
        structures: Every label in every mask.
        gallery: The pictures.
    """
    told = model.name if model.is_file() else f"{model.resolve().name}, {which} checkpoint"
    origin = Origin(title=masks.resolve().name, facts={"Masks": masks.resolve().name, "Model": told} | _versions())
    write_predictions(path, structures, origin, gallery)


def report_comparison(
    folder: Path,
    comparison: Comparison,
    a: Sequence[CaseResult],
    b: Sequence[CaseResult],
    places: tuple[Path, Path],
    tolerance_mm: float | None,
) -> None:
    """Write ``report.html`` of a comparison of the scores in two places."""
    facts = {side: place.resolve().name for side, place in zip("AB", places, strict=True)}
    if comparison.differ_in:
        facts["The trainings differ in"] = ", ".join(comparison.differ_in)
    title = f"{comparison.b} against {comparison.a}"
    origin = Origin(title=title, facts=facts | _versions(), tolerance_mm=tolerance_mm)
    write_comparison(folder, comparison, a, b, origin)


def report_groups(
    folder: Path,
    comparison: GroupComparison,
    groups: Sequence[Group],
    places: Sequence[Sequence[Path]],
    tolerance_mm: float | None,
) -> None:
    """Write ``report.html`` of a comparison of two methods by the scores in several places."""
    facts = {
        f"{side}: {group.name}": ", ".join(_named(place, seed) for place, seed in zip(found, group.seeds, strict=True))
        for side, group, found in zip("AB", groups, places, strict=True)
    }
    if comparison.differ_in:
        facts["The first trainings of each differ in"] = ", ".join(comparison.differ_in)
    a, b = groups
    origin = Origin(title=f"{b.name} against {a.name}", facts=facts | _versions(), tolerance_mm=tolerance_mm)
    write_groups(folder, comparison, a, b, origin)


def _named(place: Path, seed: int | None) -> str:
    name = place.resolve().name
    return name if seed is None or name == f"seed-{seed}" else f"{name} (seed {seed})"


def _versions() -> dict[str, str]:
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return {
        "Command (last names of paths)": shlex.join(map(_without_place, sys.argv)),
        "Written": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "Version": f"fewmask {__version__}, Python {platform.python_version()}, {libraries}",
    }


def _without_places(told: dict[str, Any]) -> dict[str, Any]:
    """Return a run's recipe with paths cut to their last names, since reports are passed on."""
    data = told["data"]
    places = {"cache": Path(data["cache"]).name, "split": data["split"] and Path(data["split"]).name}
    plugins = [Path(plugin).name for plugin in told["plugins"]]
    names = {key: told[key] and Path(told[key]).name for key in ("dataset", "root", "start")}
    return told | names | {"plugins": plugins, "data": data | places}


def _without_place(word: str) -> str:
    """Return a word of a command with a path cut to its last name.

    >>> _without_place("dataset=/home/ann/liver"), _without_place("max_steps=9")
    ('dataset=liver', 'max_steps=9')
    """
    key, equals, value = word.rpartition("=")
    if os.sep in value:
        return f"{key}{equals}{Path(value).name}"
    return word


class TrainingPicture:
    """Draws ``training.png`` of a run; a training never fails because of it.

    Args:
        run: The run's folder.
        validated: Whether the run has validation cases; if not, only the loss is drawn.
    """

    def __init__(self, run: Path, *, validated: bool = True) -> None:
        self.run = run
        self.validated = validated
        self.failed = False

    def redraw(self) -> None:
        """Draw the logs. The first failure is noted on the terminal; none is raised."""
        try:
            terms, dice = curves_of(self.run)
            draw_training(self.run / PICTURE, terms, dice if self.validated else None)
        except Exception as error:  # a picture is not worth a night of training
            if not self.failed:
                note(f"training.png cannot be drawn, and the training goes on: {error}")
            self.failed = True
