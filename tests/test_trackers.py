"""What trackers of experiments are told, read back with their own readers."""

import signal
import socket

import pytest
from ignite.engine import Engine
from runs_fixtures import TINY, files_in, make_phantom, write_recipe

from pipeline import runs
from pipeline.engines import trackers
from pipeline.engines.step_output import StepOutput
from pipeline.engines.trackers import STRIDE, Tracker
from pipeline.errors import UserError
from pipeline.interruption import Stopped
from pipeline.reports.files import read_cases_csv
from pipeline.reports.summary import summarise
from pipeline.runs import tracking
from pipeline.runs.setup import Setup


def train(recipe, run, resume=False):
    runs.train(runs.read_recipe(recipe), run, resume=resume)


def run(tracker, steps):
    engine = Engine(lambda engine, batch: StepOutput(engine.state.iteration, {"loss": float(batch), "dice": 0.5}))
    tracker.attach(engine)
    tracker.begin(engine)
    engine.run(range(steps))


class Deaf(Tracker):
    """Cannot be told a thing after its first number."""

    name = "Deaf"
    module = "json"

    def __init__(self):
        super().__init__()
        self.told = []

    def start(self, engine):
        pass

    def tell(self, numbers, step):
        self.told.append((step, numbers))
        if len(self.told) > 1:
            raise ConnectionError("the server is gone\nand more")

    def close(self, files):
        raise AssertionError


def test_a_tracker_that_fails_is_told_no_more_and_the_training_goes_on(capsys):
    tracker = Deaf()
    run(tracker, 3 * STRIDE)
    tracker.validated(3, 0.5)
    tracker.ended({}, 3, [])
    assert [step for step, _ in tracker.told] == [1, STRIDE]
    assert tracker.told[0][1] == {"loss": 0.0, "loss/dice": 0.5}
    assert capsys.readouterr().err.count("Deaf: the server is gone; it is told no more") == 1


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb"])
def test_a_tracker_that_is_not_installed_is_a_users_mistake(tmp_path, monkeypatch, name):
    monkeypatch.setattr(trackers, "find_spec", lambda _: None)
    recipe = write_recipe(tmp_path, make_phantom(tmp_path / "data"), max_steps=1, **{name: True})
    with pytest.raises(UserError, match=rf"pip install 'fewmask\[{name}\]'"):
        train(recipe, tmp_path / "run")


@pytest.mark.parametrize("address", ["somewhere", "file:///x", "http://", "sqlite:///a b"])
def test_an_address_of_no_server_is_refused_with_the_recipe(tmp_path, address):
    recipe = write_recipe(tmp_path, tmp_path, mlflow=address)
    with pytest.raises(UserError, match="mlflow"):
        train(recipe, tmp_path / "run")


def means_of(run):
    summary = summarise(read_cases_csv(run / "cases.csv"))
    return {"final/dice": summary.mean_dice} | {f"final/dice/{row.name}": row.dice.mean for row in summary.classes}


@pytest.fixture
def recipe(tmp_path):
    dataset = make_phantom(tmp_path / "data")
    on = {name: True for name in ("tensorboard", "mlflow", "wandb") if trackers.find_spec(name)}
    return write_recipe(tmp_path, dataset, objective=[{"loss": "dice"}], max_steps=4, validate_every=2, **on)


def test_a_whole_training_is_in_every_tracker_that_is_installed(tmp_path, recipe):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = tmp_path / "runs" / "tracked"
    train(recipe, run)
    expected = means_of(run)
    events = reader.EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert {*events.Tags()["scalars"]} == {"loss", "loss/dice", "validation/dice", *expected}
    assert [scalar.step for scalar in events.Scalars("loss")] == [1, 2, 3, 4]
    assert [scalar.step for scalar in events.Scalars("validation/dice")] == [2, 4]
    for name, value in expected.items():
        assert events.Scalars(name)[0].value == pytest.approx(value)
    assert not any(socket.gethostname() in path.name for path in (run / "tensorboard").iterdir())
    if trackers.find_spec("mlflow"):
        in_mlflow(run, expected)
    if trackers.find_spec("wandb"):
        in_wandb(run)


