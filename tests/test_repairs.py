"""Repairs: only by name, never in place, and the copy passes."""

import json

import nibabel as nib
import numpy as np
import pytest
from damage import AFFINE, FILES, SHAPE, mask, save, volume, write_sound
from runs_fixtures import files_in

from pipeline.data.codes import CODES
from pipeline.data.layouts import read_dataset
from pipeline.data.repairs import FIXES, refuse_unknown
from pipeline.errors import UserError
from pipeline.runs.checking import repair, survey


@pytest.fixture
def spoilt(tmp_path):
    """A function that spoils the first case of a sound dataset, and returns the dataset."""

    def make(*names, layout="decathlon"):
        made = write_sound(layout, tmp_path / "data")
        for name in names:
            what = FILES[name]
            what.spoil((made.images if what.on == "image" else made.labels)[0])
        return made

    return make


def repaired(made, folder, *names):
    look = survey(read_dataset(made.source))
    assert look.problems
    return repair(look, names, folder)


def first(folder, side):
    return nib.load(min((folder / side).iterdir()))


CASES = {
    "qform against sform": "use-qform",
    "voxel NaN": "fill-nonfinite",
    "voxel infinite": "fill-nonfinite",
    "label stored backwards": "reorient",
    "label permuted": "reorient",
    "label shifted": "copy-affine",
    "label flipped about the origin": "copy-affine",
    "label 1.99998": "round-labels",
}


@pytest.mark.parametrize("layout", ["decathlon", "datalist", "bids", "nnunet"])
@pytest.mark.parametrize(("name", "fix"), CASES.items())
def test_a_repaired_copy_passes_and_the_original_is_untouched(spoilt, tmp_path, name, fix, layout):
    made = spoilt(name, layout=layout)
    before = files_in(made.folder)
    look, log = repaired(made, tmp_path / "copy", fix)
    assert look.findings == []
    assert files_in(made.folder) == before
    assert [(line.fix, line.file) for line in log] == [(fix, str((made.images + made.labels)[4 * ("label" in name)]))]
    assert json.loads((tmp_path / "copy" / "repairs.json").read_text())[0]["done"] == log[0].done
    roles = {case.id: (case.role, case.patient) for case in look.dataset.cases}
    assert roles.keys() == {case.id for case in read_dataset(made.source).cases}
    assert len(look.sound) == 4


def test_every_repair_that_a_code_names_is_known_and_the_reverse():
    assert {fix for code in CODES.values() for fix in code.fixes} == FIXES.keys()
    assert set(CASES.values()) | {"use-sform"} == FIXES.keys()


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_masks_of_64_bits_are_repaired(spoilt, tmp_path, dtype):
    made = spoilt()
    moved = AFFINE.copy()
    moved[0, 3] += 3
    nib.save(nib.Nifti1Image(mask(0).astype(dtype), moved, dtype=dtype), made.labels[0])
    look, _ = repaired(made, tmp_path / "copy", "copy-affine")
    assert look.findings == []
    assert nib.load(min((tmp_path / "copy" / "labels").iterdir())).get_data_dtype() == dtype


def test_a_repaired_copy_opens_as_a_folder_whatever_its_labels_are_called(spoilt, tmp_path):
    made = spoilt("label shifted")
    listing = made.folder / "dataset.json"
    listing.write_text(json.dumps(json.loads(listing.read_text()) | {"labels": {"0": "0", "1": "1", "2": "2"}}))
    repaired(made, tmp_path / "copy", "copy-affine")
    dataset = read_dataset(tmp_path / "copy")
    assert (dataset.problems, dataset.layout) == ((), "datalist")
    assert dataset.labels == {0: "0", 1: "1", 2: "2"}


def test_each_form_can_be_chosen(spoilt, tmp_path):
    made = spoilt("qform against sform")
    moved = AFFINE.copy()
    moved[0, 3] += 3
    save(made.labels[0], mask(0), moved)
    look, _ = repaired(made, tmp_path / "copy", "use-sform")
    assert look.findings == []
    np.testing.assert_allclose(first(tmp_path / "copy", "images").affine, moved)


def test_what_a_repair_does_to_voxels(spoilt, tmp_path):
    made = spoilt("voxel NaN", "label stored backwards")
    repaired(made, tmp_path / "copy", "fill-nonfinite", "reorient")
    image, label = (np.asanyarray(first(tmp_path / "copy", side).dataobj) for side in ("images", "labels"))
    expected = volume(0).astype(np.float32)
    expected[1, 2, 3] = np.delete(expected.ravel(), np.ravel_multi_index((1, 2, 3), SHAPE)).min()
    np.testing.assert_array_equal(image, expected)
    np.testing.assert_array_equal(label, mask(0)[::-1])
    np.testing.assert_allclose(first(tmp_path / "copy", "labels").affine, AFFINE)


def test_rounding_never_moves_a_label_far(spoilt, tmp_path):
    made = spoilt("label 0.7")
    with pytest.raises(UserError) as raised:
        repaired(made, tmp_path / "copy", "fill-nonfinite")
    assert raised.value.problems[0].code == "nothing-to-fix"
    with pytest.raises(UserError, match="nothing-to-fix"):
        repaired(made, tmp_path / "copy2", "round-labels")


def test_what_was_not_asked_for_stays_wrong(spoilt, tmp_path):
    look, log = repaired(spoilt("voxel NaN", "label 1.99998"), tmp_path / "copy", "round-labels")
    assert [problem.code for problem in look.problems] == ["not-finite"]
    assert len(log) == 1


def test_a_folder_that_holds_something_and_an_unknown_name_are_refused(tmp_path):
    (tmp_path / "there.txt").touch()
    with pytest.raises(UserError) as raised:
        refuse_unknown(["round-label"], tmp_path)
    assert [problem.code for problem in raised.value.problems] == ["unknown-fix", "folder-not-empty"]
    assert raised.value.problems[0].remedy == "did you mean 'round-labels'?"


def test_a_list_with_mistakes_is_mended_first(spoilt, tmp_path):
    made = spoilt("voxel NaN")
    content = json.loads(made.source.read_text())
    content["training"][1].pop("label")
    made.source.write_text(json.dumps(content))
    with pytest.raises(UserError) as raised:
        repaired(made, tmp_path / "copy", "fill-nonfinite")
    assert raised.value.problems[0].code == "missing-label"
    assert not (tmp_path / "copy").exists()
