"""Checkpoints: one file with everything to go on training or to predict, and nothing in it that can run.

A checkpoint is written once and never changed. Its name says which it is and of which step, ``last-000050.pt``, and the
file ``last-000050.pt.sha256`` beside it, which ``sha256sum -c`` reads too, what must be in it. The two newest of each
kind are kept. Each save is: write, fsync, rename, fsync of the folder, the same for the hash, and only then is the
oldest deleted; so at every moment of it, a kill leaves the two that were there or the new one.
"""

from __future__ import annotations

import hashlib
import io
import mmap
import pickle
import pickletools
import re
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import torch

from pipeline.errors import Problem, UserError
from pipeline.files import atomic_write, flush_to_disk, sweep

if TYPE_CHECKING:
    from pathlib import Path

Which = Literal["last", "best"]

FORMAT = 2
FOLDER = "checkpoints"
KEPT = 2

# Of a checkpoint of nine residual encoders, which are the most that a recipe may ask for, each with its average and
# moments; what is read to judge a file must itself be small.
MAX_DIRECTORY_BYTES, MAX_PICKLE_BYTES, MAX_OPERATIONS = 2_000_000, 5_000_000, 700_000
# The last 22 bytes of an archive without a comment: its mark, and the size of its directory.
DIRECTORY_END = struct.Struct("<4s8xI6x")
# Every opcode that names a thing to call, and all that a checkpoint of ours names.
NAMING = {"GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4", "OBJ", "NEWOBJ_EX"}
_STORED = ("BFloat16", "Bool", "Byte", "Char", "Double", "Float", "Half", "Int", "Long", "Short")
PLAIN = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", *(f"torch {kind}Storage" for kind in _STORED)}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read.

    Attributes:
        path: The file.
        state: What was saved.
        damaged: Newer files that could not be used, each with what is wrong with it.
    """

    path: Path
    state: dict[str, Any]
    damaged: tuple[Problem, ...] = ()


def save_checkpoint(run: Path, which: Which, state: dict[str, Any]) -> Path:
    """Write a checkpoint: complete and on disk when this returns, the previous ones untouched if it fails.

    Args:
        run: The run's folder.
        which: ``last`` or ``best``.
        state: ``step`` and other numbers, tensors, text, and lists and dictionaries of them, so that it loads without
            unpickling objects.

    Returns:
        The file.

    Raises:
        WriteError: The disk is full or fails.
    """
    buffer = io.BytesIO()  # Whole in memory first: its size is known before the disk is asked for it.
    torch.save({"format": FORMAT, **state}, buffer)
    content, folder = buffer.getbuffer(), run / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{which}-{state['step']:06d}.pt"
    if _hash_of(path).exists():  # Of a file of this name that is about to go, and must not condemn the new one.
        _hash_of(path).unlink()
        flush_to_disk(folder)
    with atomic_write(path, len(content), private=True) as temporary:
        temporary.write_bytes(content)
    with atomic_write(_hash_of(path), private=True) as temporary:
        temporary.write_text(f"{hashlib.sha256(content).hexdigest()}  {path.name}\n", encoding="ascii")
    for old in checkpoints_of(run, which)[KEPT:]:
        _delete(old)
    return path


def checkpoints_of(run: Path, which: Which) -> list[Path]:
    """Return a run's checkpoints of one kind, the newest first."""
    found = {
        int(match[1]): path
        for path in (run / FOLDER).glob(f"{which}-*.pt")
        if (match := re.fullmatch(rf"{which}-(\d+)\.pt", path.name))
    }
    return [found[step] for step in sorted(found, reverse=True)]


def newest_checkpoint(run: Path, which: Which) -> Checkpoint:
    """Read the newest sound checkpoint of a run.

    Raises:
        UserError: There is none, or a file is not damaged but something else than a checkpoint of ours: that is
            somebody's doing, and no older file is used instead.
    """
    damaged: list[Problem] = []
    for path in checkpoints_of(run, which):
        try:
            return Checkpoint(path, load_checkpoint(path), tuple(damaged))
        except UserError as error:
            if error.problems[0].code != "damaged-checkpoint":
                raise
            damaged += error.problems
    if damaged:
        raise UserError(f"No {which} checkpoint of {run} is sound.", damaged)
    message, remedy = f"there is no such checkpoint: {which}", "train first, or check the run's folder"
    raise UserError("There is nothing to go on from.", [Problem(str(run), "missing-checkpoint", message, remedy)])


def clear_up(run: Path, done: int) -> None:
    """Make a folder ready to be trained in, from the step ``done`` on.

    What killed saves left half-done goes. So do checkpoints of later steps: they are damaged, or of steps that are
    about to be trained anew.
    """
    folder = run / FOLDER
    sweep(folder)
    for which in ("last", "best"):
        for path in checkpoints_of(run, which):
            if int(path.stem.rpartition("-")[2]) > done:
                _delete(path)
    for path in folder.glob("*.pt.sha256"):
        if not path.with_suffix("").exists():
            path.unlink()


def _delete(path: Path) -> None:
    path.unlink(missing_ok=True)
    _hash_of(path).unlink(missing_ok=True)


def _hash_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, with ``weights_only=True`` and no other way in.

    The file is judged before anything is made of it: that nothing in it unpacks to more than the file holds, that its
    pickle names nothing but tensors, and that its bytes are those that were written, by the hash beside it or, where
    that is gone, by the archive's own checksums.

    Raises:
        UserError: There is no such file, it is damaged, or it is no checkpoint of ours.
    """
    if not path.is_file():
        remedy = "train first, or check the run's folder"
        raise _unusable(path, "missing-checkpoint", "there is no such checkpoint", remedy)
    hashed = _hash_of(path).is_file()
    with ThreadPoolExecutor(1) as pool:
        # Hashing lets other threads run. What it finds counts first: an archive of other bytes says nothing.
        hashing = pool.submit(_refuse_other_bytes, path) if hashed else None
        try:
            _refuse_archive(path, check_sums=not hashed)
        finally:
            if hashing:
                hashing.result()
    try:
        # Mapped, since it has just been read: nothing is copied before it is used.
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError:
        raise _unsafe(path) from None
    except Exception:  # Whatever a pickle can make torch stumble over.
        state = None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise _foreign(path)
    return state


def _refuse_other_bytes(path: Path) -> None:
    """Compare a file with the hash beside it, since torch would read a flipped bit as a weight."""
    told = _hash_of(path)
    with path.open("rb") as stream, told.open("rb") as hashed:
        # An empty file cannot be mapped.
        content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""
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
    for member in archive.infolist():
        if member.filename.endswith(".pkl"):
            if member.file_size > MAX_PICKLE_BYTES:
                raise _unsafe(path)
            for count, (code, argument, _) in enumerate(pickletools.genops(archive.read(member))):
                if count > MAX_OPERATIONS or (code.name in NAMING and argument not in PLAIN):
                    raise _unsafe(path)


def _unusable(path: Path, code: str, message: str, remedy: str) -> UserError:
    return UserError("The checkpoint cannot be used.", [Problem(str(path), code, message, remedy)])


def _damaged(path: Path, message: str) -> UserError:
    return _unusable(path, "damaged-checkpoint", message, "use an older checkpoint of the run, or train again")


def _unsafe(path: Path) -> UserError:
    message = "holds more than tensors, numbers and text"
    return _unusable(path, "unsafe-checkpoint", message, "use a checkpoint that Fewmask wrote")


def _foreign(path: Path) -> UserError:
    message = f"is not of format {FORMAT}"
    return _unusable(path, "foreign-checkpoint", message, "use a checkpoint that this version wrote")
