"""Folders that commands write to: no command replaces or deletes a file that it did not make.

Each such folder has a list, ``.fewmask``, of what was written there. A line holds the owner, the state of the file, and
its name:

    run 9f86d081…b0f00a08 cases.csv     it was written, with this SHA-256
    run - history.csv                   it grows, so whatever is there is its owner's
    run . figures/loss.svg              it was deleted

The last line of a name is its state; a file with the hash of an earlier line is its owner's too. A line is on the disk
before the file itself is written. Lines are only ever added, in a single write, so neither a kill nor another process
loses one. A bottom layer beside ``files``.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING

from pipeline.errors import Problem, UserError
from pipeline.files import PARTIAL, WINDOWS_PLACES, WriteError, byte_locked, flush_to_disk

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

LIST = ".fewmask"
HEAD = "# What Fewmask has written here: it replaces and deletes no other file.\n"
GROWS = "-"
NOT_THERE = "."
# The last name of a folder in which files are written that are to be put in their places together.
STAGE = "stage"
# A list longer than that of a million checkpoints is refused. The byte that writers lock lies far behind its end.
MAX_BYTES = 100_000_000
LOCKED = WINDOWS_PLACES - 1
# So many files in the way are named.
SHOWN = 20


@dataclass(frozen=True)
class Output:
    """A folder that a command writes to.

    Attributes:
        folder: It need not be there.
        owner: What the files belong to: a run, or the command that makes them. One word.
        remedy: What to do about a file in the way.
    """

    folder: Path
    owner: str
    remedy: str = "move it away, or name another --output"

    def refuse_foreign(self, names: Iterable[str]) -> None:
        """Refuse to go on where a file that is to be written is there, and is not the owner's.

        Args:
            names: Of the files, relative to the folder, with ``/``.

        Raises:
            UserError: With every such file; or the list is not ours.
        """
        self._refuse(names, self._states())

    def foreign(self, names: Iterable[str]) -> list[str]:
        """Return those of some names under which something is there that is not as the owner wrote it."""
        states = self._states()
        there = [name for name in names if (path := self.folder / name).is_symlink() or path.exists()]
        return [name for name in there if not self._is_own(name, states.get(name, []))]

    def is_own(self, name: str) -> bool:
        """Tell whether a file is there and has the content that its owner wrote, or is one that grows."""
        return self._is_own(name, self._states().get(name, []))

    def digests(self, name: str) -> set[str]:
        """Return the SHA-256 of all that the owner has ever written under a name here."""
        return {*self._states().get(name, [])} - {GROWS, NOT_THERE}

    def knows(self, name: str) -> bool:
        """Tell whether the owner has ever written, or begun to write, a file of this name here."""
        return name in self._states()

    def own(self, names: Iterable[str]) -> None:
        """Record files that grow, or are written again and again: whatever is in them is the owner's from now on.

        Raises:
            UserError: As :meth:`refuse_foreign`.
        """
        states = self._states()
        self._refuse(names, states)
        self._add({name: GROWS for name in names if states.get(name, [""])[-1] != GROWS})

    def tell(self, name: str, digest: str) -> None:
        """Record a file that is about to be written, by the SHA-256 of its content."""
        self._add({name: digest})

    @contextmanager
    def writing(self, names: Sequence[str]) -> Iterator[Path]:
        """Let a block write files to a temporary folder, and move them to their places once it has succeeded.

        Processes do so one after the other. Whatever ends the block early, no file has changed. Temporary folders of
        killed processes are deleted.

        Args:
            names: All files that the block may write. Of these, the ones that it does not write are deleted.

        Yields:
            A folder to write to, under the same names.

        Raises:
            UserError: As :meth:`refuse_foreign`.
            WriteError: The disk is full or fails.
        """
        with self._held() as stream:
            states = self._states(stream)
            self._refuse(names, states)
            for left in self.folder.glob(f"{PARTIAL}*.{STAGE}"):
                shutil.rmtree(left)
            stage = self.folder / f"{PARTIAL}{secrets.token_hex(4)}.{STAGE}"
            stage.mkdir()
            try:
                yield stage
                self._refuse(names, states)  # What has come in between is not ours.
                self._put_in_place(names, stage, stream, states)
            finally:
                shutil.rmtree(stage, ignore_errors=True)

    def _put_in_place(self, names: Sequence[str], stage: Path, stream: IO[bytes], states: dict[str, list[str]]) -> None:
        new = {name: _state_of(stage / name) for name in names}
        changed = {name: state for name, state in new.items() if state != _state_of(self.folder / name)}
        self._append(stream, {name: state for name, state in changed.items() if states.get(name, [""])[-1] != state})
        for name, state in changed.items():
            path = self.folder / name
            try:
                path.parent.mkdir(exist_ok=True)
                if state == NOT_THERE:
                    path.unlink()
                else:
                    (stage / name).replace(path)
                flush_to_disk(path.parent)
            except OSError as error:
                raise WriteError(path, error, 0) from None

    def _is_own(self, name: str, states: Sequence[str]) -> bool:
        path = self.folder / name
        if not states or path.is_symlink() or not path.is_file():
            return False
        return states[-1] == GROWS or digest_of(path) in states

    def _refuse(self, names: Iterable[str], states: dict[str, list[str]]) -> None:
        problems = []
        for name in names:
            path = self.folder / name
            blocked = next((place for place in path.parents if place != self.folder and place.is_file()), None)
            within = [self.folder / place for place in PurePosixPath(name).parents[:-1]]
            linked = next((place for place in within if place.is_symlink()), None)
            if blocked:
                problems.append(Problem(str(blocked), "in-the-way", "is a file", self.remedy))
            elif linked:  # To write through it would be to write elsewhere.
                problems.append(Problem(str(linked), "in-the-way", "is a link", self.remedy))
            elif (path.is_symlink() or path.exists()) and not self._is_own(name, states.get(name, [])):
                problems.append(Problem(str(path), "in-the-way", self._why(path, known=name in states), self.remedy))
        if problems:
            unique = list(dict.fromkeys(problems))
            more = ""
            if len(unique) > SHOWN:
                more = f", of which {SHOWN} are named here"
            raise UserError(f"Nothing was written: {len(unique)} file(s) are in the way{more}.", unique[:SHOWN])

    def _why(self, path: Path, *, known: bool) -> str:
        if path.is_symlink():
            return "is a link"
        if known and path.is_file():
            return "was changed after it was written"
        return f"is there, and {'no run has' if self.owner == 'run' else f'`{self.owner}` has not'} written it here"

    def _states(self, stream: IO[bytes] | None = None) -> dict[str, list[str]]:
        """Return the states of each of the owner's files, the latest last; a line that a kill has cut is ignored.

        Args:
            stream: The list, if it is open already: opening and closing it again would end our lock on it.
        """
        if stream is None:
            if not self._has_list():
                return {}
            with (self.folder / LIST).open("rb") as opened:
                return self._states(opened)
        stream.seek(0)
        content = stream.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise self._bad_list(f"has over {MAX_BYTES // 1_000_000} MB")
        states: dict[str, list[str]] = {}
        for line in content.decode(errors="replace").split("\n"):
            owner, _, rest = line.partition(" ")
            state, _, name = rest.partition(" ")
            if owner == self.owner and name:
                states.setdefault(name, []).append(state)
        return states

    def _has_list(self) -> bool:
        """Tell whether there is a list.

        Raises:
            UserError: What is there is none of ours.
        """
        path = self.folder / LIST
        if not (path.is_symlink() or path.exists()):
            return False
        if path.is_symlink() or not path.is_file():
            raise self._bad_list("is no file")
        with path.open("rb") as stream:
            if not HEAD.encode().startswith(stream.read(len(HEAD))):
                raise self._bad_list("does not begin as Fewmask's list of what it has written")
        return True

    def _bad_list(self, message: str) -> UserError:
        return UserError("Nothing was written.", [Problem(str(self.folder / LIST), "bad-list", message, self.remedy)])

    def _add(self, states: dict[str, str]) -> None:
        if states:
            with self._open() as stream:
                self._append(stream, states)

    def _open(self) -> IO[bytes]:
        self._has_list()
        self.folder.mkdir(parents=True, exist_ok=True)
        return (self.folder / LIST).open("a+b")

    @contextmanager
    def _held(self) -> Iterator[IO[bytes]]:
        """Open the list for this process alone; without a lock if the file system has none."""
        with self._open() as stream, ExitStack() as stack:
            with suppress(OSError):
                stack.enter_context(byte_locked(stream.fileno(), LOCKED, wait=True))
            yield stream

    def _append(self, stream: IO[bytes], states: dict[str, str]) -> None:
        length = stream.seek(0, os.SEEK_END)
        text = "".join(f"{self.owner} {state} {name}\n" for name, state in states.items())
        try:
            if length < len(HEAD):  # New, or cut by a kill.
                stream.truncate(0)
                text = HEAD + text
            stream.seek(max(0, length - 1))
            if length >= len(HEAD) and stream.read(1) != b"\n":
                text = f"\n{text}"
            stream.write(text.encode())
            stream.flush()
            os.fsync(stream.fileno())
            if not length:
                flush_to_disk(self.folder)
        except OSError as error:
            raise WriteError(self.folder / LIST, error, len(text)) from None


def _state_of(path: Path) -> str:
    if path.is_file():
        return digest_of(path)
    return NOT_THERE


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
