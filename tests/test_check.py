import ast
import gzip
import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pipeline.data.check import Check
from pipeline.data.codes import CODES
from pipeline.data.inspection import Declared, examine_case, examine_pair
from pipeline.data.layouts import open_dataset, read_dataset
from pipeline.errors import UserError
from pipeline.nifti.grids import corner_distances
from pipeline.types import Case

ROOT = Path(__file__).resolve().parents[1]
SHAPE = (8, 9, 10)
AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])


def run_check(source):
    check = Check(open_dataset(source))
    assert list(check) == [case.id for case in check.dataset.cases]
    return check


def problems_of(source):
    return run_check(source).problems


def only_problem(source):
    (problem,) = problems_of(source)
    return problem


@pytest.fixture
def plain(tmp_path, make_scan):
    """A function that writes a plain folder of one image and one label, and returns the folder."""

    def make(image=None, label=None, image_affine=AFFINE, label_affine=AFFINE):
        rng = np.random.default_rng(0)
        image = rng.integers(1, 999, SHAPE, dtype=np.int16) if image is None else image
        label = (np.indices(SHAPE).sum(axis=0) > 12).astype(np.uint8) if label is None else label
        make_scan("images/a.nii.gz", image, image_affine)
        make_scan("labels/a.nii.gz", label, label_affine)
        return tmp_path

    return make


def shifted(**mm):
    affine = AFFINE.copy()
    affine[["x", "y", "z"].index(next(iter(mm))), 3] += next(iter(mm.values()))
    return affine


# A case's fault, and the file that is to blame.
FAULTS = {
    "missing-file": "label",
    "shapes-differ": "label",
    "affines-differ": "label",
    "label-out-of-range": "label",
    "not-finite": "image",
    "truncated-gzip": "image",
    "corrupt-gzip": "image",
    "empty-file": "label",
    "lfs-pointer": "image",
    "label-not-integer": "label",
    "label-not-finite": "label",
    "channel-count": "image",
    "constant-image": "image",
    "label-channels": "label",
}


