"""Take up a run where it was left: restore its newest checkpoint, or begin it, and write what it consists of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from pipeline.distributed import from_first, is_first
from pipeline.errors import Problem, UserError, first_line
from pipeline.memory import is_out_of_memory
from pipeline.runs.checkpoint_facts import task_state
from pipeline.runs.origins import begin_with_model
from pipeline.runs.resuming import refuse_changes, refuse_other_scans
from pipeline.runs.stored import read_about, read_decisions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipeline.checkpoints import Checkpoint
    from pipeline.engines.steps import TrainingStep
    from pipeline.runs.setup import Setup
    from pipeline.types import Task

# The state of each parameter in PyTorch's optimizers. Optimizers of plugins are not restricted.
MOMENTS: dict[type, tuple[str, ...]] = {
    torch.optim.AdamW: ("step", "exp_avg", "exp_avg_sq"),
    torch.optim.SGD: ("momentum_buffer",),
}


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        done: The number of steps done.
        best: The best mean Dice of a validation; None before the first.
        saved: The step of the newest checkpoint ``last``; 0 before the first, or where it has other settings.
    """

    done: int = 0
    best: float | None = None
    saved: int = 0


def take_up(setup: Setup, start: Checkpoint | None, allow_change: Sequence[str] = ()) -> Progress:
    """Begin a run in its folder, or resume the one that the folder holds, and write its recipe and facts.

    Args:
        setup: The parts of the training; its step is restored from the newest checkpoint.
        start: The checkpoint that a run without one starts from; None starts with new weights.
        allow_change: As for :func:`refuse_changes`.

    Returns:
        How far the run is.

    Raises:
        UserError: The folder holds another run, or the checkpoint does not fit.
    """
    folder = setup.folder
    found, is_own = from_first(lambda: _newest(setup, start, allow_change))
    progress = Progress()
    if found:
        restore(setup.step, found, setup.task, is_own=is_own)
        progress.done = found.state["step"]
        if is_own:  # A checkpoint of another run is neither the last nor the best of this one.
            progress.best = found.state["best"]
            if found.path.name.startswith("last-") and not allow_change:
                progress.saved = progress.done
    elif setup.settings.start is not None:
        begin_with_model(setup)
    if is_first():
        folder.write_facts(setup.split.as_dict(), setup.index.as_rows(), setup.settings.plugins)
        folder.write_config(setup.settings, setup.decided)  # Last, since a folder with a config.yaml is a run.
    return progress


def _newest(setup: Setup, start: Checkpoint | None, allow_change: Sequence[str]) -> tuple[Checkpoint | None, bool]:
    """Return the checkpoint to go on from, and whether it is the run's own; refuse another run's recipe or scans."""
    folder = setup.folder
    if folder.holds_run:
        setup.decided = setup.decided.begun_with(read_decisions(folder.path).taken)
        refuse_changes(folder.path, setup.settings, setup.decided, allow_change, setup.index.facts)
        refuse_other_scans(folder.path, setup.index, setup.split)
    checkpoint = folder.newest_checkpoint()
    return checkpoint or start, checkpoint is not None


def restore(step: TrainingStep, checkpoint: Checkpoint, task: Task, *, is_own: bool = True) -> None:
    """Restore a training step from a checkpoint.

    Args:
        step: The step.
        checkpoint: The checkpoint.
        task: What the run is to learn.
        is_own: Whether it is the run's own, and not one of another run that this one goes on from.

    Raises:
        UserError: The checkpoint is of another task, or what it holds does not fit the network and its optimizer.
    """
    where = str(checkpoint.path)
    begin = f"give a recipe, and start={where}, which begins with its weights"
    if task_state(read_about(checkpoint).task.as_task()) != task_state(task):
        message = "was trained on other labels or channels"
        remedy = "bring the dataset back as it was" if is_own else begin
        raise UserError("Nothing was resumed.", [Problem(where, "task-changed", message, remedy)])
    broken = next(_not_finite(checkpoint.state), None)
    if broken:
        remedy = "use another checkpoint"
        if is_own:
            remedy = "delete it: the run goes on from the checkpoint before it, or from the start"
        message = f"{broken} has values that are not finite"
        raise UserError("Nothing was resumed.", [Problem(where, "weights-not-finite", message, remedy)])
    try:
        _refuse_other_moments(step.optimizer, checkpoint.state["optimizer"])
        step.load_state_dict(checkpoint.state)
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
        if is_out_of_memory(error):
            raise
        message = f"does not fit the recipe's network or optimizer: {first_line(error)}"
        remedy = "give the run's own network and optimizer, or start a new run" if is_own else begin
        raise UserError("Nothing was resumed.", [Problem(where, "other-network", message, remedy)]) from None


def _not_finite(held: object, name: str = "") -> Iterator[str]:
    """Yield the names of tensors with values that are not finite: no training writes one."""
    if isinstance(held, torch.Tensor) and not held.isfinite().all():
        yield name
    if isinstance(held, dict):
        for key, value in held.items():
            yield from _not_finite(value, f"{name}.{key}".removeprefix("."))


def _refuse_other_moments(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Refuse a state of the optimizer with moments of other names or shapes, which PyTorch would accept.

    Raises:
        ValueError: A moment is missing, or has another shape than its parameter, or the learning rate is no number.
    """
    for group in saved["param_groups"]:
        if not isinstance(group["lr"], float):
            raise ValueError(f"the learning rate is {group['lr']!r}")
    names = MOMENTS.get(type(optimizer))
    if names is None:
        return
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, moments in saved["state"].items():
        if moments and set(moments) != set(names):
            raise ValueError(f"of parameter {number} it holds {', '.join(map(str, moments))}, not {', '.join(names)}")
        for name, value in moments.items():
            expected = torch.Size() if name == "step" else parameters[number].shape
            fits = isinstance(value, torch.Tensor) and value.shape == expected
            if not fits or value.untyped_storage().nbytes() < value.nbytes:
                raise ValueError(f"{name} of parameter {number} is not of the shape {tuple(expected)}")
