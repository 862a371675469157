import csv
import io
from types import SimpleNamespace

import pytest
from ignite.engine import Engine
from rich.console import Console

from pipeline import terminal
from pipeline.engines import handlers
from pipeline.engines.handlers import DataWait, EveryNSteps, History, ProgressBar
from pipeline.engines.step_output import StepOutput
from pipeline.logs import CsvLog


def rows_of(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def run(steps, *attached, step=lambda engine, batch: StepOutput(engine.state.iteration, {"loss": float(batch)})):
    engine = Engine(step)
    for handler in attached:
        handler.attach(engine)
    engine.run(range(steps))
    return engine


# Log


def test_history_has_a_row_a_step(tmp_path):
    run(3, History(CsvLog(tmp_path / "history.csv", ["step", "loss"], 0)))
    assert [(row["step"], row["loss"]) for row in rows_of(tmp_path / "history.csv")] == [
        ("1", "0.0"),
        ("2", "1.0"),
        ("3", "2.0"),
    ]


def test_history_has_no_row_of_a_step_that_is_not_known_yet(tmp_path):
    history = History(CsvLog(tmp_path / "history.csv", ["step", "loss"], 0))
    late = [StepOutput(0), StepOutput(1, {"loss": 0.5}), StepOutput(2, {"loss": 0.25})]
    run(3, history, step=lambda engine, batch: late[batch])
    for _ in range(2):  # A checkpoint was first to ask.
        history.append(StepOutput(3, {"loss": 0.125}))
    rows = rows_of(tmp_path / "history.csv")
    assert [(row["step"], row["loss"]) for row in rows] == [("1", "0.5"), ("2", "0.25"), ("3", "0.125")]


# Every n steps


@pytest.mark.parametrize(
    ("steps", "n", "expected"), [(7, 3, [3, 6, 7]), (6, 3, [3, 6]), (2, 5, [2]), (3, 1, [1, 2, 3])]
)
def test_act_at_every_nth_step_and_once_at_the_last(steps, n, expected):
    seen = []
    run(steps, EveryNSteps(n, seen.append))
    assert seen == expected


# Progress


@pytest.fixture
def console(monkeypatch, request):
    """What stands for the terminal; with the parameter False it is none."""
    made = Console(file=io.StringIO(), width=120, force_terminal=getattr(request, "param", True))
    monkeypatch.setattr(terminal, "ERR", made)
    return made


no_terminal = pytest.mark.parametrize("console", [False], indirect=True)


@no_terminal
def test_no_bar_is_drawn_where_there_is_no_terminal_but_validations_are_written(console):
    bar = ProgressBar(3, DataWait())
    run(3, bar)
    bar.report(3, 0.5)
    bar.report(3, None)
    lines = console.file.getvalue().splitlines()
    assert [line.split("  ")[:2] for line in lines] == [
        ["trained to step 3 in 0 s, 0% of it waiting for data"],
        ["step 3/3", "validation Dice 0.5000"],
        ["step 3/3", "validation Dice no class to score"],
    ]


def test_bar_shows_steps_and_terms_on_a_terminal(console):
    run(3, ProgressBar(3, DataWait()))
    assert "3/3" in console.file.getvalue()
    assert "loss 2.000" in console.file.getvalue()


def test_bar_ends_with_the_training_however_it_ends(console):
    bar, drawn = ProgressBar(3, DataWait()), []

    def fail(*_):
        drawn.append(bar.bar.is_drawn)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(3, bar, step=fail)
    assert drawn == [True]
    assert not bar.bar.is_drawn


def test_nothing_is_drawn_for_somebody_who_listens_to_the_lines(console):
    heard = []
    with terminal.listening(heard.append):
        bar = ProgressBar(3, DataWait())
        run(3, bar)
        bar.report(3, 0.5)
    assert console.file.getvalue() == ""
    assert [line.split("  ")[0] for line in heard] == [
        "trained to step 3 in 0 s, 0% of it waiting for data",
        "step 3/3",
    ]


@no_terminal
@pytest.mark.parametrize(("slow", "share"), [("data", 1.0), ("step", 0.0)])
def test_share_of_the_time_that_is_spent_waiting_for_data(console, monkeypatch, slow, share):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(handlers.time, "perf_counter", lambda: clock.now)

    def data():
        for n in range(4):
            clock.now += 5 if slow == "data" else 0
            yield n

    def step(_, batch):
        clock.now += 5 if slow == "step" else 0
        return {"loss": float(batch)}

    wait = DataWait()
    engine = Engine(step)
    for handler in (wait, ProgressBar(4, wait)):
        handler.attach(engine)
    engine.run(data(), epoch_length=4)
    assert wait.share == share
    told = console.file.getvalue()
    assert f"{share:.0%} of it waiting for data" in told
    assert ("data.workers" in told) == (slow == "data")


def test_waiting_while_the_device_is_busy_costs_nothing(monkeypatch):
    clock, busy = SimpleNamespace(now=0.0), iter([True, False, True])
    monkeypatch.setattr(handlers.time, "perf_counter", lambda: clock.now)

    def data():
        for n in range(4):
            clock.now += 5
            yield n

    wait = DataWait(lambda: next(busy))
    engine = Engine(lambda *_: None)
    wait.attach(engine)
    engine.run(data(), epoch_length=4)
    assert wait.share == 1 / 3
