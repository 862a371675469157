"""Commands that plan and train."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from pipeline.arguments import Overrides, command, destination, place
from pipeline.bounds import refuse_outside
from pipeline.console import show_components, show_machine, show_plan, show_scores, show_seeds
from pipeline.errors import Problem, UserError
from pipeline.files import to_write
from pipeline.terminal import give, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.decisions import Decisions
    from pipeline.recipe import Recipe
    from pipeline.runs.scoring import Scores

# A time budget counts the imports too.
STARTED = time.monotonic()


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
        found = runs.look_at_machine()
        give({"machine": list(map(asdict, found))})
        show_machine(found)
        return
    chosen, findings = runs.plan(
        runs.read_recipe(source, overrides), to_write(output.parent) / output.name, doctor=doctor
    )
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
    seeds: Annotated[int | None, tyro.conf.arg(help="Train so often, each with a seed more: mean and spread.")] = None,
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
    from pipeline.distributed import is_first, joined

    refuse_outside("--folds", folds, 2, 1000)
    refuse_outside("--seeds", seeds, 2, 1000)
    if seeds is not None and (folds is not None or allow_change):
        problem = Problem("--seeds", "bad-options", "goes with neither --folds nor --allow-change", "leave one out")
        raise UserError("Nothing was started.", [problem])
    run = to_write(output or Path("runs") / (source.resolve().name if source.is_dir() else source.stem))
    if time_budget is not None:
        overrides = ("max_steps=auto", *overrides, f"time_budget={time_budget}")
    with joined():
        request = runs.read_request(source, overrides, folds, seeds)
        if seeds is not None:
            _train_seeds(request.recipe, run, seeds, resume=resume, decided=request.decided)
            return
        how: dict[str, Any] = {"resume": resume, "allow_change": allow_change, "started": STARTED}
        how["decided"] = request.decided
        if folds is None:
            found = [runs.train(request.recipe, run, start=request.start, **how)]
        else:
            found = [*runs.cross_validate(request.recipe, run, folds, **how)]
        if is_first():
            _show(found, run, request.recipe)


def _show(found: Sequence[Scores | None], run: Path, recipe: Recipe) -> None:
    give({"run": run, "scores": [scores.as_dict() for scores in found if scores]})
    for scores in found:
        if scores is None and recipe.data.validation == "none":
            say(f"Trained {run} on every mask (data.validation is none): no figure tells how well it does.")
        elif scores is None:
            say(f"Trained {run}; the dataset has no labels to score its segments against.")
        else:
            show_scores(scores.summary, scores.folder, "last", scores.notes)
    place = quote(str(run))
    say(f"Next: fewmask predict {place} SCANS --output MASKS, or fewmask export {place} --output {place}.fewmask")


def _train_seeds(recipe: Recipe, output: Path, count: int, *, resume: bool, decided: Decisions) -> None:
    from pipeline.studies.seeds import train_seeds

    results = train_seeds(recipe, output, count, resume=resume, started=STARTED, decided=decided)
    give({"folder": output, "seeds": list(map(asdict, results))})
    if results:
        show_seeds(results, output)
    else:
        say(f"Trained {count} runs in {output}; the dataset has no labels to score their segments against.")


@command
def components() -> None:
    """List what a recipe can name: losses, networks, optimizers, metrics and the like, and their options.

    Example: fewmask components
    """
    from pipeline.runs import REGISTRIES

    give({registry.name: registry.as_dict() for registry in REGISTRIES})
    show_components(REGISTRIES)


@command
def study(
    grid: tyro.conf.Positional[Annotated[Path, place("STUDY", "A study's file; docs/studies.md says what is in it.")]],
    *,
    output: Annotated[Path, destination("The study's folder; several processes may work in one.")],
) -> None:
    """Compare recipes over numbers of masks, draws of patients and seeds; go on where a study was stopped.

    Example: fewmask study study.yaml --output studies/few
    """
    from pipeline.studies.grid import read_study
    from pipeline.studies.results import table_of
    from pipeline.studies.running import run_study

    results = run_study(read_study(grid), to_write(output))
    give({"folder": output, "gains": list(map(asdict, results.gains))})
    say(table_of(results.gains))
    say(f"Wrote {output / 'results.md'}, results.png, gains.csv and trainings.csv.")