def break_case(folder, fault, file):
    """Break one file of a sound case."""
    path = folder / ("imagesTr" if FAULTS[fault] == "image" else "labelsTr") / file
    data = path.read_bytes()
    voxels, affine = nib.load(path).get_fdata(), nib.load(path).affine
    match fault:
        case "missing-file":
            path.unlink()
        case "truncated-gzip":
            path.write_bytes(data[: len(data) // 2])
        case "corrupt-gzip":
            path.write_bytes(data[:-6] + bytes([data[-6] ^ 1]) + data[-5:])
        case "empty-file":
            path.write_bytes(b"")
        case "lfs-pointer":
            path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
        case _:
            if fault == "shapes-differ":
                voxels = voxels[:-1]
            elif fault == "affines-differ":
                affine = affine + np.array([[0, 0, 0, 0.5], *[[0] * 4] * 3])
            elif fault == "label-out-of-range":
                voxels[0, 0, :7], voxels[0, 1, :3] = 4, -1
            elif fault in ("not-finite", "label-not-finite"):
                voxels[1, 2, 3] = np.nan
            elif fault == "label-not-integer":
                voxels[1, 2, 3] = 0.7
            elif fault in ("channel-count", "label-channels"):
                voxels = np.stack([voxels, voxels], axis=-1)
            elif fault == "constant-image":
                voxels[:] = 7
            nib.save(nib.Nifti1Image(voxels.astype(np.float32), affine), path)


def test_everything_wrong_with_a_dataset_is_found_in_one_pass(dataset_folder):
    folder = dataset_folder(labelled=len(FAULTS) + 1, unlabelled=1)
    for number, fault in enumerate(FAULTS):
        break_case(folder, fault, f"case_{number:03d}.nii.gz")
    check = run_check(folder)
    found = {problem.case: (problem.code, problem.where) for problem in check.problems}
    assert len(check.problems) == len(FAULTS)
    for number, (fault, side) in enumerate(FAULTS.items()):
        file = folder / ("imagesTr" if side == "image" else "labelsTr") / f"case_{number:03d}.nii.gz"
        assert found[f"case_{number:03d}"] == (fault, str(file))
    assert all(problem.message and problem.remedy for problem in check.problems)
    with pytest.raises(UserError) as raised:
        check.index()
    assert raised.value.problems == tuple(check.problems)
    assert f"{len(FAULTS)} problem(s) in {len(FAULTS)} place(s)" in raised.value.summary
    assert all(problem.where in str(raised.value) for problem in check.problems)


def test_labels_out_of_range_come_with_their_counts(dataset_folder):
    folder = dataset_folder(labelled=2, unlabelled=0)
    break_case(folder, "label-out-of-range", "case_000.nii.gz")
    problem = only_problem(folder)
    assert problem.message == "has label values outside [0, 1]: -1 (3 voxels), 4 (7 voxels)"
    assert "declare the values under labels" in problem.remedy


def test_both_files_of_a_case_are_judged(plain, make_scan):
    folder = plain(label=np.full(SHAPE, 0.5, np.float32), image=np.full(SHAPE, np.inf, np.float32))
    assert [problem.code for problem in problems_of(folder)] == ["not-finite", "label-not-integer"]


def test_problems_of_a_first_pass_do_not_weigh_in_the_second(dataset_folder):
    folder = dataset_folder(labelled=2, unlabelled=0)
    broken = folder / "labelsTr" / "case_000.nii.gz"
    data = broken.read_bytes()
    broken.write_bytes(b"")
    check = run_check(folder)
    assert len(check.problems) == 1
    broken.write_bytes(data)
    list(check)
    assert check.problems == []


@pytest.mark.parametrize(
    ("affine", "voxels"), [(shifted(x=0.5), 0.5), (shifted(z=-0.5), 0.25), (np.diag([-1.0, 1, 2, 1]), 14)]
)
def test_a_label_that_lies_elsewhere_is_refused_with_its_distance_in_voxels(plain, affine, voxels):
    problem = only_problem(plain(label_affine=affine))
    assert problem.code == "affines-differ"
    assert f"up to {voxels:.3g} voxels away" in problem.message


@pytest.mark.parametrize("affine", [AFFINE + 1e-8, shifted(x=0.05), shifted(z=0.15)])
def test_less_than_a_tenth_of_a_voxel_is_noise(plain, affine):
    affine = affine.copy()
    affine[3] = [0, 0, 0, 1]
    assert problems_of(plain(label_affine=affine)) == []


def test_the_distance_of_grids_is_that_of_their_farthest_corners():
    turned = np.diag([1.0, 1.0, 1.0, 1.0])
    turned[:2, :2] = [[np.cos(0.1), -np.sin(0.1)], [np.sin(0.1), np.cos(0.1)]]
    assert corner_distances(np.eye(4), turned, (11, 1, 1)).max() == pytest.approx(10 * 2 * np.sin(0.05))
    assert corner_distances(np.eye(4), np.eye(4), (11, 12, 13)).max() == 0


def test_permuted_axes_are_refused(plain):
    label = np.zeros(SHAPE[::-1], np.uint8)
    label[3, 3, 3] = 1
    problem = only_problem(plain(label=label))
    assert problem.code == "shapes-differ"
    assert str(SHAPE[::-1]) in problem.message
    assert str(SHAPE) in problem.message


@pytest.mark.parametrize(
    ("label", "code"),
    [
        (np.where(np.indices(SHAPE)[0] > 3, -1, 0).astype(np.int16), "label-negative"),
        (np.random.default_rng(0).integers(0, 5000, SHAPE, dtype=np.int16), "label-too-many"),
        (np.where(np.indices(SHAPE)[0] > 3, 1.99998, 0), "label-rounding"),
        (np.where(np.indices(SHAPE)[0] > 3, 1.998, 0), "label-not-integer"),
        (np.where(np.indices(SHAPE)[0] > 3, 2**24 + 1, 0).astype(np.int32), "label-too-large"),
    ],
)
def test_undeclared_labels_must_still_be_labels(plain, label, code):
    problem = only_problem(plain(label=label))
    assert (problem.code, problem.case) == (code, "a")
    assert problem.where.endswith("labels/a.nii.gz")


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_integers_in_any_type_are_labels(plain, dtype):
    label = np.zeros(SHAPE)
    label[:3], label[3:5] = 300 if dtype != np.uint8 else 200, 2
    index = Check(open_dataset(plain(label=label.astype(dtype))))
    list(index)
    assert sorted(index.index().labels) == [0, 2, int(label.max())]


def test_a_constant_scan_without_a_mask_is_no_mistake(make_scan, tmp_path):
    make_scan("images/a.nii.gz", np.full(SHAPE, 5, np.int16))
    assert problems_of(tmp_path) == []


def test_an_empty_mask_is_no_mistake(plain):
    assert problems_of(plain(label=np.zeros(SHAPE, np.uint8))) == []


def test_the_channels_of_one_scan_share_a_grid(tmp_path, make_scan):
    rng = np.random.default_rng(0)
    for name, shape in (("t1", SHAPE), ("t2", SHAPE), ("cut", (8, 9, 9))):
        make_scan(f"{name}.nii", rng.normal(size=shape).astype(np.float32))
    (tmp_path / "list.json").write_text(
        json.dumps({"unlabeled": [{"image": ["t1.nii", "t2.nii"]}, {"id": "b", "image": ["t2.nii", "cut.nii"]}]})
    )
    problem = only_problem(tmp_path / "list.json")
    assert (problem.code, problem.where, problem.case) == ("shapes-differ", str(tmp_path / "cut.nii"), "b")
    assert "resample the channel" in problem.remedy


def test_the_majority_says_how_many_channels_there_are_where_nothing_declares_them(tmp_path, make_scan):
    rng = np.random.default_rng(0)
    for name in "abcde":
        make_scan(f"{name}.nii", rng.normal(size=SHAPE).astype(np.float32))
    entries = [{"image": ["a.nii", "b.nii"]}, {"image": ["c.nii", "d.nii"]}, "e.nii"]
    (tmp_path / "list.json").write_text(json.dumps({"unlabeled": entries}))
    problem = only_problem(tmp_path / "list.json")
    assert (problem.code, problem.case) == ("channel-count", "e")
    assert problem.message == "has 1 channel(s), most scans have 2"


def test_what_declares_the_channels_says_how_many_there_are(tmp_path, make_scan):
    make_scan("a.nii", np.random.default_rng(0).normal(size=SHAPE).astype(np.float32))
    listed = {"modality": {"0": "T1", "1": "T2"}, "unlabeled": ["a.nii"]}
    (tmp_path / "list.json").write_text(json.dumps(listed))
    problem = only_problem(tmp_path / "list.json")
    assert (problem.code, problem.message) == ("channel-count", "has 1 channel(s), expected are 2")


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (np.uint8([0, 1, 2]), ["looks-like-mask"]),
        (np.float32([-1, 0, 6]), ["looks-like-mask"]),
        (np.float32([0, 0.5, 1]), []),
        (np.int16([-32768, 0, 32767]), []),
        (np.uint8([0, 8]), []),
    ],
)
def test_a_scan_of_few_whole_numbers_looks_like_a_mask(tmp_path, make_scan, values, found):
    make_scan("images/a.nii", np.resize(values, SHAPE))
    assert [warning.code for warning in run_check(tmp_path / "images").warnings] == found


