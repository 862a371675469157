"""Files that are whole or not there, and locks: after a kill or a full disk the old file stands, never half a new one.

All that differs between POSIX systems and Windows in how files are locked and brought to the disk is in this module.
A bottom layer beside ``types``: every other module may import it.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from importlib import import_module
from importlib.util import find_spec
from itertools import islice
from typing import TYPE_CHECKING, Any

from pipeline.errors import Names, Problem, UserError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import TextIO

# A folder with more names than these is not searched for one that is like a misspelt one.
MOST_NAMES = 100_000
POSIX = find_spec("fcntl") is not None
# Either has functions and constants that the other lacks, which a type checker sees on its own system alone.
_system: Any = import_module("fcntl" if POSIX else "msvcrt")

# Marks a file that is being written. Hidden, so that no reader of a folder takes it for a scan.
PARTIAL = ".partial-"
# The longest name of a file in bytes, and the longest whose temporary file, with a prefix, is no longer than that.
LONGEST_NAME = 255
LONGEST_WRITTEN = LONGEST_NAME - len(f"{PARTIAL}01234567.")
PARTIAL_NAME = re.compile(r"\.partial-[0-9a-f]{8}\.(.+)", re.DOTALL)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LOCK = ".lock"
# The code of the problem that another process is training in a folder.
HELD = "run-is-busy"
# Errors that mean that another process holds a byte, and how many bytes can be told apart on Windows.
BUSY = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
WINDOWS_PLACES = 2**30


class WriteError(UserError, OSError):
    """A disk that is full or fails, or a folder that may not be written to; ``errno`` says which."""

    def __init__(self, path: Path, error: OSError, needed: int) -> None:
        UserError.__init__(self, "A file could not be written.", [_problem(path, error, needed)])
        self.errno = error.errno
        self.strerror = error.strerror or str(error)


def _problem(path: Path, error: OSError, needed: int) -> Problem:
    kept = "what was there before is unharmed"
    reason = error.strerror or str(error)
    if error.errno == errno.EFBIG:
        message = f"needs {_size(needed)} or more, and no file may be so large: {reason}"
        remedy = f"raise the limit (`ulimit -f`), or use another disk; {kept}"
        return Problem(str(path), "disk-full", message, remedy)
    if error.errno in FULL or error.errno is None:  # NumPy says how many items it wrote, and not why.
        needs = f"needs {_size(needed)}, and " if needed else ""  # Where not even a name could be written.
        message = f"{needs}its disk has {_size(_free(path.parent))} free: {reason}"
        return Problem(str(path), "disk-full", message, f"free some space, or use another disk; {kept}")
    message = f"{_size(needed)} could not be written: {reason}"
    return Problem(str(path), "cannot-write", message, f"check the disk and the folder's permissions; {kept}")


def _size(count: int) -> str:
    if count >= 1e5:
        return f"{count / 1e6:.1f} MB"
    return f"{count} bytes"


def _free(folder: Path) -> int:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0


def first_missing(path: Path) -> tuple[Path, str]:
    """Return the deepest folder of a path that is there, and the name in it that is not."""
    place = path.parent
    name = path.name
    while not place.is_dir() and place != place.parent:
        place, name = place.parent, place.name
    return place, name


def path_hint(path: Path, remedy: str = "check the path") -> str:
    """Return what to do about a path that leads nowhere: the nearest name beside it, or a remedy where none is near.

    Args:
        path: What was given, a file or a folder that is not there.
        remedy: What to do where nothing is called alike.
    """
    place, name = first_missing(path)
    below = path.relative_to(place / name)
    near = None
    with suppress(OSError):
        names = [entry.name for entry in islice(os.scandir(place), MOST_NAMES) if not entry.name.startswith(".")]
        near = Names([each for each in names if (place / each / below).exists()]).nearest(name)
    if near is None or near == name:
        return remedy
    return f"did you mean {str(place / near / below)!r}?"


@contextmanager
def atomic_write(path: Path, size: int = 0, *, private: bool = False) -> Iterator[Path]:
    """Give a temporary path to write to, and move it to ``path`` once the block ends without an error.

    The temporary file is hidden, lies in the folder of ``path`` (a rename across disks is no
    rename) and ends like it, so that writers that go by the extension work. Whatever ends the
    block early, ``path`` is as it was and the temporary file is gone; only a killed process leaves it, and
    :func:`sweep` then takes it away.

    Args:
        path: Where the file is to be; replaced if it is there. Its folder must exist.
        size: Bytes that will be written, where they are known, for the message of a full disk.
        private: Whether the owner alone may read the file.

    Yields:
        The path to write.

    Raises:
        FileNotFoundError: The folder of ``path`` does not exist, or the block wrote no file.
        WriteError: The disk is full or fails. The message says how much was needed.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: there is no folder {path.parent}; create it first")
    partial = path.with_name(f"{PARTIAL}{secrets.token_hex(4)}.{path.name}")
    try:
        if private:
            os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        yield partial
        flush_to_disk(partial)
        partial.replace(path)
        flush_to_disk(path.parent)
    except OSError as error:
        if isinstance(error, (UserError, FileNotFoundError)) or error.filename not in (None, str(partial), partial):
            raise  # Not of this file.
        raise WriteError(path, error, max(size, _length(partial))) from None
    finally:
        with suppress(OSError):  # On a disk that fails, what went wrong first is what matters.
            partial.unlink(missing_ok=True)


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def flush_to_disk(path: Path) -> None:
    """Wait until the disk holds what was written to a file, or the names that are in a folder.

    Windows lets nobody open a folder, writes its names down by itself, and brings only those files to the disk that are
    open for writing.
    """
    if not POSIX and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY if POSIX else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def regular(path: Path) -> Path:
    """Return the path of a file to read; refuse a folder, a device, and a pipe, which one would wait for.

    Raises:
        OSError: It is one of these.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is no file", str(path))
    return path


def to_write(folder: Path) -> Path:
    """Return a folder to write to; refuse it now if a file is in its way, rather than after hours of work.

    Raises:
        UserError: A file has its name, or that of a folder above it.
    """
    file = next((place for place in (folder, *folder.parents) if place.is_file()), None)
    if file is not None:
        raise UserError("Nothing was started.", [Problem(str(file), "not-a-folder", "is a file", "name a folder")])
    return folder


def sweep(folder: Path, name: str = "*") -> None:
    """Take away what killed processes left half-written in a folder; no other process may be writing the same files.

    Args:
        folder: Looked at without its subfolders; nothing happens where it is not there.
        name: Pattern of the names that the files would have had.
    """
    for path in folder.glob(f"{PARTIAL}*"):
        partial = PARTIAL_NAME.fullmatch(path.name)
        if partial and fnmatchcase(partial[1], name):
            path.unlink(missing_ok=True)


@contextmanager
def byte_locked(descriptor: int, place: int, *, wait: bool = False) -> Iterator[bool]:
    """Hold one byte of an open file for this process alone.

    The lock ends with the process, however that ends, and on POSIX whenever the process closes any descriptor of the
    file. Windows lets nobody else read or write the byte meanwhile.

    Args:
        descriptor: Of a file that is open for writing.
        place: Number of the byte, which may lie beyond the end. Windows looks at its lowest 30 bits alone.
        wait: Whether to wait for a process that holds it.

    Yields:
        Whether it is locked: False if another process holds it and ``wait`` is off.

    Raises:
        OSError: The file system knows no locks.
    """
    ours = _lock(descriptor, place, wait)
    try:
        yield ours
    finally:
        if ours:
            _unlock(descriptor, place)


def _lock(descriptor: int, place: int, wait: bool) -> bool:
    try:
        if POSIX:
            # A lock of the process, not of the open file, which workers would inherit and keep.
            _system.lockf(descriptor, _system.LOCK_EX | (0 if wait else _system.LOCK_NB), 1, place)
        else:
            os.lseek(descriptor, place % WINDOWS_PLACES, os.SEEK_SET)
            _system.locking(descriptor, _system.LK_LOCK if wait else _system.LK_NBLCK, 1)
    except OSError as error:
        if error.errno not in BUSY:
            raise
        return wait and not POSIX and _lock(descriptor, place, wait)  # Windows itself gives up after ten seconds.
    return True


def _unlock(descriptor: int, place: int) -> None:
    if POSIX:
        _system.lockf(descriptor, _system.LOCK_UN, 1, place)
    else:
        os.lseek(descriptor, place % WINDOWS_PLACES, os.SEEK_SET)
        _system.locking(descriptor, _system.LK_UNLCK, 1)


@contextmanager
def locked(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a folder for this process alone. The lock ends with the process, however that ends.

    Args:
        folder: It is there.
        wait: Until the process that holds it lets it go.

    Raises:
        UserError: Another process holds it, and ``wait`` is off.
    """
    descriptor = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        with byte_locked(descriptor, 0, wait=wait) as ours:
            if not ours:
                message = "another process is training in this folder"
                remedy = "wait for it, or name another --output"
                raise UserError("Nothing was started.", [Problem(str(folder), HELD, message, remedy)])
            yield
    finally:
        os.close(descriptor)


def is_held(folder: Path) -> bool:
    """Tell whether another process holds a folder."""
    try:
        with locked(folder):
            return False
    except UserError:
        return True


def open_text(path: Path) -> TextIO:
    r"""Open a file for text in UTF-8, with ``\\n`` at the ends of lines on every system."""
    # A lone surrogate stands for a byte of a file name that is not UTF-8; its escape is valid in JSON too.
    return path.open("w", encoding="utf-8", errors="backslashreplace", newline="")
