"""MONAI dictionary transforms from files to training samples.

A mask travels as an *annotation*, one small integer a voxel that says all there is to say about it:
0 outside the scan, 1 inside but not annotated, ``2 + k`` class ``k``. So the zeros that padding and rotation bring in
mean "outside", and a scan without a mask is an annotation of ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.config import KeysCollection  # noqa: TC002 - MONAI resolves annotations of transforms
from monai.data import ImageReader
from monai.transforms import (
    Compose,
    LoadImaged,
    MapTransform,
    Orientationd,
    RandAdjustContrastd,
    RandAffined,
    RandFlipd,
    RandGaussianNoised,
    Randomizable,
    RandScaleIntensityd,
    Spacingd,
)

from pipeline.data import nifti
from pipeline.data.normalization import IntensityRange, Normalized

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.types import Case

IMAGE, ANNOTATION = "image", "annotation"
OUTSIDE, UNANNOTATED, FIRST_CLASS = 0, 1, 2
# Share of labelled samples that are centred on a class drawn at random; the others lie anywhere.
FOREGROUND_SHARE = 2 / 3


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
        """Return voxels ``[C, X, Y, Z]`` and the metadata that MONAI's spatial transforms read."""
        first = img[0]
        voxels = np.concatenate([scan.voxels for scan in img]).astype(np.float32)
        meta = {"affine": first.affine, "original_affine": first.affine.copy(), "space": "RAS"}
        return voxels, meta | {"spatial_shape": np.array(first.shape), "original_channel_dim": 0}


