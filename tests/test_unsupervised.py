"""Whole runs that train without labels."""

import csv
import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from commands import fewmask
from runs_fixtures import make_phantom, state_of, train, write_recipe

from pipeline import runs
from pipeline.engines.steps import TrainingStep
from pipeline.errors import UserError

WNET = {
    "segments": 4,
    "alternate": True,
    "network": {"name": "wnet", "options": {"channels": [4, 4, 8]}},
    "objective": [
        {"loss": "ncut", "on": "all", "options": {"radius": 2}},
        {"loss": "reconstruction", "on": "all", "weight": 0.3},
    ],
}


def network_of(run):
    return state_of(run)["network"]


def same(first, second):
    return all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("unsupervised")


@pytest.fixture(scope="module")
def phantom(place):
    folder = make_phantom(place / "phantom", labelled=3, unlabelled=1)
    # What is called CT is normalised by its labelled foreground, unless labels do not teach.
    listing = folder / "dataset.json"
    listing.write_text(json.dumps(json.loads(listing.read_text()) | {"modality": {"0": "CT"}}))
    return folder


@pytest.fixture(scope="module")
def run(place, phantom):
    return train(place, phantom, "run", **WNET)


def test_every_training_scan_is_unlabelled_and_masks_only_validate(run):
    split = json.loads((run / "split.json").read_text())
    assert split["labelled"] == []
    assert {len(split["unlabelled"]), len(split["validation"])} == {3, 1}


