"""Commands that predict, score and pass on."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - tyro reads the annotations
from shlex import quote
from typing import Annotated, Literal

import tyro

from pipeline.arguments import (
    Checkpoint,
    Device,
    Layout,
    LayoutOptions,
    Mirror,
    Plugins,
    Postprocess,
    Root,
    Tolerance,
    TrainedModel,
    command,
    destination,
    operand,
)
from pipeline.bounds import MAX_LABEL, MOST_MM, refuse_outside
from pipeline.console import show_comparison, show_groups, show_scores
from pipeline.errors import Problem, UserError
from pipeline.files import to_write
from pipeline.runs.beside import NOTHING_ELSE, Beside
from pipeline.shards import read_shard
from pipeline.terminal import give, say

FORMATS = (
    "model: one file that predict takes in place of a run; torch: a folder with programs of torch.export; onnx: one "
    "with ONNX graphs and a script that predicts with NumPy, nibabel and onnxruntime alone; bundle: a MONAI bundle; "
    "card: the model card alone, to fill in."
)


@command
def validate(
    run: TrainedModel,
    *,
    dataset: Annotated[
        Path | None, tyro.conf.arg(help="Score this dataset's labelled cases, not the run's own.", metavar="DATASET")
    ] = None,
    root: Root = None,
    layout: Layout = "auto",
    layout_options: LayoutOptions = (),
    checkpoint: Checkpoint = "last",
    plugins: Plugins = (),
    tolerance_mm: Tolerance = 1.0,
) -> None:
    """Score a run in the scans' own grids: a table here, cases.csv and summary.json in the run.

    Example: fewmask validate runs/hippocampus --checkpoint last
    """
    from pipeline import runs
    from pipeline.config import read_options

    refuse_outside("--tolerance-mm", tolerance_mm, 0, MOST_MM)
    open_as = (root, layout, read_options(layout_options))
    scores = runs.validate(run, dataset, checkpoint, plugins, tolerance_mm, open_as)
    give(scores.as_dict())
    show_scores(scores.summary, scores.folder, checkpoint, scores.notes)


@command
def predict(
    run: TrainedModel,
    scans: tyro.conf.Positional[Annotated[tuple[Path, ...], operand("SCAN", "Scans, folders of scans, or datasets.")]],
    *,
    output: Annotated[Path, destination("Folder for the masks, named as the scans; or FILE.nii.gz, of one scan.")],
    overwrite: Annotated[bool, tyro.conf.arg(help="Make masks anew that were made otherwise.")] = False,
    annotate_next: Annotated[bool, tyro.conf.arg(help="Also rank scans by expected Dice: annotate_next.csv.")] = False,
    beside: tyro.conf.OmitArgPrefixes[Beside] = NOTHING_ELSE,
    unlabelled: Annotated[bool, tyro.conf.arg(help="Only scans that have no mask.")] = False,
    only: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ID", help="Only these cases.")] = (),
    device: Device = "auto",
    mirror: Mirror = "on",
    postprocess: Postprocess = "on",
    shard: Annotated[
        str, tyro.conf.arg(help="Only every N-th scan from the I-th on; array/N in a job array.", metavar="I/N")
    ] = "1/1",
    root: Root = None,
    layout: Layout = "auto",
    layout_options: LayoutOptions = (),
    checkpoint: Checkpoint = "last",
    plugins: Plugins = (),
) -> None:
    """Write a mask for each scan, on exactly the scan's grid.

    Example: fewmask predict runs/hippocampus scans/ --output masks/
    """
    from pipeline import runs
    from pipeline.config import read_options

    if not scans:
        problem = Problem("SCAN", "no-scans", "is not given", "name scans, folders of scans, or a dataset")
        raise UserError("Nothing was predicted.", [problem])
    open_as = (root, layout, read_options(layout_options))
    masks = runs.predict(
        run,
        scans,
        output,
        checkpoint,
        plugins,
        rank=annotate_next,
        open_as=open_as,
        only=only,
        unlabelled=unlabelled,
        device=device,
        mirror=mirror == "on",
        postprocess=postprocess == "on",
        overwrite=overwrite,
        beside=beside,
        shard=read_shard(shard),
    )
    give({"output": output, "masks": masks})
    model = run.name if run.is_file() else f"the {checkpoint} checkpoint"
    files = [*beside.files(), *(["annotate_next.csv"] if annotate_next else [])]
    told = f", and {', '.join(files)}" if files else ""
    say(f"{output} holds {len(masks)} mask(s), made with {model}{told}.")


@command
def evaluate(
    predictions: tyro.conf.Positional[Annotated[Path, operand("PREDICTIONS", "A folder of masks, made by any tool.")]],
    labels: tyro.conf.Positional[Annotated[Path, operand("LABELS", "A folder of true masks of the same names.")]],
    *,
    output: Annotated[Path, destination("Folder for cases.csv and summary.json.")],
    ignore: Annotated[int | None, tyro.conf.arg(help="Label value of voxels that are not scored.")] = None,
    regions: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]],
        tyro.conf.arg(
            name="region",
            help="A union of labels to score, such as core=[1,4]; by default those that dataset.json asks for.",
            metavar="NAME=VALUES",
        ),
    ] = (),
    names: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]],
        tyro.conf.arg(
            name="label",
            help="The name of a label, such as liver=1; by default as in dataset.json, or as predict knows them.",
            metavar="NAME=VALUE",
        ),
    ] = (),
    patient: Annotated[
        str | None,
        tyro.conf.arg(
            help="Whose the masks are: the first group of this pattern in their names, such as '(.+)_frame'; by "
            "default each is of a patient of its own.",
            metavar="PATTERN",
        ),
    ] = None,
    metrics: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]],
        tyro.conf.arg(name="metric", help="A further metric, such as centre_distance_mm.", metavar="NAME"),
    ] = (),
    plugins: Annotated[
        tyro.conf.UseAppendAction[tuple[Path, ...]],
        tyro.conf.arg(name="plugin", help="Python file that registers metrics which are not ours.", metavar="FILE"),
    ] = (),
    tolerance_mm: Tolerance = 1.0,
) -> None:
    """Score masks that any tool has made.

    Example: fewmask evaluate masks/ labels/ --output scores/
    """
    from pipeline import runs
    from pipeline.runs.pairing import read_names, read_regions

    refuse_outside("--tolerance-mm", tolerance_mm, 0, MOST_MM)
    refuse_outside("--ignore", ignore, -MAX_LABEL, MAX_LABEL)
    asked = read_regions(regions), read_names(names)
    further = runs.metrics_named(metrics, plugins)
    summary = runs.evaluate(predictions, labels, to_write(output), ignore, tolerance_mm, *asked, patient, further)
    give({"folder": output} | summary.as_dict())
    show_scores(summary, output)


@command
def compare(
    runs_a: tyro.conf.Positional[
        Annotated[
            tuple[Path, ...], operand("RUN", "Two runs or evaluations; with --with, all trainings of one method.")
        ]
    ],
    *,
    output: Annotated[Path, destination("Folder for the report and its tables.")],
    runs_b: Annotated[
        tuple[Path, ...], tyro.conf.arg(name="with", help="The trainings of the other method.", metavar="RUN")
    ] = (),
) -> None:
    """Say whether one run is better than another, or one method by several trainings of each, on the same cases.

    A folder of train --seeds stands for all of its trainings.

    Example: fewmask compare runs/supervised runs/semisupervised --output comparison/
    """
    from pipeline import runs
    from pipeline.reports.groups import GroupComparison

    sides = (runs_a, runs_b)
    if not runs_b:
        if len(runs_a) != 2:
            message = f"{len(runs_a)} are named, and none behind --with"
            remedy = "name two, or one method's trainings, then --with and the other's"
            raise UserError("Nothing was compared.", [Problem("RUN", "not-two", message, remedy)])
        sides = (runs_a[:1], runs_a[1:])
    comparison = runs.compare(*sides, to_write(output))
    give({"folder": output} | comparison.as_dict())
    if isinstance(comparison, GroupComparison):
        show_groups(comparison)
    else:
        show_comparison(comparison)
    say(f"Wrote {output / 'report.html'}, compare.json and compare.csv.")


@command
def export(
    run: TrainedModel,
    *,
    format: Annotated[Literal["model", "torch", "onnx", "bundle", "card"], tyro.conf.arg(help=FORMATS)] = "model",
    output: Annotated[Path, destination("What to write, which must not be there: FILE.fewmask, or a folder.", "PATH")],
    card: Annotated[
        Path | None, tyro.conf.arg(help="The model card, filled in; by default it is written anew.", metavar="FILE")
    ] = None,
    checkpoint: Checkpoint = "last",
    plugins: Plugins = (),
) -> None:
    """Write a trained model as something to pass on, with a model card and nothing of patients in it.

    Example: fewmask export runs/hippocampus --format model --output hippocampus.fewmask
    """
    from pipeline.export.writing import write_export

    left = write_export(run, output, format, checkpoint, plugins, card=card)
    give({"output": output, "format": format, "to_fill_in": left})
    if left == 0:
        say(f"Wrote {output}.")
    elif format == "card":
        say(f"Wrote {output}, with {left} fields to fill in; then pass it on by --card {quote(str(output))}.")
    else:
        fields = f"{left} fields that only you can fill in"
        say(f"Wrote {output}. Its model card has {fields}: --format card writes it, --card FILE takes it.")
