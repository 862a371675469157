"""Checkpoints: one file with everything to go on training or to predict, and nothing in it that can run."""

from __future__ import annotations

import pickle
import zlib
from typing import TYPE_CHECKING, Any, Literal
from zipfile import BadZipFile, ZipFile

import torch

from pipeline.errors import Problem, UserError
from pipeline.files import atomic_write

if TYPE_CHECKING:
    from pathlib import Path

Which = Literal["last", "best"]

FORMAT = 1
FOLDER = "checkpoints"


def checkpoint_path(run: Path, which: Which) -> Path:
    """Return where a run keeps its ``last`` or ``best`` checkpoint."""
    return run / FOLDER / f"{which}.pt"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint: complete and on disk when this returns, the previous one untouched if it fails.

    Args:
        path: The file.
        state: Tensors, numbers, text, and lists and dictionaries of them, so that it loads without unpickling objects.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        torch.save({"format": FORMAT, **state}, temporary)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, with ``weights_only=True`` and no other way in.

    Raises:
        UserError: There is no such file, it is damaged, or it is no checkpoint of ours.
    """
    if not path.is_file():
        raise _unusable(
            path,
            "missing-checkpoint",
            "there is no such checkpoint",
            "train first, or check the run's folder",
        )
    if not _is_whole(path):
        raise _unusable(
            path,
            "damaged-checkpoint",
            "is damaged, or no checkpoint",
            "use the run's other checkpoint, or train again",
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise _unusable(
            path,
            "unsafe-checkpoint",
            "holds more than tensors and numbers",
            "use a checkpoint that Fewmask wrote",
        ) from None
    except (RuntimeError, ValueError):  # An archive of another kind.
        state = None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise _unusable(
            path,
            "foreign-checkpoint",
            f"is not of format {FORMAT}",
            "use a checkpoint that this version wrote",
        )
    return state


def _is_whole(path: Path) -> bool:
    """Tell whether the file is an archive whose checksums hold, since torch would read a flipped bit as a weight."""
    try:
        with ZipFile(path) as archive:
            return archive.testzip() is None
    except (BadZipFile, EOFError, ValueError, NotImplementedError, zlib.error):
        return False


def _unusable(path: Path, code: str, message: str, remedy: str) -> UserError:
    return UserError("The checkpoint cannot be used.", [Problem(str(path), code, message, remedy)])
