"""Cross-validation: the folds, what they tell out of fold, and how they predict together."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from commands import fewmask
from runs_fixtures import make_phantom, state_of, train, write_recipe

from pipeline import runs
from pipeline.data.check import copies
from pipeline.data.splits import all_cases, split_cases
from pipeline.errors import UserError
from pipeline.metrics.calibration import Expectation
from pipeline.nifti.volume import load
from pipeline.outputs import Output, digest_of
from pipeline.pacing.budget import Budget
from pipeline.prediction.postprocessing import DropSmall, FillHoles, KeepLargest
from pipeline.runs.checking import check
from pipeline.runs.choosing import PostprocessingTrial, candidates
from pipeline.runs.cross_validation import recipe_of_fold
from pipeline.runs.folder import read_split
from pipeline.runs.models import load_folds, load_model
from pipeline.strict_json import write_json
from pipeline.types import Case, Region, Task

SUPERVISED = [{"loss": "dice"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("folds")


@pytest.fixture(scope="module")
def dataset(folder):
    return make_phantom(folder / "phantom", labelled=5)


@pytest.fixture(scope="module")
def recipe(folder, dataset):
    return write_recipe(folder, dataset, objective=SUPERVISED, max_steps=3)


@pytest.fixture(scope="module")
def crossed(folder, recipe):
    run = folder / "crossed"
    scores = runs.cross_validate(runs.read_recipe(recipe), run, 2)
    assert [found.folder for found in scores] == [run / "out-of-fold"]
    return run


def read(path):
    return json.loads(path.read_text())


def test_a_cross_validation_is_compared_by_its_scores_out_of_fold(crossed, tmp_path):
    shutil.copytree(crossed / "out-of-fold", tmp_path / "other")
    found = runs.compare(crossed, tmp_path / "other", tmp_path / "compared")
    assert (found.n_cases, found.changed) == (5, [])


# The parts


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_every_labelled_case_is_held_out_once_and_parts_are_equally_large(dataset, folds):
    found = check(dataset).dataset
    splits = [split_cases(found, 0.2, 0, fold=(fold, folds)) for fold in range(1, folds + 1)]
    held_out = [case.id for split in splits for case in split.validation]
    everything = all_cases(found)
    assert sorted(held_out) == sorted(case.id for case in everything.labelled)
    sizes = {len(split.validation) for split in splits}
    assert max(sizes) - min(sizes) <= 1
    for split in splits:
        assert not {case.patient for case in split.validation} & {case.patient for case in split.labelled}
        assert split.unlabelled == everything.unlabelled


def test_parts_depend_on_the_seed_alone(dataset):
    found = check(dataset).dataset
    parts = [split_cases(found, 0.2, seed, fold=(1, 2)).as_dict() for seed in (0, 0, 1, 2, 3)]
    assert parts[0] == parts[1]
    assert any(part != parts[0] for part in parts[2:])


def listed(dataset, path, names):
    """Write the phantom's list with some of its labelled cases as its validation list."""
    content = read(Path(dataset) / "dataset.json")
    entries = content["training"]
    content["validation"] = [entry for entry in entries if any(name in entry["image"] for name in names)]
    content["training"] = [entry for entry in entries if entry not in content["validation"]]
    path.write_text(json.dumps(content))
    return path


def test_validation_list_takes_part_in_no_fold(dataset, tmp_path):
    path = listed(dataset, tmp_path / "list.json", ["phantom_001"])
    found = check(path, Path(dataset)).dataset
    for fold in (1, 2):
        split = split_cases(found, 0.2, 0, fold=(fold, 2))
        assert "phantom_001" not in {case.id for case in split.labelled + split.unlabelled + split.validation}
    assert [case.id for case in all_cases(found).validation] == ["phantom_001"]


def test_patient_of_the_validation_list_teaches_in_no_fold(dataset):
    found = check(dataset).dataset
    first, second, *others = (case for case in found.cases if case.label)
    cases = (replace(first, role="validation"), replace(second, patient=first.patient), *others)
    for fold in (1, 2):
        split = split_cases(replace(found, cases=cases), 0.2, 0, fold=(fold, 2))
        assert second.id not in {case.id for case in split.labelled + split.validation}


