"""The few nouns that every other module shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Role: TypeAlias = Literal["training", "validation", "test"]
Scans: TypeAlias = Literal["labelled", "unlabelled", "all"]
Reference: TypeAlias = Literal["label", "image"]


@dataclass(frozen=True, slots=True)
class Case:
    """One subject's scan and, where there is one, its mask.

    Attributes:
        id: Unique in its dataset; names everything made from the case.
        images: One NIfTI file with all channels, or one file a channel.
        label: The mask, or None for a scan without one.
        patient: Cases of one patient are never split between training and validation.
        role: The list that the case came from; None where the dataset has no such lists.
    """

    id: str
    images: tuple[Path, ...]
    label: Path | None
    patient: str
    role: Role | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """What a network was trained to do.

    Attributes:
        labels: The dataset's label values and names in the order of the network's classes, background first.
        channels: Names of the image channels.
    """

    labels: Mapping[int, str]
    channels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CaseResult:
    """The score of one class in one case.

    Attributes:
        case: The case's id.
        label: The dataset's own value of the class.
        name: The class's name.
        dice: In [0, 1]; None where the class is neither in the truth nor predicted.
        outcome: ``scored``; ``absent`` (in neither); ``missed`` (in the truth only);
            ``false_positive`` (predicted only).
        voxels_truth: Voxels of the class in the truth.
        voxels_predicted: Voxels of the class in the prediction.
    """

    case: str
    label: int
    name: str
    dice: float | None
    outcome: Literal["scored", "absent", "missed", "false_positive"]
    voxels_truth: int
    voxels_predicted: int
