"""Fetching: from a local address, with honest and with hostile archives."""

import hashlib
import io
import json
import tarfile

import pytest
from monai.apps import DecathlonDataset

from pipeline.data import fetch as fetch_module
from pipeline.data.fetch import fetch, fetch_archive
from pipeline.errors import UserError

NAME = "Task04_Hippocampus"
CONTENT = {f"{NAME}/dataset.json": b"{}", f"{NAME}/imagesTr/a.nii.gz": b"scan", f"{NAME}/imagesTr/._a.nii.gz": b"mac"}


def member(name, data=b"", kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(data)
    return info, data


@pytest.fixture
def serve(tmp_path):
    """A function that writes an archive and returns its address and md5."""

    def serve(*members):
        path = tmp_path / "served" / f"{NAME}.tar"
        path.parent.mkdir(exist_ok=True)
        with tarfile.open(path, "w") as tar:
            for info, data in members:
                tar.addfile(info, io.BytesIO(data))
        return path.as_uri(), hashlib.md5(path.read_bytes()).hexdigest()

    return serve


SOUND = [member(name, data) for name, data in CONTENT.items()]


def test_a_known_task_arrives_whole(serve, tmp_path, monkeypatch):
    url, md5 = serve(*SOUND)
    monkeypatch.setitem(DecathlonDataset.resource, NAME, url)
    monkeypatch.setitem(DecathlonDataset.md5, NAME, md5)
    folder = fetch(NAME, tmp_path / "data")
    assert folder == tmp_path / "data" / NAME
    assert [path.name for path in sorted(folder.rglob("*"))] == ["dataset.json", "imagesTr", "a.nii.gz"]
    assert (folder / "imagesTr" / "a.nii.gz").read_bytes() == b"scan"
    assert [path.name for path in (tmp_path / "data").iterdir()] == [NAME]


def test_every_task_has_an_address_and_a_checksum():
    assert len(DecathlonDataset.resource) == 10
    assert DecathlonDataset.resource.keys() == DecathlonDataset.md5.keys()


def refused(code, tmp_path, *arguments):
    with pytest.raises(UserError) as caught:
        fetch_archive(NAME, *arguments, tmp_path / "data")
    (problem,) = caught.value.problems
    assert problem.code == code
    assert problem.remedy
    assert list((tmp_path / "data").iterdir()) == [], "nothing is left behind"
    return problem


@pytest.mark.parametrize(
    "bad",
    [
        member(f"{NAME}/../../evil", b"x"),
        member("../evil", b"x"),
        member("/tmp/evil", b"x"),
        member("elsewhere/evil", b"x"),
        member(f"{NAME}/link", kind=tarfile.SYMTYPE, link="/etc/passwd"),
        member(f"{NAME}/link", kind=tarfile.SYMTYPE, link="dataset.json"),
        member(f"{NAME}/hard", kind=tarfile.LNKTYPE, link="../../etc/passwd"),
        member(f"{NAME}/device", kind=tarfile.CHRTYPE),
        member(f"{NAME}/block", kind=tarfile.BLKTYPE),
        member(f"{NAME}/fifo", kind=tarfile.FIFOTYPE),
    ],
    ids=lambda bad: f"{bad[0].name}-{bad[0].type.decode()}",
)
@pytest.mark.parametrize("first", [True, False])
def test_hostile_member_is_refused_and_nothing_is_unpacked(serve, tmp_path, bad, first):
    members = [bad, *SOUND] if first else [*SOUND, bad]
    assert bad[0].name in refused("hostile-archive", tmp_path, *serve(*members)).message


def test_other_bytes_than_promised_are_refused(serve, tmp_path):
    url, _ = serve(*SOUND)
    refused("bad-checksum", tmp_path, url, "0" * 32)


def test_cut_archive_is_refused(serve, tmp_path):
    serve(member(f"{NAME}/big", b"x" * 5000))
    path = tmp_path / "served" / f"{NAME}.tar"
    path.write_bytes(path.read_bytes()[:3000])
    refused("bad-archive", tmp_path, path.as_uri(), hashlib.md5(path.read_bytes()).hexdigest())


def test_archive_without_the_dataset_is_refused(serve, tmp_path):
    refused("bad-archive", tmp_path, *serve())


def test_no_network_is_said_with_a_way_by_hand(tmp_path):
    gone = (tmp_path / "nowhere.tar").as_uri()
    problem = refused("no-download", tmp_path, gone, "0" * 32)
    assert gone in problem.remedy
    assert str(tmp_path / "data" / NAME) in problem.remedy


def test_name_that_is_nearly_right_is_hinted_at(tmp_path):
    with pytest.raises(UserError, match="did you mean 'Task04_Hippocampus'"):
        fetch("Task04_Hipocampus", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_left_alone(serve, tmp_path):
    url, md5 = serve(*SOUND)
    (tmp_path / "data" / NAME).mkdir(parents=True)
    (tmp_path / "data" / NAME / "mine.json").write_text(json.dumps(1))
    with pytest.raises(UserError, match="is there already"):
        fetch_archive(NAME, url, md5, tmp_path / "data")
    assert (tmp_path / "data" / NAME / "mine.json").exists()


def test_full_disk_leaves_nothing(serve, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetch_module, "unpack", full)
    assert "No space left" in refused("unwritable", tmp_path, *serve(*SOUND)).message
