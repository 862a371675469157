"""What a run survives, and that it is the same run afterwards."""

import csv
import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from runs_fixtures import (
    ROOT,
    TINY,
    assert_same_run,
    digest,
    files_in,
    make_phantom,
    state_of,
    train,
    with_mortal,
    write_recipe,
)

from pipeline import nifti, runs
from pipeline.data import loaders
from pipeline.data.cache import Cache
from pipeline.engines.schedules import Schedule
from pipeline.engines.steps import TrainingStep
from pipeline.errors import UserError
from pipeline.interruption import Stopped, stoppable
from pipeline.losses import LOSSES, LabelLoss
from pipeline.losses.objective import Objective, Term
from pipeline.pacing.course import Course
from pipeline.plugins import load_plugins
from pipeline.runs import setup
from pipeline.runs.models import load_model

BOTH = {"semi-supervised": TINY["objective"], "supervised": [{"loss": "dice"}]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("durability")


@pytest.fixture(scope="module")
def dataset(folder):
    return make_phantom(folder / "phantom")


@pytest.fixture(scope="module")
def whole(folder, dataset, mortal):
    return train(folder, dataset, "whole", **with_mortal(mortal))


def die(monkeypatch, how, mortal):
    load_plugins([mortal])
    monkeypatch.setattr(LOSSES["mortal"], "calls", 0)
    monkeypatch.setenv("DIE", how)


def steps_of(path):
    with path.open(newline="") as stream:
        return [int(row["step"]) for row in csv.DictReader(stream)]


# Signals


@pytest.mark.parametrize(
    ("name", "code", "step"), [("SIGTERM", 143, 1), ("SIGTERM", 143, 2), ("SIGINT", 130, 4), ("SIGTERM", 143, 6)]
)
def test_signal_in_a_step_saves_all_steps_before_it(dataset, mortal, whole, tmp_path, monkeypatch, name, code, step):
    die(monkeypatch, f"{name} {step}", mortal)
    with pytest.raises(Stopped) as raised, stoppable():
        train(tmp_path, dataset, "run", **with_mortal(mortal))
    assert raised.value.code == code
    assert steps_of(tmp_path / "run" / "history.csv") == list(range(1, step))
    if step > 1:
        assert state_of(tmp_path / "run")["step"] == step - 1
    monkeypatch.delenv("DIE")
    assert_same_run(train(tmp_path, dataset, "run", resume=True, **with_mortal(mortal)), whole)


@pytest.mark.parametrize("at", [3, 6])
def test_signal_in_a_validation_saves_its_step_and_validates_it_later(
    dataset, mortal, whole, tmp_path, monkeypatch, at
):
    real, steps = setup.score, iter([3, 6])

    def score(*args, **options):
        if next(steps) == at:
            signal.raise_signal(signal.SIGTERM)
        return real(*args, **options)

    monkeypatch.setattr(setup, "score", score)
    with pytest.raises(Stopped), stoppable():
        train(tmp_path, dataset, "run", **with_mortal(mortal))
    assert state_of(tmp_path / "run")["step"] == at
    monkeypatch.setattr(setup, "score", real)
    assert_same_run(train(tmp_path, dataset, "run", resume=True, **with_mortal(mortal)), whole)


def test_signal_before_the_first_step_leaves_a_run_that_starts(dataset, mortal, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(setup, "progress", lambda *_: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Stopped), stoppable():
        train(tmp_path, dataset, "run", **with_mortal(mortal))
    monkeypatch.undo()
    assert_same_run(train(tmp_path, dataset, "run", resume=True, **with_mortal(mortal)), whole)


def processes_of(group):
    """Return the living processes of a group."""
    found = subprocess.run(["ps", "-o", "pid=,stat=", "-g", str(group)], capture_output=True, text=True).stdout
    return [line for line in found.splitlines() if " Z" not in line]


@pytest.mark.parametrize("everyone", [pytest.param(False, marks=pytest.mark.slow), True])
def test_command_with_workers_that_is_asked_to_end_saves_and_leaves_no_process(dataset, tmp_path, everyone):
    recipe = write_recipe(tmp_path, dataset, max_steps=100_000, validate_every=100_000)
    words = ["train", recipe, "data.workers=2", "--output", tmp_path / "run"]
    command = subprocess.Popen(
        [sys.executable, ROOT / "run.py", *words],
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    history, deadline = tmp_path / "run" / "history.csv", time.monotonic() + 100
    while time.monotonic() < deadline and not (history.exists() and len(history.read_text().splitlines()) > 5):
        time.sleep(0.1)
    (os.killpg if everyone else os.kill)(command.pid, signal.SIGTERM)
    said = command.communicate(timeout=100)[1]
    assert command.returncode == 143
    assert said.endswith("\nstopped; `train` goes on with --resume\n")
    assert processes_of(command.pid) == []
    assert state_of(tmp_path / "run")["step"] == steps_of(history)[-1]


def test_training_whose_terminal_goes_saves(dataset, tmp_path):
    recipe = write_recipe(tmp_path, dataset, max_steps=100_000, validate_every=100_000)
    words = [sys.executable, ROOT / "run.py", "train", recipe, "data.workers=1", "--output", tmp_path / "run"]
    process, terminal = pty.fork()
    if process == 0:
        os.execve(sys.executable, [str(word) for word in words], os.environ | {"OMP_NUM_THREADS": "1"})
    history, deadline = tmp_path / "run" / "history.csv", time.monotonic() + 100
    while time.monotonic() < deadline and not (history.exists() and len(history.read_text().splitlines()) > 5):
        if select.select([terminal], [], [], 0.1)[0]:
            os.read(terminal, 10_000)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 129
    assert state_of(tmp_path / "run")["step"] == steps_of(history)[-1]


# Workers


@pytest.fixture
def deadly_reads(monkeypatch, tmp_path):
    """A function after which a worker that reads a case is killed, so many times."""

    def arm(times):
        for n in range(times):
            (tmp_path / f"bullet_{n}").touch()
        real = Cache.get

        def get(self, case):
            if loaders.get_worker_info() is not None and case.id == "phantom_001":
                for bullet in tmp_path.glob("bullet_*"):
                    bullet.unlink()
                    os.kill(os.getpid(), signal.SIGKILL)
            return real(self, case)

        monkeypatch.setattr(Cache, "get", get)

    return arm


def test_worker_that_is_killed_once_costs_nothing(dataset, mortal, whole, tmp_path, deadly_reads, capsys):
    deadly_reads(1)
    run = train(tmp_path, dataset, "run", "data.workers=1", **with_mortal(mortal))
    assert_same_run(run, whole)
    said = capsys.readouterr().err
    assert "phantom_001" in said
    assert "Going on from the last checkpoint" in said


def test_worker_that_is_killed_again_is_an_error_that_names_the_case(dataset, mortal, tmp_path, deadly_reads):
    deadly_reads(2)
    with pytest.raises(UserError, match="phantom_001") as raised:
        train(tmp_path, dataset, "run", "data.workers=1", **with_mortal(mortal))
    assert [problem.code for problem in raised.value.problems] == ["worker-died"]


class UnpicklableError(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} {two}")
        self.lock = lambda: None


@pytest.mark.parametrize("workers", [0, 2])
def test_error_of_a_worker_arrives_whatever_it_is(dataset, mortal, tmp_path, monkeypatch, workers):
    def get(self, case):
        raise UnpicklableError("the disk", "is gone")

    monkeypatch.setattr(Cache, "get", get)
    with pytest.raises(UserError, match="UnpicklableError: the disk is gone") as raised:
        train(tmp_path, dataset, "run", f"data.workers={workers}", **with_mortal(mortal))
    assert [problem.code for problem in raised.value.problems] == ["sample-failed"]
    assert "phantom_0" in raised.value.problems[0].where


def test_users_mistake_in_a_worker_keeps_its_problems(dataset, mortal, tmp_path, monkeypatch):
    def get(self, case):
        raise UserError("gone", [loaders.Problem("x.nii", "missing-file", "is gone", "bring it back", case=case.id)])

    monkeypatch.setattr(Cache, "get", get)
    with pytest.raises(UserError) as raised:
        train(tmp_path, dataset, "run", "data.workers=1", **with_mortal(mortal))
    assert [problem.code for problem in raised.value.problems] == ["missing-file"]


def test_full_shared_memory_means_no_workers_and_the_same_run(dataset, mortal, whole, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loaders.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    seen = []
    real = loaders.DataLoader
    monkeypatch.setattr(
        loaders, "DataLoader", lambda *args, **options: seen.append(options["num_workers"]) or real(*args, **options)
    )
    assert_same_run(train(tmp_path, dataset, "run", "data.workers=2", **with_mortal(mortal)), whole)
    assert seen == [0]
    assert "/dev/shm is too full" in capsys.readouterr().err


# Callers from Python


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGCHLD"])
def test_handlers_of_a_caller_stay_and_are_called(dataset, mortal, whole, tmp_path, monkeypatch, name):
    number, seen = getattr(signal, name), []
    before = signal.signal(number, lambda *_: seen.append(threading.current_thread().name))
    mine = signal.getsignal(number)
    try:
        die(monkeypatch, f"{name} 4", mortal)
        run = train(tmp_path, dataset, "run", "data.workers=1", **with_mortal(mortal))
        assert signal.getsignal(number) is mine
    finally:
        signal.signal(number, before)
    assert seen
    assert_same_run(run, whole)


def test_a_training_in_a_thread_is_not_stopped_by_a_signal_and_holds_none_back(dataset, mortal, whole, tmp_path):
    """The command line's handlers are there, and the training is another thread's."""
    threads = []

    def score(*args, **options):
        threads.append(threading.current_thread())
        asked.set()
        done.wait(60)
        return real(*args, **options)

    real, asked, done = setup.score, threading.Event(), threading.Event()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup, "score", score)
        words = (tmp_path, dataset, "run")
        thread = threading.Thread(target=train, args=words, kwargs=with_mortal(mortal))
        with pytest.raises(Stopped), stoppable():
            thread.start()
            assert asked.wait(60)
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                done.set()
        thread.join()
    assert threads
    assert threading.main_thread() not in threads
    assert_same_run(tmp_path / "run", whole)


# Steps


class Broken(LabelLoss):
    """A loss that raises after the forward pass."""

    def forward(self, logits, labels):
        raise KeyboardInterrupt


def step_of(loss, **options):
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2))
    objective = Objective([Term(name="loss", loss=loss, on="labelled")])
    rate = options.pop("rate", 1e-3)
    optimizer = torch.optim.SGD(network.parameters(), lr=rate)
    return TrainingStep(
        network=network,
        objective=objective,
        optimizer=optimizer,
        schedule=Schedule(rate, 0.0),
        course=Course(10),
        precision=torch.float32,
        clip_norm=1e30,
        seed=0,
    )


BATCH = {
    "labelled": {
        "image": torch.randn(2, 1, 4, 4),
        "annotation": torch.randint(2, 4, (2, 1, 4, 4), dtype=torch.uint8),
        "case": ["a", "b"],
    }
}
FIRST = SimpleNamespace(state=SimpleNamespace(iteration=1))


def test_step_that_is_left_early_leaves_running_statistics_as_they_were():
    step = step_of(Broken())
    before = {name: value.clone() for name, value in step.network.state_dict().items()}
    with pytest.raises(KeyboardInterrupt):
        step(FIRST, BATCH)
    assert all(torch.equal(value, before[name]) for name, value in step.network.state_dict().items())


def test_weights_that_become_infinite_stop_the_run_and_name_the_cases():
    step = step_of(LOSSES["dice"](), rate=1e38)
    with torch.no_grad():
        step.network[0].weight.fill_(-3e38)
    change = [(p - p.detach()).sum() for p in step.network.parameters()]  # 0, with a gradient of 1
    step.losses = lambda *_: (sum(change), {"dice": torch.ones(())})
    with pytest.raises(UserError, match=r"the weights are not finite at step 1 .* cases of this step: a, b"):
        step(FIRST, BATCH)


# Resume


def test_damaged_newest_checkpoint_is_named_and_the_run_is_the_same(
    dataset, mortal, whole, tmp_path, monkeypatch, capsys
):
    die(monkeypatch, "raise 6", mortal)
    with pytest.raises(LOSSES["mortal"].stop):
        train(tmp_path, dataset, "run", **with_mortal(mortal))
    monkeypatch.delenv("DIE")
    newest = tmp_path / "run" / "checkpoints" / "last-000004.pt"
    newest.write_bytes(newest.read_bytes()[:-100])
    resumed = train(tmp_path, dataset, "run", resume=True, **with_mortal(mortal))
    assert "last-000004.pt: is damaged" in capsys.readouterr().err
    assert_same_run(resumed, whole)


def test_change_that_is_allowed_by_name_takes_effect_and_every_other_is_refused(dataset, tmp_path):
    run = train(tmp_path, dataset, "run", "max_steps=2")
    before = files_in(run)
    recipe = write_recipe(tmp_path, dataset, max_steps=4, optimizer={"learning_rate": 1e-4})
    with pytest.raises(
        UserError, match=r"optimizer.learning_rate: the run has 0.002, and now it would be 0.0001"
    ) as raised:
        runs.train(runs.read_recipe(recipe), run, resume=True, allow_change=["max_steps"])
    assert "--allow-change optimizer.learning_rate" in str(raised.value)
    assert files_in(run) == before
    runs.train(runs.read_recipe(recipe), run, resume=True, allow_change=["max_steps", "optimizer.learning_rate"])
    assert steps_of(run / "history.csv") == [1, 2, 3, 4]
    assert "max_steps: 4" in (run / "config.yaml").read_text()
    runs.train(runs.read_recipe(recipe), run, resume=True)


def test_post_processing_of_a_run_that_is_done_changes_without_a_step(dataset, tmp_path):
    steps = [{"step": "keep_largest", "options": {"label": 1}}]
    run = train(tmp_path, dataset, "run", max_steps=2, postprocessing=steps)
    whole = train(tmp_path, dataset, "whole", max_steps=2, postprocessing=[])
    recipe = runs.read_recipe(write_recipe(tmp_path, dataset, max_steps=2, postprocessing=[]))
    with pytest.raises(UserError) as raised:
        runs.train(recipe, run, resume=True)
    assert {problem.remedy.rpartition(" ")[2] for problem in raised.value.problems} == {"postprocessing"}
    runs.train(recipe, run, resume=True, allow_change=["postprocessing"])
    assert load_model(run, "last").predictor.postprocessing == ()
    assert (run / "cases.csv").read_bytes() == (whole / "cases.csv").read_bytes()
    assert digest(state_of(run)) == digest(state_of(whole))
    runs.train(recipe, run, resume=True)


def test_a_changed_dataset_is_named_beside_what_its_plan_changes(dataset, tmp_path):
    """As where a fifth mask brings post-processing with it."""
    smaller = shutil.copytree(dataset, tmp_path / "smaller")
    run = train(tmp_path, smaller, "run", max_steps=1, postprocessing=[])
    scan = sorted((smaller / "imagesTr").iterdir())[0]
    image = nib.load(scan)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[::-1], image.affine), scan)
    steps = [{"step": "keep_largest", "options": {"label": 1}}]
    with pytest.raises(UserError) as caught:
        train(tmp_path, smaller, "run", max_steps=1, postprocessing=steps, resume=True)
    codes = {problem.code for problem in caught.value.problems}
    assert codes == {"changed", "scans-changed"}
    assert any(f"start={run}" in problem.remedy for problem in caught.value.problems)


