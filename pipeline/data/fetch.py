"""Download public datasets: verified, within limits of time and size, and whole or not there."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
import tempfile
import time
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.request import urlopen

from monai.apps import DecathlonDataset

from pipeline.errors import Problem, UserError, nearest
from pipeline.files import FULL
from pipeline.terminal import transfer

if TYPE_CHECKING:
    from collections.abc import Iterator

# The largest task of the Decathlon has 27 GB; a server that says nothing for so long is not waited for, nor one that
# would take more than a day.
MAX_BYTES = 64 * 10**9
SILENT_S = 60.0
LONGEST_S = 86_400.0
BLOCK = 1 << 20
# Below its own folder a dataset has two levels, and a few thousand files.
MAX_DEPTH = 16
MAX_MEMBERS = 200_000


def fetch(name: str, output: Path) -> Path:
    """Download a task of the Medical Segmentation Decathlon with MONAI's own addresses and checksums.

    Args:
        name: Such as ``Task04_Hippocampus``.
        output: The folder that the dataset's folder goes into; made where it is not there.

    Returns:
        The dataset's folder.

    Raises:
        UserError: There is no such task, it is there already, it is too large or takes too long, or it cannot be
            downloaded, verified or unpacked. Nothing is left behind then.
    """
    known = DecathlonDataset.resource
    if name not in known:
        raise _failed(name, "no-such-dataset", "is no task of the Decathlon", nearest(name, known))
    return fetch_archive(name, known[name], DecathlonDataset.md5[name], output)


def fetch_archive(name: str, url: str, md5: str, output: Path) -> Path:
    """Download a tar archive that holds one folder called ``name``, and unpack that into ``output``."""
    target = output / name
    if target.exists():
        raise _failed(str(target), "exists", "is there already", "use it, remove it, or name another --output")
    made = [place for place in (output, *output.parents) if not place.exists()]
    try:
        output.mkdir(parents=True, exist_ok=True)
        # On the same disk, so that the last step is a rename.
        with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=output) as folder:
            archive = Path(folder) / f"{name}.tar"
            unpacked = Path(folder) / "unpacked"
            _download(url, md5, archive, target)
            unpack(archive, unpacked, name)
            (unpacked / name).rename(target)
    except BaseException as error:
        with suppress(OSError):  # Not empty: somebody else's by now.
            for place in made:
                place.rmdir()
        if isinstance(error, OSError) and not isinstance(error, UserError):
            full = error.errno in FULL
            remedy = "check the folder's permissions and the disk, or name another --output"
            if full:
                remedy = "make room"
            raise _failed(str(target), "unwritable", f"cannot be written: {error.strerror}", remedy) from None
        raise
    return target


def _download(url: str, md5: str, archive: Path, target: Path) -> None:
    by_hand = f"check the connection and try again, or download {url} and unpack it to {target}"
    digest = hashlib.md5(usedforsecurity=False)
    received = 0
    began = time.monotonic()
    try:
        with urlopen(url, timeout=SILENT_S) as response, archive.open("wb") as file:
            told = int(response.headers.get("Content-Length") or 0)
            _refuse_size(url, told, archive.parent)
            with transfer(target.name, told or None) as count:
                # One piece at a time as it comes, so that a server that drips is noticed.
                while block := response.read1(BLOCK):
                    received += len(block)
                    if received > MAX_BYTES:
                        _refuse_size(url, received, archive.parent)
                    if time.monotonic() - began > LONGEST_S:
                        raise TimeoutError(f"only {received / 1e6:.0f} MB came within {LONGEST_S / 3600:g} h")
                    digest.update(block)
                    file.write(block)
                    count(len(block))
    except (OSError, HTTPException, ValueError) as error:
        if isinstance(error, UserError) or getattr(error, "errno", None) in FULL:
            raise  # Of the disk, not of the connection.
        reason = getattr(error, "reason", None) or error
        raise _failed(url, "no-download", f"cannot be downloaded: {reason}", by_hand) from None
    if received < told:
        message = f"ended after {received} of {told} bytes"
        raise _failed(url, "no-download", message, by_hand)
    if digest.hexdigest() != md5:
        raise _failed(url, "bad-checksum", f"is not the file that MONAI knows (md5 {md5})", "try again")


def _refuse_size(url: str, size: int, folder: Path) -> None:
    """Refuse an archive that is larger than any dataset, or that does not fit the disk together with its content."""
    free = shutil.disk_usage(folder).free
    if size > MAX_BYTES:
        message = f"has {size / 1e9:.1f} GB, over {MAX_BYTES / 1e9:.0f} GB"
        raise _failed(url, "too-large", message, "do not use this archive")
    if 2 * size > free:
        message = f"needs {2 * size / 1e9:.1f} GB, packed and unpacked, and the disk has {free / 1e9:.1f} GB free"
        raise _failed(url, "disk-full", message, "make room, or name another --output")


def unpack(archive: Path, folder: Path, name: str) -> None:
    """Unpack a tar archive of plain files and folders below ``name``; anything else in it is refused unread.

    Raises:
        UserError: The archive is damaged or compressed, or holds a link, a device, a path outside ``name``, folders
            nested too deeply, or more than fits.
    """
    try:
        with tarfile.open(archive, "r:") as tar:
            members = list(_members(tar, name))
            tar.extractall(folder, members, filter="data")
    except (tarfile.TarError, EOFError, ValueError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise _failed(archive.name, "bad-archive", f"cannot be unpacked: {error}", "download it again") from None
    if not (folder / name).is_dir():
        raise _failed(archive.name, "bad-archive", f"holds no folder {name}", "download it again")


def _members(tar: tarfile.TarFile, name: str) -> Iterator[tarfile.TarInfo]:
    size = 0
    for count, member in enumerate(tar, start=1):
        path = PurePosixPath(member.name)
        size += member.size
        if size > MAX_BYTES or count > MAX_MEMBERS:
            raise _hostile(tar, f"holds over {MAX_BYTES / 1e9:.0f} GB or over {MAX_MEMBERS} files")
        if path.name.startswith("._"):  # macOS' notes on its files
            continue
        inside = not path.is_absolute() and ".." not in path.parts and path.parts[:1] == (name,)
        plain = (member.isfile() or member.isdir()) and not member.issparse()
        if not inside or not plain:
            raise _hostile(tar, f"holds {member.name[:200]!r}, which is no plain file or folder below {name}")
        if len(path.parts) > MAX_DEPTH:
            raise _hostile(tar, f"nests folders {len(path.parts)} deep, over {MAX_DEPTH}")
        yield member


def _hostile(tar: tarfile.TarFile, message: str) -> UserError:
    return _failed(Path(str(tar.name)).name, "hostile-archive", message, "do not use this archive")


def _failed(where: str, code: str, message: str, remedy: str) -> UserError:
    return UserError("The dataset was not fetched.", [Problem(where, code, message, remedy)])
