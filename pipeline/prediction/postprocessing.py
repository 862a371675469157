"""Post-processing: changes to predicted label maps by what is known of the shape of a structure."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import binary_fill_holes

from pipeline.bounds import ForegroundValue, Millilitres
from pipeline.errors import Problem, UserError
from pipeline.metrics.lesions import connected_components
from pipeline.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]


class PostprocessingStep(ABC):
    """One change to label maps. Its options in a recipe are the arguments of its constructor."""

    @abstractmethod
    def __call__(self, labels: NDArray[Any], spacing_mm: Sequence[float]) -> NDArray[Any]:
        """Return the label map after the change, of the same type.

        Args:
            labels: ``[X, Y, Z]``, background 0, on the scan's own grid. It may be changed in place.
            spacing_mm: Size of a voxel along each axis.
        """

    def given_labels(self, labels: Sequence[int]) -> Sequence[int]:
        """Return the labels, background aside, that the change may give to a voxel with another label; by default all.

        Probabilities are kept for these labels alone until the change is made.

        Args:
            labels: The model's labels.
        """
        return labels


POSTPROCESSING = Registry(name="step", description="Post-processing of predicted label maps.", base=PostprocessingStep)


@dataclass(frozen=True)
class LabelStep(PostprocessingStep):
    """A change to the mask of one label. Voxels that it loses become background; it can gain only background voxels.

    Attributes:
        label: The label's value. A label map without it does not change.
    """

    label: ForegroundValue

    def __call__(self, labels: NDArray[Any], spacing_mm: Sequence[float]) -> NDArray[Any]:
        """Change the label's mask within its bounding box, in which everything that it encloses lies."""
        flat = tuple(axis for axis, length in enumerate(labels.shape) if length == 1)
        box = labels[_box_of(labels == self.label)]
        if box.size:
            before = box == self.label
            after = self.changed(before, flat, voxel_ml(spacing_mm))
            box[before & ~after] = 0
            box[after & (box == 0)] = self.label
        return labels

    def given_labels(self, labels: Sequence[int]) -> Sequence[int]:
        """Return no label: by default the change only removes voxels."""
        return ()

    @abstractmethod
    def changed(self, mask: Mask, flat: tuple[int, ...], voxel_ml: float) -> Mask:
        """Return a mask after the change.

        Args:
            mask: The label's mask in its bounding box, ``[X, Y, Z]``, not empty.
            flat: Axes along which the scan has one voxel.
            voxel_ml: Volume of a voxel.
        """


@POSTPROCESSING.register("fill_holes")
@dataclass(frozen=True)
class FillHoles(LabelStep):
    """Fills a label's holes: background that the label encloses becomes part of it."""

    def given_labels(self, labels: Sequence[int]) -> Sequence[int]:
        """Return its own label."""
        return (self.label,)

    def changed(self, mask: Mask, flat: tuple[int, ...], voxel_ml: float) -> Mask:
        """Fill the holes."""
        # A flat axis is removed: along it, everything would touch the border of the volume.
        filled: Mask = binary_fill_holes(mask.squeeze(axis=flat)).reshape(mask.shape)
        return filled

    def __str__(self) -> str:
        return "holes filled"


@POSTPROCESSING.register("keep_largest")
@dataclass(frozen=True)
class KeepLargest(LabelStep):
    """Keeps a label's largest connected component (26 neighbours; 8 in 2-D); of equally large ones, the first."""

    def changed(self, mask: Mask, flat: tuple[int, ...], voxel_ml: float) -> Mask:
        """Keep the largest component."""
        return _largest(mask)

    def __str__(self) -> str:
        return "the largest component kept"


@POSTPROCESSING.register("keep_largest_foreground")
@dataclass(frozen=True)
class KeepLargestForeground(PostprocessingStep):
    """Keeps the largest connected component of all labels together (26 neighbours; 8 in 2-D).

    A label that is not in it stays as it is: what was found of it may have lost touch with the others.
    """

    def __call__(self, labels: NDArray[Any], spacing_mm: Sequence[float]) -> NDArray[Any]:
        """Make background of what lies apart from the largest component and has a label that is in it."""
        box = labels[_box_of(labels != 0)]
        if box.size:
            largest = _largest(box != 0)
            box[~largest & np.isin(box, box[largest])] = 0
        return labels

    def given_labels(self, labels: Sequence[int]) -> Sequence[int]:
        """Return no label: voxels only become background."""
        return ()

    def __str__(self) -> str:
        return "the largest component of all labels together kept"


@POSTPROCESSING.register("drop_small")
@dataclass(frozen=True)
class DropSmall(LabelStep):
    """Drops a label's connected components (26 neighbours; 8 in 2-D) that are smaller than a volume.

    Attributes:
        least_ml: The volume.
    """

    least_ml: Millilitres

    def changed(self, mask: Mask, flat: tuple[int, ...], voxel_ml: float) -> Mask:
        """Drop the small components."""
        components = connected_components(mask)
        sizes = np.bincount(components[mask])
        selected: Mask = ((sizes * voxel_ml >= self.least_ml) & (sizes > 0))[components]
        return selected

    def __str__(self) -> str:
        return f"components under {self.least_ml:.3g} ml dropped"


def postprocess(labels: NDArray[Any], spacing_mm: Sequence[float], steps: Sequence[PostprocessingStep]) -> NDArray[Any]:
    """Return a copy of a label map after steps of post-processing, one after the other.

    Args:
        labels: ``[X, Y, Z]``, background 0.
        spacing_mm: Size of a voxel along each axis.
        steps: The changes.

    Raises:
        UserError: A step returns something else than a label map of the same shape and type.

    >>> postprocess(np.array([[[1, 1, 0, 2, 0, 1]]]), (1.0, 1.0, 1.0), [KeepLargest(1)])
    array([[[1, 1, 0, 2, 0, 0]]])
    """
    changed = labels.copy()
    for step in steps:
        changed = step(changed, spacing_mm)
        if getattr(changed, "shape", None) != labels.shape or changed.dtype != labels.dtype:
            name = type(step).__name__
            message = f"{name} returned no label map of the shape {labels.shape} and type {labels.dtype}"
            remedy = "correct the class, which is a plugin's"
            raise UserError("Post-processing failed.", [Problem("postprocessing", "bad-plugin", message, remedy)])
    return changed


def name_of(step: PostprocessingStep) -> str:
    """Return the name under which a step's class is registered."""
    return next(name for name, kind in POSTPROCESSING.components.items() if kind is type(step))


def voxel_ml(spacing_mm: Sequence[float]) -> float:
    """Return the volume of a voxel in ml."""
    return math.prod(spacing_mm) / 1000


def _box_of(mask: Mask) -> tuple[slice, ...]:
    """Return the bounding box of a mask; empty for an empty mask."""
    box = []
    for axis in range(mask.ndim):
        found = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        box.append(slice(int(found[0]), int(found[-1]) + 1) if found.size else slice(0, 0))
    return tuple(box)


def _largest(mask: Mask) -> Mask:
    components = connected_components(mask)
    selected: Mask = components == np.bincount(components[mask]).argmax()
    return selected
