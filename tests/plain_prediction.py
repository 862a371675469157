"""The plain way to predict, as a slow reference: every class of a whole scan at once, with MONAI's own parts.

MONAI's ``sliding_window_inference`` stitches logits, and the inverses of its transforms bring them to the scan's grid
in float64.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import sliding_window_inference

from pipeline import nifti
from pipeline.data.annotation import IMAGE
from pipeline.data.transforms import Grid, scan_transforms
from pipeline.errors import Problem, UserError
from pipeline.prediction.postprocessing import PostprocessingStep, postprocess

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from pipeline.data.normalization import IntensityRange
    from pipeline.nifti.volume import Scan


@dataclass(frozen=True)
class Segmentation:
    """What a predictor answers, on the scan's own grid.

    Attributes:
        labels: Label values ``[X, Y, Z]``.
        logits: ``[K, X, Y, Z]``, in the order of the predictor's label values.
    """

    labels: NDArray[np.integer[Any]]
    logits: NDArray[np.float32]


@dataclass(frozen=True)
class PlainPredictor:
    """Segments one scan at a time, with a sliding window.

    Attributes:
        network: In evaluation mode while it predicts, whatever its mode before.
        grid: The grid that the network was trained on.
        patch_size: The window; two numbers for a network of slices.
        label_values: The dataset's value of each class, in the order of the classes.
        precision: As in training.
        overlap: Share of a window that its neighbour covers again.
        windows: Windows (in 2-D: slices) that go through the network together.
        ranges: How intensities are normalised, as for :func:`scan_transforms`.
        mirrors: Axes along which windows are mirrored too: the answer is the mean over all mirror images. In 2-D only
            axes of the slice count.
    """

    network: nn.Module
    grid: Grid
    patch_size: tuple[int, ...]
    label_values: tuple[int, ...]
    precision: torch.dtype
    overlap: float = 0.5
    windows: int = 4
    ranges: tuple[IntensityRange | None, ...] = ()
    mirrors: tuple[int, ...] = ()

    @property
    def device(self) -> torch.device:
        """Where the network lies."""
        return next(self.network.parameters()).device

    def __call__(self, images: Sequence[Path]) -> NDArray[np.integer[Any]]:
        """Return label values ``[X, Y, Z]`` on the grid of the scan's files; all else as :meth:`segment`."""
        return self.segment([nifti.load(path) for path in images]).labels

    def segment(self, scans: Sequence[Scan]) -> Segmentation:
        """Segment a scan on the grid of its files, and keep what the network was thinking.

        Args:
            scans: One file with all channels, or one a channel, as it was read.

        Raises:
            UserError: The network's output is NaN.
        """
        transforms = scan_transforms(self.grid, self.ranges)
        image = transforms({IMAGE: list(scans)})[IMAGE]
        logits = MetaTensor(
            self._logits(image.as_tensor()), affine=image.affine, applied_operations=image.applied_operations
        )
        native = transforms.inverse({IMAGE: logits})[IMAGE].as_tensor()
        if not torch.isfinite(native).all():
            message = "the network's answer is not finite"
            remedy = "use an older checkpoint, or train with precision=float32"
            raise UserError(
                "Prediction stopped.",
                [Problem(str(scans[0].path), "nan-logits", message, remedy)],
            )
        # The header of the file, not the inverse's own affine, says where these voxels lie; so only the shape counts.
        return Segmentation(_named(native.argmax(0), self.label_values), native.numpy())

    @torch.no_grad()
    def _logits(self, image: Tensor) -> Tensor:
        """Return logits ``[K, X, Y, Z]`` of an image ``[C, X, Y, Z]``."""
        device, training = self.device, self.network.training
        self.network.eval()
        try:
            with torch.autocast(device.type, self.precision, enabled=self.precision != torch.float32):
                if len(self.patch_size) == 3:
                    return self._slide(image[None].to(device))[0].float().cpu()
                slices = image.permute(3, 0, 1, 2).to(device)
                parts = [slices[n : n + self.windows] for n in range(0, len(slices), self.windows)]
                return torch.cat([self._slide(part).float().cpu() for part in parts]).permute(1, 2, 3, 0)
        finally:
            self.network.train(training)

    def _slide(self, batch: Tensor) -> Tensor:
        """Put windows together on the device or, where it has no memory for a whole scan, in the machine's memory."""
        with suppress(torch.OutOfMemoryError):
            return self._put_together(batch, self.device)
        return self._put_together(batch, torch.device("cpu"))

    def _put_together(self, batch: Tensor, place: torch.device) -> Tensor:
        answer: Any = sliding_window_inference(
            batch,
            self.patch_size,
            self.windows,
            self._answer,
            overlap=self.overlap,
            mode="gaussian",
            sw_device=self.device,
            device=place,
        )
        return answer  # type: ignore[no-any-return]

    def _answer(self, windows: Tensor) -> Tensor:
        """Return the mean of the logits of windows ``[B, C, ...]`` over their mirror images."""
        axes = [axis + 2 for axis in self.mirrors if axis < len(self.patch_size)]
        answers = [self.network(windows)]
        for count in range(1, len(axes) + 1):
            answers += [self.network(windows.flip(image)).flip(image) for image in combinations(axes, count)]
        return answers[0] if len(answers) == 1 else torch.stack(answers).mean(dim=0)


@dataclass(frozen=True)
class PlainEnsemble:
    """Answers with the mean of the probabilities of several predictors, and post-processes the label map.

    They may work on different grids: they are averaged on that of the scan.

    Attributes:
        predictors: One or more, with the same labels.
        steps: What is done to the label map, in this order; the probabilities stay.
    """

    predictors: tuple[PlainPredictor, ...]
    steps: tuple[PostprocessingStep, ...] = ()

    @property
    def label_values(self) -> tuple[int, ...]:
        """The dataset's value of each class, in the order of the classes."""
        return self.predictors[0].label_values

    @property
    def device(self) -> torch.device:
        """Where the networks lie."""
        return self.predictors[0].device

    def segment(self, scans: Sequence[Scan]) -> Segmentation:
        """Segment a scan on the grid of its files.

        Args:
            scans: One file with all channels, or one a channel, as it was read.

        Returns:
            The label map, and as logits the logarithm of the mean of all ``softmax(logits)``.

        Raises:
            UserError: As :meth:`PlainPredictor.segment`.
        """
        total = sum(torch.from_numpy(each.segment(scans).logits).softmax(0) for each in self.predictors)
        mean = torch.as_tensor(total) / len(self.predictors)
        labels = _named(mean.argmax(0), self.label_values)
        labels = postprocess(labels, scans[0].spacing_mm, self.steps)
        # A probability of 0 is no longer told from one that float32 cannot hold.
        return Segmentation(labels, mean.clamp(min=torch.finfo(mean.dtype).tiny).log().numpy())


def plain(predictor):
    """Return the plain way of a predictor, or of an ensemble of them."""
    if hasattr(predictor, "predictors"):
        return PlainEnsemble(tuple(map(plain, predictor.predictors)), predictor.postprocessing)
    return PlainPredictor(
        predictor.network,
        predictor.grid,
        predictor.patch_size,
        predictor.label_values,
        predictor.precision,
        predictor.overlap,
        predictor.windows,
        predictor.ranges,
        predictor.mirrors,
    )


def _named(classes: Tensor, values: tuple[int, ...]) -> NDArray[np.integer[Any]]:
    """Return the dataset's values of classes, in the smallest type that holds them all."""
    named: NDArray[np.integer[Any]] = np.array(values, np.min_scalar_type(max(values)))[classes.numpy()]
    return named
