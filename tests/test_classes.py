"""Classes that one side of a split has no voxel of."""

import json

import numpy as np
import pytest
from damage import SHAPE, mask, save, volume
from test_splits import case, dataset

from pipeline import runs
from pipeline.data.classes import classes_of, dataset_warnings, split_warnings
from pipeline.data.layouts import read_dataset
from pipeline.data.splits import Split
from pipeline.runs.checking import check_dataset, survey
from pipeline.runs.planning import prepare

LABELS = {0: "background", 1: "organ", 2: "nodule"}


def found(cases, classes, labels=LABELS):
    known = {name: frozenset(values) for name, values in classes.items()}
    return [(p.code, p.message, p.remedy) for p in dataset_warnings(dataset(*cases), labels, known)]


def test_class_that_only_validates_is_named_with_its_cases():
    cases = [case("a", role="training"), case("b", role="training"), case("v", role="validation")]
    ((code, message, remedy),) = found(cases, {"a": {1}, "b": {1}, "v": {1, 2}})
    assert code == "class-unseen"
    assert message == (
        "has 2 (nodule) in none of 2 masks that are trained on, so that it cannot be learnt; it is in v, which validate"
    )
    assert remedy == "train on one of these"


def test_class_that_is_never_validated_is_named_with_its_cases():
    cases = [*(case(f"c{n}", role="training") for n in range(6)), case("v", role="validation")]
    ((code, message, remedy),) = found(cases, {f"c{n}": {1, 2} for n in range(6)} | {"v": {1}})
    assert code == "class-unvalidated"
    assert message == "has 2 (nodule) in none of 1 masks that validate"
    assert "such as c0, c1, c2, c3 and 2 more" in remedy


def test_declared_class_that_no_mask_has_is_named():
    ((code, message, _),) = found([case("a"), case("b")], {"a": {1}, "b": {1}})
    assert (code, "2 (nodule) in none of 2 masks" in message) == ("class-unseen", True)


def test_class_of_one_patient_cannot_be_validated_by_a_draw():
    ((code, message, _),) = found([case("a"), case("b"), case("c")], {"a": {1}, "b": {1, 2}, "c": {1}})
    assert (code, "one patient alone, b" in message) == ("class-unvalidated", True)
    assert found([case("a"), case("b")], {"a": {1, 2}, "b": {1, 2}}) == []
    assert found([case("a")], {"a": {1, 2}}) == [], "of one mask there is nothing to say"
    assert found([case("a", label=False)], {}) == []


def test_test_cases_and_background_say_nothing():
    cases = [case("a"), case("b"), case("t", role="test")]
    assert found(cases, {"a": {1, 2}, "b": {1, 2}, "t": {1}}) == []


def test_split_is_judged_by_its_own_sides():
    a, b, c = case("a"), case("b"), case("c")
    known = {"a": {1}, "b": {1, 2}, "c": {1}}
    assert split_warnings(Split((a, b), (), (c,)), LABELS, known, "d")[0].code == "class-unvalidated"
    assert split_warnings(Split((a, c), (), (b,)), LABELS, known, "d")[0].code == "class-unseen"
    assert split_warnings(Split((b,), (), ()), LABELS, known, "d") == [], "nothing validates by intention"


def write(folder, voxels, lists=None):
    """Write scans a, b, …, and masks with organ and nodule where asked for; as a folder or as a list."""
    for n, (name, values) in enumerate(voxels.items()):
        save(folder / "images" / f"{name}.nii.gz", volume(n))
        array = mask(0)
        save(folder / "labels" / f"{name}.nii.gz", np.where(np.isin(array, values), array, 0).astype(np.uint8))
    if lists is None:
        return folder
    content = {
        section: [{"image": f"images/{n}.nii.gz", "label": f"labels/{n}.nii.gz"} for n in names]
        for section, names in lists.items()
    }
    (folder / "list.json").write_text(json.dumps(content))
    return folder / "list.json"


def codes(source):
    return [finding.code for finding in survey(read_dataset(source)).findings]


def test_check_warns_of_classes_in_any_layout(tmp_path):
    assert codes(write(tmp_path / "one", {"a": [1], "b": [1, 2], "c": [1]})) == ["class-unvalidated"]
    assert codes(write(tmp_path / "two", {"a": [1, 2], "b": [1, 2], "c": [1]})) == []
    lists = {"training": ["a", "b"], "validation": ["c"]}
    assert codes(write(tmp_path / "three", {"a": [1], "b": [1], "c": [1, 2]}, lists)) == ["class-unseen"]


def test_mask_that_cannot_be_read_makes_no_class_rare(tmp_path):
    source = write(tmp_path, {"a": [1, 2], "b": [1, 2], "c": [1]})
    (source / "labels" / "a.nii.gz").write_bytes(b"")
    assert codes(source) == ["empty-file"]


def test_dataset_that_is_only_scored_lacks_nothing(tmp_path, capsys):
    source = write(tmp_path, {"a": [1], "b": [1, 2], "c": [1]})
    assert check_dataset(read_dataset(source), to_train=False).warnings == ()
    assert [w.code for w in check_dataset(read_dataset(source)).warnings] == ["class-unvalidated"]


def test_ignored_voxels_are_no_class():
    class Facts:
        label_voxels = {0: 5, 1: 3, 2: 0, 255: 9}  # noqa: RUF012

    assert classes_of({"a": Facts()}, 255) == {"a": frozenset({1})}


@pytest.mark.parametrize("seed", range(6))
def test_training_sees_every_class_and_says_what_no_mask_validates(tmp_path, capsys, seed):
    source = write(tmp_path, {name: [1, 2] if name == "b" else [1] for name in "abcd"})
    recipe = runs.read_recipe(source, [f"seed={seed}", "max_steps=2", "device=cpu"])
    prepared = prepare(recipe)
    assert "b" in {case.id for case in prepared.split.labelled}
    assert "has 2 (label 2) in none of 1 masks that validate" in capsys.readouterr().err
    assert prepared.visible.facts["b"].shape == SHAPE
