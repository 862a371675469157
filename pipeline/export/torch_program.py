"""Export as ``torch.export`` programs, which PyTorch alone opens and runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.export.description import CARD, DESCRIPTION, describe
from pipeline.export.destination import new_folder
from pipeline.export.networks import as_bytes, trace
from pipeline.strict_json import write_json

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.export.content import Content


def write_programs(path: Path, content: Content) -> None:
    """Write ``network-1.pt2`` and so on, what has to be known of them, and the model card.

    Args:
        path: The folder; it must not be there.
        content: What is exported.

    Raises:
        UserError: It is there, or a network cannot be exported so.
    """
    names = [f"network-{number}.pt2" for number in range(1, len(content.predictors) + 1)]
    told = describe(content, names)
    with new_folder(path) as folder:
        for name, predictor in zip(names, content.predictors, strict=True):
            program = trace(predictor, len(content.model.task.channels), content.model.settings.network.name)
            (folder / name).write_bytes(as_bytes(program))
        write_json(folder / DESCRIPTION, told)
        (folder / CARD).write_text(content.card, encoding="utf-8")