# A whole cross-validation


def test_out_of_fold_scores_are_those_of_the_folds(crossed):
    def rows(folder):
        return (folder / "cases.csv").read_text().splitlines()

    head, *whole = rows(crossed / "out-of-fold")
    folds = [rows(crossed / f"fold-{fold}") for fold in (1, 2)]
    assert all(fold[0] == head for fold in folds)
    assert sorted(whole) == sorted(line for fold in folds for line in fold[1:])
    summary = read(crossed / "out-of-fold" / "summary.json")
    assert "not trained on its patient" in summary["notes"][0]
    assert "Out of fold" in (crossed / "out-of-fold" / "report.html").read_text()


def test_a_fold_is_said_once(recipe, tmp_path):
    """By its place in a file, or by its number in a cross-validation."""
    words = ["data.split=splits.json", "data.split_fold=2", "data.fold=[1,3]"]
    with pytest.raises(UserError, match=r"expected null, since data\.split_fold says which fold validates"):
        runs.read_recipe(recipe, words)


def test_with_regions_no_step_is_tried(dataset):
    """What is painted of a region in a mask is not its shape."""
    index = check(dataset)
    cases = [case for case in index.dataset.cases if case.label]
    truth = Task(index.labels, ("image",))
    assert len(list(candidates(cases, index.facts, truth))) == 3 * (len(index.labels) - 1)
    region = Region(label=1, values=(1, 2))
    assert list(candidates(cases, index.facts, replace(truth, regions=(region,)))) == []


def test_with_steps_of_its_own_a_cross_validation_chooses_none(crossed, tmp_path, monkeypatch):
    tried = []
    monkeypatch.setattr("pipeline.runs.out_of_fold.candidates", lambda *_: tried.append(1) or [])
    for given, told in (("auto", True), ("[]", False)):
        run = shutil.copytree(crossed, tmp_path / f"of {given}")
        text = (run / "config.yaml").read_text()
        assert "postprocessing: auto" in text
        (run / "config.yaml").write_text(text.replace("postprocessing: auto", f"postprocessing: {given}"))
        notes = runs.validate(run).notes
        assert any("chosen by these cases" in note for note in notes) == bool(tried) == told
        assert read(run / "postprocessing.json") == {"steps": []}
        tried.clear()


def test_best_checkpoints_are_scored_apart_and_said_to_flatter(crossed):
    kept = {name: (crossed / name).read_bytes() for name in ("postprocessing.json", "out-of-fold/summary.json")}
    scores = runs.validate(crossed, which="best")
    assert scores.folder == crossed / "validation" / "best"
    assert "chose this checkpoint" in scores.notes[1]
    assert {name: (crossed / name).read_bytes() for name in kept} == kept


def test_fold_is_the_run_that_its_own_recipe_makes(crossed, tmp_path):
    told = crossed / "fold-2" / "config.yaml"
    assert yaml.safe_load(told.read_text())["data"]["fold"] == [2, 2]
    runs.train(runs.read_recipe(told), tmp_path / "again")
    assert (tmp_path / "again" / "cases.csv").read_bytes() == (crossed / "fold-2" / "cases.csv").read_bytes()


def test_folds_predict_with_the_mean_of_their_probabilities(crossed, dataset, tmp_path):
    scan = next((Path(dataset) / "imagesTr").iterdir())
    answers = [model.predictor.logits([load(scan)]) for model in load_folds(crossed, "last")]
    shares = [np.exp(answer) / np.exp(answer).sum(axis=0) for answer in answers]
    mean = sum(shares) / len(shares)
    model = load_model(crossed, "last")
    expectation = Expectation(label_values=model.predictor.label_values)
    found = model.predictor.segment([load(scan)], expectation)
    expected = Expectation(label_values=model.predictor.label_values)
    expected.add(mean.reshape(len(mean), -1), found.reshape(-1))
    assert expectation.dice() == pytest.approx(expected.dice(), abs=1e-5)
    (mask,) = runs.predict(crossed, [scan], tmp_path / "masks")
    np.testing.assert_array_equal(nib.load(mask).get_fdata(), found)
    if not read(crossed / "postprocessing.json")["steps"]:
        np.testing.assert_array_equal(found, np.array(model.predictor.label_values)[mean.argmax(axis=0)])


