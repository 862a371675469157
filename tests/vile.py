"""Vile values for every key, option and number that a person may give: `python tests/vile.py 10000` prints the figures.

Each example is a command with one or more values that nobody should give, run in one process through the program's own
entry. It has to end with code 0 or 2, without a traceback, within 30 s of processor time and 2 GB; and no file that was
there may be gone or changed. What a command makes is its own, and is taken away before the next.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LIST = ".fewmask"
ROOT = Path(__file__).resolve().parents[1]
CPU_S, PEAK_BYTES, WALL_S = 30.0, 2 * 2**30, 300
# Of a command that does as it is told: a network may be as wide as the machine holds.
TRAINED_BYTES = 4 * 2**30
# A training that goes on for so long is a training: it is asked to end, as a user would. And the memory that the plan
# is told of: what it lets through has to stay within.
TRAINING_S, MACHINE_BYTES = 10.0, 2**30
# The value of a key, as it would stand behind `key=`.
NINES = "9" * 400
NUMBERS = (
    *("0", "-0.0", "1", "-1", "2", "3", "8", "0.01", "0.5", "1.0", "1.9", "1e-9", "1e-300", "1e9", "1e40", "1e300"),
    *("1e400", "-1e400", ".nan", ".inf", NINES, f"-{NINES}", "65536", "1000000000", "4294967295", "4294967296"),
    *("9223372036854775807", "9223372036854775808", "0x10", "1_000", "\u0663", "\u00b2", "1e-1000", "180", "1e-4"),
    *("4096", "256", "1024", "250", "1e4", "1000", "0.999999", "1e6", "100", "10", "64", "12", "0.499999", "1e-6"),
)
TEXTS = (
    *("", "''", "' '", "abc", "auto", "null", "true"),
    *("false", "off", "stop", "off.yaml", "best", "all", "data", "none"),
    *("cpu", "cuda", "cuda:0", "cuda:99", "cuda:\u0663", "RAS", "LPI", "0s", "1s", "0.001s", f"{NINES}d", "1e9d"),
    *("9999d", "sum", "unlabelled", "channels_last", "float16", "bfloat16", "folder", "datalist", "wnet", "ncut"),
    *("'\\0'", '"\\0"', '"\\ud800"', '"\\x1b[2J"', "'=1+1'", "'[red]x[/red]'", "a" * 5000, "'a/b'", "../x"),
    *("/dev/null", "/dev/zero", ".", "~"),
    *("$HOME", "file:///etc/passwd", "'${x}'", "'{{x}}'", "%s%n", "\U0001f600"),
    # Tags, dates and the rest of YAML.
    *("!!timestamp 2001-12-14", "!!bool abc", "!!set {a, b}", "!!omap [a: 1]", "!!python/name:os.system", "!x 1"),
    *("2001-12-14", "12:30:00", "&a [*a]", "*a", "[", "}", "- x", "a: b: c", "'", '"\\q"', "@x", "`x`", "%x", "? x"),
)
LISTS = (
    *("[]", "[0]", "[1]", "[8]", "[0, 0]", "[0, 8]", "[8, 8]", "[1, 1]", "[16, 16]", "[1, 2]", "[2, 1]", "[5, 5]"),
    *("[1, 1, 1]", "[2, 2, 2]", "[8, 8, 8]", "[16, 16, 16]", "[0, 1, 2]", "[1, 1, 1, 1]", "[4, 8, 16]", "[7, 9, 11]"),
    *("[-1, 1, 1]", "[0.01, 0.01, 0.01]", "[1e-9, 1, 1]", "[0.001, 1000, 1]", "[1000, 1000, 1000]", "[1e300, 1, 1]"),
    *("[4096, 4096, 4096]", "[4096, 4096]", f"[{NINES}, 1, 1]", "[.nan, 1, 1]", "[1.5, 2, 2]", "[[]]", "[[1]]"),
    *("[[2, 2, 2]]", "[[2, 2]]", "[[1, 1, 1]]", "[[2, 2, 2], [2, 2, 2]]", "[[2, 2], [2, 2, 2]]", "[[0, 0, 0]]"),
    *("[[16, 16, 16]]", "[[3, 3, 3], [3, 3, 3], [3, 3, 3]]", "[[2, 2, 2], [2, 2, 2], [2, 2, 2]]", "[['a', 1]]"),
    *("[[0, 1]]", "[[1, 1]]", "[[1, 2]]", "[[2, 1], [1, 2]]", "['']", "['\\0']", "[true, false]", "[zscore]", "[ct]"),
    *("[" * 15 + "]" * 15, "[" + "1, " * 500 + "1]", "[zscore, ct]", "[stop, data]", "[{loss: dice}]", "[{}]"),
    *("[{loss: dice, weight: 0}]", "[{loss: [dice]}]", "[{scheme: ct, low: 5, high: -5}]", "[null]", "[256, 256, 256]"),
    *("[{scheme: ct, std: 1e-6}]", "[{scheme: ct, high: -2000}]", "[{scheme: ct, low: 1e9, mean: 0}]", "[4096, 4096]"),
    *("[1e-4, 1e-4, 1e-4]", "[1e4, 1e4, 1e4]", "[0.1, 0.1, 0.1]", "[1, 1, 4096]", "[4, 4, 4, 4, 4, 4, 4, 4, 4, 4]"),
    *("[[1, 1]] ", "[[16, 1, 1], [1, 16, 1]]", "[[15, 15, 15], [15, 15, 15], [15, 15, 15]]", "[64, 64]", "[2, 2]"),
    *("[[2, 2, 2], [4, 4, 4]]", "[4096, 4]", "[3, 5, 7]", "[8, 16, 32, 64]", "[[1, 3, 2], [2, 2, 2], [3, 1, 1]]"),
)
MAPPINGS = (
    *("{}", "{a: 1}", "{'': 1}", "{1: 2}", "{1: a, 01: b}", "{a: {a: {a: 1}}}", "{name: unet}", "{name: ''}"),
    *("{name: null, options: null}", "{options: {}}", "{name: segresnet, options: {init_filters: 7}}", "{scheme: ct}"),
    *("{background: 0, blob: 1}", "{blob: .inf}", "{blob: 1.9}", "{blob: 1e40}", "{blob: -1}", "{organ: [1, 2]}"),
    *("{_target_: os.system, command: x}", "{? [a] : 1}", "{~: 1}", "{a: 1, a: 2}", "{organ: 1, nodule: 2}"),
    *("{background: 0, organ: 1, nodule: 2}", "{organ: 2, nodule: 1}", "{organ: 1, nodule: 1}", "{x: 16777216}"),
)
VALUES = NUMBERS + TEXTS + LISTS + MAPPINGS
# A word of the command line in the place of a number, a name or a path.
WORDS = (
    *("0", "1", "-1", "2", "3", "0.5", "1e300", "nan", "inf", "-inf", "1e-300", "-0.0", NINES, "1000000000", "\u0663"),
    *("4294967296", "9223372036854775808", "\u00b2", "0x10", "", " ", "abc"),
    *("none", "stop", "a=b", "=", "a=", "--", "-x"),
    *("a.b.c=1", "0s", "1s", f"{NINES}s", "auto"),
    *("folder", "decathlon", "labels={1: .inf}", "ignore=1e40", "labels={}"),
    *("ignore=-1", "patient=(", "channel_names=[a, b]", "patient=''", "labels={a: 1.9}", "labels={1: a, 01: b}", "x=1"),
    *("seed", "data", "optimizer.learning_rate", "use-sform", "round-labels", "best", "last", "\udcff", "\udcff.yaml"),
    *("a" * 5000, "a\nb", "a\x1b[2Jb", "[red]", "<b>", "..", ".", "/dev/null", "/dev/zero", "/proc/self/mem"),
    *("dataset", "run", "masks", "recipe.yaml"),
    *("run/config.yaml", "run/checkpoints", "scan.nii.gz", "run/stop", "file"),
    *("dataset/dataset.json", "dataset/imagesTr", "dataset/labelsTr", "Task04", "new", "new/new", "file/new"),
)
COMMANDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    # What makes a sound command, and its options; each word of the former may be replaced.
    "check": (("dataset", "--output", "new"), ("--layout", "--layout-option", "--root", "--fix", "--plugin")),
    "plan": (("recipe.yaml", "--output", "new.yaml"), ()),
    "train": (("recipe.yaml", "--output", "new"), ("--folds", "--time-budget", "--allow-change")),
    "validate": (
        ("run",),
        ("--tolerance-mm", "--checkpoint", "--dataset", "--layout", "--layout-option", "--root", "--plugin"),
    ),
    "predict": (("run", "scan.nii.gz", "--output", "new"), ("--checkpoint", "--plugin")),
    "evaluate": (("masks", "dataset/labelsTr", "--output", "new"), ("--ignore", "--tolerance-mm")),
    "compare": (("run", "run", "--output", "new"), ()),
    "fetch": (("Task04", "--output", "new"), ()),
    "prune": (("run/cache",), ("--unused-days",)),
    "phantom": (("new", "--labelled", "1", "--unlabelled", "0"), ("--seed", "--labelled", "--unlabelled")),
    "simulate-labels": (
        ("dataset", "--kind", "scribbles", "--output", "new"),
        ("--amount", "--seed", "--layout", "--layout-option", "--root"),
    ),
    "components": ((), ()),
}


@dataclass
class Found:
    """What became of one command: its exit code or the error that ended it, what it took, and which files it lost."""

    words: list[str]
    outcome: str
    cpu_s: float
    peak_bytes: int
    lost: list[str]
    said: str = ""

    @property
    def is_fine(self) -> bool:
        ends = ("0", "2", "143") if self.words[:1] == ["train"] else ("0", "2")
        most = PEAK_BYTES if self.outcome == "2" else TRAINED_BYTES
        cheap = self.cpu_s <= CPU_S and self.peak_bytes <= most
        return self.outcome in ends and not self.lost and cheap


def recipe_keys() -> dict[str, tuple[str, ...]]:
    """Return the dotted path of every key of a recipe, of its first term and of all options, and values of its kind."""
    from pipeline.data.layouts import LAYOUTS
    from pipeline.losses import LOSSES
    from pipeline.networks import NETWORKS
    from pipeline.recipe import Recipe
    from pipeline.sections import Section, TermChoice

    def keys(section: type[Section], place: str) -> Iterator[tuple[str, Any]]:
        for name, field in section.model_fields.items():
            yield place + name, field.annotation
            if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
                yield from keys(field.annotation, f"{place}{name}.")

    found = dict([*keys(Recipe, ""), *keys(TermChoice, "objective.0.")])
    for place, registry in (("network", NETWORKS), ("objective.0.loss", LOSSES), ("layout", LAYOUTS)):
        options = "objective.0.options" if registry is LOSSES else f"{place}.options"
        for name in registry.names:
            # A reconstruction needs a network that makes one.
            more = "network=wnet " if name == "reconstruction" else ""
            for option, about in registry.options(name).items():
                found[f"{more}{place}={name} {options}.{option}"] = about.annotation
    return {key: _values_like(str(kind)) for key, kind in found.items()}


def _values_like(kind: str) -> tuple[str, ...]:
    """Return values of a kind that an annotation names."""
    words = {"tuple": LISTS, "Widths": LISTS, "Depths": LISTS, "Factors": LISTS, "Kernels": LISTS, "dict": MAPPINGS}
    like = next((values for word, values in words.items() if word in kind), ())
    number = any(word in kind for word in ("int", "float", "Scale", "Steps", "LabelValue", "Dropout"))
    return like or (NUMBERS if number else TEXTS)


def recipe_commands(count: int, rng: random.Random) -> Iterator[list[str]]:
    """Yield commands with vile values of keys: every key in turn, two values in three of its kind, some keys twice."""
    keys = recipe_keys()

    def draw(key: str) -> list[str]:
        return _overrides(key, rng.choice(keys[key] if rng.random() < 2 / 3 else VALUES))

    for key in itertools.islice(itertools.cycle(keys), count):
        chosen = draw(key) + (draw(rng.choice(list(keys))) if rng.random() < 0.2 else [])
        command, output = rng.choice((("train", "new"), ("plan", "new.yaml")))
        yield [command, "recipe.yaml", *chosen, "--output", output]


def _overrides(key: str, value: str) -> list[str]:
    """Return what sets a key, whose own path may come after what has to be chosen before it."""
    *before, path = key.split(" ")
    return [*before, f"{path}={value}"]


def line_commands(count: int, rng: random.Random) -> Iterator[list[str]]:
    """Yield commands with a vile word in the place of one of their own, or behind one of their options."""
    every = []
    for command, (words, options) in COMMANDS.items():
        every += [[command, *words[:n], vile, *words[n + 1 :]] for n in range(len(words)) for vile in WORDS]
        every += [[command, *words, option, vile] for option in options for vile in WORDS]
        every += [[command, *words, f"{option}={vile}"] for option in options for vile in WORDS[:20]]
        every += [[command, *words, vile] for vile in WORDS]
    rng.shuffle(every)
    yield from itertools.islice(itertools.cycle(every), count)


def write_place(folder: Path) -> None:
    """Write a dataset, a recipe, a run and other things that commands read, and a file of the user's."""
    sys.path.insert(0, str(ROOT / "tests"))
    from runs_fixtures import TINY

    from pipeline import cli
    from pipeline.data.phantom import write_phantom

    folder.mkdir(parents=True)
    os.chdir(folder)
    list(write_phantom(Path("dataset"), labelled=2, unlabelled=1, seed=0))
    tiny = TINY | {"dataset": "dataset", "max_steps": 2, "validate_every": 2, "optimizer": {"learning_rate": 1e-3}}
    Path("recipe.yaml").write_text(yaml.safe_dump(tiny))
    shutil.copy(next(Path("dataset/imagesTs").iterdir()), "scan.nii.gz")
    shutil.copytree("dataset/labelsTr", "masks")
    Path("file").write_text("mine")
    for words in (["train", "recipe.yaml", "--output", "run"],):
        sys.argv = ["fewmask", *words]
        cli.main()


