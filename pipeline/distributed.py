"""Several processes that make one training: who they are, what they tell each other, and how all of them end.

A launcher such as ``torchrun`` or ``srun`` starts the same command several times; :func:`joined` lets the processes
find each other. Outside of it, and with a single process, there is one process, the first, and nothing here costs
anything.

The first process decides, writes and prints. All exchanges are begun by :func:`agree`, in which each process tells
that it is well, that a signal has come, or what went wrong. So a process that fails between two exchanges tells the
others at the next one, wherever it is, and all of them end together. A process that was killed tells nothing: the
others notice it by its closed connection, and learn by the missing heartbeat which one it was.
"""

from __future__ import annotations

import os
import pickle
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import ignite.distributed as idist
import torch
import torch.distributed as dist

from pipeline.attempts import meeting_place
from pipeline.errors import ElsewhereError, Problem, UserError, first_line
from pipeline.heartbeats import Heartbeats
from pipeline.interruption import Stopped, asked, shield
from pipeline.memory import is_out_of_memory
from pipeline.plugins import blamed
from pipeline.terminal import listening

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

# Processes that are started together wait so long for each other.
START = timedelta(minutes=10)
# A process may prepare a dataset, or validate, as long as this while the others wait for it. One that ends is noticed
# at once.
PATIENCE = timedelta(hours=12)
# A process that fails waits so long for the others to hear why, and then leaves them alone.
LEAVE = timedelta(seconds=15)
# Bytes of a message that are sent at once; what is longer takes a second round.
HEAD = 4096
LENGTH = 8


class LostProcessError(UserError):
    """Another process is gone, as after a kill."""


@dataclass(kw_only=True)
class _Group:
    """The processes of this training.

    Attributes:
        cpu: The group through which messages go, whatever the device is, and tensors on the CPU.
        hearts: By which it is found out who is gone.
        cuda: The group through which tensors on CUDA devices go; None before the first.
        is_over: Whether the processes have told each other that they end; then nothing is exchanged any more.
    """

    cpu: Any
    hearts: Heartbeats
    cuda: Any = None
    is_over: bool = False


_group: _Group | None = None


def launched() -> int:
    """Return how many processes a launcher has started for this command, as its environment says; 1 without one."""
    # Within a Slurm job SLURM_NTASKS is set for the script itself too; this one is set by srun alone.
    told = os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_STEP_NUM_TASKS") or ""
    return max(1, int(told)) if told.isdigit() else 1


def size() -> int:
    """Return the number of processes."""
    return idist.get_world_size() if _group else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return idist.get_rank() if _group else 0


def is_first() -> bool:
    """Tell whether this is the process that decides, writes and prints."""
    return rank() == 0


@contextmanager
def joined() -> Iterator[None]:
    """Find the other processes that a launcher has started, until the block ends; without any, do nothing.

    Only the first process prints within the block.

    Raises:
        UserError: The processes do not find each other.
        ElsewhereError: Another process has failed.
        LostProcessError: Another process is gone.
        Stopped: A signal has come to one of the processes.
    """
    global _group
    if _group is not None or launched() == 1:
        yield
        return
    _group = _connected()
    hearts = _group.hearts
    hearts.start()
    try:
        with blamed(), nullcontext() if is_first() else listening(lambda _: None):
            yield
        agree()
    except BaseException as error:
        failed = _ended_by(error)
        if failed is error:
            raise
        raise failed from error
    finally:
        _group = None
        hearts.stop()
        with suppress(RuntimeError, ValueError):
            idist.finalize()


