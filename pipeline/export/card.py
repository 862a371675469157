"""The model card: what a model was trained on, how good it is, what it is for, and what it is not.

Its headings are those of model cards (Mitchell et al. 2019, doi 10.1145/3287560.3287596). It tells counts and sizes,
and no case, file or machine. What only a person knows is left to be filled in.
"""

from __future__ import annotations

import re
from statistics import median
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline import __version__, strict_json
from pipeline.errors import Problem, UserError
from pipeline.export.destination import refuse_present
from pipeline.files import atomic_write, path_hint
from pipeline.prediction.predictor import Ensemble
from pipeline.runs.folder import read_split
from pipeline.runs.stored import FOLDS, OUT_OF_FOLD, SUMMARY, read_index

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from pipeline.data.inspection import CaseFacts
    from pipeline.runs.models import TrainedModel
    from pipeline.types import Which

FILL_IN = "_to be filled in_"
# Bytes; a model file holds no larger one.
MOST_CARD = 1_000_000
# What is known of every model of ours, whatever it was trained on.
USE = """## Intended use

Research. It segments the structures above in scans like those that it was trained on: of the same kind, channels and
region of the body. What it is meant for beyond that, and for whom: {fill_in}

**It is not a medical device.** It was not cleared by any authority, and its masks must not be the base of a diagnosis
or a treatment. A person who can judge them has to look at every mask.

## Limits

- It finds the structures above and nothing else, and has an output for every scan, also for one of something else.
- Other scanners, protocols, ages, diseases and artefacts than those of the training may make it worse, without a sign.
- The figures above are those of the scans at hand; intervals say how sure they are, for scans like these.
- What the annotators of its few masks did differently, or wrongly, it has learnt too.
- Known failures, and groups of patients that it was not tried on: {fill_in}
"""
LICENCE = """## Licence and contact

- Licence of the weights: {fill_in}
- Licence of the scans and masks that it was trained on: {fill_in}
- Who made it, and whom to ask: {fill_in}
- How to cite it: {fill_in}
"""
METRICS = {
    "dice": "Dice",
    "surface_dice": "surface Dice",
    "hd95_mm": "95 % Hausdorff, mm",
    "assd_mm": "mean surface distance, mm",
}


