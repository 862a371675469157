"""Write the label map of a DICOM series as a DICOM segmentation (SEG), by highdicom."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import __version__
from pipeline.errors import Problem, UserError, first_line
from pipeline.files import atomic_write
from pipeline.nifti.container import fault
from pipeline.nifti.dicom_series import is_series, series_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

# Codes of our own: a dataset's label has a name, and nobody has said which of a terminology's concepts it is.
SCHEME = "99FEWMASK"
SERIES_NUMBER = 900
# What pydicom and highdicom raise where a header lacks something, or says it in no way that DICOM knows.
FAULTS = (AttributeError, IndexError, KeyError, TypeError, ValueError)


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A structure of a segmentation.

    Attributes:
        label: Its value.
        name: Of the structure.
        values: Of a label map, where the structure is; others may share them.
        colour: To show it in, ``#rrggbb``.
    """

    label: int
    name: str
    values: tuple[int, ...]
    colour: str


def refuse_unsuited(scans: Iterable[Path]) -> None:
    """Refuse to write DICOM segmentations where that cannot be done.

    Raises:
        UserError: highdicom is not installed, or scans are no DICOM series, with each of them.
    """
    leave = "leave out --dicom-seg"
    if find_spec("highdicom") is None:
        message = "is written by highdicom, which is not installed"
        problems = [Problem("--dicom-seg", "no-library", message, f"pip install 'fewmask[dicom]', or {leave}")]
    else:
        message = "is no folder of a DICOM series, to whose headers a DICOM segmentation could refer"
        problems = [Problem(str(scan), "no-series", message, leave) for scan in scans if not is_series(scan)]
    if problems:
        raise UserError("Nothing was predicted.", problems)


def write_segmentation(
    path: Path, series: Path, labels: NDArray[Any], segments: Sequence[Segment], made_of: Mapping[str, str]
) -> None:
    """Write a label map as one file, in which each segment has the planes that it is in.

    Patient, study and frame of reference are those of the series, to which a viewer attaches the segmentation.

    Args:
        path: The file to write, complete or not at all.
        series: The folder of the series.
        labels: ``[X, Y, Z]``, as :func:`~pipeline.nifti.dicom_series.read_series` orders the voxels.
        segments: One or more; where there is nothing of any, the first has a plane of zeros.
        made_of: What to tell of the model and its settings; the same ones give a series the same identifiers.

    Raises:
        UserError: The headers lack what a segmentation has to repeat of them.
    """
    import highdicom as hd
    import pydicom
    from pydicom.uid import generate_uid

    descriptions = [_description(n, each, made_of) for n, each in enumerate(segments, 1)]
    planes = _planes(labels, segments)
    try:
        images = [pydicom.dcmread(file, stop_before_pixels=True) for file in series_files(series)]
        about = [images[0].SeriesInstanceUID, *map(str, made_of.items())]
        found = hd.seg.Segmentation(
            source_images=images,
            pixel_array=planes,
            segmentation_type="BINARY",
            segment_descriptions=descriptions,
            series_instance_uid=generate_uid(entropy_srcs=[*about, "series"]),
            series_number=SERIES_NUMBER,
            sop_instance_uid=generate_uid(entropy_srcs=[*about, "file"]),
            instance_number=1,
            manufacturer="Fewmask",
            manufacturer_model_name="Fewmask",
            software_versions=__version__,
            device_serial_number="none",
            content_label="SEGMENTATION",
        )
    except FAULTS as error:
        message = f"has headers that a DICOM segmentation cannot refer to: {first_line(error)}"
        raise fault(series, "bad-format", message, "leave out --dicom-seg for it") from error
    with atomic_write(path) as partial:
        found.save_as(partial)


def _planes(labels: NDArray[Any], segments: Sequence[Segment]) -> NDArray[np.uint8]:
    """Return ``[Z, Y, X]`` of segment numbers, or ``[Z, Y, X, S]`` of 0 and 1 where segments share voxels."""
    planes = labels.transpose(2, 1, 0)
    values = [value for each in segments for value in each.values]
    if len(set(values)) < len(values):
        return np.stack([np.isin(planes, each.values) for each in segments], axis=-1).astype(np.uint8)
    numbers = np.zeros(planes.shape, np.uint8)
    for number, each in enumerate(segments, 1):
        numbers[np.isin(planes, each.values)] = number
    return numbers


def _description(number: int, segment: Segment, made_of: Mapping[str, str]) -> Any:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    red, green, blue = (int(segment.colour[place : place + 2], 16) for place in (1, 3, 5))
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=segment.name[:64],
        segmented_property_category=codes.SCT.AnatomicalStructure,
        segmented_property_type=hd.sr.CodedConcept(str(segment.label), SCHEME, segment.name[:64]),
        algorithm_type="AUTOMATIC",
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name="Fewmask",
            family=codes.DCM.ArtificialIntelligence,
            version=__version__,
            parameters=dict(made_of),
        ),
        display_color=hd.color.CIELabColor.from_rgb(red, green, blue),
    )
