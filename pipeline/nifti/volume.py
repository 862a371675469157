"""Read NIfTI files to their last byte, and write label maps on a scan's own grid.

A file is read whole, unpacked to its end (``container``) and measured against its header (``header``) before a voxel
of it is used.
"""

from __future__ import annotations

import gzip
import hashlib
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.files import atomic_write
from pipeline.nifti.container import HEAD, SUFFIXES, fault, is_nifti, read_container, stem
from pipeline.nifti.dicom_series import is_series, read_series
from pipeline.nifti.header import Header, check_extensions, parse_header
from pipeline.nifti.itk_files import is_itk_file, read_itk

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import ArrayLike, NDArray

    from pipeline.errors import Problem
    from pipeline.nifti.forms import Forms

__all__ = ["SUFFIXES", "Scan", "is_nifti", "load", "save_labels", "save_volume", "save_volumes", "scan_of", "stem"]

# Types that NIfTI has no code for, and narrow ones that hold the same values.
WIDENED: dict[str, type[np.generic]] = {"bool": np.uint8, "float16": np.float32}


@dataclass(frozen=True, kw_only=True)
class Scan:
    """A NIfTI file that was read whole and found sound.

    Attributes:
        path: The file.
        sha256: Of the file's bytes.
        header: What its header says.
        body: Its unpacked bytes.
        notes: Warnings.
    """

    path: Path
    sha256: str
    header: Header
    body: bytes
    notes: tuple[Problem, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along the three axes of space; a 2-D file has one slice."""
        return self.header.shape

    @property
    def channels(self) -> int:
        """Length of the fourth axis, or 1."""
        return self.header.channels

    @property
    def affine(self) -> NDArray[np.float64]:
        """Voxel indices to mm, 4x4."""
        return self.header.affine

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Size of a voxel along each axis."""
        return self.header.forms.spacing_mm

    @cached_property
    def stored(self) -> NDArray[Any]:
        """Values as they are in the file, ``[C, X, Y, Z]``: read-only, and no copy where the byte order is ours."""
        header = self.header
        count = header.channels * header.shape[0] * header.shape[1] * header.shape[2]
        flat = np.frombuffer(self.body, header.dtype, count, header.offset)
        array = flat.reshape(*header.shape, header.channels, order="F")
        return np.moveaxis(array.astype(header.dtype.newbyteorder("="), copy=False), 3, 0)

    @cached_property
    def voxels(self) -> NDArray[Any]:
        """Scaled values ``[C, X, Y, Z]``: float32, or the file's own integers where it has no scaling."""
        stored = self.stored
        if not self._is_scaled:
            if stored.dtype.kind in "iu":
                return stored
            return self._scaled(stored)
        scaled = np.empty(stored.shape, np.float32, order="F")
        for z in range(stored.shape[3]):
            scaled[..., z] = self._scaled(stored[..., z])
        return scaled

    def plane(self, channel: int, z: int) -> NDArray[np.float32]:
        """Return scaled values ``[X, Y]`` of one plane of the third axis, float32; the others are not touched."""
        return self._scaled(self.stored[channel, :, :, z]).astype(np.float32, copy=False)

    @property
    def _is_scaled(self) -> bool:
        return (self.header.slope, self.header.inter) != (1, 0)

    def _scaled(self, stored: NDArray[Any]) -> NDArray[Any]:
        with np.errstate(
            over="ignore", invalid="ignore"
        ):  # What float32 cannot hold is infinite: the check reports it.
            if not self._is_scaled:
                return stored.astype(np.float32, copy=False)
            scaled: NDArray[np.float32] = (stored * np.float64(self.header.slope) + self.header.inter).astype(
                np.float32
            )
            return scaled

    @property
    def labels(self) -> NDArray[Any]:
        """A mask's label values ``[X, Y, Z]`` as integers, of the file's own type where it holds integers."""
        voxels: NDArray[Any] = self.voxels[0]
        if voxels.dtype.kind in "iu":
            return voxels
        return voxels.round().astype(np.int32)


def load(path: Path) -> Scan:
    """Read and verify one NIfTI file; or an NRRD or MetaImage file, or a folder of a DICOM series, by SimpleITK.

    What SimpleITK reads becomes the scan that it would be as NIfTI, and has the hash of that.

    Raises:
        UserError: The file is missing, empty, cut, corrupt or no NIfTI, or its header makes no sense. The one problem
            in it says which, and the remedy.
    """
    if is_itk_file(path):
        return _named(path, *read_itk(path))
    if is_series(path):
        return _named(path, *read_series(path))
    headers: list[Header] = []

    def promised(head: bytes) -> int:
        headers.append(parse_header(path, head))
        return headers[0].promised

    container = read_container(path, promised)
    (header,) = headers
    check_extensions(path, header, container.body)
    return Scan(
        path=path, sha256=container.sha256, header=header, body=container.body, notes=container.notes + header.notes
    )


def scan_of(voxels: ArrayLike, affine: ArrayLike, name: str, header: Any = None) -> Scan:
    """Return the scan that an array would be, written to a NIfTI file and read again.

    Args:
        voxels: ``[X, Y]``, ``[X, Y, Z]`` or ``[X, Y, Z, C]``.
        affine: Voxel indices to mm, 4x4.
        name: What to call it in messages.
        header: The nibabel header of the array, if it has one. Its units are kept, and its qform and sform if they
            agree with ``affine``.

    Raises:
        UserError: A NIfTI file cannot hold it, or its grid makes no sense.
    """
    import nibabel as nib  # slow to import, and reading files does without
    from nibabel.spatialimages import HeaderDataError

    array = np.asanyarray(voxels)
    if (wider := WIDENED.get(array.dtype.name)) is not None:
        array = array.astype(wider)
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    known = header if isinstance(header, nib.Nifti1Header) else None  # That of another format has no forms.
    try:
        with np.errstate(all="ignore"):  # A grid that is none is refused below.
            body = kind(array, np.asarray(affine, np.float64), known, dtype=array.dtype).to_bytes()
    except (ValueError, HeaderDataError) as error:
        what = str(error).partition(":")[0].partition("\n")[0]
        raise fault(Path(name), "not-nifti", f"is nothing that NIfTI can hold: {what}", "convert it first") from None
    found = parse_header(Path(name), body[:HEAD])
    return Scan(path=Path(name), sha256=hashlib.sha256(body).hexdigest(), header=found, body=body, notes=found.notes)


def _named(path: Path, voxels: NDArray[Any], affine: NDArray[np.float64]) -> Scan:
    import nibabel as nib  # slow to import, and reading NIfTI does without

    header = nib.Nifti1Header()
    header.set_xyzt_units("mm")
    return scan_of(voxels, affine, str(path), header)


def save_labels(path: Path, labels: NDArray[Any], like: Scan) -> None:
    """Write a label map on exactly the grid of ``like``: its shape, affine and forms, and nothing else of its header.

    Args:
        path: The file to write, complete or not at all.
        labels: The dataset's label values ``[X, Y, Z]``; kept in the narrowest unsigned or signed type that holds them.
        like: The scan that was segmented.

    Raises:
        ValueError: The label map's shape is not the scan's.
    """
    if labels.shape != like.shape:
        raise ValueError(f"the label map has shape {labels.shape}; the scan {like.path} has {like.shape}")
    low = int(labels.min(initial=0))
    high = int(labels.max(initial=0))
    dtype = np.min_scalar_type(high if low >= 0 else min(low, -1 - high))
    save_volume(path, labels.astype(dtype).reshape(like.header.dims[:3]), like.header)


def save_volume(path: Path, voxels: NDArray[Any], header: Header) -> None:
    """Write voxels ``[X, Y, Z]`` or ``[X, Y, Z, C]`` with the grid, forms and units of a header, and no text of it.

    Args:
        path: The file to write, complete or not at all; gzipped where its name ends in ``.gz``.
        voxels: The values, in the type to be stored.
        header: The file gets its version, affine, forms and units.
    """
    image = _image(voxels, header)
    # Without an affine, or nibabel would replace a quaternion of which it thinks otherwise than the NIfTI C library.
    data = type(image)(voxels, None, image.header).to_bytes()
    if path.name.lower().endswith(".gz"):
        data = gzip.compress(data, compresslevel=6, mtime=0)  # mtime=0: the same mask is the same file
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def save_volumes(path: Path, volumes: Iterable[NDArray[Any]], count: int, like: Scan, slope: float) -> None:
    """Write volumes one after the other, so that no two of them are in memory, on exactly the grid of a scan.

    Args:
        path: The file to write, complete or not at all; gzipped where its name ends in ``.gz``.
        volumes: ``[X, Y, Z]`` each, of type uint8, with X running fastest.
        count: How many there are; of more than one, they lie along the fourth axis.
        like: The scan.
        slope: What a stored 1 stands for.
    """
    dims = like.header.dims[:3] if count == 1 else (*like.shape, count)
    header = _image(np.broadcast_to(np.uint8(0), dims), like.header).header
    header.set_slope_inter(slope, 0)
    header["magic"] = header.single_magic
    header["vox_offset"] = header.single_vox_offset
    head = header.binaryblock.ljust(header.single_vox_offset, b"\0")
    with atomic_write(path) as temporary, temporary.open("wb") as plain:
        packed = path.name.lower().endswith(".gz")
        # Level 6 takes five times as long for bytes that are like noise, and saves a fifteenth of them.
        stream = gzip.GzipFile("", "wb", 1, plain, 0) if packed else nullcontext(plain)
        with stream as file:
            file.write(head)
            for volume in volumes:
                file.write(volume.T.data)


def _image(voxels: NDArray[Any], header: Header) -> Any:
    """Return a nibabel image of voxels with the grid, forms and units of a header."""
    import nibabel as nib  # slow to import, and reading does without

    kind = nib.Nifti1Image if header.version == 1 else nib.Nifti2Image
    image = kind(voxels, header.affine, dtype=voxels.dtype)  # Said, or 64-bit integers are refused.
    # Units and codes as they are, since some tools leave values that nibabel's own setters refuse.
    image.header["xyzt_units"] = header.units
    _set_forms(image.header, header.forms)
    return image


def _set_forms(written: Any, forms: Forms) -> None:
    """Give a nibabel header the very numbers that place a scan: computed anew, they would differ in the last digit."""
    # A form whose code is 0 may hold anything; it is written as zeros.
    srow: tuple[float, ...] = (0.0,) * 12
    quatern: tuple[float, ...] = (0.0,) * 3
    qoffset: tuple[float, ...] = (0.0,) * 3
    if forms.sform_code:
        srow = forms.srow
    if forms.qform_code:
        quatern = forms.quatern
        qoffset = forms.qoffset
    for number, axis in enumerate("xyz"):
        written[f"srow_{axis}"] = srow[4 * number : 4 * number + 4]
        written[f"qoffset_{axis}"] = qoffset[number]
        written[f"quatern_{'bcd'[number]}"] = quatern[number]
    written["sform_code"] = forms.sform_code
    written["qform_code"] = forms.qform_code
    if np.isfinite(forms.pixdim).all():
        written["pixdim"][: len(forms.pixdim)] = forms.pixdim
