import hashlib
import io
import pickle
import shutil
import stat
import subprocess
import zipfile

import numpy as np
import pytest
import torch

from pipeline import archives
from pipeline.checkpoints import (
    checkpoints_of,
    clear_up,
    load_checkpoint,
    newest_checkpoint,
    refuse_foreign,
    save_checkpoint,
)
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


class Balloon:
    """A kilobyte that ``weights_only`` itself blows up to a gigabyte."""

    def __reduce__(self):
        return bytearray, (10**9,)


@pytest.fixture
def saved(tmp_path):
    return save_checkpoint(tmp_path, "last", STATE)


@pytest.fixture
def alone(saved):
    """A checkpoint that was copied without the file beside it."""
    saved.with_name("last-000003.pt.sha256").unlink()
    return saved


def problem_of(path, read=load_checkpoint):
    with pytest.raises(UserError) as raised:
        read(path)
    (problem,) = raised.value.problems
    assert problem.where == str(path)
    assert problem.remedy
    return problem.code


def steps_of(run, which="last"):
    return [int(path.stem.partition("-")[2]) for path in checkpoints_of(run, which)]


# Save


@pytest.mark.parametrize("beside", [True, False])
def test_checkpoint_is_read_as_it_was_written(saved, beside):
    if not beside:
        saved.with_name("last-000003.pt.sha256").unlink()
    state = load_checkpoint(saved)
    assert torch.equal(state.pop("network")["w"], STATE["network"]["w"])
    assert state == {"format": 2, "step": 3, "best": None, "task": STATE["task"]}


def test_checkpoint_of_many_networks_is_read_as_it_was_written(tmp_path):
    weights = {
        f"members.{n % 10}.encoder.blocks.{n // 10}.convolution.weight": torch.tensor([n]) for n in range(20_000)
    }
    state = load_checkpoint(save_checkpoint(tmp_path, "last", {"step": 1, "network": weights}))
    assert state["network"] == weights


def test_name_says_which_checkpoint_it_is_and_of_which_step(tmp_path):
    assert save_checkpoint(tmp_path, "best", STATE) == tmp_path / "checkpoints" / "best-000003.pt"
    assert steps_of(tmp_path, "best") == [3]
    assert steps_of(tmp_path, "last") == []


def test_hash_beside_a_checkpoint_is_what_sha256sum_checks(saved):
    digest, name = saved.with_name("last-000003.pt.sha256").read_text().split()
    assert (digest, name) == (hashlib.sha256(saved.read_bytes()).hexdigest(), saved.name)
    subprocess.run(["sha256sum", "--check", "--status", f"{saved.name}.sha256"], cwd=saved.parent, check=True)


def test_two_newest_of_each_kind_are_kept(tmp_path):
    for step in (1, 2, 10, 9_999_999):
        save_checkpoint(tmp_path, "last", STATE | {"step": step})
    save_checkpoint(tmp_path, "best", STATE)
    assert steps_of(tmp_path) == [9_999_999, 10]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2 * 3


def test_owner_alone_may_read_a_checkpoint(saved):
    assert {stat.S_IMODE(path.stat().st_mode) for path in saved.parent.iterdir()} == {0o600}


def test_equal_states_are_equal_files(tmp_path, saved):
    assert save_checkpoint(tmp_path / "other", "best", STATE).read_bytes() == saved.read_bytes()


def test_saving_a_step_again_replaces_it(tmp_path, saved):
    save_checkpoint(tmp_path, "last", STATE | {"best": 0.5})
    assert newest_checkpoint(tmp_path, "last").state["best"] == 0.5


# Find


def test_missing_checkpoint_is_named(tmp_path):
    assert problem_of(tmp_path / "none.pt") == "missing-checkpoint"
    with pytest.raises(UserError, match=r"is no file .*\n.*move it away"):
        load_checkpoint(tmp_path)
    assert problem_of(tmp_path, lambda run: newest_checkpoint(run, "best")) == "missing-checkpoint"


def test_a_folder_of_runs_points_at_one_of_them(tmp_path):
    save_checkpoint(tmp_path / "seed-0", "last", STATE)
    with pytest.raises(UserError, match=r"holds 1(.|\n)*name one of them: .*seed-0"):
        newest_checkpoint(tmp_path, "last")


