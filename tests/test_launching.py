"""Trainings as jobs, through submitit's executor for processes on this machine."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from commands import fewmask
from runs_fixtures import ROOT, make_phantom, state_of, write_recipe

from pipeline import runs
from pipeline.errors import UserError
from pipeline.studies import launching
from pipeline.studies.launching import Share, launch

pytest.importorskip("submitit", reason="needs submitit: pip install fewmask[launcher]")
pytestmark = pytest.mark.skipif(not Path("/proc/self/cmdline").is_file(), reason="finds jobs by /proc")


@pytest.fixture(autouse=True)
def polled(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(launching, "POLL_S", 0.05)


def processes_with(*words):
    """Return the numbers of the processes whose command line has all of some words."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            line = (place / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
        except OSError:
            continue
        if all(word in line for word in words):
            found.append(int(place.name))
    return found


def parent_of(process):
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def kill_one(*words, parent=False):
    """Kill the first process that has these words, and its parent before it, as a machine that goes down would."""

    def wait():
        while not (found := processes_with(*words)):
            time.sleep(0.05)
        for process in ([parent_of(found[0])] if parent else []) + found[:1]:
            os.kill(process, signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


@pytest.mark.parametrize(
    ("folds", "parent", "trouble"),
    [
        (2, False, "exit code -9"),
        (5, True, "a job that was"),
    ],
)
@pytest.mark.slow
def test_a_fold_that_dies_is_repeated_and_all_end_as_in_one_process(tmp_path, folds, parent, trouble):
    dataset = make_phantom(tmp_path / "phantom", labelled=folds + 1)
    recipe = write_recipe(tmp_path, dataset, objective=[{"loss": "dice"}], max_steps=2)
    run = tmp_path / "run"
    kill_one(str(run), f"--shard 1/{folds}", parent=parent)
    words = ["--folds", folds, "--launcher", "local", "--launcher-option", "timeout_min=9", "--output", run]
    done = fewmask("train", recipe, *words)
    assert done.returncode == 0, done.stderr
    told = " ".join(done.stderr.split())
    assert f"1/{folds}: {trouble}" in told
    assert told.count("once more") == 1
    assert f"1/{folds} is done" in told
    assert "out-of-fold/report.html" in done.stdout
    plain = tmp_path / "plain"
    runs.cross_validate(runs.read_recipe(recipe), plain, folds)
    for name in ("out-of-fold/cases.csv", "postprocessing.json"):
        assert (run / name).read_bytes() == (plain / name).read_bytes()
    for fold in (f"fold-{number}" for number in range(1, folds + 1)):
        ours = state_of(run / fold)["network"]
        assert all(value.equal(ours[name]) for name, value in state_of(plain / fold)["network"].items())


class Quick(Share):
    """Ends with the code that its first word has for its place."""

    def __call__(self):
        codes, _, shard = self.words
        return int(codes.split(",")[int(shard[0]) - 1])


@pytest.mark.parametrize(
    ("codes", "attempts"), [("0,2", 1), pytest.param("0,1", launching.ATTEMPTS, marks=pytest.mark.slow)]
)
def test_a_mistake_is_told_at_once_and_what_dies_each_time_at_last(tmp_path, monkeypatch, capsys, codes, attempts):
    monkeypatch.setattr(launching, "Share", Quick)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{Path(__file__).parent}")
    with pytest.raises(UserError, match="1 of 2 jobs failed") as raised:
        launch([codes], 2, tmp_path, "local", {})
    assert raised.value.problems[0].message == f"2/2 ended with exit code {codes[-1]}"
    assert Path(raised.value.problems[0].where).is_file()
    told = " ".join(capsys.readouterr().err.split())
    assert told.count("once more") == attempts - 1
    assert "1/2 is done" in told


@pytest.mark.parametrize(("cluster", "options"), [("slurm", {}), ("local", {"colour": "red"})])
def test_a_cluster_or_an_option_that_is_not_there_is_refused(tmp_path, cluster, options):
    with pytest.raises(UserError, match=r"slurm|srun|colour") as raised:
        launch(["train"], 2, tmp_path, cluster, options)
    assert raised.value.problems[0].code == "no-cluster"


def test_a_launcher_is_for_folds_and_seeds(tmp_path):
    done = fewmask("train", "supervised", "dataset=none", "--launcher", "local", "--output", tmp_path / "run")
    assert (done.returncode, "add --folds or" in done.stderr) == (2, True)
    words = ["--folds", "2", "--shard", "1/2", "--launcher", "local", "--output", tmp_path / "run"]
    done = fewmask("train", "supervised", "dataset=none", *words)
    assert (done.returncode, "goes not with --launcher" in done.stderr) == (2, True)


def test_a_job_whose_time_is_over_stops_its_command_and_is_queued_again():
    share = Share(["train"])
    share.child = subprocess.Popen(["sleep", "60"])
    again = share.checkpoint()
    assert share.child.poll() == -signal.SIGTERM
    assert again.function.words == ["train"]


CLUSTER = (ROOT / "docs" / "howto" / "cluster.md").read_text(encoding="utf-8")


def test_scripts_for_slurm_are_sound_to_their_linter():
    scripts = re.findall(r"```bash\n(#!.*?)```", CLUSTER, re.DOTALL)
    linter = Path(sys.executable).with_name("shellcheck")  # which an environment that nobody activated has not on PATH
    assert len(scripts) > 1
    assert all("#SBATCH --array=" in script for script in scripts)
    for text, sound in (*((script, True) for script in scripts), (scripts[0].replace("srun", "cd $HERE; srun"), False)):
        done = subprocess.run([linter, "-"], input=text, capture_output=True, text=True)
        assert (done.returncode == 0) == sound, done.stdout


def test_manifest_for_kubernetes_keeps_its_schema():
    validation = pytest.importorskip("kubernetes_validate")
    (text,) = re.findall(r"```yaml\n(.*?)```", CLUSTER, re.DOTALL)
    validation.validate(yaml.safe_load(text), "1.33", strict=True)
    with pytest.raises(validation.ValidationError):
        validation.validate(yaml.safe_load(text.replace("completionMode", "mode")), "1.33", strict=True)