@pytest.mark.parametrize("layout", ["auto", "folder"])
def test_a_dataset_json_that_is_no_json_is_reported_whatever_the_layout(tmp_path, make_scan, layout):
    for place in ("images", "labels"):
        make_scan(f"{place}/a.nii", np.ones(SHAPE, np.uint8))
    (tmp_path / "dataset.json").write_text('{"labels": {"background": 0, "organ": 1,}}')
    with pytest.raises(UserError) as raised:
        read_dataset(tmp_path, layout=layout)
    (problem,) = raised.value.problems
    assert (problem.where, problem.code) == (str(tmp_path / "dataset.json"), "bad-json")
    assert "no comma before a closing bracket" in problem.remedy


def test_a_list_whose_paths_begin_elsewhere_is_told_of_root(tmp_path, make_scan):
    make_scan("elsewhere/a.nii", np.zeros(SHAPE, np.float32) + np.indices(SHAPE)[0])
    (tmp_path / "list.json").write_text(json.dumps({"unlabeled": ["a.nii", "b.nii"]}))
    problems = run_check(tmp_path / "list.json").problems
    assert [problem.code for problem in problems] == ["missing-file", "missing-file", "nothing-there"]
    assert "--root FOLDER" in problems[-1].remedy
    make_scan("a.nii", np.zeros(SHAPE, np.float32) + np.indices(SHAPE)[0])
    assert [problem.code for problem in run_check(tmp_path / "list.json").problems] == ["missing-file"]


def test_a_value_of_one_mask_alone_is_worth_a_warning(tmp_path, make_scan):
    rng = np.random.default_rng(0)
    for name in "abcde":
        make_scan(f"images/{name}.nii", rng.normal(size=SHAPE).astype(np.float32))
        make_scan(f"labels/{name}.nii", (np.indices(SHAPE)[0] > 3) * np.uint8(7 if name == "d" else 1))
    check = run_check(tmp_path)
    assert [(w.code, w.case, w.message[:15]) for w in check.warnings] == [("rare-label", "d", "has the label 7")]
    assert check.warnings[0].where == str(tmp_path / "labels" / "d.nii")
    assert check.problems == []
    (tmp_path / "images" / "a.nii").unlink()
    (tmp_path / "labels" / "a.nii").unlink()
    assert [w.code for w in run_check(tmp_path).warnings] == ["class-unvalidated"], "of few masks, that is all to say"


