import json
import mmap
import multiprocessing
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.data import cache as cache_module
from pipeline.data.cache import DAY_S, Cache, prune
from pipeline.data.check import Check
from pipeline.data.index import rows_of
from pipeline.data.layouts import open_dataset
from pipeline.data.normalization import IntensityRange
from pipeline.data.transforms import Grid, case_transforms
from pipeline.nifti.volume import load
from pipeline.strict_json import write_json

GRID = Grid("RAS", (1.0, 1.0, 1.0))


def indexed(source):
    check = Check(open_dataset(source))
    list(check)
    return check.index()


@pytest.fixture
def cache(dataset_folder, tmp_path):
    return Cache(folder=tmp_path / "cache", index=indexed(dataset_folder(labelled=2, unlabelled=1)), grid=GRID)


def scans_of(case):
    scans = {"image": [load(path) for path in case.images]}
    return scans | ({"annotation": load(case.label)} if case.label else {})


def written(cache):
    return {path.name: path.stat().st_mtime_ns for path in cache.folder.glob("*.npz")}


def keys_of(cache):
    return {name.removesuffix(".npz") for name in written(cache)}


def fill(cache):
    return list(cache.fill(cache.index.dataset.cases))


def equal(first, second):
    return all(np.array_equal(first[part], second[part]) for part in ("image", "annotation", "locations"))


def test_a_case_comes_back_as_the_transforms_made_it(cache):
    assert list(cache.fill(cache.index.dataset.cases)) == ["case_000", "case_001", "case_002"]
    for case in cache.index.dataset.cases:
        expected, stored = case_transforms(GRID, [0, 1])(scans_of(case)), cache.get(case)
        assert set(stored) == {"image", "annotation", "locations"}
        for part in ("image", "annotation"):
            np.testing.assert_array_equal(stored[part], expected[part].numpy())
        assert (stored["image"].dtype, stored["annotation"].dtype) == (np.float32, np.uint8)
        assert stored["locations"].shape[0] == 2
        assert (stored["locations"].max() >= 0) == (case.label is not None)


def test_arrays_are_mapped_and_cannot_be_written_to(cache):
    cases = cache.index.dataset.cases
    list(cache.fill(cases))
    for array in cache.get(cases[0]).values():
        assert isinstance(array.base, mmap.mmap)
        assert not array.flags.writeable


def test_a_second_fill_writes_nothing(cache, monkeypatch):
    cases = cache.index.dataset.cases
    list(cache.fill(cases))
    before = written(cache)
    assert len(before) == 3
    monkeypatch.setattr(np, "savez", None)
    assert list(cache.fill(cases)) == [case.id for case in cases]
    assert written(cache) == before


def test_a_case_is_prepared_only_when_its_turn_comes(cache):
    filling = cache.fill(cache.index.dataset.cases)
    next(filling)
    assert len(keys_of(cache)) == 1


def test_what_a_stopped_fill_left_out_is_made_up_for(cache):
    cases = cache.index.dataset.cases
    list(cache.fill(cases))
    before = written(cache)
    next(cache.folder.glob("*.npz")).unlink()
    list(cache.fill(cases))
    assert set(written(cache)) == set(before)


@pytest.mark.parametrize("grid", [Grid("LPS", GRID.spacing_mm), Grid("RAS", (1.0, 1.0, 1.5))])
def test_another_grid_is_another_entry(cache, grid):
    list(cache.fill(cache.index.dataset.cases))
    before = keys_of(cache)
    other = replace(cache, grid=grid)
    list(other.fill(cache.index.dataset.cases))
    assert len(keys_of(cache) - before) == 3
    assert before < keys_of(cache)


def test_other_label_values_are_another_entry_and_other_names_are_not(cache):
    cases = cache.index.dataset.cases
    list(cache.fill(cases))
    for labels, new in (({0: "air", 1: "lump"}, 0), ({0: "background", 1: "blob", 2: "more"}, 3)):
        list(replace(cache, index=replace(cache.index, labels=labels)).fill(cases))
        assert len(keys_of(cache)) == 3 + new


def test_other_content_is_another_entry_under_the_same_name(cache, make_scan):
    case = cache.index.dataset.cases[0]
    list(cache.fill([case]))
    old = np.array(cache.get(case)["image"])
    make_scan(case.images[0], np.random.default_rng(9).integers(1, 1000, size=(8, 9, 10), dtype=np.int16))
    fresh = replace(cache, index=indexed(cache.index.dataset.source))
    list(fresh.fill([case]))
    assert len(keys_of(cache)) == 2
    assert not np.array_equal(fresh.get(case)["image"], old)


