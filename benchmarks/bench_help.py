"""How long `fewmask --help` and the help of every command take, beside the interpreter and the parser alone.

    python benchmarks/bench_help.py
    python benchmarks/bench_help.py --quick

Seconds of the processor, the median of rounds in which each is started once. The parser alone is
`python -c "import tyro"`: what no command can be faster than.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pipeline.arguments import COMMANDS  # noqa: E402
from pipeline.cli import main as _registers  # noqa: E402, F401

LIMIT_S = 0.5


def processor_seconds(words: list[str]) -> float:
    """Run a command to its end; return the processor's seconds in it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, check=True, cwd=ROOT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure, print a table, and end with 1 if a help takes half a second or more."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="three rounds, and the longest commands only")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    names = ["train", "predict"] if options.quick else list(COMMANDS)
    starts = {"python": ["-c", "pass"], "import tyro": ["-c", "import tyro"], "fewmask --help": ["run.py", "--help"]}
    starts |= {f"fewmask {name} --help": ["run.py", name, "--help"] for name in names}
    taken: dict[str, list[float]] = {name: [] for name in starts}
    for _ in range(3 if options.quick else options.rounds):
        for name, words in starts.items():
            taken[name].append(processor_seconds(words))
    found = {name: statistics.median(seconds) for name, seconds in taken.items()}
    for name, seconds in found.items():
        print(f"{name:30} {seconds:5.2f} s   {seconds / found['import tyro']:4.1f} times the parser alone")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    sys.exit(int(max(found.values()) >= LIMIT_S))


if __name__ == "__main__":
    main()
