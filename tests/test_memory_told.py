"""Memory that runs out is said with the scan or the step, what it takes and what to do; nothing is half-done."""

import errno
import gzip
import re
import resource
import subprocess
import sys

import numpy as np
import pytest
import torch
from runs_fixtures import ROOT, files_in, make_phantom, train, write_recipe

from pipeline import nifti, runs
from pipeline.console import explained
from pipeline.data import inspection
from pipeline.engines.steps import TrainingStep
from pipeline.errors import UserError
from pipeline.memory import is_out_of_memory, memory_for
from pipeline.prediction.predictor import Predictor
from pipeline.runs import build

ALLOCATOR = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
ALLOCATOR += "allocate 4294967296 bytes. Error code 12 (Cannot allocate memory)"


def numpys():
    """What NumPy raises, which is no plain ``MemoryError``."""
    try:
        np.empty(1 << 60, np.uint8)
    except MemoryError as error:
        return error
    raise AssertionError


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_phantom(tmp_path_factory.mktemp("memory") / "phantom", labelled=3, unlabelled=1)


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    return train(tmp_path_factory.mktemp("memory"), dataset, "run", max_steps=2)


def fails_for(monkeypatch, owner, name, error, wanted):
    """Let a function fail where its arguments are wanted."""
    whole = getattr(owner, name)

    def failing(*arguments, **options):
        if wanted(*arguments):
            raise error
        return whole(*arguments, **options)

    monkeypatch.setattr(owner, name, failing)


@pytest.mark.parametrize(
    ("error", "amount"),
    [
        (MemoryError(), ""),
        (numpys(), ": 1.00 EiB more could not be had"),
        (RuntimeError(ALLOCATOR), ": 4295.0 MB more could not be had"),
        (torch.OutOfMemoryError("no memory is left"), ""),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), ""),
        (RuntimeError("std::bad_alloc"), ""),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), ""),
        (RuntimeError("can't start new thread"), ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_every_way_to_say_that_memory_ran_out_is_known(error, amount):
    wrapped = RuntimeError("applying transform <Spacingd>")  # As MONAI does.
    wrapped.__cause__ = error
    for each in (error, wrapped):
        with pytest.raises(UserError) as raised, memory_for("a.nii", "to read it", None, "crop it"):
            raise each
        (problem,) = raised.value.problems
        assert problem.message == f"there is too little memory to read it{amount}"
        assert (problem.where, problem.remedy.endswith("; crop it")) == ("a.nii", True)
        assert explained(each).startswith("too little memory")


def test_other_errors_are_none_of_memory():
    for error in (RuntimeError("shapes differ"), OSError(errno.ENOSPC, "full"), UserError("no")):
        assert not is_out_of_memory(error)
        with pytest.raises(type(error)) as raised, memory_for("a.nii", "to read it", None, "crop it"):
            raise error
        assert raised.value is error
    with pytest.raises(KeyError) as raised:
        try:
            raise MemoryError
        except MemoryError:
            raise KeyError("ours") from None
    assert not is_out_of_memory(raised.value), "memory that ran out was seen to, and this is another mistake"


def test_the_check_names_each_scan_that_it_has_no_memory_for_and_looks_at_the_others(dataset, monkeypatch, tmp_path):
    broken = dataset / "imagesTr" / "phantom_001.nii.gz"
    fails_for(monkeypatch, nifti, "load", MemoryError(), lambda path: path == broken)
    with pytest.raises(UserError) as raised:
        runs.check(dataset)
    (problem,) = raised.value.problems
    assert (problem.where, problem.code, problem.case) == (str(broken), "out-of-memory", "phantom_001")
    size = 4 * sum(nifti_bytes(dataset / place / broken.name) for place in ("imagesTr", "labelsTr"))
    assert f"to look at it: it takes about {size / 1e6:.1f} MB" in problem.message
    assert "ulimit -v" in problem.remedy


def nifti_bytes(path):
    return len(gzip.decompress(path.read_bytes()))


@pytest.mark.parametrize(
    ("place", "error", "where", "message"),
    [
        ("cache", MemoryError(), "phantom_00", "to prepare it: it takes about"),
        ("network", RuntimeError(ALLOCATOR), "data.batch_size", "on cpu to build the network with patches of"),
        ("patch", RuntimeError(ALLOCATOR), "data.batch_size", "on cpu to try the network once"),
        ("batch", MemoryError(), "data.batch_size", "for the batch of step 3"),
        (
            "step",
            RuntimeError(ALLOCATOR),
            "data.batch_size",
            "on cpu for step 3 with patches of (16, 16, 16)",
        ),
        ("validation", MemoryError(), "phantom_00", "to validate it"),
    ],
)
def test_a_training_says_at_which_scan_or_step(dataset, tmp_path, monkeypatch, place, error, where, message):
    if place == "cache":
        fails_for(monkeypatch, sys.modules["pipeline.data.cache"], "case_transforms", error, lambda *_: True)
    elif place == "network":
        monkeypatch.setattr("pipeline.planning.network.refuse_unbuildable", lambda *_: None)
        monkeypatch.setattr("pipeline.planning.network.SizePlanner.memory_bytes", lambda *_: None)
        monkeypatch.setattr(build, "make_network", raising(error))
    elif place == "patch":
        monkeypatch.setattr("torch.zeros", raising(error))
    elif place == "batch":
        batches = sys.modules["pipeline.data.loaders"].StepBatches
        fails_for(monkeypatch, batches, "__getitem__", error, lambda _, step: step == 2)
    elif place == "step":
        fails_for(monkeypatch, TrainingStep, "__call__", error, lambda _, engine, __: engine.state.iteration == 3)
    else:
        monkeypatch.setattr(Predictor, "segment", raising(error))
    with pytest.raises(UserError) as raised:
        train(tmp_path, dataset, "run", max_steps=4)
    (problem,) = raised.value.problems
    assert problem.code == "out-of-memory"
    assert where in problem.where
    assert message in problem.message
    assert problem.remedy


def raising(error):
    def fail(*_, **__):
        raise error

    return fail


def test_prediction_and_evaluation_name_the_scan_and_write_nothing(dataset, run, tmp_path, monkeypatch):
    scan = dataset / "imagesTs" / "phantom_003.nii.gz"
    before = files_in(run)
    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "segment", raising(RuntimeError(ALLOCATOR)))
        with pytest.raises(UserError, match=r"phantom_003\.nii\.gz: there is too little memory to predict it: 4295"):
            runs.predict(run, [scan], tmp_path / "masks")
        with pytest.raises(UserError, match=r"phantom_00\d\.nii\.gz: there is too little memory to validate it"):
            runs.validate(run)
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.runs.evaluating.score_case", raising(MemoryError()))
        with pytest.raises(UserError, match=r"phantom_00\d\.nii\.gz: there is too little memory to score it"):
            runs.evaluate(dataset / "labelsTr", dataset / "labelsTr", tmp_path / "scores")
    with monkeypatch.context() as patch:
        patch.setattr(inspection, "count_labels", raising(MemoryError()))
        with pytest.raises(UserError, match="there is too little memory to look at it"):
            runs.evaluate(dataset / "labelsTr", dataset / "labelsTr", tmp_path / "scores")
    assert files_in(run) == before
    assert not list((tmp_path / "masks").iterdir())
    assert not (tmp_path / "scores").exists()


