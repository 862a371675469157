"""Export a run in a format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pipeline.errors import Problem, UserError, nearest
from pipeline.export.bundle import write_bundle
from pipeline.export.content import read_content
from pipeline.export.destination import refuse_present
from pipeline.export.model_file import write_model_file
from pipeline.export.onnx_graph import write_graphs
from pipeline.export.torch_program import write_programs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pipeline.checkpoints import Which
    from pipeline.export.content import Content

Format = Literal["model", "torch", "onnx", "bundle"]
WRITERS: dict[Format, Callable[[Path, Content], None]] = {
    "model": write_model_file,
    "torch": write_programs,
    "onnx": write_graphs,
    "bundle": write_bundle,
}


def write_export(
    run: Path, output: Path, format: Format = "model", which: Which = "last", plugins: Sequence[Path] = ()
) -> None:
    """Export what predicts.

    Args:
        run: A run's folder, that of a cross-validation, a model file, or a checkpoint.
        output: The file or folder to write; it must not be there.
        format: What to write.
        which: ``last`` or ``best``.
        plugins: As for :func:`load_model`.

    Raises:
        UserError: There is no such format, the model cannot be read or not be written in it, or something has the name.
    """
    if format not in WRITERS:
        problem = Problem("format", "no-format", f"is {format!r}", nearest(format, WRITERS))
        raise UserError("Nothing was exported.", [problem])
    refuse_present(output)
    WRITERS[format](output, read_content(run, which, plugins))
