"""Train: from a recipe to a run's folder."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pipeline import __version__, config
from pipeline.checkpoints import Which, checkpoint_path, load_checkpoint, save_checkpoint
from pipeline.data.check import read_facts
from pipeline.data.loaders import step_loader
from pipeline.data.splits import Split, split_cases
from pipeline.engines.devices import find_hardware
from pipeline.engines.handlers import CsvLog, EveryNSteps, History, ProgressBar, tensorboard_handlers
from pipeline.engines.trainer import SegmentationTrainer
from pipeline.errors import Problem, UserError
from pipeline.files import atomic_write
from pipeline.losses import LOSSES
from pipeline.networks import NETWORKS
from pipeline.planning.plan import resolve
from pipeline.plugins import load_plugins
from pipeline.reports.files import write_json
from pipeline.reports.summary import summarise
from pipeline.runs import build
from pipeline.runs.checking import PROGRESS, check, progress
from pipeline.runs.models import CONFIG, INDEX, SPLIT
from pipeline.runs.reporting import HISTORY, VALIDATION, TrainingPicture
from pipeline.runs.scoring import Scored, Scores, score, validate, write_scores
from pipeline.runs.segments import labels_of, task_of
from pipeline.strict_yaml import read_yaml

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.data.check import Index
    from pipeline.recipe import Recipe

# What a resumed run may have otherwise and still be the same run; the dataset's content is compared by its hashes.
HARMLESS = ("dataset", "root", "tensorboard", "checkpoint_every", "data.workers", "data.cache", "layout.name")


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe with its overrides, load its plugins, and check everything in it.

    Raises:
        UserError: With every mistake of the recipe.
    """
    raw = config.read(path, overrides)
    plugins = raw.get("plugins")
    if isinstance(plugins, list) and all(isinstance(plugin, str) for plugin in plugins):
        load_plugins([Path(plugin) for plugin in plugins])
    return config.parse(raw, str(path), LOSSES, NETWORKS)


def train(recipe: Recipe, run: Path, *, resume: bool = False) -> Scores | None:
    """Check the dataset, train, and validate the last weights.

    A recipe with ``segments`` learns from no mask, and where the dataset has none, there is nothing to validate on.

    Args:
        recipe: What to do.
        run: The run's folder: ``config.yaml``, ``split.json``, ``index.json``, ``history.csv``, ``validation.csv``,
            ``training.png``, ``checkpoints/``, ``cache/``, ``cases.csv``, ``summary.json``, ``report.html``.
        resume: Go on with the run that is there; starts one where there is none.

    Returns:
        The scores of the last weights; None without a validation case.

    Raises:
        UserError: The recipe or the dataset has problems, or the folder holds a run and ``resume`` is off, or the run
            that it holds is another one.
    """
    if (run / CONFIG).exists() and not resume:
        remedy = "add --resume to go on with it, or name another --output"
        raise UserError("Nothing was started.", [Problem(str(run), "run-exists", "this folder holds a run", remedy)])
    known = read_facts(run / INDEX) if resume and (run / INDEX).exists() else {}
    index = check(recipe.dataset, recipe.root, recipe.layout.name, recipe.layout.options, known)
    labels_teach = recipe.segments is None
    split = split_cases(index.dataset, recipe.data.validation_fraction, recipe.seed, labels_teach=labels_teach)
    _refuse_unfit(recipe, index, split)
    taught = [case.id for case in split.labelled + split.unlabelled]
    # Held-out cases choose nothing, not even the size of a patch.
    facts = {name: index.facts[name] if labels_teach else index.facts[name].without_mask() for name in taught}
    visible = replace(index, facts=facts)
    recipe = _absolute(resolve(recipe, visible, find_hardware(recipe.device)))
    training = _Training(run, recipe, index, split)
    training.open_folder()
    if training.done < recipe.max_steps:
        training.run_to_end()
        return write_scores(run, run, training.scored, "last", training.done) if training.scored else None
    return validate(run) if split.validation else None


