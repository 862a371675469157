"""Labels chosen, merged, renamed and reordered as masks are read: what rewritten files would give, to the bit."""

import json
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from commands import fewmask
from runs_fixtures import make_phantom, state_of, train, write_recipe

from pipeline import runs
from pipeline.data.checked import FilesChangedError, read_case, read_label
from pipeline.data.layouts import read_dataset
from pipeline.data.relabelling import relabel
from pipeline.errors import UserError
from pipeline.runs.checking import check, check_dataset
from pipeline.runs.planning import prepare

SUPERVISED = [{"loss": "dice"}]
CHOSEN = {"nodule": (2,), "organ": (7, 1)}
OWN = {"0": "background", "1": "right part", "2": "lump", "5": "corner", "7": "left part"}
# What a file that is rewritten by hand has for each of its values.
REWRITTEN = {0: 0, 1: 2, 2: 1, 5: 0, 7: 2, 255: 255}
NEW = {0: "background", 1: "nodule", 2: "organ"}


def save_like(path, values, dtype):
    image = nib.load(path)
    header = image.header.copy()
    header.set_data_dtype(dtype)
    nib.save(nib.Nifti1Image(values.astype(dtype), image.affine, header), path)


def describe(folder, labels, ignore):
    path = folder / "dataset.json"
    content = json.loads(path.read_text()) | {"labels": labels, "ignore": ignore}
    path.write_text(json.dumps(content))


def make_pair(folder, seed=0, labelled=4, unlabelled=1):
    """Write a dataset with five values and a value to ignore, and one whose masks are rewritten with nibabel."""
    raw = make_phantom(folder / "raw" / "data", labelled=labelled, unlabelled=unlabelled, seed=seed)
    for number, path in enumerate(sorted((raw / "labelsTr").iterdir())):
        values = np.asarray(nib.load(path).dataobj).astype(np.int16)
        left = np.arange(values.shape[0])[:, None, None] < values.shape[0] // 2
        values[(values == 1) & left] = 7
        values[:3, :3, :3] = 5
        values[-4:, -4:, -4:] = 255
        save_like(path, values, [np.uint8, np.int16, np.float32][number % 3])
    rewritten = folder / "rewritten" / "data"
    shutil.copytree(raw, rewritten)
    for path in (rewritten / "labelsTr").iterdir():
        values = np.asarray(nib.load(path).dataobj).astype(np.int16)
        save_like(path, np.vectorize(REWRITTEN.get)(values), np.uint8)
    describe(raw, OWN, 255)
    describe(rewritten, {str(value): name for value, name in NEW.items()}, 255)
    return raw, rewritten


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return make_pair(tmp_path_factory.mktemp("labels"))


@pytest.fixture(scope="module")
def trained(pair, tmp_path_factory):
    """Two runs: one of chosen labels, one of rewritten files."""
    folder = tmp_path_factory.mktemp("trained")
    raw, rewritten = pair
    how = {"objective": SUPERVISED, "max_steps": 4}
    chosen = {name: list(values) for name, values in CHOSEN.items()}
    return (
        train(folder, raw, "chosen/run", labels=chosen, **how),
        train(folder, rewritten, "rewritten/run", **how),
    )


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


# As rewritten files


def test_the_check_finds_what_it_finds_in_rewritten_files(pair):
    """Counts, hashes and statistics, by which intensities are normalised."""
    raw, rewritten = pair
    ours = check_dataset(relabel(read_dataset(raw), CHOSEN))
    theirs = check(rewritten)
    assert (dict(ours.labels), ours.ignore) == (NEW, 255) == (dict(theirs.labels), theirs.ignore)
    for name, facts in theirs.facts.items():
        own = ours.facts[name]
        assert (own.stored_voxels is None) == (own.label_voxels is None)
        assert replace(own, stored_voxels=None, sha256=facts.sha256, stamps=facts.stamps) == facts


def test_masks_are_read_with_the_values_of_rewritten_files(pair):
    raw, rewritten = pair
    ours = check_dataset(relabel(read_dataset(raw), CHOSEN))
    theirs = check(rewritten)
    for case, other in zip(ours.dataset.cases, theirs.dataset.cases, strict=True):
        if case.label:
            mask = read_case(case, ours.facts[case.id])[1]
            expected = read_case(other, theirs.facts[case.id])[1]
            assert np.array_equal(mask.voxels, expected.voxels)
            assert np.array_equal(mask.affine, expected.affine)
            assert np.array_equal(read_label(case, ours.facts[case.id]).labels, expected.labels)


