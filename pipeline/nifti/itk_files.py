"""Read NRRD and MetaImage files by SimpleITK into the scan that they would be as NIfTI.

A header is judged here before SimpleITK sees the file: nothing in it leads to another file but an ``.mhd``'s own voxels
beside it, and it promises no more than the file can hold.
"""

from __future__ import annotations

import math
import re
from contextlib import contextmanager
from importlib.util import find_spec
from stat import S_ISREG
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import UserError
from pipeline.nifti.container import (
    AGAIN,
    BY_ITS_TOOL,
    DEFLATE_MAX_RATIO,
    ITK_SUFFIXES,
    MAX_BYTES,
    fault,
    is_nifti,
    is_other_scan,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray


# A header of text ends within so many bytes.
MAX_HEADER = 1 << 20
# ITK's axes point to the left and to the back where NIfTI's point to the right and to the front.
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
META_BYTES = {
    f"MET_{sign}{name}": size
    for sign in ("", "U")
    for name, size in {"CHAR": 1, "SHORT": 2, "INT": 4, "LONG": 4, "LONG_LONG": 8}.items()
} | {"MET_FLOAT": 4, "MET_DOUBLE": 8}
NRRD_BYTES = {
    1: "signed char, int8, int8_t, uchar, unsigned char, uint8, uint8_t",
    2: "short, short int, signed short, signed short int, int16, int16_t, ushort, unsigned short, unsigned short int, "
    "uint16, uint16_t",
    4: "int, signed int, int32, int32_t, uint, unsigned int, uint32, uint32_t, float",
    8: "longlong, long long, long long int, signed long long, signed long long int, int64, int64_t, ulonglong, "
    "unsigned long long, unsigned long long int, uint64, uint64_t, double",
}
NRRD_TYPES = {name: size for size, names in NRRD_BYTES.items() for name in names.split(", ")}
# Encodings of NRRD, and whether they pack.
ENCODINGS = {"raw": False, "gzip": True, "gz": True}
CONVERT = "convert it to NIfTI"
# Of a file in the same folder, and no pattern for several.
PLAIN_NAME = re.compile(r"(?!\.)[^/\\%*?\s\0]{1,200}")


def read_itk(path: Path) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Read the voxels ``[X, Y, Z]`` or ``[X, Y, Z, C]`` and the affine of an NRRD or a MetaImage file.

    Raises:
        UserError: SimpleITK is not installed; the file is missing, cut, none of them, or leads to another file.
    """
    sitk = simple_itk(path)
    promised = _promised(path)
    if promised > MAX_BYTES:
        message = f"takes {promised / 2**30:.3g} GiB unpacked, over {MAX_BYTES / 2**30:g} GiB"
        raise fault(path, "too-large", message, "crop the volume, or save it with fewer bits a voxel")
    with _told(path):
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        if found_bytes(sitk, reader) != promised:  # Two readers of one header that differ: a crafted one.
            raise fault(path, "bad-format", "has a header that can be read in two ways", BY_ITS_TOOL)
        image = reader.Execute()
    return voxels_of(sitk, image), affine_of(image.GetOrigin(), image.GetSpacing(), image.GetDirection())


def simple_itk(path: Path) -> Any:
    """Return SimpleITK.

    Raises:
        UserError: It is not installed.
    """
    if find_spec("SimpleITK") is None:
        message = "is read by SimpleITK, which is not installed"
        raise fault(path, "no-library", message, f"pip install 'fewmask[formats]', or {CONVERT}")
    import SimpleITK as sitk  # noqa: N813 - its own name for itself; slow to import, and an extra

    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # What is wrong with a file is said once, in our words.
    return sitk


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn what SimpleITK raises into a ``UserError``."""
    try:
        yield
    except RuntimeError as error:
        told = [line.strip() for line in str(error).splitlines() if line.strip()]
        message = f"cannot be read: {told[-1] if told else 'SimpleITK does not say why'}"
        raise fault(path, "bad-format", message, AGAIN) from None


def found_bytes(sitk: Any, reader: Any) -> int:
    """Return how many bytes SimpleITK thinks an image takes whose information it has read."""
    pixel = sitk.Image([1] * reader.GetDimension(), reader.GetPixelID(), reader.GetNumberOfComponents())
    itemsize = sitk.GetArrayFromImage(pixel).dtype.itemsize
    return int(math.prod(reader.GetSize()) * reader.GetNumberOfComponents() * itemsize)


def voxels_of(sitk: Any, image: Any) -> NDArray[Any]:
    """Return the voxels of a SimpleITK image of two to four axes, components last."""
    array = sitk.GetArrayFromImage(image)
    space = image.GetDimension()
    turned = array.transpose(*range(space - 1, -1, -1), *range(space, array.ndim))
    if space == 2:
        turned = turned[:, :, None]
    return np.asarray(turned)


def affine_of(origin: Sequence[float], spacing: Sequence[float], direction: Sequence[float]) -> NDArray[np.float64]:
    """Return the affine to mm right, front and up of an image whose geometry is ITK's.

    >>> affine_of((5, 6), (2, 3), (1, 0, 0, 1)).tolist()
    [[-2.0, 0.0, 0.0, -5.0], [0.0, -3.0, 0.0, -6.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    """
    axes = len(origin)
    space = min(axes, 3)
    turned = np.eye(3)
    turned[:space, :space] = np.reshape(direction, (axes, axes))[:space, :space]
    lengths = np.ones(3)
    lengths[:space] = spacing[:space]
    first = np.zeros(3)
    first[:space] = origin[:space]
    affine = np.eye(4)
    affine[:3, :3] = LPS_TO_RAS @ turned @ np.diag(lengths)
    affine[:3, 3] = LPS_TO_RAS @ first
    return affine


def _promised(path: Path) -> int:
    """Return the bytes of the voxels that a header promises, after it is judged."""
    head = _head(path)
    if path.name.lower().endswith(".nrrd"):
        return _judge_nrrd(path, head)
    return _judge_meta(path, head)


def _head(path: Path) -> bytes:
    try:
        if not S_ISREG(path.stat().st_mode):
            raise fault(path, "not-a-file", "is a folder or a device, not a file", "name the scan itself")
        with path.open("rb") as file:
            head = file.read(MAX_HEADER)
    except (FileNotFoundError, NotADirectoryError):
        raise fault(path, "missing-file", "there is no such file", "check the path") from None
    except OSError as denial:
        raise fault(path, "unreadable", f"cannot be read: {denial.strerror}", "check its permissions") from None
    if not head:
        raise fault(path, "empty-file", "has 0 bytes", AGAIN)
    return head


def _judge_nrrd(path: Path, head: bytes) -> int:
    text, blank, _ = head.replace(b"\r\n", b"\n").partition(b"\n\n")
    if not text.startswith(b"NRRD000") or not blank:
        raise fault(path, "unsupported-file", "is no NRRD file", CONVERT)
    fields = _fields(path, text.decode("latin-1").split("\n")[1:], ": ", stop=None)
    if found := fields.keys() & {"data file", "datafile"}:
        raise _elsewhere(path, found.pop())
    if any("color" in kind for kind in fields.get("kinds", "").lower().split()):
        raise fault(path, "not-grey", "holds colours", "save one number a voxel")
    packs = ENCODINGS.get(fields.get("encoding", "").lower())
    if packs is None:
        message = f"has the encoding {fields.get('encoding', 'none')[:40]!r}"
        raise fault(path, "unsupported-file", message, "save it as raw or gzip")
    itemsize = NRRD_TYPES.get(fields.get("type", "").lower())
    promised = _product(path, fields.get("sizes", ""), 2) * _known(path, itemsize)
    _refuse_promise(path, promised, path.stat().st_size, packs=packs)
    return promised


def voxel_file(path: Path) -> Path | None:
    """Return the other file that an ``.mhd`` has its voxels in; None for any other file, and for one without."""
    if not path.name.lower().endswith(".mhd"):
        return None
    try:
        data = _fields(path, _head(path).decode("latin-1").split("\n"), "=", stop="elementdatafile")["elementdatafile"]
    except (UserError, KeyError):
        return None
    return path.parent / data if PLAIN_NAME.fullmatch(data) and (path.parent / data).is_file() else None


def _judge_meta(path: Path, head: bytes) -> int:
    fields = _fields(path, head.decode("latin-1").split("\n"), "=", stop="elementdatafile")
    data = fields.get("elementdatafile")
    if data is None:
        raise fault(path, "unsupported-file", "is no MetaImage file", CONVERT)
    source = path
    if data.upper() != "LOCAL":
        # Of an .mhd: its own voxels, in a plain file in the same folder.
        if not path.name.lower().endswith(".mhd") or not PLAIN_NAME.fullmatch(data) or data.upper().startswith("LIST"):
            raise _elsewhere(path, "ElementDataFile")
        source = path.parent / data
        if source.is_symlink() or not source.is_file():
            raise fault(path, "missing-file", f"has its voxels in {data}, which is no file beside it", AGAIN)
    itemsize = META_BYTES.get(fields.get("elementtype", "").upper())
    count = _product(path, fields.get("dimsize", ""), 2)
    components = _product(path, fields.get("elementnumberofchannels", "1"), 1)
    promised = count * components * _known(path, itemsize)
    packs = fields.get("compresseddata", "False").lower() == "true"
    _refuse_promise(path, promised, source.stat().st_size, packs=packs)
    return promised


def _fields(path: Path, lines: Sequence[str], between: str, stop: str | None) -> dict[str, str]:
    """Return the fields of a header, up to the field ``stop``, by their names in lower case."""
    fields: dict[str, str] = {}
    for line in lines:
        name, found, value = line.strip("\r").partition(between)
        key = name.strip().lower()
        if not found or line.startswith("#"):
            continue
        if key in fields:
            raise fault(path, "bad-format", f"its header has {key[:40]!r} twice", BY_ITS_TOOL)
        fields[key] = value.strip()
        if key == stop:
            break
    return fields


def _product(path: Path, text: str, least: int) -> int:
    """Return the product of one to four whole numbers, of which there have to be a least number."""
    words = text.split()
    if not (least <= len(words) <= 4 and all(re.fullmatch("[0-9]{1,9}", word) for word in words)):
        raise fault(path, "bad-format", "its header tells no sizes of two to four axes", BY_ITS_TOOL)
    sizes = list(map(int, words))
    if not all(sizes):
        raise fault(path, "bad-format", "has an axis without voxels", BY_ITS_TOOL)
    return math.prod(sizes)


def _known(path: Path, itemsize: int | None) -> int:
    if itemsize is None:
        raise fault(path, "bad-datatype", "has a type that is no real number of 8 to 64 bits", "save it as int16")
    return itemsize


def _refuse_promise(path: Path, promised: int, held: int, *, packs: bool) -> None:
    if promised > held * (DEFLATE_MAX_RATIO if packs else 1):
        raise fault(path, "truncated", f"the header promises {promised} bytes and the file holds {held}", AGAIN)


def _elsewhere(path: Path, field: str) -> UserError:
    return fault(path, "external-data", f"names other files ({field})", "save header and voxels in one file")


def is_itk_file(path: Path) -> bool:
    """Tell by its name whether a path is an NRRD or a MetaImage file that is not hidden."""
    return path.name.lower().endswith(ITK_SUFFIXES) and not path.name.startswith(".")


def itk_files_in(place: Path) -> list[Path]:
    """Return the file itself, or those of a folder that has scans of no other kind; else nothing."""
    if not place.is_dir():
        return [place] if is_itk_file(place) else []
    files = sorted(path for path in place.iterdir() if path.is_file() and not path.name.startswith("."))
    scans = [path for path in files if is_nifti(path) or is_other_scan(path)]
    return scans if all(map(is_itk_file, scans)) else []