class Told(BaseModel):
    """Base of what is read of a summary; the rest is for others."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)


class MeanTold(Told):
    """The mean of a metric over classes."""

    value: float | None
    interval: list[float] | None


class StatisticsTold(Told):
    """A metric of a class."""

    mean: float | None
    interval: list[float] | None


class ClassTold(Told):
    """A class."""

    name: str
    metrics: dict[str, StatisticsTold]


class SummaryTold(Told):
    """A ``summary.json``."""

    n_cases: int
    n_patients: int
    step: int
    tolerance_mm: float
    notes: list[str]
    means: dict[str, MeanTold]
    classes: list[ClassTold]


def card_of_run(run: Path, model: TrainedModel, which: Which) -> str:
    """Write the card of a run or a cross-validation.

    Args:
        run: Its folder.
        model: What it predicts with.
        which: The checkpoint.

    Raises:
        UserError: A file of the run is gone or damaged.
    """
    data = _data(read_split(run), read_index(run), cross_validated=(run / FOLDS).exists())
    return _card(model, data, _metrics(run, which))


def card_without_run(model: TrainedModel) -> str:
    """Write the card of a checkpoint, which tells neither data nor scores."""
    unknown = f"A checkpoint does not tell: {FILL_IN}\n"
    return _card(model, f"## Data\n\n{unknown}", f"## Metrics\n\n{unknown}")


def _card(model: TrainedModel, data: str, metrics: str) -> str:
    task = model.task
    labels = {value: name for value, name in task.labels.items() if value != 0}
    rows = [[_values(task.values_of(value)), _plain(name)] for value, name in labels.items()]
    parts = [
        f"# Segmentation of {', '.join(map(_plain, labels.values()))}",
        _about(model),
        _table(["Values in a mask" if task.regions else "Label", "Structure"], rows),
        data,
        metrics,
        USE.format(fill_in=FILL_IN),
        LICENCE.format(fill_in=FILL_IN),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _values(values: Sequence[int]) -> str:
    return ", ".join(map(str, sorted(values)))


def _about(model: TrainedModel) -> str:
    data = model.settings.data
    predictor = model.predictor
    networks = predictor.predictors if isinstance(predictor, Ensemble) else (predictor,)
    weights = sum(parameter.numel() for parameter in networks[0].network.parameters())
    several = f", the mean of {len(networks)} networks" if len(networks) > 1 else ""
    rows = [
        f"Network: {model.settings.network.name}{several}; {weights:,} weights each",
        f"Channels, in this order: {', '.join(map(_plain, model.task.channels))}",
        f"Intensities: {', '.join(way.scheme for way in data.normalization)}",
        f"Grid: {data.orientation}, voxels of {_lengths(data.spacing_mm)} mm; masks are on the scan's own grid",
        f"Window: {' x '.join(map(str, data.patch_size))} voxels",
        f"Trained for {model.step} steps with Fewmask; exported by version {__version__}",
    ]
    return "\n".join(f"- {row}" for row in rows)


def _data(split: dict[str, list[str]], facts: dict[str, CaseFacts], *, cross_validated: bool) -> str:
    labelled = len(split["labelled"])
    unlabelled = len(split["unlabelled"])
    held_out = len(split["validation"])
    trained_on = [facts[name] for name in (*split["labelled"], *split["unlabelled"]) if name in facts]
    folds = ", each of which was held out of one network (cross-validation)" if cross_validated else ""
    lines = [
        f"- Trained on: {labelled} scans with masks{folds}, {unlabelled} without",
        f"- Held out for validation, and not trained on: {held_out} scans with masks; no patient is on both sides",
    ]
    if trained_on:
        rows = [
            ["voxel size, mm", *_span(sorted(each.spacing_mm) for each in trained_on)],
            ["voxels along an axis", *_span(sorted(each.shape) for each in trained_on)],
        ]
        head = ["Of the scans, each with its axes sorted", "least", "median", "largest"]
        lines += ["", _table(head, rows)]
    lines += ["", f"Where they come from, scanners, patients, and who drew the masks: {FILL_IN}"]
    return "\n".join(["## Data", "", *lines])


def _metrics(run: Path, which: Which) -> str:
    places = (OUT_OF_FOLD, ".") if which == "last" else (f"validation/{which}",)
    path = next((run / place / SUMMARY for place in places if (run / place / SUMMARY).exists()), None)
    if path is None:
        return f"## Metrics\n\nIt was not validated: {FILL_IN}"
    try:
        told = SummaryTold.model_validate(strict_json.read_json(path))
    except (ValidationError, ValueError, OSError):
        remedy = "bring it back as it was written, or validate again"
        problem = Problem(str(path), "damaged-run", "is no summary of ours", remedy)
        raise UserError("The run's folder is not whole.", [problem]) from None
    rows = [[_plain(each.name), *(_shown(each.metrics.get(name)) for name in METRICS)] for each in told.classes]
    means = {name: told.means.get(name) for name in METRICS}
    mean = ["mean of classes", *(_figure(each.value, each.interval) if each else "" for each in means.values())]
    lines = [
        f"Of {told.n_cases} scans of {told.n_patients} patients, at step {told.step}, on the scans' own grids; in "
        f"brackets, 95 % intervals of the mean over patients where there are six or more. Surface Dice has a tolerance "
        f"of {told.tolerance_mm:g} mm.",
        "",
        _table(["Structure", *METRICS.values()], [*rows, mean]),
        "",
        *(f"- {note}" for note in told.notes),
    ]
    return "\n".join(["## Metrics", "", *lines])


def _shown(found: StatisticsTold | None) -> str:
    return _figure(found.mean, found.interval) if found else ""


def _figure(value: float | None, interval: Sequence[float] | None) -> str:
    if value is None:
        return "none"
    between = f" [{', '.join(f'{end:.3f}' for end in interval)}]" if interval else ""
    return f"{value:.3f}{between}"


def _span(rows: Iterable[Sequence[float]]) -> list[str]:
    columns = list(zip(*rows, strict=True))
    return [_lengths([choose(column) for column in columns]) for choose in (min, median, max)]


def _lengths(numbers: Sequence[float]) -> str:
    return " x ".join(f"{number:.4g}" for number in numbers)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(name: str) -> str:
    """Return a name with what Markdown would take for marks escaped, on one line."""
    return re.sub(r"([\\`*_|\[\]<>#])", r"\\\1", " ".join(name.split()))


def write_card(path: Path, card: str) -> None:
    """Write a model card as a file, to be filled in.

    Raises:
        UserError: Something has the name.
        WriteError: The disk is full or fails.
    """
    refuse_present(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_text(card, encoding="utf-8")


def read_card(path: Path) -> str:
    """Read a model card that somebody has filled in.

    Raises:
        UserError: There is no such file, or it is empty, no text, or too large for a card.
    """
    if path.is_dir():
        raise _bad_card(path, "is a folder", "name the card itself, a file")
    if not path.is_file():
        raise _bad_card(path, "there is no such file", path_hint(path))
    if path.stat().st_size > MOST_CARD:
        raise _bad_card(path, f"is larger than {MOST_CARD / 1e6:g} MB", "a model card is a page of Markdown")
    try:
        card = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        card = ""
    if not card.strip():
        raise _bad_card(path, "holds no text in UTF-8", "name a model card, as --format card writes it")
    return card


def _bad_card(path: Path, message: str, remedy: str) -> UserError:
    return UserError("Nothing was exported.", [Problem(str(path), "bad-card", message, remedy)])
