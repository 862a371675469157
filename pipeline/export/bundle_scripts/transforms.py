"""How intensities are normalised before a network, and what becomes of its logits."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Spacingd

# Under this name an image keeps the affine of its file.
OWN_AFFINE = "own_affine"


class Aligned(MapTransform):
    """Turn the affine of a scan to the nearest axes of the body: it is resampled along its own axes.

    Args:
        keys: Of images, as they were read.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a case with its images' affines turned, and kept beside."""
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            image.meta[OWN_AFFINE] = image.affine.clone()
            image.affine = torch.from_numpy(aligned(image.affine.numpy()))
        return result


class Spaced(Spacingd):
    """MONAI's own, which takes all entries whose names begin with an image's for its headers, without these.

    MONAI Label has a path there.
    """

    def __call__(self, data: Mapping[Hashable, Any], lazy: bool | None = None) -> dict[Hashable, Any]:
        """Return a case with its images resampled."""
        images = {key: data[key] for key in self.key_iterator(dict(data))}
        resampled: dict[Hashable, Any] = super().__call__(images, lazy)
        return dict(data) | resampled


def aligned(affine: Any) -> Any:
    """Return an affine along the axes of the body, its first voxel at the origin, with voxels of the same size."""
    size = np.linalg.norm(affine[:3, :3], axis=0)
    cosines = np.round(affine[:3, :3] / size, 3)
    left = [0, 1, 2]
    found = np.zeros((4, 4))
    found[3, 3] = 1
    for column in range(3):
        axis = max(left, key=lambda axis: abs(cosines[axis, column]))
        left.remove(axis)
        sign = -1 if cosines[axis, column] < 0 else 1
        found[axis, column] = sign * float(f"{size[column]:.6g}")
    return found


class Normalized(MapTransform):
    """Normalise each channel of an image ``[C, X, Y, Z]``.

    Args:
        keys: Of images.
        normalization: For each channel ``{"scheme": "zscore"}``: mean 0 and standard deviation 1 by its voxels
            inside the body; or ``{"scheme": "ct", "low": …, "high": …, "mean": …, "std": …}``.
    """

    def __init__(self, keys: KeysCollection, normalization: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(keys)
        self.normalization = tuple(normalization)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a case with its images normalised."""
        result = dict(data)
        for key in self.key_iterator(result):
            for channel, way in zip(result[key], self.normalization, strict=True):
                seen = import_module("scripts.arrays").normalized(np.asarray(channel), way)
                channel.copy_(torch.from_numpy(seen))
        return result


class Decided(MapTransform):
    """Turn the logits ``[M K, X, Y, Z]`` of M networks, on the scan's own grid, into a label map ``[1, X, Y, Z]``.

    Args:
        keys: Of logits.
        image_key: Of the image that they were made of.
        label_values: Of the K classes, in their order.
        painted: Where the K channels are regions, the label of each: a voxel has that of the last one that it is in.
        networks: M. Of several, the mean of the probabilities decides.
        postprocessing: Steps and their options, one after the other.
    """

    def __init__(
        self,
        keys: KeysCollection,
        image_key: Hashable,
        label_values: Sequence[int],
        painted: Sequence[int] = (),
        networks: int = 1,
        postprocessing: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__(keys)
        self.image_key = image_key
        self.label_values = tuple(label_values)
        self.painted = tuple(painted)
        self.networks = networks
        self.postprocessing = tuple(postprocessing)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a case with label maps in the place of logits."""
        result = dict(data)
        for key in self.key_iterator(result):
            logits = result[key]
            voxel_ml = float(np.prod(np.linalg.norm(np.asarray(logits.affine)[:3, :3], axis=0))) / 1000
            each = torch.as_tensor(np.asarray(logits.cpu())).reshape(self.networks, -1, *logits.shape[1:])
            labels = self._painted(each) if self.painted else self._likeliest(each)
            for step in self.postprocessing:
                import_module("scripts.arrays").change(labels, step["step"], step["options"], voxel_ml)
            decided_map = type(logits)(torch.from_numpy(labels.astype(np.int32))[None], meta=logits.meta)
            decided_map.affine = torch.as_tensor(result[self.image_key].meta[OWN_AFFINE]).reshape(4, 4)
            result[key] = decided_map
        return result

    def _likeliest(self, each: torch.Tensor) -> Any:
        """Return the label of the largest logit, or of several networks the largest mean probability."""
        decided = each[0] if self.networks == 1 else each.softmax(dim=1).mean(dim=0)
        names = np.array(self.label_values, np.min_scalar_type(max(self.label_values)))
        return names[decided.argmax(dim=0).numpy()]

    def _painted(self, each: torch.Tensor) -> Any:
        """Return the label of the last region whose probability, or mean probability, is a half or more; else 0."""
        inside = each[0] >= 0 if self.networks == 1 else each.sigmoid().mean(dim=0) >= 0.5
        labels = np.zeros(inside.shape[1:], np.min_scalar_type(max(self.label_values)))
        for mask, label in zip(inside.numpy(), self.painted, strict=True):
            labels[mask] = label
        return labels
