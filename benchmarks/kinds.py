"""Five datasets of different kinds, generated: what a plan has to cope with beyond one organ of one MR sequence.

Shapes, places and intensities are drawn for each case. What has no label is as bright as what has one, so that
intensity alone tells little. Used by ``bench_kinds.py``.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeAlias

import nibabel as nib
import numpy as np
from scipy.ndimage import gaussian_filter

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.random import Generator
    from numpy.typing import NDArray

    Volume: TypeAlias = NDArray[np.floating[Any]]
    # Channels ``[C, X, Y, Z]``, labels ``[X, Y, Z]``, and the size of a voxel in mm.
    Case: TypeAlias = tuple[Volume, NDArray[np.uint8], tuple[float, ...]]

CLASSES_OF_CT = 20
# How much brighter than the tissue each part of a lesion is: in FLAIR, T1, T1 with contrast, T2.
LESION = (
    {2: 0.25, 1: 0.3, 4: 0.1},
    {2: -0.05, 1: -0.2, 4: -0.15},
    {2: 0.0, 1: -0.1, 4: 0.4},
    {2: 0.3, 1: 0.1, 4: 0.0},
)


class Space:
    """A grid whose places are in mm, from -1 to 1 of half its length, in which shapes are drawn."""

    def __init__(self, shape: tuple[int, ...], spacing_mm: tuple[float, ...]) -> None:
        self.spacing_mm = spacing_mm
        axes = (((np.arange(n) + 0.5) - n / 2) * step for n, step in zip(shape, spacing_mm, strict=True))
        self.mm = np.meshgrid(*axes, indexing="ij", sparse=True)
        self.half = [n * step / 2 for n, step in zip(shape, spacing_mm, strict=True)]
        self.shape = shape

    def ellipsoid(self, rng: Generator, centre: Any, radii_mm: Any, wobble: float = 0.12) -> NDArray[np.bool_]:
        """Return an ellipsoid around a centre (in parts of half the grid), moved, stretched and dented by chance."""
        middle = [c * half + rng.normal(0, 0.1 * r) for c, half, r in zip(centre, self.half, radii_mm, strict=True)]
        radii = [r * np.exp(rng.normal(0, wobble)) for r in radii_mm]
        parts = [(mm - at) / r for mm, at, r in zip(self.mm, middle, radii, strict=True)]
        distance = np.sqrt(sum(part**2 for part in parts))
        phases = rng.uniform(0, 2 * np.pi, len(parts))
        dent = sum(np.sin(2.5 * part + phase) for part, phase in zip(parts, phases, strict=True))
        return np.asarray(distance < 1 + wobble * dent / len(parts))

    def noisy(self, rng: Generator, image: Volume, noise: float, blur: float = 0.6) -> Volume:
        """Return an image as a scanner would show it: blurred, shaded, noisy."""
        shade = gaussian_filter(rng.normal(size=self.shape), [n / 4 for n in self.shape])
        shade *= 0.15 / max(float(np.abs(shade).max()), 1e-9)
        blurred = gaussian_filter(image, [blur / step if step < 3 else 0 for step in self.spacing_mm])
        return np.asarray(blurred * (1 + shade) + rng.normal(0, noise, self.shape), np.float32)


def thick_slices(rng: Generator) -> Case:
    """Draw ten slices 8 mm apart: a ring around a pool, a crescent beside it, and vessels without a label."""
    space = Space((128, 128, 10), (1.5, 1.5, 8.0))
    image = np.full(space.shape, 0.35)
    labels = np.zeros(space.shape, np.uint8)
    for _ in range(4):
        image[space.ellipsoid(rng, rng.uniform(-0.8, 0.8, 3), (10, 10, 40))] = rng.uniform(0.6, 1.0)
    centre = (*rng.uniform(-0.15, 0.15, 2), 0.0)
    right = (centre[0] - 0.32, centre[1] + 0.05, 0.0)
    for value, shape, level in (
        (3, space.ellipsoid(rng, right, (20, 26, 32)), 0.9),
        (2, space.ellipsoid(rng, centre, (30, 30, 34)), 0.5),
        (1, space.ellipsoid(rng, centre, (20, 20, 30), 0.06), 0.95),
    ):
        image[shape], labels[shape] = level, value
    return space.noisy(rng, image, 0.07)[None] * 400, labels, space.spacing_mm


def tiny_structure(rng: Generator) -> Case:
    """Draw a cord in which a thread of 0.02 % of the voxels is a little brighter, and bright spots elsewhere."""
    space = Space((96, 96, 96), (1.0, 1.0, 1.0))
    image = np.full(space.shape, 0.3)
    labels = np.zeros(space.shape, np.uint8)
    for _ in range(12):
        image[space.ellipsoid(rng, rng.uniform(-0.9, 0.9, 3), rng.uniform(3, 12, 3))] = rng.uniform(0.5, 1.1)
    where = rng.uniform(-0.4, 0.4, 2)
    image[space.ellipsoid(rng, (*where, 0.0), (14, 14, 90))] = 0.6
    thread = space.ellipsoid(rng, (*where, rng.uniform(-0.3, 0.3)), (2.6, 2.6, 6.5), 0.08)
    image[thread], labels[thread] = 0.95, 1
    return space.noisy(rng, image, 0.05)[None] * 900, labels, space.spacing_mm


def nested_regions(rng: Generator) -> Case:
    """Draw a lesion in four channels: oedema (2) around a core (1) around what takes contrast (4)."""
    space = Space((80, 96, 72), (1.5, 1.5, 1.5))
    brain = space.ellipsoid(rng, (0, 0, 0), (50, 62, 46), 0.05)
    labels = np.zeros(space.shape, np.uint8)
    centre = rng.uniform(-0.4, 0.4, 3)
    size = rng.uniform(13, 24)
    for value, part in ((2, 1.0), (1, 0.65), (4, 0.45)):
        labels[space.ellipsoid(rng, centre, [size * part] * 3) & brain] = value
    tissue = gaussian_filter(rng.normal(size=space.shape), 3)
    tissue = 0.5 + 0.08 * tissue / tissue.std()
    channels = []
    for levels in (
        {2: 0.25, 1: 0.3, 4: 0.1},
        {2: -0.05, 1: -0.2, 4: -0.15},
        {2: 0.0, 1: -0.1, 4: 0.4},
        {2: 0.3, 1: 0.1},
    ):
        image = tissue + sum(level * (labels == value) for value, level in levels.items())
        channels.append(np.where(brain, space.noisy(rng, image, 0.06), 0) * rng.uniform(200, 900))
    return np.stack(channels), labels, space.spacing_mm


def ct_of_many(rng: Generator) -> Case:
    """Draw a trunk with twenty organs that overlap each other, many of one density: place tells them apart."""
    space = Space((96, 80, 72), (3.0, 3.0, 3.0))
    body = space.ellipsoid(rng, (0, 0, 0), (130, 100, 140), 0.03)
    image = np.full(space.shape, -1000.0)
    image[body] = -90
    labels = np.zeros(space.shape, np.uint8)
    plan = np.random.default_rng(7)  # The same anatomy in all cases.
    shift = rng.normal(0, 0.03, 3)
    for value in range(1, CLASSES_OF_CT + 1):
        centre, radii = plan.uniform(-0.55, 0.55, 3), plan.uniform(11, 34, 3)
        level = plan.choice([30.0, 50.0, 50.0, 60.0, 110.0, -750.0, 350.0])
        organ = space.ellipsoid(rng, centre + shift, radii) & body
        image[organ], labels[organ] = level + rng.normal(0, 6), value
    return space.noisy(rng, image, 14)[None], labels, space.spacing_mm


def cells(rng: Generator) -> Case:
    """Draw a field of 2-D microscopy: cells (1) with nuclei (2), and debris that has no label."""
    space = Space((256, 256), (0.5, 0.5))
    image = np.full(space.shape, 0.15)
    labels = np.zeros(space.shape, np.uint8)
    for _ in range(20):
        image[space.ellipsoid(rng, rng.uniform(-1, 1, 2), rng.uniform(0.6, 2, 2))] = rng.uniform(0.3, 0.9)
    for _ in range(int(rng.integers(12, 30))):
        centre, radius = rng.uniform(-0.95, 0.95, 2), rng.uniform(5, 9)
        cell = space.ellipsoid(rng, centre, (radius, radius * rng.uniform(0.7, 1)), 0.2)
        image[cell], labels[cell] = rng.uniform(0.35, 0.55), 1
        nucleus = space.ellipsoid(rng, centre, (radius * 0.45,) * 2, 0.15) & cell
        image[nucleus], labels[nucleus] = rng.uniform(0.6, 0.85), 2
    return space.noisy(rng, image, 0.06)[None] * 4000, labels, space.spacing_mm


# How a case is drawn, and what the list says: channels, labels, regions.
KINDS: dict[str, tuple[Callable[[Generator], Case], dict[str, Any]]] = {
    "thick": (thick_slices, {"channels": ["MRI"], "labels": {"pool": 1, "ring": 2, "crescent": 3}}),
    "tiny": (tiny_structure, {"channels": ["MRI"], "labels": {"thread": 1}}),
    "regions": (
        nested_regions,
        {
            "channels": ["FLAIR", "T1", "T1Gd", "T2"],
            "labels": {"whole": [1, 2, 4], "core": [1, 4], "enhancing": 4},
            "order": [2, 1, 4],
        },
    ),
    "ct": (ct_of_many, {"channels": ["CT"], "labels": {f"organ{n}": n for n in range(1, CLASSES_OF_CT + 1)}}),
    "cells": (cells, {"channels": ["light"], "labels": {"cell": 1, "nucleus": 2}}),
}


def write_kind(kind: str, folder: Path, training: int, validation: int) -> Path:
    """Write a dataset of a kind, and a list of it whose last cases validate; return the list."""
    drawn, about = KINDS[kind]
    entries = []
    for place in ("images", "labels"):
        (folder / place).mkdir(parents=True)
    for number in range(training + validation):
        channels, labels, spacing_mm = drawn(np.random.default_rng([11, number]))
        affine = np.diag([*spacing_mm, *[1.0] * (4 - len(spacing_mm))])
        entry: dict[str, Any] = {"id": f"case_{number:02d}", "image": [], "label": f"labels/case_{number:02d}.nii.gz"}
        for channel, values in enumerate(channels):
            entry["image"].append(f"images/case_{number:02d}_{channel:04d}.nii.gz")
            nib.save(nib.Nifti1Image(np.rint(values).astype(np.int16), affine), folder / entry["image"][-1])
        nib.save(nib.Nifti1Image(labels, affine), folder / entry["label"])
        entries.append(entry)
    listed = {
        "channel_names": dict(enumerate(about["channels"])),
        "labels": {"background": 0, **about["labels"]},
        **({"regions_class_order": about["order"]} if "order" in about else {}),
        "training": entries[:training],
        "validation": entries[training:],
    }
    path = folder / "list.json"
    path.write_text(json.dumps(listed, indent=1))
    return path
