"""Read a file's bytes once, hash them, and unpack a gzip to its end, so that no wrong checksum is missed.

``nibabel.load`` and MONAI's reader stop where the voxels end, and so accept a gzip whose checksum is wrong or missing.
Here nothing is unpacked beyond what a verified header promises, so a small file cannot fill the memory.
"""

from __future__ import annotations

import hashlib
from codecs import BOM_UTF8
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Any

from isal.isal_zlib import decompressobj, error

from pipeline.errors import Names, Problem, UserError
from pipeline.files import first_missing

if TYPE_CHECKING:
    from collections.abc import Callable

SUFFIXES = (".nii.gz", ".nii")
# Formats that SimpleITK reads, where it is installed and the file itself is named.
ITK_SUFFIXES = (".nrrd", ".mha", ".mhd")
# Formats that hold scans too: left out in silence, they would be scans that nobody looked at.
OTHER_FORMATS = (".img", ".img.gz", ".hdr", ".mha", ".mhd", ".nrrd", ".nhdr", ".mgz", ".mgh", ".mnc", ".dcm", ".gz")
# Names in .gz that are no scans.
PACKED = (".tar.gz", ".tsv.gz", ".csv.gz", ".json.gz", ".txt.gz")
GZIP_MAGIC = b"\x1f\x8b"
GZIP = 31
# Deflate cannot shrink further than this, so a header that promises more is wrong before anything is unpacked.
DEFLATE_MAX_RATIO = 1032
# Unpacked bytes of one file: a float32 volume of 1024 voxels along each axis.
MAX_BYTES = 1 << 32
# So many packed bytes hold any header; and the unpacked bytes of the longest header.
PACKED_HEAD = 1 << 17
HEAD = 540
PIECE = 1 << 10
BLOCK = 1 << 20
# Zeros behind the voxels, as tools that write whole blocks leave them.
MAX_PADDING = 1 << 20
# In the target of a link to a file that git-annex keeps.
ANNEX = ".git/annex/objects"
AGAIN = "copy or download the file again"
BY_ITS_TOOL = "write the file again with its own tool"


@dataclass(frozen=True)
class Container:
    """A file's verified content.

    Attributes:
        sha256: Of the file's bytes.
        body: The NIfTI bytes that its header promises.
        notes: Warnings.
    """

    sha256: str
    body: bytes
    notes: tuple[Problem, ...]


def fault(path: Path, code: str, message: str, remedy: str) -> UserError:
    """Return the error of one thing that is wrong with a file."""
    return UserError(f"{path} cannot be used.", [Problem(str(path), code, message, remedy)])


def stem(path: Path) -> str:
    """Return a file's name without ``.nii`` or ``.nii.gz``, or the ending of another format that is read.

    >>> from pathlib import Path
    >>> stem(Path("scans/case.01.nii.gz"))
    'case.01'
    """
    for suffix in (*SUFFIXES, *ITK_SUFFIXES):
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.name


def is_nifti(path: Path) -> bool:
    """Tell by its name whether a path is a NIfTI file that is not hidden."""
    return path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".")


def is_other_scan(path: Path) -> bool:
    """Tell by its name whether a path is a scan in a format that is not read here, and not hidden."""
    name = path.name.lower()
    return name.endswith(OTHER_FORMATS) and not name.endswith((*SUFFIXES, *PACKED)) and not name.startswith(".")


def read_container(path: Path, promised: Callable[[bytes], int]) -> Container:
    """Read a file whole.

    Args:
        path: A ``.nii`` or ``.nii.gz`` file.
        promised: Returns, for the first bytes of the unpacked file, how many bytes its header and voxels take.

    Raises:
        UserError: The file is missing, empty, cut, damaged, too large, or something else under a NIfTI file's name.
    """
    raw = _read_bytes(path)
    _refuse_other_content(path, raw)
    packed = raw.startswith(GZIP_MAGIC)
    size = promised(_head(path, raw) if packed else raw[:HEAD])
    if size > len(raw) * (DEFLATE_MAX_RATIO if packed else 1):
        raise _truncated(path, size, len(raw))
    if size > MAX_BYTES:
        message = f"takes {size / 2**30:.3g} GiB unpacked, over {MAX_BYTES / 2**30:g} GiB"
        raise fault(path, "too-large", message, "crop the volume, or save it with fewer bits a voxel")
    body, padding = _unpack(path, raw, size) if packed else (raw, _padding(path, raw[size:]))
    if len(body) < size:
        raise _truncated(path, size, len(body))
    return Container(hashlib.sha256(raw).hexdigest(), body, _notes(path, padding))


