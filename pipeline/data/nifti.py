"""Read NIfTI files to their last byte, and write label maps on a scan's own grid.

``nibabel.load`` and MONAI's reader accept a gzip whose checksum is wrong or missing and a body that is cut. Here a file
is read whole, decompressed to its end and measured against its header before a voxel of it is used.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import zlib
from codecs import BOM_UTF8
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from pipeline.errors import Problem, UserError
from pipeline.files import atomic_write

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SUFFIXES = (".nii.gz", ".nii")
GZIP_MAGIC = b"\x1f\x8b"
# Deflate cannot shrink further than this, so a header that promises more is wrong before anything is unpacked.
DEFLATE_MAX_RATIO = 1032


@dataclass(frozen=True)
class Scan:
    """A NIfTI file that was read whole and found sound.

    Attributes:
        path: The file.
        sha256: Of the file's bytes.
        image: nibabel's image over the unpacked bytes.
    """

    path: Path
    sha256: str
    image: Any

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along the three axes of space; a 2-D file has one slice."""
        x, y, z = (*self.image.shape, 1, 1)[:3]
        return int(x), int(y), int(z)

    @property
    def channels(self) -> int:
        """Length of the fourth axis, or 1."""
        return int(self.image.shape[3]) if self.image.ndim > 3 else 1

    @property
    def affine(self) -> NDArray[np.float64]:
        """Voxel indices to mm, 4x4."""
        return np.asarray(self.image.affine, dtype=np.float64)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Lengths of the affine's columns."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @cached_property
    def voxels(self) -> NDArray[Any]:
        """Scaled values ``[C, X, Y, Z]``: float32, or the file's own integers where it has no scaling."""
        # nibabel moves the scaling out of the header, into the proxy.
        stored = self.image.dataobj
        unscaled = (stored.slope, stored.inter) == (1, 0)
        integers = self.image.get_data_dtype().kind in "iu" and unscaled
        with np.errstate(over="ignore"):  # What float32 cannot hold is infinite, which the check reports.
            array = np.asanyarray(stored) if integers else self.image.get_fdata("unchanged", np.float32)
        return np.moveaxis(array.reshape(*self.shape, self.channels), 3, 0)

    @property
    def labels(self) -> NDArray[Any]:
        """A mask's label values ``[X, Y, Z]`` as integers, of the file's own type where it holds integers."""
        voxels: NDArray[Any] = self.voxels[0]
        return voxels if voxels.dtype.kind in "iu" else voxels.round().astype(np.int32)


def stem(path: Path) -> str:
    """Return a file's name without ``.nii`` or ``.nii.gz``.

    >>> from pathlib import Path
    >>> stem(Path("scans/case.01.nii.gz"))
    'case.01'
    """
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.name


def is_nifti(path: Path) -> bool:
    """Tell by its name whether a path is a NIfTI file that is not hidden."""
    return path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".")


def load(path: Path) -> Scan:
    """Read and verify one NIfTI file.

    Raises:
        UserError: The file is missing, empty, cut, corrupt or no NIfTI, or its header makes no sense. The one problem
            in it says which, and the remedy.
    """
    raw = _read_bytes(path)
    body = _unpack(path, raw)
    image = _parse(path, body)
    _check_geometry(path, image)
    return Scan(path, hashlib.sha256(raw).hexdigest(), image)


def _fault(path: Path, code: str, message: str, remedy: str) -> UserError:
    return UserError(f"{path} cannot be used.", [Problem(str(path), code, message, remedy)])


def _read_bytes(path: Path) -> bytes:
    if not path.exists():
        raise _fault(path, "missing-file", "there is no such file", "check the path, or take the case out of the list")
    if not path.is_file():
        raise _fault(path, "not-a-file", "is a folder or a device, not a file", "name the NIfTI file itself")
    if path.stat().st_size == 0:
        raise _fault(path, "empty-file", "has 0 bytes", "copy or download the file again")
    try:
        return path.read_bytes()
    except OSError as error:
        raise _fault(
            path, "unreadable", f"cannot be read: {error.strerror}", "check its permissions and the disk"
        ) from None


def _unpack(path: Path, raw: bytes) -> bytes:
    """Return the NIfTI bytes, unpacked to the end so that no wrong checksum is missed."""
    named_gzip, is_gzip = path.name.lower().endswith(".gz"), raw.startswith(GZIP_MAGIC)
    if not is_gzip and raw.startswith(b"version https://git-lfs"):
        raise _fault(path, "lfs-pointer", "is a git-LFS pointer, not the scan", "run `git lfs pull` in its repository")
    if not is_gzip and raw[:64].removeprefix(BOM_UTF8).lstrip()[:1] == b"<":
        raise _fault(path, "web-page", "is a web page or XML, not a scan", "download the file again, logged in")
    if named_gzip != is_gzip:
        kind, name = ("gzip", f"{stem(path)}.nii.gz") if is_gzip else ("not gzip", f"{stem(path)}.nii")
        raise _fault(path, "misnamed", f"is {kind}, against its name", f"rename it to {name}, if it is a NIfTI file")
    if not is_gzip:
        return raw
    try:
        with gzip.open(io.BytesIO(raw)) as stream:
            head = stream.read(540)
            expected = _expected_bytes(path, head)
            if expected > len(raw) * DEFLATE_MAX_RATIO:
                raise _truncated(path, expected, len(raw))
            body = head + stream.read(max(0, expected - len(head)))
            _drain(path, stream)
    except EOFError:
        raise _fault(
            path, "truncated-gzip", "the gzip stream ends too early", "copy or download the file again"
        ) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        message = f"the gzip stream is damaged: {error}"
        raise _fault(path, "corrupt-gzip", message, "copy or download the file again") from None
    return body


