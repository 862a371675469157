"""What is drawn of a training while it goes on, and what trackers of experiments are told of it."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any

from pipeline.config import written
from pipeline.engines.handlers import EveryNSteps
from pipeline.engines.trackers import MLflow, TensorBoard, WeightsAndBiases
from pipeline.runs.folder import PICTURE
from pipeline.runs.reporting import TrainingPicture
from pipeline.runs.resuming import flat

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ignite.engine import Engine

    from pipeline.engines.trackers import Tracker
    from pipeline.planning.settings import Settings
    from pipeline.runs.scoring import Scores
    from pipeline.runs.setup import Setup

# Keys with paths or addresses, which trackers are not told.
PLACES = ("dataset", "root", "start", "plugins", "layout", "mlflow", "data.cache", "data.split")
# Characters of a parameter that every tracker takes.
LONGEST = 500


class Tracking:
    """Draws and tells of one training, in the first of its processes.

    Args:
        setup: The parts of the training.
        goes_on: Whether the training goes on after steps that trackers were told of.

    Raises:
        UserError: A tracker is on that is not installed, or not there.
    """

    def __init__(self, setup: Setup, *, goes_on: bool) -> None:
        self.every = setup.settings.validate_every
        self.folder = setup.folder.path
        self.picture = TrainingPicture(self.folder, validated=bool(setup.split.validation))
        self.trackers: list[Tracker] = [*_trackers(setup, goes_on)]

    def handlers(self) -> list[Any]:
        """Return what follows the steps."""
        return [EveryNSteps(self.every, lambda _: self.picture.redraw()), *self.trackers]

    def begun(self, engine: Engine) -> None:
        """Tell that the training begins, or goes on."""
        for tracker in self.trackers:
            tracker.begin(engine)

    def validated(self, step: int, dice: float | None) -> None:
        """Tell of a validation, unless it has no Dice."""
        for tracker in self.trackers:
            if dice is not None:
                tracker.validated(step, dice)

    def ended(self, step: int, scores: Scores | None) -> None:
        """Tell of the scores of the last weights, if there are any, and hand over the report."""
        means = {}
        if scores:
            means = {f"final/dice/{row.name}": row.dice.mean for row in scores.summary.classes}
            means["final/dice"] = scores.summary.mean_dice
        files = [self.folder / "report.html", self.folder / PICTURE, *sorted(self.folder.glob("figures/*.png"))]
        known = {name: value for name, value in means.items() if value is not None}
        for tracker in self.trackers:
            tracker.ended(known, step, [path for path in files if path.is_file()])


def _trackers(setup: Setup, goes_on: bool) -> Iterator[Tracker]:
    recipe = setup.settings
    run = setup.folder.path.resolve()
    name = run.name
    if re.match(r"fold-|seed-|\d+-draw", name):  # One of several, in a folder that says of what.
        name = f"{run.parent.name}/{name}"
    if recipe.tensorboard:
        yield TensorBoard(setup.folder.tensorboard)
    if recipe.mlflow:
        address = f"sqlite:///{run.parent / 'mlflow.db'}" if recipe.mlflow is True else recipe.mlflow
        yield MLflow(address, name, hashlib.sha256(str(run).encode()).hexdigest(), _parameters(recipe), goes_on)
    if recipe.wandb:
        yield WeightsAndBiases(run, name, _parameters(recipe))


def _parameters(recipe: Settings) -> dict[str, str]:
    """Return the recipe's values by dotted key."""
    return {
        key: str(value)[:LONGEST]
        for key, value in flat(written(recipe)).items()
        if not any(key == place or key.startswith(f"{place}.") for place in PLACES)
    }
