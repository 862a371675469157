import pickle
import zipfile

import numpy as np
import pytest
import torch

from pipeline import checkpoints
from pipeline.checkpoints import checkpoint_path, load_checkpoint, save_checkpoint
from pipeline.errors import UserError

STATE = {
    "step": 3,
    "best": None,
    "network": {"w": torch.arange(1000.0)},
    "task": {"labels": {0: "a"}, "channels": ["x"]},
}
FIRED = []


def fire():
    FIRED.append(1)
    return {}


class Gadget:
    def __reduce__(self):
        return fire, ()


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "checkpoints" / "last.pt"
    save_checkpoint(path, STATE)
    return path


def problem_of(path):
    with pytest.raises(UserError) as raised:
        load_checkpoint(path)
    (problem,) = raised.value.problems
    assert problem.where == str(path)
    assert problem.remedy
    return problem.code


def test_checkpoint_is_read_as_it_was_written(saved):
    state = load_checkpoint(saved)
    assert torch.equal(state.pop("network")["w"], STATE["network"]["w"])
    assert state == {"format": 1, "step": 3, "best": None, "task": STATE["task"]}


def test_last_and_best_are_two_files_of_the_run(tmp_path):
    assert checkpoint_path(tmp_path, "last") == tmp_path / "checkpoints" / "last.pt"
    assert checkpoint_path(tmp_path, "best") != checkpoint_path(tmp_path, "last")


def test_missing_checkpoint_is_named(tmp_path):
    assert problem_of(tmp_path / "none.pt") == "missing-checkpoint"
    assert problem_of(tmp_path) == "missing-checkpoint"


@pytest.mark.parametrize("as_archive", [True, False])
def test_pickle_that_would_run_something_is_refused_and_does_not_run(tmp_path, as_archive):
    path = tmp_path / "last.pt"
    if as_archive:
        torch.save({"format": 1, "network": Gadget()}, path)
    else:
        path.write_bytes(pickle.dumps({"format": 1, "network": Gadget()}))
    assert problem_of(path) == ("unsafe-checkpoint" if as_archive else "damaged-checkpoint")
    assert FIRED == []
    with path.open("rb") as stream:  # The gadget would have worked.
        torch.load(stream, weights_only=False) if as_archive else pickle.load(stream)  # noqa: S301 - our own
    assert FIRED.pop() == 1


def test_whole_network_in_a_checkpoint_is_refused(tmp_path):
    torch.save({"format": 1, "network": torch.nn.Linear(2, 2)}, tmp_path / "last.pt")
    assert problem_of(tmp_path / "last.pt") == "unsafe-checkpoint"


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
def test_checkpoint_that_is_cut_is_damaged(saved, share):
    data = saved.read_bytes()
    saved.write_bytes(data[: int(share * len(data))])
    assert problem_of(saved) == "damaged-checkpoint"


def test_one_flipped_bit_of_a_weight_is_noticed(saved):
    data = bytearray(saved.read_bytes())
    place = data.index(np.arange(100, 120, dtype=np.float32).tobytes())
    data[place] ^= 1
    saved.write_bytes(data)
    assert problem_of(saved) == "damaged-checkpoint"


@pytest.mark.parametrize(
    "text", [b"hello", b"version https://git-lfs.github.com/spec/v1\n", b"\x1f\x8b123", b"PK\x03\x04"]
)
def test_file_of_another_kind_is_no_checkpoint(tmp_path, text):
    (tmp_path / "last.pt").write_bytes(text)
    assert problem_of(tmp_path / "last.pt") == "damaged-checkpoint"


def test_archive_of_another_kind_is_foreign(tmp_path):
    with zipfile.ZipFile(tmp_path / "last.pt", "w") as archive:
        archive.writestr("a.txt", "hello")
    assert problem_of(tmp_path / "last.pt") == "foreign-checkpoint"


@pytest.mark.parametrize("state", [{"format": 2}, {"network": {}}, {}, [1, 2], torch.zeros(3)])
def test_checkpoint_of_another_format_is_foreign(tmp_path, state):
    torch.save(state, tmp_path / "last.pt")
    assert problem_of(tmp_path / "last.pt") == "foreign-checkpoint"


def test_save_that_fails_leaves_the_previous_checkpoint_and_nothing_else(saved, monkeypatch):
    before = saved.read_bytes()

    def fail(state, path):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(checkpoints.torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(saved, STATE)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_tensors_of_any_device_are_read_onto_the_cpu(saved, monkeypatch):
    seen = {}
    real = torch.load
    monkeypatch.setattr(
        checkpoints.torch, "load", lambda path, **options: seen.update(options) or real(path, **options)
    )
    load_checkpoint(saved)
    assert seen == {"map_location": "cpu", "weights_only": True}
