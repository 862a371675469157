"""Every file of a run, altered, and every command that reads it: `python tests/alterations.py 1000` prints the figures.

A command that is given an altered file must end with exit code 0 or 2 and no traceback, soon and in little memory. What
it refuses, it leaves as it was: not a byte of any file is another, but for lines at the end of the list of what was
written. And an altered file that is not the run's own any more is not replaced, whatever comes of the command.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from worlds import LAST, World, command, contents, make_world

from pipeline.outputs import LIST

if TYPE_CHECKING:
    from collections.abc import Callable

LONGEST_S, MOST_BYTES = 30.0, 2 * 2**30

FILES = {
    "done": (
        "config.yaml",
        "split.json",
        "index.json",
        "history.csv",
        "validation.csv",
        "cases.csv",
        "summary.json",
        f"checkpoints/last-{LAST:06d}.pt",
        f"checkpoints/best-{LAST:06d}.pt",
        f"checkpoints/last-{LAST:06d}.pt.sha256",
        "report.html",
        "figures/dice.png",
        LIST,
    ),
    "stopped": (
        "config.yaml",
        "split.json",
        "index.json",
        "history.csv",
        "validation.csv",
        "checkpoints/last-000004.pt",
    ),
    "crossed": ("folds.json", "postprocessing.json", "split.json", "fold-1/config.yaml", "out-of-fold/cases.csv"),
}
# Files that a training changes as it goes on, or that no command writes once more.
GROWING = ("config.yaml", "history.csv", "validation.csv", LIST, "folds.json")

VILE: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1,
    1.5,
    1e308,
    -1e-308,
    float("nan"),
    float("inf"),
    10**400,
    -(10**30),
    2**63,
    "",
    "auto",
    "x" * 100_000,
    "\ud800",
    "../../x",
    "=1+1",
    "\x1b[2J",
    "2001-12-14",
    [],
    {},
    [[]],
    [1, 2],
    {"a": 1},
    [1e9, 1e9, 1e9],
    [100_000, 100_000, 100_000],
    [16, 1500, 3000],
)


@dataclass
class Altered:
    """What became of one altered file.

    Attributes:
        file: It.
        how: It was altered.
        words: The command.
        outcome: ``read``, ``refused``, or what must not be.
        said: What the command wrote.
    """

    file: str
    how: str
    words: str
    outcome: str
    said: str


# Any file


def _bytes(path: Path, rng: random.Random) -> str:
    data = path.read_bytes()
    place = rng.randrange(len(data)) if data else 0
    changes = {
        "empty": b"",
        "cut": data[:place],
        "a bit flipped": data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]
        if data
        else b"",
        "text": b"hello\n",
        "undecodable": b"\xff\xfe\x80" * 40,
        "zeros": bytes(len(data)),
        "a picture": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "an archive": b"PK\x05\x06" + bytes(18),
        "another page": b"<html><script>1</script>",
        "twice": data + data,
        "longer": data + b"\n\x00x",
        "whitespace": b" " * 100_000,
        "a byte order mark": b"\xef\xbb\xbf" + data,
        "deep": b"[" * 100_000,
        "deeper": b'{"a":' * 100_000,
        "other line ends": data.replace(b"\n", b"\r\n"),
    }
    how = rng.choice(list(changes))
    path.write_bytes(changes[how])
    return how


def _kind(path: Path, rng: random.Random) -> str:
    elsewhere = path.with_name(f"elsewhere-{path.name}")
    makers: dict[str, Callable[[], object]] = {
        "gone": lambda: None,
        "a folder": path.mkdir,
        "a pipe": lambda: os.mkfifo(path),
        "a link to nothing": lambda: path.symlink_to("nowhere"),
        "a link to zeros": lambda: path.symlink_to("/dev/zero"),
        "a link to itself": lambda: path.symlink_to(path.name),
        "a link to what it was": lambda: path.symlink_to(shutil.move(kept, elsewhere)),
    }
    how = rng.choice(list(makers))
    kept = path.rename(path.with_name(f"kept-{path.name}"))
    makers[how]()
    kept.unlink(missing_ok=True)
    return how


def _other_file(path: Path, rng: random.Random) -> str:
    others = sorted(other for other in path.parent.iterdir() if other.is_file() and other != path)
    other = rng.choice(others)
    shutil.copyfile(other, path)
    return f"as {other.name}"


# What is in a file


def _vile(node: Any, rng: random.Random) -> tuple[Any, str]:
    """Return nested data in which one thing is vile, and what was done."""
    if isinstance(node, (dict, list)) and node and rng.random() < 0.8:
        key = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
        inner, how = _vile(node[key], rng)
        changed = dict(node) if isinstance(node, dict) else list(node)
        way = rng.random()
        if way < 0.15:
            del changed[key]
            return changed, f"{key} taken out"
        if way < 0.25 and isinstance(changed, dict):
            changed[f"{key}2"] = changed.pop(key)
            return changed, f"{key} renamed"
        if way < 0.3 and isinstance(changed, dict):
            return changed | {"written_by_a_later_version": [1]}, "a key more"
        if way < 0.35 and isinstance(changed, list):
            return changed * 2, "a list twice"
        changed[key] = inner
        return changed, f"{key}.{how}"
    value = rng.choice(VILE)
    return value, repr(value)[:40]


def _json(path: Path, rng: random.Random) -> str:
    changed, how = _vile(json.loads(path.read_text()), rng)
    text = json.dumps(changed).encode("utf-8", "surrogatepass")
    if rng.random() < 0.1:
        text, how = text.replace(b"{", b'{"labelled": [], "labelled": [], ', 1), "a key twice"
    path.write_bytes(text)
    return how


def _yaml_text(text: str, rng: random.Random) -> tuple[str, str]:
    changed, how = _vile(yaml.safe_load(text), rng)
    return yaml.safe_dump(changed, allow_unicode=True), how


def _yaml(path: Path, rng: random.Random) -> str:
    text, how = _yaml_text(path.read_text(), rng)
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    return how


def _csv(path: Path, rng: random.Random) -> str:
    rows = [line.split(",") for line in path.read_text().split("\n")]
    row, how = rng.randrange(len(rows)), "a cell"
    cell = rng.randrange(len(rows[row]))
    match rng.randrange(4):
        case 0:
            value = rng.choice(["", "x", "-1", "nan", "inf", "1e999", "9" * 5000, '"', "\x00", "1.5", "scored", "٣"])
            rows[row][cell], how = value, f"a cell {value[:10]!r}"
        case 1:
            del rows[row]
            how = f"without line {row}"
        case 2:
            rows.insert(row, rows[rng.randrange(len(rows))])
            how = "a line twice"
        case _:
            rows = [[cell for n, cell in enumerate(line) if n != 1] for line in rows]
            how = "without a column"
    path.write_text("\n".join(",".join(line) for line in rows))
    return how


def _list(path: Path, rng: random.Random) -> str:
    lines = path.read_text().splitlines(keepends=True)
    change = rng.randrange(4)
    if change == 0:
        rng.shuffle(lines)
    elif change == 1:
        del lines[rng.randrange(len(lines)) :]
    elif change == 2:
        lines = [line for line in lines if rng.random() < 0.5]
    else:
        lines = [line.replace("run ", "another ", 1) for line in lines]
    path.write_text("".join(lines))
    return ("shuffled", "cut", "thinned out", "of another")[change]


# Checkpoints


def _state(path: Path, rng: random.Random) -> str:
    """Make something in a checkpoint vile."""
    state = torch.load(path, weights_only=True)
    ways = (_tensor, _tensor, _plain, _recipe_inside)
    how = rng.choice(ways)(state, rng)
    listed = rng.random() < 0.5
    save(state, path, listed=listed)
    return f"{how}, listed" if listed else how


def save(state: dict[str, Any], path: Path, *, listed: bool) -> None:
    """Write a checkpoint again, sound and with its hash; `listed` as one that the run itself has written."""
    torch.save(state, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name(f"{path.name}.sha256").write_text(f"{digest}  {path.name}\n")
    if listed:
        with (path.parents[1] / LIST).open("a") as stream:
            stream.write(f"run {digest} checkpoints/{path.name}\n")


def _tensor(state: dict[str, Any], rng: random.Random) -> str:
    part = rng.choice(["network", "average", "optimizer"])
    holder = state[part] if part != "optimizer" else rng.choice(list(state[part]["state"].values()))
    name = rng.choice(list(holder))
    tensor = holder[name]
    values = {
        "expanded": torch.zeros(1).expand(3000, 3000, 100),
        "of its shape expanded": torch.zeros(1).expand(tensor.shape) if tensor.ndim else tensor,
        "flat": tensor.reshape(-1),
        "of one number": torch.zeros(()),
        "of integers": tensor.to(torch.int64),
        "of half": tensor.half(),
        "of NaN": torch.full_like(tensor, float("nan"), dtype=torch.float32),
        "empty": torch.zeros(0),
        "a number": 3.0,
        "text": "x",
        "none": None,
        "transposed": tensor.transpose(0, -1) if tensor.ndim > 1 else tensor[None],
    }
    how = rng.choice([*values, "gone", "twice"])
    if how == "gone":
        del holder[name]
    elif how == "twice":
        holder[f"{name}2"] = tensor
    else:
        holder[name] = values[how]
    return f"{part}.{name} {how}"


def _plain(state: dict[str, Any], rng: random.Random) -> str:
    key = rng.choice(["format", "step", "best", "task", "version", "scaler", "optimizer", "network", "recipe"])
    if key in ("task", "optimizer") and rng.random() < 0.8:
        inner = state[key] if key == "task" else {"param_groups": state[key]["param_groups"]}
        changed, how = _vile(inner, rng)
        state[key] = changed if key == "task" or not isinstance(changed, dict) else state[key] | changed
        return f"{key}.{how}"
    if rng.random() < 0.2:
        del state[key]
        return f"{key} gone"
    if rng.random() < 0.1:
        shared: Any = ["x"]
        for _ in range(60):
            shared = [shared, shared]
        state[key] = shared
        return f"{key} a list of lists of one"
    value = rng.choice(VILE)
    state[key] = value
    return f"{key} {value!r}"[:60]


def _recipe_inside(state: dict[str, Any], rng: random.Random) -> str:
    if rng.random() < 0.4:
        raw = yaml.safe_load(state["recipe"])
        options, data = raw["network"]["options"], raw["data"]
        ways: dict[str, Callable[[], object]] = {
            "channels": lambda: options.update(channels=rng.choice([[16, 1500, 3000], [4] * 9000, [10**9, 8], [4]])),
            "units": lambda: options.update(num_res_units=10**9),
            "strides": lambda: options.update(strides=rng.choice([[[0, 0, 0]], [[9**9] * 3], [[1, 1, 1]]])),
            "patch": lambda: data.update(patch_size=rng.choice([[9**9] * 3, [1, 1, 1], [7, 8, 8], [4096] * 3])),
            "spacing": lambda: data.update(spacing_mm=rng.choice([[1e-9] * 3, [1e9] * 3, [0.01] * 3])),
            "members": lambda: raw["network"].update(members=9),
            "mirrors": lambda: raw["augmentation"].update(flip_axes=[0] * 40),
            "normalization": lambda: data.update(normalization=["zscore"] * 1000),
            "network": lambda: raw.update(network=rng.choice(["resenc", "segresnet", "wnet", "nothing"])),
        }
        how = rng.choice(list(ways))
        ways[how]()
        state["recipe"] = yaml.safe_dump(raw)
        return f"recipe: {how}"
    state["recipe"], how = _yaml_text(state["recipe"], rng)
    return f"recipe: {how}"


def alter(path: Path, rng: random.Random) -> str:
    """Alter a file in a way that is drawn, and return which."""
    ways = [_bytes, _kind, _other_file]
    inside = {".json": _json, ".yaml": _yaml, ".csv": _csv, ".pt": _state}.get(path.suffix)
    if path.name == LIST:
        inside = _list
    way = inside if inside and rng.random() < 0.65 else rng.choice(ways)
    return way(path, rng)


# Commands


def commands_for(world: World, kind: str, run: Path, file: str, place: Path, rng: random.Random) -> list[object]:
    """Draw a command that reads a run."""
    scan = world.data / "imagesTs"
    train = ["train", world.recipe, "--resume", "--output", run]
    which = "best" if "best" in file else "last"
    choices: list[list[object]] = [
        ["predict", run, scan, "--output", place / "masks", "--checkpoint", which, "--annotate-next"],
        ["validate", run, "--checkpoint", which],
    ]
    if kind == "crossed":
        choices.append([*train, "max_steps=2", "--folds", 2])
        return rng.choice(choices)
    choices += [train, ["validate", run, "--dataset", world.data]]
    if file.endswith(".pt"):
        words = [f"dataset={world.data}", f"data.cache={world.base / 'cache'}", "--output", place / "new"]
        choices.append(["train", run / file, *words])
    if file in ("cases.csv", "summary.json"):
        choices += [["compare", world.base / "done", run, "--output", place / "compared"]] * 3
    return rng.choice(choices)


def examine(world: World, seed: int, place: Path) -> Altered:
    """Alter a file of a run, both drawn, run a command, and judge what came of it."""
    rng = random.Random(seed)
    kind = rng.choices(list(FILES), [len(files) for files in FILES.values()])[0]
    return examine_file(world, kind, rng.choice(FILES[kind]), rng, place)


def examine_file(world: World, kind: str, file: str, rng: random.Random, place: Path) -> Altered:
    """Alter a file, run a command, and judge what came of it."""
    run = world.copy(kind, place / "run")
    how = alter(run / file, rng)
    words = commands_for(world, kind, run, file, place, rng)
    before = contents(run)
    ended = command(*words)
    after = contents(run)
    told = " ".join(str(word).replace(f"{place}/", "").replace(f"{world.base}/", "") for word in words)
    outcome = {0: "read", 2: "refused"}.get(ended.code or 0, f"exit code {ended.code}")
    if ended.code is None:
        outcome = "traceback"
    elif ended.code == 2 and (changed := _changed(before, after)):
        outcome = f"refused, and changed {changed}"
    elif file in before and Path(file).name not in GROWING and ".pt" not in file and before[file] != after.get(file):
        outcome = "replaced what was not its own"
    elif ended.seconds > LONGEST_S or ended.peak_bytes > MOST_BYTES:
        outcome = f"{ended.seconds:.0f} s, {ended.peak_bytes / 2**20:.0f} MB"
    return Altered(f"{kind}/{file}", how, told, outcome, ended.said)


def _changed(before: dict[str, bytes | str], after: dict[str, bytes | str]) -> list[str]:
    """Return the names of what is gone or another, of what was there."""
    listed = before.get(LIST)
    if isinstance(listed, bytes) and isinstance(after.get(LIST), bytes):
        listed = after[LIST] if bytes(after[LIST]).startswith(listed) else listed  # type: ignore[arg-type]
    return [name for name in before if after.get(name) != (before[name] if name != LIST else after[LIST] and listed)]


def run(world: World, seeds: range, place: Path) -> list[Altered]:
    """Examine one alteration a seed."""
    found = []
    for seed in seeds:
        with tempfile.TemporaryDirectory(dir=place) as folder:
            found.append(examine(world, seed, Path(folder)))
    return found


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    with tempfile.TemporaryDirectory() as folder:
        world = make_world(Path(folder) / "world")
        found = run(world, range(first, first + count), Path(folder))
    outcomes = Counter(item.outcome for item in found)
    for item in found:
        if item.outcome not in ("read", "refused"):
            print(f"{item.file} {item.how}: {item.words}: {item.outcome}\n{item.said[-1500:]}")
    print(f"{len(found)} alterations: " + ", ".join(f"{n} {outcome}" for outcome, n in outcomes.most_common()))
    sys.exit(bool(outcomes.keys() - {"read", "refused"}))


if __name__ == "__main__":
    main()
