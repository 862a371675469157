"""Where an export goes: a name that is not there yet, which appears whole or not at all."""

from __future__ import annotations

import secrets
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipeline.errors import Problem, UserError
from pipeline.files import PARTIAL, WriteError, flush_to_disk, to_write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def refuse_present(path: Path) -> None:
    """Refuse a name that is there, or of which a folder above is a file.

    Raises:
        UserError: It is.
    """
    if path.is_symlink() or path.exists():
        problem = Problem(str(path), "in-the-way", "is there already", "name another --output, or remove it")
        raise UserError("Nothing was exported.", [problem])
    to_write(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Let a block write into a folder that gets its name when the block has succeeded.

    Args:
        path: The folder; it must not be there.

    Yields:
        The folder under another, hidden name.

    Raises:
        UserError: As :func:`refuse_present`.
        WriteError: The disk is full or fails.
    """
    refuse_present(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{PARTIAL}{secrets.token_hex(4)}.{path.name}")
    try:
        partial.mkdir()
        yield partial
        for written in sorted(partial.rglob("*")):
            flush_to_disk(written)
        partial.rename(path)
        flush_to_disk(path.parent)
    except OSError as error:
        if isinstance(error, UserError):
            raise
        raise WriteError(path, error, 0) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