def copies(tmp_path, make_scan, content):
    """Write ``content`` as a list, of files that are all copies of one scan or of its mask."""
    make_scan("scan.nii.gz", np.random.default_rng(0).integers(1, 99, SHAPE, dtype=np.int16))
    make_scan("mask.nii.gz", (np.indices(SHAPE)[0] > 3).astype(np.uint8))
    for entry in (entry for entries in content.values() for entry in entries):
        shutil.copy(tmp_path / "scan.nii.gz", tmp_path / entry["image"])
        if "label" in entry:
            shutil.copy(tmp_path / "mask.nii.gz", tmp_path / entry["label"])
    (tmp_path / "list.json").write_text(json.dumps(content))
    return tmp_path / "list.json"


def entry(name, label=True, **more):
    return {"image": f"{name}.nii.gz", **({"label": f"{name}_mask.nii.gz"} if label else {}), **more}


@pytest.mark.parametrize("section", ["validation", "test"])
def test_one_scan_under_two_names_may_not_teach_and_test(tmp_path, make_scan, section):
    source = copies(tmp_path, make_scan, {"training": [entry("a")], section: [entry("b")]})
    problem = only_problem(source)
    assert (problem.code, problem.where, problem.case) == ("scan-leaks", str(tmp_path / "b.nii.gz"), "b")
    assert str(tmp_path / "a.nii.gz") in problem.message


def test_a_copy_may_not_stand_where_a_draw_could_hold_out_the_original(tmp_path, make_scan):
    source = copies(tmp_path, make_scan, {"training": [entry("a")], "unlabeled": [entry("b", label=False)]})
    problem = only_problem(source)
    assert (problem.code, problem.case) == ("scan-leaks", "b")
    assert "patient" in problem.remedy


def test_copies_of_one_patient_or_beside_a_validation_list_are_no_leak(tmp_path, make_scan):
    same = {"training": [entry("a", patient="p"), entry("b", patient="p")]}
    assert problems_of(copies(tmp_path, make_scan, same)) == []
    listed = copies(tmp_path, make_scan, {"training": [entry("a"), entry("b")], "validation": [entry("v")]})
    make_scan("v.nii.gz", np.random.default_rng(1).integers(1, 99, SHAPE, dtype=np.int16))
    assert problems_of(listed) == []


def test_the_index_of_a_sound_dataset_holds_what_was_found(dataset_folder):
    affine = np.array([[0, 0, 3.0, 5], [-1, 0, 0, 6], [0, 2, 0, 7], [0, 0, 0, 1]])
    folder = dataset_folder(labelled=1, unlabelled=1, affine=affine)
    check = run_check(folder)
    index = check.index()
    assert (index.labels, index.channels) == ({0: "background", 1: "blob"}, ("MRI",))
    facts = index.facts["case_000"]
    assert (facts.shape, facts.spacing_mm, facts.channels) == (SHAPE, (1, 2, 3), 1)
    assert facts.affine == tuple(map(tuple, affine))
    assert facts.label_voxels == {0: 720 - 36, 1: 36}
    assert index.facts["case_001"].label_voxels is None
    files = [folder / side / "case_000.nii.gz" for side in ("imagesTr", "labelsTr")]
    assert facts.sha256 == tuple(hashlib.sha256(path.read_bytes()).hexdigest() for path in files)


def test_the_rows_of_an_index_are_json_in_the_order_of_the_cases(dataset_folder):
    rows = run_check(dataset_folder(labelled=2, unlabelled=1)).index().as_rows()
    again = json.loads(json.dumps(rows))
    assert [row["case"] for row in again] == ["case_000", "case_001", "case_002"]
    assert again[0]["shape"] == list(SHAPE)


