"""Commands that plan and train."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from pipeline.arguments import Overrides, as_override, command, destination, operand, without
from pipeline.bounds import refuse_outside
from pipeline.console import show_machine, show_plan, show_scores, show_seeds
from pipeline.errors import Problem, UserError
from pipeline.files import to_write
from pipeline.shards import WHOLE, read_shard
from pipeline.terminal import give, note, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.runs.requests import Request
    from pipeline.runs.scoring import Scores
    from pipeline.shards import Shard

TimeBudget = Annotated[
    str | None, tyro.conf.arg(help="How long the whole command may take: 90s, 20min, 1h30m, 1.5d.", metavar="TIME")
]
TrainingShard = Annotated[
    str, tyro.conf.arg(help="Only every N-th training from the I-th on; array/N in a job array.", metavar="I/N")
]
AllowChange = Annotated[
    tyro.conf.UseAppendAction[tuple[str, ...]],
    tyro.conf.arg(help="Key of the recipe that a resumed run may have otherwise from here on.", metavar="KEY"),
]
Launcher = Annotated[
    Literal["slurm", "local"] | None,
    tyro.conf.arg(help="Run each training as a job of its own, and wait for all: on Slurm, or here as processes."),
]
LauncherOptions = Annotated[
    tyro.conf.UseAppendAction[tuple[str, ...]],
    tyro.conf.arg(
        help="Setting of the jobs: slurm_partition=gpu, gpus_per_node=1, timeout_min=600, slurm_array_parallelism=8.",
        metavar="KEY=VALUE",
    ),
]
# A time budget counts the imports too.
STARTED = time.monotonic()


@command
def plan(
    source: tyro.conf.Positional[
        Annotated[Path | None, operand("SOURCE", "A dataset, or a recipe with dataset=PATH, as for train.")]
    ] = None,
    overrides: Overrides = (),
    *,
    output: Annotated[
        Path | None, destination("A file for the plan, which train takes as it is; by default none.", "FILE")
    ] = None,
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
        found = runs.look_at_machine()
        give({"machine": list(map(asdict, found))})
        show_machine(found)
        return
    target = output and to_write(output.parent) / output.name
    chosen, findings = runs.plan(runs.read_recipe(source, overrides), target, doctor=doctor)
    give(
        {
            "plan": output,
            "recipe": chosen.recipe.model_dump(mode="json"),
            "reasons": {choice.key: choice.reason for choice in chosen.choices},
            "memory_bytes": chosen.memory_bytes,
            "machine": list(map(asdict, findings)),
        }
    )
    show_plan([*chosen.choices, runs.memory_choice(chosen)])
    if doctor:
        show_machine(findings)
    if output is not None:
        say(f"Wrote {output}: fewmask train {quote(str(output))}")


@command
def train(
    source: tyro.conf.Positional[
        Annotated[Path, operand("SOURCE", "A recipe by path or by name (semisupervised), a dataset, or a checkpoint.")]
    ],
    overrides: Overrides = (),
    *,
    output: Annotated[
        Path | None,
        destination("The run's folder; by default runs/ and the name of the source.", "RUN"),
    ] = None,
    time_budget: TimeBudget = None,
    folds: Annotated[int | None, tyro.conf.arg(help="Cross-validate: so many networks, each without a part.")] = None,
    seeds: Annotated[int | None, tyro.conf.arg(help="Train so often, each with a seed more: mean and spread.")] = None,
    shard: TrainingShard = "1/1",
    launcher: Launcher = None,
    launcher_option: LauncherOptions = (),
    resume: Annotated[bool, tyro.conf.arg(help="Go on with the run that the folder holds.")] = False,
    allow_change: AllowChange = (),
) -> None:
    """Train a network as a recipe says, or as a dataset suggests, and validate it.

    Example: fewmask train supervised dataset=data/Task04_Hippocampus --output runs/hippocampus
    """
    from pipeline import runs
    from pipeline.distributed import is_first, joined

    refuse_outside("--folds", folds, 2, 1000)
    refuse_outside("--seeds", seeds, 2, 1000)
    share = _share(shard, launcher)
    _refuse({"--launcher-option": bool(launcher_option) and launcher is None}, "is for jobs", "add --launcher")
    if folds is None and seeds is None:
        given = {"--shard": share != WHOLE, "--launcher": launcher is not None}
        _refuse(given, "is for folds or seeds", "add --folds or --seeds")
    if seeds is not None:
        another = "leave one out; to repeat folds with other seeds, seed=N data.split_seed=0 and an --output for each N"
        _refuse({"--folds": folds is not None}, "goes not with --seeds", another)
        _refuse({"--allow-change": bool(allow_change)}, "goes not with --seeds", "leave one out")
    if resume and output is None and (source / "config.yaml").is_file():  # The run itself.
        output = source
        source = source / "config.yaml"
    run = to_write(output or Path("runs") / (source.resolve().name if source.is_dir() else source.stem))
    if time_budget is not None:
        overrides = ("max_steps=auto", *overrides, as_override(time_budget, overrides))
    if resume and not run.exists():
        note(f"{run} is not there, so there is nothing to go on with: a new run begins")
    resume = resume or launcher is not None
    with joined():
        request = runs.read_request(source, overrides, folds, seeds)
        if launcher is not None:
            _launch(run, folds or seeds or 0, launcher, launcher_option, ("--resume",))
        if seeds is not None:
            _train_seeds(request, run, seeds, share, resume=resume)
        elif launcher is not None:
            give({"run": run})
            say(f"Wrote {run / 'out-of-fold' / 'report.html'}, of all folds.")
        else:
            found = _trained(request, run, folds, share, resume=resume, allow_change=allow_change)
            if is_first():
                _show(found, run, all_masks=request.recipe.data.validation == "none")


def _trained(
    request: Request, run: Path, folds: int | None, share: Shard, *, resume: bool, allow_change: Sequence[str]
) -> Sequence[Scores | None]:
    """Train a run, or its folds."""
    from pipeline import runs

    if folds is not None:
        return runs.cross_validate(
            request.recipe,
            run,
            folds,
            resume=resume,
            allow_change=allow_change,
            started=STARTED,
            decided=request.decided,
            shard=share,
        )
    scores = runs.train(
        request.recipe,
        run,
        resume=resume,
        allow_change=allow_change,
        started=STARTED,
        start=request.start,
        decided=request.decided,
    )
    return [scores]


def _share(shard: str, launcher: str | None) -> Shard:
    """Read the share of this call; a launcher makes the shares itself."""
    share = read_shard(shard)
    _refuse({"--shard": launcher is not None and share != WHOLE}, "goes not with --launcher", "leave one out")
    return share


def _refuse(given: dict[str, bool], message: str, remedy: str) -> None:
    """Refuse those options of some that are given."""
    if problems := [Problem(option, "bad-options", message, remedy) for option, there in given.items() if there]:
        raise UserError("Nothing was started.", problems)


def _launch(folder: Path, shares: int, launcher: str, options: Sequence[str], further: Sequence[str] = ()) -> None:
    """Run this command's trainings as jobs."""
    from pipeline.config import read_options
    from pipeline.studies.launching import launch

    words = without(sys.argv[1:], ("--launcher", "--launcher-option", "--output", "-o"))
    words = [word for word in words if word not in further]
    launch([*words, *further, "--output", str(folder)], shares, folder, launcher, read_options(options))