def _refuse_unfit(recipe: Recipe, index: Index, split: Split) -> None:
    """Refuse a dataset without anything to find, and terms without anything to look at."""
    message = "looks at unlabelled scans, and the dataset has none"
    remedy = "add scans without masks, or leave the term out, as configs/supervised.yaml does"
    problems = [
        Problem(f"objective.{n}", "no-unlabelled", f"{term.loss} {message}", remedy)
        for n, term in enumerate(recipe.objective)
        if term.on == "unlabelled" and not split.unlabelled
    ]
    if len(index.labels) < 2 and recipe.segments is None:
        source = str(index.dataset.source)
        problems.append(Problem(source, "no-foreground", "every mask is empty", "give masks with values above 0"))
    if problems:
        raise UserError("The recipe does not fit the dataset.", problems)


def _absolute(recipe: Recipe) -> Recipe:
    """Let a run's own recipe name the same files wherever it is read from."""
    root = recipe.root and recipe.root.resolve()
    plugins = tuple(path.resolve() for path in recipe.plugins)
    cache = recipe.data.cache.resolve() if isinstance(recipe.data.cache, Path) else recipe.data.cache
    data = recipe.data.model_copy(update={"cache": cache})
    places = {"dataset": recipe.dataset.resolve(), "root": root, "plugins": plugins, "data": data}
    return recipe.model_copy(update=places)


@dataclass
class _Training:
    """One training: its folder, its data, and all that goes into a checkpoint."""

    run: Path
    recipe: Recipe
    index: Index
    split: Split
    done: int = 0
    best: float | None = None
    scored: Scored | None = None

    def __post_init__(self) -> None:
        self.task = task_of(self.recipe, self.index)
        self.step = build.build_step(self.recipe, self.task)

    def open_folder(self) -> None:
        """Write what the run is, or take up what is there."""
        stored = self.run / CONFIG
        if stored.exists():
            _refuse_changes(config.read(stored), read_yaml(config.dump(self.recipe), str(self.run)), self.run)
            _refuse_other_scans(self.run, self.index, self.split)
            self._restore()
        self.run.mkdir(parents=True, exist_ok=True)
        write_json(self.run / SPLIT, self.split.as_dict())
        write_json(self.run / INDEX, self.index.as_rows())
        # Last, since a folder with a config.yaml is a run.
        with atomic_write(stored) as temporary:
            temporary.write_text(config.dump(self.recipe), encoding="utf-8")

    def _restore(self) -> None:
        path = checkpoint_path(self.run, "last")
        if path.exists():
            state = load_checkpoint(path)
            if state["task"] != self._task_state():
                message, remedy = "was trained on other labels or channels", "bring the dataset back as it was"
                raise UserError("Nothing was resumed.", [Problem(str(path), "task-changed", message, remedy)])
            self.step.load_state_dict(state)
            self.done, self.best = state["step"], state["best"]

    def run_to_end(self) -> None:
        """Train from where the run is to its last step."""
        recipe, cache = self.recipe, build.build_cache(self.recipe, self.index, self.run)
        batches = build.build_batches(recipe, self.split, cache)
        cases = [case for stream in batches.streams.values() for case in stream.cases]
        for _ in progress(cache.fill(cases), "preparing", len(cases)):
            pass
        if cache.failure is not None:
            PROGRESS.print(
                f"{cache.folder} cannot hold all prepared scans ({cache.failure.strerror}): the others are prepared "
                "whenever they are needed. Make room, or name another folder: data.cache=DIR",
                markup=False,
                soft_wrap=True,
            )
        workers, pinned = build.resolved(recipe.data.workers), recipe.device != "cpu"
        trainer = SegmentationTrainer(
            step=self.step,
            loader=step_loader(batches, self.done, recipe.max_steps, workers, pinned),
            max_steps=recipe.max_steps,
            epoch_length=batches.epoch_length,
            device=torch.device(recipe.device),
            handlers=self._handlers(),
            done=self.done,
        )
        try:
            trainer.run()
        except torch.OutOfMemoryError:
            raise build.out_of_memory(recipe) from None
        self.done = recipe.max_steps

    def _handlers(self) -> list[Any]:
        bar, picture = ProgressBar(PROGRESS, self.recipe.max_steps), TrainingPicture(self.run)
        validations = CsvLog(self.run / VALIDATION, ["step", "mean_dice"], self.done)
        validate = EveryNSteps(self.recipe.validate_every, lambda step: self._validate(step, validations, bar))
        handlers: list[Any] = [
            History(CsvLog(self.run / HISTORY, ["step", "loss", *self.step.objective.names], self.done)),
            bar,
            # Validation first: a checkpoint of the same step then knows the best score.
            *([validate] if self.split.validation else []),
            EveryNSteps(self.recipe.validate_every, lambda _: picture.redraw()),
            EveryNSteps(self.recipe.checkpoint_every, lambda step: self._save("last", step)),
        ]
        return handlers + (tensorboard_handlers(self.run / "tensorboard") if self.recipe.tensorboard else [])

    def _validate(self, step: int, log: CsvLog, bar: ProgressBar) -> None:
        predictor = build.build_predictor(self.recipe, self.task, self.step.network)
        matched = self.recipe.segments is not None
        last = step == self.recipe.max_steps  # whose masks the report shows
        self.scored = score(predictor, self.split.validation, labels_of(self.index), matched=matched, pictures=last)
        mean = summarise(self.scored.results).mean_dice
        log.append({"step": step, "mean_dice": mean})
        bar.report(step, mean)
        if mean is not None and (self.best is None or mean > self.best):
            self.best = mean
            self._save("best", step)

    def _task_state(self) -> dict[str, Any]:
        return {"labels": dict(self.task.labels), "channels": list(self.task.channels)}

    def _save(self, which: Which, step: int) -> None:
        about = {
            "step": step,
            "best": self.best,
            "recipe": config.dump(self.recipe),
            "task": self._task_state(),
            "version": __version__,
        }
        save_checkpoint(checkpoint_path(self.run, which), about | self.step.state_dict())