def test_labels_and_channels_are_named_where_nothing_declares_them(tmp_path, make_scan):
    rng = np.random.default_rng(0)
    for name in "ab":
        make_scan(f"{name}.nii", rng.normal(size=SHAPE).astype(np.float32))
    make_scan("mask.nii", rng.choice([0, 5, 300], SHAPE).astype(np.int16))
    (tmp_path / "list.json").write_text(json.dumps({"training": [{"image": ["a.nii", "b.nii"], "label": "mask.nii"}]}))
    index = run_check(tmp_path / "list.json").index()
    assert index.labels == {0: "background", 5: "label 5", 300: "label 300"}
    assert index.channels == ("channel 0", "channel 1")
    assert (
        "names",
        "none: give 'layout.options.labels={liver: 5, …}' to train (here --layout-option 'labels=…')",
    ) in index.describe()


def test_a_sound_dataset_is_described_in_a_few_lines(dataset_folder):
    folder = dataset_folder(labelled=3, unlabelled=2)
    lines = run_check(folder).index().describe()
    assert lines == [
        ("dataset", f"{folder / 'dataset.json'} (decathlon)"),
        ("training", "3 with masks"),
        ("training", "2 without masks"),
        ("patients", "5"),
        ("labels", "0 background, 1 blob"),
        ("channels", "MRI"),
        ("shape", "8 x 9 x 10 (median), 8 x 9 x 10 to 8 x 9 x 10"),
        ("spacing", "1 x 1 x 1 mm (median), 1 x 1 x 1 to 1 x 1 x 1"),
        ("problems", "none"),
    ]


def test_a_pair_of_masks_is_judged_as_one(tmp_path, make_scan):
    truth = make_scan("truth.nii.gz", (np.indices(SHAPE)[0] % 3 * 2).astype(np.int16))
    good = make_scan("good.nii.gz", (np.indices(SHAPE)[1] % 2).astype(np.uint8))
    hashes = tuple(hashlib.sha256(path.read_bytes()).hexdigest() for path in (truth, good))
    assert examine_pair(truth, good) == ({0, 1, 2, 4}, hashes, [])
    small = make_scan("small.nii.gz", np.zeros((2, 2, 2), np.uint8))
    values, _, (problem,) = examine_pair(truth, small)
    assert (values, problem.code, problem.where) == (set(), "shapes-differ", str(small))
    (tmp_path / "cut.nii.gz").write_bytes(gzip.compress(b"no"))
    values, hashes, problems = examine_pair(tmp_path / "gone.nii.gz", tmp_path / "cut.nii.gz")
    assert (values, hashes, [problem.code for problem in problems]) == (set(), (), ["missing-file", "not-nifti"])


def test_the_public_decathlon_passes(hippocampus):
    dataset = open_dataset(hippocampus)
    few = replace(dataset, cases=dataset.cases[:10], ignore=None, regions={}, problems=())
    check = Check(few)
    list(check)
    assert check.problems == []
    assert len(check.index().facts) == 10


def codes_in_sources():
    """Every code that a module of ``pipeline/data`` gives to a problem."""
    makers = {"Problem", "fault", "no_dataset", "BadEntryError"}
    data = ROOT / "pipeline" / "data"
    later = {data / f"{name}.py" for name in ("phantom", "repairs", "loaders")}  # after or without a check
    for path in {*data.rglob("*.py")} - later:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in makers:
                words = [arg.value for arg in node.args[:2] if isinstance(arg, ast.Constant)]
                yield from (word for word in words if isinstance(word, str) and re.fullmatch("[a-z]+(-[a-z]+)*", word))


def test_every_code_is_in_the_table_and_the_table_on_the_page():
    found = set(codes_in_sources())
    assert len(found) > 40
    assert found <= CODES.keys()
    page = (ROOT / "docs" / "checks.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert rows == [
        f"| `{name}` | {'warning' if code.warning else 'problem'} | {code.meaning} "
        f"| {', '.join(f'`{fix}`' for fix in code.fixes)} |"
        for name, code in CODES.items()
    ]


def test_a_misspelt_mask_is_sought_under_the_name_of_its_own_scan(make_scan, tmp_path):
    """The nearest name would be another case's mask, and training on that is worse than any error."""
    voxels = np.zeros((4, 5, 6), np.uint8)
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        for name in ("scan_011.nii", "scan_023.nii"):
            make_scan(f"{folder}/{name}", voxels + np.arange(6, dtype=np.uint8))
    case = Case(
        id="scan_011",
        images=(tmp_path / "images/scan_011.nii",),
        label=tmp_path / "masks/scan_023_typo.nii",
        patient="scan_011",
    )
    _, problems = examine_case(case, Declared({}, None, None))
    (problem,) = [problem for problem in problems if problem.code == "missing-file"]
    assert problem.remedy == "did you mean 'scan_011.nii'?"
