"""A child process under ptrace: its system calls counted, one of them refused, or the child killed at one of them.

The kernel does it, not a patch of Python's functions, so C code that writes is met too. Linux on x86-64 alone.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

POSSIBLE = sys.platform == "linux" and platform.machine() == "x86_64"

TRACEME, GETREGS, SETREGS, SYSCALL, SETOPTIONS = 0, 12, 13, 24, 0x4200
SYSGOOD_AND_EXITKILL = 1 | 1 << 20
RESULT, NUMBER = 10, 15  # in the registers below
# What makes, fills and names a file. getppid, which nothing else calls, frames the part that is looked at.
CALLS = {
    1: "write",
    18: "pwrite64",
    20: "writev",
    74: "fsync",
    75: "fdatasync",
    76: "truncate",
    77: "ftruncate",
    82: "rename",
    83: "mkdir",
    86: "link",
    87: "unlink",
    257: "openat",
    263: "unlinkat",
    264: "renameat",
    285: "fallocate",
    316: "renameat2",
}
FRAME = 110
WRITES = ("write", "pwrite64", "writev", "fsync", "fdatasync", "rename", "renameat", "renameat2")

Registers = ctypes.c_ulonglong * 27
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


@dataclass
class Trace:
    """What a traced child did.

    Attributes:
        calls: Names or numbers of its framed system calls, in order.
        code: Its exit code, or None where it was killed.
        said: What it wrote to the pipe that it was given.
    """

    calls: list[str] = field(default_factory=list)
    code: int | None = None
    said: bytes = b""


def trace(
    work: Callable[[], bytes], *, kill_at: int | None = None, refuse: tuple[int, int] | None = None, only=()
) -> Trace:
    """Run work in a traced child and return what happened.

    Args:
        work: Runs in the child; what it returns is what the child says.
        kill_at: Kill the child on entering the framed system call of this number, from 0.
        refuse: Number of a framed call, counted among those named in ``only``, and the error that it is to fail with.
        only: Names of the calls that ``refuse`` counts.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _run(work, writer)
    os.close(writer)
    found = Trace()
    try:
        _follow(child, found, kill_at, refuse, only)
    finally:
        with os.fdopen(reader, "rb") as stream:
            found.said = stream.read()
    return found


def _run(work: Callable[[], bytes], writer: int) -> None:
    code = 1
    try:
        _call(TRACEME, 0, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        os.getppid()
        said = work()
        os.getppid()
        os.write(writer, said)
        code = 0
    finally:
        os._exit(code)


def _call(request: int, child: int, data: object) -> None:
    if _libc.ptrace(request, child, None, data) == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _follow(
    child: int, found: Trace, kill_at: int | None, refuse: tuple[int, int] | None, only: tuple[str, ...]
) -> None:
    os.waitpid(child, 0)
    _call(SETOPTIONS, child, SYSGOOD_AND_EXITKILL)
    registers, framed, entering, refusing, counted, deliver = Registers(), False, True, False, 0, 0
    while True:
        _call(SYSCALL, child, deliver)
        deliver = 0
        _, status = os.waitpid(child, 0)
        if not os.WIFSTOPPED(status):
            found.code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
            return
        if os.WSTOPSIG(status) != signal.SIGTRAP | 0x80:
            deliver = os.WSTOPSIG(status)
            continue
        if entering:
            _call(GETREGS, child, ctypes.byref(registers))
            number = registers[NUMBER]
            if number == FRAME:
                framed = not framed
            elif framed:
                if kill_at == len(found.calls):
                    os.kill(child, signal.SIGKILL)
                    os.waitpid(child, 0)
                    return
                name = CALLS.get(number, str(number))
                found.calls.append(name)
                if refuse and name in only:
                    refusing, counted = counted == refuse[0], counted + 1
                    if refusing:
                        registers[NUMBER] = 2**64 - 1
                        _call(SETREGS, child, ctypes.byref(registers))
        elif refusing:
            _call(GETREGS, child, ctypes.byref(registers))
            registers[RESULT] = 2**64 - refuse[1]
            _call(SETREGS, child, ctypes.byref(registers))
            refusing = False
        entering = not entering
