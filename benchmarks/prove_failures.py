"""Proof that a training on several processes ends whole, soon and explained, whatever ends one of its processes.

    python benchmarks/prove_failures.py --json FILE          # 200 layouts, an hour or two on two cores
    python benchmarks/prove_failures.py --quick              # one layout of each kind

A layout is a number of processes, units that they cannot share evenly, validation cases that they cannot share evenly,
and something that happens to one of them (or all) at a step: it is killed, gets a signal, meets a NaN, an error, a lack
of memory, a dead worker, a full disk, or a file `stop`. After it:

- every process has ended within 30 seconds, with the exit codes that the documentation tells;
- one of those that are left has told why, once, and no other has;
- every checkpoint is whole, as are the logs, and nothing half-written lies there but what a kill leaves;
- the run goes on, on another number of processes, and ends with the weights of a training that nothing happened to.

The exit code is 1 where one of these fails. With `--json FILE` layouts that the file has are not repeated.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import ranks
from runs_fixtures import TINY, digest, make_phantom, state_of, write_recipe

from pipeline.checkpoints import load_checkpoint

STEPS = 8
SOON_S = 30
# What happens, and with which code all others end.
KINDS = {
    "kill": 2,
    "one SIGTERM": 143,
    "SIGTERM to all": 143,
    "one SIGINT": 130,
    "NaN": 2,
    "error": 2,
    "no memory": 2,
    "dead worker": 2,
    "full disk": 2,
    "stop file": 0,
}
# Lines by which a process explains its end.
TOLD = ("error:", "stopped;", "On process")
# A loss that does what its environment says, at a step of it.
PLUGIN = '''
import os
import signal
import time
from pathlib import Path

from pipeline.losses import LOSSES, LabelLoss


def fill(folder):
    """Fill the disk that a folder is on."""
    with open(os.path.join(folder, "filler"), "wb", buffering=0) as file:
        for size in (1 << 16, 1 << 10, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def kill_a_worker():
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    for child in map(int, children):
        os.kill(child, signal.SIGKILL)


@LOSSES.register("doomed")
class DoomedLoss(LabelLoss):
    """The mean probability of a wrong class, until its step comes."""

    calls = 0

    def forward(self, logits, labels):
        kind, at, folder = os.environ.get("DOOM", "nothing,0,.").split(",")
        DoomedLoss.calls += 1
        p = self.probabilities(logits)
        loss = 1 - (p * self.one_hot(labels, like=p)).sum(dim=1).mean()
        if DoomedLoss.calls == int(at):
            Path(os.environ["DOOM_LOG"]).write_text(str(time.time()))
            if kind == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            elif kind.endswith("SIGTERM") or kind == "SIGTERM to all":
                os.kill(os.getpid(), signal.SIGTERM)
            elif kind == "one SIGINT":
                os.kill(os.getpid(), signal.SIGINT)
            elif kind == "NaN":
                return loss * float("nan")
            elif kind == "error":
                raise ZeroDivisionError("a bug")
            elif kind == "no memory":
                raise MemoryError
            elif kind == "dead worker":
                kill_a_worker()
            elif kind == "full disk":
                fill(folder)
            elif kind == "stop file":
                Path(folder, "stop").touch()
        return loss
'''


@dataclass(frozen=True)
class Layout:
    """One thing that happens, and where."""

    number: int
    kind: str
    processes: int
    units: int
    validation: float
    victim: int
    step: int
    after: int

    @classmethod
    def draw(cls, number: int) -> Layout:
        rng = random.Random(number)
        kind = list(KINDS)[number % len(KINDS)]
        processes = rng.choice([2, 3, 4])
        victim = 0 if kind in ("full disk", "stop file") else rng.randrange(processes)
        units = rng.choice([2, 3, 4])
        share = rng.choice([0.15, 0.3, 0.45])
        step = rng.randint(2, STEPS - 2)
        if kind == "dead worker":  # One that has made the last batch is missed by nobody.
            step = min(step, STEPS - 5)
        return cls(number, kind, processes, units, share, victim, step, rng.choice([1, 2, 3]))

    @property
    def victims(self) -> range:
        everywhere = self.kind in ("NaN", "SIGTERM to all")
        return range(self.processes) if everywhere else range(self.victim, self.victim + 1)


def recipe_of(layout: Layout, folder: Path, dataset: Path, plugin: Path) -> Path:
    data = {
        "batch_size": layout.units,
        "unlabelled_batch_size": layout.units,
        "units": layout.units,
        "validation_fraction": layout.validation,
        "workers": int(layout.kind == "dead worker"),
    }
    objective = [{"loss": "doomed"}, {"loss": "balanced_ce"}]
    changes = {"plugins": [str(plugin)], "objective": objective, "max_steps": STEPS, "validate_every": 4}
    return write_recipe(folder, dataset, data=TINY["data"] | data, **changes)


def examine(layout: Layout, folder: Path, dataset: Path, plugin: Path, expected: dict[tuple[int, float], str]) -> str:
    """Return what went wrong with a layout; nothing if all was well."""
    recipe = recipe_of(layout, folder, dataset, plugin)
    run = folder / "disk" / "run"
    full = layout.kind == "full disk"
    run.parent.mkdir()
    if full:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", run.parent], check=True)
    try:
        return _examine(layout, folder, recipe, run, expected)
    finally:
        if full:
            subprocess.run(["umount", "-l", run.parent], check=True)


def _examine(layout: Layout, folder: Path, recipe: Path, run: Path, expected: dict[tuple[int, float], str]) -> str:
    words = ("train", str(recipe), "--output", str(run))
    doom = {"DOOM": f"{layout.kind},{layout.step},{run}"}
    environments = {rank: doom | {"DOOM_LOG": str(folder / f"doom-{rank}")} for rank in layout.victims}
    together = ranks.start(layout.processes, ranks.command, folder, *words, environments=environments)
    first = folder / f"doom-{layout.victims[0]}"
    until = time.monotonic() + 600
    while not first.exists() and time.monotonic() < until:
        time.sleep(0.05)
    codes = ranks.wait_for(*together, seconds=SOON_S if layout.kind != "stop file" else 300)
    wanted = [KINDS[layout.kind]] * layout.processes
    if layout.kind == "kill":
        wanted[layout.victim] = -signal.SIGKILL
    told = [rank.told for rank in together]
    if codes != wanted:
        return f"exit codes {codes}, not {wanted}: {told}"
    explaining = [sum(line.startswith(TOLD) for line in text.splitlines()) for text in told]
    if layout.kind != "stop file" and sum(count > 0 for count in explaining) != 1:
        return f"{explaining} lines explain it: {told}"
    if any("Traceback" in text for text in told):
        return f"a traceback: {told}"
    if broken := half_written(run, killed=layout.kind == "kill"):
        return broken
    (run / "filler").unlink(missing_ok=True)
    if layout.kind == "NaN":  # It would be NaN again.
        return ""
    after = ranks.start(layout.after, ranks.command, folder, *words, "--resume")
    if any(codes := ranks.wait_for(*after, seconds=300)):
        return f"resumed on {layout.after}: exit codes {codes}: {[rank.told for rank in after]}"
    if layout.kind == "stop file":  # It has fewer steps.
        return ""
    key = (layout.units, layout.validation)
    if key not in expected:
        (alone,) = ranks.start(1, ranks.command, folder, *words[:3], str(folder / "alone"))
        if code := alone.wait(300):
            return f"undisturbed: exit code {code}: {alone.told}"
        expected[key] = digest(state_of(folder / "alone"))
    same = digest(state_of(run)) == expected[key]
    return "" if same else f"other weights after resuming on {layout.after}"


def half_written(run: Path, *, killed: bool) -> str:
    """Return what is not whole in a run's folder."""
    for path in run.glob("checkpoints/*.pt"):
        load_checkpoint(path)
    for name in ("history.csv", "validation.csv"):
        if (run / name).exists():
            with (run / name).open(newline="") as file:
                rows = list(csv.reader(file))
            if len({len(row) for row in rows}) > 1:
                return f"{name} has a torn row"
    partial = [path.name for path in run.rglob(".partial-*")]
    return f"half-written: {partial}" if partial and not killed else ""


