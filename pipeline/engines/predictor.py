"""From a scan's files to a label map on the scan's own grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import sliding_window_inference

from pipeline.data.annotation import IMAGE
from pipeline.data.transforms import Grid, scan_transforms
from pipeline.errors import Problem, UserError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from pipeline.data.normalization import IntensityRange


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
class Predictor:
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
    """

    network: nn.Module
    grid: Grid
    patch_size: tuple[int, ...]
    label_values: tuple[int, ...]
    precision: torch.dtype
    overlap: float = 0.5
    windows: int = 4
    ranges: tuple[IntensityRange | None, ...] = ()

    def __call__(self, images: Sequence[Path]) -> NDArray[np.integer[Any]]:
        """Return label values ``[X, Y, Z]`` on the grid of the scan's files; all else as :meth:`segment`."""
        return self.segment(images).labels

    def segment(self, images: Sequence[Path]) -> Segmentation:
        """Segment a scan on the grid of its files, and keep what the network was thinking.

        Args:
            images: One file with all channels, or one a channel.

        Raises:
            UserError: A file cannot be read, or the network answers with NaN.
        """
        transforms = scan_transforms(self.grid, self.ranges)
        image = transforms({IMAGE: [str(path) for path in images]})[IMAGE]
        logits = MetaTensor(
            self._logits(image.as_tensor()), affine=image.affine, applied_operations=image.applied_operations
        )
        native = transforms.inverse({IMAGE: logits})[IMAGE].as_tensor()
        if not torch.isfinite(native).all():
            message = "the network's answer is not finite"
            raise UserError(
                "Prediction stopped.",
                [Problem(str(images[0]), "nan-logits", message, "use precision=float32")],
            )
        # The header of the file, not the inverse's own affine, says where these voxels lie; so only the shape counts.
        values = np.array(self.label_values, np.min_scalar_type(max(self.label_values)))
        return Segmentation(values[native.argmax(0).numpy()], native.numpy())

    @torch.no_grad()
    def _logits(self, image: Tensor) -> Tensor:
        """Return logits ``[K, X, Y, Z]`` of an image ``[C, X, Y, Z]``."""
        device = next(self.network.parameters()).device
        training = self.network.training
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
        answer: Any = sliding_window_inference(
            batch, self.patch_size, self.windows, self.network, overlap=self.overlap, mode="gaussian"
        )
        return answer  # type: ignore[no-any-return]
