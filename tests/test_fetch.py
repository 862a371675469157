"""Fetching: from a local address, with honest and with hostile archives."""

import gzip
import hashlib
import io
import json
import shutil
import tarfile
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from monai.apps import DecathlonDataset
from test_files import small_disk

from pipeline.data import fetch as fetch_module
from pipeline.data.fetch import fetch, fetch_archive
from pipeline.errors import UserError
from pipeline.interruption import Stopped

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
    assert not (tmp_path / "data").exists(), "nothing is left behind"
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
    problem = refused("unwritable", tmp_path, *serve(*SOUND))
    assert "No space left" in problem.message
    assert problem.remedy == "make room"


def test_disk_that_is_full_while_it_comes_is_not_the_connections_fault(serve, tmp_path):
    archive = serve(*SOUND)
    with small_disk():
        problem = refused("unwritable", tmp_path, *archive)
    assert "cannot be written: File too large" in problem.message


def test_name_that_no_disk_holds_is_no_lack_of_room(serve, tmp_path):
    problem = refused("unwritable", tmp_path, *serve(member(f"{NAME}/{'a' * 300}")))
    assert "File name too long" in problem.message
    assert "room" not in problem.remedy


# Limits


@pytest.fixture
def server():
    """A function that serves answers over HTTP, each written by a function, and returns the address."""
    servers = []

    def serve(answer):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                with suppress(OSError):  # The other side has hung up.
                    answer(self)

            def log_message(self, *_):
                pass

        made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        made.daemon_threads = True
        threading.Thread(target=made.serve_forever, daemon=True).start()
        servers.append(made)
        return f"http://127.0.0.1:{made.server_port}/{NAME}.tar"

    yield serve
    for made in servers:
        made.shutdown()
        made.server_close()


def answered(handler, length, *blocks, pause=0.0):
    handler.send_response(200)
    if length is not None:
        handler.send_header("Content-Length", str(length))
    handler.end_headers()
    for block in blocks:
        handler.wfile.write(block)
        time.sleep(pause)


def test_an_archive_comes_over_http(serve, server, tmp_path):
    _, md5 = serve(*SOUND)
    content = (tmp_path / "served" / f"{NAME}.tar").read_bytes()
    folder = fetch_archive(NAME, server(lambda handler: answered(handler, len(content), content)), md5, tmp_path / "d")
    assert (folder / "dataset.json").read_bytes() == b"{}"


def test_a_server_that_says_nothing_is_not_waited_for(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch_module, "SILENT_S", 0.3)
    url = server(lambda handler: time.sleep(20))
    began = time.monotonic()
    assert "timed out" in refused("no-download", tmp_path, url, "0" * 32).message
    assert time.monotonic() - began < 10


def test_a_server_that_drips_has_a_limit_of_time(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch_module, "LONGEST_S", 0.5)
    url = server(lambda handler: answered(handler, 10**6, *[b"x"] * 200, pause=0.1))
    began = time.monotonic()
    assert "MB came within" in refused("no-download", tmp_path, url, "0" * 32).message
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("told", [True, False])
def test_an_archive_over_the_limit_is_refused_as_soon_as_that_is_known(server, tmp_path, monkeypatch, told):
    monkeypatch.setattr(fetch_module, "MAX_BYTES", 10_000)
    url = server(lambda handler: answered(handler, 10**6 if told else None, *[b"x" * 1000] * 1000))
    assert "over 0 GB" in refused("too-large", tmp_path, url, "0" * 32).message


def test_an_archive_that_does_not_fit_the_disk_is_refused_before_it_comes(server, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
    url = server(lambda handler: answered(handler, 10**6, b"x"))
    assert "the disk has 0.0 GB free" in refused("disk-full", tmp_path, url, "0" * 32).message


def test_a_download_that_is_cut_is_said_to_be(server, tmp_path):
    url = server(lambda handler: answered(handler, 1000, b"x" * 10))
    assert "ended after 10 of 1000 bytes" in refused("no-download", tmp_path, url, "0" * 32).message


def test_folders_that_were_made_for_it_are_taken_away_again(tmp_path):
    with pytest.raises(UserError):
        fetch_archive(NAME, (tmp_path / "none.tar").as_uri(), "0" * 32, tmp_path / "a" / "b" / "c")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("depth", [20, 2000])
def test_folders_nested_deeply_are_refused_unread(serve, tmp_path, depth):
    deep = member("/".join([NAME, *["d"] * depth, "file"]), b"x")
    assert "deep" in refused("hostile-archive", tmp_path, *serve(*SOUND, deep)).message


def test_a_file_of_holes_is_refused(serve, tmp_path):
    info, data = member(f"{NAME}/holes", b"\0" * 512)
    info.type, info.pax_headers = tarfile.REGTYPE, {"GNU.sparse.size": str(10**6), "GNU.sparse.map": "0,0"}
    assert "no plain file" in refused("hostile-archive", tmp_path, *serve(*SOUND, (info, data))).message


def test_members_beyond_any_dataset_are_refused(serve, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch_module, "MAX_MEMBERS", 2)
    assert "over 2 files" in refused("hostile-archive", tmp_path, *serve(*SOUND)).message


def test_a_compressed_archive_is_not_unpacked(serve, tmp_path):
    serve(*SOUND)
    path = tmp_path / "served" / f"{NAME}.tar"
    path.write_bytes(gzip.compress(path.read_bytes()))
    refused("bad-archive", tmp_path, path.as_uri(), hashlib.md5(path.read_bytes()).hexdigest())


def test_a_stop_leaves_nothing(serve, tmp_path, monkeypatch):
    def stop(*_):
        raise Stopped(143)

    monkeypatch.setattr(fetch_module, "unpack", stop)
    url, md5 = serve(*SOUND)
    with pytest.raises(Stopped):
        fetch_archive(NAME, url, md5, tmp_path / "data")
    assert not (tmp_path / "data").exists()
