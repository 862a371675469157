"""The command ``export``."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - tyro reads the annotation
from typing import Annotated, Literal

import tyro

from pipeline.arguments import Checkpoint, Plugins, TrainedModel, command, destination
from pipeline.terminal import say

FORMATS = (
    "model: one file that predict takes in place of a run; torch: a folder with programs of torch.export; onnx: one "
    "with ONNX graphs and a script that predicts with NumPy, nibabel and onnxruntime alone; bundle: a MONAI bundle."
)


@command
def export(
    run: TrainedModel,
    *,
    format: Annotated[Literal["model", "torch", "onnx", "bundle"], tyro.conf.arg(help=FORMATS)] = "model",
    output: Annotated[Path, destination("What to write, which must not be there: FILE.fewmask, or a folder.", "PATH")],
    checkpoint: Checkpoint = "last",
    plugins: Plugins = (),
) -> None:
    """Write a trained model as something to pass on, with a model card and nothing of patients in it.

    Example: fewmask export runs/hippocampus --format model --output hippocampus.fewmask
    """
    from pipeline.export.writing import write_export

    write_export(run, output, format, checkpoint, plugins)
    say(f"Wrote {output}. Fill in what its model card leaves open before you pass it on.")