def test_damaged_newest_is_named_and_the_one_before_is_used(tmp_path, saved):
    newest = save_checkpoint(tmp_path, "last", STATE | {"step": 4})
    newest.write_bytes(newest.read_bytes()[:-1])
    found = newest_checkpoint(tmp_path, "last")
    assert (found.path, found.state["step"]) == (saved, 3)
    assert [(problem.code, problem.where) for problem in found.damaged] == [("damaged-checkpoint", str(newest))]


def test_run_without_a_sound_checkpoint_names_them_all(tmp_path, saved):
    for path in (saved, save_checkpoint(tmp_path, "last", STATE | {"step": 4})):
        path.write_bytes(b"")
    with pytest.raises(UserError) as raised:
        newest_checkpoint(tmp_path, "last")
    assert [problem.where[-8:] for problem in raised.value.problems] == ["00004.pt", "00003.pt"]


def test_hostile_newest_is_refused_and_no_older_one_is_used(tmp_path, saved):
    torch.save({"format": 2, "network": Gadget()}, saved.with_name("last-000004.pt"))
    with pytest.raises(UserError, match="unsafe-checkpoint"):
        newest_checkpoint(tmp_path, "last")


def test_clearing_up_takes_what_kills_left_and_nothing_else(tmp_path, saved):
    gone = save_checkpoint(tmp_path, "best", STATE | {"step": 4})
    gone.unlink()  # A kill came before its hash went too.
    (saved.parent / ".partial-0123abcd.last-000005.pt").write_bytes(b"half")
    (saved.parent / "last-000001.pt.sha256").write_text("not ours")
    (saved.parent / "mine.pt").write_bytes(b"not ours")
    assert clear_up(tmp_path) == []
    kept = {"last-000003.pt", "last-000003.pt.sha256", "last-000001.pt.sha256", "mine.pt"}
    assert {path.name for path in saved.parent.iterdir()} == kept


def test_damaged_checkpoint_is_set_aside_and_not_deleted(tmp_path, saved):
    data = saved.read_bytes()[:-1]
    for name in ("last-000003.pt.damaged", "last-000003.pt.damaged2"):
        saved.write_bytes(data)
        assert clear_up(tmp_path) == [saved.with_name(name)]
        assert saved.with_name(name).read_bytes() == data
    assert not saved.exists()
    assert not saved.with_name("last-000003.pt.sha256").exists()


# Whose a checkpoint is


def other_sound(tmp_path, step):
    """A sound checkpoint of another run."""
    return save_checkpoint(tmp_path / "other", "last", STATE | {"step": step, "best": 0.25})


@pytest.mark.parametrize("name", ["last-000001.pt", "last-000009.pt"])
def test_save_deletes_no_checkpoint_of_another_run(tmp_path, saved, name):
    foreign = saved.with_name(name)
    shutil.copy(other_sound(tmp_path, 1), foreign)
    before = foreign.read_bytes()
    for step in (4, 5, 6):
        save_checkpoint(tmp_path, "last", STATE | {"step": step})
    assert foreign.read_bytes() == before
    assert set(steps_of(tmp_path)) - {1, 9} == {5, 6}


def test_save_deletes_none_of_its_own_that_somebody_has_replaced(tmp_path, saved):
    shutil.copy(other_sound(tmp_path, 3), saved)
    before = saved.read_bytes()
    for step in (4, 5, 6):
        save_checkpoint(tmp_path, "last", STATE | {"step": step})
    assert saved.read_bytes() == before


@pytest.mark.parametrize("linked", [True, False])
def test_save_replaces_no_checkpoint_of_another_run(tmp_path, saved, linked):
    other, place = other_sound(tmp_path, 4), saved.with_name("last-000004.pt")
    place.symlink_to(other) if linked else shutil.copy(other, place)
    before = place.read_bytes()
    assert problem_of(place, lambda _: save_checkpoint(tmp_path, "last", STATE | {"step": 4})) == "in-the-way"
    assert (place.read_bytes(), place.is_symlink()) == (before, linked)