def test_history_has_both_terms_at_every_step(run):
    with (run / "history.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["step"]) for row in rows] == list(range(1, 7))
    for row in rows:
        assert float(row["loss"]) == pytest.approx(float(row["ncut"]) + 0.3 * float(row["reconstruction"]))


def test_no_weight_depends_on_a_mask(run, place, phantom):
    other = place / "other_masks"
    shutil.copytree(phantom, other)
    for path in (other / "labelsTr").iterdir():
        mask = nib.load(path)
        flipped = np.flip(np.asarray(mask.dataobj)).copy()
        nib.save(nib.Nifti1Image(flipped, mask.affine, mask.header), path)
    assert same(network_of(train(place, other, "other", **WNET)), network_of(run))


def test_trains_in_2d(place, phantom):
    flat = {"spacing_mm": [2.5, 2.5], "patch_size": [16, 16], "unlabelled_batch_size": 4}
    run = train(place, phantom, "flat", "data.workers=0", **WNET | {"max_steps": 2, "data": flat})
    assert network_of(run)["encoder.input_block.conv1.conv.weight"].ndim == 4
    assert json.loads((run / "summary.json").read_text())["matched"] is True


def test_resumed_run_ends_with_the_same_weights_and_history(run, place, phantom, monkeypatch):
    whole_step = TrainingStep.__call__

    def dying_step(step, engine, batches):
        if engine.state.iteration == 6:  # The last checkpoint is that of step 4.
            raise KeyboardInterrupt
        return whole_step(step, engine, batches)

    monkeypatch.setattr(TrainingStep, "__call__", dying_step)
    with pytest.raises(KeyboardInterrupt):
        train(place, phantom, "resumed", **WNET)
    monkeypatch.undo()
    assert state_of(place / "resumed")["step"] == 4
    resumed = train(place, phantom, "resumed", resume=True, **WNET)
    assert same(network_of(resumed), network_of(run))
    for name in ("history.csv", "validation.csv", "cases.csv"):
        assert (resumed / name).read_bytes() == (run / name).read_bytes()


# Scores


def test_scores_say_that_they_were_matched_and_how(run):
    summary = json.loads((run / "summary.json").read_text())
    assert summary["matched"] is True
    assert any("matched to the labels of these very cases" in note for note in summary["notes"])
    assert [row["segment"] for row in summary["segments"]] == [1, 2, 3, 4]
    labels = [row["label"] for row in summary["segments"] if row["label"] is not None]
    assert len(labels) == len(set(labels)) <= 3
    for row in summary["segments"]:
        assert set(row["reasons"]) == {key for key, value in row.items() if value is None}
    assert [row["name"] for row in summary["classes"]] == ["organ", "nodule"]


def test_validation_finds_the_scores_of_the_training_again(run):
    files = ("summary.json", "cases.csv")
    before = [(run / name).read_bytes() for name in files]
    runs.validate(run)
    assert [(run / name).read_bytes() for name in files] == before


def test_scores_are_those_of_the_segments_once_renamed(run, place, phantom):
    summary = json.loads((run / "summary.json").read_text())
    names = np.zeros(5, np.uint8)
    for row in summary["segments"]:
        names[row["segment"]] = row["label"] or 0
    (case,) = json.loads((run / "split.json").read_text())["validation"]
    (mask,) = runs.predict(run, [phantom / "imagesTr" / f"{case}.nii.gz"], place / "one")
    truth = np.asarray(nib.load(phantom / "labelsTr" / f"{case}.nii.gz").dataobj)
    renamed = names[np.asarray(nib.load(mask).dataobj)]
    for row in summary["classes"]:
        both = np.sum((truth == row["label"]) & (renamed == row["label"]))
        size = np.sum(truth == row["label"]) + np.sum(renamed == row["label"])
        assert row["metrics"]["dice"]["mean"] == pytest.approx(2 * both / size)


def test_validation_elsewhere_is_matched_there(run, place, capsys):
    scores = runs.validate(run, make_phantom(place / "elsewhere", labelled=2, unlabelled=0, seed=9))
    assert scores.summary.n_cases == 2
    assert "scored by their values" not in capsys.readouterr().err
    assert json.loads((scores.folder / "summary.json").read_text())["matched"] is True


def test_command_says_that_figures_flatter(run):
    done = fewmask("validate", run)
    assert done.returncode == 0, done.stderr
    assert "Note: The segments were matched" in done.stdout


# Masks


def test_predict_writes_segments_from_1_up_on_the_scans_grid(run, place, phantom):
    scans = sorted((phantom / "imagesTs").iterdir())
    (mask,) = runs.predict(run, scans, place / "masks")
    segments, scan = nib.load(mask), nib.load(scans[0])
    assert segments.shape == scan.shape
    assert np.array_equal(segments.affine, scan.affine)
    assert set(np.unique(np.asarray(segments.dataobj))) <= {1, 2, 3, 4}


# Without any label


@pytest.fixture(scope="module")
def bare(place):
    return make_phantom(place / "bare", labelled=0, unlabelled=2)


def test_trains_where_no_scan_has_a_mask(place, bare):
    run = train(place, bare, "bare_run", **WNET)
    assert not (run / "summary.json").exists()
    assert len(runs.predict(run, [bare / "imagesTs"], place / "bare_masks")) == 2
    with pytest.raises(UserError, match="no labelled case of its own"):
        runs.validate(run)


def test_command_says_that_there_is_nothing_to_score(place, bare):
    recipe = write_recipe(place, bare, **WNET)
    done = fewmask("train", recipe, "max_steps=1", "--output", place / "said")
    assert done.returncode == 0, done.stderr
    assert "no labels to score its segments against" in done.stdout


# Recipes


@pytest.mark.parametrize(
    ("changes", "where", "message"),
    [
        ({"objective": [{"loss": "dice", "on": "all"}]}, "objective.0.loss", "trains without them"),
        ({"objective": [{"loss": "ncut"}]}, "objective.0.on", "no scan counts as labelled"),
        ({"segments": 1}, "segments", "greater than or equal to 2"),
    ],
)
def test_recipe_with_segments_that_makes_no_sense_is_refused(place, phantom, changes, where, message):
    with pytest.raises(UserError) as raised:
        runs.read_recipe(write_recipe(place, phantom, **WNET | changes))
    (problem,) = raised.value.problems
    assert problem.where == where
    assert message in problem.message


def test_network_without_a_decoder_is_refused(place, phantom):
    with pytest.raises(UserError, match="unet makes none"):
        train(place, phantom, "no_decoder", **WNET | {"network": {"name": "unet", "options": {"channels": [4, 8]}}})
    assert not (place / "no_decoder").exists()


def test_any_network_can_be_trained_by_the_cut_alone(place, phantom):
    changes = {"network": {"name": "unet", "options": {"channels": [4, 8], "num_res_units": 0}}, "max_steps": 1}
    run = train(place, phantom, "cut_alone", **WNET | changes | {"objective": WNET["objective"][:1]})
    assert json.loads((run / "summary.json").read_text())["matched"] is True