def _connected() -> _Group:
    try:
        idist.initialize("gloo", timeout=START, init_method=meeting_place())
        everyone = dist.new_group(backend="gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError, dist.DistError) as error:
        message = f"{launched()} processes were started, and do not find each other: {first_line(error)}"
        remedy = "start them with torchrun or srun, as docs/distributed.md says"
        raise UserError("Nothing was started.", [Problem("processes", "not-connected", message, remedy)]) from None
    store = dist.distributed_c10d._get_default_store()
    return _Group(cpu=everyone, hearts=Heartbeats(store=store, number=idist.get_rank(), count=idist.get_world_size()))


def agree(payload: Any = None) -> list[Any]:
    """Wait for all processes, and return what each of them has to say, in the order of their numbers.

    Args:
        payload: What this process has to say; it is pickled.

    Raises:
        Stopped: A signal has come to one of them: raised in all.
        ElsewhereError: One of them has failed.
        LostProcessError: One of them is gone.
    """
    if _group is None:
        return [payload]
    told = _exchanged((asked(), None, payload))
    failures = [failure for _, failure, _ in told if failure]
    if failures:
        raise ElsewhereError(failures[0][0])
    if _group.is_over:
        raise Stopped(128 + max(signum for signum, _, _ in told if signum))
    return [said for _, _, said in told]


def from_first(make: Callable[[], T]) -> T:
    """Let the first process make something, and return it in all; what it makes is pickled.

    Raises:
        Stopped, ElsewhereError, LostProcessError: As :func:`agree`.
    """
    if _group is None:
        return make()
    content = pickle.dumps(make()) if is_first() else b""
    with exchanging():
        length, short = agree((len(content), content if len(content) < HEAD // 2 else b""))[0]
        if length > len(short):
            sent = torch.frombuffer(bytearray(content or bytes(length)), dtype=torch.uint8)
            dist.broadcast(sent, src=0, group=_group.cpu)
            short = sent.numpy().tobytes()
    result: T = pickle.loads(short)  # noqa: S301 - our own
    return result


def group_of(device: torch.device) -> Any:
    """Return the group through which tensors on a device are exchanged; all processes ask at the same time."""
    assert _group is not None
    if device.type == "cuda" and _group.cuda is None:
        _group.cuda = dist.new_group(backend="nccl", timeout=PATIENCE)
    return _group.cuda if device.type == "cuda" else _group.cpu


def own_device(device: str) -> str:
    """Return this process's device: of several processes on a machine with CUDA, each has one of its own."""
    if size() > 1 and device.startswith("cuda"):
        return f"cuda:{idist.get_local_rank()}"
    return device


def _ended_by(error: BaseException) -> BaseException:
    """Tell the others why this process ends, unless they know, and return what it is to raise."""
    assert _group is not None
    if isinstance(error, Stopped) and rank() > 0:
        _tell(error)
        return ElsewhereError(_code_of(error))
    return _tell(error)


def _tell(error: BaseException) -> BaseException:
    assert _group is not None
    if _group.is_over:
        return error
    signum = _code_of(error) - 128 if isinstance(error, Stopped) else None
    failure = None
    if signum is None:
        failure = (_exit_code(error), f"{type(error).__name__}: {error}")
    try:
        told = _exchanged((signum, failure, None), LEAVE)
    except (UserError, Stopped):  # They do not come, or this is the signal again; what has happened here says more.
        return error
    finally:
        _group.is_over = True
    texts = [failed and failed[1] for _, failed, _ in told]
    if failure is None:
        return error
    if texts.index(failure[1]) < rank():
        return ElsewhereError(failure[0])
    if len(set(texts)) > 1:
        _name(error)
    return error


def _code_of(stop: Stopped) -> int:
    assert isinstance(stop.code, int)
    return stop.code


def _exit_code(error: BaseException) -> int:
    """Return the code with which the command line ends."""
    if isinstance(error, UserError):
        return error.exit_code
    return UserError.exit_code if isinstance(error, OSError) or is_out_of_memory(error) else 1


def _name(error: BaseException) -> None:
    where = f"On process {rank()} of {size()} (counted from 0)"
    if isinstance(error, UserError):
        error.summary = f"{where}: {error.summary}"
    else:
        error.add_note(where)


def _exchanged(
    message: tuple[int | None, Any, Any], timeout: timedelta = PATIENCE
) -> list[tuple[int | None, Any, Any]]:
    content = pickle.dumps(message)
    length = len(content).to_bytes(LENGTH, "big")
    with exchanging():
        heads = _gathered(length + content[: HEAD - LENGTH], HEAD, timeout)
        told = [pickle.loads(one) for one in _whole(heads, content, timeout)]  # noqa: S301 - our own
        assert _group is not None
        _group.is_over = any(signum or failure for signum, failure, _ in told)
        return told


def _whole(heads: list[bytes], content: bytes, timeout: timedelta) -> list[bytes]:
    lengths = [int.from_bytes(head[:LENGTH], "big") for head in heads]
    found = [head[LENGTH:] for head in heads]
    if (longest := max(lengths) - (HEAD - LENGTH)) > 0:
        rest = _gathered(content[HEAD - LENGTH :], longest, timeout)
        found = [head + more for head, more in zip(found, rest, strict=True)]
    return [one[:count] for one, count in zip(found, lengths, strict=True)]


def _gathered(content: bytes, room: int, timeout: timedelta) -> list[bytes]:
    assert _group is not None
    own = torch.frombuffer(bytearray(content.ljust(room, b"\0")), dtype=torch.uint8)
    every = [torch.empty_like(own) for _ in range(size())]
    dist.all_gather(every, own, group=_group.cpu, async_op=True).wait(timeout)
    return [one.numpy().tobytes() for one in every]


@contextmanager
def exchanging() -> Iterator[None]:
    """Hold signals back, and turn the failure of an exchange into an error that names the processes that are gone.

    All that follows an :func:`agree` without another one belongs into one block: a process that left in between would
    be waited for. With a single process nothing is done.

    Raises:
        LostProcessError: The exchange failed.
        Stopped: At the end, if a signal has come.
    """
    if _group is None or _group.is_over:
        yield
        return
    with shield():  # A launcher ends the others by a signal; what happened is to be said before that.
        try:
            yield
        except RuntimeError as error:
            if _group.is_over:
                raise
            _group.is_over = True
            raise _lost(_group.hearts.silent(), error) from None


def _lost(silent: list[int], error: RuntimeError) -> UserError:
    told = f"process {', '.join(map(str, silent))} of {size()} (counted from 0) has ended without a word"
    if not silent:
        told = f"the connection between the {size()} processes failed: {first_line(error)}"
    remedy = "see whether memory ran out there; `train` goes on with --resume, on any number of processes"
    alive = [number for number in range(size()) if number not in silent]
    problem = Problem("processes", "process-lost", told, remedy)
    lost = LostProcessError("The training cannot go on.", [problem])
    if alive and alive[0] < rank():  # Which says it.
        return ElsewhereError(lost.exit_code)
    return lost