class Files:
    """The files below a folder, by a hash of each.

    A file is read again only where its status is another: a program can set its times, but not that of their change.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._seen: dict[Path, tuple[tuple[int, ...], str]] = {}

    def look(self) -> dict[str, str]:
        """Return the hash of every file, by its path below the folder."""
        seen = {}
        for place, _, names in os.walk(self.folder):
            for name in names:
                path = Path(place, name)
                status = path.lstat()
                if stat.S_ISREG(status.st_mode):
                    about = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
                    known = self._seen.get(path)
                    digest = known[1] if known and known[0] == about else _digest(path)
                    seen[path] = (about, digest)
        self._seen = seen
        return {str(path.relative_to(self.folder)): digest for path, (_, digest) in sorted(seen.items())}


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def restore(place: Path, kept: Path, gone: Iterable[str]) -> None:
    """Bring a folder back to what it was.

    Args:
        place: The folder.
        kept: A copy of it.
        gone: Files of it that are gone or changed, by their paths within.
    """
    for folder, folders, names in os.walk(place):
        own = kept / Path(folder).relative_to(place)
        for name in [*names, *folders]:
            path = Path(folder, name)
            if _kind(path) != _kind(own / name):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        folders[:] = [name for name in folders if Path(folder, name).is_dir()]
    for name in gone:
        target = place / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(kept / name, target)


def _kind(path: Path) -> int | None:
    return stat.S_IFMT(path.lstat().st_mode) if os.path.lexists(path) else None


def share_drawings() -> None:
    """Leave out what takes most of a training's time, is the same in each, and looks at no value of a recipe.

    No training fails for ``training.png``; of a drawing, that it is XML decides whether it can be made a picture.
    """
    import resvg_py

    from pipeline.runs import reporting

    picture = bytes(resvg_py.svg_to_bytes('<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>'))

    def draw(drawing: str, **_: Any) -> bytes:
        ElementTree.fromstring(drawing)
        return picture

    resvg_py.svg_to_bytes = draw
    reporting.draw_training = lambda *_: None


def examine(commands: list[list[str]], folder: Path) -> list[Found]:
    """Run every command in the folder that :func:`write_place` wrote."""
    from pipeline import cli, terminal
    from pipeline.planning import devices

    place, kept = folder / "a" / "b" / "place", folder / "kept"
    write_place(place)
    shutil.copytree(place, kept)
    files = Files(folder)
    before = files.look()
    share_drawings()
    signal.signal(signal.SIGVTALRM, _end)
    signal.signal(signal.SIGALRM, _too_long)
    devices._memory_bytes = lambda _: MACHINE_BYTES
    found = []
    for words in commands:
        os.chdir(place)
        Path("/proc/self/clear_refs").write_text("5")  # The peak begins anew.
        began, sys.argv = time.process_time(), ["fewmask", *words]
        signal.alarm(WALL_S)
        signal.setitimer(signal.ITIMER_VIRTUAL, TRAINING_S if words[:1] == ["train"] else CPU_S)
        text = io.StringIO()
        for console in (terminal.OUT, terminal.ERR):
            console.file = text
        try:
            with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
                cli.main()
            outcome = "0"
        except SystemExit as stop:
            outcome = str(stop.code or 0)
        except BaseException as error:
            frames = traceback.extract_tb(error.__traceback__)
            places = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames[:-9:-1])
            outcome = f"{type(error).__name__}: {error} ({places})"[:700]
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.alarm(0)
        for console in (terminal.OUT, terminal.ERR):
            console.file = None  # Whatever stdout and stderr are.
        if "Traceback" in text.getvalue():
            outcome = "printed a traceback"
        if any(not (c.isprintable() or c in "\n\r") for c in text.getvalue()):
            outcome = "printed what a terminal obeys"
        seconds, peak = time.process_time() - began, _memory("VmHWM")
        os.chdir(folder)
        after = files.look()
        lost = [name for name in before if after.get(name) != before[name] and not _is_own(name, words)]
        lost = [name for name in lost if not _has_grown(folder / name, kept / Path(name).relative_to("a/b/place"))]
        if after != before:
            changed = [name for name in before if after.get(name) != before[name]]
            restore(place, kept, [os.path.relpath(name, "a/b/place") for name in changed])
            if files.look() != before:  # It wrote beside the place, as it was told to.
                shutil.rmtree(folder / "a")
                shutil.copytree(kept, place)
                files.look()
        found.append(Found(words, outcome, round(seconds, 3), peak, lost, text.getvalue()[-600:]))
    return found


def _is_own(name: str, words: list[str]) -> bool:
    """Tell whether a file of the run was a command's to replace once it was done: new scores of it, a pruned cache."""
    inside = name.partition("a/b/place/")[2]
    owned = {"validate": ("run/",), "prune": ("run/cache/",), "train": ("run/",)}.get(words[0], ())
    return inside.startswith(owned) and "checkpoints" not in inside if owned else False