def in_mlflow(run, expected):
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{run.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("fewmask")
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.info.run_name, found.info.status, found.info.user_id) == ("tracked", "FINISHED", "unknown")
    assert {*found.data.tags} == {"mlflow.runName", trackers.TAG}
    assert found.data.tags["mlflow.runName"] == "tracked"
    assert found.data.params["max_steps"] == "4"
    assert not any(str(run.parents[1]) in value for value in found.data.params.values())
    for name, value in expected.items():
        assert found.data.metrics[name] == pytest.approx(value)
    dice = client.get_metric_history(found.info.run_id, "validation/dice")
    assert [metric.step for metric in dice] == [2, 4]
    assert {"report.html", "dice.png"} <= {item.path for item in client.list_artifacts(found.info.run_id)}


def in_wandb(run):
    (folder,) = (run / "wandb").glob("offline-run-*")
    names = [str(path.relative_to(folder)) for path in files_in(folder) if path.is_file()]
    assert any(name.startswith("files/media/html/report") for name in names)
    (told,) = folder.glob("*.wandb")
    content = told.read_bytes()
    assert b"validation/dice" in content
    assert str(run.parents[1]).encode() not in content


def test_without_trackers_nothing_of_them_is_written(tmp_path):
    train(write_recipe(tmp_path, make_phantom(tmp_path / "data"), max_steps=1), tmp_path / "runs" / "run")
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"run"}
    assert not {"tensorboard", "wandb"} & {path.name for path in (tmp_path / "runs" / "run").iterdir()}


def opened(folder, goes_on, changed="1"):
    tracker = trackers.MLflow(f"sqlite:///{folder / 'mlflow.db'}", "heart", "of this folder", {"lr": changed}, goes_on)
    tracker.begin(Engine(lambda *_: None))
    tracker.tell({"loss": 0.5}, 1)
    return tracker.handler.cur_run.info.run_id


def test_mlflow_goes_on_in_a_folders_own_run_and_in_no_other_of_its_name(tmp_path):
    mlflow = pytest.importorskip("mlflow")
    first = opened(tmp_path, goes_on=False)
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    place = client.get_run(first).info.experiment_id
    client.create_run(place, run_name="heart", tags={trackers.TAG: "of another"})
    assert opened(tmp_path, goes_on=True, changed="2") == first
    second = opened(tmp_path, goes_on=False)
    assert second != first
    assert client.get_run(first).info.status == "KILLED"
    assert len(client.search_runs([place])) == 3


def raise_stopped(*_, **how):
    raise Stopped(signal.SIGTERM)


@pytest.mark.parametrize(("validation", "stopped"), [("none", False), ("held_out", False), ("held_out", True)])
def test_a_tracker_is_closed_however_a_training_ends(tmp_path, monkeypatch, validation, stopped):
    told = []

    class Told(Deaf):
        def start(self, engine):
            told.append("start")

        def tell(self, numbers, step):
            told.append(step)

        def close(self, files):
            told.append("close")

    monkeypatch.setattr(tracking, "_trackers", lambda *_: [Told()])
    dataset = make_phantom(tmp_path / "data")
    data = TINY["data"] | {"validation": validation}
    recipe = write_recipe(tmp_path, dataset, objective=[{"loss": "dice"}], max_steps=2, data=data)
    if stopped:  # When every step is done, and the last is not yet validated.
        with monkeypatch.context() as patch, pytest.raises(Stopped):
            patch.setattr(Setup, "score", raise_stopped)
            train(recipe, tmp_path / "run")
        told.clear()
    train(recipe, tmp_path / "run", resume=stopped)
    assert (told[0], told[-1], told.count("close")) == ("start", "close", 1)
