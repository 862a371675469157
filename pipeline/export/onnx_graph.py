"""Export as ONNX, with a program that needs NumPy, nibabel and onnxruntime alone to predict with it."""

from __future__ import annotations

import io
import logging
import warnings
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pipeline.errors import Problem, UserError
from pipeline.export import runner
from pipeline.export.description import CARD, DESCRIPTION, describe
from pipeline.export.destination import new_folder
from pipeline.export.networks import cannot_export, refuse_other_output, trace, tried
from pipeline.strict_json import write_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.export.content import Content
    from pipeline.prediction.predictor import Predictor

OPSET = 20
RUNNER = "predict.py"
NEEDED = ("onnx", "onnxscript", "onnxruntime")
REQUIREMENTS = "nibabel>=5.3\nnumpy>=1.26\nonnxruntime>=1.20\n"


def write_graphs(path: Path, content: Content) -> None:
    """Write ``network-1.onnx`` and so on, what has to be known of them, a program that predicts, and the model card.

    Args:
        path: The folder; it must not be there.
        content: What is exported.

    Raises:
        UserError: It is there, a library is missing, or a network cannot be exported so.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        problems = [Problem(name, "no-library", "is not installed", "pip install 'fewmask[onnx]'") for name in missing]
        raise UserError("ONNX cannot be written.", problems)
    names = [f"network-{number}.onnx" for number in range(1, len(content.predictors) + 1)]
    told = describe(content, names)
    with new_folder(path) as folder:
        for name, predictor in zip(names, content.predictors, strict=True):
            graph = graph_of(predictor, len(content.model.task.channels), content.model.settings.network.name)
            (folder / name).write_bytes(graph)
        write_json(folder / DESCRIPTION, told)
        (folder / RUNNER).write_bytes(Path(runner.__file__).read_bytes())
        (folder / "requirements.txt").write_text(REQUIREMENTS, encoding="utf-8")
        (folder / CARD).write_text(content.card, encoding="utf-8")


def graph_of(predictor: Predictor, channels: int, name: str) -> bytes:
    """Return a network as ONNX: ``image`` ``[B, C, …]`` in, ``logits`` ``[B, K, …]`` out, B any number.

    Args:
        predictor: Whose network it is.
        channels: Of an image.
        name: Of the network, for a message.

    Raises:
        UserError: ONNX has no operators for what it does, or the graph computes something else.
    """
    program = trace(predictor, channels, name)
    buffer = io.BytesIO()
    try:
        with _silent():
            made: Any = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                input_names=["image"],
                output_names=["logits"],
                verbose=False,
            )
            made.save(buffer, external_data=False)
    except Exception as error:  # Whatever a network of a plugin makes the exporter stumble over.
        raise cannot_export(name, f"is nothing that ONNX can say: {str(error).partition(chr(10))[0]}") from error
    graph = buffer.getvalue()
    windows, expected = tried(predictor, channels)
    from onnxruntime import InferenceSession

    (found,) = InferenceSession(graph, providers=["CPUExecutionProvider"]).run(None, {"image": windows.numpy()})
    refuse_other_output(name, torch.from_numpy(found), expected)
    return graph


@contextmanager
def _silent() -> Iterator[None]:
    """Keep the exporter from telling of libraries that it would rather have, and of its own deprecations."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
