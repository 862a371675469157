"""Values that nobody should give, for every key and in every place of the line: exit 0 or 2, and nothing lost."""

import os
import sys

import pytest
import vile

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc to measure memory")


@pytest.mark.parametrize("kind", ["recipe", "line"])
def test_vile_values_break_no_promise(tmp_path, kind):
    judge(vile.run(tmp_path, vile.commands_of(kind, 100, seed=1)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["recipe", "line"])
def test_thousands_of_vile_values_break_no_promise(tmp_path, kind):
    judge(vile.run(tmp_path, vile.commands_of(kind, 5000, seed=2)))


def judge(found):
    bad = [item for item in found if not item.is_fine]
    assert [(item.words, item.outcome, item.lost, item.cpu_s, item.peak_bytes >> 20) for item in bad] == []
    assert {"0", "2"} <= {item.outcome for item in found}


@pytest.fixture
def place(tmp_path):
    kept = tmp_path / "kept"
    (kept / "run" / "checkpoints").mkdir(parents=True)
    (kept / "run" / "checkpoints" / "last.pt").write_text("a")
    (kept / "file").write_text("b")
    vile.shutil.copytree(kept, tmp_path / "place")
    return tmp_path / "place"


def changed(place):
    (place / "file").write_text("c")


def changed_back_in_time(place):
    status = (place / "file").stat()
    (place / "file").write_text("c")
    os.utime(place / "file", ns=(status.st_atime_ns, status.st_mtime_ns))


def gone(place):
    (place / "file").unlink()


def a_folder_gone(place):
    vile.shutil.rmtree(place / "run")


def a_folder_where_a_file_was(place):
    (place / "file").unlink()
    (place / "file").mkdir()
    (place / "file" / "new").write_text("d")


def a_link_where_a_folder_was(place):
    vile.shutil.rmtree(place / "run")
    (place / "run").symlink_to(place.parent / "kept")


WAYS = (changed, changed_back_in_time, gone, a_folder_gone, a_folder_where_a_file_was, a_link_where_a_folder_was)


@pytest.mark.parametrize("way", WAYS)
def test_harness_sees_what_was_changed_and_brings_it_back(place, way):
    files = vile.Files(place)
    before = files.look()
    (place / "new").mkdir()
    (place / "new" / "made").write_text("e")
    way(place)
    after = files.look()
    lost = [name for name in before if after.get(name) != before[name]]
    assert lost in (["file"], ["run/checkpoints/last.pt"])
    vile.restore(place, place.parent / "kept", lost)
    assert files.look() == before
    assert sorted(path.name for path in place.rglob("*")) == ["checkpoints", "file", "last.pt", "run"]
    assert (place.parent / "kept" / "run" / "checkpoints" / "last.pt").read_text() == "a"


def test_harness_sees_a_traceback_and_a_file_that_goes(tmp_path, monkeypatch):
    from pipeline import cli

    monkeypatch.chdir(tmp_path)
    original = vile.write_place

    def write_place(folder):
        original(folder)

        def clumsy():
            if vile.sys.argv[1] == "predict":
                raise KeyError("ours")
            (folder / "file").unlink()

        monkeypatch.setattr(cli, "main", clumsy)

    monkeypatch.setattr(vile, "write_place", write_place)
    monkeypatch.setattr(vile, "share_drawings", lambda: None)
    monkeypatch.setattr("pipeline.planning.devices._memory_bytes", lambda _: 2**30)
    handlers = {number: vile.signal.getsignal(number) for number in (vile.signal.SIGVTALRM, vile.signal.SIGALRM)}
    crashed, lost, again = vile.examine([["predict"], ["check"], ["check"]], tmp_path / "home")
    for number, handler in handlers.items():
        vile.signal.signal(number, handler)
    assert crashed.outcome.startswith("KeyError: 'ours'")
    assert lost.lost == again.lost == ["a/b/place/file"]
    assert not any(item.is_fine for item in (crashed, lost, again))