def _read_bytes(path: Path) -> bytes:
    if not path.name.lower().endswith(SUFFIXES) and path.exists() and not path.is_dir():
        raise fault(path, "unsupported-file", "is no .nii or .nii.gz file", "convert it to NIfTI, for example by ITK")
    try:
        # Before it is opened, since opening a pipe waits for somebody to write.
        if not S_ISREG(path.stat().st_mode):
            raise fault(path, "not-a-file", "is a folder or a device, not a file", "name the NIfTI file itself")
        raw = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise fault(path, "missing-file", "there is no such file", _whereabouts(path)) from None
    except OSError as denial:
        raise fault(
            path, "unreadable", f"cannot be read: {denial.strerror}", "check its permissions and the disk"
        ) from None
    if not raw:
        raise fault(path, "empty-file", "has 0 bytes", AGAIN)
    return raw


def _whereabouts(path: Path) -> str:
    """Return what to do about a missing file: where a link leads, or the nearest name of a file or folder."""
    if link := next((part for part in (path, *path.parents) if part.is_symlink() and not part.exists()), None):
        return _behind(link, path)
    place, name = first_missing(path)
    near = None
    with suppress(OSError):
        of_scans = place == path.parent and path.name.lower().endswith(SUFFIXES)
        near = _names_in(place, of_scans, place.stat().st_mtime_ns).nearest(name)
    if near:
        return f"did you mean {near!r}?"
    return "check the path, or take the case out of the list"


@lru_cache(maxsize=16)
def _names_in(folder: Path, of_scans: bool, _: int) -> Names:
    """Return the names of a folder's scans or folders, read once as long as the folder has not changed since."""
    wanted: Callable[[Path], bool] = is_nifti if of_scans else Path.is_dir
    return Names(other.name for other in folder.iterdir() if wanted(other) and other.exists())


def _behind(link: Path, path: Path) -> str:
    """Return what to do about a link that leads nowhere."""
    target = link.readlink()
    if ANNEX in target.as_posix():
        return f"it is in git-annex and not here yet: run `git annex get {path.name}` in {path.parent}"
    return f"{link.name} is a link to {target}, which is not there: bring that back, or take the case out of the list"


def _refuse_other_content(path: Path, raw: bytes) -> None:
    """Refuse what is no NIfTI file at all, or a gzip without its suffix and the reverse."""
    named_gzip = path.name.lower().endswith(".gz")
    is_gzip = raw.startswith(GZIP_MAGIC)
    if raw.startswith(b"version https://git-lfs"):
        raise fault(path, "lfs-pointer", "is a git-LFS pointer, not the scan", "run `git lfs pull` in its repository")
    if raw.startswith(b"/annex/objects/"):
        remedy = f"run `git annex get {path.name}` in {path.parent}"
        raise fault(path, "annex-pointer", "is a git-annex pointer, not the scan", remedy)
    if raw[:64].removeprefix(BOM_UTF8).lstrip()[:1] == b"<":
        raise fault(path, "web-page", "is a web page or XML, not a scan", "download the file again, logged in")
    if named_gzip != is_gzip:
        kind = "not gzip"
        name = f"{stem(path)}.nii"
        if is_gzip:
            kind = "gzip"
            name += ".gz"
        raise fault(path, "misnamed", f"is {kind}, against its name", f"rename it to {name}, if it is a NIfTI file")


