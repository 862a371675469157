"""The commands: plain functions that a person calls by name."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import tyro

from pipeline.arguments import (
    Checkpoint,
    Device,
    Layout,
    LayoutOptions,
    Mirror,
    Overrides,
    Plugins,
    Root,
    Tolerance,
    TrainedModel,
    command,
    destination,
    place,
    refuse_device,
    run_command,
)
from pipeline.bounds import MAX_LABEL, MOST_MM, refuse_no_text, refuse_outside
from pipeline.console import (
    explained,
    show_comparison,
    show_components,
    show_findings,
    show_machine,
    show_plan,
    show_scores,
)
from pipeline.durations import in_one_unit
from pipeline.errors import Problem, UserError
from pipeline.export.command import export  # noqa: F401 - registers itself
from pipeline.files import to_write
from pipeline.interruption import Stopped, stoppable
from pipeline.terminal import complain, fail, progress, say

# A time budget counts the imports too.
STARTED = time.monotonic()


@command
def check(
    dataset: tyro.conf.Positional[Annotated[Path, place("DATASET", "A dataset folder, a list or a scan.")]],
    root: Root = None,
    *,
    layout: Layout = "auto",
    layout_options: LayoutOptions = (),
    strict: Annotated[bool, tyro.conf.arg(help="Count warnings as problems.")] = False,
    fixes: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]],
        tyro.conf.arg(name="fix", help="Write a repaired copy to --output; docs/checks.md lists the repairs."),
    ] = (),
    output: Annotated[Path, destination("Folder for check.json, and for the copy that --fix makes.")] = Path(),
    plugins: Plugins = (),
) -> None:
    """Look at every file of a dataset and report everything that is wrong with it.

    Example: fewmask check data/Task04_Hippocampus
    """
    from pipeline.config import read_options
    from pipeline.plugins import load_plugins
    from pipeline.runs import REPORT, examine

    load_plugins(plugins)
    options = read_options(layout_options)
    look, log = examine(to_write(output), dataset, root, layout, options, fixes, strict=strict)
    for line in log:
        say(f"{line.fix}: {line.file}: {line.done}")
    if fixes:
        say(f"Wrote the repaired copy {output / 'dataset.json'} and {output / 'repairs.json'}.")
        dataset = output
    report = output / REPORT
    show_findings(look.problems, look.warnings, dataset)
    if look.problems:
        places = len({problem.where for problem in look.problems})
        complain(f"error: {dataset}: {len(look.problems)} problem(s) in {places} place(s); see {report}")
        sys.exit(2)
    for name, value in look.index().describe():
        say(f"{name:>12}  {value}")
    say(f"Wrote {report}.")


@command
def plan(
    source: tyro.conf.Positional[
        Annotated[Path | None, place("SOURCE", "A dataset, or a recipe with dataset=PATH, as for train.")]
    ] = None,
    overrides: Overrides = (),
    *,
    output: Annotated[Path, destination("The file to write; train takes it as it is.", "FILE")] = Path("plan.yaml"),
    doctor: Annotated[bool, tyro.conf.arg(help="Say what the machine has, and what will be short.")] = False,
) -> None:
    """Choose every setting of a training from the data and the machine, and say why.

    Example: fewmask plan data/Task04_Hippocampus --output plan.yaml
    """
    from pipeline import runs

    if source is None:
        if not doctor:
            problem = Problem("SOURCE", "no-source", "is not given", "name a dataset or a recipe, or add --doctor")
            raise UserError("There is nothing to plan.", [problem])
        show_machine(runs.look_at_machine())
        return
    recipe = runs.read_recipe(source, overrides)
    chosen, findings = runs.plan(recipe, to_write(output.parent) / output.name, doctor=doctor)
    show_plan([*chosen.choices, runs.memory_choice(chosen)])
    if doctor:
        show_machine(findings)
    say(f"Wrote {output}: fewmask train {output}")


@command
def train(
    source: tyro.conf.Positional[
        Annotated[Path, place("SOURCE", "A recipe by path or by name (semisupervised), a dataset, or a checkpoint.")]
    ],
    overrides: Overrides = (),
    *,
    output: Annotated[
        Path | None,
        destination("The run's folder; by default runs/ and the name of the source.", "RUN"),
    ] = None,
    time_budget: Annotated[
        str | None,
        tyro.conf.arg(help="How long the whole command may take: 90s, 20min, 1h30m, 1.5d.", metavar="TIME"),
    ] = None,
    folds: Annotated[int | None, tyro.conf.arg(help="Cross-validate: so many networks, each without a part.")] = None,
    resume: Annotated[bool, tyro.conf.arg(help="Go on with the run that the folder holds.")] = False,
    allow_change: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]],
        tyro.conf.arg(help="Key of the recipe that a resumed run may have otherwise from here on.", metavar="KEY"),
    ] = (),
) -> None:
    """Train a network as a recipe says, or as a dataset suggests, and validate it.

    Example: fewmask train supervised dataset=data/Task04_Hippocampus --output runs/hippocampus
    """
    from pipeline import runs

    refuse_outside("--folds", folds, 2, 1000)
    run = to_write(output or Path("runs") / (source.resolve().name if source.is_dir() else source.stem))
    if time_budget is not None:
        overrides = ("max_steps=auto", *overrides, f"time_budget={in_one_unit(time_budget)}")
    request = runs.read_request(source, overrides, folds)
    recipe = request.recipe
    how: dict[str, Any] = {"resume": resume, "allow_change": allow_change, "started": STARTED}
    how["decided"] = request.decided
    if folds is None:
        found = [runs.train(recipe, run, start=request.start, **how)]
    else:
        found = [*runs.cross_validate(recipe, run, folds, **how)]
    for scores in found:
        if scores is None:
            say(f"Trained {run}; the dataset has no labels to score its segments against.")
        else:
            show_scores(scores.summary, scores.folder, "last", scores.notes)


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
    show_scores(scores.summary, scores.folder, checkpoint, scores.notes)


@command
def predict(
    run: TrainedModel,
    scans: tyro.conf.Positional[Annotated[tuple[Path, ...], place("SCAN", "Scans, folders of scans, or datasets.")]],
    *,
    output: Annotated[Path, destination("Folder for the masks, which are named as the scans.")],
    annotate_next: Annotated[bool, tyro.conf.arg(help="Also rank scans by predicted Dice: annotate_next.csv.")] = False,
    unlabelled: Annotated[bool, tyro.conf.arg(help="Only scans that have no mask.")] = False,
    only: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ID", help="Only these cases.")] = (),
    device: Device = "auto",
    mirror: Mirror = "on",
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

    refuse_device(device)
    open_as = (root, layout, read_options(layout_options))
    chosen: dict[str, Any] = {"only": only, "unlabelled": unlabelled, "device": device, "mirror": mirror == "on"}
    where = to_write(output)
    masks = runs.predict(run, scans, where, checkpoint, plugins, rank=annotate_next, open_as=open_as, **chosen)
    model = run.name if run.is_file() else f"the {checkpoint} checkpoint"
    say(f"Wrote {len(masks)} mask(s) to {output} with {model}.")


@command
def evaluate(
    predictions: tyro.conf.Positional[Annotated[Path, place("PREDICTIONS", "A folder of masks, made by any tool.")]],
    labels: tyro.conf.Positional[Annotated[Path, place("LABELS", "A folder of true masks of the same names.")]],
    *,
    output: Annotated[Path, destination("Folder for cases.csv and summary.json.")],
    ignore: Annotated[int | None, tyro.conf.arg(help="Label value of voxels that are not scored.")] = None,
    tolerance_mm: Tolerance = 1.0,
) -> None:
    """Score masks that any tool has made.

    Example: fewmask evaluate masks/ labels/ --output scores/
    """
    from pipeline import runs

    refuse_outside("--tolerance-mm", tolerance_mm, 0, MOST_MM)
    refuse_outside("--ignore", ignore, -MAX_LABEL, MAX_LABEL)
    show_scores(runs.evaluate(predictions, labels, to_write(output), ignore, tolerance_mm), output)


@command
def compare(
    run_a: tyro.conf.Positional[Annotated[Path, place("RUN_A", "A run, or the folder of an evaluation.")]],
    run_b: tyro.conf.Positional[Annotated[Path, place("RUN_B", "Another, scored on the same cases.")]],
    *,
    output: Annotated[Path, destination("Folder for the report and its tables.")],
) -> None:
    """Say whether one run is better than another on the cases that both were scored on.

    Example: fewmask compare runs/supervised runs/semisupervised --output comparison/
    """
    from pipeline import runs

    show_comparison(runs.compare(run_a, run_b, to_write(output)))
    say(f"Wrote {output / 'report.html'}, compare.json and compare.csv.")


@command
def fetch(
    name: tyro.conf.Positional[Annotated[str, place("NAME", "A task of the Decathlon, such as Task04_Hippocampus.")]],
    *,
    output: Annotated[Path, destination("Where the dataset's folder goes.")] = Path("data"),
) -> None:
    """Download a public dataset, and verify it.

    Example: fewmask fetch Task04_Hippocampus --output data
    """
    from pipeline.data.fetch import fetch as download

    folder = download(name, to_write(output))
    say(f"Wrote {folder}: fewmask train {folder}")


@command
def prune(
    cache: tyro.conf.Positional[Annotated[Path, place("CACHE", "A folder of prepared scans, such as RUN/cache.")]],
    *,
    unused_days: Annotated[float, tyro.conf.arg(help="Keep what a run has used in so many days.")] = 30,
) -> None:
    """Delete prepared scans that no run has used for some time.

    Example: fewmask prune ~/.cache/fewmask --unused-days 30
    """
    from pipeline.data.cache import prune as delete

    refuse_outside("--unused-days", unused_days, 0, 1e6)
    if not cache.is_dir():
        raise UserError("Nothing was deleted.", [Problem(str(cache), "no-folder", "is no folder", "check the path")])
    count, size = delete(cache, unused_days)
    say(f"Deleted {count} file(s), {size / 1e6:.1f} MB.")


@command
def phantom(
    folder: tyro.conf.Positional[Annotated[Path, place("DIR", "An empty or new folder.")]],
    *,
    labelled: Annotated[int, tyro.conf.arg(help="Scans with a mask.")] = 6,
    unlabelled: Annotated[int, tyro.conf.arg(help="Scans without one.")] = 18,
    seed: Annotated[int, tyro.conf.arg(help="Makes the same dataset again.")] = 0,
) -> None:
    """Write a synthetic dataset to try things on.

    Example: fewmask phantom demo/data --labelled 6 --unlabelled 18
    """
    from pipeline.data.phantom import write_phantom

    for name, number in (("--labelled", labelled), ("--unlabelled", unlabelled), ("--seed", seed)):
        refuse_outside(name, number, 0, 99_999)
    cases = write_phantom(folder, labelled=labelled, unlabelled=unlabelled, seed=seed)
    for _ in progress(cases, "writing", labelled + unlabelled):
        pass
    say(f"Wrote {labelled} scans with masks and {unlabelled} without to {folder}.")


@command
def components() -> None:
    """List what a recipe can name: losses, networks, optimizers, metrics and the like, and their options.

    Example: fewmask components
    """
    from pipeline.runs import REGISTRIES

    show_components(REGISTRIES)


def main() -> None:
    """Run the command that the arguments name; a user's mistake ends in one message and exit code 2."""
    # Figures are drawn without a screen; a backend that Matplotlib does not know would end the command at its import.
    os.environ.pop("MPLBACKEND", None)
    try:
        refuse_no_text(sys.argv[1:])
        with stoppable():
            run_command(sys.argv[1:])
    except Stopped as stop:
        train_goes_on = sys.argv[1:2] == ["train"]
        complain("stopped; `train` goes on with --resume" if train_goes_on else "stopped; no file is half-written")
        sys.exit(stop.code)
    except Exception as error:
        if (message := explained(error)) is None:
            raise
        fail(message)