def _drain(path: Path, stream: gzip.GzipFile) -> None:
    """Read on to the checksum."""
    while block := stream.read(1 << 20):
        _refuse_trailing(path, block)


def _refuse_trailing(path: Path, block: bytes) -> None:
    """Accept padding zeros behind the voxels; anything else is somebody else's bytes."""
    if block.strip(b"\0"):
        raise _fault(path, "trailing-bytes", "has data behind the voxels", "write the file again with its own tool")


def _truncated(path: Path, expected: int, got: int) -> UserError:
    message = f"the header promises {expected} bytes and the file holds {got}"
    return _fault(path, "truncated", message, "copy or download the file again")


def _header(path: Path, head: bytes) -> Any:
    kinds = {540: nib.Nifti2Header, 348: nib.Nifti1Header}
    for order in ("<", ">"):
        size = int(np.frombuffer(head[:4].ljust(4, b"\0"), order + "i4")[0])
        if size in kinds and len(head) >= size:
            return kinds[size](head[:size], endianness=order, check=False)
    raise _fault(path, "not-nifti", "is no NIfTI file: its header has the wrong size", "convert it to NIfTI")


def _expected_bytes(path: Path, head: bytes) -> int:
    header = _header(path, head)
    dims = [int(n) for n in header["dim"]]
    if not 1 <= dims[0] <= 7 or any(n < 1 for n in dims[1 : dims[0] + 1]):
        raise _fault(path, "bad-dimensions", f"the header's dim is {dims}", "write the file again with its own tool")
    offset = float(header["vox_offset"])
    if not math.isfinite(offset) or offset < len(header.binaryblock):
        message = f"the header's vox_offset is {offset:g}, inside the header"
        raise _fault(path, "bad-offset", message, "write the file again with its own tool")
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if slope != 0 and not (math.isfinite(slope) and math.isfinite(inter)):
        message = f"the header scales by {slope:g} and adds {inter:g}"
        raise _fault(path, "bad-scaling", message, "write the file again with its own tool")
    return int(offset) + _itemsize(path, header) * math.prod(dims[1 : dims[0] + 1])


def _itemsize(path: Path, header: Any) -> int:
    remedy = "write the file again as int16 or float32"
    try:
        dtype = header.get_data_dtype()
    except (KeyError, HeaderDataError):
        dtype = np.dtype("V")
    if dtype.itemsize == 0:
        message = f"the header's datatype {int(header['datatype'])} is unknown"
        raise _fault(path, "bad-datatype", message, remedy)
    if dtype.itemsize * 8 != int(header["bitpix"]):
        message = f"datatype has {dtype.itemsize * 8} bits, bitpix says {int(header['bitpix'])}"
        raise _fault(path, "bad-datatype", message, remedy)
    if dtype.kind not in "iuf":
        raise _fault(path, "bad-datatype", "holds colours or complex numbers", "convert it to one real number a voxel")
    return int(dtype.itemsize)


def _parse(path: Path, body: bytes) -> Any:
    expected = _expected_bytes(path, body[:540])
    if len(body) < expected:
        raise _truncated(path, expected, len(body))
    _refuse_trailing(path, body[expected:])
    kind = nib.Nifti2Image if len(_header(path, body[:540]).binaryblock) == 540 else nib.Nifti1Image
    try:
        with np.errstate(invalid="ignore"):  # of NaN in the affine, which is judged next
            image = kind.from_bytes(body)
    except (HeaderDataError, ImageFileError, ValueError, OSError) as error:
        raise _fault(path, "bad-header", str(error), "write the file again with its own tool") from None
    if image.ndim > 4 and math.prod(image.shape[4:]) > 1:
        raise _fault(path, "too-many-axes", f"has shape {image.shape}", "save one 3-D or 4-D volume a file")
    if image.ndim < 2:
        raise _fault(path, "too-few-axes", f"has shape {image.shape}", "save a 2-D or 3-D image")
    return image


def _check_geometry(path: Path, image: Any) -> None:
    affine = np.asarray(image.affine, dtype=np.float64)
    remedy = "write the file again with a valid sform"
    if not np.isfinite(affine).all():
        raise _fault(path, "bad-affine", "the affine holds NaN or infinity", remedy)
    if not _has_sound_qform(image):
        raise _fault(path, "bad-affine", "the qform is no rotation", "write the file again with a valid qform")
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if (lengths == 0).any() or abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-3:
        raise _fault(path, "bad-affine", "the affine is singular: voxels have no volume", remedy)


def _has_sound_qform(image: Any) -> bool:
    """Tell whether there is no qform or a finite one: masks repeat it even where the sform is what counts."""
    try:
        qform = image.get_qform(coded=True)[0]
    except (HeaderDataError, ValueError):  # a quaternion longer than 1
        return False
    return qform is None or bool(np.isfinite(qform).all())


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
    low, high = int(labels.min(initial=0)), int(labels.max(initial=0))
    dtype = np.min_scalar_type(high if low >= 0 else min(low, -1 - high))
    image = type(like.image)(labels.astype(dtype).reshape(like.image.shape[:3]), like.affine)
    image.header["xyzt_units"] = like.image.header["xyzt_units"]
    for form in ("sform", "qform"):
        affine, code = getattr(like.image, f"get_{form}")(coded=True)
        getattr(image, f"set_{form}")(affine, int(code), update_affine=False)
    data = image.to_bytes()
    with atomic_write(path) as temporary:
        # mtime=0: the same mask is the same file.
        temporary.write_bytes(gzip.compress(data, compresslevel=6, mtime=0) if path.name.endswith(".gz") else data)
