"""What may be asked for beside the masks of a call."""

from __future__ import annotations

import re
from collections.abc import Sequence  # noqa: TC003 - its types are read
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from pipeline.errors import Problem, UserError, nearest
from pipeline.reports.label_tables import LABEL_TABLES
from pipeline.signatures import checked

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.types import Task

PROBABILITIES = "probabilities"
ENTROPY = "entropy"
DICOM_SEG = "dicom-seg"
VOLUMES = "volumes.csv"
REPORT = "report.html"
# A folder's name holds so many letters of a label's.
LETTERS = 60


@dataclass(frozen=True, kw_only=True)
class Beside:
    """What is written beside the masks, in their folder.

    Attributes:
        probabilities: The probability of every label before post-processing, in probabilities/.
        entropy: How much in doubt each voxel is, 0 to 1, in entropy/.
        labels: Names or values of the labels that masks hold, the others becoming background; none is all.
        split_labels: A mask of each label alone, in VALUE-NAME/.
        dicom_seg: A DICOM segmentation of each scan, in dicom-seg/; all scans are folders of DICOM series.
        volumes: How large each structure is, in volumes.csv.
        label_tables: Names and colours of labels: labels.json, and the same for ITK-SNAP and 3D Slicer.
        report: A page to look at, the least sure masks first: report.html, and volumes.csv.
    """

    probabilities: bool = False
    entropy: bool = False
    labels: Sequence[str | int] = ()
    split_labels: bool = False
    dicom_seg: bool = False
    volumes: bool = False
    label_tables: bool = False
    report: bool = False

    def __post_init__(self) -> None:
        checked(Beside, vars(self))

    @property
    def maps(self) -> int:
        """How many maps are made on the way."""
        return self.probabilities + self.entropy

    def files(self) -> tuple[str, ...]:
        """Return the files that there is one of in the folder."""
        volumes = (VOLUMES,) if self.volumes or self.report else ()
        return volumes + (LABEL_TABLES if self.label_tables else ()) + ((REPORT,) if self.report else ())

    def options(self, more: Mapping[str, bool]) -> list[str]:
        """Return the options of the command that need a folder, beside others that do."""
        names = [field.name for field in fields(self) if field.name != "labels"]
        own = {f"--{name.replace('_', '-')}": getattr(self, name) for name in names}
        return [option for option, asked in (dict(more) | own).items() if asked]

    def files_with(self, mask: str, labels: Mapping[int, str]) -> tuple[str, ...]:
        """Return the files that there is one of for each mask, each in a folder of its own.

        Args:
            mask: The mask's name.
            labels: As :func:`chosen_labels` returns them.
        """
        folders = [name for name, asked in ((PROBABILITIES, self.probabilities), (ENTROPY, self.entropy)) if asked]
        folders += self.split(labels).values() if self.split_labels else ()
        files = [f"{folder}/{mask}" for folder in folders]
        return (*files, segmentation_of(mask)) if self.dicom_seg else tuple(files)

    def split(self, labels: Mapping[int, str]) -> dict[int, str]:
        """Return the folder of each label's own masks.

        >>> Beside().split({1: "left/right", 12: "ä b"})
        {1: '1-left-right', 12: '12-ä-b'}
        """
        return {label: f"{label}-{_letters(name)}".rstrip("-") for label, name in labels.items()}


NOTHING_ELSE = Beside()


def segmentation_of(mask: str) -> str:
    """Return the file of a mask's DICOM segmentation.

    >>> segmentation_of("series.nii.gz")
    'dicom-seg/series.dcm'
    """
    return f"{DICOM_SEG}/{mask.removesuffix('.nii.gz')}.dcm"


def chosen_labels(wanted: Sequence[str | int], task: Task) -> dict[int, str]:
    """Return values and names of the labels that masks are to hold, without background.

    Args:
        wanted: Names or values; none is all.
        task: What a model was trained to do.

    Raises:
        UserError: One is no label of the task, or is the background.
    """
    known = {label: name for label, name in task.labels.items() if label != 0}
    by_word = {str(label): label for label in known} | {name: label for label, name in known.items()}
    words = [str(word) for word in wanted]
    if unknown := [word for word in words if word not in by_word]:
        problems = [
            Problem(f"--labels {word}", "no-label", "is no label of the model", nearest(word, by_word))
            for word in unknown
        ]
        raise UserError("Nothing was predicted.", problems)
    chosen = {by_word[word] for word in words}
    return {label: name for label, name in known.items() if not wanted or label in chosen}


def _letters(name: str) -> str:
    """Return what of a name any file system takes."""
    return re.sub(r"[^\w.]+", "-", name[:LETTERS]).strip("-.")
