"""Folders that commands write to: what is not a command's own is never replaced or deleted."""

import hashlib
import os
import subprocess
import sys
import time

import pytest

from pipeline.errors import UserError
from pipeline.outputs import HEAD, LIST, Output

NAMES = ("a.csv", "figures/b.png", "figures/c.png")
WRITE = """
import os, sys, time
from pathlib import Path
from pipeline.outputs import Output
with Output(Path(sys.argv[1]), "evaluate").writing(["a.csv"]) as stage:
    (stage / "a.csv").write_text("theirs")
    print("in", flush=True)
    time.sleep(float(sys.argv[2]))
print("out", flush=True)
"""


@pytest.fixture
def output(tmp_path):
    return Output(tmp_path / "out", "evaluate")


def write(output, *names, text="ours"):
    with output.writing(NAMES) as stage:
        (stage / "figures").mkdir()
        for name in names:
            (stage / name).write_text(text)


def contents(output):
    return {
        str(path.relative_to(output.folder)): path.read_text()
        for path in output.folder.rglob("*")
        if path.is_file() and path.name != LIST
    }


def in_the_way(raised):
    assert {problem.code for problem in raised.value.problems} == {"in-the-way"}
    return [problem.where for problem in raised.value.problems]


def test_what_is_written_may_be_written_again_and_goes_where_it_is_not(output):
    write(output, "a.csv", "figures/b.png")
    assert contents(output) == {"a.csv": "ours", "figures/b.png": "ours"}
    write(output, "a.csv", "figures/c.png", text="newer")
    assert contents(output) == {"a.csv": "newer", "figures/c.png": "newer"}


def test_what_is_written_again_with_the_same_content_is_not_touched(output):
    write(output, "a.csv")
    before = [(output.folder / name).stat().st_mtime_ns for name in ("a.csv", LIST)]
    time.sleep(0.01)
    write(output, "a.csv")
    assert [(output.folder / name).stat().st_mtime_ns for name in ("a.csv", LIST)] == before


def test_files_of_another_are_refused_all_at_once_before_anything_is_written(output):
    (output.folder / "figures").mkdir(parents=True)
    for name in NAMES[:2]:
        (output.folder / name).write_text("a user's")
    with pytest.raises(UserError, match="2 file") as raised:
        output.refuse_foreign(NAMES)
    assert in_the_way(raised) == [str(output.folder / name) for name in NAMES[:2]]
    with pytest.raises(UserError):
        write(output, *NAMES)
    assert contents(output) == dict.fromkeys(NAMES[:2], "a user's")


def test_another_command_is_another_owner(output):
    write(output, "a.csv")
    with pytest.raises(UserError, match="`compare` has not written it here") as raised:
        Output(output.folder, "compare").refuse_foreign(NAMES)
    assert in_the_way(raised) == [str(output.folder / "a.csv")]
    Output(output.folder, "compare").refuse_foreign(["compare.csv"])


def test_file_that_was_changed_is_the_users(output):
    write(output, "a.csv")
    (output.folder / "a.csv").write_text("ours, edited")
    with pytest.raises(UserError, match="was changed after it was written"):
        write(output, "a.csv", text="newer")
    assert contents(output) == {"a.csv": "ours, edited"}


@pytest.mark.parametrize("state", ["link", "dangling", "folder", "blocked"])
def test_what_is_no_file_of_ours_is_refused(output, tmp_path, state):
    write(output, "a.csv")
    path = output.folder / "figures" / "b.png"
    if state != "blocked":
        path.parent.mkdir()
    if state == "blocked":
        path = path.parent
        path.write_text("a user's")
    elif state == "folder":
        path.mkdir()
    else:
        (tmp_path / "elsewhere").write_text("ours") if state == "link" else None
        path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError) as raised:
        output.refuse_foreign(NAMES)
    assert in_the_way(raised) == [str(path)]


def test_link_to_a_file_of_ours_is_the_users(output, tmp_path):
    write(output, "a.csv")
    (output.folder / "a.csv").rename(tmp_path / "moved")
    (output.folder / "a.csv").symlink_to(tmp_path / "moved")
    with pytest.raises(UserError, match="in-the-way"):
        output.refuse_foreign(NAMES)


def test_names_that_grow_are_the_owners_whatever_is_in_them(output):
    output.own(["log.csv"])
    (output.folder / "log.csv").write_text("1\n2\n")
    output.refuse_foreign(["log.csv"])
    output.own(["log.csv"])
    assert (output.folder / LIST).read_text() == HEAD + "evaluate - log.csv\n"
    with pytest.raises(UserError):
        Output(output.folder, "run").own(["log.csv"])


