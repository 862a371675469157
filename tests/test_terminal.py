"""What is written where: to the terminal, or to whoever listens instead."""

import io
import threading
from types import SimpleNamespace

import pytest
from rich.console import Console
from rich.table import Table
from runs_fixtures import make_phantom, write_recipe

from pipeline import runs, terminal
from pipeline.terminal import complain, draws, listening, note, progress, say, show, transfer


@pytest.fixture
def consoles(monkeypatch):
    """Terminals to write to."""
    made = SimpleNamespace(OUT=None, ERR=None)
    for name in vars(made):
        console = Console(file=io.StringIO(), width=80, force_terminal=True)
        monkeypatch.setattr(terminal, name, console)
        setattr(made, name, console.file)
    return made


def test_what_was_done_goes_out_and_all_else_where_errors_go(consoles):
    say("done [bold]")
    note("on the way\x1b[2J")
    complain("wrong")
    assert consoles.OUT.getvalue() == "done [bold]\n"
    assert consoles.ERR.getvalue() == "on the way\N{REPLACEMENT CHARACTER}[2J\nwrong\n"


def test_bars_are_drawn(consoles):
    assert list(progress(range(3), "counting", 3)) == [0, 1, 2]
    assert "counting" in consoles.ERR.getvalue()
    with transfer("a file", 200) as count:
        count(200)
    assert "200/200 bytes" in consoles.ERR.getvalue()


def test_a_listener_hears_lines_and_nothing_is_printed_or_drawn(consoles):
    heard, table = [], Table("a")
    with listening(heard.append):
        say("done")
        note("on the way\x1b[2J")
        show(table)
        assert list(progress(range(3), "counting", 3)) == [0, 1, 2]
        with transfer("a file", None) as count:
            count(200)
        assert not draws()
    assert heard == ["done", "on the way\N{REPLACEMENT CHARACTER}[2J"]
    assert consoles.OUT.getvalue() == consoles.ERR.getvalue() == ""
    assert draws()


def test_one_thread_listens_while_others_print(consoles):
    heard = []
    with listening(heard.append):
        thread = threading.Thread(target=say, args=("from elsewhere",))
        thread.start()
        thread.join()
    assert heard == []
    assert consoles.OUT.getvalue() == "from elsewhere\n"


def test_whole_runs_print_nothing_to_somebody_who_listens(tmp_path, capfd):
    data, heard = make_phantom(tmp_path / "data", labelled=3, unlabelled=1), []
    with listening(heard.append):
        runs.check(data)
        runs.train(runs.read_recipe(write_recipe(tmp_path, data)), tmp_path / "run")
        runs.predict(tmp_path / "run", [data / "imagesTs"], tmp_path / "masks")
    assert capfd.readouterr() == ("", "")
    assert any(line.startswith("trained to step 6") for line in heard)
