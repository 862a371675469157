"""Trackers of experiments that a training tells its curves to: TensorBoard, MLflow and Weights & Biases.

Each is its own library, through the handlers that MONAI and Ignite have for it. Paths, the machine and its user are
not sent; a run is called after its folder. A tracker that fails is told no more, and the training goes on.
"""

from __future__ import annotations

import logging
import os
import re
import time
from abc import ABC, abstractmethod
from importlib.util import find_spec
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

from ignite.engine import Engine, Events

from pipeline.errors import Problem, UserError, first_line
from pipeline.terminal import note

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

EXPERIMENT = "fewmask"
# Steps between two that a database or a server is told of; a curve needs no more, and each may take milliseconds.
STRIDE = 10
DICE = "validation/dice"
TAG = "fewmask.folder"


class Tracker(ABC):
    """One tracker, for one training.

    Raises:
        UserError: Its library is not installed.
    """

    name: ClassVar[str]
    module: ClassVar[str]

    def __init__(self) -> None:
        if find_spec(self.module) is None:
            remedy = f"pip install 'fewmask[{self.module}]'"
            problem = Problem(self.module, "not-installed", f"is on, and {self.name} is not installed", remedy)
            raise UserError("The run cannot be logged.", [problem])
        self.listens = False

    def attach(self, engine: Engine) -> None:
        """Follow the steps of a training."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._follow)

    def begin(self, engine: Engine) -> None:
        """Open the tracker's run; nothing is told before."""
        self.listens = True
        self._safely(self.start, engine)

    def validated(self, step: int, dice: float) -> None:
        """Tell of a validation."""
        self._safely(self.tell, {DICE: dice}, step)

    def ended(self, scores: Mapping[str, float], step: int, files: Sequence[Path]) -> None:
        """Tell of the scores of the last weights, if there are any, hand over pictures and report, and close."""
        if scores:
            self._safely(self.tell, scores, step)
        self._safely(self.close, files)

    def _follow(self, engine: Engine) -> None:
        self._safely(self.step, engine)

    def _safely(self, act: Callable[..., None], *given: Any) -> None:
        if not self.listens:
            return
        try:
            act(*given)
        except Exception as error:  # Of whatever kind: each library and each server has its own.
            self.listens = False
            note(f"{self.name}: {first_line(error)}; it is told no more, and the training goes on")

    def step(self, engine: Engine) -> None:
        """Tell of the loss and its terms."""
        if engine.state.iteration % STRIDE == 0 or engine.state.iteration == 1:
            self.tell(_terms(engine), engine.state.output.step)

    @abstractmethod
    def start(self, engine: Engine) -> None:
        """Begin, or go on with what a stopped training has begun."""

    @abstractmethod
    def tell(self, numbers: Mapping[str, float], step: int) -> None:
        """Tell of some numbers."""

    @abstractmethod
    def close(self, files: Sequence[Path]) -> None:
        """Hand over files, and end."""


def _terms(engine: Engine) -> dict[str, float]:
    """Return the loss and its terms; a term of the name dice is not the Dice of a validation."""
    return {name if name == "loss" else f"loss/{name}": value for name, value in engine.state.output.items()}


class TensorBoard(Tracker):
    """Events in a folder, with every step.

    Args:
        folder: Where they are written.
    """

    name = "TensorBoard"
    module = "tensorboard"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        from monai.handlers import TensorBoardStatsHandler
        from tensorboard.summary.writer import event_file_writer

        # It names its files after the machine.
        event_file_writer.socket = SimpleNamespace(gethostname=lambda: EXPERIMENT)
        self.handler = TensorBoardStatsHandler(log_dir=str(folder), epoch_log=False)
        self.writer: Any = self.handler._writer

    def start(self, engine: Engine) -> None:
        """Do nothing: each start of a training has a file of its own."""

    def step(self, engine: Engine) -> None:
        """Tell of the loss and its terms; a file takes every step."""
        self.tell(_terms(engine), engine.state.output.step)

    def tell(self, numbers: Mapping[str, float], step: int) -> None:
        """Write scalars."""
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, step)

    def close(self, files: Sequence[Path]) -> None:
        """End; the pictures lie beside the events."""
        self.handler.close()