def test_block_that_fails_changes_nothing_and_leaves_nothing(output):
    write(output, "a.csv")
    before = (output.folder / LIST).read_bytes()
    with pytest.raises(ZeroDivisionError), output.writing(NAMES) as stage:
        (stage / "a.csv").write_text("half")
        raise ZeroDivisionError
    assert contents(output) == {"a.csv": "ours"}
    assert (output.folder / LIST).read_bytes() == before
    assert sorted(path.name for path in output.folder.iterdir()) == [LIST, "a.csv"]


def test_file_that_comes_while_a_block_writes_is_not_replaced(output):
    with pytest.raises(UserError, match="in-the-way"), output.writing(["a.csv"]) as stage:
        (stage / "a.csv").write_text("ours")
        (output.folder / "a.csv").write_text("a user's")
    assert contents(output) == {"a.csv": "a user's"}


def test_what_a_killed_process_left_goes_and_what_it_had_told_is_its_own(output):
    digest = hashlib.sha256(b"half a job").hexdigest()
    if (child := os.fork()) == 0:
        with output.writing(["a.csv"]) as stage:
            (stage / "a.csv").write_text("half")
            os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    assert [path.name for path in output.folder.iterdir() if path.is_dir()] != []
    output.tell("figures/b.png", digest)  # As one that is killed between its list and the file.
    write(output, "a.csv")
    assert contents(output) == {"a.csv": "ours"}
    (output.folder / "figures").mkdir()
    (output.folder / "figures" / "b.png").write_text("half a job")
    output.refuse_foreign(NAMES)


def test_two_processes_write_one_after_the_other(output):
    command = [sys.executable, "-c", WRITE, output.folder, "0.5"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "in\n"
        began = time.monotonic()
        write(output, "a.csv")
        assert time.monotonic() - began > 0.2
        assert other.stdout.read() == "out\n"
    assert contents(output) == {"a.csv": "ours"}


# The list


def test_line_that_a_kill_has_cut_says_nothing_and_the_next_stands_alone(output):
    write(output, "a.csv")
    with (output.folder / LIST).open("a") as stream:
        stream.write("evaluate - figures/c.")
    output.own(["log.csv"])
    assert output.digests("a.csv")
    assert not output.knows("figures/c.png")
    assert (output.folder / LIST).read_text().endswith("\nevaluate - log.csv\n")


@pytest.mark.parametrize("cut", [0, 1, 30])
def test_list_that_was_cut_in_its_first_line_is_begun_anew(output, cut):
    output.folder.mkdir()
    (output.folder / LIST).write_text(HEAD[:cut])
    output.own(["log.csv"])
    assert (output.folder / LIST).read_text() == HEAD + "evaluate - log.csv\n"


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.write_text("a user's notes\n"),
        lambda path: path.write_bytes(b"\xff\x00" * 90),
        lambda path: path.mkdir(),
        os.mkfifo,
        lambda path: path.symlink_to("/dev/null"),
        lambda path: path.symlink_to("nowhere"),
    ],
)
def test_list_that_is_none_of_ours_is_refused_and_stays(output, make):
    output.folder.mkdir()
    make(output.folder / LIST)
    for use in (output.refuse_foreign, output.own, lambda names: write(output, *names)):
        with pytest.raises(UserError, match="bad-list"):
            use(NAMES)
    assert [path.name for path in output.folder.iterdir()] == [LIST]


def test_lines_of_others_and_of_no_kind_are_passed_over(output):
    write(output, "a.csv")
    with (output.folder / LIST).open("ab") as stream:
        stream.write(b"run - a.csv\n\nevaluate\n\xff\xff \xff\nevaluate . \n" + b"x" * 10_000 + b"\n")
    write(output, "a.csv", text="newer")
    assert contents(output) == {"a.csv": "newer"}


@pytest.mark.parametrize("target", ["elsewhere", "nowhere"])
def test_folder_within_that_is_a_link_is_not_written_through(output, tmp_path, target):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b.png").write_text("a user's")
    write(output, "a.csv")
    (output.folder / "figures").symlink_to(tmp_path / target)
    for names in (NAMES[1:2], NAMES[2:]):
        with pytest.raises(UserError, match="is a link") as raised:
            output.refuse_foreign(names)
        assert in_the_way(raised) == [str(output.folder / "figures")]
    with pytest.raises(UserError, match="is a link"):
        write(output, *NAMES)
    assert [path.read_text() for path in (tmp_path / "elsewhere").iterdir()] == ["a user's"]
    assert not (tmp_path / "nowhere").exists()


def test_output_that_is_a_link_itself_is_the_users_choice(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    write(Output(tmp_path / "out", "evaluate"), *NAMES)
    assert (tmp_path / "disk" / "figures" / "b.png").read_text() == "ours"
