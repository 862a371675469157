"""Several processes that train together, started as a launcher does: by the environment alone."""

import multiprocessing
import os
import socket
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

# A fresh process for each would import PyTorch and MONAI anew; this server has done so, and has computed nothing.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["pipeline.runs.starting", "pipeline.runs.requests", "pipeline.commands.training"])


@dataclass
class Rank:
    """One process: its exit code and what it has printed on standard error."""

    process: multiprocessing.Process
    log: str

    @property
    def told(self):
        """What the process has printed; Gloo of PyTorch 2.10 greets by itself."""
        lines = Path(self.log).read_text(encoding="utf-8").splitlines(keepends=True)
        return "".join(line for line in lines if not line.startswith("[Gloo]"))

    def wait(self, seconds=60):
        self.process.join(seconds)
        assert self.process.exitcode is not None, f"it goes on after {seconds} s: {self.told}"
        return self.process.exitcode


def start(count, act, folder, *given, environments=None):
    """Start processes that all call ``act(*given)``; some may have variables of their own, by their number."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = []
    for number in range(count):
        log = str(folder / f"rank-{count}-{number}-{time.monotonic_ns()}.log")
        own = (environments or {}).get(number, {})
        told = own | {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": count, "MASTER_PORT": port}
        process = SERVER.Process(target=_run, args=(told, log, act, given))
        process.start()
        ranks.append(Rank(process, log))
    return ranks


def wait_for(*ranks, seconds=60):
    """Return the exit codes of all of them."""
    until = time.monotonic() + seconds
    return [rank.wait(max(0.1, until - time.monotonic())) for rank in ranks]


def _run(told, log, act, given):
    import torch

    torch.set_num_threads(1)
    os.environ.update({key: str(value) for key, value in told.items()}, MASTER_ADDR="127.0.0.1")
    descriptor = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(descriptor, 2)
    os.dup2(descriptor, 1)
    act(*given)


def command(*words):
    """Run the command line with these words."""
    from pipeline import cli
    from pipeline.commands import training

    training.STARTED = time.monotonic()  # The server imported it, perhaps long ago.
    sys.argv = ["fewmask", *words]
    cli.main()
