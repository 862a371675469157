"""Count the separate structures of a class that were found, missed and invented."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import cc3d
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Mask: TypeAlias = NDArray[np.bool_]

# A lesion counts as met if the other mask covers at least one in so many of its voxels.
ONE_IN = 10


@dataclass(frozen=True, slots=True)
class Lesions:
    """Numbers of connected components of one class.

    Attributes:
        truth: True lesions.
        found: True lesions that are found.
        missed: True lesions that are not.
        false: Predicted lesions that are not true.
    """

    truth: int
    found: int
    missed: int
    false: int


def count_lesions(truth: Mask, prediction: Mask) -> Lesions:
    """Match connected components (26 neighbours; 8 in 2-D) of the truth and of the prediction.

    A true lesion is found if a tenth of its voxels or more are predicted, in whichever predicted lesions. A predicted
    lesion is false if less than a tenth of its voxels are true. So one large blob over everything finds all lesions and
    is false itself, and a single voxel finds no large lesion. Empty masks have no lesions.

    The threshold is that of Commowick et al. 2018, https://doi.org/10.1038/s41598-018-31911-7.

    Args:
        truth: ``[X, Y, Z]``.
        prediction: The shape of ``truth``.

    >>> count_lesions(np.array([[[1, 1, 0, 0, 1, 0]]], bool), np.array([[[0, 1, 0, 0, 0, 0]]], bool))
    Lesions(truth=2, found=1, missed=1, false=0)
    """
    met = _met(truth, prediction)
    predicted_met = _met(prediction, truth)
    found = int(met.sum())
    false = int((~predicted_met).sum())
    return Lesions(len(met), found, len(met) - found, false)


def connected_components(mask: Mask) -> NDArray[np.integer[Any]]:
    """Number the connected components of a mask from 1 (26 neighbours; 8 in 2-D), and everything else 0.

    Args:
        mask: ``[X, Y, Z]``.
    """
    # The border is for cc3d (4.1.1), which reserves too few labels for a single line of voxels and stops.
    bordered: NDArray[np.integer[Any]] = cc3d.connected_components(np.pad(mask, 1), connectivity=26, binary_image=True)
    return bordered[1:-1, 1:-1, 1:-1]


def component_sizes(mask: Mask) -> NDArray[np.integer[Any]]:
    """Return the voxels of each connected component (26 neighbours; 8 in 2-D)."""
    return np.bincount(connected_components(mask)[mask])[1:]


def _met(lesions: Mask, other: Mask) -> Mask:
    """Tell for each component of a mask whether the other mask covers enough of it."""
    components = connected_components(lesions)
    sizes = np.bincount(components[lesions])[1:]
    covered = np.bincount(components[lesions & other], minlength=len(sizes) + 1)[1:]
    return covered * ONE_IN >= sizes
