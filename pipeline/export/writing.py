"""Export a run in a format."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.errors import Problem, UserError, nearest
from pipeline.export.bundle import write_bundle
from pipeline.export.card import FILL_IN, read_card, write_card
from pipeline.export.content import read_content
from pipeline.export.destination import refuse_present
from pipeline.export.model_file import write_model_file
from pipeline.export.onnx_graph import write_graphs
from pipeline.export.torch_program import write_programs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pipeline.export.content import Content
    from pipeline.types import Format, Which

WRITERS: dict[Format, Callable[[Path, Content], None]] = {
    "model": write_model_file,
    "torch": write_programs,
    "onnx": write_graphs,
    "bundle": write_bundle,
    "card": lambda path, content: write_card(path, content.card),
}


def write_export(
    run: Path,
    output: Path,
    format: Format = "model",
    which: Which = "last",
    plugins: Sequence[Path] = (),
    *,
    card: Path | None = None,
) -> int:
    """Export what predicts; return how many fields of the model card are left to be filled in.

    Args:
        run: A run's folder, that of a cross-validation, a model file, or a checkpoint.
        output: The file or folder to write; it must not be there.
        format: What to write.
        which: ``last`` or ``best``.
        plugins: As for :func:`load_model`.
        card: The model card that is passed on, filled in; by default it is written anew, or is that of the model file.

    Raises:
        UserError: There is no such format, the model or the card cannot be read, the model cannot be written in that
            format, or something has the name.
    """
    if format not in WRITERS:
        problem = Problem("format", "no-format", f"is {format!r}", nearest(format, WRITERS))
        raise UserError("Nothing was exported.", [problem])
    refuse_present(output)
    filled = None if card is None else read_card(card)
    content = read_content(run, which, plugins)
    if filled is not None:
        content = replace(content, card=filled)
    WRITERS[format](output, content)
    return content.card.count(FILL_IN)
