import csv
import json

import nibabel as nib
import numpy as np
import pytest
from commands import fewmask
from runs_fixtures import command_runner

from pipeline import api as fewmask_api
from pipeline import runs
from pipeline.errors import UserError
from pipeline.metrics.registered import CentreDistance

AFFINE = np.diag([2.0, 1.0, 1.5, 1.0])


@pytest.fixture
def folders(tmp_path, make_scan):
    """True masks, and predictions as nnU-Net leaves them: masks, probabilities and three JSON files."""
    rng = np.random.default_rng(0)
    for n in range(3):
        truth = np.zeros((9, 10, 11), np.uint8)
        truth[2:6, 2:7, 3:8], truth[6:8, 7:9, 8:10] = 1, 2
        truth[:2] = 3
        guess = np.where(rng.random(truth.shape) < 0.05, 1, truth % 3).astype(np.uint8)
        make_scan(f"labelsTr/case_{n}.nii.gz", truth, AFFINE)
        make_scan(f"fold_0/case_{n}.nii", guess, AFFINE)
        np.savez(tmp_path / "fold_0" / f"case_{n}.npz", probabilities=np.zeros(2))
    labels = {"background": 0, "liver": 1, "tumour": 2, "ignore": 3}
    for name in ("plans.json", "predict_from_raw_data_args.json"):
        (tmp_path / "fold_0" / name).write_text("{}")
    (tmp_path / "fold_0" / "dataset.json").write_text(json.dumps({"labels": labels}))
    return tmp_path / "fold_0", tmp_path / "labelsTr"


def rows_of(folder):
    with (folder / "cases.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_metrics_of_ones_own_are_columns_of_the_scores(folders, tmp_path):
    plugin = tmp_path / "extent.py"
    plugin.write_text(
        "from pipeline.metrics.registered import METRICS, CaseMetric\n\n\n"
        "@METRICS.register('missed_ml')\n"
        "class Missed(CaseMetric):\n"
        "    def __call__(self, truth, prediction, spacing_mm):\n"
        "        x, y, z = spacing_mm\n"
        "        return float((truth & ~prediction).sum() * x * y * z / 1000)\n"
    )
    words = ("--plugin", plugin, "--metric", "missed_ml", "--metric", "centre_distance_mm")
    done = fewmask("evaluate", *folders, *words, "--output", tmp_path / "scores")
    assert done.returncode == 0, done.stderr
    first = rows_of(tmp_path / "scores")[0]
    guess, truth = (np.asarray(nib.load(next(folder.glob("case_0.nii*"))).dataobj) for folder in folders)
    missed = ((truth == 1) & (guess != 1)).sum() * 3 / 1000
    assert float(first["missed_ml"]) == pytest.approx(missed, abs=1e-6)
    assert 0 <= float(first["centre_distance_mm"]) < 1
    summary = json.loads((tmp_path / "scores" / "summary.json").read_text())
    assert "missed_ml" in json.dumps(summary)
    for name, message in (("mised_ml", "did you mean 'missed_ml'?"), ("dice", "choose one of")):
        refused = fewmask("evaluate", *folders, "--plugin", plugin, "--metric", name, "--output", tmp_path / "no")
        assert refused.returncode == 2
        assert f"no metric is named {name!r}; {message}" in refused.stderr
    assert not (tmp_path / "no").exists()


def test_metrics_are_given_by_name_or_as_such(folders, tmp_path):
    by_name = fewmask_api.evaluate(*folders, tmp_path / "named", metrics=["centre_distance_mm"])
    given = {"centre_distance_mm": CentreDistance()}
    assert fewmask_api.evaluate(*folders, tmp_path / "given", metrics=given).as_dict() == by_name.as_dict()
    both = {"distance": "centre_distance_mm", "again": CentreDistance()}
    fewmask_api.evaluate(*folders, tmp_path / "both", metrics=both)
    row = rows_of(tmp_path / "both")[0]
    assert row["distance"] == row["again"] == rows_of(tmp_path / "named")[0]["centre_distance_mm"]
    for metrics, message in (
        ({"distance": 3}, "metrics: is {'distance': 3}"),
        (["distance"], "no metric is named 'distance'"),
        ({"dice": CentreDistance()}, "is the name of another column"),
        ({"case": CentreDistance()}, "is the name of another column"),
    ):
        with pytest.raises(UserError, match=message):
            fewmask_api.evaluate(*folders, tmp_path / "no", metrics=metrics)


@pytest.mark.parametrize(
    ("there", "remedy"),
    [("case_7", "predict its scan, or name the folder"), ("case_0_pred", "did you mean 'case_0_pred'?")],
)
def test_a_missing_mask_is_not_taken_for_one_of_another_number(folders, tmp_path, there, remedy):
    predictions, labels = folders
    (predictions / "case_0.nii").rename(predictions / f"{there}.nii")
    with pytest.raises(UserError) as raised:
        runs.evaluate(predictions, labels, tmp_path / "scores")
    assert [problem.remedy.startswith(remedy) for problem in raised.value.problems] == [True]


@pytest.mark.parametrize(
    ("place", "old", "new"), [(0, "case_0.nii", "case_0_0000.nii"), (1, "case_1.nii.gz", "case_1_seg.nii.gz")]
)
def test_a_mask_is_found_by_the_name_that_nnunet_and_layouts_would_give_it(folders, tmp_path, place, old, new):
    known = runs.evaluate(*folders, tmp_path / "known")
    (folders[place] / old).rename(folders[place] / new)
    assert runs.evaluate(*folders, tmp_path / "again").mean_dice == known.mean_dice


def test_a_folder_of_nnunet_is_scored_with_its_names_and_without_what_it_ignores(folders, tmp_path, capsys):
    summary = runs.evaluate(*folders, tmp_path / "scores")
    rows = rows_of(tmp_path / "scores")
    assert [(row["case"], row["name"]) for row in rows[:3]] == [
        ("case_0", "liver"),
        ("case_0", "tumour"),
        ("case_1", "liver"),
    ]
    assert summary.n_cases == 3
    note = "3 of 3 masks have voxels that nobody annotated, which are not scored: these figures flatter"
    assert note in capsys.readouterr().err
    assert json.loads((tmp_path / "scores" / "summary.json").read_text())["notes"][0].startswith(note)
    assert note in (tmp_path / "scores" / "report.html").read_text()
    # The slabs that nobody annotated hold voxels of the predicted liver; counted, they would be false.
    with_them = runs.evaluate(*folders, tmp_path / "other", ignore=99)
    assert "nobody annotated" not in capsys.readouterr().err
    assert with_them.classes[0].metrics["precision"].mean < summary.classes[0].metrics["precision"].mean


@pytest.mark.parametrize(("ignore", "said", "words"), [(255, {"ignore": 255}, ()), (-1, {}, ("--ignore", "-1"))])
def test_an_ignored_value_beside_the_labels_or_below_zero_counts_nowhere(
    folders, tmp_path, make_scan, ignore, said, words
):
    expected = runs.evaluate(*folders, tmp_path / "expected").means["dice"].value
    for n in range(3):
        truth = nib.load(folders[1] / f"case_{n}.nii.gz").get_fdata()
        make_scan(f"labelsTr/case_{n}.nii.gz", np.where(truth == 3, ignore, truth).astype(np.int16), AFFINE)
    labels = {"background": 0, "liver": 1, "tumour": 2}
    (folders[0] / "dataset.json").write_text(json.dumps({"labels": labels} | said))
    done = fewmask("evaluate", *folders, "--output", tmp_path / "scores", *words)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "scores" / "summary.json").read_text())
    assert summary["means"]["dice"]["value"] == expected
    assert [row["name"] for row in rows_of(tmp_path / "scores")[:2]] == ["liver", "tumour"]


