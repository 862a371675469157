"""Train: from a recipe to a run's folder."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pipeline import __version__, config
from pipeline.checkpoints import Which, checkpoints_of, clear_up, newest_checkpoint, save_checkpoint
from pipeline.data.check import read_facts
from pipeline.data.loaders import StepBatches, StepLoader, WorkerDiedError, fits_shared_memory
from pipeline.data.splits import Split, split_cases
from pipeline.engines.devices import find_hardware
from pipeline.engines.handlers import CsvLog, EveryNSteps, History, ProgressBar, tensorboard_handlers
from pipeline.engines.trainer import SegmentationTrainer
from pipeline.errors import Problem, UserError
from pipeline.files import atomic_write, locked, sweep
from pipeline.interruption import Stopped, end_children, shield, stoppable, window
from pipeline.losses import LOSSES
from pipeline.networks import NETWORKS
from pipeline.planning.plan import resolve
from pipeline.plugins import load_plugins
from pipeline.reports.files import write_json
from pipeline.reports.summary import summarise
from pipeline.runs import build, resuming
from pipeline.runs.checking import PROGRESS, check, note, progress
from pipeline.runs.models import CONFIG, INDEX, SPLIT, portable, task_state
from pipeline.runs.reporting import HISTORY, VALIDATION, TrainingPicture
from pipeline.runs.scoring import Scored, Scores, score, validate, write_scores
from pipeline.runs.segments import labels_of, task_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.data.check import Index
    from pipeline.recipe import Recipe


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


def train(recipe: Recipe, run: Path, *, resume: bool = False, allow_change: Sequence[str] = ()) -> Scores | None:
    """Check the dataset, train, and validate the last weights.

    A recipe with ``segments`` learns from no mask, and where the dataset has none, there is nothing to validate on.

    Args:
        recipe: What to do.
        run: The run's folder: ``config.yaml``, ``split.json``, ``index.json``, ``history.csv``, ``validation.csv``,
            ``training.png``, ``checkpoints/``, ``cache/``, ``cases.csv``, ``summary.json``, ``report.html``.
        resume: Go on with the run that is there; starts one where there is none.
        allow_change: Keys of the recipe, or sections of it, that a resumed run may have otherwise than it had.

    Returns:
        The scores of the last weights; None without a validation case.

    Raises:
        UserError: The recipe or the dataset has problems, or the folder holds a run and ``resume`` is off, or the run
            that it holds is another one.
        Stopped: SIGTERM or SIGINT has come, and what was learnt is saved.
    """
    with stoppable():
        if (run / CONFIG).exists() and not resume:
            message, remedy = "this folder holds a run", "add --resume to go on with it, or name another --output"
            raise UserError("Nothing was started.", [Problem(str(run), "run-exists", message, remedy)])
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
        run.mkdir(parents=True, exist_ok=True)
        with locked(run):
            return _train_in(training, allow_change)


def _train_in(training: _Training, allow_change: Sequence[str]) -> Scores | None:
    training.open_folder(allow_change)
    if training.is_done:
        return validate(training.run) if training.split.validation else None
    try:
        training.run_to_end()
    except WorkerDiedError as error:
        # A machine that is out of memory for a moment should not cost the night; the second time it is an error.
        note(f"{error}\nGoing on from the last checkpoint.")
        training = replace(training, done=0, best=None, saved=0)
        training.open_folder(allow_change)
        training.run_to_end()
    return write_scores(training.run, training.run, training.scored, "last", training.done) if training.scored else None


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
    saved: int = 0
    scored: Scored | None = None

    def __post_init__(self) -> None:
        self.task = task_of(self.recipe, self.index)
        self.step = build.build_step(self.recipe, self.task)

    @property
    def is_done(self) -> bool:
        """Whether every step is done, and validated."""
        return self.done >= self.recipe.max_steps and not self._validation_is_due()

    def open_folder(self, allow_change: Sequence[str] = ()) -> None:
        """Write what the run is, or take up what is there."""
        stored = self.run / CONFIG
        if stored.exists():
            resuming.refuse_changes(self.run, self.recipe, allow_change)
            resuming.refuse_other_scans(self.run, self.index, self.split)
            self._restore()
        for folder in (self.run, self.run / "cache"):
            sweep(folder)
        clear_up(self.run, self.done)
        write_json(self.run / SPLIT, self.split.as_dict())
        write_json(self.run / INDEX, self.index.as_rows())
        # Last, since a folder with a config.yaml is a run.
        with atomic_write(stored) as temporary:
            temporary.write_text(config.dump(self.recipe), encoding="utf-8")

    def _restore(self) -> None:
        if not checkpoints_of(self.run, "last"):
            return
        checkpoint = newest_checkpoint(self.run, "last")
        for problem in checkpoint.damaged:
            note(str(problem))
        resuming.restore(self.step, checkpoint, self.task)
        self.done = self.saved = checkpoint.state["step"]
        self.best = checkpoint.state["best"]

    def run_to_end(self) -> None:
        """Train from where the run is to its last step.

        Raises:
            Stopped: A signal has come; everything up to the last whole step is saved.
            WorkerDiedError: A process that prepares batches was killed.
        """
        recipe, cache = self.recipe, build.build_cache(self.recipe, self.index, self.run)
        batches = build.build_batches(recipe, self.split, cache)
        cases = [case for stream in batches.streams.values() for case in stream.cases]
        for _ in progress(cache.fill(cases), "preparing", len(cases)):
            pass
        if cache.failure is not None:
            note(
                f"{cache.folder} cannot hold all prepared scans ({cache.failure.strerror}): the others are prepared "
                "whenever they are needed. Make room, or name another folder: data.cache=DIR"
            )
        self.history = CsvLog(self.run / HISTORY, ["step", "loss", *self.step.objective.names], self.done)
        self.validations = CsvLog(self.run / VALIDATION, ["step", "mean_dice"], self.done)
        self.bar = ProgressBar(PROGRESS, recipe.max_steps)
        trainer = SegmentationTrainer(
            step=self.step,
            loader=self._loader(batches),
            max_steps=recipe.max_steps,
            epoch_length=batches.epoch_length,
            device=torch.device(recipe.device),
            handlers=self._handlers(),
            done=self.done,
        )
        try:
            with shield():
                if self._validation_is_due():
                    self._validate(self.done)
                    self.saved = 0  # With what it found.
                    self._save("last", self.done)
                if self.done < recipe.max_steps:
                    trainer.run()
        except Stopped:
            self.bar.close()
            end_children()
            self._save("last", self.done)
            raise
        except WorkerDiedError:
            self._save("last", self.done)
            raise
        except torch.OutOfMemoryError:
            raise build.out_of_memory(recipe) from None

    def _loader(self, batches: StepBatches) -> StepLoader:
        workers, last = build.resolved(self.recipe.data.workers), self.recipe.max_steps
        if self.done < last and not fits_shared_memory(batches, self.done, workers):
            note("/dev/shm is too full for workers; batches are prepared without them, which gives the same result")
            workers = 0
        return StepLoader(batches, self.done, last, workers, pin_memory=self.recipe.device != "cpu")

    def _validation_is_due(self) -> bool:
        """Tell whether the step that is done was to be validated, and a signal came in between."""
        return (
            bool(self.split.validation)
            and self.done > 0
            and (self.done % self.recipe.validate_every == 0 or self.done == self.recipe.max_steps)
            and CsvLog.last_step(self.run / VALIDATION, self.done) < self.done
        )

    def _handlers(self) -> list[Any]:
        picture = TrainingPicture(self.run)
        handlers: list[Any] = [
            EveryNSteps(1, self._count),
            History(self.history),
            self.bar,
            # Validation first: a checkpoint of the same step then knows the best score.
            *([EveryNSteps(self.recipe.validate_every, self._validate)] if self.split.validation else []),
            EveryNSteps(self.recipe.validate_every, lambda _: picture.redraw()),
            EveryNSteps(self.recipe.checkpoint_every, lambda step: self._save("last", step)),
        ]
        return handlers + (tensorboard_handlers(self.run / "tensorboard") if self.recipe.tensorboard else [])

    def _count(self, step: int) -> None:
        self.done = step

    def _validate(self, step: int) -> None:
        predictor = build.build_predictor(self.recipe, self.task, self.step.network)
        matched = self.recipe.segments is not None
        last = step == self.recipe.max_steps  # whose masks the report shows
        truth = labels_of(self.index)
        with window():
            self.scored = score(predictor, self.split.validation, truth, matched=matched, pictures=last)
        mean = summarise(self.scored.results).mean_dice
        self.bar.report(step, mean)
        if mean is not None and math.isfinite(mean) and (self.best is None or mean > self.best):
            self.best = mean
            self._save("best", step)
        self.validations.append({"step": step, "mean_dice": mean})

    def _save(self, which: Which, step: int) -> None:
        if step == 0 or (which == "last" and step == self.saved):
            return
        about = {
            "step": step,
            "best": self.best,
            "recipe": config.dump(portable(self.recipe)),
            "task": task_state(self.task),
            "version": __version__,
        }
        self.history.flush()
        self.validations.flush()
        save_checkpoint(self.run, which, about | self.step.state_dict())
        if which == "last":
            self.saved = step