class MLflow(Tracker):
    """A run of the experiment "fewmask".

    Args:
        address: Of the server, or ``sqlite:///FILE``; ``MLFLOW_TRACKING_URI`` goes before it.
        run: Its name.
        folder: What tells the run's folder from others, and does not say where it is.
        parameters: Of the training.
        goes_on: Whether the training goes on, in the run that it has begun. One that begins ends a run that an earlier
            training in this folder has left open.
    """

    name = "MLflow"
    module = "mlflow"

    def __init__(self, address: str, run: str, folder: str, parameters: Mapping[str, str], goes_on: bool) -> None:
        super().__init__()
        self.run = run
        self.folder = folder
        self.goes_on = goes_on
        # A server that is not there should cost seconds, and nobody else is to hear of this.
        for variable, value in (("MAX_RETRIES", "2"), ("TIMEOUT", "10")):
            os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{variable}", value)
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        for chatty in ("mlflow", "alembic"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        from monai.handlers import MLFlowHandler

        try:
            self.handler = MLFlowHandler(
                tracking_uri=address, experiment_name=EXPERIMENT, experiment_param=dict(parameters)
            )
        except Exception as error:
            reason = first_line(error)
            raise UserError(
                "The run cannot be logged.",
                [Problem("mlflow", "no-tracker", f"is {address}: {reason}", "give http://HOST:PORT or sqlite:///FILE")],
            ) from None

    def start(self, engine: Engine) -> None:
        """Open the run."""
        handler = self.handler  # On its own it would go on with any run of the same name that has not ended.
        handler._set_experiment()
        place = handler.experiment.experiment_id
        mine = f"tags.`{TAG}` = '{self.folder}' and attributes.status = 'RUNNING'"
        left = [*handler.client.search_runs([place], mine)]
        if self.goes_on and left:
            handler.cur_run = left[0]
        else:
            for run in left:
                handler.client.set_terminated(run.info.run_id, "KILLED")
            handler.cur_run = handler.client.create_run(place, run_name=self.run, tags={TAG: self.folder})
        # What is logged can't be changed; a training may go on with other values.
        handler._delete_exist_param_in_dict(handler.experiment_param)
        handler.start(engine)

    def tell(self, numbers: Mapping[str, float], step: int) -> None:
        """Log metrics, in one request."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(re.sub(r"[^\w./ -]", "_", name), value, now, step) for name, value in numbers.items()]
        self.handler.client.log_batch(self.handler.cur_run.info.run_id, metrics=metrics)

    def close(self, files: Sequence[Path]) -> None:
        """Log the files as artifacts, and end the run."""
        for path in files:
            self.handler.client.log_artifact(self.handler.cur_run.info.run_id, str(path))
        self.handler.client.set_terminated(self.handler.cur_run.info.run_id)


class WeightsAndBiases(Tracker):
    """A run that is written to a folder, and sent nowhere until `wandb sync`.

    Args:
        folder: Where it is written.
        run: Its name.
        parameters: Of the training.
    """

    name = "Weights & Biases"
    module = "wandb"

    def __init__(self, folder: Path, run: str, parameters: Mapping[str, str]) -> None:
        super().__init__()
        self.folder = folder
        self.run = run
        self.parameters = dict(parameters)
        self.logger: Any = None

    def start(self, engine: Engine) -> None:
        """Begin a run, without what the library finds out about the machine, its user and the program."""
        import wandb
        from ignite.handlers.wandb_logger import WandBLogger

        nobody = {"host": "", "username": "", "email": "", "program": EXPERIMENT, "x_executable": ""}
        settings = wandb.Settings(
            console="off",
            silent=True,
            disable_code=True,
            disable_git=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
            **nobody,
        )
        self.logger = WandBLogger(
            project=EXPERIMENT,
            name=self.run,
            dir=str(self.folder),
            mode="offline",
            config=self.parameters,
            settings=settings,
        )

    def tell(self, numbers: Mapping[str, float], step: int) -> None:
        """Log numbers."""
        self.logger.log(dict(numbers), step=step)

    def close(self, files: Sequence[Path]) -> None:
        """Log pictures and pages, and end the run."""
        import wandb

        kinds: dict[str, Callable[[str], Any]] = {".png": wandb.Image, ".html": wandb.Html}
        self.logger.log({path.stem: kinds[path.suffix](str(path)) for path in files if path.suffix in kinds})
        self.logger.close()
