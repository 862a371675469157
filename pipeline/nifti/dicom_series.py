"""Read a folder that holds one series of DICOM files, a slice each, by SimpleITK.

Slices are placed by their own positions, never by the names of files or their numbers. Nothing of the headers but
geometry and voxels is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.nifti.container import MAX_BYTES, fault
from pipeline.nifti.itk_files import LPS_TO_RAS, found_bytes, simple_itk, voxels_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

# The mark of a DICOM file, behind a preamble of 128 bytes.
MARK = b"DICM"
PREAMBLE = 128
# The transfer syntax of a whole file that is packed: how much it unpacks to cannot be judged before.
DEFLATED = b"1.2.840.10008.1.2.1.99"
META_BYTES = 1024
SERIES = "0020|000e"
PHOTOMETRIC = "0028|0004"
GREY = ("MONOCHROME1", "MONOCHROME2")
# Of the mean distance between slices, or in mm: by how much one may differ.
UNEVEN = 0.02
UNEVEN_MM = 0.01
# Of a pixel: by how much slices may be displaced against each other over the whole series.
TILT = 0.1
# Of a cosine.
TURNED = 1e-4
TOOL = "convert the series with a tool made for it, such as dcm2niix, and name what it writes"


@dataclass(frozen=True, kw_only=True)
class _Slice:
    """One file: where its first pixel lies, the directions of its columns and rows, and what it holds."""

    path: Path
    origin: NDArray[np.float64]
    axes: NDArray[np.float64]
    spacing: tuple[float, ...]
    size: tuple[int, ...]
    series: str
    bytes: int


def is_series(folder: Path) -> bool:
    """Tell whether a folder holds DICOM files itself."""
    return folder.is_dir() and any(map(_is_dicom, _files(folder)))


def _files(folder: Path) -> list[Path]:
    found = (path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file())
    return sorted(path for path in found if path.name.upper() != "DICOMDIR")


def _is_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(PREAMBLE + len(MARK))[PREAMBLE:] == MARK
    except OSError:
        return False


def read_series(folder: Path) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Read the voxels ``[X, Y, Z]`` and the affine of a series.

    Raises:
        UserError: SimpleITK is not installed; the folder holds no series or several, a file of it is damaged, in
            colour or of another grid, or its slices are missing, unevenly spaced or displaced by a tilted gantry.
    """
    sitk = simple_itk(folder)
    slices, step = _looked_through(sitk, folder)
    first = slices[0]
    affine = np.eye(4)
    affine[:3, :3] = LPS_TO_RAS @ np.column_stack([first.axes * first.spacing[:2], step])
    affine[:3, 3] = LPS_TO_RAS @ first.origin
    planes = [_voxels(sitk, each) for each in slices]
    return np.concatenate(planes, axis=2), affine


def series_files(folder: Path) -> list[Path]:
    """Return the files of a series, in the order of its voxels' last axis; errors as of :func:`read_series`."""
    slices, _ = _looked_through(simple_itk(folder), folder)
    return [each.path for each in slices]


def _looked_through(sitk: Any, folder: Path) -> tuple[list[_Slice], NDArray[np.float64]]:
    """Return the slices of a series in their order along the body, and the step from one to the next in mm."""
    files = _files(folder)
    for path in files:
        if path.suffix.lower() == ".dcm" and not _is_dicom(path):
            raise fault(path, "bad-format", "is no DICOM file, against its name", "copy the series again")
    slices = [_look(sitk, path) for path in files if _is_dicom(path)]
    if not slices:
        raise fault(folder, "bad-format", "holds no DICOM file", "name the folder of a series")
    _refuse_unlike(folder, slices)
    if sum(each.bytes for each in slices) > MAX_BYTES:
        raise fault(folder, "too-large", f"takes over {MAX_BYTES / 2**30:g} GiB", "crop the series")
    return _placed(folder, slices)


