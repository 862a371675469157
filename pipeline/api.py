"""The commands as functions, for programs to call; :mod:`pipeline.api_training` has those that plan and train.

A bad input raises ``UserError``, whose ``problems`` say what is wrong, where, and how to mend it. Nothing is printed
unless ``verbose`` asks for it. Signal handlers and the number of threads stay as the caller has set them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from pipeline import runs
from pipeline.bounds import MAX_LABEL, MOST_MM, refuse_outside
from pipeline.files import to_write
from pipeline.plugins import blamed
from pipeline.runs.beside import NOTHING_ELSE, Beside
from pipeline.signatures import typed
from pipeline.terminal import listening
from pipeline.types import Format, Which  # noqa: TC001 - typed reads the annotations

if TYPE_CHECKING:
    from pipeline.data.check import Check
    from pipeline.reports.comparison import Comparison
    from pipeline.reports.groups import GroupComparison
    from pipeline.reports.summary import Summary
    from pipeline.runs.scoring import Scores

AnyPath: TypeAlias = str | PathLike[str]
Several: TypeAlias = AnyPath | Sequence[AnyPath]


@typed
def check(
    dataset: AnyPath,
    *,
    root: AnyPath | None = None,
    layout: str = "auto",
    layout_options: Mapping[str, Any] | None = None,
    strict: bool = False,
    verbose: bool = False,
) -> Check:
    """Read every file of a dataset and report everything that is wrong with it; nothing is written.

    Args:
        dataset: A folder, a JSON list or a scan.
        root: The folder that the paths of a list are relative to; by default the list's own.
        layout: A registered layout, or ``auto``.
        layout_options: Options of the layout, by name.
        strict: Count warnings as problems.
        verbose: As for :func:`train`.

    Returns:
        What was found: ``problems``, ``warnings``, and where there is no problem ``index()``.

    Raises:
        UserError: The dataset cannot be opened.
    """
    from pipeline.data.layouts import read_dataset
    from pipeline.runs.checking import survey

    with calling(verbose=verbose):
        return survey(read_dataset(Path(dataset), _path(root), layout, layout_options), strict=strict)


@typed
def validate(
    run: AnyPath,
    dataset: AnyPath | None = None,
    *,
    root: AnyPath | None = None,
    layout: str = "auto",
    layout_options: Mapping[str, Any] | None = None,
    checkpoint: Which = "last",
    plugins: Sequence[AnyPath] = (),
    tolerance_mm: float = 1.0,
    verbose: bool = False,
) -> Scores:
    """Score a run in the scans' own grids, and write the report into the run.

    Args:
        run: The run's folder.
        dataset: A dataset whose labelled cases are scored; by default the run's own validation cases.
        root: Of that dataset, as for :func:`check`; likewise the next two.
        layout: How it lies on disk.
        layout_options: Options of the layout, by name.
        checkpoint: ``last`` or ``best``.
        plugins: Python files that register the run's network, if it does not come with Fewmask.
        tolerance_mm: Distance up to which surfaces agree in the surface Dice.
        verbose: As for :func:`train`.

    Returns:
        The scores of every case and class, and the folder of their report.

    Raises:
        UserError: The run or the dataset cannot be used.
    """
    refuse_outside("tolerance_mm", tolerance_mm, 0, MOST_MM)
    with calling(verbose=verbose):
        open_as = (_path(root), layout, dict(layout_options or {}))
        return runs.validate(Path(run), _path(dataset), checkpoint, list(map(Path, plugins)), tolerance_mm, open_as)


@typed
def predict(
    run: AnyPath,
    scans: Several,
    output: AnyPath,
    *,
    root: AnyPath | None = None,
    layout: str = "auto",
    layout_options: Mapping[str, Any] | None = None,
    checkpoint: Which = "last",
    plugins: Sequence[AnyPath] = (),
    only: str | Sequence[str] = (),
    unlabelled: bool = False,
    device: str = "auto",
    mirror: bool = True,
    postprocess: bool = True,
    overwrite: bool = False,
    annotate_next: bool = False,
    beside: Beside = NOTHING_ELSE,
    verbose: bool = False,
) -> list[Path]:
    """Write a mask for each scan, on exactly the scan's grid; return the masks' paths.

    Args:
        run: The run's folder, a model file or a checkpoint.
        scans: A scan, a folder of scans, a dataset, or several of them.
        output: The folder of the masks, which are named as the scans; of one scan it may be its mask's own name.
        root: Of those of the scans that are datasets, as for :func:`check`; likewise the next two.
        layout: How they lie on disk.
        layout_options: Options of the layout, by name.
        checkpoint: ``last`` or ``best``.
        plugins: As for :func:`validate`.
        only: Ids of the scans that are predicted; none is all.
        unlabelled: Leaves out scans that have a mask.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        mirror: Whether mirror images are looked at too, where the run was trained for that.
        postprocess: Whether to post-process the masks as the run says.
        overwrite: Whether masks of another scan, or made otherwise, are made again; those as they would be now stay.
        annotate_next: Whether to rank the scans by the Dice that the network expects: ``annotate_next.csv``.
        beside: What else is to be written, such as ``Beside(volumes=True)``.
        verbose: As for :func:`train`.

    Raises:
        UserError: No scan could be predicted, or a mask is there that is not ours; nothing is written then.
        IncompleteError: Something is wrong with some of the scans; its ``done`` are the masks of the others.
    """
    with calling(verbose=verbose):
        source = (Path(run), _paths(scans), Path(output), checkpoint, list(map(Path, plugins)))
        return runs.predict(
            *source,
            only=(only,) if isinstance(only, str) else only,
            unlabelled=unlabelled,
            mirror=mirror,
            postprocess=postprocess,
            overwrite=overwrite,
            rank=annotate_next,
            device=device,
            open_as=(_path(root), layout, dict(layout_options or {})),
            beside=beside,
        )


@typed
def evaluate(
    predictions: AnyPath,
    labels: AnyPath,
    output: AnyPath,
    *,
    ignore: int | None = None,
    tolerance_mm: float = 1.0,
    regions: Mapping[str, Sequence[int]] | None = None,
    names: Mapping[int, str] | None = None,
    patient: str | None = None,
    metrics: Mapping[str, Callable[..., float | None] | str] | Sequence[str] = (),
    plugins: Sequence[AnyPath] = (),
    verbose: bool = False,
) -> Summary:
    """Score a folder of masks, made by any tool, against a folder of true masks of the same names.

    Args:
        predictions: The masks.
        labels: The true masks.
        output: The folder for ``cases.csv``, ``summary.json`` and ``report.html``.
        ignore: Label value of voxels that are not scored.
        tolerance_mm: Distance up to which surfaces agree in the surface Dice.
        regions: Names and values of unions of labels to score; by default those that ``dataset.json`` asks for.
        names: Of label values; by default those of ``dataset.json``, or of the model by which :func:`predict` has made
            the masks.
        patient: A pattern, of which the first group in a mask's name is the patient; by default each is one.
        metrics: Further metrics: the names of registered ones, such as ``["centre_distance_mm"]``, or a mapping of
            columns to metrics, ``{"distance": "centre_distance_mm", "extent_mm": Extent()}``.
        plugins: Files that register metrics.
        verbose: As for :func:`train`.

    Returns:
        The statistics that ``summary.json`` holds.

    Raises:
        UserError: Something is wrong with a mask; nothing is written then.
    """
    refuse_outside("tolerance_mm", tolerance_mm, 0, MOST_MM)
    refuse_outside("ignore", ignore, -MAX_LABEL, MAX_LABEL)
    with calling(verbose=verbose):
        place = to_write(Path(output))
        further = runs.metrics_of(metrics, list(map(Path, plugins)))
        asked = (ignore, tolerance_mm, regions, names, patient, further)
        return runs.evaluate(Path(predictions), Path(labels), place, *asked)


@typed
def compare(run_a: Several, run_b: Several, output: AnyPath) -> Comparison | GroupComparison:
    """Say whether one run, or one method by several trainings, is better than another on the same cases.

    Args:
        run_a: A run, or the folder of an evaluation, or several: all trainings of a method.
        run_b: Another run or evaluation, or the trainings of another method.
        output: The folder for the report and its tables.

    Returns:
        The differences with their intervals, and the conclusion.

    Raises:
        UserError: They were not scored on the same cases, or one of them cannot be read.
    """
    with calling(verbose=False):
        return runs.compare(_paths(run_a), _paths(run_b), to_write(Path(output)))


@typed
def export(
    run: AnyPath,
    output: AnyPath,
    *,
    format: Format = "model",
    card: AnyPath | None = None,
    checkpoint: Which = "last",
    plugins: Sequence[AnyPath] = (),
) -> Path:
    """Write a trained model as something to pass on, with a model card and nothing of patients in it.

    Args:
        run: A run's folder, that of a cross-validation, a model file, or a checkpoint.
        output: The file or folder to write, which must not be there.
        format: ``model``, ``torch``, ``onnx``, ``bundle`` or ``card``, the model card alone.
        card: The model card to pass on, filled in; by default it is written anew.
        checkpoint: ``last`` or ``best``.
        plugins: As for :func:`validate`.

    Returns:
        The file or folder.

    Raises:
        UserError: The model cannot be read, cannot be written in this format, or ``output`` exists.
    """
    from pipeline.export.writing import write_export

    with calling(verbose=False):
        write_export(Path(run), Path(output), format, checkpoint, list(map(Path, plugins)), card=_path(card))
    return Path(output)


@contextmanager
def calling(*, verbose: bool) -> Iterator[None]:
    """Call as a program does: silently unless ``verbose``, and with a plugin's error told as its own."""
    with blamed(), nullcontext() if verbose else listening(lambda _: None):
        yield


def _paths(given: Several) -> list[Path]:
    return [Path(given)] if isinstance(given, str | PathLike) else list(map(Path, given))


def _path(path: AnyPath | None) -> Path | None:
    return None if path is None else Path(path)
