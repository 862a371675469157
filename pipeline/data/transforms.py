"""MONAI dictionary transforms from a scan's files to the network's grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from monai.data import ImageReader
from monai.transforms import Compose, LoadImaged, Orientationd, Spacingd, Transform

from pipeline.data import nifti
from pipeline.data.annotation import ANNOTATION, IMAGE, Annotated
from pipeline.data.normalization import IntensityRange, Normalized

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.types import Case


@dataclass(frozen=True)
class Grid:
    """The common grid that scans are brought to.

    Attributes:
        orientation: Axis codes such as ``RAS``.
        spacing_mm: Target voxel size, one number an axis; 0 keeps a scan's own.
    """

    orientation: str
    spacing_mm: tuple[float, float, float]


class NiftiReader(ImageReader):
    """MONAI image reader over :func:`pipeline.data.nifti.load`: verified bytes, channels first, slices as volumes."""

    def verify_suffix(self, filename: Sequence[Path | str] | Path | str) -> bool:
        """Tell whether every name ends in .nii or .nii.gz."""
        names = [filename] if isinstance(filename, str) or not hasattr(filename, "__iter__") else filename
        return all(str(name).lower().endswith(nifti.SUFFIXES) for name in names)

    def read(self, data: Sequence[Path | str] | Path | str, **_: Any) -> list[nifti.Scan]:
        """Read one file, or one file a channel."""
        from pathlib import Path

        return [nifti.load(Path(name)) for name in ([data] if isinstance(data, (str, Path)) else data)]

    def get_data(self, img: list[nifti.Scan]) -> tuple[NDArray[Any], dict[str, Any]]:
        """Return voxels ``[C, X, Y, Z]`` and the metadata that MONAI's spatial transforms read.

        The affine is the first file's, turned to the nearest axes of the body: a scan is resampled along its own axes,
        also where it lies obliquely or its axes are sheared.
        """
        first = img[0]
        voxels = np.concatenate([scan.voxels for scan in img]).astype(np.float32)
        affine = first.header.forms.aligned_affine
        meta = {"affine": affine, "original_affine": affine.copy(), "space": "RAS"}
        return voxels, meta | {"spatial_shape": np.array(first.shape), "original_channel_dim": 0}


class OnImageGrid(Transform):
    """Give a mask its image's affine: the check has seen that they are one grid, and rounding must not part them."""

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        """Return the case with its mask, where there is one, on the grid of its image."""
        if ANNOTATION in data:
            data[ANNOTATION].affine = data[IMAGE].affine
        return data


def scan_transforms(grid: Grid, ranges: Sequence[IntensityRange | None] = ()) -> Compose:
    """Return the invertible way from a scan's files to the network's grid: load, orient, resample, normalise."""
    return Compose([_load(IMAGE), *_resample((IMAGE,), ("bilinear",), grid), Normalized(IMAGE, ranges)])


def case_transforms(
    grid: Grid,
    label_values: Sequence[int],
    ranges: Sequence[IntensityRange | None] = (),
    ignore: int | None = None,
) -> Compose:
    """Return the way from a case's files to a normalised image and an annotation on the network's grid."""
    keys = (IMAGE, ANNOTATION)
    return Compose(
        [
            _load(*keys),
            OnImageGrid(),
            *_resample(keys, ("bilinear", "nearest"), grid),
            Normalized(IMAGE, ranges),
            Annotated(ANNOTATION, label_values, ignore),
        ]
    )


def _load(*keys: str) -> LoadImaged:
    return LoadImaged(keys, reader=NiftiReader(), image_only=True, allow_missing_keys=True)


def _resample(keys: tuple[str, ...], modes: tuple[str, ...], grid: Grid) -> list[Any]:
    return [
        Orientationd(keys, axcodes=grid.orientation, labels=None, allow_missing_keys=True),
        Spacingd(keys, pixdim=grid.spacing_mm, mode=modes, padding_mode="border", allow_missing_keys=True),
    ]


def case_files(case: Case) -> dict[str, Any]:
    """Return the input of :func:`case_transforms` for a case."""
    files: dict[str, Any] = {IMAGE: [str(path) for path in case.images]}
    return files | ({ANNOTATION: str(case.label)} if case.label else {})