def _look(sitk: Any, path: Path) -> _Slice:
    """Read the header of a file.

    Raises:
        UserError: It is damaged, in colour, several slices, or packed as a whole.
    """
    with path.open("rb") as file:
        if DEFLATED in file.read(META_BYTES):
            raise fault(path, "unsupported-file", "is packed as a whole (deflated)", TOOL)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO("GDCMImageIO")
    try:
        reader.ReadImageInformation()
        size = reader.GetSize()
        told = {key: reader.GetMetaData(key).strip() for key in (SERIES, PHOTOMETRIC) if reader.HasMetaDataKey(key)}
    except RuntimeError:
        raise fault(path, "bad-format", "is a damaged DICOM file, or one without an image", "copy it again") from None
    if reader.GetNumberOfComponents() > 1 or told.get(PHOTOMETRIC) not in GREY:
        raise fault(path, "not-grey", "is no grey image", "name a series of CT, MR or PET slices")
    if len(size) > 2 and size[2] > 1:
        raise fault(path, "unsupported-file", f"holds {size[2]} slices in one file", TOOL)
    held = found_bytes(sitk, reader)
    direction = np.reshape(reader.GetDirection(), (len(size), len(size)))
    if len(size) < 3 or not reader.HasMetaDataKey("0020|0032") or not reader.HasMetaDataKey("0020|0037"):
        raise fault(path, "bad-format", "does not tell where it lies", TOOL)
    return _Slice(
        path=path,
        origin=np.array(reader.GetOrigin()),
        axes=direction[:, :2],
        spacing=reader.GetSpacing(),
        size=size,
        series=told.get(SERIES, ""),
        bytes=held,
    )


def _refuse_unlike(folder: Path, slices: Sequence[_Slice]) -> None:
    if (count := len({each.series for each in slices})) > 1:
        raise fault(folder, "several-series", f"holds {count} series", "put each into a folder of its own")
    first = slices[0]
    for each in slices[1:]:
        alike = each.size == first.size and np.allclose(each.spacing[:2], first.spacing[:2], rtol=1e-4)
        if not alike or np.abs(each.axes - first.axes).max() > TURNED:
            message = "has other pixels, or lies in another direction, than the rest of its series"
            raise fault(each.path, "uneven-slices", message, TOOL)


def _placed(folder: Path, slices: Sequence[_Slice]) -> tuple[list[_Slice], NDArray[np.float64]]:
    """Return the slices in their order along the body, and the step from one to the next in mm.

    Raises:
        UserError: Some are missing, at one place, unevenly spaced, or displaced within their planes.
    """
    first = slices[0]
    normal = np.cross(first.axes[:, 0], first.axes[:, 1])
    ordered = sorted(slices, key=lambda each: float(each.origin @ normal))
    if len(ordered) == 1:
        return ordered, normal * first.spacing[2]
    places = np.array([each.origin for each in ordered])
    gaps = np.diff(places @ normal)
    mean = gaps.mean()
    if np.abs(gaps - mean).max() > max(UNEVEN * mean, UNEVEN_MM) or mean <= UNEVEN_MM:
        message = f"slices are {gaps.min():.4g} to {gaps.max():.4g} mm apart: some are missing, twice, or uneven"
        raise fault(folder, "uneven-slices", message, f"bring the missing ones back; else {TOOL}")
    across = places - places[0]
    across -= np.outer(across @ normal, normal)
    if np.linalg.norm(across, axis=1).max() > TILT * min(first.spacing[:2]):
        raise fault(folder, "gantry-tilt", "slices are displaced against each other, as by a tilted gantry", TOOL)
    return ordered, (places[-1] - places[0]) / (len(ordered) - 1)


def _voxels(sitk: Any, each: _Slice) -> NDArray[Any]:
    """Return the rescaled values of a slice ``[X, Y, 1]``; each file has a scaling of its own."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(each.path))
    reader.SetImageIO("GDCMImageIO")
    try:
        voxels = voxels_of(sitk, reader.Execute())
    except RuntimeError:
        raise fault(each.path, "bad-format", "is cut or damaged, or packed in an unknown way", TOOL) from None
    if voxels.dtype.kind == "f":
        return voxels.astype(np.float32)
    return voxels
