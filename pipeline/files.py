"""Files that are whole or not there: after a kill or a full disk the old file stands, never half a new one.

A bottom layer beside ``types``: every other module may import it.
"""

from __future__ import annotations

import os
import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to, and move it to ``path`` once the block ends without an error.

    The temporary file is hidden, lies in the folder of ``path`` (a rename across disks is no
    rename) and ends like it, so that writers that go by the extension work. Whatever ends the
    block early, ``path`` is as it was and the temporary file is gone.

    Args:
        path: Where the file is to be; replaced if it is there. Its folder must exist.

    Yields:
        The path to write. The caller creates the file, so it gets the usual permissions.

    Raises:
        FileNotFoundError: The folder of ``path`` does not exist, or the block wrote no file.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: there is no folder {path.parent}; create it first")
    partial = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    try:
        yield partial
        flush_to_disk(partial)
        partial.replace(path)
        flush_to_disk(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def flush_to_disk(path: Path) -> None:
    """Wait until the disk holds what was written to a file, or the names that are in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