def _show(found: Sequence[Scores | None], run: Path, *, all_masks: bool = False) -> None:
    give({"run": run, "scores": [scores.as_dict() for scores in found if scores]})
    for scores in found:
        if scores is None and all_masks:
            say(f"Trained {run} on every mask (data.validation is none): no figure tells how well it does.")
        elif scores is None:
            say(f"Trained {run}; the dataset has no labels to score its segments against.")
        else:
            show_scores(scores.summary, scores.folder, "last", scores.notes)
    if not found:  # Folds that other calls are to train.
        return
    place = quote(str(run))
    say(f"Next: fewmask predict {place} SCANS --output MASKS, or fewmask export {place} --output {place}.fewmask")


def _train_seeds(request: Request, output: Path, count: int, share: Shard, *, resume: bool) -> None:
    from pipeline.studies.seeds import train_seeds

    results = train_seeds(
        request.recipe, output, count, resume=resume, started=STARTED, decided=request.decided, shard=share
    )
    give({"folder": output, "seeds": list(map(asdict, results))})
    if results:
        show_seeds(results, output)
    else:
        say(f"Trained {count} runs in {output}; the dataset has no labels to score their segments against.")


@command
def join(
    folds: tyro.conf.Positional[
        Annotated[tuple[Path, ...], operand("RUN", "The folder of each fold, trained with data.fold=[N,K].")]
    ],
    *,
    output: Annotated[Path, destination("The folder to make.", "RUN")],
) -> None:
    """Make a cross-validation of folds that were trained apart: its scores, its report and its ensemble.

    Example: fewmask join runs/first runs/second --output runs/crossed
    """
    from pipeline import runs

    _show(runs.join(folds, to_write(output)), output)


@command
def study(
    grid: tyro.conf.Positional[
        Annotated[Path, operand("STUDY", "A study's file; docs/studies.md says what is in it.")]
    ],
    *,
    output: Annotated[Path, destination("The study's folder; several processes may work in one.")],
    shard: TrainingShard = "1/1",
    launcher: Launcher = None,
    launcher_option: LauncherOptions = (),
) -> None:
    """Compare recipes over numbers of masks, draws of patients and seeds; go on where a study was stopped.

    Example: fewmask study study.yaml --output studies/few
    """
    from pipeline.studies.grid import read_study
    from pipeline.studies.results import as_markdown
    from pipeline.studies.running import run_study

    asked = read_study(grid)
    share = _share(shard, launcher)
    if launcher is not None:
        _launch(to_write(output), len([*asked.cells()]), launcher, launcher_option)
    results = run_study(asked, to_write(output), share)
    give({"folder": output, "gains": list(map(asdict, results.gains))})
    say(as_markdown(results.gains))
    say(f"Wrote {output / 'results.md'}, results.png, gains.csv and trainings.csv.")
