"""SIGTERM, SIGINT and SIGHUP, turned into an end that loses nothing.

A signal raises :class:`Stopped` where it arrives, so that every ``finally`` runs. Where that would leave something half
done, a :func:`shield` holds it back; inside a shield, a :func:`window` lets it through while nothing is under way.

Only the command line asks for this (:func:`stoppable`). Elsewhere every handler is the caller's; outside the main
thread, where no signal arrives, shields and windows do nothing.

A bottom layer beside ``files``; what it does is a property of the process, not of an object.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

# Windows has no SIGHUP, which a terminal sends when it goes.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))


class Stopped(SystemExit):
    """The process was asked to end.

    Its code is what a shell expects: 143 after SIGTERM, 130 after SIGINT, 129 after SIGHUP.
    """


class _State:
    signum: int | None = None
    shields: int = 0


_state = _State()


@contextmanager
def stoppable() -> Iterator[None]:
    """Turn these signals into :class:`Stopped` until the block ends; outside the main thread, do nothing.

    A signal that is ignored, as SIGHUP is under ``nohup``, goes on being ignored. The second signal ends the process at
    once, its children too; but a terminal that goes may send several SIGHUP, of which the second means no more than the
    first.
    """
    if not _is_main_thread():
        yield
        return
    _state.signum = None
    heeded = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _receive) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _state.signum = None


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


@contextmanager
def handler_kept(name: str) -> Iterator[None]:
    """Put a signal's handler back at the end of the block; libraries that start processes set their own.

    Args:
        name: Of the signal, such as ``SIGCHLD``; nothing is done where the system has none of that name.
    """
    number = getattr(signal, name, None)
    before = None
    if number is not None and _is_main_thread():
        before = signal.getsignal(number)
    try:
        yield
    finally:
        if number is not None and before is not None:  # None is no handler of Python's.
            signal.signal(number, before)


def _receive(signum: int, _: FrameType | None) -> None:
    if _state.signum is not None:
        if signal.Signals(signum).name == "SIGHUP":
            return
        end_children()
        os._exit(128 + signum)
    _state.signum = signum
    if not _state.shields:
        _stop_if_asked()


def end_children() -> None:
    """Kill the processes that prepare batches: each would finish its own first, and they hold nothing to be saved."""
    children = multiprocessing.active_children()
    for child in children:
        child.kill()
    for child in children:
        child.join(timeout=1)


def _stop_if_asked() -> None:
    if _state.signum is not None:
        raise Stopped(128 + _state.signum)


def asked() -> int | None:
    """Return the number of the signal that has come and was held back; None without one."""
    return _state.signum


@contextmanager
def shield() -> Iterator[None]:
    """Hold a signal back until the block ends.

    Raises:
        Stopped: At the end of the outermost shield, if a signal has come.
    """
    if not _is_main_thread():
        yield
        return
    _state.shields += 1
    try:
        yield
    finally:
        _state.shields -= 1
    if not _state.shields:
        _stop_if_asked()


@contextmanager
def window() -> Iterator[None]:
    """Let a signal through a shield for the length of the block.

    Raises:
        Stopped: If a signal has come, or at the moment it comes.
    """
    if not _is_main_thread():
        yield
        return
    shields = _state.shields
    _state.shields = 0
    try:
        _stop_if_asked()
        yield
    finally:
        _state.shields = shields
