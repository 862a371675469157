"""Folders in any state, and every command: `python tests/deletions.py 500` prints the figures.

A folder is drawn: of a run that is done, stopped or none, of which files are missing, linked or another's, with files
of a user and checkpoints of another run under our names. Whatever a command then does in it, every file that is not its
own is there afterwards, byte for byte, and so is every sound checkpoint, but for one that the same run had saved and
that a newer one of its own has taken the place of.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from worlds import LAST, World, command, contents, make_world

from pipeline.archives import read_archive
from pipeline.errors import UserError
from pipeline.outputs import LIST

if TYPE_CHECKING:
    from collections.abc import Callable

RUNS = ("done", "stopped", "crossed", "scores", "checkpoints alone", "linked checkpoints", "nothing")
# What a user may call a file of theirs.
NAMES = (
    "report.html",
    "cases.csv",
    "summary.json",
    "config.yaml",
    "split.json",
    "index.json",
    "history.csv",
    "validation.csv",
    "training.png",
    "budget.json",
    "folds.json",
    "postprocessing.json",
    "figures/dice.png",
    "figures/loss.svg",
    "figures/mine.svg",
    "figures",
    "cache",
    "check.json",
    "compare.csv",
    "annotate_next.csv",
    "plan.yaml",
    "dataset.json",
    "repairs.json",
    "notes.txt",
    LIST,
    ".partial-notes.txt",
    "imagesTr/a.nii.gz",
    "case_4.nii.gz",
    f"{'0' * 32}.npz",
    f"facts-{'0' * 32}.json",
    "checkpoints/mine.pt",
    "checkpoints/last-000006.pt.sha256",
    "validation/best/cases.csv",
    "validation/data/report.html",
    "out-of-fold/report.html",
    "fold-1/config.yaml",
)
CHECKPOINTS = tuple(f"{kind}-{step:06d}.pt" for kind in ("last", "best") for step in (1, 4, LAST, 999))


@dataclass
class State:
    """A folder, and what must stay.

    Attributes:
        folder: It.
        how: It came about.
        foreign: Paths within it of what is not the run's.
    """

    folder: Path
    how: list[str] = field(default_factory=list)
    foreign: set[str] = field(default_factory=set)


def draw(world: World, rng: random.Random, place: Path) -> State:
    """Draw a state."""
    kind = rng.choice(RUNS)
    state = State(place / "run", [kind])
    if kind == "nothing":
        state.folder.mkdir()
    elif kind.endswith("checkpoints") or kind.startswith("checkpoints"):
        state.folder.mkdir()
        theirs = world.copy("done/checkpoints", place / "theirs")
        if kind == "linked checkpoints":
            (state.folder / "checkpoints").symlink_to(theirs)
            state.foreign.add("checkpoints")
        else:
            theirs.rename(state.folder / "checkpoints")
            state.foreign |= {f"checkpoints/{path.name}" for path in (state.folder / "checkpoints").iterdir()}
    else:
        world.copy(kind, state.folder)
    for _ in range(rng.choice([0, 1, 1, 2, 3])):
        change = rng.choice(
            [_remove, _remove, _add, _add, _add, _add_checkpoint, _add_checkpoint, _link, _damage, _touch]
        )
        change(world, state, rng)
    return state


def _files(state: State) -> list[str]:
    return sorted(name for name in contents(state.folder) if (state.folder / name).is_file())


def _remove(world: World, state: State, rng: random.Random) -> None:
    names = ["config.yaml", LIST, "split.json", "index.json", "checkpoints", *_files(state)]
    path = state.folder / (name := rng.choice(names))
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)
    state.foreign -= {known for known in state.foreign if known == name or known.startswith(f"{name}/")}
    state.how.append(f"without {name}")


def _add(world: World, state: State, rng: random.Random) -> None:
    path = state.folder / (name := rng.choice(NAMES))
    content = rng.choice([b"a user's\n", b"step,loss\n1,0.5\n", world.recipe.read_bytes(), b"{}", b""])
    if _put(path, lambda: path.write_bytes(content)):
        state.foreign.add(name)
        state.how.append(f"a user's {name}")


def _add_checkpoint(world: World, state: State, rng: random.Random) -> None:
    path = state.folder / "checkpoints" / (name := rng.choice(CHECKPOINTS))
    other = world.base / "other" / "checkpoints" / f"last-{LAST:06d}.pt"
    if _put(path, lambda: shutil.copyfile(other, path)):
        state.foreign.add(f"checkpoints/{name}")
        told = path.with_name(f"{name}.sha256")
        if rng.random() < 0.5:
            told.write_text(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {name}\n")
        else:
            told.unlink(missing_ok=True)
        state.how.append(f"another's {name}")


def _put(path: Path, write: Callable[[], object]) -> bool:
    """Write a file in place of what is there, unless that is in the way."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink() or path.is_file():
            path.unlink()
        write()
    except OSError:
        return False
    return True


def _link(world: World, state: State, rng: random.Random) -> None:
    """Move something elsewhere and leave a link to it."""
    names = ["checkpoints", "figures", "cache", *_files(state)]
    path = state.folder / (name := rng.choice(names))
    elsewhere = state.folder.with_name(f"elsewhere-{len(state.how)}")
    if path.exists() and not path.is_symlink():
        path.rename(elsewhere)
        path.symlink_to(elsewhere)
        state.foreign.add(name)
        state.how.append(f"{name} linked")


def _damage(world: World, state: State, rng: random.Random) -> None:
    found = sorted((state.folder / "checkpoints").glob("*.pt"))
    if found:
        path = rng.choice(found)
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
        state.how.append(f"{path.name} cut")


