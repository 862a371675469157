"""Read a checkpoint's archive, once it is known to be undamaged, to hold data alone, and to be as large as it says."""

from __future__ import annotations

import hashlib
import io
import mmap
import pickle
import pickletools
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from types import NoneType
from typing import TYPE_CHECKING, Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import torch

from pipeline.errors import Problem, UserError
from pipeline.files import path_hint

if TYPE_CHECKING:
    from pathlib import Path

FORMAT = 2

# Limits on what is read before a file is trusted. They fit the largest checkpoint that a recipe allows: nine residual
# encoders, each with its averaged weights and the optimizer's moments.
MAX_DIRECTORY_BYTES = 2_000_000
MAX_PICKLE_BYTES = 5_000_000
MAX_OPERATIONS = 700_000
# Pickle operations allowed for all that is no tensor, and for the tensors in one member of the archive. A tensor may
# have several names.
PLAIN_OPERATIONS = 20_000
MEMBER_OPERATIONS = 150
# The last 22 bytes of an archive without a comment: its mark, and the size of its directory.
DIRECTORY_END = struct.Struct("<4s8xI6x")
# Pickle opcodes that name something to import or call, and the names that our checkpoints have.
NAMING = {"GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4", "OBJ", "NEWOBJ_EX"}
_STORED = ("BFloat16", "Bool", "Byte", "Char", "Double", "Float", "Half", "Int", "Long", "Short")
PLAIN = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", *(f"torch {kind}Storage" for kind in _STORED)}
REMEDY = "use a checkpoint that Fewmask wrote"


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, with ``weights_only=True`` and no other way in.

    Before anything is unpickled it is verified that nothing in the file unpacks to more than the file holds, that its
    pickle names nothing but tensors, and that its bytes are those that were written: by the hash beside it or, if that
    is gone, by the archive's own checksums.

    Raises:
        UserError: There is no such file, it is damaged, or it is no checkpoint of ours.
    """
    if path.exists() and not path.is_file():
        raise _unusable(path, "missing-checkpoint", "is no file", "move it away, or bring the checkpoint back")
    if not path.is_file():
        remedy = path_hint(path, "train first, or check the run's folder")
        raise _unusable(path, "missing-checkpoint", "there is no such checkpoint", remedy)
    return read_archive(path, hashed=hash_of(path).is_file())


def read_archive(path: Path, *, hashed: bool = False) -> dict[str, Any]:
    """Read as :func:`load_checkpoint` does, by the archive's checksums alone unless the file is ``hashed``."""
    with ThreadPoolExecutor(1) as pool:
        # Hashing releases the interpreter lock, so both run at once. A wrong hash is what is reported, whatever else
        # is wrong: the content of a damaged file says nothing.
        hashing = None
        if hashed:
            hashing = pool.submit(_refuse_other_bytes, path)
        try:
            _refuse_archive(path, check_sums=not hashed)
        finally:
            if hashing:
                hashing.result()
    try:
        # Memory-mapped: the file has just been read, and nothing is copied before it is used.
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError:
        raise _unsafe(path) from None
    except Exception:  # A crafted pickle can make torch raise anything.
        state = None
    told = None
    if isinstance(state, dict):
        told = state.get("format")
    if type(told) is int and told > FORMAT:
        message = f"is of format {told}, and this version of Fewmask knows none after {FORMAT}"
        remedy = "update Fewmask"
        raise _unusable(path, "foreign-checkpoint", message, remedy)
    if told != FORMAT or not isinstance(state, dict):
        raise _foreign(path)
    _refuse_inflated(path, state)
    return state


