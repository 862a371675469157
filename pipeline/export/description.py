"""What has to be known to predict with an exported network, as ``model.json`` tells it beside the networks.

    {"format": 1, "version": "0.1.0",
     "labels": {"0": "background", "1": "organ"},      in the order of the network's classes
     "channels": ["MRI"],                              in the order of the image's first axis
     "postprocessing": [{"step": "keep_largest", "options": {"label": 1}}],   of the label map on the scan's grid
     "networks": [
       {"file": "network-1.onnx",
        "orientation": "RAS",                          to which the image's axes are turned
        "spacing_mm": [1.0, 1.0, 1.0],                 to which it is resampled then, linearly; 0 keeps the scan's own
        "patch_size": [64, 64, 64],                    of a window; two numbers for a network of slices
        "overlap": 0.5,
        "mirrored_axes": [0],                          the logits are the mean over all mirror images along these
        "normalization": [{"scheme": "zscore"}]}]}     of each channel, after resampling

A channel with ``zscore`` is brought to mean 0 and standard deviation 1 by its voxels inside the body: outside
are those that have, but for a millionth, the value of all eight corners, if a quarter of the voxels have it and
all others are larger or all are smaller; without such a value those that are 0. One with ``ct`` becomes
``(clip(x, low, high) - mean) / std``. With one network the label is that of the largest logit, with several
that of the largest mean probability, on the scan's own grid.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pipeline import __version__
from pipeline.errors import Problem, UserError
from pipeline.prediction.postprocessing import DropSmall, FillHoles, KeepLargest, KeepLargestForeground, name_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.data.normalization import IntensityRange
    from pipeline.export.content import Content
    from pipeline.prediction.predictor import Predictor

DESCRIPTION = "model.json"
CARD = "README.md"
FORMAT = 1
# Post-processing that is known outside of this program.
KNOWN = (FillHoles, KeepLargest, KeepLargestForeground, DropSmall)


def describe(content: Content, files: Sequence[str]) -> dict[str, Any]:
    """Return what ``model.json`` tells.

    Args:
        content: What is exported.
        files: The file of each network.

    Raises:
        UserError: Its post-processing is a plugin's, which nothing else knows.
    """
    task = content.model.task
    regions = [
        {"name": task.labels[region.label], "label": region.label, "values": list(region.values)}
        for region in task.regions
    ]
    return {
        "format": FORMAT,
        "version": __version__,
        "labels": {str(value): name for value, name in task.labels.items()},
        **({"regions": regions} if regions else {}),
        "channels": list(task.channels),
        "postprocessing": describe_steps(content),
        "networks": [
            {"file": file} | _describe_network(predictor)
            for file, predictor in zip(files, content.predictors, strict=True)
        ],
    }


def describe_steps(content: Content) -> list[dict[str, Any]]:
    """Return the post-processing, by name and options.

    Raises:
        UserError: One step is a plugin's.
    """
    steps = content.model.predictor.postprocessing
    known = [step for step in steps if isinstance(step, KNOWN)]
    if len(known) < len(steps):
        message = "is a plugin's, and is not known outside of this program"
        remedy = "choose --format model, or train without it"
        others = [name_of(step) for step in steps if not isinstance(step, KNOWN)]
        problems = [Problem(name, "bad-component", message, remedy) for name in others]
        raise UserError("The model cannot be exported in this format.", problems)
    return [{"step": name_of(step), "options": asdict(step)} for step in known]


def _describe_network(predictor: Predictor) -> dict[str, Any]:
    channels = len(predictor.ranges)
    return {
        "orientation": predictor.grid.orientation,
        "spacing_mm": list(predictor.grid.spacing_mm),
        "patch_size": list(predictor.patch_size),
        "overlap": predictor.overlap,
        "mirrored_axes": [axis for axis in predictor.mirrors if axis < len(predictor.patch_size)],
        "normalization": [_describe_range(predictor.ranges[channel]) for channel in range(channels)],
    }


def _describe_range(scale: IntensityRange | None) -> dict[str, Any]:
    if scale is None:
        return {"scheme": "zscore"}
    return {"scheme": "ct"} | asdict(scale)
