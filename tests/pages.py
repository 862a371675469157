"""The code blocks of the documentation, and how they are run."""

import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from runs_fixtures import ROOT

PAGES = sorted([*ROOT.glob("docs/**/*.md"), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md"))])
BLOCK = re.compile(r"^```(\w*) ?([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
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
    return [Block(*found) for found in BLOCK.findall(path.read_text(encoding="utf-8"))]


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


def made_small(words):
    """The words of a command, changed so that a training takes two steps."""
    if words[0] != "train":
        return words
    kept = list(words)
    if "--time-budget" in kept:
        at = kept.index("--time-budget")
        del kept[at : at + 2]
    kept = [word for word in kept if not word.startswith(("max_steps=", "validate_every="))]
    own = any(word.startswith("network=") for word in kept)
    patch = SLICES if "data.dimensions=2" in kept else VOLUMES
    return [*kept, *SMALL, *patch, *(() if own else UNET)]


def run_page(path, run, *, most=None):
    """Run the shell blocks of a page in the current folder, its commands small and in this process.

    Args:
        path: The page.
        run: Runs the words of a command, and returns its exit code, output and errors.
        most: Replaced numbers, by their text in the page.

    Returns:
        The commands that were run.
    """
    done = []
    for block in blocks_of(path):
        if block.language == "python" and ">>>" not in block.text:
            Path(re.match(r"# (\S+)", block.text)[1]).write_text(block.text)
        if block.language == "python" and ">>>" in block.text:
            code = "\n".join(line[4:] for line in block.text.splitlines() if line.startswith((">>> ", "... ")))
            subprocess.run([sys.executable, "-c", code], check=True)
        if block.language != "sh":
            continue
        text = block.text
        for old, new in (most or {}).items():
            text = text.replace(old, new)
        for line in pieces(text):
            calls = commands_of(line)
            if not calls:
                subprocess.run(["bash", "-euc", line], check=True)
                continue
            (words,) = calls
            code, out, err = run(*made_small(words))
            expected = {"": 0, "fails": 2}[block.words]
            assert code == expected, f"{line}\n{out}{err}"
            done.append(words[0])
    return done


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
