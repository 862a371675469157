"""Heartbeats of several processes: where one has ended without a word, the others learn by them which it was."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

# Seconds between two heartbeats, and seconds without one after which a process is taken for gone.
BEAT_S = 0.25
SILENT_S = 2.0
# The process that holds the store stays so long for the others to look, since the store goes with it.
STAY_S = 10.0
LOOKED = "fewmask/looked"


@dataclass(kw_only=True)
class Heartbeats:
    """This process's heartbeat, and those of the others.

    Attributes:
        store: Where they are counted; the first process holds it.
        number: Of this process.
        count: Of all.
    """

    store: Any
    number: int
    count: int
    _over: threading.Event = field(default_factory=threading.Event, init=False)
    _heart: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self._heart = threading.Thread(target=self._beat, daemon=True)

    def start(self) -> None:
        """Begin to beat."""
        self._heart.start()

    def stop(self) -> None:
        """Beat no more."""
        self._over.set()
        self._heart.join(SILENT_S)  # The end of a program breaks off a thread within PyTorch, and PyTorch then aborts.

    def silent(self) -> list[int]:
        """Return the processes whose hearts do not beat; the first alone if it has taken the store with it."""
        others = [number for number in range(self.count) if number != self.number]
        try:
            before = [self.store.add(_beats_of(number), 0) for number in others]
            time.sleep(SILENT_S)
            after = [self.store.add(_beats_of(number), 0) for number in others]
        except RuntimeError:
            return [0]
        found = [number for number, then, now in zip(others, before, after, strict=True) if then == now]
        self._stay(self.count - len(found))
        return found

    def _stay(self, looking: int) -> None:
        """Tell the first process that this one has looked; the first waits for all that do."""
        until = time.monotonic() + STAY_S
        with suppress(RuntimeError):
            looked = self.store.add(LOOKED, 1)
            while self.number == 0 and looked < looking and time.monotonic() < until:
                time.sleep(BEAT_S)
                looked = self.store.add(LOOKED, 0)

    def _beat(self) -> None:
        with suppress(RuntimeError):  # The store is gone with the process that held it.
            while not self._over.wait(BEAT_S):
                self.store.add(_beats_of(self.number), 1)


def _beats_of(number: int) -> str:
    return f"fewmask/beats/{number}"