def test_training_and_scores_are_those_of_rewritten_files_to_the_bit(trained):
    chosen, rewritten = trained
    ours = state_of(chosen)
    theirs = state_of(rewritten)
    for part in theirs.keys() - {"recipe"}:
        assert same(ours[part], theirs[part]), part
    for name in ("cases.csv", "history.csv", "validation.csv", "split.json"):
        assert (chosen / name).read_bytes() == (rewritten / name).read_bytes(), name
    told = json.loads((chosen / "summary.json").read_text())
    assert told["classes"] == json.loads((rewritten / "summary.json").read_text())["classes"]
    assert [row["name"] for row in told["classes"]] == ["nodule", "organ"]


def test_predictions_have_the_new_values(trained, pair, tmp_path):
    raw, _ = pair
    scan = next((raw / "imagesTs").iterdir())
    for run, place in zip(trained, ("a", "b"), strict=True):
        runs.predict(run, [scan], tmp_path / place)
    assert (tmp_path / "a" / scan.name).read_bytes() == (tmp_path / "b" / scan.name).read_bytes()
    assert set(np.unique(nib.load(tmp_path / "a" / scan.name).dataobj)) <= {0, 1, 2}


def test_validating_again_and_on_other_data_chooses_the_same_labels(trained, tmp_path):
    chosen, rewritten = trained
    before = (chosen / "cases.csv").read_bytes()
    runs.validate(chosen)
    assert (chosen / "cases.csv").read_bytes() == before
    other, rewritten_other = make_pair(tmp_path, seed=8, labelled=2, unlabelled=0)
    ours = runs.validate(chosen, other)
    theirs = runs.validate(rewritten, rewritten_other)
    assert (ours.folder / "cases.csv").read_bytes() == (theirs.folder / "cases.csv").read_bytes()


def test_names_stand_for_values(pair):
    raw, _ = pair
    dataset = read_dataset(raw)
    by_name = relabel(dataset, {"nodule": ("lump",), "organ": ("left part", 1)})
    assert by_name.relabelling == relabel(dataset, CHOSEN).relabelling
    assert by_name.cases == relabel(dataset, CHOSEN).cases


def test_a_dataset_that_declares_no_labels_can_be_chosen_from(pair, tmp_path):
    raw, _ = pair
    shutil.copytree(raw, tmp_path / "data")
    describe(tmp_path / "data", {}, 255)
    index = check_dataset(relabel(read_dataset(tmp_path / "data"), CHOSEN))
    assert dict(index.labels) == NEW
    assert {name: facts.label_voxels for name, facts in index.facts.items()} == {
        name: facts.label_voxels for name, facts in check_dataset(relabel(read_dataset(raw), CHOSEN)).facts.items()
    }


@pytest.mark.parametrize("own", [1, 0, 2])
def test_the_value_to_ignore_makes_room_for_a_new_label(dataset_folder, make_scan, own):
    """The dataset's own labels are 3 and 4, which become 1 and 2."""
    folder = dataset_folder(labelled=3, unlabelled=0)
    for path in (folder / "labelsTr").iterdir():
        values = np.zeros((8, 9, 10), np.uint8) + (9 if own == 0 else 0)
        values[:2] = own
        values[3:5] = 3
        values[6:] = 4
        save_like(path, values, np.uint8)
    describe(folder, {"3": "a", "4": "b", "9": "c"}, own)
    index = check_dataset(relabel(read_dataset(folder), {"a": (3,), "b": (4,)}))
    assert (dict(index.labels), index.ignore) == ({0: "background", 1: "a", 2: "b"}, 3)
    for facts in index.facts.values():
        assert facts.label_voxels == {0: 180, 1: 180, 2: 180, 3: 180}
    for path in (folder / "labelsTr").iterdir():
        values = np.asarray(nib.load(path).dataobj).astype(int)
        save_like(path, np.select([values == own, values == 3, values == 4], [3, 1, 2], 0), np.uint8)
    describe(folder, {"1": "a", "2": "b"}, 3)
    for name, facts in check(folder).facts.items():
        assert index.facts[name].intensities == facts.intensities


# What is said and refused


def test_what_becomes_background_is_a_warning_with_its_count(pair, tmp_path, capsys):
    raw, _ = pair
    found = [p for p in check_dataset(relabel(read_dataset(raw), CHOSEN)).warnings if p.code == "label-left-out"]
    assert [p.message for p in found] == ["does not name 5 (corner), which becomes background: 108 voxels of 4 masks"]
    prepare(runs.read_recipe(write_recipe(tmp_path, raw, labels={"organ": [1, 7], "nodule": 2})))
    assert "1 label-left-out" in capsys.readouterr().err


def test_a_mask_without_any_chosen_label_is_empty(pair, tmp_path):
    raw, _ = pair
    shutil.copytree(raw, tmp_path / "data")
    path = sorted((tmp_path / "data" / "labelsTr").iterdir())[0]
    values = np.asarray(nib.load(path).dataobj).astype(np.uint8)
    save_like(path, np.where(values == 2, 5, values), np.uint8)
    warnings = check_dataset(relabel(read_dataset(tmp_path / "data"), {"nodule": (2,)})).warnings
    assert [p.where for p in warnings if p.code == "empty-mask"] == [str(path)]


