"""Whole runs, end to end, on a phantom and a network that are tiny."""

import csv
import errno
import gzip
import json
import math
import shutil
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from commands import fewmask
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from runs_fixtures import TINY, assert_same_run, files_in, make_phantom, state_of, train, with_mortal, write_recipe
from scipy.spatial.transform import Rotation

from pipeline import nifti, runs
from pipeline.data.loaders import StepLoader
from pipeline.engines.schedules import Schedule
from pipeline.errors import IncompleteError, UserError
from pipeline.files import WriteError
from pipeline.metrics.case import score_case
from pipeline.outputs import LIST
from pipeline.planning import devices
from pipeline.planning.hardware import Hardware
from pipeline.prediction.predictor import Predictor
from pipeline.runs import models, reporting, setup
from pipeline.runs.scoring import Scored, notes_on_low_dice

ENDS = ("", ".sha256")
SUPERVISED = [{"loss": "dice"}]
FLAT = TINY["data"] | {"dimensions": 2, "spacing_mm": [2.5, 2.5], "patch_size": [16, 16]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def dataset(folder):
    return make_phantom(folder / "phantom")


@pytest.fixture(scope="module")
def trained(folder, dataset):
    return train(folder, dataset, "trained")


@pytest.fixture(scope="module")
def uninterrupted(folder, dataset, mortal):
    return train(folder, dataset, "uninterrupted", **with_mortal(mortal))


def history(run):
    with (run / "history.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def validations(run):
    with (run / "validation.csv").open(newline="") as stream:
        return {int(row["step"]): float(row["mean_dice"]) for row in csv.DictReader(stream)}


def weights(run, which="last"):
    return state_of(run, which)["network"]


def problems_of(raised):
    return [(problem.code, problem.where) for problem in raised.value.problems]


def refuse_constant(text):
    raise ValueError(f"{text} is no JSON")


# Training


def test_a_run_holds_what_its_documentation_says(trained):
    found = {path.name for path in trained.iterdir()}
    tables = {"history.csv", "validation.csv", "cases.csv", "summary.json", "report.html", "training.png"}
    assert found == tables | {
        "config.yaml",
        "split.json",
        "index.json",
        "checkpoints",
        "cache",
        "figures",
        ".lock",
        LIST,
    }
    (best,) = {step for step, score in validations(trained).items() if score == max(validations(trained).values())}
    checkpoints = {f"{name}.pt{end}" for name in ("last-000004", "last-000006", f"best-{best:06d}") for end in ENDS}
    assert {path.name for path in (trained / "checkpoints").iterdir()} >= checkpoints


def test_history_has_a_row_a_step_and_a_column_a_term(trained):
    rows = history(trained)
    assert [row["step"] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    assert list(rows[0]) == ["step", "loss", "dice", "ncut"]


def test_loss_of_the_history_is_the_weighted_sum_of_its_terms(trained):
    for row in history(trained):
        ramp = min(1, (int(row["step"]) - 1) / 6 / 0.4)
        expected = float(row["dice"]) + 0.1 * ramp * float(row["ncut"] or 0)
        assert float(row["loss"]) == pytest.approx(expected, rel=1e-5)


def test_term_at_the_foot_of_its_ramp_is_an_empty_field(trained):
    assert [row["ncut"] == "" for row in history(trained)] == [True] + [False] * 5


def test_summary_of_a_run_is_strict_json_that_says_where_it_comes_from(trained):
    summary = json.loads((trained / "summary.json").read_text(), parse_constant=refuse_constant)
    assert (summary["checkpoint"], summary["step"], summary["n_cases"]) == ("last", 6, 1)
    assert [row["name"] for row in summary["classes"]] == ["organ", "nodule"]


def test_masks_of_a_young_network_are_said_to_be_cut_to_their_largest_pieces(folder, dataset):
    steps = [{"step": "keep_largest", "options": {"label": 1}}, {"step": "fill_holes", "options": {"label": 2}}]
    for name, chosen, told in (("cut", steps, True), ("filled", steps[1:], False), ("whole", [], False)):
        run = train(folder, dataset, name, max_steps=1, postprocessing=chosen)
        notes = json.loads((run / "summary.json").read_text())["notes"]
        assert any("cut to their largest pieces" in note for note in notes) == told
        page = (run / "report.html").read_text()
        assert ("keep_largest label=1, fill_holes label=2" in page) == told
        assert ("--allow-change postprocessing</code> keeps and scores all" in page) == told
        assert ("<code>fewmask predict --postprocess off</code> keeps all" in page) == told


@pytest.mark.parametrize("predicted", [0, 1])
def test_pieces_are_spoken_of_only_where_something_was_found(predicted):
    truth, prediction = np.zeros((2, 4, 4, 4), np.uint8)
    truth[0] = 1
    prediction[3] = predicted
    scored = Scored(results=score_case("a", truth, prediction, {1: "organ"}, (1, 1, 1)))
    settings = SimpleNamespace(postprocessing=[SimpleNamespace(step="keep_largest")])
    assert len(notes_on_low_dice([], settings, scored)) == predicted


def test_a_last_validation_far_below_an_earlier_one_names_the_best_checkpoint(folder, dataset):
    run = train(folder, dataset, "falls", max_steps=2, validate_every=1)
    rows = (run / "validation.csv").read_text().splitlines()
    for earlier, told in ((0.93, True), (None, False)):
        scored = Path(shutil.copytree(run, folder / f"falls-{told}"))
        if earlier:
            (scored / "validation.csv").write_text("\n".join([rows[0], f"1,{earlier}", rows[2], ""]))
        notes = runs.validate(scored).notes
        assert any(note.startswith("An earlier validation had Dice") for note in notes) == told
        assert any("0.930: `--checkpoint best` takes those" in note for note in notes) == told


def test_predict_says_what_is_done_to_its_masks(folder, dataset, trained, tmp_path, capsys):
    steps = [{"step": "keep_largest_foreground"}, {"step": "fill_holes", "options": {"label": 2}}]
    run = train(folder, dataset, "steps", max_steps=1, postprocessing=steps)
    capsys.readouterr()
    for place in ("masks", "masks"):
        runs.predict(run, [dataset / "imagesTs"], tmp_path / place)
    told = capsys.readouterr().err
    assert told.count("post-processing of the masks: keep_largest_foreground, fill_holes (nodule)\n") == 1
    runs.predict(trained, [dataset / "imagesTs"], tmp_path / "plain")
    assert "post-processing" not in capsys.readouterr().err


def test_config_of_a_run_has_no_auto_left_and_makes_the_same_run_again(folder, trained):
    assert "auto" not in (trained / "config.yaml").read_text()
    again = folder / "again"
    runs.train(runs.read_recipe(trained / "config.yaml"), again)
    assert_same_run(trained, again)


def test_another_seed_makes_another_run(folder, dataset, trained):
    other = train(folder, dataset, "other_seed", "seed=4", "max_steps=2")
    assert history(other)[0]["loss"] != history(trained)[0]["loss"]


def test_workers_do_not_change_a_run(folder, dataset, trained):
    other = train(folder, dataset, "workers", "data.workers=2")
    assert (other / "history.csv").read_bytes() == (trained / "history.csv").read_bytes()


def test_scans_that_stay_in_the_devices_memory_do_not_change_a_run(folder, dataset, trained):
    other = train(folder, dataset, "resident", "data.resident=true")
    assert (other / "history.csv").read_bytes() == (trained / "history.csv").read_bytes()
    assert yaml.safe_load((other / "config.yaml").read_text())["data"]["resident"] is True


def test_resumed_run_on_resident_scans_does_without_the_workers_that_it_is_given(
    dataset, mortal, uninterrupted, tmp_path, monkeypatch
):
    from pipeline.losses import LOSSES

    changes, asked = with_mortal(mortal), []
    monkeypatch.setattr(LOSSES["mortal"], "calls", 0)
    monkeypatch.setenv("DIE", "raise 4")
    with pytest.raises(LOSSES["mortal"].stop):
        train(tmp_path, dataset, "stopped", "data.resident=true", **changes)
    monkeypatch.delenv("DIE")
    monkeypatch.setattr(
        setup, "StepLoader", lambda *given, **more: asked.append(given[2]) or StepLoader(*given, **more)
    )
    run = train(tmp_path, dataset, "stopped", "data.workers=2", resume=True, **changes)
    assert asked == [0]
    assert (run / "history.csv").read_bytes() == (uninterrupted / "history.csv").read_bytes()
    assert models.load_model(run, "last").settings.data.workers == 0


@pytest.mark.usefixtures("late")
def test_numbers_that_are_late_do_not_change_a_run(folder, dataset, trained):
    assert_same_run(trained, train(folder, dataset, "late"))


def test_validation_cases_are_never_trained_on(trained):
    split = json.loads((trained / "split.json").read_text())
    assert len(split["validation"]) == 1
    assert not set(split["validation"]) & set(split["labelled"] + split["unlabelled"])


def test_unlabelled_scans_change_what_is_learnt(folder, dataset, trained):
    alone = train(folder, dataset, "supervised", objective=SUPERVISED)
    assert list(history(alone)[0]) == ["step", "loss", "dice"]
    # The first step is before the ramp, and the same; then the cut takes part.
    assert history(alone)[0] == {key: history(trained)[0][key] for key in ("step", "loss", "dice")}
    assert history(alone)[3]["dice"] != history(trained)[3]["dice"]


def test_term_on_unlabelled_scans_is_refused_where_there_are_none(folder, tmp_path):
    make_phantom(tmp_path / "all_labelled", labelled=2, unlabelled=0)
    with pytest.raises(UserError, match="no-unlabelled") as raised:
        train(tmp_path, tmp_path / "all_labelled", "run")
    assert problems_of(raised) == [("no-unlabelled", "objective.1")]
    assert not (tmp_path / "run").exists()


def test_patch_of_odd_sides_gets_a_network_that_takes_it(dataset, tmp_path):
    run = train(tmp_path, dataset, "run", "max_steps=1", "data.patch_size=[15, 16, 16]")
    assert yaml.safe_load((run / "config.yaml").read_text())["network"]["options"]["strides"] == [[1, 2, 2]]


def test_objective_that_is_all_ramp_starts_with_a_step_of_nothing(folder, dataset):
    objective = [{"loss": "ncut", "on": "unlabelled", "ramp": 0.5, "options": {"radius": 2}}]
    rows = history(train(folder, dataset, "unsupervised", "max_steps=3", objective=objective))
    assert float(rows[0]["loss"]) == 0
    assert float(rows[2]["loss"]) > 0


@pytest.mark.parametrize(
    "overrides",
    [
        ["network.options.channels=[4]"],
        ["network.options.dropout=2.0"],
        ["data.patch_size=[15,16,16]", "network.options.strides=[[2, 2, 2]]"],
    ],
)
def test_network_that_cannot_be_is_a_users_mistake_and_nothing_is_written(folder, dataset, tmp_path, overrides):
    with pytest.raises(UserError) as raised:
        train(tmp_path, dataset, "run", *overrides)
    assert raised.value.problems[0].where.startswith(("network.options", "data.patch_size"))
    assert not (tmp_path / "run").exists()


def test_training_that_diverges_names_the_cases_and_keeps_its_last_checkpoint(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(Schedule, "__call__", lambda *_: 1e30)
    with pytest.raises(UserError, match="phantom_00") as raised:
        train(tmp_path, dataset, "run", checkpoint_every=1)
    assert [problem.code for problem in raised.value.problems] == ["diverged"]
    assert len(history(tmp_path / "run")) == 1
    assert state_of(tmp_path / "run")["step"] == 1


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_that_diverges_is_not_advised_to_be_what_it_is(dataset, tmp_path, monkeypatch, precision):
    monkeypatch.setattr(Schedule, "__call__", lambda *_: 1e30)
    with pytest.raises(UserError) as raised:
        train(tmp_path, dataset, "run", precision=precision)
    (problem,) = raised.value.problems
    assert problem.remedy.startswith("lower optimizer.learning_rate")
    assert ("precision=float32" in problem.remedy) == (precision == "bfloat16")


@pytest.mark.parametrize("network", ["dynunet", "segresnet"])
def test_other_networks_train_and_predict(dataset, tmp_path, network):
    options = {"dynunet": {"channels": [4, 4, 8, 8]}, "segresnet": {"init_filters": 8, "blocks_down": [1, 1, 1]}}
    if network == "segresnet":
        options[network]["blocks_up"] = [1, 1]
    run = train(tmp_path, dataset, "run", "max_steps=2", network={"name": network, "options": options[network]})
    assert all(math.isfinite(float(row["loss"])) for row in history(run))
    (mask,) = runs.predict(run, [dataset / "imagesTs" / "phantom_004.nii.gz"], tmp_path / "masks")
    assert mask.is_file()


# Best


def test_best_checkpoint_is_that_of_the_best_validation(trained):
    scores = validations(trained)
    best = state_of(trained, "best")
    assert scores[best["step"]] == max(scores.values()) == best["best"]


@pytest.mark.parametrize(("scores", "best"), [([None, 0.2, None], 2), ([0.3, None, 0.2], 1), ([0.1, 0.1, 0.4], 3)])
def test_validation_without_a_score_never_makes_the_best_checkpoint(dataset, tmp_path, monkeypatch, scores, best):
    from pipeline.runs import setup
    from pipeline.runs.scoring import Scored
    from pipeline.types import CaseResult

    left = iter(scores)

    def score(*_, **__):
        dice = next(left)
        outcome = "absent" if dice is None else "scored"
        row = {"case": "a", "label": 1, "name": "organ", "dice": dice, "outcome": outcome}
        return Scored(results=[CaseResult(**row, voxels_truth=1, voxels_predicted=1)])

    monkeypatch.setattr(setup, "score", score)
    run = train(tmp_path, dataset, "run", "max_steps=3", "validate_every=1", objective=SUPERVISED)
    assert state_of(run, "best")["step"] == best


# Stop and go on


def test_run_that_is_killed_and_resumed_is_the_run_that_was_not(folder, dataset, mortal, uninterrupted, tmp_path):
    recipe = write_recipe(tmp_path, dataset, **with_mortal(mortal))
    run = tmp_path / "killed"
    killed = fewmask("train", recipe, "--output", run, DIE="SIGKILL 4")
    assert killed.returncode == -signal.SIGKILL
    assert [row["step"] for row in history(run)] == ["1", "2", "3"]
    assert state_of(run)["step"] == 2
    runs.train(runs.read_recipe(recipe), run, resume=True)
    assert_same_run(run, uninterrupted)


@pytest.mark.parametrize("numbers", ["on_time", "late"])
@pytest.mark.parametrize("step", [1, 3, 6])
def test_run_that_stops_at_any_step_and_is_resumed_is_the_run_that_was_not(
    dataset, mortal, uninterrupted, tmp_path, monkeypatch, request, step, numbers
):
    from pipeline.losses import LOSSES

    if numbers == "late":
        request.getfixturevalue("late")
    changes = with_mortal(mortal)
    monkeypatch.setattr(LOSSES["mortal"], "calls", 0)
    monkeypatch.setenv("DIE", f"raise {step}")
    with pytest.raises(LOSSES["mortal"].stop):
        train(tmp_path, dataset, "stopped", **changes)
    monkeypatch.delenv("DIE")
    behind = numbers == "late" and step > 1 and (step - 1) % TINY["checkpoint_every"] != 0
    assert len(history(tmp_path / "stopped")) == step - 1 - behind
    assert_same_run(train(tmp_path, dataset, "stopped", resume=True, **changes), uninterrupted)


def test_resuming_where_there_is_no_run_starts_one(dataset, folder, trained, tmp_path):
    assert_same_run(train(tmp_path, dataset, "fresh", resume=True), trained)


def test_resuming_a_run_that_is_done_changes_nothing_but_says_its_score_again(dataset, tmp_path, monkeypatch):
    now = datetime.now(UTC)
    monkeypatch.setattr(reporting, "datetime", Mock(now=Mock(return_value=now)))  # A report says the minute.
    run = train(tmp_path, dataset, "done", "max_steps=2")
    before = files_in(run)
    train(tmp_path, dataset, "done", "max_steps=2", resume=True)
    assert files_in(run) == before


def test_training_into_a_run_without_resume_touches_nothing(dataset, trained, folder):
    before = files_in(trained)
    with pytest.raises(UserError, match="add --resume"):
        train(folder, dataset, "trained")
    assert files_in(trained) == before


def test_resuming_with_a_changed_recipe_names_each_difference_and_touches_nothing(dataset, trained, folder):
    before = files_in(trained)
    with pytest.raises(UserError) as raised:
        train(folder, dataset, "trained", "max_steps=9", "objective.1.weight=0.5", resume=True)
    assert [problem.where for problem in raised.value.problems] == ["max_steps", "objective.1.weight"]
    assert "the run has 6, and now it would be 9" in str(raised.value)
    assert files_in(trained) == before


def test_resuming_with_cases_in_another_order_is_refused(tmp_path):
    data = make_phantom(tmp_path / "data", labelled=3)
    train(tmp_path, data, "run", "max_steps=2")
    listing = json.loads((data / "dataset.json").read_text())
    (data / "dataset.json").write_text(json.dumps(listing | {"training": listing["training"][::-1]}))
    with pytest.raises(UserError) as raised:
        train(tmp_path, data, "run", "max_steps=2", resume=True)
    assert problems_of(raised) == [("split-changed", str(tmp_path / "run" / "split.json"))]


def test_resuming_with_another_list_of_labels_is_refused(tmp_path):
    data = make_phantom(tmp_path / "data", labelled=3)
    train(tmp_path, data, "run", "max_steps=2")
    listing = json.loads((data / "dataset.json").read_text())
    listing["labels"]["3"] = "one more"
    (data / "dataset.json").write_text(json.dumps(listing))
    with pytest.raises(UserError, match="task-changed"):
        train(tmp_path, data, "run", "max_steps=2", resume=True)


def test_resuming_elsewhere_with_more_workers_and_other_intervals_goes_on(tmp_path):
    data = make_phantom(tmp_path / "data", labelled=3)
    train(tmp_path, data, "run", "max_steps=2")
    data.rename(tmp_path / "moved")
    more = ("max_steps=2", "data.workers=1", "checkpoint_every=1")
    assert train(tmp_path, tmp_path / "moved", "run", *more, resume=True)


def test_dataset_of_empty_masks_is_refused(dataset, tmp_path):
    for folder in ("images", "labels"):
        (tmp_path / "plain" / folder).mkdir(parents=True)
    empty = np.zeros((16, 16, 16), np.uint8)
    for name, bright in (("a", 1), ("b", 2)):
        image = empty + np.arange(16, dtype=np.uint8) * np.uint8(bright)
        nib.save(nib.Nifti1Image(image, np.eye(4)), tmp_path / "plain" / "images" / f"{name}.nii")
        nib.save(nib.Nifti1Image(empty, np.eye(4)), tmp_path / "plain" / "labels" / f"{name}.nii")
    with pytest.raises(UserError) as raised:
        train(tmp_path, tmp_path / "plain", "run", "max_steps=2")
    assert ("no-foreground", str(tmp_path / "plain")) in problems_of(raised)


def test_resuming_after_the_dataset_has_changed_is_refused(dataset, tmp_path):
    data = make_phantom(tmp_path / "data", labelled=3)
    train(tmp_path, data, "run", "max_steps=2")
    image = nib.load(data / "imagesTs" / "phantom_003.nii.gz")
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[::-1], image.affine), data / "imagesTs" / "phantom_003.nii.gz")
    before = files_in(tmp_path / "run")
    with pytest.raises(UserError, match="phantom_003"):
        train(tmp_path, data, "run", "max_steps=2", resume=True)
    assert files_in(tmp_path / "run") == before


# Validate


@pytest.mark.parametrize("which", ["last", "best"])
def test_validate_scores_the_checkpoint_that_was_asked_for(trained, which):
    before = (trained / "summary.json").read_text()
    scores = runs.validate(trained, which=which)
    summary, where = scores.summary, scores.folder
    assert where == (trained if which == "last" else trained / "validation" / "best")
    written = json.loads((where / "summary.json").read_text(), parse_constant=refuse_constant)
    assert written["checkpoint"] == which
    assert written["mean_dice"] == summary.mean_dice
    assert (trained / "summary.json").read_text() == before


def test_validate_on_another_dataset_writes_beside_the_runs_own_numbers(trained, tmp_path):
    other = make_phantom(tmp_path / "elsewhere", labelled=2, unlabelled=1, seed=1)
    before = files_in(trained)
    scores = runs.validate(trained, other)
    summary, where = scores.summary, scores.folder
    assert where == trained / "validation" / "elsewhere"
    assert summary.n_cases == 2
    assert {path: content for path, content in files_in(trained).items() if where not in path.parents} == before


def test_scans_that_no_term_looked_at_are_scored_once_they_have_masks(folder, dataset, trained, tmp_path):
    (scan, *_) = (dataset / "imagesTs").iterdir()
    for place in ("images", "labels"):
        (tmp_path / "later" / place).mkdir(parents=True)
    shutil.copy(scan, tmp_path / "later" / "images")
    mask = np.zeros(nib.load(scan).shape, np.uint8)
    mask[2:6, 2:6, 2:6] = 1
    nib.save(nib.Nifti1Image(mask, nib.load(scan).affine), tmp_path / "later" / "labels" / scan.name)
    alone = train(folder, dataset, "masks_alone", objective=SUPERVISED, max_steps=1)
    assert json.loads((alone / "split.json").read_text())["unlabelled"] == []
    assert runs.validate(alone, tmp_path / "later").summary.n_cases == 1
    with pytest.raises(UserError, match="all-seen"):
        runs.validate(trained, tmp_path / "later")


def test_datasets_of_one_name_have_folders_of_their_own(trained, tmp_path):
    folders = []
    for place in ("a", "b", "a"):
        source = tmp_path / place / "test"
        if not source.exists():
            source.parent.mkdir()
            make_phantom(source, labelled=1, unlabelled=0, seed=ord(place))
        folders.append(runs.validate(trained, source).folder.name)
    assert folders == ["test", "test-2", "test"]
    assert runs.validate(trained, tmp_path / "b" / "test", "best").folder.name == "test-best"


def test_validate_takes_whose_the_scans_are_from_the_run(folder, dataset, tmp_path):
    visits = tmp_path / "visits"
    for place in ("images", "labels"):
        (visits / place).mkdir(parents=True)
    for number, image in enumerate(sorted((dataset / "imagesTr").iterdir())[:4]):
        name = f"p{number // 2}.{'ab'[number % 2]}.nii.gz"
        shutil.copy(image, visits / "images" / name)
        shutil.copy(dataset / "labelsTr" / image.name, visits / "labels" / name)
    layout = {"options": {"patient": r"(.+)\.[ab]$"}}
    run = train(folder, visits, "visits", objective=SUPERVISED, max_steps=1, layout=layout)
    other = make_phantom(tmp_path / "other", labelled=2, unlabelled=0, seed=1)
    for place in ("imagesTr", "labelsTr"):
        for letter, path in zip("ab", sorted((other / place).iterdir()), strict=True):
            path.rename(path.with_name(f"q.{letter}.nii.gz"))
    (other / "dataset.json").unlink()
    assert runs.validate(run, other).summary.n_patients == 1
    for place in ("imagesTr", "labelsTr"):
        (other / place / "q.b.nii.gz").rename(other / place / "r.nii.gz")
    assert runs.validate(run, other).summary.n_patients == 2


def test_validate_on_another_dataset_takes_how_it_lies_on_disk(trained, tmp_path):
    other = make_phantom(tmp_path / "other", labelled=2, unlabelled=0, seed=1)
    listing = json.loads((other / "dataset.json").read_text())
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "list.json").write_text(json.dumps(listing))
    words = ("--dataset", tmp_path / "lists" / "list.json", "--root", other, "--layout", "datalist")
    done = fewmask("validate", trained, *words, "--layout-option", "ignore=2")
    assert done.returncode == 0, done.stderr
    summary = json.loads((trained / "validation" / "lists-list" / "summary.json").read_text())
    assert (summary["n_cases"], [row["label"] for row in summary["classes"]]) == (2, [1])


def test_names_of_another_dataset_may_differ_but_not_change_places(trained, tmp_path, capsys):
    other = make_phantom(tmp_path / "named", labelled=1, unlabelled=0, seed=1)
    listing = json.loads((other / "dataset.json").read_text())
    write = (other / "dataset.json").write_text
    write(json.dumps(listing | {"labels": {"0": "background", "1": "nodule", "2": "organ"}}))
    with pytest.raises(UserError, match="has organ as 2, and the run as 1") as raised:
        runs.validate(trained, other)
    assert len(raised.value.problems) == 2
    assert not (trained / "validation" / "named").exists()
    write(json.dumps(listing | {"labels": {"0": "background", "1": "liver", "2": "nodule"}}))
    assert runs.validate(trained, other).summary.n_cases == 1
    assert "labels are scored by their values: 1 is liver, not organ" in capsys.readouterr().err


def test_how_a_dataset_lies_on_disk_goes_with_a_dataset(trained):
    with pytest.raises(UserError, match="--dataset: is not given, and root says how it lies on disk"):
        runs.validate(trained, open_as=(trained, "auto", {}))


def test_scan_in_a_file_a_channel_is_the_one_that_the_run_was_trained_on(dataset, tmp_path):
    for place in ("whole/images", "whole/labels", "parted"):
        (tmp_path / place).mkdir(parents=True)
    entries = []
    for path in sorted((dataset / "imagesTr").iterdir()):
        scan, label = nib.load(path), dataset / "labelsTr" / path.name
        channels = [sign * np.asarray(scan.dataobj).astype(np.float32) for sign in (1, -1)]
        nib.save(nib.Nifti1Image(np.stack(channels, axis=-1), scan.affine), tmp_path / "whole" / "images" / path.name)
        shutil.copy(label, tmp_path / "whole" / "labels")
        shutil.copy(label, tmp_path / "parted")
        names = [f"{channel}_{path.name}" for channel in "ab"]
        for name, voxels in zip(names, channels, strict=True):
            nib.save(nib.Nifti1Image(voxels, scan.affine), tmp_path / "parted" / name)
        entries.append({"image": names, "label": path.name})
    (tmp_path / "parted" / "list.json").write_text(json.dumps({"training": entries}))
    words = ("max_steps=1", "layout.options.channel_names=[a, b]")
    run = train(tmp_path, tmp_path / "whole", "run", *words, objective=SUPERVISED)
    scores = runs.validate(run, tmp_path / "parted" / "list.json")
    assert scores.summary.n_cases == 1
    assert scores.notes[0].startswith("3 case(s)")


def test_validate_takes_the_runs_channels_where_a_dataset_does_not_name_its_own(dataset, tmp_path):
    for place in ("images", "labels"):
        (tmp_path / "two" / place).mkdir(parents=True)
    for path in (dataset / "imagesTr").iterdir():
        scan = nib.load(path)
        voxels = np.stack([scan.get_fdata(), -scan.get_fdata()], axis=-1).astype(np.float32)
        nib.save(nib.Nifti1Image(voxels, scan.affine), tmp_path / "two" / "images" / path.name)
        shutil.copy(dataset / "labelsTr" / path.name, tmp_path / "two" / "labels")
    words = ("max_steps=1", "layout.options.channel_names=[a, b]")
    run = train(tmp_path, tmp_path / "two", "run", *words, objective=SUPERVISED)
    shutil.copytree(tmp_path / "two", tmp_path / "other")
    assert runs.validate(run, tmp_path / "other").summary.n_cases == 1


def test_validate_on_another_dataset_leaves_out_what_the_run_was_trained_on(trained, dataset):
    split = json.loads((trained / "split.json").read_text())
    scores = runs.validate(trained, dataset)
    assert scores.summary.n_cases == len(split["validation"])
    assert scores.notes == (f"{len(split['labelled'])} case(s) that the run was trained on are left out.",)
    assert json.loads((scores.folder / "summary.json").read_text())["notes"] == list(scores.notes)


def test_validate_on_trained_cases_alone_is_refused_whatever_they_are_called_and_however_packed(
    trained, dataset, tmp_path
):
    name = json.loads((trained / "split.json").read_text())["labelled"][0] + ".nii.gz"
    for folder, source in (("images", "imagesTr"), ("labels", "labelsTr")):
        (tmp_path / "copy" / folder).mkdir(parents=True)
        unpacked = gzip.decompress((dataset / source / name).read_bytes())
        (tmp_path / "copy" / folder / "renamed.nii").write_bytes(unpacked)
    with pytest.raises(UserError) as raised:
        runs.validate(trained, tmp_path / "copy")
    assert problems_of(raised) == [("all-seen", str(tmp_path / "copy"))]
    assert not (trained / "validation" / "copy").exists()


def test_scores_of_the_best_checkpoint_say_that_these_cases_chose_it(trained):
    assert "chose" in runs.validate(trained, which="best").notes[0]
    assert runs.validate(trained, which="last").notes == ()


def test_validate_without_the_runs_own_cases_says_which_are_gone(trained, dataset, tmp_path):
    listing = json.loads((dataset / "dataset.json").read_text())
    wanted = json.loads((trained / "split.json").read_text())["validation"][0]
    kept = [entry for entry in listing["training"] if wanted not in entry["image"]]
    text = (dataset / "dataset.json").read_text()
    try:
        (dataset / "dataset.json").write_text(json.dumps(listing | {"training": kept}))
        with pytest.raises(UserError) as raised:
            runs.validate(trained)
    finally:
        (dataset / "dataset.json").write_text(text)
    assert problems_of(raised) == [("case-gone", wanted)]


# Predict


@pytest.fixture
def scan(dataset):
    return dataset / "imagesTs" / "phantom_004.nii.gz"


def loaded(path):
    image = nib.load(path)
    return np.asarray(image.dataobj), image.affine


def test_mask_has_the_name_the_shape_and_the_affine_of_its_scan(trained, dataset, tmp_path):
    masks = runs.predict(trained, [dataset / "imagesTs"], tmp_path / "masks")
    assert [path.name for path in masks] == ["phantom_004.nii.gz", "phantom_005.nii.gz"]
    for path in masks:
        (mask, affine), (voxels, expected) = loaded(path), loaded(dataset / "imagesTs" / path.name)
        assert mask.shape == voxels.shape
        np.testing.assert_array_equal(affine, expected)
        assert set(np.unique(mask)) <= {0, 1, 2}
        assert len(np.unique(mask)) > 1


@pytest.mark.parametrize("codes", ["LPS", "PIR", "SAL", "IRP"])
@pytest.mark.parametrize("degrees", [0, 12])
def test_prediction_does_not_depend_on_how_the_file_stores_its_axes(trained, scan, tmp_path, codes, degrees):
    voxels, affine = loaded(scan)
    affine = affine.copy()
    affine[:3, :3] = Rotation.from_euler("xyz", [degrees, -degrees, degrees], degrees=True).as_matrix() @ affine[:3, :3]
    change = ornt_transform(io_orientation(affine), axcodes2ornt(codes))
    stored, stored_affine = apply_orientation(voxels, change), affine @ inv_ornt_aff(change, voxels.shape)
    nib.save(nib.Nifti1Image(voxels, affine), tmp_path / "plain.nii.gz")
    nib.save(nib.Nifti1Image(stored, stored_affine), tmp_path / "turned.nii.gz")
    masks = runs.predict(trained, [tmp_path / "plain.nii.gz", tmp_path / "turned.nii.gz"], tmp_path / "masks")
    (plain, _), (turned, found) = map(loaded, masks)
    np.testing.assert_allclose(found, nib.load(tmp_path / "turned.nii.gz").affine)
    agreement = (apply_orientation(plain, change) == turned).mean()
    assert agreement > 0.999
    assert np.bincount(plain.ravel()).max() < 0.99 * plain.size, "a mask of one label would agree with anything"


@pytest.mark.parametrize(("beside", "name"), [("b_0000", "a"), ("a_0007", "a_0000"), ("b", "a_0000")])
def test_a_lone_scan_loses_the_number_of_a_channel_as_in_its_folder(trained, scan, tmp_path, beside, name):
    for stem in ("a_0000", beside):
        (tmp_path / "scans").mkdir(exist_ok=True)
        (tmp_path / "scans" / f"{stem}.nii.gz").write_bytes(scan.read_bytes())
    alone = runs.predict(trained, [tmp_path / "scans" / "a_0000.nii.gz"], tmp_path / "alone")
    assert [path.name for path in alone] == [f"{name}.nii.gz"]
    together = runs.predict(trained, [tmp_path / "scans"], tmp_path / "together")
    assert f"{name}.nii.gz" in {path.name for path in together}


@pytest.mark.parametrize("missing", ["nowhere/a_0000.nii.gz", "site=b/a.nii.gz"])
def test_a_missing_scan_is_named_whatever_it_is_called(trained, tmp_path, missing):
    with pytest.raises(UserError) as raised:
        runs.predict(trained, [Path(missing)], tmp_path / "masks")
    assert problems_of(raised) == [("missing-file", missing)]


def test_a_setting_in_the_place_of_a_scan_is_refused_before_anything_is_predicted(trained, scan, tmp_path):
    with pytest.raises(UserError) as raised:
        runs.predict(trained, [scan, Path("postprocessing=[]")], tmp_path / "masks")
    assert problems_of(raised) == [("setting-as-scan", "postprocessing=[]")]
    assert not (tmp_path / "masks").exists()


def test_two_scans_of_one_name_are_refused_before_anything_is_written(trained, scan, tmp_path):
    (tmp_path / "more").mkdir()
    twin = tmp_path / "more" / scan.name
    twin.write_bytes(scan.read_bytes())
    with pytest.raises(UserError) as raised:
        runs.predict(trained, [scan, twin], tmp_path / "masks")
    assert problems_of(raised) == [("name-twice", str(scan)), ("name-twice", str(twin))]
    assert not (tmp_path / "masks").exists()


def test_mask_of_a_name_too_long_to_be_written_is_refused_first(trained, scan, tmp_path, monkeypatch):
    fits = tmp_path / f"{'ä' * 115}.nii.gz"  # 230 bytes and 7.
    long = tmp_path / f"{'a' * 231}.nii.gz"
    for path in (fits, long):
        path.write_bytes(scan.read_bytes())
    assert [path.name for path in runs.predict(trained, [fits], tmp_path / "masks")] == [fits.name]
    monkeypatch.setattr("pipeline.runs.prediction.load_model", None)
    with pytest.raises(UserError) as raised:
        runs.predict(trained, [scan, long], tmp_path / "others")
    assert problems_of(raised) == [("name-too-long", str(long))]
    assert not (tmp_path / "others").exists()


def test_scans_that_differ_in_the_suffix_alone_are_refused(trained, scan, tmp_path):
    nib.save(nib.load(scan), tmp_path / "phantom_004.nii")
    with pytest.raises(UserError) as raised:
        runs.predict(trained, [scan, tmp_path / "phantom_004.nii"], tmp_path / "masks")
    assert {code for code, _ in problems_of(raised)} == {"name-twice"}


def test_mask_that_is_there_is_not_overwritten_and_no_other_is_written(trained, dataset, tmp_path):
    (tmp_path / "phantom_005.nii.gz").write_bytes(b"precious")
    with pytest.raises(UserError) as raised:
        runs.predict(trained, [dataset / "imagesTs"], tmp_path)
    assert problems_of(raised) == [("mask-exists", str(tmp_path / "phantom_005.nii.gz"))]
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"precious"]