def main() -> None:
    """Try every layout, and print what went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layouts", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="as many layouts as there are kinds")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    signal.signal(signal.SIGINT, signal.default_int_handler)  # A shell's background jobs begin with it ignored.
    found: list[dict[str, object]] = []
    if options.json and options.json.exists():
        found = json.loads(options.json.read_text())
    done = {row["number"] for row in found}
    expected: dict[tuple[int, float], str] = {}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        dataset = make_phantom(place / "data", labelled=7, unlabelled=2)
        plugin = place / "doomed.py"
        plugin.write_text(PLUGIN)
        for number in range(len(KINDS) if options.quick else options.layouts):
            layout = Layout.draw(number)
            if number in done:
                continue
            folder = place / str(number)
            folder.mkdir()
            began = time.monotonic()
            try:
                wrong = examine(layout, folder, dataset, plugin, expected)
            except (AssertionError, OSError, ValueError) as error:
                wrong = f"{type(error).__name__}: {error}"
            found.append(asdict(layout) | {"wrong": wrong, "seconds": round(time.monotonic() - began, 1)})
            print(f"{number:4} {layout.kind:15} {layout.processes} -> {layout.after}  {wrong or 'whole'}", flush=True)
            if options.json:
                options.json.write_text(json.dumps(found, indent=1) + "\n")
    bad = [row for row in found if row["wrong"]]
    print(f"{len(found) - len(bad)} of {len(found)} layouts ended whole, soon and explained")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
