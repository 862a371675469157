"""Layouts of other tools: nnU-Net, BIDS, tables and bare scans, and how one of them is chosen."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from damage import mask, save, volume, write_json, write_sound

from pipeline.data.layouts import LAYOUTS, Dataset, Layout, open_dataset
from pipeline.data.regions import with_regions
from pipeline.errors import UserError
from pipeline.plugins import load_plugins
from pipeline.runs.checking import check, survey
from pipeline.types import Case


def only_problem(source, **options):
    with pytest.raises(UserError) as raised:
        open_dataset(source, **options)
    (problem,) = raised.value.problems
    assert problem.remedy
    return problem


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def rows(dataset):
    return {case.id: (len(case.images), case.label is not None, case.patient, case.role) for case in dataset.cases}


# nnU-Net


def nnunet(folder, channels=1, ending=".nii.gz", **more):
    about = {"channel_names": {str(n): f"T{n + 1}" for n in range(channels)}, "file_ending": ending}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "dataset.json", about | {"labels": {"background": 0, "liver": 1}} | more)
    return folder


def test_channels_of_nnunet_become_one_scan_and_test_scans_are_trained_on_only_on_request(tmp_path):
    folder = nnunet(tmp_path, channels=2, numTraining=1)
    touch(folder, *(f"imagesTr/a_000{n}.nii.gz" for n in (0, 1)), "labelsTr/a.nii.gz")
    touch(folder, *(f"imagesTs/b_000{n}.nii.gz" for n in (1, 0)))
    dataset = open_dataset(folder)
    assert (dataset.layout, dataset.channels) == ("nnunet", ("T1", "T2"))
    assert rows(dataset) == {"a": (2, True, "a", "training"), "b": (2, False, "b", "test")}
    asked = rows(open_dataset(folder, options={"unlabelled": "imagesTs"}))
    assert asked == {"a": (2, True, "a", "training"), "b": (2, False, "b", "training")}
    assert [path.name for path in dataset.cases[1].images] == ["b_0000.nii.gz", "b_0001.nii.gz"]
    touch(folder, "labelsTs/b.nii.gz")
    assert rows(open_dataset(folder))["b"] == (2, True, "b", "test")
    assert rows(open_dataset(folder / "dataset.json")) == rows(open_dataset(folder))


def test_regions_are_read_as_their_parts_and_the_ignore_label_as_not_annotated(tmp_path):
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4}
    folder = nnunet(tmp_path, labels=labels, regions_class_order=[1, 2, 3])
    touch(folder, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    dataset = open_dataset(folder)
    assert dataset.labels == {0: "background", 1: "whole", 2: "core", 3: "enhancing"}
    assert dataset.regions == {"whole": (1, 2, 3), "core": (2, 3)}
    assert dataset.ignore == 4


def test_regions_that_nobody_asks_for_are_told_unless_the_recipe_chooses(tmp_path):
    folder = nnunet(tmp_path, labels={"background": 0, "whole": [1, 2], "core": 2})
    touch(folder, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    dataset = open_dataset(folder)
    assert [problem.code for problem in dataset.problems] == ["regions-not-asked"]
    assert with_regions(dataset, "auto") == dataset
    for chosen in (None, {"whole": [1, 2], "core": [2]}):
        assert not with_regions(dataset, chosen).problems


def test_a_number_that_is_none_of_a_channel_is_mended_by_the_masks_name(tmp_path):
    folder = nnunet(tmp_path)
    touch(folder, "imagesTr/a_1_0000.nii.gz", "labelsTr/a_1.nii.gz", "imagesTr/a_2_000.nii.gz", "labelsTr/a_2.nii.gz")
    with pytest.raises(UserError) as raised:
        open_dataset(folder)
    assert [problem.remedy for problem in raised.value.problems] == ["rename it to a_2_0000"]


def test_a_channel_too_many_is_named_by_its_file_and_numbers_are_no_slips(tmp_path):
    folder = nnunet(tmp_path, channels=1)
    touch(folder, "imagesTr/a_01_0000.nii.gz", "imagesTr/a_01_0001.nii.gz", "labelsTr/a_01.nii.gz")
    touch(folder, "imagesTr/a_02_0000.nii.gz", "imagesTr/a_02_0001.nii.gz", "labelsTr/a_02.nii.gz")
    with pytest.raises(UserError) as raised:
        open_dataset(folder)
    told = [(Path(problem.where).name, problem.remedy) for problem in raised.value.problems]
    assert told == [(f"a_0{n}_0001.nii.gz", "take it away, or declare it") for n in (1, 2)]


def test_every_gap_in_nnunets_folders_is_named_at_once(tmp_path):
    folder = nnunet(tmp_path, channels=2)
    touch(folder, "imagesTr/liver_1_0000.nii.gz", "imagesTr/liver_1_0001.nii.gz", "labelsTr/liver_I.nii.gz")
    touch(folder, "imagesTr/liver_2_0000.nii.gz", "labelsTr/liver_2.nii.gz", "imagesTr/liver_3.nii.gz")
    with pytest.raises(UserError) as raised:
        open_dataset(folder)
    found = {(problem.code, problem.where.rpartition("/")[2]): problem for problem in raised.value.problems}
    assert set(found) == {
        ("missing-channel", "liver_3.nii.gz"),
        ("missing-channel", "liver_2_0000.nii.gz"),
        ("missing-label", "liver_1_0000.nii.gz"),
        ("label-without-image", "liver_I.nii.gz"),
    }
    assert found["missing-label", "liver_1_0000.nii.gz"].remedy == "did you mean 'liver_I'?"
    assert "_0001" in found["missing-channel", "liver_2_0000.nii.gz"].message


def test_a_case_without_a_channel_is_not_taken_for_one_that_has_them_all(tmp_path):
    folder = nnunet(tmp_path, channels=2)
    for case in ("hip_003", "hip_010"):
        touch(folder, f"imagesTr/{case}_0000.nii.gz", f"imagesTr/{case}_0001.nii.gz", f"labelsTr/{case}.nii.gz")
    (folder / "imagesTr/hip_003_0001.nii.gz").unlink()
    with pytest.raises(UserError) as raised:
        open_dataset(folder)
    assert [problem.remedy for problem in raised.value.problems] == ["add the file, or correct its name"]


# BIDS


def bids(folder, *extra):
    for subject in ("01", "02"):
        touch(folder, f"sub-{subject}/ses-a/anat/sub-{subject}_ses-a_T1w.nii.gz")
        touch(folder, f"sub-{subject}/ses-b/anat/sub-{subject}_ses-b_T1w.nii.gz")
    touch(folder, "derivatives/manual/sub-01/ses-a/anat/sub-01_ses-a_desc-manual_dseg.nii.gz", *extra)
    return folder


def test_a_subject_of_bids_is_a_patient_and_labels_are_derivatives(tmp_path):
    dataset = open_dataset(bids(tmp_path))
    assert dataset.layout == "bids"
    assert rows(dataset) == {
        "sub-01_ses-a": (1, True, "sub-01", None),
        "sub-01_ses-b": (1, False, "sub-01", None),
        "sub-02_ses-a": (1, False, "sub-02", None),
        "sub-02_ses-b": (1, False, "sub-02", None),
    }


def test_several_suffixes_are_a_question_and_may_be_channels(tmp_path):
    flair = [f"sub-{n}/ses-{s}/anat/sub-{n}_ses-{s}_FLAIR.nii.gz" for n in ("01", "02") for s in "ab"]
    folder = bids(tmp_path, *flair)
    problem = only_problem(folder)
    assert (problem.code, "FLAIR, T1w" in problem.message) == ("ambiguous-layout", True)
    assert {row[0] for row in rows(open_dataset(folder, options={"suffix": "T1w"})).values()} == {1}
    both = open_dataset(folder, options={"suffix": ["T1w", "FLAIR"]})
    assert both.channels == ("T1w", "FLAIR")
    assert {row[0] for row in rows(both).values()} == {2}
    assert only_problem(folder, options={"suffix": "T1W"}).remedy == "did you mean 'T1w'?"


def test_what_cannot_be_read_or_told_apart_is_named_in_bids(tmp_path):
    folder = bids(tmp_path, "sub-03/anat/sub-03_T1w.mgz", "sub-01/ses-a/anat/sub-01_ses-a_T1w.nii")
    touch(folder, "derivatives/manual/sub-02/sub-02_ses-a_dseg.nrrd", "derivatives/fs/sub-01/mri/mask.mgz")
    with pytest.raises(UserError) as raised:
        open_dataset(folder)
    assert {(problem.code, Path(problem.where).name) for problem in raised.value.problems} == {
        ("unsupported-file", "sub-03_T1w.mgz"),
        ("unsupported-file", "sub-02_ses-a_dseg.nrrd"),
        ("name-twice", "sub-01_ses-a_T1w.nii.gz"),
    }


def test_a_folder_whose_list_names_its_scans_is_that_list(tmp_path):
    touch(tmp_path, "images/a.nii.gz", "labels/a.nii.gz")
    pair = {"image": "images/a.nii.gz", "label": "labels/a.nii.gz"}
    write_json(tmp_path / "dataset.json", {"training": [pair]})
    assert open_dataset(tmp_path).layout == "datalist"
    write_json(tmp_path / "dataset.json", {"name": "mine"})
    assert open_dataset(tmp_path).layout == "folder"


def test_two_sets_of_labels_are_a_question(tmp_path):
    folder = bids(tmp_path, "derivatives/auto/sub-01/ses-a/anat/sub-01_ses-a_dseg.nii.gz")
    problem = only_problem(folder)
    assert (problem.code, "derivative=" in problem.remedy) == ("ambiguous-layout", True)
    assert rows(open_dataset(folder, options={"derivative": "manual"}))["sub-01_ses-a"][1]


# Tables


def test_a_table_has_channels_patients_and_roles(tmp_path):
    lines = ["\ufeffid image_0 image_1 label patient role", "a t1.nii t2.nii m.nii p train", "b u1.nii u2.nii  p "]
    text = "\n".join([*lines, "v v1.nii v2.nii vm.nii q val"]).replace(" ", "\t")
    (tmp_path / "cases.tsv").write_text(text, encoding="utf-8")
    dataset = open_dataset(tmp_path / "cases.tsv")
    assert rows(dataset) == {
        "a": (2, True, "p", "training"),
        "b": (2, False, "p", None),
        "v": (2, True, "q", "validation"),
    }


def test_a_line_of_a_table_is_counted_as_an_editor_does(tmp_path):
    (tmp_path / "cases.csv").write_text("image,role\n\na.nii,trian\n")
    assert only_problem(tmp_path / "cases.csv").where.endswith("cases.csv line 3")


@pytest.mark.parametrize(
    ("text", "code", "hint"),
    [
        ("image,lable\na.nii,b.nii\n", "bad-table", "label"),
        ("imge,label\na.nii,b.nii\n", "bad-table", "'image'"),
        ("picture,label\na.nii,b.nii\n", "bad-table", "columns image"),
        ("image,scan\na.nii,b.nii\n", "same-meaning", "keep one"),
        ("image,Image\na.nii,b.nii\n", "same-meaning", "keep one"),
        ("image,image\na.nii,b.nii\n", "bad-table", "columns"),
        ("image,label\na.nii\n", "bad-table", "quotes"),
        ("", "bad-table", "columns"),
        ("image\n", "no-cases", "columns"),
        ("image,role\na.nii,trian\n", "bad-entry", "training"),
        ("image,role\na.nii,validation\n", "missing-label", "label"),
        ("image,label\n/etc/passwd,b.nii\n", "outside-root", "root"),
        ("image\na\x00.nii\n", "bad-entry", "name"),
    ],
)
def test_a_mistake_in_a_table_is_named_with_its_remedy(tmp_path, text, code, hint):
    (tmp_path / "cases.csv").write_text(text)
    problem = only_problem(tmp_path / "cases.csv")
    assert problem.code == code
    assert hint in problem.remedy


# Scans alone


def test_one_file_and_a_folder_of_files_are_scans_without_masks(tmp_path):
    touch(tmp_path, "b.nii", "a.nii.gz")
    assert rows(open_dataset(tmp_path)) == {name: (1, False, name, "test") for name in "ab"}
    assert rows(open_dataset(tmp_path / "b.nii")) == {"b": (1, False, "b", "test")}


def test_files_that_end_in_channels_are_one_scan_and_those_that_end_in_numbers_are_not(tmp_path):
    touch(tmp_path, "a_0000.nii.gz", "b_0000.nii.gz")
    assert rows(open_dataset(tmp_path)) == {name: (1, False, name, "test") for name in "ab"}
    touch(tmp_path, "a_0001.nii.gz", "b_0001.nii.gz")
    assert rows(open_dataset(tmp_path)) == {name: (2, False, name, "test") for name in "ab"}
    touch(tmp_path / "numbers", "a_0001.nii.gz", "a_0002.nii.gz")
    assert set(rows(open_dataset(tmp_path / "numbers"))) == {"a_0001", "a_0002"}


# Which one


@pytest.mark.parametrize("layout", ["decathlon", "datalist", "folder", "nnunet", "bids", "table"])
def test_each_layout_is_found_by_what_it_holds(tmp_path, layout):
    made = write_sound(layout, tmp_path / "data")
    assert open_dataset(made.source).layout == layout
    assert open_dataset(made.source, layout=layout).layout == layout


def test_a_dataset_json_is_what_it_says_whatever_its_name(tmp_path):
    pair = {"image": "a.nii", "label": "m.nii"}
    decathlon = {"tensorImageSize": "3D", "training": [pair], "test": ["t.nii"]}
    assert open_dataset(write_json(tmp_path / "any.json", decathlon)).layout == "decathlon"
    plain = write_json(tmp_path / "dataset.json", {"training": [pair], "test": ["t.nii"]})
    assert rows(open_dataset(plain))["t"][3] == "test"
    more = decathlon | {"validation": [{"image": "v.nii", "label": "w.nii"}]}
    assert open_dataset(write_json(tmp_path / "dataset.json", more)).layout == "datalist"


def test_two_layouts_are_a_question_that_the_user_answers(tmp_path):
    touch(tmp_path, "images/a.nii.gz", "sub-01/anat/sub-01_T1w.nii.gz")
    problem = only_problem(tmp_path)
    assert problem.code == "ambiguous-layout"
    assert all(word in problem.message for word in ("folder (", "bids (", "images/", "sub-*"))
    assert [open_dataset(tmp_path, layout=name).layout for name in ("folder", "bids")] == ["folder", "bids"]
    assert only_problem(tmp_path, layout="bid").message.endswith("did you mean 'bids'?")
    assert "derivative" in only_problem(tmp_path, layout="bids", options={"derivatives": "a"}).message


# What a dataset does not say itself


def test_options_declare_labels_channels_ignore_and_patients(tmp_path):
    for seed, name in enumerate(("p1_a", "p1_b", "p2_a")):
        save(tmp_path / "images" / f"{name}.nii.gz", np.stack([volume(4), volume(10 + seed)], -1))
        save(tmp_path / "labels" / f"{name}.nii.gz", np.where(volume(3) > 900, 255, mask(0)))
    assert {problem.code for problem in survey(open_dataset(tmp_path)).problems} >= {"undeclared-channels"}
    options = {"labels": {"organ": 1, "nodule": 2}, "channel_names": ["T1", "T2"], "ignore": 255, "patient": "(p.)_"}
    index = check(tmp_path, options=options)
    assert (index.labels, index.channels) == ({0: "background", 1: "organ", 2: "nodule"}, ("T1", "T2"))
    assert index.ignore == 255
    assert {case.patient for case in index.dataset.cases} == {"p1", "p2"}
    assert ("ignored", "label value 255") in index.describe()


@pytest.mark.parametrize(("patient", "message"), [("(", "is no pattern"), ("x", "x is not in c0")])
def test_a_pattern_that_fits_nothing_is_refused(tmp_path, patient, message):
    made = write_sound("folder", tmp_path / "data")
    with pytest.raises(UserError) as raised:
        open_dataset(made.source, options={"patient": patient})
    assert message in raised.value.problems[0].message


def test_minus_one_may_be_ignored_and_is_refused_undeclared(tmp_path):
    made = write_sound("folder", tmp_path / "data")
    save(made.labels[0], np.where(volume(3) > 900, -1, mask(0).astype(np.int16)))
    assert [problem.code for problem in survey(open_dataset(made.source)).problems] == ["label-negative"]
    assert check(made.source, options={"ignore": -1}).labels.keys() == {0, 1, 2}


PLUGIN = '''
from dataclasses import dataclass
from pipeline.data.layouts import LAYOUTS, Dataset, Layout
from pipeline.types import Case

@LAYOUTS.register("pairs")
@dataclass(frozen=True, kw_only=True)
class Pairs(Layout):
    """Scans NAME.img.nii beside NAME.seg.nii."""

    ending: str = "img.nii"

    @classmethod
    def detect(cls, source):
        return "it has pairs" if source.is_dir() and any(source.glob("*.seg.nii")) else None

    def read(self, source, root):
        found = sorted(source.glob(f"*.{self.ending}"))
        masks = [path.with_name(path.name.replace("img", "seg")) for path in found]
        pairs = zip(found, masks)
        cases = [Case(id=p.name[:1], images=(p,), label=m, patient=p.name[:1]) for p, m in pairs]
        return Dataset(source=source, layout="pairs", cases=tuple(cases))
'''


def test_a_plugin_adds_a_layout(tmp_path):
    (tmp_path / "plugin.py").write_text(PLUGIN)
    for name in "ab":
        save(tmp_path / "data" / f"{name}.img.nii", volume(ord(name)))
        save(tmp_path / "data" / f"{name}.seg.nii", mask(0))
    load_plugins([tmp_path / "plugin.py"])
    try:
        with pytest.raises(UserError, match=r"could be .*scans .* or pairs"):
            open_dataset(tmp_path / "data")
        index = check(tmp_path / "data", layout="pairs", options={"ignore": 2})
        assert (len(index.facts), index.labels) == (2, {0: "background", 1: "label 1"})
    finally:
        del LAYOUTS.components["pairs"]


def test_what_is_declared_is_kept_beside_what_is_read(tmp_path):
    @dataclass(frozen=True, kw_only=True)
    class Given(Layout):
        @classmethod
        def detect(cls, source):
            return None

        def read(self, source, root):
            return Dataset(
                source=source,
                layout="given",
                cases=(Case(id="a_1", images=(source,), label=None, patient="a_1"),),
                channels=("CT",),
                labels={0: "background", 7: "x"},
            )

    dataset = Given().read(tmp_path, None)
    assert Given().declare(dataset) == dataset
    assert Given(ignore=7).declare(dataset).labels == {0: "background"}
    assert Given(channel_names=("a", "b")).declare(dataset) == replace(dataset, channels=("a", "b"))


def test_a_table_of_semicolons_is_read_as_spreadsheets_write_it(tmp_path):
    touch(tmp_path, "a, left.nii", "b.nii", "m.nii")
    (tmp_path / "list.csv").write_text("\ufeffimage;label\na, left.nii;m.nii\nb.nii;\n", encoding="utf-8")
    dataset = open_dataset(tmp_path / "list.csv")
    assert {case.id: case.label is not None for case in dataset.cases} == {"a, left": True, "b": False}


def test_a_comma_too_many_in_a_list_is_called_that(tmp_path):
    (tmp_path / "dataset.json").write_text('{"training": [{"image": "a.nii"},\n]}')
    with pytest.raises(UserError, match="no comma before a closing bracket"):
        open_dataset(tmp_path)
