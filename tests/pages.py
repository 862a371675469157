"""The code blocks of the documentation, and how they are run."""

import doctest
import functools
import os
import re
import shlex
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import tyro
from runs_fixtures import ROOT

from pipeline.arguments import COMMANDS, overrides_first

PAGES = sorted([*ROOT.glob("docs/**/*.md"), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md"))])
BLOCK = re.compile(r"^( *)```(\w*) ?([^\n]*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
SHELL = ("sh", "bash")
# What is trained in a test is small: its steps are counted, and their time is not.
SMALL = (
    *("max_steps=2", "validate_every=2", "device=cpu", "precision=float32", "data.workers=0", "data.batch_size=1"),
    *("data.unlabelled_batch_size=1", "optimizer.warmup=0"),
)
UNET = ("network=unet", "network.options.channels=[4,8]", "network.options.num_res_units=0")
VOLUMES = ("data.patch_size=[16,16,16]", "data.spacing_mm=[2.5,2.5,2.5]")
SLICES = ("data.patch_size=[16,16]", "data.spacing_mm=[2.5,2.5]")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its language, the words behind that, and its text."""

    language: str
    words: str
    text: str


def blocks_of(path):
    found = BLOCK.findall(path.read_text(encoding="utf-8"))
    return [Block(language, words, textwrap.dedent(text)) for _, language, words, text in found]


def name_of(path):
    return str(path.relative_to(ROOT))


def commands_of(text):
    """The words of every call of ``fewmask`` in shell code, without the program's name, up to a pipe or an end."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line.rstrip("&| "), comments=True)
        for start in [n for n, word in enumerate(words) if word == "fewmask"]:
            rest = words[start + 1 :]
            ends = [n for n, word in enumerate(rest) if word in ("|", "&&", ";", ">")]
            found.append(rest[: ends[0]] if ends else rest)
    return found


def understood(words):
    """The arguments that a command's function would get; nothing is done."""

    @functools.wraps(COMMANDS[words[0]])
    def arguments(*given, **named):
        return [*given], named

    return tyro.cli(arguments, args=overrides_first(words)[1:])


def made_small(words):
    """The words of a command, changed so that a training takes two steps."""
    if words[0] != "train":
        return words
    kept = list(words)
    if "--time-budget" in kept:
        at = kept.index("--time-budget")
        del kept[at : at + 2]
    kept = [word for word in kept if not word.startswith(("max_steps=", "validate_every="))]
    own = any(word.startswith("network=") for word in kept) or "unsupervised" in kept[1]
    patch = SLICES if "data.dimensions=2" in kept else VOLUMES
    given = {word.partition("=")[0] for word in kept}
    small = [word for word in (*SMALL, *patch) if word.partition("=")[0] not in given]
    return [*kept, *small, *(() if own else UNET)]


def run_page(path, run, *, most=None, but=()):
    """Run all blocks of a page in the current folder, one after the other, its commands small.

    Shell code is run line by line, ``fewmask`` by ``run``. A file of Python or YAML, whose first line is its name, is
    written; other Python is run. Recipes and lists in YAML and JSON are for other tests.

    Args:
        path: The page.
        run: Runs the words of a command, and returns its exit code, output and errors.
        most: Replaced numbers and names, by their text in the page.
        but: First lines of blocks that are not run.

    Returns:
        The commands that were run.
    """
    done, names = [], {}
    for block in blocks_of(path):
        text = block.text
        for old, new in (most or {}).items():
            text = text.replace(old, new)
        first = text.partition("\n")[0]
        if block.text.startswith(tuple(but)):
            continue
        if block.language in ("python", "yaml") and (named := re.fullmatch(r"# (\S+\.\w+)", first)):
            Path(named[1]).write_text(text)
        elif block.language == "python" and ">>>" in text:
            test = doctest.DocTestParser().get_doctest(text, names, path.name, str(path), 0)
            assert doctest.DocTestRunner().run(test, clear_globs=False).failed == 0
            names = test.globs
        elif block.language == "python":
            subprocess.run([sys.executable, "-c", text], env=environment(), check=True)
        elif block.language in SHELL:
            done += run_lines(text, run, {"": 0, "fails": 2}[block.words])
    return done


def run_lines(text, run, expected):
    """Run shell code: calls of ``fewmask`` by ``run``, and what stands between them by bash; return the commands."""
    done, others = [], []
    for line in [*pieces(text), ""]:
        calls = commands_of(line)
        if line and not calls:
            others.append(line)
            continue
        if others:
            subprocess.run(["bash", "-euc", "\n".join(others)], env=environment(), check=True)
            others = []
        for words in calls:
            before, module, _ = line.partition(" -m fewmask ")
            if module:
                others = [f"{before}{module}{shlex.join(made_small(words))}"]
                continue
            code, out, err = run(*made_small(words))
            assert code == expected, f"{line}\n{out}{err}"
            done.append(words[0])
    return done


def environment():
    """The one of a reader: this program can be imported, and its Python is found by its name."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PYTHONPATH": str(ROOT), "PATH": path, "OMP_NUM_THREADS": "1"}


def pieces(text):
    """Lines of shell code, those of a text that is written to a file together."""
    found, end = [], None
    for line in text.replace("\\\n", " ").splitlines():
        if end:
            found[-1] += f"\n{line}"
            end = None if line == end else end
        else:
            found.append(line)
            here = re.search(r"<< (\w+)$", line)
            end = here[1] if here else None
    return [piece for piece in found if piece.strip()]
