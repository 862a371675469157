"""Locks and durable writes as on Windows: without ``fcntl``, with a stand-in for ``msvcrt`` that keeps its rules.

The stand-in knows one region a file, refuses what another holds, as a second process would meet it, and lets nobody
else read or write what is locked. It is a simulation, in processes of their own: nothing here runs on Windows.
"""

import subprocess
import sys

import pytest
from runs_fixtures import ROOT

STAND_IN = """
import errno, importlib, importlib.util, io, os, subprocess, sys, types
from pathlib import Path

find = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "fcntl" else find(name, package)
sys.modules["fcntl"] = None

held, theirs = {}, set()
msvcrt = types.ModuleType("msvcrt")
msvcrt.LK_UNLCK, msvcrt.LK_LOCK, msvcrt.LK_NBLCK = 0, 1, 2
waited = []

def locking(descriptor, mode, count):
    place = os.lseek(descriptor, 0, os.SEEK_CUR)
    assert 0 <= place < 2**31, place  # Windows' own takes no more.
    key = os.fstat(descriptor).st_ino, place
    if mode == msvcrt.LK_UNLCK:
        if key not in held:
            raise OSError(errno.EACCES, "Permission denied")
        del held[key]
    elif key in held or key in theirs:
        if mode == msvcrt.LK_LOCK:
            waited.append(key)
            if len(waited) == 2:  # The other process has ended.
                theirs.clear()
            raise OSError(errno.EDEADLK, "Resource deadlock avoided")
        raise OSError(errno.EACCES, "Permission denied")
    else:
        held[key] = descriptor

msvcrt.locking = locking
sys.modules["msvcrt"] = msvcrt

opened, sync, rename = os.open, os.fsync, os.replace

def open_file(path, flags, *args, **options):
    if os.path.isdir(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))
    descriptor = opened(path, flags, *args, **options)
    writable[descriptor] = bool(flags & (os.O_WRONLY | os.O_RDWR))
    return descriptor

def fsync(descriptor):
    if not writable.get(descriptor, True):
        raise OSError(errno.EBADF, "Bad file descriptor")
    synced.append(descriptor)

writable, synced = {}, []
os.open, os.fsync = open_file, fsync

def other_holds(path, place):
    Path(path).touch()
    theirs.add((os.stat(path).st_ino, place))

folder = Path(sys.argv[1])
from pipeline import files
assert not files.POSIX
"""

CHECKS = {
    "a file is written whole, brought to the disk, and replaces the old one": """
(folder / "a").write_text("old")
with files.atomic_write(folder / "a") as partial:
    partial.write_text("new")
assert (folder / "a").read_text() == "new" and len(synced) == 1
assert [path.name for path in folder.iterdir()] == ["a"]
""",
    "a folder is held by one process": """
with files.locked(folder):
    assert list(held) == [(os.stat(folder / files.LOCK).st_ino, 0)]
assert not held
other_holds(folder / files.LOCK, 0)
try:
    with files.locked(folder):
        raise AssertionError
except files.UserError as error:
    assert "run-is-busy" in str(error)
assert not held
""",
    "a byte far away is locked where Windows can lock": """
with (folder / "lock").open("ab") as file:
    with files.byte_locked(file.fileno(), 2**59 + 5) as ours:
        assert ours and [place for _, place in held] == [5]
    assert not held
""",
    "what another holds is waited for": """
with (folder / "lock").open("ab") as file:
    other_holds(folder / "lock", 7)
    with files.byte_locked(file.fileno(), 7) as ours:
        assert not ours
    with files.byte_locked(file.fileno(), 7, wait=True) as ours:
        assert ours and len(waited) == 2
""",
    "an output is written, and written again": """
from pipeline.outputs import LIST, Output
for text in ("one", "two"):
    with Output(folder / "out", "evaluate").writing(["a.csv"]) as stage:
        (stage / "a.csv").write_text(text)
        assert all(place > 2**29 for _, place in held), "the list itself can be read meanwhile"
assert (folder / "out" / "a.csv").read_text() == "two"
assert sorted(path.name for path in (folder / "out").iterdir()) == [LIST, "a.csv"] and not held
(folder / "out" / "a.csv").write_text("a user's")
try:
    Output(folder / "out", "evaluate").refuse_foreign(["a.csv"])
    raise AssertionError
except files.UserError:
    pass
""",
    "a checkpoint is saved and the oldest goes": """
import torch
from pipeline.checkpoints import checkpoints_of, newest_checkpoint, save_checkpoint
for step in (1, 2, 3):
    save_checkpoint(folder, "last", {"step": step, "w": torch.zeros(100)})
assert [path.name for path in checkpoints_of(folder, "last")] == ["last-000003.pt", "last-000002.pt"]
assert newest_checkpoint(folder, "last").state["step"] == 3
""",
    "prepared scans are kept, one writer an entry": """
import numpy as np, nibabel as nib
from pipeline.data.cache import Cache
from pipeline.data.check import Check
from pipeline.data.layouts import open_dataset
from pipeline.data.transforms import Grid
for part in ("images", "labels"):
    (folder / "data" / part).mkdir(parents=True)
    voxels = (np.arange(1000) % (2 if part == "labels" else 90)).astype(np.uint8).reshape(10, 10, 10)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), folder / "data" / part / "a.nii")
check = Check(open_dataset(folder / "data"))
list(check)
cache = Cache(folder / "cache", check.index(), Grid("RAS", (1.0, 1.0, 1.0)))
assert list(cache.fill(cache.index.dataset.cases)) == ["a"] and cache.failure is None and not held
assert len(list((folder / "cache").glob("*.npz"))) == 1
""",
    "memory is known without resource and sysconf": """
import os
import psutil, torch  # Whose builds for this machine need both.
sys.modules["resource"] = None
del os.sysconf
from pipeline.memory import address_space_left, refuse_tight_limit
from pipeline.planning.devices import find_hardware, free_bytes
refuse_tight_limit()
assert address_space_left() is None
assert 0 < free_bytes(torch.device("cpu")) <= find_hardware("cpu").memory_bytes
""",
    "there is no SIGHUP": """
import signal
del signal.SIGHUP
from pipeline import interruption
assert interruption.SIGNALS == (signal.SIGTERM, signal.SIGINT)
with interruption.stoppable():
    pass
""",
}


@pytest.mark.parametrize("what", CHECKS)
def test_without_fcntl(tmp_path, what):
    code = STAND_IN + CHECKS[what]
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("broken", "what"),
    [
        ('files.byte_locked.__wrapped__.__globals__["WINDOWS_PLACES"] = 2**60', "a byte far away"),
        ("files._lock = lambda *_: True", "a folder is held"),
        ("files.POSIX = True", "a file is written"),
    ],
)
def test_stand_in_notices_what_windows_would(tmp_path, broken, what):
    check = next(code for name, code in CHECKS.items() if name.startswith(what))
    words = [sys.executable, "-c", f"{STAND_IN}\n{broken}\n{check}", tmp_path]
    assert subprocess.run(words, capture_output=True, timeout=120, cwd=ROOT).returncode != 0
