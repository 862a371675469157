"""Check cases in parallel, and report those that there is too little memory for."""

from __future__ import annotations

import gzip
import os
import zlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from pipeline.data.inspection import examine_case
from pipeline.data.stamps import case_files, stamps
from pipeline.errors import Problem, UserError
from pipeline.memory import is_out_of_memory, memory_problem
from pipeline.nifti.container import GZIP_MAGIC, HEAD
from pipeline.nifti.header import parse_header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from pipeline.data.inspection import CaseFacts, Declared
    from pipeline.types import Case

T = TypeVar("T")

# Checking a file takes so many times its unpacked bytes of memory.
READING = 4
# Each holds the voxels of one case, so more of them cost memory; gzip, hashes and NumPy release the interpreter lock.
THREADS = min(4, os.cpu_count() or 1)
# A packed file of this size may unpack to gigabytes.
LARGE_BYTES = 1 << 28


def examine(case: Case, declared: Declared) -> tuple[CaseFacts | None, list[Problem]]:
    """Examine a case as :func:`examine_case` does; too little memory for it is reported as a problem."""
    try:
        return examine_case(case, declared)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        needed = READING * sum(map(_unpacked_bytes, case_files(case)))
        remedy = "crop the scan, or leave it out"
        where = str(case.images[0])
        return None, [memory_problem(where, "to look at it", error, needed, remedy, case.id)]


def _unpacked_bytes(path: Path) -> int:
    """Return the bytes that a file's header promises; 0 where it cannot be read."""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == GZIP_MAGIC
        with gzip.open(path) if packed else path.open("rb") as file:
            return parse_header(path, file.read(HEAD)).promised
    except (OSError, EOFError, UserError, zlib.error):
        return 0


def in_parallel(function: Callable[[Case], T], cases: Sequence[Case]) -> Iterator[T]:
    """Yield a function's result for each case, in their order; a few run in parallel, or one if a file is large."""
    sizes = (stamp[0] for case in cases for stamp in stamps(case_files(case)) if stamp)
    threads = 1 if max(sizes, default=0) > LARGE_BYTES else THREADS
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for case in cases:
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
            waiting.append(pool.submit(function, case))
        while waiting:
            yield waiting.popleft().result()
