"""Turn a lack of memory into an error that says what the memory was for, how much is needed, and what to do.

A bottom layer beside ``errors``. Linux promises memory before it has it, so a process may be killed without any error;
these errors arise where memory is refused: under ``ulimit -v``, or on a GPU.
"""

from __future__ import annotations

import errno
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipeline.errors import Problem, UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

# What PyTorch, the C++ library, Python and the loader of libraries say.
OUT_OF_MEMORY = (
    "CUDA out of memory",
    "CUDA error: out of memory",
    "DefaultCPUAllocator",
    "std::bad_alloc",
    "annot allocate memory",
    "failed to map segment",
    "can't start new thread",
    "LLVM ERROR: out of memory",
    "error return without exception set",
)
# The address space that the libraries take when they are loaded, with one thread and without CUDA.
LIBRARIES_BYTES = 1_000_000_000
ASKED = re.compile(r"allocate (\d+) bytes|allocate ([\d.]+ [KMGTPE]iB)")
LIMITED = "close other programs, or raise the limit if there is one (`ulimit -v`; on threads `ulimit -u`)"


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error, or one that it was raised from, says that memory ran out."""
    return any(map(_says_so, _origins(error)))


def _says_so(error: BaseException) -> bool:
    known = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"  # PyTorch's, not loaded here.
    no_memory = isinstance(error, OSError) and error.errno == errno.ENOMEM
    return known or no_memory or any(words in str(error) for words in OUT_OF_MEMORY)


def _origins(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def memory_problem(
    where: str, what: str, error: BaseException, needed: int | None, remedy: str, case: str = ""
) -> Problem:
    """Return the problem of memory that ran out.

    Args:
        where: The scan, or the key of the recipe.
        what: What the memory was for; it ends the sentence "there is too little memory …".
        error: What was raised.
        needed: About how many bytes are needed; None if unknown: then the message has the size that was refused.
        remedy: What to do, beside closing other programs.
        case: Id of the case, or "" if it is about none.

    >>> print(memory_problem("a.nii", "to read it", MemoryError(), 3_400_000_000, "crop it").message)
    there is too little memory to read it: it takes about 3.4 GB
    """
    message = f"there is too little memory {what}{_amount(error, needed)}"
    return Problem(where, "out-of-memory", message, f"{LIMITED}; {remedy}", case=case)


def _amount(error: BaseException, needed: int | None) -> str:
    if needed and needed >= 1e8:
        return f": it takes about {needed / 1e9:.1f} GB"
    if needed:
        return f": it takes about {needed / 1e6:.1f} MB"
    asked = next((found for origin in _origins(error) if (found := ASKED.search(str(origin)))), None)
    if asked:
        return f": {asked[2] or f'{int(asked[1]) / 1e6:.1f} MB'} more could not be had"
    return ""


def address_space_left() -> int | None:
    """Return the bytes that ``ulimit -v`` leaves this process; None without such a limit, and on Windows."""
    import psutil

    limit = _address_space()
    return None if limit is None else max(0, limit - psutil.Process().memory_info().vms)


def _address_space() -> int | None:
    try:
        import resource
    except ImportError:
        return None
    allowed = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if allowed == resource.RLIM_INFINITY else allowed


def refuse_tight_limit() -> None:
    """Refuse to load PyTorch and MONAI where ``ulimit -v`` leaves no room for them.

    What is refused memory while it is loaded may end in a segmentation fault, of which nobody can be told.

    Raises:
        UserError: The limit is under a gigabyte.
    """
    limit = _address_space()
    if limit is not None and limit < LIBRARIES_BYTES:
        message = f"too little memory: it allows {limit / 1e9:.2f} GB, and PyTorch and MONAI alone take 1 GB"
        raise UserError("There is too little memory.", [Problem("ulimit -v", "out-of-memory", message, "raise it")])


@contextmanager
def memory_for(where: str, what: str, needed: int | None, remedy: str) -> Iterator[None]:
    """Turn a lack of memory within the block into a ``UserError``; arguments as for :func:`memory_problem`.

    Raises:
        UserError: Memory ran out within the block.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        problem = memory_problem(where, what, error, needed, remedy)
        raise UserError("There is too little memory.", [problem]) from None
