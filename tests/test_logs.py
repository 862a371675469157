"""The logs of a training: read strictly, and taken up where a kill has cut them."""

import csv
import os
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.logs import CsvLog, read_curves


def rows_of(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_log_starts_with_its_header_alone(tmp_path):
    CsvLog(tmp_path / "log.csv", ["step", "loss"], 0)
    assert (tmp_path / "log.csv").read_text().split() == ["step,loss"]


def test_missing_value_is_an_empty_field(tmp_path):
    log = CsvLog(tmp_path / "log.csv", ["step", "loss", "ncut"], 0)
    log.append({"step": 1, "loss": 0.5})
    log.append({"step": 2, "loss": None, "ncut": 0.25})
    assert rows_of(log.path) == [{"step": "1", "loss": "0.5", "ncut": ""}, {"step": "2", "loss": "", "ncut": "0.25"}]


def test_resumed_log_keeps_the_rows_of_steps_that_are_done(tmp_path):
    log = CsvLog(tmp_path / "log.csv", ["step", "loss"], 0)
    for step in range(1, 6):
        log.append({"step": step, "loss": 0.1})
    before = log.path.read_bytes().splitlines()
    CsvLog(log.path, ["step", "loss"], 3)
    assert log.path.read_bytes().splitlines() == before[:4]


@pytest.mark.parametrize("cut", ["3", "3,0.", "3,"])
def test_row_that_a_kill_has_cut_is_dropped_and_written_again(tmp_path, cut):
    log = CsvLog(tmp_path / "log.csv", ["step", "loss"], 0)
    log.append({"step": 1, "loss": 0.25})
    log.append({"step": 2, "loss": 0.5})
    with log.path.open("a") as stream:
        stream.write(cut)
    resumed = CsvLog(log.path, ["step", "loss"], 2)
    resumed.append({"step": 3, "loss": 0.75})
    assert [row["step"] for row in rows_of(log.path)] == ["1", "2", "3"]
    assert rows_of(log.path)[-1]["loss"] == "0.75"


@pytest.mark.parametrize("text", ["step,loss\r\n1,0.5\r\nx", "step,loss\r\n1,0.5\r\n\r\n", "step,loss\r\n1,0.5\r\n2,0"])
def test_log_that_was_cut_in_its_last_line_is_taken_up(tmp_path, text):
    (tmp_path / "log.csv").write_text(text)
    log = CsvLog(tmp_path / "log.csv", ["step", "loss"], 1)
    log.append({"step": 2, "loss": 0.25})
    assert [row["step"] for row in rows_of(log.path)] == ["1", "2"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"a,b\r\n1,2\r\n",
        b"step,loss,loss\r\n",
        b"step,loss\r\nx,0.5\r\n2,0.5\r\n",
        b"step,loss\r\n1.5,0.5\r\n2,0.5\r\n",
        b"step,loss\r\n2,0.5\r\n1,0.5\r\n3,0.5\r\n",
        b"step,loss\r\n1,0.5\r\n1,0.5\r\n2,0.5\r\n",
        b"step,loss\r\n" + b"9" * 5000 + b",0.5\r\n2,0.5\r\n",
        "step,loss\r\n٣,0.5\r\n4,0.5\r\n".encode(),
        b"step,loss\r\n1\r\n2,0.5\r\n",
        b"step,loss\r\n1,much\r\n2,0.5\r\n",
        b"step,loss\r\n1,0.5,3\r\n2,0.5\r\n",
        b"\xff\xfe\x00",
        b"step,loss\r\n1,\x00\r\n2,0.5\r\n",
        b"step,loss\r\n1," + b"0" * 200_000 + b"\r\n2,0.5\r\n",
    ],
)
@pytest.mark.parametrize("read", [read_curves, lambda path: CsvLog(path, ["step", "loss"], 1)])
def test_file_that_is_no_log_is_refused_and_stays(tmp_path, content, read):
    path = tmp_path / "history.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged-run") as raised:
        read(path)
    (problem,) = raised.value.problems
    assert (problem.where, path.read_bytes()) == (str(path), content)
    assert "remove it" in problem.remedy


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_file_is_not_waited_for(tmp_path, make):
    make(tmp_path / "history.csv")
    with pytest.raises(UserError, match="it is no file"):
        read_curves(tmp_path / "history.csv")


def test_curves_are_the_finite_numbers_of_each_column(tmp_path):
    (tmp_path / "log.csv").write_text("step,loss,dice\n1,0.5,\n2,nan,0.25\n3,inf,0.5\n")
    assert read_curves(tmp_path / "log.csv") == {"loss": [(1.0, 0.5)], "dice": [(2.0, 0.25), (3.0, 0.5)]}
    assert read_curves(tmp_path / "none.csv") == {}