def test_checkpoints_of_a_folder_that_is_linked_belong_to_their_run(tmp_path, saved):
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "checkpoints").symlink_to(saved.parent)
    assert problem_of(tmp_path / "linked" / "checkpoints" / saved.name, lambda _: refuse_foreign(tmp_path / "linked"))
    refuse_foreign(tmp_path)


# Refuse


@pytest.mark.parametrize("as_archive", [True, False])
def test_pickle_that_would_run_something_is_refused_and_does_not_run(tmp_path, as_archive):
    path = tmp_path / "last.pt"
    if as_archive:
        torch.save({"format": 2, "network": Gadget()}, path)
    else:
        path.write_bytes(pickle.dumps({"format": 2, "network": Gadget()}))
    assert problem_of(path) == ("unsafe-checkpoint" if as_archive else "damaged-checkpoint")
    assert FIRED == []
    with path.open("rb") as stream:  # The gadget would have worked.
        torch.load(stream, weights_only=False) if as_archive else pickle.load(stream)  # noqa: S301 - our own
    assert FIRED.pop() == 1


@pytest.mark.parametrize("thing", [torch.nn.Linear(2, 2), Balloon(), np.float64(1), {1, 2}, torch.Size([1])])
def test_more_than_tensors_numbers_and_text_is_refused(tmp_path, thing):
    torch.save({"format": 2, "network": thing}, tmp_path / "last.pt")
    assert problem_of(tmp_path / "last.pt") == "unsafe-checkpoint"


def test_archive_that_unpacks_to_more_than_itself_is_refused(tmp_path, saved):
    packed = tmp_path / "packed.pt"
    with zipfile.ZipFile(saved) as plain, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in plain.namelist():
            archive.writestr(name, plain.read(name))
    assert problem_of(packed) == "zip-bomb"


def test_other_bytes_than_were_written_are_damage_whatever_the_archive_says(saved):
    with zipfile.ZipFile(saved, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("checkpoint/data.pkl", bytes(10_000))
    assert problem_of(saved) == "damaged-checkpoint"
    saved.with_name("last-000003.pt.sha256").unlink()
    assert problem_of(saved) == "zip-bomb"


def test_archive_whose_members_overlap_is_refused(tmp_path, saved):
    with zipfile.ZipFile(saved) as archive, zipfile.ZipFile(tmp_path / "many.pt", "w") as many:
        for info in archive.infolist():
            many.writestr(info, archive.read(info))
        largest = max(many.infolist(), key=lambda info: info.file_size)
        many.filelist += [largest] * 5
    assert problem_of(tmp_path / "many.pt") == "zip-bomb"


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
def test_checkpoint_that_is_cut_is_damaged(alone, share):
    data = alone.read_bytes()
    alone.write_bytes(data[: int(share * len(data))])
    assert problem_of(alone) == "damaged-checkpoint"


@pytest.mark.parametrize("beside", [True, False])
def test_one_flipped_bit_of_a_weight_is_noticed(saved, beside):
    data = bytearray(saved.read_bytes())
    place = data.index(np.arange(100, 120, dtype=np.float32).tobytes())
    data[place] ^= 1
    saved.write_bytes(data)
    if not beside:
        saved.with_name("last-000003.pt.sha256").unlink()
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


@pytest.mark.parametrize("state", [{"format": 1}, {"network": {}}, {}, [1, 2], torch.zeros(3)])
def test_checkpoint_of_another_format_is_foreign(tmp_path, state):
    torch.save(state, tmp_path / "last.pt")
    assert problem_of(tmp_path / "last.pt") == "foreign-checkpoint"


def test_tensors_of_any_device_are_read_onto_the_cpu_by_the_safe_way_alone(saved, monkeypatch):
    seen = {}
    real = torch.load
    monkeypatch.setattr(archives.torch, "load", lambda path, **options: seen.update(options) or real(path, **options))
    load_checkpoint(saved)
    assert (seen["map_location"], seen["weights_only"]) == ("cpu", True)


def test_directory_of_an_archive_is_measured_before_it_is_read(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a", "b")
    data = bytearray(buffer.getvalue())
    data[-10:-6] = (100_000_000).to_bytes(4, "little")
    (tmp_path / "last.pt").write_bytes(data)
    assert problem_of(tmp_path / "last.pt") == "foreign-checkpoint"