def test_a_mask_that_predicts_the_ignored_value_predicts_nothing_there(folders, tmp_path, make_scan):
    guess = np.full((9, 10, 11), 3, np.uint8)
    for n in range(3):
        make_scan(f"fold_0/case_{n}.nii", guess, AFFINE)
    summary = runs.evaluate(*folders, tmp_path / "scores")
    assert [row.missed for row in summary.classes] == [3, 3]


def test_what_is_left_out_and_what_nothing_names_is_told(folders, make_scan, capsys):
    predictions, labels = folders
    runs.evaluate(predictions, labels, labels.parent / "scores")
    assert "have no true mask" not in (said := capsys.readouterr().err)
    assert "have names" not in said
    made = np.zeros((9, 10, 11), np.uint8)
    made[4] = 9
    for place in ("fold_0/extra.nii", "fold_0/case_1.nii"):
        make_scan(place, made, AFFINE)
    runs.evaluate(predictions, labels, labels.parent / "scores")
    said = capsys.readouterr().err
    assert "1 of 4 predictions have no true mask, and are left out: extra" in said
    assert "not all values of the masks have names: 9 scored too" in said


def test_labels_get_the_names_that_are_given(folders, tmp_path, monkeypatch, capsys):
    run = command_runner(monkeypatch, capsys)
    line = ["evaluate", *folders, "--ignore", 3, "--output", tmp_path / "named", "--label", "spleen=1"]
    assert run(*line, "--label", "cyst=2")[0] == 0
    assert [row["name"] for row in rows_of(tmp_path / "named")][:2] == ["spleen", "cyst"]
    runs.evaluate(*folders, tmp_path / "python", ignore=3, names={1: "spleen", 2: "cyst"})
    assert rows_of(tmp_path / "python") == rows_of(tmp_path / "named")
    for wrong in (["liver"], ["liver=1", "liver=2"], ["liver=1", "spleen=1"], ["liver=[1,2]"], ["liver=[]"]):
        options = [word for pair in wrong for word in ("--label", pair)]
        code, _, told = run("evaluate", *folders, "--output", tmp_path / "wrong", *options)
        assert (code, "bad-labels" in told) == (2, True), wrong
    assert not (tmp_path / "wrong").exists()