def test_another_mask_is_another_entry(cache, make_scan):
    case = cache.index.dataset.cases[0]
    list(cache.fill([case]))
    make_scan(case.label, np.ones((8, 9, 10), np.uint8))
    fresh = replace(cache, index=indexed(cache.index.dataset.source))
    list(fresh.fill([case]))
    assert len(keys_of(cache)) == 2


def test_a_file_as_a_channel_is_not_that_file_as_a_mask(tmp_path, make_scan):
    for name in ("a", "b"):
        make_scan(f"{name}.nii", (np.indices((6, 6, 6))[0] > "ab".index(name)).astype(np.uint8))
    keys = []
    for name, entry in (("channel", {"image": ["a.nii", "b.nii"]}), ("mask", {"image": "a.nii", "label": "b.nii"})):
        section = "training" if "label" in entry else "unlabeled"
        (tmp_path / f"{name}.json").write_text(json.dumps({"labels": {"1": "x"}, section: [entry]}))
        cache = Cache(folder=tmp_path / name, index=indexed(tmp_path / f"{name}.json"), grid=GRID)
        list(cache.fill(cache.index.dataset.cases))
        keys.append(keys_of(cache))
    assert keys[0] != keys[1]


def test_a_moved_dataset_hits(cache, tmp_path):
    list(cache.fill(cache.index.dataset.cases))
    before = written(cache)
    shutil.move(tmp_path / "dataset", tmp_path / "elsewhere")
    moved = Cache(folder=cache.folder, index=indexed(tmp_path / "elsewhere"), grid=GRID)
    list(moved.fill(moved.index.dataset.cases))
    assert written(cache) == before


def test_a_new_version_of_the_transforms_is_another_entry(cache, monkeypatch):
    list(cache.fill(cache.index.dataset.cases))
    monkeypatch.setattr(cache_module, "VERSION", cache_module.VERSION + 1)
    list(cache.fill(cache.index.dataset.cases))
    assert len(keys_of(cache)) == 6


def test_another_range_or_library_is_another_entry(cache, monkeypatch):
    fill(cache)
    fill(replace(cache, ranges=(IntensityRange(0, 500, 100, 50),)))
    assert len(keys_of(cache)) == 6
    monkeypatch.setitem(cache_module.LIBRARIES, "monai", "99")
    fill(cache)
    assert len(keys_of(cache)) == 9


# Damage


def test_no_flipped_bit_and_no_cut_is_ever_served(cache):
    """A sample of all bytes, half of it from the archive's own records at both ends."""
    case = cache.index.dataset.cases[0]
    list(cache.fill([case]))
    (path,), expected = cache.folder.glob("*.npz"), cache.get(case)
    expected = {part: np.array(array) for part, array in expected.items()}
    sound, rng = path.read_bytes(), np.random.default_rng(0)
    ends = [*range(200), *range(len(sound) - 300, len(sound))]
    places = {*rng.choice(ends, 80).tolist(), *rng.integers(0, len(sound), 80).tolist()}
    rebuilt = 0
    for place in sorted(places):
        damaged = bytearray(sound)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        list(cache.fill([case]))
        rebuilt += path.read_bytes() == sound
        assert equal(cache.get(case), expected), place
    # The others changed what nothing depends on, such as the time of writing.
    assert rebuilt > 0.7 * len(places)
    for length in (0, 1, 100, len(sound) // 2, len(sound) - 1):
        path.write_bytes(sound[:length])
        list(cache.fill([case]))
        assert path.read_bytes() == sound


def test_an_entry_that_goes_during_a_run_is_prepared_anew(cache):
    fill(cache)
    case = cache.index.dataset.cases[0]
    expected = {part: np.array(array) for part, array in cache.get(case).items()}
    for path in cache.folder.glob("*.npz"):
        path.unlink()
    assert equal(cache.get(case), expected)


def test_without_a_folder_cases_are_prepared_alike_and_nothing_is_written(cache, tmp_path):
    fill(cache)
    off = replace(cache, folder=None)
    before = files_below(tmp_path)
    assert fill(off) == [case.id for case in cache.index.dataset.cases]
    assert all(equal(off.get(case), cache.get(case)) for case in cache.index.dataset.cases)
    assert files_below(tmp_path) == before


def files_below(folder):
    return sorted(folder.rglob("*"))


@pytest.mark.parametrize("fails_at", [0, 2])
def test_a_full_disk_leaves_no_part_behind_and_the_same_cases(cache, monkeypatch, fails_at):
    savez, calls = np.savez, []

    def full(path, **arrays):
        calls.append(path)
        if len(calls) > fails_at:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        savez(path, **arrays)

    monkeypatch.setattr(np, "savez", full)
    assert fill(cache) == [case.id for case in cache.index.dataset.cases]
    assert cache.failure.strerror == "No space left on device"
    assert len(calls) == fails_at + 1  # not tried again for every case
    assert len(written(cache)) == fails_at
    assert {path.suffix for path in cache.folder.iterdir()} <= {".npz", ""}
    off = replace(cache, folder=None)
    assert all(equal(off.get(case), cache.get(case)) for case in cache.index.dataset.cases)


# Several processes


def fill_in_a_process(cache, log):
    def noted(path, savez=np.savez, **arrays):
        with log.open("a") as file:
            file.write(f"{path.name[-10:]}\n")
        time.sleep(0.05)
        savez(path, **arrays)

    np.savez = noted
    assert len(fill(cache)) == len(cache.index.dataset.cases)
    assert all(cache.get(case)["image"].shape for case in cache.index.dataset.cases)


def test_processes_that_fill_one_cache_share_the_work(dataset_folder, tmp_path):
    cache = Cache(folder=tmp_path / "cache", index=indexed(dataset_folder(labelled=5, unlabelled=4)), grid=GRID)
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=fill_in_a_process, args=(cache, tmp_path / "log")) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    made = (tmp_path / "log").read_text().split()
    assert len(made) == len(set(made)) == len(keys_of(cache)) == 9