def test_scan_never_overwrites_itself(trained, scan, tmp_path):
    copy = tmp_path / scan.name
    copy.write_bytes(scan.read_bytes())
    with pytest.raises(UserError, match="mask-exists"):
        runs.predict(trained, [copy], tmp_path)
    assert copy.read_bytes() == scan.read_bytes()


def test_scans_that_cannot_be_predicted_are_named_and_the_others_are_predicted(trained, scan, tmp_path):
    nib.save(nib.Nifti1Image(np.full((8, 8, 8), np.nan, np.float32), np.eye(4)), tmp_path / "nan.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros((8, 8, 8, 2), np.float32), np.eye(4)), tmp_path / "two.nii.gz")
    (tmp_path / "cut.nii.gz").write_bytes(scan.read_bytes()[:-20])
    broken = [tmp_path / f"{name}.nii.gz" for name in ("nan", "two", "cut", "missing")]
    with pytest.raises(IncompleteError, match=r"has 2 channel\(s\), the model was trained on 1: MRI") as raised:
        runs.predict(trained, [*broken[:2], scan, *broken[2:]], tmp_path / "masks")
    assert problems_of(raised) == [
        ("not-finite", str(broken[0])),
        ("channel-count", str(broken[1])),
        ("truncated-gzip", str(broken[2])),
        ("missing-file", str(broken[3])),
    ]
    assert raised.value.summary.startswith("1 of 5 masks are in")
    assert raised.value.done == (tmp_path / "masks" / scan.name,)
    (expected,) = runs.predict(trained, [scan], tmp_path / "expected")
    assert raised.value.done[0].read_bytes() == expected.read_bytes()


def test_nothing_is_written_where_no_scan_can_be_predicted(trained, tmp_path):
    with pytest.raises(UserError, match="Nothing was predicted") as raised:
        runs.predict(trained, [tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"], tmp_path / "masks")
    assert not isinstance(raised.value, IncompleteError)
    assert len(raised.value.problems) == 2
    assert not (tmp_path / "masks").exists()


def test_what_goes_wrong_on_the_way_with_a_scan_leaves_the_others_alone(trained, dataset, tmp_path, monkeypatch):
    segment = Predictor.segment

    def hungry(predictor, scans, *arguments):
        if scans[0].path.name == "phantom_004.nii.gz":
            raise MemoryError
        return segment(predictor, scans, *arguments)

    monkeypatch.setattr(Predictor, "segment", hungry)
    with pytest.raises(IncompleteError) as raised:
        runs.predict(trained, [dataset / "imagesTs"], tmp_path / "masks", rank=True)
    assert problems_of(raised) == [("out-of-memory", str(dataset / "imagesTs" / "phantom_004.nii.gz"))]
    assert [path.name for path in raised.value.done] == ["phantom_005.nii.gz"]
    with (tmp_path / "masks" / "annotate_next.csv").open(newline="") as stream:
        assert [row["mask"] for row in csv.DictReader(stream)] == ["phantom_005.nii.gz"]


def test_disk_that_is_full_ends_a_prediction_and_says_what_is_there(trained, dataset, tmp_path, monkeypatch):
    saved, save = [], nifti.save_labels

    def full(path, *arguments):
        if saved:
            raise WriteError(path, OSError(errno.ENOSPC, "No space left on device"), 100)
        saved.append(path.name)
        save(path, *arguments)

    monkeypatch.setattr(nifti, "save_labels", full)
    scans = [dataset / "imagesTs", dataset / "imagesTr"]
    with pytest.raises(IncompleteError) as raised:
        runs.predict(trained, scans, tmp_path / "masks")
    assert [problem.code for problem in raised.value.problems] == ["disk-full"]
    assert [path.name for path in raised.value.done] == saved == ["phantom_004.nii.gz"]


def test_command_exits_3_where_some_scans_were_predicted_and_2_where_none_was(trained, scan, tmp_path):
    (tmp_path / "cut.nii.gz").write_bytes(scan.read_bytes()[:-20])
    for scans, code in (([tmp_path / "cut.nii.gz", scan], 3), ([tmp_path / "cut.nii.gz"], 2)):
        done = fewmask("predict", trained, *scans, "--output", tmp_path / f"masks-{code}")
        assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
        assert "cut.nii.gz: " in done.stderr
    assert (tmp_path / "masks-3" / scan.name).is_file()
    assert not (tmp_path / "masks-2").exists()


def test_a_device_that_is_full_is_no_fault_of_a_checkpoint(trained, folder, dataset, scan, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(torch.nn.Module, "load_state_dict", full)
    with pytest.raises(torch.OutOfMemoryError):
        runs.predict(trained, [scan], folder / "never")
    with pytest.raises(torch.OutOfMemoryError):
        train(folder, dataset, trained.name, resume=True)


def test_folder_without_scans_is_refused(trained, tmp_path):
    with pytest.raises(UserError) as raised:
        runs.predict(trained, [tmp_path], tmp_path / "masks")
    assert problems_of(raised) == [("no-dataset", str(tmp_path))]


def test_prediction_of_a_run_does_not_need_its_dataset(trained, scan, tmp_path, monkeypatch):
    (tmp_path / "moved" / "checkpoints").mkdir(parents=True)
    checkpoint = tmp_path / "moved" / "checkpoints" / "last-000006.pt"
    checkpoint.write_bytes((trained / "checkpoints" / "last-000006.pt").read_bytes())
    (mask,) = runs.predict(tmp_path / "moved", [scan], tmp_path / "masks")
    (expected,) = runs.predict(trained, [scan], tmp_path / "expected")
    assert mask.read_bytes() == expected.read_bytes()


def test_scans_of_a_list_are_predicted(trained, dataset, tmp_path):
    listing = tmp_path / "scans.json"
    (tmp_path / "a.nii.gz").write_bytes((dataset / "imagesTs" / "phantom_004.nii.gz").read_bytes())
    listing.write_text(json.dumps({"test": ["a.nii.gz"]}))
    assert runs.predict(trained, [listing], tmp_path / "masks") == [tmp_path / "masks" / "a.nii.gz"]


# Evaluate


def test_validation_tells_whether_the_networks_probabilities_can_be_trusted(trained):
    summary = json.loads((trained / "summary.json").read_text())
    assert 0 <= summary["calibration"]["ece"] <= 1
    assert summary["expected_dice"]["n"] == 2
    assert summary["tolerance_mm"] == 1.0


def test_scans_are_ranked_by_their_expected_dice_where_asked_for(trained, dataset, tmp_path, capsys):
    runs.predict(trained, [dataset / "imagesTs"], tmp_path / "ranked", rank=True)
    runs.predict(trained, [dataset / "imagesTs"], tmp_path / "plain")
    with (tmp_path / "ranked" / "annotate_next.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    expected = [float(row["dice_expected"]) for row in rows]
    assert [row["rank"] for row in rows] == ["1", "2"]
    assert expected == sorted(expected)
    assert not (tmp_path / "plain" / "annotate_next.csv").exists()
    assert "also ranks" not in capsys.readouterr().err
    runs.predict(trained, [dataset], tmp_path / "all", rank=True)
    assert (
        "annotate_next.csv also ranks 4 scan(s) that have a mask; --unlabelled leaves them out"
        in capsys.readouterr().err
    )
    plain, ranked = (
        [path.read_bytes() for path in sorted((tmp_path / name).glob("*.gz"))] for name in ("plain", "ranked")
    )
    assert plain == ranked


def test_masks_evaluated_against_themselves_score_one(dataset, tmp_path):
    summary = runs.evaluate(dataset / "labelsTr", dataset / "labelsTr", tmp_path / "scores")
    assert (summary.n_cases, summary.mean_dice) == (4, 1.0)
    written = json.loads((tmp_path / "scores" / "summary.json").read_text(), parse_constant=refuse_constant)
    assert written["mean_dice"] == 1.0
    assert (tmp_path / "scores" / "cases.csv").is_file()


def test_predictions_of_validation_cases_evaluate_to_the_scores_of_the_validation(trained, dataset, tmp_path):
    name = json.loads((trained / "split.json").read_text())["validation"][0] + ".nii.gz"
    runs.predict(trained, [dataset / "imagesTr" / name], tmp_path / "masks")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / name).write_bytes((dataset / "labelsTr" / name).read_bytes())
    summary = runs.evaluate(tmp_path / "masks", tmp_path / "labels", tmp_path / "scores")
    assert summary.mean_dice == runs.validate(trained).summary.mean_dice


def test_masks_of_nnunets_folder_are_named_as_its_own_are(trained, dataset, tmp_path):
    folder = tmp_path / "Dataset001_Phantom"
    for place in ("imagesTr", "labelsTr"):
        (folder / place).mkdir(parents=True)
    for path in sorted((dataset / "imagesTr").iterdir())[:2]:
        shutil.copy(path, folder / "imagesTr" / path.name.replace(".nii", "_0000.nii"))
        shutil.copy(dataset / "labelsTr" / path.name, folder / "labelsTr")
    listing = json.loads((dataset / "dataset.json").read_text())
    labels = {name: int(value) for value, name in listing["labels"].items()}
    told = {"channel_names": {"0": "MR"}, "labels": labels, "numTraining": 2, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(told))
    runs.predict(trained, [folder], tmp_path / "masks")
    assert runs.evaluate(tmp_path / "masks", folder / "labelsTr", tmp_path / "scores").n_cases == 2


def test_missing_prediction_is_named_and_nothing_is_written(dataset, tmp_path):
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "phantom_000.nii.gz").write_bytes((dataset / "labelsTr" / "phantom_000.nii.gz").read_bytes())
    with pytest.raises(UserError) as raised:
        runs.evaluate(tmp_path / "masks", dataset / "labelsTr", tmp_path / "scores")
    assert {code for code, _ in problems_of(raised)} == {"no-prediction"}
    assert len(raised.value.problems) == 3
    assert not (tmp_path / "scores").exists()


# Plugins


def test_loss_of_a_plugin_is_a_column_of_the_history_like_ours(uninterrupted):
    rows = history(uninterrupted)
    assert list(rows[0]) == ["step", "loss", "mortal", "ncut"]
    assert all(0 < float(row["mortal"]) < 1 for row in rows)


def test_run_with_a_plugins_loss_predicts_without_the_plugin(uninterrupted, scan, tmp_path, monkeypatch):
    from pipeline.losses import LOSSES

    monkeypatch.delitem(LOSSES.components, "mortal")
    assert runs.predict(uninterrupted, [scan], tmp_path / "masks")


ONE_LAYER = """
from torch import nn
from pipeline.networks import NETWORKS


@NETWORKS.register('one_layer')
def one_layer(spatial_dims: int, in_channels: int, out_channels: int, *, kernel: int = 3) -> nn.Module:
    '''One convolution.'''
    kind = nn.Conv3d if spatial_dims == 3 else nn.Conv2d
    return kind(in_channels, out_channels, kernel, padding='same')
"""


@pytest.fixture
def forget(monkeypatch):
    """Returns a function that makes the process what a new one is, as far as that network goes."""
    from pipeline.networks import NETWORKS

    def forget():
        NETWORKS.components.pop("one_layer", None)
        for name in [name for name in sys.modules if name.startswith("fewmask_plugin_")]:
            if hasattr(sys.modules[name], "one_layer"):
                del sys.modules[name]

    yield forget
    forget()


def test_a_run_remembers_its_plugins_and_runs_none_that_its_user_never_named(
    dataset, scan, tmp_path, monkeypatch, forget
):
    plugin = tmp_path / "network.py"
    plugin.write_text(ONE_LAYER)
    made = {"plugins": [str(plugin)], "network": {"name": "one_layer", "options": {"kernel": 1}}}
    run = train(tmp_path, dataset, "run", "max_steps=2", **made)
    forget()
    assert runs.predict(run, [scan], tmp_path / "masks")
    forget()
    assert runs.validate(run)
    forget()
    assert runs.predict(run, [scan], tmp_path / "named", plugins=[plugin])

    def refused(why):
        forget()
        with pytest.raises(UserError, match="--plugin FILE") as raised:
            runs.predict(run, [scan], tmp_path / "none")
        assert problems_of(raised) == [("plugin-changed", str(plugin))]
        assert why in raised.value.problems[0].message

    with monkeypatch.context() as another:
        another.setenv("XDG_STATE_HOME", str(tmp_path / "another user"))
        refused("you have not named it here before")
        assert runs.predict(run, [scan], tmp_path / "theirs", plugins=[plugin])
        forget()
        assert runs.validate(run)
    plugin.write_text(f"{ONE_LAYER}# changed\n")
    refused("was changed since")
    with pytest.raises(UserError, match="--allow-change plugins"):
        train(tmp_path, dataset, "run", "max_steps=2", resume=True, **made)
    forget()
    changed = runs.read_recipe(write_recipe(tmp_path, dataset, **made), ["max_steps=2"])
    runs.train(changed, run, resume=True, allow_change=["plugins"])
    forget()
    assert runs.validate(run), "allowed, and remembered as it is now"
    plugin.unlink()
    refused("is gone")
    (run / "plugins.json").unlink()
    with pytest.raises(UserError, match="--plugin FILE") as raised:
        runs.predict(run, [scan], tmp_path / "none")
    assert problems_of(raised) == [("unknown-network", str(run))]


# Two dimensions


@pytest.fixture(scope="module")
def flat_run(folder, dataset):
    return train(folder, dataset, "flat", "max_steps=3", data=FLAT)


def test_recipe_of_two_dimensions_trains_on_slices_of_volumes_and_predicts_volumes(flat_run, scan, tmp_path):
    assert all(math.isfinite(float(row["loss"])) for row in history(flat_run))
    (mask,) = runs.predict(flat_run, [scan], tmp_path / "masks")
    assert loaded(mask)[0].shape == loaded(scan)[0].shape


def test_recipe_of_two_dimensions_trains_on_flat_files_and_predicts_flat_files(dataset, tmp_path):
    for kind in ("images", "labels"):
        (tmp_path / "data" / kind).mkdir(parents=True)
    for number in range(4):
        source = dataset / "imagesTr" / f"phantom_00{number}.nii.gz"
        for kind, image in (
            ("images", nib.load(source)),
            ("labels", nib.load(str(source).replace("images", "labels"))),
        ):
            canonical = nib.as_closest_canonical(image)
            middle = np.asarray(canonical.dataobj)[:, :, canonical.shape[2] // 2]
            if kind == "images" or number < 3:
                nib.save(nib.Nifti1Image(middle, np.eye(4)), tmp_path / "data" / kind / f"slice_{number}.nii.gz")
    run = train(tmp_path, tmp_path / "data", "run", "max_steps=3", data=FLAT)
    assert yaml.safe_load((run / "config.yaml").read_text())["data"]["dimensions"] == 2
    flat = tmp_path / "data" / "images" / "slice_3.nii.gz"
    (mask,) = runs.predict(run, [flat], tmp_path / "masks")
    assert nib.load(mask).shape == nib.load(flat).shape
    assert nib.load(flat).ndim == 2


# What a run leaves alone


def test_run_without_terms_on_unlabelled_scans_prepares_none_of_them(dataset, tmp_path):
    run = train(tmp_path, dataset, "run", "max_steps=1", objective=[{"loss": "dice"}])
    labelled = json.loads((run / "split.json").read_text())["labelled"]
    assert len(list((run / "cache").glob("*.npz"))) == len(labelled)


def test_model_is_used_in_float32_where_its_precision_is_not_at_home(dataset, tmp_path, monkeypatch):
    run = train(tmp_path, dataset, "run", "max_steps=1", "precision=bfloat16")
    for native, expected in ((True, "bfloat16"), (False, "float32")):
        hardware = Hardware(device="cpu", bfloat16=native, cores=1)
        monkeypatch.setattr(models, "find_hardware", lambda _, found=hardware, **_options: found)
        assert models.load_model(run, "last").settings.precision == expected


def test_a_precision_that_a_run_has_chosen_is_not_timed_to_predict(dataset, tmp_path, monkeypatch):
    run = train(tmp_path, dataset, "run", "max_steps=1", "precision=float32")
    monkeypatch.setattr(devices, "_has_bfloat16", lambda _: True)
    monkeypatch.setattr(devices, "_bfloat16_pays", lambda: pytest.fail("timed"))
    assert models.load_model(run, "last").settings.precision == "float32"


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_parts_that_do_not_divide_a_batch_are_refused(dataset, tmp_path):
    with pytest.raises(UserError, match="2 does not divide a batch of 1"):
        train(tmp_path, dataset, "run", "data.accumulate=2")
    assert not (tmp_path / "run").exists()


def test_features_computed_again_make_the_same_run_and_may_change_on_the_way(dataset, tmp_path):
    plain = train(tmp_path, dataset, "plain", "max_steps=2")
    again = train(tmp_path, dataset, "again", "max_steps=2", "network.recompute=true")
    assert same(state_of(again)["network"], state_of(plain)["network"])
    assert (again / "cases.csv").read_bytes() == (plain / "cases.csv").read_bytes()
    train(tmp_path, dataset, "again", "max_steps=2", "network.recompute=false", resume=True)


PLAIN = """
from torch import nn
from pipeline.networks import NETWORKS

@NETWORKS.register("one_convolution")
def one_convolution(spatial_dims, in_channels, out_channels):
    "A convolution."
    return nn.Conv3d(in_channels, out_channels, 3, padding=1)
"""


def test_network_without_known_blocks_cannot_be_told_to_compute_them_again(dataset, tmp_path):
    plugin = tmp_path / "plain.py"
    plugin.write_text(PLAIN)
    network = {"name": "one_convolution", "options": {}, "recompute": True}
    with pytest.raises(UserError) as raised:
        train(tmp_path, dataset, "run", "max_steps=1", plugins=[str(plugin)], network=network)
    assert problems_of(raised) == [("bad-recipe", "network.recompute")]
    assert not (tmp_path / "run").exists()


def test_precision_that_was_measured_once_is_kept_for_a_run(dataset, tmp_path, monkeypatch):
    def machine(slow):
        hardware = Hardware(device="cpu", bfloat16=True, cores=1, float32_is_faster=slow)
        monkeypatch.setattr(runs.planning, "find_hardware", lambda _: hardware)

    machine(True)
    recipe = write_recipe(tmp_path, dataset, precision="auto")
    runs.train(runs.read_recipe(recipe, ["max_steps=1"]), tmp_path / "run")
    machine(False)
    runs.train(runs.read_recipe(recipe, ["max_steps=1"]), tmp_path / "run", resume=True)
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["precision"] == "float32"


def test_average_of_the_weights_is_judged_and_predicts(dataset, tmp_path):
    run = train(tmp_path, dataset, "averaged", "max_steps=3", "optimizer.averaging=0.25")
    state = state_of(run)
    assert not same(state["average"], state["network"])
    assert same(models.load_model(run, "last").predictor.network.state_dict(), state["average"])
    judged = (run / "cases.csv").read_bytes()
    runs.validate(run)
    assert (run / "cases.csv").read_bytes() == judged
    plain = train(tmp_path, dataset, "plain", "max_steps=3", "optimizer.averaging=0")
    assert "average" not in state_of(plain)
    assert same(models.load_model(plain, "last").predictor.network.state_dict(), state["network"])


def test_the_place_of_the_cache_changes_nothing_but_the_place(dataset, tmp_path):
    runs = {
        place: train(tmp_path, dataset, place, "max_steps=2", f"data.cache={where}")
        for place, where in (("run", "run"), ("shared", tmp_path / "prepared"), ("off", "off"))
    }
    first, *others = (weights(run) for run in runs.values())
    assert all(same(first, other) for other in others)
    assert {place: (run / "cache").exists() for place, run in runs.items()} == {
        "run": True,
        "shared": False,
        "off": False,
    }
    names = [
        sorted(path.name for path in folder.glob("*.npz")) for folder in (tmp_path / "prepared", tmp_path / "run/cache")
    ]
    assert names[0] == names[1] != []


def test_full_disk_says_so_and_goes_on(dataset, tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    expected = weights(train(tmp_path, dataset, "roomy", "max_steps=2"))
    monkeypatch.setattr(np, "savez", full)
    run = train(tmp_path, dataset, "full", "max_steps=2")
    assert same(weights(run), expected)
    err = capsys.readouterr().err
    assert f"{run / 'cache'} cannot hold all prepared scans (No space left on device)" in err
    assert "data.cache=DIR" in err
