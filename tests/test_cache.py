import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from pipeline.data import cache as cache_module
from pipeline.data.cache import Cache
from pipeline.data.check import Check
from pipeline.data.layouts import open_dataset
from pipeline.data.transforms import Grid, case_files, case_transforms

GRID = Grid("RAS", (1.0, 1.0, 1.0))


def indexed(source):
    check = Check(open_dataset(source))
    list(check)
    return check.index()


@pytest.fixture
def cache(dataset_folder, tmp_path):
    return Cache(tmp_path / "cache", indexed(dataset_folder(labelled=2, unlabelled=1)), GRID)


def written(cache):
    return {path.name: path.stat().st_mtime_ns for path in cache.folder.iterdir()}


def keys_of(cache):
    return {name.split(".")[0] for name in written(cache)}


def test_a_case_comes_back_as_the_transforms_made_it(cache):
    assert list(cache.fill(cache.index.dataset.cases)) == ["case_000", "case_001", "case_002"]
    for case in cache.index.dataset.cases:
        expected, stored = case_transforms(GRID, [0, 1])(case_files(case)), cache.get(case)
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
        assert isinstance(array, np.memmap)
        assert not array.flags.writeable


def test_a_second_fill_writes_nothing(cache, monkeypatch):
    cases = cache.index.dataset.cases
    list(cache.fill(cases))
    before = written(cache)
    assert len(before) == 9
    monkeypatch.setattr(np, "save", None)
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
    next(cache.folder.glob("*.annotation.npy")).unlink()
    list(cache.fill(cases))
    assert set(written(cache)) == set(before)


def test_a_failed_write_leaves_no_part_behind(cache, monkeypatch):
    def full(path, array):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="No space"):
        list(cache.fill(cache.index.dataset.cases))
    assert written(cache) == {}


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
        cache = Cache(tmp_path / name, indexed(tmp_path / f"{name}.json"), GRID)
        list(cache.fill(cache.index.dataset.cases))
        keys.append(keys_of(cache))
    assert keys[0] != keys[1]


def test_a_moved_dataset_hits(cache, tmp_path):
    list(cache.fill(cache.index.dataset.cases))
    before = written(cache)
    shutil.move(tmp_path / "dataset", tmp_path / "elsewhere")
    moved = Cache(cache.folder, indexed(tmp_path / "elsewhere"), GRID)
    list(moved.fill(moved.index.dataset.cases))
    assert written(cache) == before


def test_a_new_version_of_the_transforms_is_another_entry(cache, monkeypatch):
    list(cache.fill(cache.index.dataset.cases))
    monkeypatch.setattr(cache_module, "VERSION", cache_module.VERSION + 1)
    list(cache.fill(cache.index.dataset.cases))
    assert len(keys_of(cache)) == 6
