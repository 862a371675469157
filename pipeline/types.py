"""The few nouns that every other module shares."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Role: TypeAlias = Literal["training", "validation", "test"]
Scans: TypeAlias = Literal["labelled", "unlabelled", "all"]
Which: TypeAlias = Literal["last", "best"]
Format: TypeAlias = Literal["model", "torch", "onnx", "bundle", "card"]
Outcome: TypeAlias = Literal["scored", "absent", "missed", "false_positive", "not_annotated"]
# Further images of a sample, each voxel in the same place as in ``image``: with the scan's own intensities, and with
# them changed by random numbers of their own.
OTHER_VIEW = "other_image"
VIEWS = ("plain_image", OTHER_VIEW)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One subject's scan and, where there is one, its mask.

    Attributes:
        id: Unique in its dataset; names everything made from the case.
        images: One NIfTI file with all channels, or one file a channel.
        label: The mask, or None for a scan without one.
        patient: Cases of one patient are never split between training and validation.
        role: The list that the case came from; None where the dataset has no such lists.
        relabelled: Own and new values of a mask whose labels are changed as it is read, others becoming 0; empty where
            they stay.
        annotated: The label values, as the mask is read, of the classes that are marked wherever they are; a voxel of
            background may be any other class. None where every class is annotated.
    """

    id: str
    images: tuple[Path, ...]
    label: Path | None
    patient: str
    role: Role | None = None
    relabelled: tuple[tuple[int, int], ...] = ()
    annotated: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Region:
    """A structure that is a union of labels, and may lie in another one or overlap with it.

    Attributes:
        label: The value that label maps show for this region: its only value that no region painted after it has.
        values: The label values of its mask.
    """

    label: int
    values: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Task:
    """What a network was trained to do.

    Attributes:
        labels: The dataset's label values and names in the order of the network's classes, background first. With
            regions, the name of a value is that of the region that label maps have it for.
        channels: Names of the image channels.
        ignore: The label value of voxels that nobody has annotated, which are not scored; None where there is none.
        regions: What is trained and scored in the place of labels, in the order in which label maps are painted; empty
            where labels exclude each other.
    """

    labels: Mapping[int, str]
    channels: tuple[str, ...]
    ignore: int | None = None
    regions: tuple[Region, ...] = ()

    @property
    def outputs(self) -> tuple[int, ...]:
        """The label of each channel of the network's output: of each region, or of each class."""
        return tuple(region.label for region in self.regions) or tuple(self.labels)

    def values_of(self, label: int) -> tuple[int, ...]:
        """Return the values in a label map that a label's structure consists of."""
        return next((region.values for region in self.regions if region.label == label), (label,))


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """The scores of one class in one case: one flat row of ``cases.csv``.

    A class that is in neither mask (``absent``), or not annotated in the case, has None for every number of the second
    group. One that is in one mask alone has the worst value that there is, so that no structure gains by not being
    predicted.

    Attributes:
        case: The case's id.
        patient: Whose scan it is; the case's id where no patients are known.
        label: The dataset's own value of the class.
        name: The class's name.
        outcome: ``scored`` (in both masks); ``absent`` (in neither); ``missed`` (in the truth only);
            ``false_positive`` (predicted only); ``not_annotated`` (nobody knows what the truth is).
        voxels_truth: Voxels of the class in the truth.
        voxels_predicted: Voxels of the class in the prediction.
        volume_truth_ml: Volume of the class in the truth.
        volume_predicted_ml: Volume of the class in the prediction.
        lesions_truth: Connected components of the truth (26 neighbours; 8 in 2-D).
        lesions_found: True components of which the prediction covers a tenth or more.
        lesions_missed: The other true components.
        lesions_false: Connected components of the prediction that the truth covers by less than a tenth.

        dice: In [0, 1]; 0 where missed or false positive.
        iou: Intersection over union, in [0, 1]; 0 likewise.
        precision: Share of the prediction that is true, in [0, 1]; 0 likewise.
        recall: Share of the truth that is predicted, in [0, 1]; 0 likewise.
        hd95_mm: 95th percentile of the surface distances; where missed or false positive, the diagonal of the scan's
            field of view, which no distance exceeds.
        assd_mm: Average symmetric surface distance; the diagonal likewise.
        surface_dice: Share of both surfaces that lies within a tolerance of the other, in [0, 1]; 0 likewise.
        volume_difference: Predicted less true volume, by the mean of the two, in [-2, 2]; -2 where missed, 2 where
            false positive.
        dice_expected: What the network itself expects its Dice to be, in [0, 1]; None also where there was no network.
        more: Further metrics that the recipe asks for under ``metrics``, by their names.
    """

    case: str
    patient: str = ""
    label: int
    name: str
    outcome: Outcome
    voxels_truth: int
    voxels_predicted: int
    volume_truth_ml: float = 0.0
    volume_predicted_ml: float = 0.0
    lesions_truth: int = 0
    lesions_found: int = 0
    lesions_missed: int = 0
    lesions_false: int = 0
    dice: float | None
    iou: float | None = None
    precision: float | None = None
    recall: float | None = None
    hd95_mm: float | None = None
    assd_mm: float | None = None
    surface_dice: float | None = None
    volume_difference: float | None = None
    dice_expected: float | None = None
    more: Mapping[str, float | None] = field(default_factory=dict)