def _touch(world: World, state: State, rng: random.Random) -> None:
    for name in _files(state):
        os.utime(state.folder / name, (2e9, 2e9))
    state.how.append("newer")


def draw_command(world: World, state: State, rng: random.Random, place: Path) -> list[object]:
    """Draw a command that may write to the folder."""
    run, scan = state.folder, world.data / "imagesTs"
    train = ["train", world.recipe, "--output", run]
    checkpoint = next(iter(sorted((run / "checkpoints").glob("*.pt"))), world.base / "done/checkpoints/last-000006.pt")
    if rng.random() < 0.5:
        return rng.choice([train, [*train, "--resume"], [*train, "--resume"], [*train, "--resume"]])
    labels = world.data / "labelsTr"
    return rng.choice(
        [
            [*train, "max_steps=2", "--folds", 2, *rng.choice([[], ["--resume"]])],
            [*train, "--resume", "seed=4"],
            ["train", checkpoint, f"dataset={world.data}", f"data.cache={world.base / 'cache'}", "--output", run],
            ["validate", run],
            ["validate", run, "--checkpoint", "best"],
            ["validate", run, "--dataset", world.data],
            ["predict", run, scan, "--output", run, "--annotate-next"],
            ["predict", world.base / "done", scan, "--output", run, "--annotate-next"],
            ["evaluate", labels, labels, "--output", run],
            ["compare", world.base / "done", world.base / "done" / "validation" / "again", "--output", run],
            ["compare", world.base / "scores", world.base / "scores-2", "--output", run],
            ["check", world.data, "--output", run],
            ["check", world.base / "rounding", "--fix", "round-labels", "--output", run],
            ["plan", world.recipe, "--output", run / rng.choice(["config.yaml", "plan.yaml", "report.html"])],
            ["phantom", run, "--labelled", 1, "--unlabelled", 0],
            ["prune", run, "--unused-days", 0],
        ]
    )


def examine(world: World, seed: int, place: Path) -> tuple[str, str, str]:
    """Draw a state and a command, and return what they were, what is wrong, and what the command said."""
    rng = random.Random(seed)
    state = draw(world, rng, place)
    words = draw_command(world, state, rng, place)
    before, sound = contents(place), _sound(place)
    ended = command(*words)
    after, wrong = contents(place), []
    for name, content in before.items():
        inside = name.startswith("run/")
        its_own = inside and name.removeprefix("run/") not in state.foreign
        if after.get(name) != content and not its_own:
            wrong.append(f"{name} is gone or changed")
    newest = _newest(_sound(place))
    for name, digest in sound.items():
        path = place / name
        if not path.is_file() or digest != hashlib.sha256(path.read_bytes()).hexdigest():
            kind = name.rpartition("-")[0]
            replaced = ended.code == 0 and words[0] == "train" and newest.get(kind, 0) > _newest(sound).get(kind, 0)
            if not (replaced and _is_listed(before, name, digest)):
                wrong.append(f"the checkpoint {name} is gone")
    if ended.code not in (0, 2):
        wrong.append(f"exit code {ended.code}")
    told = " ".join(str(word).replace(f"{place}/", "").replace(f"{world.base}/", "") for word in words)
    outcome = "; ".join(wrong) or ("done" if ended.code == 0 else "refused")
    return f"{', '.join(state.how)}: {told}", outcome, ended.said


def _sound(place: Path) -> dict[str, str]:
    """Return the SHA-256 of every sound checkpoint below a folder, in links too."""
    found = {}
    for name in contents(place):
        path = place / name
        if path.suffix == ".pt" and path.is_file():
            try:
                read_archive(path)
            except UserError:
                continue
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _newest(sound: dict[str, str]) -> dict[str, int]:
    """Return the highest step of each kind of checkpoint in each folder."""
    newest: dict[str, int] = {}
    for name in sound:
        kind, _, step = name.removesuffix(".pt").rpartition("-")
        newest[kind] = max(newest.get(kind, 0), int(step) if step.isdigit() else 0)
    return newest


def _is_listed(before: dict[str, bytes | str], name: str, digest: str) -> bool:
    """Tell whether a run's list says that the run itself has saved a checkpoint."""
    folder, _, rest = name.partition("/checkpoints/")
    listed = before.get(f"{folder}/{LIST}", b"")
    return isinstance(listed, bytes) and f"run {digest} checkpoints/{rest}\n".encode() in listed


def run(world: World, seeds: range, place: Path) -> list[tuple[str, str, str]]:
    """Examine one state a seed."""
    found = []
    for seed in seeds:
        with tempfile.TemporaryDirectory(dir=place) as folder:
            found.append(examine(world, seed, Path(folder)))
    return found


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    with tempfile.TemporaryDirectory() as folder:
        world = make_world(Path(folder) / "world")
        before = contents(world.base)
        found = run(world, range(count), Path(folder))
        kept = all(contents(world.base).get(name) == content for name, content in before.items())
    for how, outcome, said in found:
        if outcome not in ("done", "refused"):
            print(f"{how}: {outcome}\n{said[-1500:]}")
    outcomes = Counter(outcome for _, outcome, _ in found)
    print(f"{len(found)} states: " + ", ".join(f"{n} {outcome}" for outcome, n in outcomes.most_common()))
    print(f"all that lies elsewhere is as it was: {kept}")
    sys.exit(bool(outcomes.keys() - {"done", "refused"}) or not kept)


if __name__ == "__main__":
    main()
