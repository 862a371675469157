"""A run's folder: the names of its files, reading and writing them, and refusing to train where that would do harm."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import config
from pipeline.checkpoints import (
    checkpoints_of,
    clear_up,
    newest_checkpoint,
    output_of,
    refuse_foreign,
    save_checkpoint,
)
from pipeline.decisions import NONE
from pipeline.errors import Problem, UserError
from pipeline.files import atomic_write, locked, sweep
from pipeline.logs import CsvLog, read_curves
from pipeline.outputs import LIST
from pipeline.pacing.budget import Budget
from pipeline.plugins import load_remembered, remember
from pipeline.reports.figures import REPORT_FILES
from pipeline.runs.stored import (
    BUDGET,
    CONFIG,
    FIXED,
    FOLDS,
    INDEX,
    PLUGINS,
    SPLIT,
    SUMMARY,
    read_config,
    read_decisions,
    read_index,
    read_own,
)
from pipeline.strict_json import write_json
from pipeline.terminal import note

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from pipeline.checkpoints import Checkpoint
    from pipeline.data.inspection import CaseFacts
    from pipeline.decisions import Decisions
    from pipeline.outputs import Output
    from pipeline.recipe import Recipe
    from pipeline.types import Which

KINDS: tuple[Which, ...] = ("last", "best")
HISTORY = "history.csv"
VALIDATION = "validation.csv"
PICTURE = "training.png"
CACHE = "cache"
STOP = "stop"
# What a validation writes, wherever that is.
SCORES = ("cases.csv", SUMMARY, *REPORT_FILES)
# Files that are written again and again while a run goes on.
LIVING = (CONFIG, HISTORY, VALIDATION, PICTURE, BUDGET, FOLDS)
BRING_BACK = "bring it back as it was, or name another --output"


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run or of a cross-validation."""

    path: Path

    @property
    def output(self) -> Output:
        """The folder with its list of the run's own files."""
        return output_of(self.path)

    @property
    def holds_run(self) -> bool:
        """Whether a run was begun here: its ``config.yaml``, which is written last, exists."""
        return (self.path / CONFIG).exists() and self.output.knows(CONFIG)

    @property
    def is_unbegun(self) -> bool:
        """Whether nothing was learnt here: no checkpoint of a run, and no cross-validation."""
        return not any(checkpoints_of(self.path, which) for which in KINDS) and not count_folds(self.path)

    def forget_unbegun(self) -> None:
        """Delete recipe and plugins of a run that ended before its first step, so that another can begin here.

        Raises:
            UserError: It is being trained right now.
        """
        if self.holds_run and self.is_unbegun:
            with locked(self.path):
                for name in (CONFIG, PLUGINS):
                    (self.path / name).unlink(missing_ok=True)

    def facts(self) -> dict[str, CaseFacts]:
        """Return the facts of the check that the run began with, by the case's id; nothing before that."""
        return read_index(self.path) if (self.path / INDEX).exists() else {}

    def unlike(self) -> list[str] | None:
        """Return the ids of the scans that the run leaves out as unlike the others; None before it has a split."""
        return read_split(self.path)["unlike"] if (self.path / SPLIT).exists() else None

    def refuse(self, resume: bool, folds: int = 0) -> None:
        """Refuse a folder that must not be trained in. This comes first, before anything is read or computed.

        Args:
            resume: Whether to resume the run that the folder holds.
            folds: Number of folds of the cross-validation that is to be trained; 0 for a single run.

        Raises:
            UserError: It holds a run that has made a step, and ``resume`` is off; another number of folds; checkpoints
                without their recipe; or files that no run has written here.
        """
        if self.holds_run and (resume or not self.is_unbegun):
            self._refuse_run(resume, folds)
        elif known := [path for which in KINDS for path in checkpoints_of(self.path, which)]:
            self._refuse_remains(known[0])
        refuse_foreign(self.path)
        replace(self.output, remedy=BRING_BACK).refuse_foreign(FIXED)
        self.output.refuse_foreign((*LIVING, *SCORES))

    def _refuse_run(self, resume: bool, folds: int) -> None:
        there = count_folds(self.path)
        what = "a run"
        if there:
            what = f"a cross-validation of {there} folds"
        if not resume:
            message = f"this folder holds {what}"
            remedy = "add --resume to go on with it, or name another --output"
            raise UserError("Nothing was started.", [Problem(str(self.path), "run-exists", message, remedy)])
        if there != folds:
            way = f"give --folds {there}" if there else "leave out --folds"
            remedy = f"{way}, or name another --output"
            raise UserError("Nothing was resumed.", [Problem(str(self.path), "run-exists", f"holds {what}", remedy)])

    def _refuse_remains(self, checkpoint: Path) -> None:
        """Refuse a folder with checkpoints in which a file is missing that resuming needs."""
        gone = CONFIG
        if (self.path / CONFIG).exists():
            gone = f"{LIST}, its list of what it has written"
        message = f"holds checkpoints of a run, and not {gone}"
        remedy = f"bring that back, or go on in a new folder: fewmask train {checkpoint} dataset=DATASET --output NEW"
        raise UserError("Nothing was started.", [Problem(str(self.path), "no-run", message, remedy)])

    def take(self) -> None:
        """Record the files that will grow or be rewritten as the run's, once the folder is locked.

        What a killed run has left half-written is deleted.

        Raises:
            UserError: Since :meth:`refuse`, a file of such a name has appeared.
        """
        self.output.own(LIVING)
        for name in LIVING:
            sweep(self.path, name)

    def newest_checkpoint(self) -> Checkpoint | None:
        """Read the newest sound checkpoint of either kind, and rename damaged ones; None if there is none.

        Raises:
            UserError: There are some, and none is sound.
        """
        refuse_foreign(self.path)
        checkpoint = None
        if any(checkpoints_of(self.path, which) for which in KINDS):
            checkpoint = newest_checkpoint(self.path, *KINDS)
            for problem in checkpoint.damaged:
                note(str(problem))
        for path in clear_up(self.path):
            note(f"{path.stem} is damaged, and is called {path.name} from now on")
        return checkpoint

    def cache_of(self, recipe: Recipe) -> Path | None:
        """Return the folder of prepared scans by a recipe's ``data.cache``; None if that is off.

        Raises:
            UserError: A file has its name.
        """
        told = recipe.data.cache
        if told == "off":
            return None
        place = self.path / CACHE if told == "run" else Path(told)
        file = next((path for path in (place, *place.parents) if path.is_file()), None)
        if file:
            message = "is a file, and prepared scans are to lie in it"
            remedy = "name a folder: data.cache=DIR"
            raise UserError("Nothing was started.", [Problem(str(file), "not-a-folder", message, remedy)])
        return place

    def write_facts(self, split: dict[str, Any], index: list[dict[str, Any]], plugins: Sequence[Path]) -> None:
        """Write ``split.json``, ``index.json`` and, if there are plugins, ``plugins.json``.

        Args:
            split: The ids of the cases that are trained on and held out.
            index: The facts of every case, as rows.
            plugins: The paths of the plugins.
        """
        facts: dict[str, Any] = {SPLIT: split, INDEX: index}
        if plugins:
            facts[PLUGINS] = {"plugins": remember(plugins)}
        with self.output.writing(list(facts)) as stage:
            for name, content in facts.items():
                write_json(stage / name, content)

    def load_plugins(self) -> None:
        """Load the plugins that the run was trained with, if any.

        Raises:
            UserError: One is gone, was changed, or was never named by this user.
        """
        if (self.path / PLUGINS).exists():
            load_remembered(read_own(self.path, PLUGINS)["plugins"])

    def write_config(self, recipe: Recipe, decided: Decisions = NONE) -> None:
        """Write recipe and decisions to ``config.yaml``, unless it holds them: a user may have added comments."""
        with suppress(UserError):
            there = config.written(read_config(self.path), read_decisions(self.path))
            if there == config.written(recipe, decided):
                return
        with atomic_write(self.path / CONFIG) as temporary:
            temporary.write_text(config.dump(recipe, decided=decided), encoding="utf-8")

    @property
    def stop_file(self) -> Path:
        """The file by which a user requests that the training ends soon."""
        return self.path / STOP

    @property
    def tensorboard(self) -> Path:
        """The folder of TensorBoard's events."""
        return self.path / "tensorboard"

    def history(self, terms: Sequence[str], done: int) -> CsvLog:
        """Open the log of the terms of the loss; rows of steps after ``done`` are dropped."""
        return CsvLog(self.path / HISTORY, ["step", "loss", *terms], done)

    def validations(self, done: int) -> CsvLog:
        """Open the log of validations; rows of steps after ``done`` are dropped."""
        return CsvLog(self.path / VALIDATION, ["step", "mean_dice"], done)

    def validation_dice(self) -> list[float]:
        """Return the mean Dice of each validation that had one."""
        return [value for _, value in read_curves(self.path / VALIDATION).get("mean_dice", [])]

    def is_validated(self, step: int) -> bool:
        """Tell whether the log has a validation of a step."""
        return CsvLog.last_step(self.path / VALIDATION, step) == step

    def save(self, which: Which, state: dict[str, Any]) -> None:
        """Save a checkpoint."""
        save_checkpoint(self.path, which, state)

    def read_budget(self, began: float) -> Budget | None:
        """Read the run's time budget; None if it has none.

        Args:
            began: When this command began, by ``time.monotonic()``.

        Raises:
            UserError: The file is damaged.
        """
        if (self.path / BUDGET).exists():
            return Budget.from_dict(read_own(self.path, BUDGET), began)
        return None

    def write_budget(self, budget: Budget) -> None:
        """Write the run's time budget, with the seconds that are spent by now."""
        write_json(self.path / BUDGET, budget.as_dict())

    def remove_budget(self) -> None:
        """Delete the budget of an earlier start that was killed before it became a run."""
        (self.path / BUDGET).unlink(missing_ok=True)


