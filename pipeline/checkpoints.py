"""Checkpoints: one file with everything that is needed to go on training or to predict, and no code.

A checkpoint is written once and never changed. Its name tells kind and step, such as ``last-000050.pt``. Beside it lies
its SHA-256, ``last-000050.pt.sha256``, in the format of ``sha256sum -c``. The two newest of each kind are kept. A save
writes the file, syncs it, renames it and syncs the folder, does the same for the hash, and only then deletes the
oldest. So whenever the process is killed, the two old checkpoints are left, or the new one.

Only a save deletes checkpoints, and only those that the run itself has saved: files whose hash is in its list
(:mod:`pipeline.outputs`). A damaged file is renamed and kept, since nobody can tell what it is.
"""

from __future__ import annotations

import hashlib
import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from pipeline.archives import FORMAT, hash_of, load_checkpoint, read_archive
from pipeline.errors import Problem, UserError
from pipeline.files import atomic_write, flush_to_disk, path_hint, sweep
from pipeline.outputs import Output

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from pipeline.types import Which

FOLDER = "checkpoints"
KEPT = 2


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
        UserError: A file of this name is there that the run has not saved.
        WriteError: The disk is full or fails.
    """
    buffer = io.BytesIO()  # Whole in memory first: its size is known before the disk is asked for it.
    torch.save({"format": FORMAT, **state}, buffer)
    content = buffer.getbuffer()
    output = output_of(run)
    path = run / FOLDER / f"{which}-{state['step']:06d}.pt"
    refuse_foreign(run, [path])
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(content).hexdigest()
    output.tell(_name(path), digest)
    if hash_of(path).exists():  # The hash of a file that is about to be replaced: the new one would look damaged.
        hash_of(path).unlink()
        flush_to_disk(path.parent)
    with atomic_write(path, len(content), private=True) as temporary:
        temporary.write_bytes(content)
    with atomic_write(hash_of(path), private=True) as temporary:
        temporary.write_text(_hash_line(digest, path), encoding="ascii", newline="\n")
    for old in [old for old in checkpoints_of(run, which) if output.digests(_name(old))][KEPT:]:
        if output.is_own(_name(old)):
            old.unlink()
            if _is_own_hash(output, old):
                hash_of(old).unlink()
    return path


def output_of(run: Path) -> Output:
    """Return a run's folder as what its files belong to."""
    return Output(run, "run")


def checkpoints_of(run: Path, which: Which) -> list[Path]:
    """Return a run's checkpoints of one kind, the newest first."""
    found = {
        int(match[1]): path
        for path in (run / FOLDER).glob(f"{which}-*.pt")
        if (match := re.fullmatch(rf"{which}-(\d{{1,18}})\.pt", path.name))
    }
    return [found[step] for step in sorted(found, reverse=True)]


def newest_checkpoint(run: Path, *kinds: Which) -> Checkpoint:
    """Read the newest sound checkpoint of a run, of one kind or several.

    Raises:
        UserError: There is none; or a newer file is undamaged and no checkpoint of ours. Somebody has put it there, so
            no older one is used instead.
    """
    damaged: list[Problem] = []
    for path in sorted((path for which in kinds for path in checkpoints_of(run, which)), key=_step, reverse=True):
        try:
            return Checkpoint(path, load_checkpoint(path), tuple(damaged))
        except UserError as error:
            if error.problems[0].code != "damaged-checkpoint":
                raise
            damaged += error.problems
    told = " or ".join(kinds)
    if damaged:
        raise UserError(f"No {told} checkpoint of {run} is sound.", damaged)
    remedy = "train first, or check the run's folder"
    message = f"there is no such checkpoint: {told}"
    if not run.exists():
        message = "there is no such run"
        remedy = path_hint(run, remedy)
    elif not (run / FOLDER).is_dir():
        message = f"has no {FOLDER}/, so it is no run, or one that was stopped before its first checkpoint"
        remedy = "name the folder that train wrote, a model file or a checkpoint"
        if runs := sorted(path.parent for path in run.glob(f"*/{FOLDER}")):
            message = f"is no run, and holds {len(runs)}"
            remedy = f"name one of them: {runs[0]}"
    raise UserError("There is nothing to go on from.", [Problem(str(run), "missing-checkpoint", message, remedy)])


def _step(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])


def refuse_foreign(run: Path, paths: Iterable[Path] | None = None) -> None:
    """Refuse checkpoints, and hashes beside them, that the run has not saved; one of its own may be damaged.

    Args:
        run: The run's folder.
        paths: The checkpoints to look at; by default all that are there.

    Raises:
        UserError: There are such files; one problem for each.
    """
    output = output_of(run)
    problems = []
    remedy = "move it away, or name another --output; to go on from it, `fewmask train {} dataset=DATASET --output NEW`"
    if paths is None:
        paths = _named(run)
    for path in paths:
        if _is_there(path) and not output.is_own(_name(path)) and not _is_own_damaged(output, path):
            message = "is there, and was not saved by this run"
            if path.is_symlink():
                message = "is a link"
            problems.append(Problem(str(path), "in-the-way", message, remedy.format(path)))
        elif _is_there(hash_of(path)) and not _is_own_hash(output, path):
            message = "is there, and is not the hash that this run saved"
            problems.append(Problem(str(hash_of(path)), "in-the-way", message, output.remedy))
    if problems:
        raise UserError("Nothing was written: checkpoints are in the way.", problems)


def clear_up(run: Path) -> list[Path]:
    """Delete what killed saves left half-written, and rename damaged checkpoints, so that training can go on.

    :func:`refuse_foreign` comes first: the folder must hold no checkpoints of others.

    Returns:
        The new paths of damaged checkpoints.
    """
    output = output_of(run)
    aside = []
    sweep(run / FOLDER)
    for path in _named(run):
        if path.exists() and _is_own_damaged(output, path):
            names = (path.with_name(f"{path.name}.damaged{end}") for end in ("", *map(str, range(2, 1000))))
            aside.append(path.rename(next(name for name in names if not _is_there(name))))
        if not path.exists() and _is_own_hash(output, path):
            hash_of(path).unlink()
    return aside


def _named(run: Path) -> list[Path]:
    """Return the paths of all checkpoints of which the file or its hash is there."""
    found = (re.fullmatch(r"((?:last|best)-\d+\.pt)(?:\.sha256)?", path.name) for path in (run / FOLDER).glob("*"))
    return sorted({run / FOLDER / match[1] for match in found if match})


def _name(path: Path) -> str:
    return f"{FOLDER}/{path.name}"


def _is_there(path: Path) -> bool:
    return path.is_symlink() or path.exists()


def _is_own_damaged(output: Output, path: Path) -> bool:
    """Tell whether a file has the name of a checkpoint that the run saved, other bytes, and cannot be read."""
    if path.is_symlink() or not path.is_file() or output.is_own(_name(path)) or not output.digests(_name(path)):
        return False
    try:
        read_archive(path)
    except UserError:
        return True
    return False


def _is_own_hash(output: Output, path: Path) -> bool:
    told = hash_of(path)
    if told.is_symlink() or not told.is_file():
        return False
    with told.open("rb") as stream:
        return stream.read(200) in {_hash_line(digest, path).encode() for digest in output.digests(_name(path))}


def _hash_line(digest: str, path: Path) -> str:
    return f"{digest}  {path.name}\n"
