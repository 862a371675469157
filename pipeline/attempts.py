"""Where several processes meet that ``torchrun`` starts together, and starts again after one of them has failed.

All attempts share one store, in which a process finds the addresses of the others. Those of processes that are gone
stay there, so each attempt gets a part of the store of its own.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import register_rendezvous_handler, rendezvous

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEME = "attempt"


def meeting_place() -> str:
    """Return the ``init_method`` by which the processes of this attempt find each other, and none of another one."""
    # Set by torchrun where the store outlives an attempt; elsewhere each has a store of its own.
    return f"{SCHEME}://" if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == str(True) else "env://"


def _own_part(_: str, **options: Any) -> Iterator[tuple[PrefixStore, int, int]]:
    """Yield this attempt's part of the store, the number of this process, and how many there are."""
    attempt = os.environ["TORCHELASTIC_RESTART_COUNT"]
    for store, number, count in rendezvous("env://", **options):
        yield PrefixStore(f"{SCHEME}-{attempt}", store), number, count


register_rendezvous_handler(SCHEME, _own_part)  # type: ignore[no-untyped-call]