class Annotated(MapTransform):
    """Turn label values into an annotation, or make one of "not annotated" for a scan without a mask.

    Args:
        keys: Where the label map is, or will be.
        values: The dataset's label values, in the order of the classes.
        ignore: The label value of voxels that nobody has annotated.
    """

    def __init__(self, keys: KeysCollection, values: Sequence[int], ignore: int | None = None) -> None:
        super().__init__(keys, allow_missing_keys=True)
        codes = {value: FIRST_CLASS + k for k, value in enumerate(values)}
        codes |= {ignore: UNANNOTATED} if ignore is not None else {}
        self.values = torch.tensor(sorted(codes))
        self.codes = torch.tensor([codes[value] for value in sorted(codes)])

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Apply to a case or sample; other keys stay."""
        result = dict(data)
        for key in self.keys:
            if key in result:
                place = torch.searchsorted(self.values, result[key].as_tensor().round().long())
                result[key] = self.codes[place].to(torch.uint8)
            else:
                result[key] = torch.full_like(result[IMAGE][:1].as_tensor(), UNANNOTATED, dtype=torch.uint8)
        return result


def scan_transforms(grid: Grid, ranges: Sequence[IntensityRange | None] = ()) -> Compose:
    """Return the invertible way from a scan's files to the network's grid: load, orient, resample, normalise."""
    return Compose([*_spatial((IMAGE,), ("bilinear",), grid), Normalized(IMAGE, ranges)])


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
            *_spatial(keys, ("bilinear", "nearest"), grid),
            Normalized(IMAGE, ranges),
            Annotated(ANNOTATION, label_values, ignore),
        ]
    )


def _spatial(keys: tuple[str, ...], modes: tuple[str, ...], grid: Grid) -> list[Any]:
    return [
        LoadImaged(keys, reader=NiftiReader(), image_only=True, allow_missing_keys=True),
        Orientationd(keys, axcodes=grid.orientation, labels=None, allow_missing_keys=True),
        Spacingd(
            keys,
            pixdim=grid.spacing_mm,
            mode=modes,
            padding_mode="border",
            allow_missing_keys=True,
        ),
    ]


def case_files(case: Case) -> dict[str, Any]:
    """Return the input of :func:`case_transforms` for a case."""
    files: dict[str, Any] = {IMAGE: [str(path) for path in case.images]}
    return files | ({ANNOTATION: str(case.label)} if case.label else {})


class RandomPatchd(Randomizable, MapTransform):
    """Cut a patch at random, by label where there are labels, and pad what lies outside the scan with zeros.

    Two thirds of labelled patches are centred on a voxel of a class that is drawn evenly from those present,
    background included; all others lie anywhere. Only the patch is read, so memory-mapped arrays stay on disk.

    Args:
        keys: Arrays ``[C, X, Y, Z]``.
        patch_size: Voxels along each axis.
        locations_key: Where :func:`class_locations` of the case lie.
    """

    def __init__(self, keys: KeysCollection, patch_size: tuple[int, int, int], locations_key: str) -> None:
        MapTransform.__init__(self, keys)
        self.patch_size = np.array(patch_size)
        self.locations_key = locations_key

    def randomize(self, shape: NDArray[Any], locations: NDArray[Any]) -> NDArray[Any]:
        """Draw the patch's first corner, inside the scan where it fits and centred where it does not."""
        spare = shape - self.patch_size
        corner = self.R.randint(0, np.maximum(spare, 0) + 1)
        present = np.flatnonzero(locations[:, 0] >= 0)
        if present.size and self.R.random_sample() < FOREGROUND_SHARE:
            row = locations[self.R.choice(present)]
            centre = np.unravel_index(int(self.R.choice(row[row >= 0])), shape)
            corner = np.clip(np.array(centre) - self.patch_size // 2, 0, np.maximum(spare, 0))
        placed: NDArray[Any] = np.where(spare < 0, -((-spare) // 2), corner)
        return placed

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Apply to a case or sample; other keys stay."""
        result = dict(data)
        shape = np.array(result[self.first_key(result)].shape[1:])
        corner = self.randomize(shape, result.pop(self.locations_key))
        for key in self.key_iterator(result):
            result[key] = torch.from_numpy(_cut(result[key], corner, self.patch_size))
        return result


def _cut(array: NDArray[Any], corner: NDArray[Any], size: NDArray[Any]) -> NDArray[Any]:
    low, high = np.maximum(corner, 0), np.minimum(corner + size, array.shape[1:])
    inside = (slice(None), *(slice(a, b) for a, b in zip(low, high, strict=True)))
    placed = (slice(None), *(slice(a, b) for a, b in zip(low - corner, high - corner, strict=True)))
    patch = np.zeros((len(array), *size), dtype=array.dtype)
    patch[placed] = array[inside]
    return patch


def class_locations(annotation: NDArray[Any], classes: int, most: int = 2000) -> NDArray[np.int64]:
    """Return up to ``most`` flat voxel indices of each class, ``[classes, most]``, filled up with -1."""
    flat = annotation.ravel()
    locations = np.full((classes, most), -1, dtype=np.int64)
    for k in range(classes):
        found = np.flatnonzero(flat == FIRST_CLASS + k)
        chosen = found[:: max(1, -(-len(found) // most))]
        locations[k, : len(chosen)] = chosen
    return locations


class Flattenedd(MapTransform):
    """Drop the slice axis of a patch that is one slice thick: ``[C, X, Y, 1]`` to ``[C, X, Y]``."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Apply to a case or sample; other keys stay."""
        return dict(data) | {key: data[key].squeeze(-1) for key in self.key_iterator(dict(data))}


class Decoded(MapTransform):
    """Turn an annotation into integer labels, negative where nothing is annotated, and a mask of the scan's inside.

    The sample leaves as plain tensors: a training step has no use for MONAI's metadata and pays for it.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Apply to a case or sample; other keys stay."""
        result = dict(data)
        for key in self.keys:
            codes = torch.as_tensor(result.pop(key)).as_subclass(torch.Tensor).round().long()
            result["label"] = (codes - FIRST_CLASS).clamp(min=-1)
            result["mask"] = codes != OUTSIDE
        return result | {IMAGE: result[IMAGE].as_subclass(torch.Tensor)}


@dataclass(frozen=True)
class Strength:
    """How strongly samples are augmented; 0 switches a change off. Fields as in the recipe."""

    flip_axes: tuple[int, ...]
    rotation_degrees: float
    scaling: float
    noise: float
    contrast: float
    gamma: float


def sample_transforms(patch_size: tuple[int, ...], strength: Strength) -> Compose:
    """Return the random way from a prepared case to a training sample with ``image``, ``label`` and ``mask``.

    A patch size of two numbers cuts single slices.
    """
    keys = (IMAGE, ANNOTATION)
    flat = len(patch_size) == 2
    x, y, z = (*patch_size, 1)[:3]
    steps: list[Any] = [RandomPatchd(keys, (x, y, z), "locations")]
    steps += [Flattenedd(keys)] if flat else []
    return Compose([*steps, *_augmentation(keys, len(patch_size), strength), Decoded(ANNOTATION)])


def _augmentation(keys: tuple[str, str], axes: int, strength: Strength) -> list[Any]:
    angle, scale = np.deg2rad(strength.rotation_degrees), strength.scaling
    steps: list[Any] = [RandFlipd(keys, prob=0.5, spatial_axis=axis) for axis in strength.flip_axes if axis < axes]
    if angle or scale:
        rotate = angle if axes == 2 else (angle,) * 3
        modes = ("bilinear", "nearest")
        steps.append(
            RandAffined(
                keys,
                prob=0.5,
                rotate_range=rotate,
                scale_range=(scale,) * axes,
                mode=modes,
                padding_mode="zeros",
            )
        )
    if strength.noise:
        steps.append(RandGaussianNoised(IMAGE, prob=0.2, std=strength.noise))
    if strength.contrast:
        steps.append(RandScaleIntensityd(IMAGE, factors=strength.contrast, prob=0.3))
    if strength.gamma:
        steps.append(RandAdjustContrastd(IMAGE, prob=0.3, gamma=(1 - strength.gamma, 1 + strength.gamma)))
    return steps
