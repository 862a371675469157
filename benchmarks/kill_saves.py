"""Kill processes that save checkpoints, and count what is torn, lost or left over: ours, Ignite's and MONAI's.

    python benchmarks/kill_saves.py [--quick] [--json FILE]

Every kill is SIGKILL, to a child that saves one step after the other and says, through a pipe, which saves have
returned. After it, a new process's start is imitated, and three things are counted:

- torn: files under a checkpoint's own name that do not load, or not as what was saved;
- lost: kills after which no file of the last save that had returned, or of a later one, loads;
- left: files that are no checkpoints, nor the list of those, and are still there after the next start.

All are killed at random moments and, on Linux with an x86-64, at every system call of one save.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from ignite.engine import Engine
from ignite.handlers import DiskSaver, ModelCheckpoint
from monai.handlers import CheckpointSaver

from pipeline.checkpoints import clear_up, newest_checkpoint, save_checkpoint

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from typing import TYPE_CHECKING

from tracing import POSSIBLE, trace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

VALUES = 60_000  # of a state: 240 kB
LONGEST_S = 0.1


def state_of(step: int) -> dict[str, torch.Tensor]:
    """Return a state that tells its step by every value."""
    return {"w": torch.full((VALUES,), float(step))}


class Ours:
    """Fewmask's saver, through its own functions."""

    def start(self, folder: Path) -> None:
        clear_up(folder)

    def save(self, folder: Path, first: int) -> Iterator[int]:
        for step in range(first, first + 10_000):
            save_checkpoint(folder, "last", {"step": step, **state_of(step)})
            yield step

    def is_a_checkpoint(self, path: Path) -> bool:
        return re.fullmatch(r"last-\d+\.pt(\.sha256)?|\.fewmask", path.name) is not None

    def newest(self, folder: Path) -> int:
        return int(newest_checkpoint(folder, "last").state["step"])


class Peer:
    """A handler of Ignite's or MONAI's, attached to an engine as its documentation does."""

    def __init__(self, make: Callable[[Path, torch.nn.Module], Callable[[Engine], None]]) -> None:
        self.make = make

    def start(self, folder: Path) -> None:
        self.make(folder, torch.nn.Module())

    def save(self, folder: Path, first: int) -> Iterator[int]:
        network = torch.nn.ParameterDict(state_of(0))
        engine = Engine(lambda engine, batch: None)
        handler = self.make(folder, network)
        for step in range(first, first + 10_000):
            network.load_state_dict(state_of(step))
            engine.state.iteration = step
            handler(engine)
            yield step

    def is_a_checkpoint(self, path: Path) -> bool:
        return path.suffix == ".pt"

    def newest(self, folder: Path) -> int:
        return max((step for path in folder.rglob("*.pt") if (step := step_in(path)) is not None), default=0)


def ignite(**options: object) -> Peer:
    def make(folder: Path, network: torch.nn.Module) -> Callable[[Engine], None]:
        handler = ModelCheckpoint(
            folder,
            "last",
            require_empty=False,
            global_step_transform=lambda engine, _: engine.state.iteration,
            **options,
        )
        return lambda engine: handler(engine, {"model": network})

    return Peer(make)


def ignite_disk_saver() -> Peer:
    def make(folder: Path, network: torch.nn.Module) -> Callable[[Engine], None]:
        saver = DiskSaver(str(folder), require_empty=False)
        return lambda engine: saver(network.state_dict(), "last.pt")

    return Peer(make)


def monai() -> Peer:
    def make(folder: Path, network: torch.nn.Module) -> Callable[[Engine], None]:
        handler = CheckpointSaver(
            str(folder), {"model": network}, save_interval=1, epoch_level=False, n_saved=2, file_prefix="last"
        )
        return handler.interval_completed

    return Peer(make)


SAVERS = {
    "fewmask": Ours(),
    "ignite ModelCheckpoint (n_saved=1, its default)": ignite(),
    "ignite ModelCheckpoint (n_saved=2)": ignite(n_saved=2),
    "ignite DiskSaver (atomic, its default)": ignite_disk_saver(),
    "monai CheckpointSaver (n_saved=2)": monai(),
}


def step_in(path: Path) -> int | None:
    """Return the step that a file's every value tells, or None where it does not load whole."""
    try:
        values = torch.load(path, weights_only=True)["w"]
    except Exception:  # A torn file can fail in any way.
        return None
    return int(values[0]) if bool((values == values[0]).all()) else None