def test_a_checkpoint_that_there_is_no_memory_for_is_not_called_foreign(run, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "load_state_dict", raising(RuntimeError(ALLOCATOR)))
    with pytest.raises(RuntimeError) as raised:
        runs.predict(run, [dataset / "imagesTs" / "phantom_003.nii.gz"], tmp_path / "masks")
    assert explained(raised.value).startswith("too little memory")


LIMITS = (0.25, 0.35, 0.45, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.8, 2.0, 2.5, 3.0)


def limited(words, limit):
    """Run a command with so many bytes of address space; return its exit code and what it said."""

    def limit_memory():
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    done = subprocess.run(
        [sys.executable, ROOT / "run.py", *map(str, words)],
        capture_output=True,
        text=True,
        preexec_fn=limit_memory,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin", "HOME": "/"},
        timeout=600,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit of the address space that is kept")
@pytest.mark.parametrize("limit", [0.3, 0.6])
def test_a_limit_that_not_even_the_libraries_fit_is_one_message(dataset, tmp_path, limit):
    code, said = limited(["train", write_recipe(tmp_path, dataset), "--output", tmp_path / "run"], int(limit * 1e9))
    assert (code, "Traceback" in said) == (2, False), said
    assert re.search("too little memory", said)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit of the address space that is kept")
@pytest.mark.parametrize("command", ["check", "plan", "train", "validate", "predict", "evaluate"])
def test_under_any_limit_a_command_ends_well_or_with_one_message(dataset, run, tmp_path, make_scan, command):
    rng = np.random.default_rng(0)
    for n in range(3):
        mask = np.zeros((128, 128, 96), np.uint8)
        mask[30:60, 30:60, 30:60] = 1
        make_scan(f"large/images/c{n}.nii.gz", (rng.normal(100, 10, mask.shape) + 60 * mask).astype(np.int16))
        make_scan(f"large/labels/c{n}.nii.gz", mask)
    large = tmp_path / "large"
    network = {"name": "dynunet", "options": {"channels": [8, 16, 32]}}
    data = {"patch_size": [96, 96, 64], "batch_size": 2, "workers": 0}
    recipe = write_recipe(
        tmp_path, large, data=data, network=network, objective=[{"loss": "dice"}], max_steps=2, validate_every=2
    )
    ends = []
    for limit in LIMITS:
        output = tmp_path / f"out-{limit}"
        words = {
            "check": [large, "--output", output],
            "plan": [recipe, "--output", output / "plan.yaml"],
            "train": [recipe, "--output", output],
            "validate": [run, "--dataset", large, "--layout-option", "labels={organ: 1, nodule: 2}"],
            "predict": [run, large / "images" / "c0.nii.gz", "--output", output],
            "evaluate": [large / "labels", large / "labels", "--output", output],
        }[command]
        code, said = limited([command, *words], int(limit * 1e9))
        assert (code in (0, 2), "Traceback" in said) == (True, False), f"{limit} GB: {said}"
        assert code == 0 or "memory" in said, f"{limit} GB: {said}"
        ends.append(code)
        if code == 0:
            break
    assert (ends[0], ends[-1]) == (2, 0)
