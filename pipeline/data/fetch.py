"""Download public datasets: verified, and whole or not there."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.error import URLError

from monai.apps import DecathlonDataset, download_url
from monai.apps.utils import HashCheckError

from pipeline.errors import Problem, UserError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterator


def fetch(name: str, output: Path) -> Path:
    """Download a task of the Medical Segmentation Decathlon with MONAI's own addresses and checksums.

    Args:
        name: Such as ``Task04_Hippocampus``.
        output: The folder that the dataset's folder goes into; made where it is not there.

    Returns:
        The dataset's folder.

    Raises:
        UserError: There is no such task, it is there already, or it cannot be downloaded, verified or unpacked. Nothing
            is left behind then.
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
    output.mkdir(parents=True, exist_ok=True)
    # On the same disk, so that the last step is a rename.
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=output) as folder:
        archive = Path(folder) / f"{name}.tar"
        _download(url, md5, archive, target)
        unpacked = Path(folder) / "unpacked"
        try:
            unpack(archive, unpacked, name)
            (unpacked / name).rename(target)
        except OSError as error:
            raise _failed(str(target), "unwritable", f"cannot be written: {error.strerror}", "make room") from None
    return target


def _download(url: str, md5: str, archive: Path, target: Path) -> None:
    by_hand = f"check the connection and try again, or download {url} and unpack it to {target}"
    try:
        download_url(url, archive, hash_val=md5, hash_type="md5")
    except URLError as error:  # HTTP errors and cut downloads are among them
        raise _failed(url, "no-download", f"cannot be downloaded: {error.reason}", by_hand) from None
    except OSError as error:
        raise _failed(url, "no-download", f"cannot be downloaded: {error}", by_hand) from None
    except HashCheckError:
        raise _failed(url, "bad-checksum", f"is not the file that MONAI knows (md5 {md5})", "try again") from None


def unpack(archive: Path, folder: Path, name: str) -> None:
    """Unpack a tar archive of plain files and folders below ``name``; anything else in it is refused unread.

    Raises:
        UserError: The archive is damaged, or holds a link, a device, or a path outside ``name``.
    """
    try:
        with tarfile.open(archive) as tar:
            members = list(_members(tar, name))
            tar.extractall(folder, members, filter="data")
    except (tarfile.TarError, EOFError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise _failed(archive.name, "bad-archive", f"cannot be unpacked: {error}", "download it again") from None
    if not (folder / name).is_dir():
        raise _failed(archive.name, "bad-archive", f"holds no folder {name}", "download it again")


def _members(tar: tarfile.TarFile, name: str) -> Iterator[tarfile.TarInfo]:
    for member in tar:
        path = PurePosixPath(member.name)
        inside = not path.is_absolute() and ".." not in path.parts and path.parts[:1] == (name,)
        if path.name.startswith("._"):  # macOS' notes on its files
            continue
        if not inside or not (member.isfile() or member.isdir()):
            message = f"holds {member.name!r}, which is no plain file or folder below {name}"
            raise _failed(Path(str(tar.name)).name, "hostile-archive", message, "do not use this archive")
        yield member


def _failed(where: str, code: str, message: str, remedy: str) -> UserError:
    return UserError("The dataset was not fetched.", [Problem(where, code, message, remedy)])
