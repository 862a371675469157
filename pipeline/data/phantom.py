"""A synthetic dataset that behaves like MR, for the demo and the tests: nothing to download or to ask for.

Each case is a slab of a body with a rim of fat, a spine, an organ (label 1) with a nodule at its edge
(label 2), and things that are as bright as either and have no label. What makes real scans hard is there
too: partial volume, a bias field, Rician noise, another intensity scale, grid and orientation in every case.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import nibabel as nib
import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from pipeline.errors import Problem, UserError
from pipeline.files import atomic_write

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.random import Generator
    from numpy.typing import ArrayLike, NDArray

    Floats: TypeAlias = NDArray[np.floating[Any]]
    # One coordinate in mm along each axis, shaped to broadcast against the others.
    Grid: TypeAlias = tuple[Floats, Floats, Floats]

LABELS = {0: "background", 1: "organ", 2: "nodule"}

# Points a voxel along each axis; the mean over them is the partial volume.
SUPERSAMPLING = 2

# Mean brightness, before the changes that are a case's own.
BRIGHTNESS = {
    "fat": 1.1,
    "muscle": 0.62,
    "cavity": 0.4,
    "bone": 0.18,
    "capsule": 0.25,
    "organ": 0.7,
    "nodule": 1.25,
}


def write_phantom(folder: Path, *, labelled: int = 6, unlabelled: int = 18, seed: int = 0) -> Iterator[str]:
    """Write a dataset in the layout of the Medical Segmentation Decathlon, a case at a time.

    A case depends on the seed and its number alone, so a larger dataset starts with the cases of a
    smaller one, and equal arguments give equal bytes (with one NumPy on one kind of processor). The list,
    ``dataset.json``, comes last: a folder that has one is complete.

    Args:
        folder: Where to write; made if it is not there.
        labelled: Cases with a mask, in ``imagesTr`` and ``labelsTr``.
        unlabelled: Cases without one, in ``imagesTs``.
        seed: Chooses the dataset.

    Yields:
        The id of each case once it is written; nothing happens before the first is asked for.

    Raises:
        UserError: The folder holds something, or is a file.
    """
    _prepare(folder)
    names = [f"phantom_{index:03d}" for index in range(labelled + unlabelled)]
    for index, name in enumerate(names):
        image, label = phantom_case(seed, index)
        if index < labelled:
            _save(image, folder / "imagesTr" / f"{name}.nii.gz")
            _save(label, folder / "labelsTr" / f"{name}.nii.gz")
        else:
            _save(image, folder / "imagesTs" / f"{name}.nii.gz")
        yield name
    with atomic_write(folder / "dataset.json") as partial:
        partial.write_text(json.dumps(_contents(names[:labelled], names[labelled:]), indent=2) + "\n")


def _save(image: nib.Nifti1Image, path: Path) -> None:
    with atomic_write(path) as partial:
        nib.save(image, partial)


def phantom_case(seed: int, index: int) -> tuple[Any, Any]:
    """Make one case.

    Args:
        seed: Chooses the dataset.
        index: The number of the case in it.

    Returns:
        Two ``nibabel.Nifti1Image`` on one grid: the scan (int16 or float32) and its labels (uint8).
    """
    rng = np.random.default_rng([seed, index])
    shape, spacing_mm = _draw_grid(rng)
    body = _draw_body(rng, _fine_grid(shape, spacing_mm))
    scan = _acquire(rng, _voxel_means(body.brightness), spacing_mm)
    affine, order = _draw_pose(rng, shape, spacing_mm)
    return _to_nifti(scan, affine, order), _to_nifti(_majority(body.labels), affine, order)


def _prepare(folder: Path) -> None:
    """Make the folders of a dataset, or say why not."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        message = "it is there already; expected an empty folder, or none"
        remedy = "name another folder, or empty this one"
        raise UserError("cannot write the phantom", [Problem(str(folder), "folder-not-empty", message, remedy)])
    for name in ("imagesTr", "labelsTr", "imagesTs"):
        (folder / name).mkdir(parents=True)


def _contents(labelled: Sequence[str], unlabelled: Sequence[str]) -> dict[str, Any]:
    """Return what ``dataset.json`` says."""
    return {
        "name": "Fewmask phantom",
        "description": "Synthetic MR-like volumes: an organ with a nodule, among things that look like them",
        "licence": "synthetic, CC0",
        "tensorImageSize": "3D",
        "modality": {"0": "MRI"},
        "labels": {str(value): name for value, name in LABELS.items()},
        "numTraining": len(labelled),
        "numTest": len(unlabelled),
        "training": [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in labelled],
        "test": [f"./imagesTs/{name}.nii.gz" for name in unlabelled],
    }


