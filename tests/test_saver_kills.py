"""Kills of a saver, and the order in which it speaks to the disk. The long form is ``benchmarks/kill_saves.py``."""

import re
import shutil
import subprocess
import sys

import pytest
from runs_fixtures import ROOT
from tracing import POSSIBLE

sys.path.insert(0, str(ROOT / "benchmarks"))
import kill_saves

SAVE = """
import sys, torch
from pathlib import Path
from pipeline.checkpoints import save_checkpoint
for step in (1, 2, 3):
    save_checkpoint(Path(sys.argv[1]), "last", {"step": step, "w": torch.zeros(1000)})
"""


@pytest.mark.skipif(not POSSIBLE, reason="needs Linux on x86-64, to kill a child at each of its system calls")
def test_kill_at_every_system_call_of_a_save_tears_loses_and_leaves_nothing(tmp_path):
    count = kill_saves.kill_at_every_call("fewmask", tmp_path)
    assert count.kills > 40
    assert (count.torn, count.lost, count.left) == (0, 0, 0)


def test_kills_at_random_moments_tear_lose_and_leave_nothing(tmp_path):
    count = kill_saves.kill_at_random("fewmask", 15, tmp_path)
    assert (count.kills, count.torn, count.lost, count.left) == (15, 0, 0, 0)


@pytest.mark.skipif(not POSSIBLE, reason="needs Linux on x86-64")
def test_harness_sees_a_saver_that_tears_its_files(tmp_path):
    assert kill_saves.kill_at_every_call("monai CheckpointSaver (n_saved=2)", tmp_path).torn > 0


def test_oldest_is_deleted_only_when_the_newest_is_on_disk(tmp_path):
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    calls = ["strace", "-f", "-y", "-e", "trace=fsync,rename,unlink"]
    done = subprocess.run([*calls, sys.executable, "-c", SAVE, tmp_path], capture_output=True, text=True, timeout=100)
    if "ptrace" in done.stderr and "not permitted" in done.stderr:
        pytest.skip("this machine does not let strace look on")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if "checkpoints" in line and "ENOENT" not in line]
    last = [name_of(line) for line in lines]
    start = last.index("fsync .partial last-000003.pt")
    assert last[start:] == [
        "fsync .partial last-000003.pt",
        "rename last-000003.pt",
        "fsync checkpoints",
        "fsync .partial last-000003.pt.sha256",
        "rename last-000003.pt.sha256",
        "fsync checkpoints",
        "unlink last-000001.pt",
        "unlink last-000001.pt.sha256",
    ]


def name_of(line):
    """Return a call of strace's and the name of the file that it is about, a temporary one by its final name."""
    call = re.search(r"(fsync|rename|unlink)\(", line)[1]
    path = re.findall(r'[<"]([^<>"]*checkpoints[^<>"]*)[>"]', line)[-1].rpartition("/")[2]
    return f"{call} " + re.sub(r"^\.partial-[0-9a-f]{8}\.", ".partial ", path)