def _has_grown(path: Path, before: Path) -> bool:
    """Tell whether a file is a folder's list of what was written there, to which lines were added."""
    return path.name == LIST and path.is_file() and path.read_bytes().startswith(before.read_bytes())


def _end(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _too_long(*_: Any) -> None:
    raise TimeoutError(f"over {WALL_S} s")


def _memory(key: str) -> int:
    text = Path("/proc/self/status").read_text()
    return int(text.partition(f"{key}:")[2].split()[0]) * 1024


def run(folder: Path, commands: list[list[str]], timeout: float = 36_000) -> list[Found]:
    """Examine commands in a process of its own."""
    (folder / "commands.json").write_text(json.dumps(commands))
    about = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HOME": str(folder)}
    words = [sys.executable, __file__, "examine", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | about, timeout=timeout)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return [Found(**row) for row in json.loads((folder / "found.json").read_text())]


def commands_of(kind: str, count: int, seed: int) -> list[list[str]]:
    """Return so many commands of a kind, ``recipe`` or ``line``."""
    made = {"recipe": recipe_commands, "line": line_commands}[kind]
    return list(made(count, random.Random(seed)))


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    kinds = sys.argv[2:3] or ["recipe", "line"]
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    for kind in kinds:
        with tempfile.TemporaryDirectory() as folder:
            found = run(Path(folder), commands_of(kind, count, seed))
        bad = [item for item in found if not item.is_fine]
        for item in bad:
            what = f"{item.outcome} {item.lost} {item.cpu_s} s, {item.peak_bytes >> 20} MB"
            print(f"{' '.join(map(repr, item.words))[:300]}: {what}")
        print(
            f"{len(found)} {kind} commands: {len(bad)} broke a promise; exit codes "
            f"{dict(Counter(item.outcome for item in found if item.outcome.isdigit()))}, at most "
            f"{max(item.cpu_s for item in found):.1f} s of processor time and "
            f"{max(item.peak_bytes for item in found) / 2**30:.2f} GB"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["examine"]:
        base = Path(sys.argv[2])
        rows = examine(json.loads((base / "commands.json").read_text()), base / "home")
        (base / "found.json").write_text(json.dumps([asdict(row) for row in rows]))
    else:
        main()
