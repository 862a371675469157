"""Parse the header of a NIfTI-1 or NIfTI-2 file, and refuse one that makes no sense.

The rules are those of the standard's ``nifti1.h`` and ``nifti2.h``; where it leaves a choice, nibabel's is taken, so
that both place a voxel at the same point.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pipeline.errors import Problem
from pipeline.nifti.container import BY_ITS_TOOL, fault
from pipeline.nifti.forms import SQUARE_ERROR, Forms

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Affine = NDArray[np.float64]

# Fields of the two versions: struct format and offset of each.
FIELDS = {
    1: {
        "dim": ("8h", 40),
        "datatype": ("h", 70),
        "bitpix": ("h", 72),
        "pixdim": ("8f", 76),
        "vox_offset": ("f", 108),
        "scl_slope": ("f", 112),
        "scl_inter": ("f", 116),
        "xyzt_units": ("B", 123),
        "qform_code": ("h", 252),
        "sform_code": ("h", 254),
        "quatern": ("3f", 256),
        "qoffset": ("3f", 268),
        "srow": ("12f", 280),
    },
    2: {
        "dim": ("8q", 16),
        "datatype": ("h", 12),
        "bitpix": ("h", 14),
        "pixdim": ("8d", 104),
        "vox_offset": ("q", 168),
        "scl_slope": ("d", 176),
        "scl_inter": ("d", 184),
        "xyzt_units": ("i", 500),
        "qform_code": ("i", 344),
        "sform_code": ("i", 348),
        "quatern": ("3d", 352),
        "qoffset": ("3d", 376),
        "srow": ("12d", 400),
    },
}
SIZES = {1: 348, 2: 540}
MAGICS = {1: (344, b"n+1\0"), 2: (4, b"n+2\0\r\n\032\n")}
DATATYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
# Datatypes that are not one real number per voxel, or, as a long double, differ between machines.
NOT_REAL = {
    1: "bits",
    32: "complex numbers",
    1792: "complex numbers",
    2048: "complex numbers",
    128: "colours",
    2304: "colours",
    1536: "128-bit floats",
}
# Above this cosine between two axes a grid counts as sheared; below this volume of its unit axes it counts as flat.
SHEAR_COSINE = 1e-3
FLAT_VOLUME = 1e-3


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a sound header says.

    Attributes:
        version: 1 or 2.
        order: ``<`` or ``>``: the byte order.
        dims: The length of each axis in the file, two to four of them.
        dtype: Of the stored voxels, with their byte order.
        offset: Byte of the unpacked file at which the voxels begin.
        slope: Factor of the stored values; 1 where the header does not scale.
        inter: Added to the scaled values; 0 where the header does not scale.
        forms: Where the voxels lie.
        units: The byte that names the units of space and time.
        notes: Warnings.
    """

    version: Literal[1, 2]
    order: str
    dims: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    slope: float
    inter: float
    forms: Forms
    units: int
    notes: tuple[Problem, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along the three axes of space; a 2-D file has one slice."""
        return self.forms.shape

    @property
    def channels(self) -> int:
        """Length of the fourth axis, or 1."""
        if len(self.dims) > 3:
            return self.dims[3]
        return 1

    @property
    def promised(self) -> int:
        """Bytes that header, extensions and voxels take."""
        return self.offset + self.dtype.itemsize * math.prod(self.dims)

    @property
    def affine(self) -> Affine:
        """Voxel indices to mm, 4x4."""
        return self.forms.affine


def parse_header(path: Path, head: bytes) -> Header:
    """Parse the first bytes of an unpacked NIfTI file.

    Args:
        path: What to call the file in messages.
        head: At least 540 bytes, or all that there is.

    Raises:
        UserError: They are no NIfTI header, or one whose values are impossible.
    """
    version, order, notes = _recognise(path, head)
    if len(head) < SIZES[version]:
        raise fault(path, "not-nifti", "ends inside its header", "copy or download the file again")
    fields = {name: struct.unpack_from(order + form, head, at) for name, (form, at) in FIELDS[version].items()}
    rank, *dims = fields["dim"]
    if not 1 <= rank <= 7 or any(n < 1 for n in dims[:rank]):
        raise fault(path, "bad-dimensions", f"the header's dim is {[rank, *dims]}", BY_ITS_TOOL)
    slope, inter = _scaling(path, fields["scl_slope"][0], fields["scl_inter"][0])
    lengths = _dims(path, dims[:rank])
    header = Header(
        version=version,
        order=order,
        dims=lengths,
        dtype=_dtype(path, fields["datatype"][0], fields["bitpix"][0], order),
        offset=_offset(path, fields["vox_offset"][0], version),
        slope=slope,
        inter=inter,
        forms=Forms(
            shape=_space(lengths),
            pixdim=fields["pixdim"][:4],
            qform_code=max(0, fields["qform_code"][0]),
            quatern=fields["quatern"],
            qoffset=fields["qoffset"],
            sform_code=max(0, fields["sform_code"][0]),
            srow=fields["srow"],
        ),
        units=fields["xyzt_units"][0],
        notes=notes,
    )
    _refuse_affine(path, header)
    return header


def check_extensions(path: Path, header: Header, body: bytes) -> None:
    """Refuse extensions that do not fit between the header and the voxels.

    Raises:
        UserError: One is shorter than its own frame, has a size that is no multiple of 16, or runs into the voxels.
    """
    place = SIZES[header.version] + 4
    if header.offset < place or body[place - 4] == 0:
        return
    while place + 8 <= header.offset:
        (size,) = struct.unpack_from(header.order + "i", body, place)
        if size < 8 or size % 16 or place + size > header.offset:
            message = f"the header has an extension of {size} bytes, where {header.offset - place} are left"
            raise fault(path, "bad-extension", message, BY_ITS_TOOL)
        place += size


def _recognise(path: Path, head: bytes) -> tuple[Literal[1, 2], str, tuple[Problem, ...]]:
    """Return version, byte order and warnings: by the header's own size, or else by magic and number of axes."""
    versions: tuple[Literal[1, 2], ...] = (1, 2)
    for version in versions:
        at, magic = MAGICS[version]
        if head[at : at + len(magic)] != magic:
            continue
        for order in "<>":
            if struct.unpack_from(order + "i", head)[0] == SIZES[version]:
                return version, order, ()
        form, place = FIELDS[version]["dim"]
        for order in "<>":
            if len(head) >= SIZES[version] and 1 <= struct.unpack_from(order + form, head, place)[0] <= 7:
                message = f"the header says that it has {struct.unpack_from(order + 'i', head)[0]} bytes"
                note = Problem(str(path), "header-size", f"{message}, not {SIZES[version]}", BY_ITS_TOOL)
                return version, order, (note,)
    if head[344:347] == b"ni1" or head[4:7] == b"ni2":
        raise fault(path, "not-nifti", "is the header of a pair of files", "convert the pair to one .nii.gz")
    raise fault(path, "not-nifti", "is no NIfTI file: its header has no magic", "convert it to NIfTI")


def _dims(path: Path, dims: list[int]) -> tuple[int, ...]:
    if len(dims) > 4 and math.prod(dims[4:]) > 1:
        raise fault(path, "too-many-axes", f"has shape {tuple(dims)}", "save one 3-D or 4-D volume a file")
    if len(dims) < 2:
        raise fault(path, "too-few-axes", f"has shape {tuple(dims)}", "save a 2-D or 3-D image")
    return tuple(dims[:4])


def _space(dims: tuple[int, ...]) -> tuple[int, int, int]:
    x, y, z = (*dims, 1, 1)[:3]
    return x, y, z


def _scaling(path: Path, slope: float, inter: float) -> tuple[float, float]:
    if slope == 0:  # By the standard: not scaled, whatever inter says.
        return 1.0, 0.0
    if not (math.isfinite(slope) and math.isfinite(inter)):
        raise fault(path, "bad-scaling", f"the header scales by {slope:g} and adds {inter:g}", BY_ITS_TOOL)
    return slope, inter


def _dtype(path: Path, datatype: int, bitpix: int, order: str) -> np.dtype[Any]:
    remedy = "write the file again as int16 or float32"
    if datatype in NOT_REAL:
        message = f"holds {NOT_REAL[datatype]}"
        raise fault(path, "bad-datatype", message, "convert it to one real number a voxel, of at most 64 bits")
    if datatype not in DATATYPES:
        raise fault(path, "bad-datatype", f"the header's datatype {datatype} is unknown", remedy)
    dtype = np.dtype(order + DATATYPES[datatype])
    if dtype.itemsize * 8 != bitpix:
        message = f"datatype has {dtype.itemsize * 8} bits, bitpix says {bitpix}"
        raise fault(path, "bad-datatype", message, remedy)
    return dtype


def _offset(path: Path, offset: float, version: int) -> int:
    if not math.isfinite(offset) or offset < SIZES[version]:
        message = f"the header's vox_offset is {offset:g}, inside the header"
        raise fault(path, "bad-offset", message, BY_ITS_TOOL)
    return int(offset)


def _refuse_affine(path: Path, header: Header) -> None:
    """Refuse forms that are not finite, a qform that is no rotation, and an affine whose voxels have no volume."""
    forms = header.forms
    remedy = "write the file again with a valid sform"
    if forms.qform_code and not sum(part * part for part in forms.quatern) <= 1 + SQUARE_ERROR:
        raise fault(path, "bad-affine", "the qform is no rotation", "write the file again with a valid qform")
    for form in (forms.affine, forms.qform):
        if form is not None and not np.isfinite(form).all():
            raise fault(path, "bad-affine", "the affine holds NaN or infinity", remedy)
    matrix = header.affine[:3, :3]
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        unit = matrix / np.linalg.norm(matrix, axis=0)
        # Of lengths whose squares are below the smallest number, the determinant is infinite.
        flat = not FLAT_VOLUME <= abs(np.linalg.det(unit)) < np.inf
    if flat:
        raise fault(path, "bad-affine", "the affine is singular: voxels have no volume", remedy)


def is_sheared(affine: Affine) -> bool:
    """Tell whether the axes of a grid do not stand at right angles.

    >>> is_sheared(np.eye(4)), is_sheared(np.array([[1, 0.1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]))
    (False, True)
    """
    unit = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(unit.T @ unit - np.eye(3)).max() > SHEAR_COSINE)