def test_masks_of_one_patient_count_once(tmp_path, make_scan, monkeypatch, capsys):
    run = command_runner(monkeypatch, capsys)
    for name in ("p1_frame01", "p1_frame09", "p2_frame01", "p3_frame01"):
        for folder in ("truth", "found"):
            voxels = np.zeros((6, 6, 6), np.uint8)
            voxels[1 : 3 + (folder == "truth"), 2:5, 2:5] = 1
            make_scan(f"{folder}/{name}.nii.gz", voxels, AFFINE)
    line = ["evaluate", tmp_path / "found", tmp_path / "truth", "--output"]
    code, _, told = run(*line, tmp_path / "alone")
    assert code == 0
    assert "each mask counts as a patient of its own; --patient '(.+?)_frame' counts" in told
    assert {row["patient"] for row in rows_of(tmp_path / "alone")} == {
        row["case"] for row in rows_of(tmp_path / "alone")
    }
    code, _, told = run(*line, tmp_path / "joined", "--patient", "(.+?)_frame")
    assert (code, "counts as" in told) == (0, False)
    assert [row["patient"] for row in rows_of(tmp_path / "joined")] == ["p1", "p1", "p2", "p3"]
    runs.evaluate(tmp_path / "found", tmp_path / "truth", tmp_path / "python", patient="(.+?)_frame")
    assert rows_of(tmp_path / "python") == rows_of(tmp_path / "joined")
    for pattern, says in (("(", "is no pattern"), ("(p1)", "(p1) is not in p2_frame01, p3_frame01")):
        code, _, told = run(*line, tmp_path / "wrong", "--patient", pattern)
        assert (code, says in told, (tmp_path / "wrong").exists()) == (2, True, False), told


def test_tolerance_is_in_mm_and_told(folders, tmp_path):
    done = [
        fewmask("evaluate", *folders, "--output", tmp_path / str(tolerance), "--tolerance-mm", tolerance)
        for tolerance in (0.1, 5.0)
    ]
    assert [d.returncode for d in done] == [0, 0], done[0].stderr
    strict, lax = (json.loads((tmp_path / str(tolerance) / "summary.json").read_text()) for tolerance in (0.1, 5.0))
    assert (strict["tolerance_mm"], lax["tolerance_mm"]) == (0.1, 5.0)
    assert strict["means"]["surface_dice"]["value"] < lax["means"]["surface_dice"]["value"]
    assert strict["means"]["dice"] == lax["means"]["dice"]


def test_distances_are_in_mm_on_the_masks_own_grid(tmp_path, make_scan):
    truth = np.zeros((9, 10, 11), np.uint8)
    truth[2:5, 2:5, 2:5] = 1
    make_scan("labels/a.nii.gz", truth, AFFINE)
    make_scan("masks/a.nii.gz", np.roll(truth, 1, axis=0), AFFINE)
    runs.evaluate(tmp_path / "masks", tmp_path / "labels", tmp_path / "scores")
    (row,) = rows_of(tmp_path / "scores")
    assert float(row["hd95_mm"]) == 2.0
    assert float(row["volume_truth_ml"]) == pytest.approx(27 * 3 / 1000)


@pytest.mark.parametrize("labels", [{"liver": -1}, {"1": "liver", "01": "spleen"}, ["liver"]])
def test_labels_that_make_no_sense_are_refused_by_their_file(folders, tmp_path, labels):
    (folders[0] / "dataset.json").write_text(json.dumps({"labels": labels}))
    with pytest.raises(UserError, match=r"fold_0.dataset\.json"):
        runs.evaluate(*folders, tmp_path / "scores")
    assert not (tmp_path / "scores").exists()


def test_masks_on_another_grid_or_there_twice_are_refused(folders, tmp_path, make_scan):
    make_scan("fold_0/case_1.nii", np.zeros((9, 10, 12), np.uint8), AFFINE)
    with pytest.raises(UserError, match="shapes-differ"):
        runs.evaluate(*folders, tmp_path / "scores")
    make_scan("fold_0/case_2.nii.gz", np.zeros((9, 10, 11), np.uint8), AFFINE)
    with pytest.raises(UserError, match="case_2"):
        runs.evaluate(*folders, tmp_path / "scores")
    assert not (tmp_path / "scores").exists()