def _refuse_inflated(path: Path, state: dict[str, Any]) -> None:
    """Refuse tensors that are larger than the file, and lists or mappings that occur in several places.

    A view of one number can have any shape, and a few nested lists can stand for any number of items. In our
    checkpoints each list and mapping occurs once, and weights that a network has under several names are one tensor.
    """
    seen = set[int]()
    views = dict[object, int]()
    todo = [state]
    while todo:
        value: Any = todo.pop()
        if isinstance(value, torch.Tensor):
            views[value.data_ptr(), value.dtype, value.shape, value.stride()] = value.nbytes
        elif isinstance(value, (dict, list, tuple)) and value:
            if id(value) in seen:
                raise _foreign(path, "holds one list or mapping in several places")
            seen.add(id(value))
            if isinstance(value, dict):
                todo += [*value.keys(), *value.values()]
            else:
                todo += value
        elif not isinstance(value, (str, int, float, bool, NoneType, dict, list, tuple)):
            raise _unsafe(path)
    if (held := sum(views.values())) > path.stat().st_size:
        message = f"holds tensors of {held / 1e6:.0f} MB in {path.stat().st_size / 1e6:.1f} MB"
        raise _unusable(path, "inflated-checkpoint", message, REMEDY)


def _refuse_other_bytes(path: Path) -> None:
    """Compare a file with the hash beside it, since torch would read a flipped bit as a weight."""
    told = hash_of(path)
    with path.open("rb") as stream, told.open("rb") as hashed:
        # An empty file cannot be mapped.
        content: mmap.mmap | bytes = b""
        if path.stat().st_size:
            content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        if hashed.read(64) != hashlib.sha256(content).hexdigest().encode():
            raise _damaged(path, f"is damaged: its bytes are not those of {told.name}")


def _refuse_archive(path: Path, check_sums: bool) -> None:
    """Refuse an archive that is damaged, or that would unpack or unpickle to more than it says."""
    try:
        with path.open("rb") as stream:
            stream.seek(-DIRECTORY_END.size, io.SEEK_END)
            magic, size = DIRECTORY_END.unpack(stream.read())
            if magic != b"PK\5\6":
                raise BadZipFile
            if size > MAX_DIRECTORY_BYTES:
                raise _foreign(path)
            with ZipFile(stream) as archive:
                members = archive.infolist()
                stored = all(m.compress_type == ZIP_STORED and m.file_size == m.compress_size for m in members)
                if not stored or sum(m.file_size for m in members) > path.stat().st_size:
                    raise _unusable(path, "zip-bomb", "unpacks to more than its own size", "use no such file")
                if check_sums and archive.testzip() is not None:
                    raise BadZipFile
                _refuse_pickle(path, archive)
    except (BadZipFile, EOFError, OSError, ValueError, NotImplementedError, RuntimeError, zlib.error, struct.error):
        raise _damaged(path, "is damaged, or no checkpoint") from None


def _refuse_pickle(path: Path, archive: ZipFile) -> None:
    """Refuse a pickle that names anything but tensors: torch's own list has calls that take any amount of memory."""
    most = min(MAX_OPERATIONS, PLAIN_OPERATIONS + MEMBER_OPERATIONS * len(archive.infolist()))
    for member in archive.infolist():
        if member.filename.endswith(".pkl"):
            if member.file_size > MAX_PICKLE_BYTES:
                raise _unsafe(path)
            for count, (code, argument, _) in enumerate(pickletools.genops(archive.read(member))):
                if count > most or (code.name in NAMING and argument not in PLAIN):
                    raise _unsafe(path)


def _unusable(path: Path, code: str, message: str, remedy: str) -> UserError:
    return UserError("The checkpoint cannot be used.", [Problem(str(path), code, message, remedy)])


def _damaged(path: Path, message: str) -> UserError:
    return _unusable(path, "damaged-checkpoint", message, "use an older checkpoint of the run, or train again")


def _unsafe(path: Path) -> UserError:
    message = "holds more than tensors, numbers and text"
    return _unusable(path, "unsafe-checkpoint", message, REMEDY)


def _foreign(path: Path, message: str = f"is not of format {FORMAT}") -> UserError:
    return _unusable(path, "foreign-checkpoint", message, REMEDY)


def hash_of(path: Path) -> Path:
    """Return the path of the hash beside a checkpoint."""
    return path.with_name(f"{path.name}.sha256")