def test_post_processing_of_the_folder_is_applied(crossed, dataset, tmp_path):
    scan = next((Path(dataset) / "imagesTr").iterdir())
    kept = (crossed / "postprocessing.json").read_text()
    try:
        everything = [{"step": "drop_small", "options": {"label": label, "least_ml": 1e9}} for label in (1, 2)]
        (crossed / "postprocessing.json").write_text(json.dumps({"steps": everything}))
        with pytest.raises(UserError, match=r"postprocessing\.json: was changed after it was written"):
            load_model(crossed, "last")
        Output(crossed, "run").tell("postprocessing.json", digest_of(crossed / "postprocessing.json"))
        (mask,) = runs.predict(crossed, [scan], tmp_path / "masks")
        assert not nib.load(mask).get_fdata().any()
    finally:
        (crossed / "postprocessing.json").write_text(kept)


def test_resuming_trains_the_fold_that_is_missing_and_ends_the_same(recipe, crossed, tmp_path, capsys):
    run = tmp_path / "run"
    first = runs.read_recipe(recipe)
    runs.cross_validate(first, run, 2)
    kept = {path.relative_to(run): path.read_bytes() for path in run.rglob("cases.csv")}
    weights = state_of(run / "fold-2")["network"]
    for path in sorted((run / "fold-2").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    stamp = next((run / "fold-1" / "checkpoints").glob("last-*.pt")).stat().st_mtime_ns
    runs.cross_validate(first, run, 2, resume=True)
    assert next((run / "fold-1" / "checkpoints").glob("last-*.pt")).stat().st_mtime_ns == stamp
    assert {path.relative_to(run): path.read_bytes() for path in run.rglob("cases.csv")} == kept
    assert all(value.equal(weights[name]) for name, value in state_of(run / "fold-2")["network"].items())


def test_validation_list_is_scored_by_all_folds_together(dataset, tmp_path):
    path = listed(dataset, tmp_path / "list.json", ["phantom_001"])
    recipe = write_recipe(tmp_path, path, objective=SUPERVISED, max_steps=2, root=str(dataset))
    run = tmp_path / "run"
    out_of_fold, together = runs.cross_validate(runs.read_recipe(recipe), run, 2)
    assert (out_of_fold.folder, together.folder) == (run / "out-of-fold", run)
    assert {line.split(",")[0] for line in (run / "cases.csv").read_text().splitlines()[1:]} == {"phantom_001"}
    assert "phantom_001" not in (run / "out-of-fold" / "cases.csv").read_text()
    assert runs.validate(run).folder == run


def test_other_dataset_is_scored_without_any_case_of_the_folds(crossed, dataset):
    with pytest.raises(UserError, match="not trained on"):
        runs.validate(crossed, Path(dataset))


def test_folds_share_the_time_and_one_cache(recipe, tmp_path):
    whole = runs.read_recipe(recipe, ["max_steps=auto", "time_budget=40m"])
    fold = recipe_of_fold(whole, tmp_path, (2, 5), 5)
    assert (fold.data.fold, fold.time_budget) == ((2, 5), "456.0s")
    assert fold.data.cache == tmp_path / "cache"
    assert recipe_of_fold(runs.read_recipe(recipe, ["data.cache=off"]), tmp_path, (1, 5), 5).data.cache == "off"


# Mistakes


@pytest.mark.parametrize(
    ("folds", "resume", "message"),
    [
        (2, False, "this folder holds a cross-validation of 2 folds"),
        (3, True, "give --folds 2"),
        (0, True, "give --folds 2"),
    ],
)
def test_other_run_in_the_folder_is_refused(crossed, recipe, folds, resume, message):
    given = runs.read_recipe(recipe)
    with pytest.raises(UserError, match=message):
        if folds:
            runs.cross_validate(given, crossed, folds, resume=resume)
        else:
            runs.train(given, crossed, resume=resume)


def test_folds_are_not_made_of_a_run_that_is_there(dataset, recipe, folder):
    run = train(folder, dataset, "plain", "max_steps=1", objective=SUPERVISED)
    with pytest.raises(UserError, match="leave out --folds"):
        runs.cross_validate(runs.read_recipe(recipe), run, 2, resume=True)


def test_more_folds_than_patients_are_refused_before_anything_is_written(recipe, tmp_path):
    with pytest.raises(UserError, match=r"5 labelled patient\(s\), and each of 6 folds"):
        runs.cross_validate(runs.read_recipe(recipe), tmp_path / "run", 6)
    assert not (tmp_path / "run").exists()


def test_copies_that_a_fold_could_part_are_refused_where_a_list_validates(dataset, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(dataset, data)
    for place in (data / "imagesTr", data / "labelsTr"):
        shutil.copy(place / "phantom_000.nii.gz", place / "phantom_002.nii.gz")
    path = listed(data, data / "list.json", ["phantom_001"])
    given = runs.read_recipe(write_recipe(tmp_path, path, objective=SUPERVISED))
    with pytest.raises(UserError, match=r"phantom_002.nii.gz: is the same scan as .*phantom_000.nii.gz"):
        runs.cross_validate(given, tmp_path / "run", 2)
    with pytest.raises(UserError, match="is the same scan as"):
        train(tmp_path, path, "run", "data.fold=[1, 2]", objective=SUPERVISED)
    assert not (tmp_path / "run").exists()


def test_copies_without_masks_are_no_matter_of_folds(dataset):
    found = check(dataset)
    bare = [case for case in found.dataset.cases if case.label is None][:2]
    facts = dict.fromkeys((case.id for case in bare), found.facts[bare[0].id])
    assert copies(bare, facts, drawn=True) == []
    (problem,) = copies([replace(bare[0], label=Path("mask.nii")), bare[1]], facts, drawn=True)
    assert (problem.code, problem.case) == ("scan-leaks", bare[1].id)


def test_training_without_labels_has_no_folds(dataset, tmp_path):
    recipe = write_recipe(tmp_path, dataset, objective=[{"loss": "ncut", "on": "unlabelled"}], segments=2)
    with pytest.raises(UserError, match="learns from none"):
        runs.cross_validate(runs.read_recipe(recipe), tmp_path / "run", 2)


def test_command_refuses_one_fold(recipe, tmp_path):
    done = fewmask("train", recipe, "--output", tmp_path / "run", "--folds", "1")
    assert done.returncode == 2
    assert "--folds: is 1" in done.stderr


def test_fold_of_a_recipe_is_one_of_them(recipe):
    with pytest.raises(UserError, match="up to the second"):
        runs.read_recipe(recipe, ["data.fold=[3,2]"])


def test_a_split_that_tells_other_cases_than_the_folds_is_refused(crossed, tmp_path):
    run = shutil.copytree(crossed, tmp_path / "run")
    (run / ".fewmask").unlink()  # Whoever has altered the split may have lost the list too.
    split = json.loads((run / "split.json").read_text())
    split["labelled"].pop()
    (run / "split.json").write_text(json.dumps(split))
    with pytest.raises(UserError, match="does not tell the same cases as the folds do"):
        runs.validate(run)


def test_predicting_before_the_end_says_what_is_missing(crossed, dataset, tmp_path, capsys):
    scan = next((Path(dataset) / "imagesTr").iterdir())
    kept = (crossed / "postprocessing.json").rename(tmp_path / "kept")
    try:
        runs.predict(crossed, [scan], tmp_path / "masks")
        assert "train goes on with --resume" in " ".join(capsys.readouterr().err.split())
    finally:
        kept.rename(crossed / "postprocessing.json")


# Which post-processing is kept


class Truth:
    spacing_mm = (10.0, 10.0, 10.0)

    def __init__(self, labels):
        self.labels = labels


def masks(*labels):
    return np.array(labels, np.uint8).reshape(-1, 1, 1)


def trial(pairs, *candidates):
    made = PostprocessingTrial(Task({0: "background", 1: "one"}, ("image",)), candidates)
    for n, (truth, predicted) in enumerate(pairs):
        made.add(Case(id=f"c{n}", images=(), label=None, patient=f"p{n}"), (), Truth(masks(*truth)), masks(*predicted))
    return made.kept()


LARGEST, SMALL, FILL = KeepLargest(1), DropSmall(1, 1.5), FillHoles(1)
CRUMB = ((0, 0, 1, 1, 1, 0), (1, 0, 1, 1, 1, 0))


def test_change_that_helps_every_patient_is_kept_and_its_gain_told():
    kept = trial([CRUMB] * 6, LARGEST, FILL)
    assert list(kept) == [LARGEST]
    assert kept[LARGEST] == "Dice +0.1429; 6 patients gain, 0 lose, Wilcoxon p = 0.031"
    assert trial([CRUMB] * 5, LARGEST, FILL) == {}  # five patients say nothing


def test_change_that_helps_most_a_little_and_harms_one_a_lot_is_not():
    harmed = ((1, 1, 0, 0, 1, 1, 1), (1, 1, 0, 0, 1, 1, 1))
    small_gain = ((1,) * 60 + (0, 0, 0), (1,) * 60 + (0, 0, 1))
    assert list(trial([small_gain] * 15, LARGEST)) == [LARGEST]
    assert trial([small_gain] * 15 + [harmed], LARGEST) == {}
    small_loss = ((1,) * 60 + (0, 0, 1), (1,) * 60 + (0, 0, 1))
    mended = ((1, 1, 1, 0, 0, 0, 0), (1, 1, 1, 0, 0, 1, 1))
    assert trial([small_loss] * 15 + [mended], LARGEST) == {}


def test_change_that_helps_some_and_harms_others_is_not():
    two = ((1, 0, 1, 1, 1, 0), (1, 0, 1, 1, 1, 0))
    assert trial([CRUMB, two, CRUMB, two], LARGEST) == {}


def test_better_of_two_that_drop_components_is_kept_beside_one_that_fills():
    hole = ((1, 1, 1, 0, 1, 1), (1, 0, 1, 0, 1, 1))
    wrong = ((0, 0, 0, 1, 1, 1), (1, 1, 0, 1, 1, 1))
    kept = trial([CRUMB, wrong] * 6, LARGEST, SMALL)
    assert list(kept) == [LARGEST]
    assert trial([hole], FILL) == {}  # one patient says nothing
    assert list(trial([hole] * 6, FILL)) == [FILL]


def test_class_that_is_rightly_dropped_counts_as_found():
    nothing = ((0, 0, 0, 0), (1, 0, 0, 0))
    assert list(trial([nothing] * 6, SMALL)) == [SMALL]


def test_scans_that_no_fold_was_trained_on_do_not_count_as_trained_on(tmp_path):
    def write(folder, **parts):
        folder.mkdir(parents=True, exist_ok=True)
        split = dict.fromkeys(("labelled", "unlabelled", "validation", "unlike"), ()) | parts
        (folder / "split.json").write_text(json.dumps(split))

    write(tmp_path, labelled=["a", "b"], unlabelled=["u", "v", "w"])
    assert read_split(tmp_path)["unlabelled"] == ["u", "v", "w"]
    (tmp_path / "folds.json").write_text(json.dumps({"folds": 2}))
    write(tmp_path / "fold-1", labelled=["a"], unlabelled=["u"], validation=["b"], unlike=["v", "w"])
    write(tmp_path / "fold-2", labelled=["b"], unlabelled=["u", "v"], validation=["a"], unlike=["w"])
    found = read_split(tmp_path)
    assert (found["unlabelled"], found["unlike"]) == (["u", "v"], ["w"])


def test_a_fold_that_was_begun_keeps_its_time_when_other_calls_share_the_folds(tmp_path, dataset):
    recipe = runs.read_recipe(write_recipe(tmp_path, dataset, time_budget="1h", max_steps="auto"))
    first = recipe_of_fold(recipe, tmp_path / "folds", (1, 4), 4)
    assert first.time_budget == "855.0s"
    (tmp_path / "folds" / "fold-1").mkdir(parents=True)
    write_json(tmp_path / "folds" / "fold-1" / "budget.json", Budget(seconds=855.0).as_dict())
    assert recipe_of_fold(recipe, tmp_path / "folds", (1, 4), 1).time_budget == "855.0s"
    assert recipe_of_fold(recipe, tmp_path / "folds", (2, 4), 1).time_budget == "3420.0s"