@dataclass
class Count:
    """What a saver's kills came to."""

    saver: str
    how: str
    kills: int = 0
    saves: int = 0
    torn: int = 0
    lost: int = 0
    left: int = 0
    seconds: float = 0.0

    def judge(self, saver: Ours | Peer, folder: Path, acknowledged: int) -> int:
        """Look at what a kill left in a folder, start anew there, and return the newest step."""
        self.kills += 1
        named = [path for path in folder.rglob("*.pt") if saver.is_a_checkpoint(path)]
        self.torn += sum(step_in(path) is None for path in named)
        saver.start(folder)
        for path in folder.rglob("*"):
            if path.is_file() and not saver.is_a_checkpoint(path):
                self.left += 1
                path.unlink()  # To count it once.
        try:
            newest = saver.newest(folder)
        except Exception:  # Ours says so by an error.
            newest = 0
        self.lost += newest < acknowledged
        return max(newest, acknowledged)


def kill_at_random(name: str, kills: int, folder: Path, seed: int = 0) -> Count:
    """Kill a saver's process at random moments, each time in a folder as the last kill left it."""
    saver, count, rng = SAVERS[name], Count(name, "at random moments"), random.Random(seed)
    began, step = time.perf_counter(), 0
    for number in range(kills):
        place = folder / str(number // 200)  # Else the peers' leftovers slow the counting down.
        if not place.exists():
            place.mkdir()
            step = 0
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.write(writer, b"ready\n")
                for saved in saver.save(place, step + 1):
                    os.write(writer, f"{saved}\n".encode())
            finally:
                os._exit(1)
        os.close(writer)
        with os.fdopen(reader, "rb") as stream:
            stream.readline()
            time.sleep(rng.uniform(0, LONGEST_S))
            os.kill(child, 9)
            os.waitpid(child, 0)
            said = stream.read().split(b"\n")[:-1]
        count.saves += len(said)
        step = count.judge(saver, place, int(said[-1]) if said else step)
    count.seconds = time.perf_counter() - began
    return count


def kill_at_every_call(name: str, folder: Path) -> Count:
    """Kill a saver's process at each system call of its fourth save, when two older ones are there."""
    saver, count = SAVERS[name], Count(name, "at every system call of a save")
    began, ready = time.perf_counter(), folder / "ready"
    ready.mkdir()
    process = os.fork()
    if process == 0:
        saves = saver.save(ready, 1)
        for _ in range(3):
            next(saves)
        os._exit(0)
    os.waitpid(process, 0)

    def save_one_more(place: Path) -> bytes:
        next(saver.save(place, 4))
        return b"saved"

    at, done = 0, False
    while not done:
        place = folder / str(at)
        shutil.copytree(ready, place)
        found = trace(lambda place=place: save_one_more(place), kill_at=at)
        done = found.code is not None
        count.saves += done
        if not done:
            count.judge(saver, place, 3)
        shutil.rmtree(place)
        at += 1
    count.seconds = time.perf_counter() - began
    return count


def run(kills: int, peers: int) -> list[Count]:
    """Count for every saver: so many kills of ours at random moments, and of each peer, and all calls of each."""
    torch.set_num_threads(1)
    counts = []
    for name in SAVERS:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "random").mkdir()
            counts.append(kill_at_random(name, kills if name == "fewmask" else peers, Path(folder) / "random"))
            if POSSIBLE:
                counts.append(kill_at_every_call(name, Path(folder)))
        for count in counts[-2:] if POSSIBLE else counts[-1:]:
            print(
                f"{count.saver:<48} {count.how:<31} kills {count.kills:>5}  saves {count.saves:>6}  "
                f"torn {count.torn:>4}  lost {count.lost:>4}  left {count.left:>4}  {count.seconds:.0f} s",
                flush=True,
            )
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="30 kills of each")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    counts = run(30, 30) if options.quick else run(2_000, 300)
    if options.json:
        options.json.write_text(json.dumps([asdict(count) for count in counts], indent=2) + "\n")
    ours = [count for count in counts if count.saver == "fewmask"]
    sys.exit(any(count.torn or count.lost or count.left for count in ours))


if __name__ == "__main__":
    main()
