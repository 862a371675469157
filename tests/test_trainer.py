import logging
import math

import pytest
import torch
from ignite.engine import Events
from ignite.handlers import Timer
from monai.handlers import StatsHandler

from pipeline.engines.trainer import SegmentationTrainer
from pipeline.pacing.course import Course


def make_trainer(max_steps=7, epoch_length=3, done=0, step=None, handlers=(), steps_given=None, course=None):
    return SegmentationTrainer(
        step=step or (lambda engine, batch: {"loss": float(batch)}),
        loader=range(done, max_steps if steps_given is None else steps_given),
        course=course or Course(max_steps),
        epoch_length=epoch_length,
        device=torch.device("cpu"),
        handlers=handlers,
        done=done,
    )


class Recorder:
    """Notes which events an engine fires, and at which step."""

    def __init__(self):
        self.seen = []

    def attach(self, engine):
        for event in (Events.STARTED, Events.EPOCH_COMPLETED, Events.ITERATION_COMPLETED, Events.COMPLETED):
            engine.add_event_handler(event, lambda engine, name=event.name: self.note(engine, name))

    def note(self, engine, name):
        self.seen.append((name, engine.state.iteration, engine.state.epoch))

    def steps(self, name="ITERATION_COMPLETED"):
        return [step for event, step, _ in self.seen if event == name]


@pytest.mark.parametrize(("max_steps", "epoch_length"), [(7, 3), (6, 3), (1, 5), (5, 1)])
def test_training_stops_at_its_last_step_and_counts_epochs(max_steps, epoch_length):
    recorder = Recorder()
    trainer = make_trainer(max_steps, epoch_length, handlers=[recorder])
    trainer.run()
    assert recorder.steps() == list(range(1, max_steps + 1))
    assert trainer.state.iteration == max_steps
    assert trainer.state.epoch == math.ceil(max_steps / epoch_length)


def test_handlers_still_run_at_the_last_step_and_at_the_end():
    recorder = Recorder()
    make_trainer(7, 3, handlers=[recorder]).run()
    assert recorder.seen[-1] == ("COMPLETED", 7, 3)
    assert recorder.steps()[-1] == 7


@pytest.mark.parametrize("done", [1, 3, 4, 6])
def test_resumed_training_goes_on_at_its_step_of_its_epoch(done):
    whole, rest = Recorder(), Recorder()
    make_trainer(7, 3, handlers=[whole]).run()
    batches = []
    make_trainer(7, 3, done, lambda _, batch: batches.append(batch) or {"loss": 0.0}, [rest]).run()
    assert batches == list(range(done, 7))
    steps = [event for event in whole.seen if event[0] == "ITERATION_COMPLETED" and event[1] > done]
    assert [event for event in rest.seen if event[0] == "ITERATION_COMPLETED"] == steps


def test_output_of_a_step_is_the_state_of_the_engine():
    trainer = make_trainer(2, 1)
    trainer.run()
    assert trainer.state.output == {"loss": 1.0}


def test_handlers_of_ignite_and_monai_attach(capsys):
    trainer = make_trainer(3, 3)
    timer = Timer(average=True)
    timer.attach(trainer, step=Events.ITERATION_COMPLETED)
    StatsHandler(name="stats", output_transform=lambda output: output["loss"], tag_name="total").attach(trainer)
    trainer.run()
    assert timer.step_count == 3
    assert "total: 2.0000" in capsys.readouterr().out


def test_error_of_a_step_reaches_the_caller_and_nothing_is_printed(capfd, monkeypatch):
    # pytest's own handlers of the root would hide that Python prints what no handler takes.
    monkeypatch.setattr(logging.getLogger(), "handlers", [])

    def fail(*_):
        raise ZeroDivisionError("of the step")

    with pytest.raises(ZeroDivisionError, match="of the step"):
        make_trainer(step=fail).run()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("corrected", [5, 9])
def test_a_corrected_course_ends_the_training_at_its_new_last_step(corrected):
    course, recorder = Course(7), Recorder()

    def step(engine, batch):
        if engine.state.iteration == 3:
            course.correct(3, corrected)
        return {"loss": 0.0}

    make_trainer(7, 3, step=step, handlers=[recorder], steps_given=20, course=course).run()
    assert recorder.steps() == list(range(1, corrected + 1))
    assert recorder.seen[-1][0] == "COMPLETED"
