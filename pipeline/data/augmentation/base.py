"""The base classes of augmentations, and the chain that applies several to a batch.

Drawing is separate from applying: ``draw`` turns a sample's random numbers into plain numbers, cheaply and on the host;
``apply`` is a deterministic function of these, in tensor operations on the device of the batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.errors import Problem, UserError
from pipeline.plugins import PLUGIN_FAILED
from pipeline.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from torch import Tensor


@dataclass(frozen=True)
class Patch:
    """The patches that are changed.

    Attributes:
        spacing_mm: Voxel size along each axis: a rotation turns millimetres, not voxels.
        size: Voxels along each axis. A long, thin patch is turned, and a small one bent, no further than half of it
            stays within; without a size both go as far as their augmentation allows.
    """

    spacing_mm: tuple[float, ...]
    size: tuple[int, ...] | None = None


class Augmentation(ABC):
    """A random change of a sample: one of :class:`SpatialAugmentation` and :class:`IntensityAugmentation`.

    Its options in a recipe are the arguments of its constructor.
    """

    @abstractmethod
    def draw(self, rng: np.random.Generator, patch: Patch) -> Any:
        """Draw one sample's change: what ``apply`` needs, or None for a sample that stays as it is.

        All random numbers come from ``rng``, which is seeded for each sample, so that a batch is the same whichever
        process makes it.
        """


AUGMENTATIONS = Registry(name="augmentation", description="Random changes of training samples.", base=Augmentation)


class IntensityAugmentation(Augmentation):
    """A change of intensities, which moves no voxel."""

    @abstractmethod
    def apply(self, image: Tensor, drawn: Any) -> None:
        """Change a sample's image ``[C, …]`` in place.

        Args:
            image: float32, on any device.
            drawn: What was drawn for it, never None.
        """


class SpatialAugmentation(Augmentation):
    """A change that moves voxels, of the image and of its annotation alike."""

    @abstractmethod
    def apply(self, image: Tensor, annotation: Tensor, drawn: Sequence[Any]) -> None:
        """Move the samples of a batch in place; what comes in from outside a patch is 0 in both.

        Args:
            image: ``[B, C, …]`` float32, on any device.
            annotation: ``[B, 1, …]`` uint8, whose values may not be mixed.
            drawn: What was drawn for each sample; None for one that stays.
        """


@dataclass(frozen=True)
class AugmentationChain:
    """Several augmentations, each drawn and applied in this order; those that move voxels are applied first.

    Attributes:
        steps: The augmentations.
        patch: What they are applied to.
    """

    steps: tuple[Augmentation, ...]
    patch: Patch

    def draw(self, rng: np.random.Generator) -> tuple[Any, ...]:
        """Draw one sample's changes, one of each augmentation."""
        return tuple(step.draw(rng, self.patch) for step in self.steps)

    def move(self, image: Tensor, annotation: Tensor, drawn: Sequence[tuple[Any, ...]]) -> None:
        """Apply what moves voxels to ``image`` ``[B, C, …]`` and ``annotation`` ``[B, 1, …]``, in place."""
        for n, step in enumerate(self.steps):
            if isinstance(step, SpatialAugmentation):
                _refuse_result(step, step.apply(image, annotation, [changes[n] for changes in drawn]))

    def recolour(self, image: Tensor, drawn: Sequence[tuple[Any, ...]]) -> None:
        """Apply what changes intensities to ``image`` ``[B, C, …]``, in place."""
        for sample, changes in zip(image, drawn, strict=True):
            for step, change in zip(self.steps, changes, strict=True):
                if isinstance(step, IntensityAugmentation) and change is not None:
                    _refuse_result(step, step.apply(sample, change))


def _refuse_result(step: Augmentation, result: object) -> None:
    """Refuse what ``apply`` of an augmentation returns, since only what it changes in place is used.

    Raises:
        UserError: It is not None.
    """
    if result is not None:
        name = type(step).__name__
        problem = Problem(
            name,
            PLUGIN_FAILED,
            f"its apply returned {type(result).__name__}",
            "change the image in place, such as by image.copy_(changed), and return nothing",
        )
        raise UserError("The augmentation changes nothing.", [problem])