def test_a_crop_reads_only_its_own_pages(tmp_path, make_scan):
    make_scan("images/big.nii", np.random.default_rng(0).normal(size=(96, 256, 160)).astype(np.float32))
    cache = Cache(folder=tmp_path / "cache", index=indexed(tmp_path), grid=Grid("RAS", (0.0, 0.0, 0.0)))
    fill(cache)
    (entry,) = cache.folder.glob("*.npz")
    with entry.open("rb") as file:  # out of memory, so that what comes back was read for the crop
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    arrays = cache.get(cache.index.dataset.cases[0])
    np.array(arrays["image"][:, 50:66, 50:66, 50:66])
    lines = Path("/proc/self/smaps").read_text().splitlines()
    start = next(n for n, line in enumerate(lines) if line.endswith(entry.name))
    resident = next(int(line.split()[1]) * 1024 for line in lines[start:] if line.startswith("Rss:"))
    # 16 of 96 slices, 16 of 256 rows of each; the system reads ahead a little.
    assert resident < 0.25 * entry.stat().st_size


def test_what_others_have_verified_is_not_read_and_what_is_missing_is_made(cache, monkeypatch):
    fill(cache)
    cases = cache.index.dataset.cases
    gone, *rest = written(cache)
    (cache.folder / gone).unlink()
    read, is_sound = [], cache_module._is_sound
    monkeypatch.setattr(cache_module, "_is_sound", lambda path: read.append(path.name) or is_sound(path))
    assert list(cache.fill(cases, verified=True)) == [case.id for case in cases]
    assert {*read} == {gone}
    assert sorted(written(cache)) == sorted([gone, *rest])


# Pruning


def test_only_entries_that_nothing_has_used_for_so_long_are_deleted(cache):
    fill(cache)
    old, fresh, partial = (
        cache.folder / name for name in (*sorted(written(cache))[:2], f".partial-0a0b0c0d.{'0' * 32}.npz")
    )
    other, found = cache.folder / "notes.txt", cache.folder / f"facts-{'0' * 32}-2-of-3.json"
    for path in (partial, other):
        path.write_text("mine")
    write_json(found, rows_of(cache.index.facts.values()))
    long_ago = time.time() - 40 * DAY_S
    for path in (old, partial, other, found):
        os.utime(path, (long_ago, long_ago))
    size = old.stat().st_size + found.stat().st_size + 4
    assert prune(cache.folder, 30) == (3, size)
    assert not found.exists()
    assert not old.exists()
    assert not partial.exists()
    assert fresh.exists()
    assert other.exists()


def test_files_of_a_user_that_only_have_the_names_of_entries_stay(tmp_path):
    names = ("0" * 32 + ".npz", "1" * 32 + ".npz", "2" * 32 + ".npz", f"facts-{'0' * 32}.json", "a.npz")
    (tmp_path / "a.npz").write_bytes(b"of the user")
    (tmp_path / names[0]).write_bytes(b"of the user")
    np.savez(tmp_path / names[1], image=np.zeros(3))
    (tmp_path / names[2]).symlink_to(tmp_path / "a.npz")
    (tmp_path / names[3]).write_text('{"case": 1}')
    for name in names:
        os.utime(tmp_path / name, (0, 0))
    assert prune(tmp_path, 30) == (0, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_a_run_s_use_keeps_an_entry(cache):
    fill(cache)
    long_ago = time.time() - 40 * DAY_S
    for name in written(cache):
        os.utime(cache.folder / name, (long_ago, long_ago))
    fill(cache)
    assert prune(cache.folder, 30) == (0, 0)
