"""Write a model file: the weights that predict, and what has to be known to predict with them."""

from __future__ import annotations

import io
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from pipeline import config
from pipeline.archives import read_archive
from pipeline.decisions import Decisions
from pipeline.export.destination import refuse_present
from pipeline.files import atomic_write
from pipeline.prediction.postprocessing import name_of
from pipeline.runs.checkpoint_facts import portable, task_state
from pipeline.runs.model_files import state_of
from pipeline.runs.stored import read_about, read_written_of
from pipeline.sections import LayoutChoice

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from pipeline.checkpoints import Checkpoint
    from pipeline.export.content import Content


def write_model_file(path: Path, content: Content) -> None:
    """Write a model file, which is read as a checkpoint is before it gets its name.

    Args:
        path: The file; it must not be there.
        content: What is written.

    Raises:
        UserError: It is there, or is too large for a model file.
        WriteError: The disk is full or fails.
    """
    refuse_present(path)
    steps = [{"step": name_of(step), "options": asdict(step)} for step in content.chosen]
    members = [_member(checkpoint) for checkpoint in content.members]
    buffer = io.BytesIO()  # Whole in memory first: a path's name would be written into the archive.
    torch.save(state_of(members, steps, content.card), buffer)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, buffer.getbuffer().nbytes) as temporary:
        temporary.write_bytes(buffer.getbuffer())
        read_archive(temporary)


def _member(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what is kept of a checkpoint: no optimizer, no data's place or layout, and the weights that predict."""
    about = read_about(checkpoint)
    recipe, decided = read_written_of(checkpoint)
    recipe = portable(recipe).model_copy(update={"layout": LayoutChoice()})
    weights = checkpoint.state.get("average", checkpoint.state.get("network"))
    return {
        "step": about.step,
        "best": None,
        "recipe": config.dump(recipe, decided=Decisions(corrections=decided.corrections)),
        "task": task_state(about.task.as_task()),
        "version": about.version,
        "network": _copied(weights if isinstance(weights, dict) else {}),
    }


def _copied(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return copies, since a tensor may be a view of more; those that are one stay one."""
    copies: dict[object, Tensor] = {}
    copied = {}
    for name, value in weights.items():
        same = (value.data_ptr(), value.dtype, value.shape, value.stride())
        if same not in copies:
            copies[same] = value.clone()
        copied[name] = copies[same]
    return copied