def test_a_name_where_labels_have_none_is_told_to_give_values(pair):
    raw, _ = pair
    unnamed = replace(read_dataset(raw), labels=None)
    (problem,) = relabel(unnamed, {"organ": (1, "liver")}).problems
    assert problem.remedy == "give values: labels have no names here"


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"a": 1, "b": 6}, "labels.b: has 6, and the dataset declares 1 right part, 2 lump, 5 corner, 7 left part"),
        ({"a": [1, 2], "b": [7, 2]}, "labels.b: has 2, which a has too"),
        ({"a": [1, 1]}, "labels.a: has 1, which a has too"),
        ({"a": ["lump", 2]}, "labels.a: has 2, which a has too"),
        ({"a": "lumb"}, "labels.a: has 'lumb', which is no label of the dataset"),
        ({"a": "background"}, "labels.a: has 'background', which is no structure"),
        ({"a": 255}, "labels.a: has 255, which is no structure"),
        ({"background": 1}, "labels.background: cannot be chosen"),
    ],
)
def test_mistakes_are_refused_by_name(pair, tmp_path, chosen, message):
    raw, _ = pair
    with pytest.raises(UserError) as error:
        prepare(runs.read_recipe(write_recipe(tmp_path, raw, labels=chosen)))
    assert message in str(error.value)
    assert "bad-labels" in {problem.code for problem in error.value.problems}


def test_all_mistakes_are_in_one_message(pair, tmp_path):
    raw, _ = pair
    with pytest.raises(UserError) as error:
        prepare(runs.read_recipe(write_recipe(tmp_path, raw, labels={"a": [6, "x"], "b": [1, 1]})))
    assert [problem.where for problem in error.value.problems][:3] == ["labels.a", "labels.a", "labels.b"]


@pytest.mark.parametrize("declared", [True, False])
def test_a_value_that_no_mask_has_is_refused(pair, tmp_path, declared):
    raw, _ = pair
    shutil.copytree(raw, tmp_path / "data")
    describe(tmp_path / "data", OWN | {"9": "ghost"} if declared else {}, 255)
    recipe = write_recipe(tmp_path, tmp_path / "data", labels={"organ": [1, 9], "nodule": 2})
    with pytest.raises(UserError, match=r"labels\.organ: has 9, which none of 4 masks has"):
        prepare(runs.read_recipe(recipe))


def test_another_dataset_may_lack_a_value_but_no_name(pair):
    dataset = read_dataset(pair[0])
    lenient = relabel(dataset, {"a": (6,)}, to_train=False)
    assert [p.code for p in lenient.problems if p.code == "bad-labels"] == []
    assert [p.code for p in relabel(dataset, {"a": ("x",)}, to_train=False).problems][-1] == "bad-labels"


def test_a_mask_that_is_changed_after_the_check_is_refused(pair, tmp_path):
    raw, _ = pair
    shutil.copytree(raw, tmp_path / "data")
    index = check_dataset(relabel(read_dataset(tmp_path / "data"), CHOSEN))
    case = index.dataset.cases[0]
    values = np.asarray(nib.load(case.label).dataobj).astype(np.int16)
    save_like(case.label, values, np.int32)
    read_label(case, index.facts[case.id])  # The same values in another type.
    save_like(case.label, np.where(values == 2, 1, values), np.int32)
    with pytest.raises(FilesChangedError):
        read_label(case, index.facts[case.id])


def test_a_run_goes_on_with_its_own_labels_alone(trained, pair, tmp_path):
    raw, _ = pair
    place = tmp_path / "run"
    shutil.copytree(trained[0], place)
    how = {"objective": SUPERVISED, "max_steps": 4, "resume": True}
    train(tmp_path, raw, "run", labels={"nodule": [2], "organ": [7, 1]}, **how)
    for other in ("{organ: [7, 1], nodule: 2}", "{nodule: 2, organ: 7}"):
        with pytest.raises(UserError, match=r"[Nn]othing was resumed"):
            train(tmp_path, raw, "run", f"labels={other}", **how)


def test_the_command_line_chooses_labels(pair, tmp_path):
    raw, _ = pair
    recipe = write_recipe(tmp_path, raw, objective=SUPERVISED, max_steps=1)
    done = fewmask("train", recipe, "labels={organ: [1, 7], lumps: lump}", "--output", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "lumps" in done.stdout
    done = fewmask("train", recipe, "labels={organ: 6}", "--output", tmp_path / "other")
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert not (tmp_path / "other").exists()