def write_own(folder: Path, name: str, content: Any) -> None:
    """Write a JSON file of a run that is written once."""
    with output_of(folder).writing([name]) as stage:
        write_json(stage / name, content)


def count_folds(run: Path) -> int:
    """Return the number of folds of a cross-validation's folder; 0 for any other folder.

    Raises:
        UserError: Its ``folds.json`` is damaged.
    """
    if (run / FOLDS).exists():
        return int(read_own(run, FOLDS)["folds"])
    return 0


def fold_folder(run: Path, fold: int) -> Path:
    """Return the folder of a fold, counted from 1, of a cross-validation."""
    return run / f"fold-{fold}"


def is_run(folder: Path) -> bool:
    """Tell whether a folder is a run's, by files that every run has from its beginning."""
    return (folder / CONFIG).is_file() and (folder / SPLIT).is_file()


def read_split(run: Path) -> dict[str, list[str]]:
    """Return the ids of a run's cases by their part in it, as ``split.json`` has them.

    Of a cross-validation, which scans without masks are left out is decided by each fold: here these are the ones that
    no fold was trained on.

    Raises:
        UserError: A file of the run is gone or damaged.
    """
    split: dict[str, list[str]] = read_own(run, SPLIT)
    folds = [fold_folder(run, fold) for fold in range(1, count_folds(run) + 1)]
    if folds:
        used = {name for fold in folds for name in read_own(fold, SPLIT)["unlabelled"]}
        unlabelled = [name for name in split["unlabelled"] if name in used]
        split |= {"unlabelled": unlabelled, "unlike": [name for name in split["unlabelled"] if name not in used]}
    return split
