"""Whatever is read again after the check is what was checked: scored, taught, predicted, validated, resumed."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import exchanges
import numpy as np
import pytest
from exchanges import OF_WHOLE_NUMBERS, OTHER, SAME, any_orientation, put_back, store_without_packing, turned
from scipy.spatial.transform import Rotation

from pipeline.data.cache import Cache
from pipeline.data.check import Check, read_facts
from pipeline.data.checked import FilesChangedError, read_case, read_images, read_label
from pipeline.data.layouts import open_dataset
from pipeline.data.transforms import Grid
from pipeline.nifti.volume import load
from pipeline.strict_json import write_json

SHAPE = (12, 13, 11)


def indexed(source, known=None):
    look = Check(open_dataset(source), known=known or {})
    list(look)
    return look.index()


# Between the check and the preparation of a case


def write_case(folder, make_scan, rng, suffix):
    """A case of two channels and a mask on an oblique grid."""
    affine = np.diag([*rng.uniform(0.5, 3, 3), 1.0])
    affine[:3, :3] = Rotation.random(random_state=rng).as_matrix() @ affine[:3, :3]
    affine[:3, 3] = rng.uniform(-200, 200, 3)
    for name in ("a", "b"):
        make_scan(folder / f"{name}{suffix}", rng.integers(-500, 500, SHAPE).astype(np.int16), affine)
    make_scan(folder / f"mask{suffix}", rng.integers(0, 3, SHAPE).astype(np.uint8), affine)
    files = [folder / f"{name}{suffix}" for name in ("a", "b", "mask")]
    for path in files:
        store_without_packing(path)
    entry = {"image": [path.name for path in files[:2]], "label": files[2].name}
    (folder / "list.json").write_text(json.dumps({"training": [entry]}))
    return files


def prepared(index):
    """What a training learns of the case, without a cache between."""
    (case,) = index.dataset.cases
    return Cache(folder=None, index=index, grid=Grid("RAS", (1.1, 0.9, 1.3))).get(case)


def equal(one, other):
    return all(np.array_equal(one[part], other[part]) for part in one)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("act", [*SAME, *OF_WHOLE_NUMBERS], ids=lambda act: act.__name__)
def test_a_file_of_the_same_values_on_the_same_grid_is_no_false_alarm(tmp_path, make_scan, act, suffix):
    rng = np.random.default_rng(len(act.__name__))
    files = write_case(tmp_path, make_scan, rng, suffix)
    index = indexed(tmp_path / "list.json")
    before = prepared(index)
    for path in files:
        with put_back(path):
            act(path, rng)
            assert equal(prepared(index), before)
    for path in files:
        act(path, rng)
    assert equal(prepared(index), before)
    # Looked at again, it is the case that it was.
    again, known = indexed(tmp_path / "list.json", index.facts).facts, index.facts
    (name,) = known
    assert replace(again[name], sha256=(), stamps=()) == replace(known[name], sha256=(), stamps=())
    assert equal(prepared(replace(index, facts=again)), before)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("act", OTHER, ids=lambda act: act.__name__)
def test_another_file_is_refused_by_name(tmp_path, make_scan, act, suffix):
    rng = np.random.default_rng(len(act.__name__))
    files = write_case(tmp_path, make_scan, rng, suffix)
    index = indexed(tmp_path / "list.json")
    for path in files:
        with put_back(path):
            act(path, rng)
            with pytest.raises(FilesChangedError) as raised:
                prepared(index)
            assert [(p.where, p.code) for p in raised.value.problems] == [(str(path), "file-changed")]
    prepared(index)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_file_of_another_case_is_refused(tmp_path, make_scan, suffix):
    rng = np.random.default_rng(0)
    files = write_case(tmp_path, make_scan, rng, suffix)
    (tmp_path / "other").mkdir()
    others = write_case(tmp_path / "other", make_scan, rng, suffix)
    index = indexed(tmp_path / "list.json")
    for path, other in zip(files, others, strict=True):
        with put_back(path):
            shutil.copy(other, path)
            with pytest.raises(FilesChangedError):
                prepared(index)


@pytest.mark.parametrize("seed", range(6))
def test_a_case_that_was_turned_is_the_same_and_a_file_that_was_turned_alone_is_not(tmp_path, make_scan, seed):
    """Voxel on voxel a turned mask would be on other tissue, and its shape is often the same."""
    rng = np.random.default_rng(seed)
    files = write_case(tmp_path, make_scan, rng, ".nii.gz")
    index = indexed(tmp_path / "list.json")
    before, orientation = prepared(index), any_orientation(rng)
    for path in files:
        with put_back(path):
            turned(path, orientation)
            with pytest.raises(FilesChangedError, match=r"no longer lies on the grid of") as raised:
                prepared(index)
            assert [p.where for p in raised.value.problems] == [str(path)]
    for path in files:
        turned(path, orientation)
    after = prepared(index)
    np.testing.assert_array_equal(after["annotation"], before["annotation"])
    np.testing.assert_allclose(after["image"], before["image"], atol=1e-5)
    (name,) = index.facts
    facts = indexed(tmp_path / "list.json", index.facts).facts[name]
    assert replace(facts, sha256=(), stamps=()) == replace(index.facts[name], sha256=(), stamps=())


def test_a_mask_alone_is_read_by_the_same_rule(tmp_path, make_scan):
    rng = np.random.default_rng(0)
    *images, mask = write_case(tmp_path, make_scan, rng, ".nii")
    index = indexed(tmp_path / "list.json")
    (case,), (facts,) = index.dataset.cases, index.facts.values()
    assert read_label(case, facts).sha256 == load(mask).sha256
    exchanges.packed_otherwise(mask, rng)
    assert [scan.path for scan in read_images(case, facts)] == images
    exchanges.rolled(mask, rng)
    with pytest.raises(FilesChangedError, match="it holds other values"):
        read_label(case, facts)
    assert [scan.path for scan in read_images(case, facts)] == images
    with pytest.raises(ValueError, match="has no label"):
        read_label(replace(case, label=None), facts)


def test_every_file_of_a_case_that_has_changed_is_named(tmp_path, make_scan):
    rng = np.random.default_rng(0)
    files = write_case(tmp_path, make_scan, rng, ".nii")
    index = indexed(tmp_path / "list.json")
    (case,), (facts,) = index.dataset.cases, index.facts.values()
    files[0].unlink()
    exchanges.shifted(files[1], rng)
    exchanges.rolled(files[2], rng)
    with pytest.raises(FilesChangedError) as raised:
        read_case(case, facts)
    messages = {Path(p.where): p.message.partition(": ")[2] for p in raised.value.problems}
    assert list(messages) == files
    assert list(messages.values()) == ["there is no such file", "it has another grid", "it holds other values"]


def test_a_scan_of_real_numbers_that_was_rounded_is_another(tmp_path, make_scan):
    rng = np.random.default_rng(0)
    make_scan("a.nii", rng.normal(size=SHAPE))
    make_scan("mask.nii", rng.integers(0, 2, SHAPE).astype(np.uint8))
    (tmp_path / "list.json").write_text(json.dumps({"training": [{"image": "a.nii", "label": "mask.nii"}]}))
    index = indexed(tmp_path / "list.json")
    before = prepared(index)
    with put_back(tmp_path / "a.nii"):
        exchanges.of_type(np.float32)(tmp_path / "a.nii", rng)
        assert equal(prepared(index), before)
        exchanges.of_type(np.float16)
        voxels, affine, _ = exchanges.opened(tmp_path / "a.nii")
        exchanges.save(tmp_path / "a.nii", voxels.astype(np.float16).astype(np.float32), affine)
        with pytest.raises(FilesChangedError):
            prepared(index)


def test_facts_of_which_somebody_altered_the_grid_are_none(tmp_path, make_scan):
    write_case(tmp_path, make_scan, np.random.default_rng(0), ".nii")
    rows = indexed(tmp_path / "list.json").as_rows()
    write_json(tmp_path / "index.json", rows)
    assert read_facts(tmp_path / "index.json")
    for affine in ([[1, 0], [0, 1]], [[0] * 4] * 4, "none"):
        write_json(tmp_path / "index.json", [rows[0] | {"affine": affine}])
        assert read_facts(tmp_path / "index.json") == {}