def _head(path: Path, raw: bytes) -> bytes:
    """Return the first bytes of the NIfTI file, which may be in several gzip members."""
    head = b""
    rest = raw[:PACKED_HEAD]
    while len(head) < HEAD and rest.startswith(GZIP_MAGIC):
        member = decompressobj(wbits=GZIP)
        head += _inflate(path, member, rest, HEAD - len(head))
        if len(head) < HEAD and not member.eof:
            raise _cut(path)
        rest = member.unused_data
    return head


def _unpack(path: Path, raw: bytes, size: int) -> tuple[bytes, bool]:
    """Return the first ``size`` bytes (fewer if the stream is shorter), and whether zeros follow them.

    A gzip file may have several members, one behind the other; each ends in a checksum, which is verified.
    """
    parts: list[bytes] = []
    missing = size
    padding = 0
    start = 0
    while raw.startswith(GZIP_MAGIC, start):
        member = _Member(path, raw, start)
        part = member.read(missing)
        while not member.is_at_end:
            block = member.read(BLOCK)
            padding += len(block)
            _padding(path, block)
            if padding > MAX_PADDING:
                message = f"has over {MAX_PADDING >> 20} MiB of zeros behind the voxels"
                raise fault(path, "trailing-bytes", message, BY_ITS_TOOL)
        missing -= len(part)
        parts.append(part)
        start = member.end
    if raw[start:].strip(b"\0"):
        raise fault(path, "corrupt-gzip", "has data behind the gzip stream", AGAIN)
    return parts[0] if len(parts) == 1 else b"".join(parts), padding > 0 or start < len(raw)


class _Member:
    """One member of a gzip file, unpacked step by step.

    The first one, which is all of most files, is given to the decoder as a whole. A later one is given in pieces, each
    twice as long as the one before: the decoder copies what it was given beyond a member's end, and a file may have a
    million members.
    """

    def __init__(self, path: Path, raw: bytes, start: int) -> None:
        self.path = path
        self.raw = raw
        self.given = start
        self.piece = PIECE if start else len(raw)
        self.decoder = decompressobj(wbits=GZIP)

    def read(self, most: int) -> bytes:
        """Return the next bytes, fewer than ``most`` only at the end."""
        blocks = []
        while most and not self.is_at_end:
            packed = self.decoder.unconsumed_tail or self.raw[self.given : self.given + self.piece]
            if not self.decoder.unconsumed_tail:
                self.given += len(packed)
                self.piece *= 2
            block = _inflate(self.path, self.decoder, packed, most)
            if not block and not packed and not self.is_at_end:
                raise _cut(self.path)
            blocks.append(block)
            most -= len(block)
        return blocks[0] if len(blocks) == 1 else b"".join(blocks)

    @property
    def is_at_end(self) -> bool:
        return bool(self.decoder.eof)

    @property
    def end(self) -> int:
        """Where the next member begins, once this one is at its end."""
        return self.given - len(self.decoder.unused_data)


def _inflate(path: Path, member: Any, data: bytes, most: int) -> bytes:
    try:
        block: bytes = member.decompress(data, most)
    except (error, EOFError) as damage:  # type: ignore[misc] # the stubs take the exception for an instance
        message = f"the gzip stream is damaged: {damage}"
        raise fault(path, "corrupt-gzip", message, AGAIN) from None
    return block


def _padding(path: Path, block: bytes) -> bool:
    """Tell whether there are bytes behind the voxels; refuse any but zeros, since they would be somebody's data."""
    if block.strip(b"\0"):
        raise fault(path, "trailing-bytes", "has data behind the voxels", BY_ITS_TOOL)
    return bool(block)


def _cut(path: Path) -> UserError:
    return fault(path, "truncated-gzip", "the gzip stream ends too early", AGAIN)


def _truncated(path: Path, promised: int, got: int) -> UserError:
    message = f"the header promises {promised} bytes and the file holds {got}"
    return fault(path, "truncated", message, AGAIN)


def _notes(path: Path, padding: bool) -> tuple[Problem, ...]:
    message = "has zeros behind the voxels"
    remedy = "nothing, if a tool of yours pads files"
    if padding:
        return (Problem(str(path), "padding", message, remedy),)
    return ()
