"""Which scans are predicted, where, and with or without mirror images."""

import shutil

import nibabel as nib
import numpy as np
import pytest
from commands import fewmask
from runs_fixtures import make_phantom, train

from pipeline import api, runs
from pipeline.data.layouts import open_dataset
from pipeline.errors import UserError
from pipeline.model import load
from pipeline.prediction.predictor import Predictor
from pipeline.runs.identity import model_digest
from pipeline.runs.models import load_model


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_phantom(tmp_path_factory.mktemp("options") / "phantom", labelled=3, unlabelled=2)


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    return train(tmp_path_factory.mktemp("options"), dataset, "run", max_steps=2)


def test_cases_are_chosen_by_id_and_by_having_no_mask(run, dataset, tmp_path):
    def predicted(name, **chosen):
        return [path.name for path in runs.predict(run, [dataset], tmp_path / name, **chosen)]

    assert predicted("unlabelled", unlabelled=True) == ["phantom_003.nii.gz", "phantom_004.nii.gz"]
    assert predicted("only", only=["phantom_004", "phantom_001"]) == ["phantom_001.nii.gz", "phantom_004.nii.gz"]
    assert predicted("both", only=["phantom_004", "phantom_001"], unlabelled=True) == ["phantom_004.nii.gz"]
    for refusal, chosen in (
        (
            "phantom_04: is the id of no scan there.*\n.*did you mean 'phantom_004'",
            {"only": ["phantom_001", "phantom_04"]},
        ),
        ("every scan there has a mask", {"only": ["phantom_001"], "unlabelled": True}),
    ):
        with pytest.raises(UserError, match=refusal):
            predicted("refused", **chosen)
    assert not (tmp_path / "refused").exists()


def test_a_runs_own_dataset_is_opened_as_the_training_did(dataset, tmp_path, capsys):
    """A folder in which masks lie beside scans, named by a word that nobody knows."""
    flat = tmp_path / "flat"
    flat.mkdir()
    for case in open_dataset(dataset).cases:
        shutil.copy(case.images[0], flat / f"{case.id}.nii.gz")
        if case.label:
            shutil.copy(case.label, flat / f"{case.id} maske.nii.gz")
    words = ("layout.name=folder", "layout.options.images=.", "layout.options.label_suffix=' maske'")
    run = train(tmp_path, flat, "run", *words, max_steps=1)
    capsys.readouterr()
    assert len(runs.predict(run, [flat], tmp_path / "masks", unlabelled=True)) == 2
    assert "--unlabelled" not in capsys.readouterr().err
    elsewhere = shutil.copytree(flat, tmp_path / "elsewhere")
    assert len(runs.predict(run, [elsewhere], tmp_path / "all", unlabelled=True)) == 8
    assert "in which no file is a mask: --unlabelled leaves none out" in " ".join(capsys.readouterr().err.split())
    chosen = (None, "folder", {"images": ".", "label_suffix": " maske"})
    assert len(runs.predict(run, [elsewhere], tmp_path / "two", open_as=chosen, unlabelled=True)) == 2


def test_mirror_images_are_left_out_and_the_device_is_the_one_asked_for(run, dataset, tmp_path, monkeypatch):
    seen, segment = [], Predictor.segment

    def watched(predictor, *arguments):
        seen.append((predictor.mirrors, predictor.device.type))
        return segment(predictor, *arguments)

    monkeypatch.setattr(Predictor, "segment", watched)
    scan = dataset / "imagesTs" / "phantom_003.nii.gz"
    runs.predict(run, [scan], tmp_path / "on", device="cpu")
    runs.predict(run, [scan], tmp_path / "off", mirror=False)
    (mirrored, place), (plain, _) = seen
    assert mirrored
    assert (plain, place) == ((), "cpu")


def test_masks_are_the_networks_own_without_post_processing(run, dataset, tmp_path):
    pieces = tmp_path / "pieces"
    shutil.copytree(run, pieces)
    words = ("--resume", "postprocessing=[{step: drop_small, options: {label: 1, least_ml: 1000}}]")
    assert fewmask("train", pieces, *words, "--allow-change", "postprocessing").returncode == 0
    scan, place = dataset / "imagesTs" / "phantom_003.nii.gz", tmp_path / "masks"
    (mask,) = runs.predict(pieces, [scan], place)
    assert not (np.asarray(nib.load(mask).dataobj) == 1).any()
    with pytest.raises(UserError, match="was made with other weights, or other post-processing"):
        runs.predict(pieces, [scan], place, postprocess=False)
    again = fewmask("predict", pieces, scan, "--output", place, "--postprocess", "off", "--overwrite")
    assert (again.returncode, "post-processing of the masks" in again.stderr) == (0, False), again.stderr
    (own,) = api.predict(pieces, scan, tmp_path / "own", postprocess=False)
    probabilities = load(pieces).probabilities(scan)
    expected = np.array([0, 1, 2])[probabilities.argmax(0)]
    foreground = train(
        tmp_path, dataset, "foreground", max_steps=1, postprocessing=[{"step": "keep_largest_foreground"}]
    )
    model = load_model(foreground, "last")
    assert model_digest(model) != model_digest(model.without_postprocessing())
    for path in (mask, own):
        np.testing.assert_array_equal(np.asarray(nib.load(path).dataobj), expected)
    assert (expected == 1).any()


@pytest.mark.parametrize(
    ("device", "said"), [("gpu", "give auto, cpu, cuda or cuda:N"), ("cuda:99", "The device is not there")]
)
def test_a_device_that_is_not_there_is_refused_before_anything_is_written(run, dataset, tmp_path, device, said):
    words = [
        "predict",
        run,
        dataset / "imagesTs",
        "--output",
        tmp_path / "masks",
        "--device",
        device,
        "--mirror",
        "off",
    ]
    done = fewmask(*words)
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "masks").exists()
