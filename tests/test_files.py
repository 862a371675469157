"""Files that are whole or not there."""

import errno
import os
import resource
import stat
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.files import WriteError, atomic_write, locked, path_hint, sweep

HOLD = """
import sys, time
from pathlib import Path
from pipeline.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def small_disk():
    """A limit of a kibibyte on what this process may write to one file: the kernel's own refusal.

    For a block, not for a test: what pytest prints between them may go to a file as well.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_full_disk_says_what_was_needed_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with small_disk(), pytest.raises(WriteError) as raised, atomic_write(path, 200_000) as temporary:
        temporary.write_bytes(bytes(200_000))
    (problem,) = raised.value.problems
    assert (problem.code, problem.where) == ("disk-full", str(path))
    assert "or more, and no file may be so large: File too large" in problem.message
    assert "ulimit -f" in problem.remedy
    assert (path.read_bytes(), names_in(tmp_path)) == (b"old", ["a.bin"])
    assert raised.value.errno == errno.EFBIG
    (full,) = WriteError(path, OSError(errno.ENOSPC, "No space left on device"), 200_000).problems
    assert full.message.startswith("needs 0.2 MB, and its disk has ")
    assert "free some space" in full.remedy


def test_write_error_is_both_a_users_mistake_and_an_error_of_the_system(tmp_path):
    error = WriteError(tmp_path / "a", OSError(errno.EIO, "Input/output error"), 5)
    assert isinstance(error, UserError)
    assert isinstance(error, OSError)
    assert "5 bytes could not be written: Input/output error" in str(error)


def test_error_about_another_file_is_not_taken_for_one_of_the_disk(tmp_path):
    with pytest.raises(PermissionError), atomic_write(tmp_path / "a"):
        raise PermissionError(errno.EACCES, "Permission denied", "elsewhere")


def test_private_file_is_its_owners_alone_from_the_start(tmp_path):
    with atomic_write(tmp_path / "a", private=True) as temporary:
        assert stat.S_IMODE(temporary.stat().st_mode) == 0o600
        temporary.write_text("x")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600


def test_half_written_file_of_a_killed_process_is_swept_and_nothing_else(tmp_path):
    if (child := os.fork()) == 0:
        with atomic_write(tmp_path / "a.csv") as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    (tmp_path / "b.csv").write_text("whole")
    (tmp_path / ".hidden").write_text("a user's")
    assert len(names_in(tmp_path)) == 3
    sweep(tmp_path, "b.csv")
    assert len(names_in(tmp_path)) == 3
    sweep(tmp_path)
    assert names_in(tmp_path) == [".hidden", "b.csv"]
    sweep(tmp_path / "none")


def test_folder_is_held_by_one_process_until_it_ends(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="run-is-busy"), locked(tmp_path):
            pass
    finally:
        holder.kill()
        holder.communicate()
    with locked(tmp_path):
        pass


def test_a_name_is_suggested_only_where_the_whole_path_leads_somewhere(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "runs" / "one").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert path_hint(Path("rums/one")) == "did you mean 'runs/one'?"
    assert path_hint(Path("rums/two")) == "check the path"
    assert path_hint(Path("runs/on")) == "did you mean 'runs/one'?"