def test_a_comparison_says_in_what_settings_the_trainings_differ(dataset, tmp_path, capsys):
    steps = [{"step": "keep_largest", "options": {"label": 1}}]
    runs_of = {
        name: train(tmp_path, dataset, name, max_steps=1, postprocessing=chosen)
        for name, chosen in (("cut", steps), ("whole", []))
    }
    capsys.readouterr()
    runs.compare(runs_of["cut"], runs_of["whole"], tmp_path / "differ")
    assert "the two trainings differ in postprocessing\n" in capsys.readouterr().err
    assert json.loads((tmp_path / "differ" / "compare.json").read_text())["differ_in"] == ["postprocessing"]
    page = (tmp_path / "differ" / "report.html").read_text()
    assert "The trainings differ in" in page
    assert "All numbers are in compare.csv too" in page
    more = [{"metric": "centre_distance_mm"}]
    runs_of["again"] = train(tmp_path, dataset, "measured", max_steps=1, postprocessing=[], metrics=more)
    runs.compare(runs_of["whole"], runs_of["again"], tmp_path / "alike")
    assert "differ in" not in capsys.readouterr().err
    words = (f"data.split={runs_of['whole'] / 'split.json'}", "data.validation_fraction=0.4")
    runs_of["same"] = train(tmp_path, dataset, "same", *words, max_steps=1, postprocessing=[])
    capsys.readouterr()
    runs.compare(runs_of["whole"], runs_of["same"], tmp_path / "same-cases")
    assert "differ in" not in capsys.readouterr().err
    split = json.loads((runs_of["whole"] / "split.json").read_text())
    fewer = split | {"labelled": split["labelled"][1:]}
    (tmp_path / "fewer.json").write_text(json.dumps(fewer))
    smaller = shutil.copytree(dataset, tmp_path / "smaller")
    content = json.loads((smaller / "dataset.json").read_text())
    content["training"] = [each for each in content["training"] if split["labelled"][0] not in each["image"]]
    (smaller / "dataset.json").write_text(json.dumps(content))
    words = (f"data.split={tmp_path / 'fewer.json'}", "optimizer.learning_rate=0.01")
    runs_of["fewer"] = train(tmp_path, smaller, "fewer", *words, max_steps=1, postprocessing=[])
    runs.compare(runs_of["fewer"], runs_of["whole"], tmp_path / "masks")
    count = len(split["labelled"])
    what = f"the masks that they were trained on ({count - 1} and {count}, {count - 1} in both)"
    told = " ".join(capsys.readouterr().err.split())
    assert f"differ in {what}, optimizer.learning_rate: the comparison does not tell which" in told
    assert what in (tmp_path / "masks" / "report.html").read_text()
    assert "The trainings differ in" not in (tmp_path / "alike" / "report.html").read_text()
    corrected = smaller / "labelsTr" / f"{split['labelled'][1]}.nii.gz"
    voxels = nifti.load(corrected).labels.copy()
    voxels[voxels == 2] = 1
    nib.save(nib.Nifti1Image(voxels, nib.load(corrected).affine), corrected)
    train(tmp_path, smaller, "corrected", *words, max_steps=1, postprocessing=[])
    runs.compare(runs_of["fewer"], tmp_path / "corrected", tmp_path / "drawn")
    told = " ".join(capsys.readouterr().err.split())
    assert f"the two trainings differ in what is drawn in the masks of {split['labelled'][1]}" in told