@dataclass(frozen=True)
class Blob:
    """An ellipsoid with a wavy surface.

    Attributes:
        centre_mm: Where it is.
        frame: Rows are its axes, each divided by the radius in mm along it.
        waves: Rows are one ripple each: its wave vector, per mm, and its phase.
        ripple: How far one ripple moves the surface, as a part of the radius.
    """

    centre_mm: Floats
    frame: Floats
    waves: Floats
    ripple: float

    @classmethod
    def draw(cls, rng: Generator, centre_mm: ArrayLike, radii_mm: ArrayLike, *, ripple: float = 0.05) -> Blob:
        """Draw a blob up to 1.5 mm from a place, up to 12 % off a size, and turned a little."""
        centre = np.asarray(centre_mm) + rng.uniform(-1.5, 1.5, 3)
        radii = np.asarray(radii_mm) * rng.uniform(0.88, 1.12, 3)
        frame = Rotation.from_rotvec(rng.normal(0, 0.15, 3)).as_matrix() / radii[:, None]
        waves = np.column_stack([rng.normal(0, 2.5, (3, 3)) @ frame, rng.uniform(0, 2 * np.pi, 3)])
        return cls(centre, frame, waves, ripple)

    def levels(self, grid: Grid) -> Floats:
        """Return about 0 at the centre, 1 on the surface and more outside, for every point of the grid."""
        offsets = [axis - np.float32(c) for axis, c in zip(grid, self.centre_mm, strict=True)]
        levels: Floats = np.sqrt(sum(_along(axis, offsets) ** 2 for axis in self.frame))
        for *wave, phase in self.waves:
            levels += np.float32(self.ripple) * np.sin(_along(wave, offsets) + np.float32(phase))
        return levels

    def box(self, grid: Grid) -> tuple[slice, ...]:
        """Return the part of the grid that the blob and a margin around it lie in."""
        reach_mm = 1.35 / np.linalg.norm(self.frame, axis=1).min()
        sides = zip(grid, self.centre_mm, strict=True)
        return tuple(slice(*np.searchsorted(axis.ravel(), [c - reach_mm, c + reach_mm])) for axis, c in sides)


class Canvas:
    """Brightness and labels on a fine grid, where what is painted later covers what was there.

    Args:
        grid: The points, in mm from the middle of the scan.
        brightness: Of each tissue.
    """

    def __init__(self, grid: Grid, brightness: Mapping[str, float]) -> None:
        shape = np.broadcast_shapes(*(axis.shape for axis in grid))
        self.grid = grid
        self.tissues = brightness
        self.brightness = np.zeros(shape, dtype=np.float32)
        self.labels = np.zeros(shape, dtype=np.uint8)

    def paint(self, blob: Blob, *layers: tuple[float, str], label: int = 0) -> None:
        """Paint a blob in layers, each a level of its surface and a tissue; the innermost gets the label."""
        box = blob.box(self.grid)
        x, y, z = self.grid
        levels = blob.levels((x[box[0]], y[:, box[1]], z[:, :, box[2]]))
        for level, tissue in layers:
            self.brightness[box][levels < level] = self.tissues[tissue]
        self.labels[box][levels < layers[-1][0]] = label


def _draw_grid(rng: Generator) -> tuple[tuple[int, ...], Floats]:
    """Draw the voxels and their spacing so that the scan is about as large as the body."""
    spacing_mm = rng.uniform(1.05, 1.4) * rng.uniform(0.9, 1.12, 3)
    extent_mm = np.array([48.0, 43.0, 40.0]) * rng.uniform(0.95, 1.05, 3)
    return tuple(np.clip(np.rint(extent_mm / spacing_mm), 30, 48).astype(int).tolist()), spacing_mm


def _fine_grid(shape: Sequence[int], spacing_mm: Floats) -> Grid:
    """Return the points that a voxel's value is the mean over, the middle of the scan being 0."""
    axes = [
        ((np.arange(n * SUPERSAMPLING) + 0.5) / SUPERSAMPLING - n / 2) * step
        for n, step in zip(shape, spacing_mm, strict=True)
    ]
    x, y, z = np.ix_(*(axis.astype(np.float32) for axis in axes))
    return x, y, z


