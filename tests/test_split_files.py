"""Who trains and who validates, read from a file: a run's own, nnU-Net's, MONAI's folds, and tables."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from commands import fewmask
from monai.auto3dseg.utils import datafold_read
from runs_fixtures import make_phantom, train, write_recipe

from pipeline import runs
from pipeline.data.layouts import Dataset, open_dataset, read_dataset
from pipeline.data.listed_splits import pool_by_file, split_by_file
from pipeline.data.split_files import read_folds
from pipeline.errors import UserError
from pipeline.runs.checking import check
from pipeline.runs.planning import prepare
from pipeline.types import Case

SUPERVISED = [{"loss": "dice"}]


def case(name, label=True, patient=None, role=None):
    mask = Path(f"{name}_mask.nii") if label else None
    return Case(id=name, images=(Path(f"{name}.nii"),), label=mask, patient=patient or name, role=role)


def dataset(*cases):
    return Dataset(source=Path("data"), layout="folder", cases=cases)


def written(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def table(path, *rows):
    with path.open("w", newline="") as stream:
        csv.writer(stream, delimiter="\t" if path.suffix == ".tsv" else ",").writerows(rows)
    return path


def codes(error):
    return [problem.code for problem in error.value.problems]


FOUR = dataset(*(case(f"c{n}") for n in range(4)), case("u", label=False), case("t", role="test"))
# As nnU-Net writes it, one mapping for each fold.
NNUNET = [
    {"train": ["c2", "c3"], "val": ["c0", "c1"]},
    {"train": ["c0", "c1"], "val": ["c2", "c3"]},
]


# The formats


@pytest.mark.parametrize("fold", [0, 1])
def test_nnunets_folds_are_counted_from_0_and_are_what_its_file_says(tmp_path, fold):
    split = split_by_file(FOUR, written(tmp_path / "splits_final.json", NNUNET), chosen=fold)
    assert split.as_dict() == {
        "labelled": NNUNET[fold]["train"],
        "unlabelled": ["u"],
        "validation": NNUNET[fold]["val"],
        "unlike": [],
    }


@pytest.mark.parametrize("number", [1, 2])
def test_a_cross_validation_goes_through_the_folds_in_their_order(tmp_path, number):
    path = written(tmp_path / "splits_final.json", NNUNET)
    split = split_by_file(FOUR, path, fold=(number, 2))
    assert [case.id for case in split.validation] == NNUNET[number - 1]["val"]
    assert pool_by_file(FOUR, path, 2).as_dict() == {
        "labelled": ["c0", "c1", "c2", "c3"],
        "unlabelled": ["u"],
        "validation": [],
        "unlike": [],
    }


def test_monais_folds_are_those_that_monai_reads(tmp_path):
    folds = {0: 0, 1: 0, 2: 1, 3: 2, 4: 1}
    entries = [{"image": f"images/c{n}.nii.gz", "label": f"labels/c{n}.nii.gz", "fold": f} for n, f in folds.items()]
    entries.append({"image": "images/c5.nii.gz", "label": "labels/c5.nii.gz"})  # MONAI trains on it in every fold.
    content = {"training": entries, "testing": [{"image": "images/c6.nii.gz"}]}
    path = written(tmp_path / "datalist.json", content)
    cases = dataset(*(case(f"c{n}") for n in range(6)))
    for fold in range(3):
        split = split_by_file(cases, path, chosen=fold)
        for theirs, ours in zip(datafold_read(content, "", fold), (split.labelled, split.validation), strict=True):
            assert [Path(entry["image"]).name.removesuffix(".nii.gz") for entry in theirs] == [c.id for c in ours]
    assert [c.id for c in pool_by_file(cases, path, 3).labelled] == [f"c{n}" for n in range(6)]


@pytest.mark.parametrize("name", ["folds.csv", "folds.tsv"])
def test_a_table_names_cases_and_folds(tmp_path, name):
    path = table(tmp_path / name, ["Case", "Fold"], ["c0", "0.0"], ["c1", "1"], ["c2", "10"], ["c3", "2"], ["u", ""])
    assert list(read_folds(path, FOUR)) == ["0", "1", "2", "10"], "0.0 is 0, and 2 comes before 10"
    validating = [[c.id for c in split_by_file(FOUR, path, fold=(n, 4)).validation] for n in range(1, 5)]
    assert validating == [["c0"], ["c1"], ["c3"], ["c2"]]
    assert [c.id for c in split_by_file(FOUR, path, chosen=10).validation] == ["c2"]


def test_a_table_may_name_patients_and_any_column_may_be_the_folds(tmp_path):
    scans = dataset(
        *(case(f"p{n}_{visit}", visit == 0, f"p{n}") for n in range(3) for visit in range(2)),
    )
    path = table(tmp_path / "people.csv", ["participant_id", "site"], ["p0", "north"], ["p1", "south"], ["p2", "north"])
    split = split_by_file(scans, path, "site", "north")
    assert split.as_dict() == {
        "labelled": ["p1_0"],
        "unlabelled": ["p1_1"],  # Those of patients who validate are left out.
        "validation": ["p0_0", "p2_0"],
        "unlike": [],
    }


def test_a_runs_own_file_gives_its_very_split_and_masks_that_are_new_are_trained_on_and_told(tmp_path, capsys):
    content = {"labelled": ["c0", "c1"], "unlabelled": ["c2", "u"], "validation": ["c3"], "unlike": []}
    split = split_by_file(FOUR, written(tmp_path / "split.json", content))
    assert split.as_dict() == content | {"labelled": ["c0", "c1", "c2"], "unlabelled": ["u"]}
    assert "split.json does not know: c2" in capsys.readouterr().err
    bare = split_by_file(FOUR, tmp_path / "split.json", with_labels=False)
    assert not any(case.label for case in (*bare.labelled, *bare.unlabelled))
    split_by_file(
        FOUR, written(tmp_path / "split.json", content | {"labelled": ["c0", "c1", "c2"], "unlabelled": ["u"]})
    )
    assert "does not know" not in capsys.readouterr().err


def test_masks_that_a_supervised_run_did_not_know_of_are_trained_on_too(tmp_path, capsys):
    path = written(tmp_path / "split.json", {"labelled": ["c0"], "unlabelled": [], "validation": ["c3"], "unlike": []})
    split = split_by_file(FOUR, path)
    assert split.as_dict() == {"labelled": ["c0", "c1", "c2"], "unlabelled": ["u"], "validation": ["c3"], "unlike": []}
    assert "split.json does not know: c1, c2" in capsys.readouterr().err
    table_of_one = table(tmp_path / "folds.csv", ["case", "fold"], ["c0", "0"], ["c3", "1"])
    with pytest.raises(UserError, match="neither trains nor validates on c1, c2"):
        split_by_file(FOUR, table_of_one, chosen=1)


def test_a_new_mask_of_a_patient_who_validates_is_left_out(tmp_path):
    scans = dataset(case("a0", True, "a"), case("a1", True, "a"), case("b", True, "b"))
    path = written(tmp_path / "split.json", {"labelled": ["b"], "unlabelled": [], "validation": ["a0"], "unlike": []})
    assert [c.id for c in split_by_file(scans, path).labelled] == ["b"]


def test_a_file_counts_instead_of_the_datasets_own_lists(tmp_path):
    listed = dataset(case("a", role="training"), case("b", role="validation"), case("c", role="validation"))
    path = written(tmp_path / "split.json", {"labelled": ["b"], "unlabelled": [], "validation": ["a"], "unlike": []})
    assert split_by_file(listed, path).as_dict() == {
        "labelled": ["b"],
        "unlabelled": [],
        "validation": ["a"],
        "unlike": [],
    }


def test_the_datasets_list_is_kept_for_the_ensemble_where_no_fold_names_it(tmp_path):
    listed = dataset(*FOUR.cases, case("v", role="validation"), case("v2", label=False, patient="v"))
    path = written(tmp_path / "splits_final.json", NNUNET)
    assert pool_by_file(listed, path, 2).as_dict() == {
        "labelled": ["c0", "c1", "c2", "c3"],
        "unlabelled": ["u"],
        "validation": ["v"],
        "unlike": [],
    }
    assert split_by_file(listed, path, fold=(1, 2)).as_dict()["unlabelled"] == ["u"]


def test_without_labels_masks_only_validate(tmp_path):
    split = split_by_file(FOUR, written(tmp_path / "s.json", NNUNET), chosen=0, with_labels=False)
    assert split.as_dict() == {
        "labelled": [],
        "unlabelled": ["c2", "c3", "u"],
        "validation": ["c0", "c1"],
        "unlike": [],
    }


# What does not fit


def test_every_problem_of_a_split_is_in_one_message(tmp_path):
    scans = dataset(
        *(case(name) for name in "abcd"),
        case("u", label=False),
        case("t", role="test"),
        *(case(f"p_{visit}", patient="p") for visit in range(2)),
    )
    path = written(tmp_path / "s.json", [{"train": ["a", "b", "nobody", "t", "p_0"], "val": ["b", "c", "u", "p_1"]}])
    with pytest.raises(UserError) as error:
        split_by_file(scans, path)
    told = {(problem.code, problem.message) for problem in error.value.problems}
    assert told == {
        ("split-unknown", "fold 0 names what is no case of the dataset: nobody"),
        ("split-unknown", "fold 0 names cases of the dataset's test set: t"),
        ("split-both-sides", "fold 0 trains and validates on b"),
        ("split-both-sides", "fold 0 trains on scans of patients who validate: p_0"),
        ("split-without-mask", "fold 0 validates on cases without a mask: u"),
        ("split-missing", "fold 0 neither trains nor validates on d"),
    }
    assert {problem.where for problem in error.value.problems} == {str(path)}


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("patient_01.nii", "is patient_01.nii patient_01? correct the names, or take them out"),
        ("patient_07", "the dataset's cases are called patient_01, patient_02; correct the names, or take them out"),
    ],
)
def test_a_name_of_no_case_is_told_how_it_may_be_meant_unless_its_number_differs(tmp_path, name, remedy):
    scans = dataset(case("patient_01"), case("patient_02"))
    path = written(tmp_path / "s.json", [{"train": ["patient_02"], "val": [name]}])
    with pytest.raises(UserError) as error:
        split_by_file(scans, path)
    assert error.value.problems[0].remedy == remedy


def test_a_cross_validation_reports_the_problems_of_all_folds(tmp_path):
    folds = [{"train": ["c1", "c2", "c3"], "val": ["x"]}, {"train": ["c0"], "val": ["c1", "c2"]}]
    with pytest.raises(UserError) as error:
        pool_by_file(FOUR, written(tmp_path / "s.json", folds), 2)
    assert [problem.message.split(" ")[:2] for problem in error.value.problems] == [
        ["fold", "0"],
        ["fold", "0"],
        ["fold", "1"],
    ]


@pytest.mark.parametrize(
    ("train_on", "validate_on", "message"),
    [(["c0", "c1", "c2", "c3"], [], "names no case that validates"), ([], ["c0", "c1", "c2", "c3"], "with a mask")],
)
def test_an_empty_side_is_refused(tmp_path, train_on, validate_on, message):
    path = written(tmp_path / "s.json", {"labelled": train_on, "unlabelled": [], "validation": validate_on})
    with pytest.raises(UserError, match=message) as error:
        split_by_file(FOUR, path)
    assert codes(error) == ["split-missing"]


def test_a_case_that_validates_twice_cannot_be_scored_out_of_fold(tmp_path):
    folds = [{"train": ["c2", "c3"], "val": ["c0", "c1"]}, {"train": ["c0", "c2"], "val": ["c1", "c3"]}]
    path = written(tmp_path / "s.json", folds)
    with pytest.raises(UserError, match="lets c1 validate in several folds"):
        pool_by_file(FOUR, path, 2)
    assert [c.id for c in split_by_file(FOUR, path, chosen=1).validation] == ["c1", "c3"]


def test_a_training_case_of_a_patient_in_the_list_that_scores_the_ensemble_is_refused(tmp_path):
    scans = dataset(*FOUR.cases[1:], case("c0", patient="v"), case("v", role="validation"))
    with pytest.raises(UserError, match="trains on c0, of patients in the dataset's own validation list"):
        pool_by_file(scans, written(tmp_path / "s.json", NNUNET), 2)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (None, r"holds 2 folds: 0, 1(.|\n)*data.split_fold=0; or train all: --folds 2"),
        (2, "has no fold '2' among 0, 1"),
    ],
)
def test_which_fold_is_asked_for(tmp_path, chosen, message):
    with pytest.raises(UserError, match=message):
        split_by_file(FOUR, written(tmp_path / "s.json", NNUNET), chosen=chosen)


@pytest.mark.parametrize("folds", [3, 5])
def test_another_number_of_folds_is_refused(tmp_path, folds):
    with pytest.raises(UserError, match=rf"holds 2 folds \(0, 1\), and {folds} are asked for(.|\n)*--folds 2"):
        pool_by_file(FOUR, written(tmp_path / "s.json", NNUNET), folds)
    with pytest.raises(UserError, match=rf"and {folds} are asked for(.|\n)*remedy: data.fold=\[1,2\]"):
        split_by_file(FOUR, written(tmp_path / "s.json", NNUNET), fold=(1, folds))


def test_a_single_split_has_no_folds(tmp_path):
    path = written(
        tmp_path / "s.json", {"labelled": ["c0"], "unlabelled": [], "validation": ["c1", "c2", "c3"], "unlike": []}
    )
    with pytest.raises(UserError, match=r"leave data\.split_fold out"):
        split_by_file(FOUR, path, chosen=0)
    with pytest.raises(UserError, match="leave --folds out"):
        pool_by_file(FOUR, path, 2)


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{}",
        "5",
        '[{"train": ["c0"]}]',
        '[{"train": ["c0"], "val": "c1"}]',
        '{"labelled": [1], "unlabelled": [], "validation": [], "unlike": []}',
        '{"train": ["c0", "c1"], "train": []}',
        "[1,",
        "\x00",
        '{"training": [{"image": "c0.nii", "fold": 1.5}]}',
        '{"training": [{"image": "c0.nii", "label": "l.nii"}]}',
        '{"training": [{"fold": 1}]}',
        '{"training": [{"image": "c0.nii", "fold": 1}, {"image": "c0.nii", "fold": 2}]}',
    ],
)
def test_what_is_no_split_is_refused(tmp_path, content):
    path = written(tmp_path / "s.json", content)
    with pytest.raises(UserError) as error:
        split_by_file(FOUR, path)
    assert set(codes(error)) <= {"bad-split", "bad-entry"}
    assert all(problem.where.startswith(str(path)) and problem.remedy for problem in error.value.problems)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([["case", "site"], ["c0", "x"]], "has no column 'fold'"),
        ([["who", "fold"], ["c0", "1"]], "has no column for the case or the patient; it has who, fold"),
        ([["case", "fold"], ["c0", ""]], "gives no case a fold"),
        ([["case", "fold"], ["c0", "1"], ["c0", "2"]], "gives c0 the fold '2', and before '1'"),
        ([["case", "fold"], ["", "1"]], "names no case and no patient"),
    ],
)
def test_a_table_that_gives_no_folds_is_refused(tmp_path, rows, message):
    with pytest.raises(UserError, match=message):
        split_by_file(FOUR, table(tmp_path / "folds.csv", *rows))


def test_a_file_that_is_not_there_is_refused(tmp_path):
    for name in ("s.json", "s.csv"):
        with pytest.raises(UserError, match=r"there is no such file.*\n.*nnUNet_preprocessed/DATASET"):
            split_by_file(FOUR, tmp_path / name)
    (tmp_path / "splits_final.json").write_text("[]")
    with pytest.raises(UserError, match=r"did you mean '.*splits_final.json'"):
        split_by_file(FOUR, tmp_path / "split_final.json")


# Whole runs


@pytest.fixture(scope="module")
def nnunet(tmp_path_factory):
    """A raw dataset of nnU-Net, and the folds that lie in its folder of preprocessed data."""
    folder = tmp_path_factory.mktemp("nnunet")
    phantom = make_phantom(folder / "phantom", labelled=4, unlabelled=0)
    raw = folder / "Dataset001_Phantom"
    for part in ("imagesTr", "labelsTr"):
        (raw / part).mkdir(parents=True)
        for path in (phantom / part).iterdir():
            end = "_0000.nii.gz" if part == "imagesTr" else ".nii.gz"
            shutil.copy(path, raw / part / f"{path.name.removesuffix('.nii.gz')}{end}")
    labels = {"background": 0, "organ": 1, "nodule": 2}
    about = {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": 4, "file_ending": ".nii.gz"}
    written(raw / "dataset.json", about)
    names = [f"phantom_{n:03d}" for n in range(4)]
    folds = [{"train": names[:1] + names[2:], "val": names[1:2]}, {"train": names[1:2], "val": names[:1] + names[2:]}]
    return raw, written(folder / "splits_final.json", folds), folds


def test_a_cross_validation_trains_and_scores_nnunets_folds(nnunet, tmp_path):
    raw, path, folds = nnunet
    recipe = write_recipe(tmp_path, raw, objective=SUPERVISED, max_steps=2)
    run = tmp_path / "run"
    runs.cross_validate(runs.read_recipe(recipe, [f"data.split={path}"]), run, 2)
    for number, fold in enumerate(folds, start=1):
        split = json.loads((run / f"fold-{number}" / "split.json").read_text())
        assert split == {"labelled": fold["train"], "unlabelled": [], "validation": fold["val"], "unlike": []}
    with (run / "out-of-fold" / "cases.csv").open() as stream:
        assert {row["case"] for row in csv.DictReader(stream)} == {name for fold in folds for name in fold["val"]}
    with pytest.raises(UserError, match="--folds 2"):
        runs.cross_validate(runs.read_recipe(recipe, [f"data.split={path}"]), tmp_path / "other", 3)
    assert not (tmp_path / "other").exists()


def test_a_case_that_every_fold_trains_on_is_not_scored_out_of_fold(nnunet, tmp_path):
    raw, _, _ = nnunet
    names = [f"phantom_{n:03d}" for n in range(4)]
    folds = [{"train": [*names[1:]], "val": names[:1]}, {"train": [names[0], *names[2:]], "val": names[1:2]}]
    path = written(tmp_path / "splits_final.json", folds)
    recipe = write_recipe(tmp_path, raw, objective=SUPERVISED, max_steps=2)
    runs.cross_validate(runs.read_recipe(recipe, [f"data.split={path}"]), tmp_path / "run", 2)
    with (tmp_path / "run" / "out-of-fold" / "cases.csv").open() as stream:
        assert {row["case"] for row in csv.DictReader(stream)} == set(names[:2])
    assert json.loads((tmp_path / "run" / "split.json").read_text())["labelled"] == names


def test_a_run_repeats_the_split_of_another_and_goes_on_after_the_file_has_moved(nnunet, tmp_path):
    raw, path, folds = nnunet
    first = train(tmp_path, raw, "first", f"data.split={path}", "data.split_fold=1", objective=SUPERVISED, max_steps=2)
    split = json.loads((first / "split.json").read_text())
    assert split["validation"] == folds[1]["val"]
    moved = shutil.copy(first / "split.json", tmp_path / "mine.json")
    how = {"objective": SUPERVISED, "max_steps": 2}
    second = train(tmp_path, raw, "second", f"data.split={moved}", **how)
    assert (second / "cases.csv").read_text() == (first / "cases.csv").read_text()
    shutil.move(moved, tmp_path / "elsewhere.json")
    train(tmp_path, raw, "second", f"data.split={tmp_path / 'elsewhere.json'}", resume=True, **how)
    written(tmp_path / "elsewhere.json", split | {"labelled": split["validation"], "validation": split["labelled"]})
    with pytest.raises(UserError, match=r"split\.json"):
        train(tmp_path, raw, "second", f"data.split={tmp_path / 'elsewhere.json'}", resume=True, **how)


def test_neither_a_checkpoint_nor_a_report_holds_the_place_of_the_file(nnunet, tmp_path):
    raw, path, _ = nnunet
    run = train(tmp_path, raw, "run", f"data.split={path}", "data.split_fold=1", objective=SUPERVISED, max_steps=2)
    assert all(b"splits_final" not in saved.read_bytes() for saved in (run / "checkpoints").iterdir())
    assert str(path.parent) not in (run / "report.html").read_text()


def test_a_relative_path_in_a_recipe_begins_at_the_recipes_folder(nnunet, tmp_path):
    raw, path, folds = nnunet
    shutil.copy(path, tmp_path / "folds.json")
    recipe = write_recipe(tmp_path, raw, objective=SUPERVISED, max_steps=2)
    text = recipe.read_text().replace("data:\n", "data:\n  split: folds.json\n  split_fold: 0\n")
    prepared = prepare(runs.read_recipe(written(tmp_path / "moved.yaml", text)))
    assert prepared.split.as_dict()["validation"] == folds[0]["val"]


def test_the_list_that_is_used_is_not_reported_as_unused(nnunet, tmp_path, capsys):
    raw, path, _ = nnunet
    shutil.copytree(raw, tmp_path / "raw")
    beside = shutil.copy(path, tmp_path / "raw" / "splits_final.json")
    assert "unused-list" in {problem.code for problem in check(tmp_path / "raw").warnings}
    recipe = write_recipe(tmp_path, tmp_path / "raw", objective=SUPERVISED)
    chosen = [f"data.split={beside}", "data.split_fold=0"]
    assert "unused-list" not in {problem.code for problem in prepare(runs.read_recipe(recipe, chosen)).index.warnings}


def test_a_column_that_parts_the_cases_is_not_called_unread(tmp_path, capsys):
    dataset = make_phantom(tmp_path / "data", labelled=4, unlabelled=0)
    cases = open_dataset(dataset).cases
    rows = [f"{case.images[0]},{case.label},{'AB'[n % 2]}" for n, case in enumerate(cases)]
    table = written(tmp_path / "cohort.csv", "image,label,Site\n" + "\n".join(rows) + "\n")
    assert "unknown-key" in {problem.code for problem in check(table).warnings}
    recipe = write_recipe(tmp_path, table, objective=SUPERVISED)
    chosen = [f"data.split={table}", "data.split_by=Site", "data.split_fold=A", "data.validation_fraction=0.5"]
    capsys.readouterr()
    prepared = prepare(runs.read_recipe(recipe, chosen))
    assert "unknown-key" not in {problem.code for problem in prepared.index.warnings}
    assert len(prepared.split.validation) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"data.validation_fraction changes nothing, since {table} says who validates" in said


def test_copies_of_a_scan_on_both_sides_are_refused(nnunet, tmp_path):
    """Two scans of one patient, whose lists the file parts."""
    raw, _, _ = nnunet
    place = tmp_path / "raw"
    shutil.copytree(raw, place)
    entries = [
        {"image": f"imagesTr/phantom_{n:03d}_0000.nii.gz", "label": f"labelsTr/phantom_{n:03d}.nii.gz", "id": f"c{n}"}
        for n in range(4)
    ]
    for part, end in (("imagesTr", "_0000"), ("labelsTr", "")):
        shutil.copy(place / part / f"phantom_000{end}.nii.gz", place / part / f"phantom_009{end}.nii.gz")
    entries.append({"image": "imagesTr/phantom_009_0000.nii.gz", "label": "labelsTr/phantom_009.nii.gz", "id": "c9"})
    listing = written(place / "list.json", {"training": entries[:1] + entries[4:], "validation": entries[1:4]})
    path = written(
        tmp_path / "s.json",
        {"labelled": ["c0", "c1"], "unlabelled": [], "validation": ["c9", "c2", "c3"], "unlike": []},
    )
    recipe = write_recipe(tmp_path, listing, objective=SUPERVISED)
    with pytest.raises(UserError, match="scan-leaks"):
        prepare(runs.read_recipe(recipe, [f"data.split={path}"]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "data.split_fold=0"),
        (["data.split_fold=0", "--folds", 2], "lets one fold validate, and --folds trains all"),
    ],
)
def test_the_command_line_names_the_choice(nnunet, tmp_path, words, message):
    raw, path, _ = nnunet
    recipe = write_recipe(tmp_path, raw, objective=SUPERVISED, max_steps=2)
    done = fewmask("train", recipe, f"data.split={path}", *words, "--output", tmp_path / "run")
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert message in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_fold_without_a_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"data\.split names no file"):
        runs.read_recipe(write_recipe(tmp_path, "data"), ["data.split_fold=0"])


def test_a_table_of_bids_participants_names_its_patients(tmp_path):
    phantom = make_phantom(tmp_path / "phantom", labelled=3, unlabelled=0)
    for n in range(3):
        place = tmp_path / "bids" / f"sub-{n}" / "anat"
        place.mkdir(parents=True)
        shutil.copy(phantom / "imagesTr" / f"phantom_{n:03d}.nii.gz", place / f"sub-{n}_T1w.nii.gz")
        shutil.copy(phantom / "labelsTr" / f"phantom_{n:03d}.nii.gz", place / f"sub-{n}_T1w_dseg.nii.gz")
    rows = [["participant_id", "site"], ["sub-0", "a"], ["sub-1", "b"], ["sub-2", "a"]]
    path = table(tmp_path / "bids" / "participants.tsv", *rows)
    found = read_dataset(tmp_path / "bids")
    split = split_by_file(found, path, "site", "b")
    assert [c.patient for c in split.validation] == [found.cases[1].patient]
