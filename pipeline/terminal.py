"""The terminal: the one module that prints and draws.

A caller from Python can listen instead: within :func:`listening`, each line goes to a function of the caller's, and
nothing is printed or drawn.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, NoReturn, TypeVar

from rich.console import Console

from pipeline.errors import printable
from pipeline.interruption import Stopped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from rich.console import RenderableType

T = TypeVar("T")

# The exit code that a shell reports for a program that SIGPIPE has ended.
CLOSED_PIPE = 141


class _Console(Console):
    """A console that ends the program when its output is a pipe that the reader has closed, as ``head`` does."""

    def on_broken_pipe(self) -> None:
        """Stop, so that what is under way is saved."""
        self.quiet = True
        _leave_pipe(self.file)


def _leave_pipe(stream: IO[str]) -> NoReturn:
    _leave(stream)
    raise Stopped(CLOSED_PIPE)


def _leave(stream: IO[str]) -> None:
    """Discard whatever is still written to a stream."""
    with suppress(OSError, ValueError):  # Else Python complains when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


OUT = _Console()
ERR = _Console(stderr=True)
for console in (OUT, ERR):
    if not console.width:  # COLUMNS=0, as some containers have it: Rich would print nothing at all.
        console.width = 80

# Names and paths may hold what a console would take for markup.
PLAIN: dict[str, Any] = {"markup": False, "highlight": False, "soft_wrap": True}

_listener: ContextVar[Callable[[str], object] | None] = ContextVar("listener", default=None)


@dataclass(frozen=True)
class Manner:
    """How much a command prints, and in which form.

    Attributes:
        quiet: Errors alone, and with ``json`` the document.
        verbose: Before what is noted on the way, the seconds since the command began.
        json: On standard output one JSON document in place of sentences and tables.
    """

    quiet: bool = False
    verbose: bool = False
    json: bool = False


AS_USUAL = Manner()
_manner: ContextVar[Manner] = ContextVar("manner", default=AS_USUAL)
BEGAN = time.monotonic()


@contextmanager
def speaking(manner: Manner) -> Iterator[None]:
    """Print in a manner, in this thread and until the block ends."""
    token = _manner.set(manner)
    try:
        yield
    finally:
        _manner.reset(token)


def is_verbose() -> bool:
    """Tell whether all that is known is to be printed."""
    return _manner.get().verbose and _listener.get() is None


def give(document: object) -> None:
    """Print what a command has found as JSON on standard output, where that was asked for; nothing elsewhere.

    Args:
        document: Dictionaries, lists, text, finite numbers, booleans and None; paths become text.

    Raises:
        ValueError: There is a NaN or an infinity in it, which JSON does not know.

    >>> give({"masks": 3})
    >>> with speaking(Manner(json=True)):
    ...     give({"masks": 3})
    {
      "masks": 3
    }
    """
    if _manner.get().json:
        # Letters beyond ASCII are escaped: no name of a file reaches the terminal as it is.
        flush(json.dumps(document, indent=2, allow_nan=False, default=str) + "\n")


@contextmanager
def listening(hear: Callable[[str], object]) -> Iterator[None]:
    """Give each line to a function, in this thread and until the block ends; tables and bars are left out.

    Args:
        hear: Called with each line, as it would be printed.

    >>> heard = []
    >>> with listening(heard.append):
    ...     say("one case")
    >>> heard
    ['one case']
    """
    token = _listener.set(hear)
    try:
        yield
    finally:
        _listener.reset(token)


def say(text: str) -> None:
    """Print what a command has done on standard output, without markup; nothing where JSON is printed there."""
    if not _manner.get().json:
        _tell(OUT, text)


def note(text: str) -> None:
    """Print what happens on the way on standard error, without markup."""
    if is_verbose():
        text = f"[{time.monotonic() - BEGAN:7.1f} s] {text}"
    _tell(ERR, text)


def _tell(console: Console, text: str) -> None:
    hear = _listener.get()
    if hear is not None:
        hear(printable(text))
    elif not _manner.get().quiet:
        console.print(printable(text), **PLAIN)


def show(table: RenderableType, width: int | None = None) -> None:
    """Print a table; nothing is printed within :func:`listening`, or where JSON is."""
    manner = _manner.get()
    if _listener.get() is None and not manner.quiet and not manner.json:
        OUT.print(table, width=width)


def complain(text: str) -> None:
    """Print an error on standard error, if that is still open. A listener does not get it: it gets the exception."""
    with suppress(OSError, Stopped):
        ERR.print(printable(text), **PLAIN)


def flush(text: str = "") -> None:
    """Flush standard output, to which texts such as help were written directly.

    Args:
        text: Written before that.

    Raises:
        Stopped: Standard output is a pipe that its reader has closed.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        _leave_pipe(sys.stdout)
    except OSError as error:
        if error.errno != errno.EIO:  # Which says that the terminal is gone.
            raise
        _leave(sys.stdout)


def fail(message: str, code: int) -> NoReturn:
    """Print what is wrong, and exit with a code."""
    try:
        complain(f"error: {message}")
    except MemoryError:  # To lay out text, Rich loads more than there may be memory for.
        sys.stderr.write(f"error: {printable(message)}\n")
    sys.exit(code)


def draws() -> bool:
    """Tell whether bars are drawn: only on a terminal, and not within :func:`listening`."""
    return ERR.is_terminal and _listener.get() is None and not _manner.get().quiet


# Rich's bars are imported where one is made: the import takes longer than printing a help text.


def progress(items: Iterable[T], what: str, total: int) -> Iterable[T]:
    """Pass items on, and draw how many of them are done."""
    if not draws():
        return items
    from rich.progress import track

    return track(items, what, total, console=ERR, transient=True)


@contextmanager
def transfer(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Draw how many bytes have come; yield a function that is told the number of further ones.

    Args:
        what: What comes.
        total: How many bytes there are; None where that is not known.
    """
    if not draws():
        yield lambda count: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, console=ERR, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.update(task, advance=count)


class StepBar:
    """One line that shows how far a training is, drawn from :meth:`start` to :meth:`close`."""

    def __init__(self) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[pace]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=ERR,
            # A validation is a pause of many steps: over a shorter time the pace would jump.
            speed_estimate_period=120,
            transient=True,
            disable=not draws(),
        )
        self._task = self._bar.add_task("", total=None, pace="")

    @property
    def is_drawn(self) -> bool:
        """Whether the line is there."""
        return self._bar.live.is_started

    def start(self, done: int, total: int) -> None:
        """Draw the line, with so many steps done of all."""
        self._bar.reset(self._task, total=total, completed=done)
        self._bar.start()

    def update(self, done: int, total: int, text: str) -> None:
        """Show how many steps are done of all, the pace, and a text behind them."""
        speed = self._bar.tasks[0].speed
        self._bar.update(self._task, total=total, completed=done, description=text, pace=pace_of(speed))

    def close(self) -> None:
        """Leave the terminal as it was, if it is still there."""
        with suppress(OSError):
            if self.is_drawn:
                self._bar.stop()


def pace_of(speed: float | None) -> str:
    """Return a pace in steps a second, or in seconds a step where that is more.

    >>> pace_of(2.5), pace_of(0.1), pace_of(None)
    ('2.5 steps/s', '10.0 s/step', '')
    """
    if not speed:
        return ""
    if speed >= 1:
        return f"{speed:.1f} steps/s"
    return f"{1 / speed:.1f} s/step"
