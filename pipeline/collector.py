"""Let the garbage collector rest during imports: of all the objects that a library makes it would free none."""

from __future__ import annotations

import gc
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_for_good = False


def import_for_good() -> None:
    """Leave what is imported next out of all collections: for a program of its own, which ends with its modules.

    A library would also keep the garbage of the program that imports it.
    """
    global _for_good
    _for_good = True


@contextmanager
def resting_collector() -> Iterator[None]:
    """Collect nothing in the meantime."""
    global _for_good
    known = len(sys.modules)
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if _for_good and len(sys.modules) > known:
            gc.freeze()
            _for_good = False
        if was_enabled:
            gc.enable()