def _refuse_changes(stored: dict[str, Any], wanted: dict[str, Any], run: Path) -> None:
    old, new = _flat(stored), _flat(wanted)
    for key in HARMLESS:
        old.pop(key, None)
        new.pop(key, None)
    problems = [
        Problem(
            key,
            "changed",
            f"the run has {old.get(key)!r}, you gave {new.get(key)!r}",
            "give the run's value, or start a new run",
        )
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
    if problems:
        raise UserError(f"{run} holds another run; nothing was resumed.", problems)


def _refuse_other_scans(run: Path, index: Index, split: Split) -> None:
    """A step is a function of the seed and the cases: with other cases a resumed run would be neither run."""
    rows = (json.loads((run / INDEX).read_text(encoding="utf-8")), json.loads(json.dumps(index.as_rows())))
    old, new = ({row["case"]: row for row in side} for side in rows)
    problems = [
        Problem(
            case,
            "scans-changed",
            "is new" if case not in old else "is gone" if case not in new else "has other files than it had",
            "bring the dataset back as it was, or start a new run",
            case,
        )
        for case in sorted(old.keys() | new.keys())
        if _content(old.get(case)) != _content(new.get(case))
    ]
    if not problems and json.loads((run / SPLIT).read_text(encoding="utf-8")) != split.as_dict():
        message = "its cases are in other lists, in another order or of other patients"
        problems = [Problem(str(run / SPLIT), "split-changed", message, "bring the dataset back as it was")]
    if problems:
        raise UserError(f"The dataset of {run} has changed; nothing was resumed.", problems)


def _content(row: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return what an index says of a case's content; a copied file has other stamps and is still the same."""
    return row and {key: value for key, value in row.items() if key != "stamps"}


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """Return the leaves of nested dictionaries and lists by dotted path."""
    if not isinstance(value, (dict, list)):
        return {path: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {
        key: leaf
        for name, inner in items
        for key, leaf in _flat(inner, f"{path}.{name}" if path else str(name)).items()
    }