def _draw_body(rng: Generator, grid: Grid) -> Canvas:
    """Paint one body: right is +x, front +y, up +z."""
    canvas = Canvas(grid, {tissue: value * rng.uniform(0.93, 1.07) for tissue, value in BRIGHTNESS.items()})
    torso = Blob.draw(rng, (0, 0, 0), (21, 18.5, 34), ripple=0.015)
    canvas.paint(torso, (1.0, "fat"), (0.88, "muscle"), (0.74, "cavity"))
    spine = Blob.draw(rng, (0, -9, 0), (3.6, 3.2, 26))
    canvas.paint(spine, (1.0, "bone"), (0.45, "organ"))
    for _ in range(8):
        place = rng.uniform((-13, -4, -17), (2, 10, 17))
        canvas.paint(Blob.draw(rng, place, rng.uniform(2.2, 4.6, 3)), (1.15, "capsule"), (1.0, "organ"))
    for _ in range(5):
        place = rng.uniform((-12, -8, -17), (12, 10, 17))
        canvas.paint(Blob.draw(rng, place, rng.uniform(1.4, 2.6, 3)), (1.0, "nodule"))
    canvas.paint(Blob.draw(rng, (-3, -4, 0), (1.6, 1.6, 19)), (1.0, "nodule"))
    organ = Blob.draw(rng, (6.5, 1, 0), (9, 10.5, 13), ripple=0.06)
    canvas.paint(organ, (1.1, "capsule"), (1.0, "organ"), label=1)
    direction = rng.normal(size=3)
    edge = np.linalg.solve(organ.frame, 0.7 * direction / np.linalg.norm(direction))
    canvas.paint(Blob.draw(rng, organ.centre_mm + edge, rng.uniform(4.2, 5.5, 3)), (1.0, "nodule"), label=2)
    return canvas


def _acquire(rng: Generator, brightness: Floats, spacing_mm: Floats) -> Floats:
    """Turn true brightness into a scan: texture, bias field, Rician noise, a scale of its own."""
    grid = np.ix_(*(np.linspace(-1, 1, n, dtype=np.float32) for n in brightness.shape))
    texture = gaussian_filter(rng.standard_normal(brightness.shape, dtype=np.float32), 1.5 / spacing_mm)
    bends = rng.uniform(-0.2, 0.2, (3, 2))
    bias = np.exp(sum(a * axis + b * axis**2 for axis, (a, b) in zip(grid, bends, strict=True)))
    signal = brightness * (1 + 0.05 * texture / texture.std()) * bias
    noise = rng.uniform(0.02, 0.05) * rng.standard_normal((2, *signal.shape), dtype=np.float32)
    scan: Floats = np.hypot(signal + noise[0], noise[1]) * 10 ** rng.uniform(0, 3)
    # Scanners store integers; a small scale would lose all but a few grey levels to that.
    if scan.max() < 200:
        return scan.astype(np.float32)
    return np.rint(scan).astype(np.int16)


def _draw_pose(rng: Generator, shape: Sequence[int], spacing_mm: Floats) -> tuple[Floats, Floats]:
    """Draw how the grid lies in the world and in which order and direction the file stores its axes."""
    affine = np.diag([*spacing_mm, 1.0])
    if rng.random() < 0.5:
        affine[:3, :3] = Rotation.from_rotvec(rng.uniform(-0.1, 0.1, 3)).as_matrix() @ affine[:3, :3]
    affine[:3, 3] = rng.uniform(-20, 20, 3) - affine[:3, :3] @ (np.asarray(shape) - 1) / 2
    return affine, np.column_stack([rng.permutation(3), rng.choice([-1, 1], 3)])


def _to_nifti(array: NDArray[Any], affine: Floats, order: Floats) -> Any:
    """Store an array with its axes in another order, and an affine that says so in both forms."""
    stored = nib.orientations.apply_orientation(array, order)
    affine = affine @ nib.orientations.inv_ornt_aff(order, array.shape)
    image = nib.Nifti1Image(stored, affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm")
    return image


def _voxel_means(fine: Floats) -> Floats:
    """Average the points of every voxel."""
    x, y, z = (n // SUPERSAMPLING for n in fine.shape)
    means: Floats = fine.reshape(x, SUPERSAMPLING, y, SUPERSAMPLING, z, SUPERSAMPLING).mean(axis=(1, 3, 5))
    return means


def _majority(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Give every voxel the label that most of its points have; the lower one where two have as many."""
    shares = np.stack([_voxel_means((labels == value).astype(np.float32)) for value in LABELS])
    winners: NDArray[np.uint8] = shares.argmax(axis=0).astype(np.uint8)
    return winners


def _along(direction: Iterable[float], offsets: Sequence[Floats]) -> Floats:
    """Return the component of every point of an open grid along a direction."""
    x, y, z = (np.float32(d) * axis for d, axis in zip(direction, offsets, strict=True))
    component: Floats = x + y + z
    return component
