"""MONAI dictionary transforms from a scan, as it was read, to the network's grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.config import KeysCollection  # noqa: TC002 - MONAI resolves annotations of transforms
from monai.data import MetaTensor
from monai.transforms import Compose, MapTransform, Orientationd, Spacingd, SpatialCrop, Transform

from pipeline import nifti
from pipeline.data.annotation import ANNOTATION, IMAGE, Annotated
from pipeline.data.body import body_box, grown
from pipeline.data.normalization import IntensityRange, Normalized

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence


# Where the box of the body is, on the way of a case.
BODY = "body"


@dataclass(frozen=True)
class Grid:
    """The common grid that scans are brought to.

    Attributes:
        orientation: Axis codes such as ``RAS``.
        spacing_mm: Target voxel size, one number an axis; 0 keeps a scan's own.
    """

    orientation: str
    spacing_mm: tuple[float, float, float]


class ScansToTensors(MapTransform):
    """Turn scans that were read into MONAI's tensors: channels first, slices as volumes.

    MONAI's own ``LoadImage`` would read the files, and where one is refused it tries other readers until one takes it.

    Args:
        keys: Where a scan is, or one scan a channel.
    """

    def __init__(self, keys: KeysCollection) -> None:
        super().__init__(keys, allow_missing_keys=True)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Apply to a case; the tensors have the metadata that MONAI's spatial transforms read.

        The affine is the first file's, turned to the nearest axes of the body: a scan is resampled along its own axes,
        also where it lies obliquely or its axes are sheared.
        """
        result = dict(data)
        for key in self.key_iterator(result):
            scans = [result[key]] if isinstance(result[key], nifti.Scan) else result[key]
            affine = torch.tensor(scans[0].header.forms.aligned_affine)
            meta = {"original_affine": affine.clone(), "space": "RAS", "spatial_shape": np.array(scans[0].shape)}
            voxels = np.concatenate([scan.voxels for scan in scans]).astype(np.float32, order="C", copy=False)
            result[key] = MetaTensor(torch.from_numpy(voxels), affine, meta | {"original_channel_dim": 0})
        return result


class OnImageGrid(Transform):
    """Give a mask the affine of its image: the check has found their grids equal, but for rounding."""

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        """Return the case with its mask, where there is one, on the grid of its image."""
        if ANNOTATION in data:
            data[ANNOTATION].affine = data[IMAGE].affine
        return data


class FoundBody(Transform):
    """Add the box of the body to a case with its scan and, where there is one, its mask, ``[C, X, Y, Z]``.

    Args:
        least: As many voxels along each axis are in it, where the scan has them.
        ignore: The label of voxels that nobody has annotated.
    """

    def __init__(self, least: Sequence[int], ignore: int | None = None) -> None:
        self.least = tuple(least)
        self.ignore = ignore

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the case with its box as ``body``."""
        image = data[IMAGE].numpy()
        mask = data[ANNOTATION][0].round().numpy() if ANNOTATION in data else None
        return {**data, BODY: grown(body_box(image, mask, self.ignore), image.shape[1:], self.least)}


class CroppedToBody(MapTransform):
    """Crop a case to the box that was found. What is normalised comes before: it looks at the scan as predictions do.

    Args:
        keys: What is cropped.
    """

    def __init__(self, keys: KeysCollection) -> None:
        super().__init__(keys, allow_missing_keys=True)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the case, cropped, without the box."""
        result = dict(data)
        crop = SpatialCrop(roi_slices=result.pop(BODY))
        for key in self.key_iterator(result):
            result[key] = crop(result[key])
        return result


def scan_transforms(grid: Grid, ranges: Sequence[IntensityRange | None] = ()) -> Compose:
    """Return the invertible way from the scans of a case to the network's grid: orient, resample, normalise."""
    return Compose([ScansToTensors(IMAGE), *_resample((IMAGE,), ("bilinear",), grid), Normalized(IMAGE, ranges)])


def case_transforms(
    grid: Grid,
    label_values: Sequence[int],
    ranges: Sequence[IntensityRange | None] = (),
    ignore: int | None = None,
    crop: Sequence[int] | None = None,
) -> Compose:
    """Return the way from a case's scans and mask to a normalised image and an annotation on the network's grid.

    With ``crop`` both are cropped to the body, of which as many voxels along each axis are left.
    """
    keys = (IMAGE, ANNOTATION)
    return Compose(
        [
            ScansToTensors(keys),
            OnImageGrid(),
            *_resample(keys, ("bilinear", "nearest"), grid),
            *([] if crop is None else [FoundBody(crop, ignore)]),
            Normalized(IMAGE, ranges),
            *([] if crop is None else [CroppedToBody(keys)]),
            Annotated(ANNOTATION, label_values, ignore),
        ]
    )


def _resample(keys: tuple[str, ...], modes: tuple[str, ...], grid: Grid) -> list[Any]:
    return [
        Orientationd(keys, axcodes=grid.orientation, labels=None, allow_missing_keys=True),
        Spacingd(keys, pixdim=grid.spacing_mm, mode=modes, padding_mode="border", allow_missing_keys=True),
    ]