def test_section_may_be_allowed_and_a_name_that_is_no_key_is_refused(dataset, tmp_path):
    run = train(tmp_path, dataset, "run", "max_steps=2")
    recipe = write_recipe(tmp_path, dataset, max_steps=2, optimizer={"learning_rate": 1e-4})
    with pytest.raises(UserError, match="did you mean 'optimizer'"):
        runs.train(runs.read_recipe(recipe), run, resume=True, allow_change=["optimiser"])
    assert runs.train(runs.read_recipe(recipe), run, resume=True, allow_change=["optimizer"])


def test_term_that_is_added_on_the_way_keeps_the_columns_of_the_history(dataset, tmp_path):
    run = train(tmp_path, dataset, "run", "max_steps=2", objective=[{"loss": "dice"}])
    longer = write_recipe(tmp_path, dataset, max_steps=3, objective=[{"loss": "balanced_ce"}])
    runs.train(runs.read_recipe(longer), run, resume=True, allow_change=["max_steps", "objective"])
    with (run / "history.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [bool(row["dice"]) for row in rows] == [True, True, False]
    assert [bool(row["balanced_ce"]) for row in rows] == [False, False, True]


def test_another_network_is_refused_even_where_the_change_is_allowed(dataset, tmp_path):
    run = train(tmp_path, dataset, "run", "max_steps=2")
    wider = {"name": "unet", "options": {"channels": [8, 16], "num_res_units": 0}}
    recipe = write_recipe(tmp_path, dataset, max_steps=2, network=wider)
    with pytest.raises(UserError, match="does not fit the recipe's network"):
        runs.train(runs.read_recipe(recipe), run, resume=True, allow_change=["network"])


def test_folder_in_which_another_process_trains_is_left_alone(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.files._lock", lambda *_: False)
    with pytest.raises(UserError, match="run-is-busy"):
        train(tmp_path, dataset, "run", "max_steps=1")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
