"""Regions, unions of labels that lie in each other or overlap: read, trained, predicted, scored and passed on."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from monai.data import MetaTensor
from monai.losses import DiceLoss as MonaiDice
from monai.losses import TverskyLoss as MonaiTversky
from monai.metrics import DiceMetric
from nested import NNUNET, PLAIN, REGIONS, draw, write_nested
from runs_fixtures import TINY, assert_same_run, command_runner, plug_pulled_at, state_of, train, write_recipe
from test_export import run_bundle
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate

import fewmask
from pipeline import config, runs
from pipeline.data.layouts import read_dataset
from pipeline.data.layouts.dataset import BadEntryError, read_labels
from pipeline.data.layouts.painting import asked_labels
from pipeline.data.regions import with_regions
from pipeline.data.relabelling import relabel
from pipeline.engines.ensemble import DeepEnsemble
from pipeline.engines.sources import cross_teaching, mean_teacher
from pipeline.engines.sources.mean_teacher import confident_regions
from pipeline.errors import UserError
from pipeline.export import runner
from pipeline.export.bundle_scripts.transforms import OWN_AFFINE, Decided
from pipeline.export.content import read_content
from pipeline.export.description import describe
from pipeline.export.writing import write_export
from pipeline.losses import LOSSES
from pipeline.losses.regions import RegionLoss, classes_of_regions
from pipeline.metrics.calibration import Reliability
from pipeline.metrics.case import score_case
from pipeline.metrics.region_calibration import RegionExpectation
from pipeline.nifti import load
from pipeline.prediction.deciding import paint
from pipeline.prediction.postprocessing import DropSmall
from pipeline.prediction.voting import VoteSweep
from pipeline.runs.beside import Beside
from pipeline.runs.checking import check_dataset
from pipeline.runs.components import COMPONENTS
from pipeline.runs.evaluating import evaluate
from pipeline.runs.mask_folder import Making, MaskFolder
from pipeline.runs.models import load_model
from pipeline.runs.objectives import build_objective
from pipeline.runs.pairing import read_regions
from pipeline.runs.stored import read_config
from pipeline.types import Region, Task

TARGETS = (Region(2, (1, 2, 4)), Region(1, (1, 4)), Region(4, (4,)))
LABELS = {0: "background", 1: "core", 2: "whole", 4: "enhancing"}
TASK = Task(LABELS, ("MR",), regions=TARGETS)
SUPERVISED = [{"loss": "dice"}, {"loss": "cross_entropy"}]
DATA = {"dimensions": 2, "spacing_mm": [1.0, 1.0], "patch_size": [16, 16], "batch_size": 2, "unlabelled_batch_size": 2}


# What a dataset and a recipe say


def test_nnunets_file_and_a_recipe_say_the_same_regions(tmp_path):
    asked = with_regions(read_dataset(write_nested(tmp_path / "nnunet")), "auto")
    plain = read_dataset(write_nested(tmp_path / "plain", about=PLAIN))
    by_value = with_regions(plain, {"core": (1, 4), "enhancing": (4,), "whole": (1, 2, 4)})
    by_name = with_regions(plain, {"whole": (2, "necrosis", "active"), "core": ("active", 1), "enhancing": ("active",)})
    for dataset in (asked, by_value):
        assert (dataset.targets, dict(dataset.labels)) == (TARGETS, LABELS)
        assert not [problem for problem in check_dataset(dataset).warnings if problem.code.startswith("bad")]
    assert [{*region.values} for region in by_name.targets] == [{*region.values} for region in TARGETS]
    assert asked_labels(asked.asked) == NNUNET
    assert with_regions(plain, "auto").targets == () == with_regions(read_dataset(tmp_path / "nnunet"), None).targets


def test_regions_are_unions_of_chosen_labels_and_what_is_in_none_is_background(tmp_path):
    dataset = relabel(read_dataset(write_nested(tmp_path / "data", about=PLAIN)), {"rim": (2,), "inner": (1, 4)})
    dataset = with_regions(dataset, {"all": ("rim", "inner"), "inner": (2,)})
    assert (dataset.targets, dict(dataset.labels)) == (
        (Region(1, (1, 2)), Region(2, (2,))),
        {0: "background", 1: "all", 2: "inner"},
    )
    assert dataset.cases[0].relabelled == ((2, 1), (1, 2), (4, 2))
    some = check_dataset(with_regions(read_dataset(tmp_path / "data"), {"core": (1, 4), "active": (4,)}))
    assert [problem.code for problem in some.warnings if "left" in problem.code] == ["label-left-out"]
    assert set(some.facts["case_00"].label_voxels) == {0, 1, 4}


def test_other_scans_whose_labels_were_numbered_anew_may_lack_a_value(tmp_path):
    about = PLAIN | {"labels": {"background": 1, "edema": 2, "active": 3}, "ignore": 0}
    dataset = read_dataset(write_nested(tmp_path / "data", about=about))
    dataset = with_regions(dataset, {"whole": (1, 2, 4), "core": (1, 4), "enhancing": (4,)}, to_train=False)
    assert dataset.relabelling.made_of["enhancing"] == ()
    assert not [problem for problem in dataset.problems if problem.code == "bad-regions"]


@pytest.mark.parametrize(
    ("regions", "words"),
    [
        ({"core": (1, 4), "necrosis": (1,), "enhancing": (4,)}, "every value of it belongs to a region painted later"),
        ({"whole": (1, 2, 4), "enhancing": (4,)}, "1, 2, which no later region tells apart"),
        ({"whole": (1, 2, 4), "core": (1, "lump"), "enhancing": (4,)}, "'lump', which is no label"),
        ({"whole": (2, 3)}, "has 3, and the dataset declares 1 necrosis"),
        ({"whole": (0, 2)}, "is no structure"),
        ({"background": (2,)}, "cannot be a region"),
    ],
)
def test_regions_that_no_mask_could_show_are_refused_with_a_remedy(tmp_path, regions, words):
    dataset = with_regions(read_dataset(write_nested(tmp_path / "data", about=PLAIN)), regions)
    with pytest.raises(UserError, match="bad-regions") as caught:
        check_dataset(dataset)
    assert words in str(caught.value)
    assert all(problem.remedy for problem in caught.value.problems)


def test_nnunets_order_is_compared_with_its_regions_and_without_one_labels_exclude_each_other():
    assert read_labels(NNUNET["labels"])["asked"] == {}
    assert read_labels({"background": 0, "a": 1}, order=[1])["asked"] == {}
    with pytest.raises(BadEntryError) as caught:
        read_labels(NNUNET["labels"], order=[1, 2, 4])
    assert "[2, 1, 4] for whole, core, enhancing" in caught.value.args[1]


# Losses


def made(name, regions=TARGETS, names=("logits", "label"), **options):
    options = {"include_background": False} | options if name in ("dice", "tversky") else options
    losses = [LOSSES.build(name, options) for _ in regions]
    return RegionLoss(losses, names, classes_of_regions(regions, LABELS))


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 3, 9, 8, 7, generator=generator)
    label = torch.randint(0, 4, (3, 1, 9, 8, 7), generator=generator)
    # Class 1 is the value 1, 2 the value 2, 3 the value 4.
    inside = torch.cat([label > 0, (label == 1) | (label == 3), label == 3], dim=1).float()
    return logits.requires_grad_(), label, inside


def test_dice_of_regions_is_monais_with_sigmoid(batch):
    logits, label, inside = batch
    loss = made("dice", smooth=1.0).compare(logits, label)
    expected = MonaiDice(sigmoid=True, smooth_nr=1.0, smooth_dr=1.0)(logits, inside)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    ours, theirs = (torch.autograd.grad(each, logits)[0] for each in (loss, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-8)


def test_cross_entropy_and_monais_own_losses_of_regions_are_those_of_sigmoids(batch):
    logits, label, inside = batch
    entropy = made("cross_entropy").compare(logits, label)
    torch.testing.assert_close(entropy, binary_cross_entropy_with_logits(logits, inside))
    tversky = made("tversky", alpha=0.3, beta=0.7).compare(logits, label)
    expected = MonaiTversky(sigmoid=True, alpha=0.3, beta=0.7, smooth_nr=1e-5, smooth_dr=1e-5)(logits, inside)
    torch.testing.assert_close(tversky, expected, rtol=1e-6, atol=1e-6)
    balanced = made("balanced_ce").compare(logits, label)
    each = binary_cross_entropy_with_logits(logits, inside, reduction="none")
    halves = [each[:, r][inside[:, r] == side].mean() for r in range(3) for side in (0, 1)]
    torch.testing.assert_close(balanced, torch.stack(halves).mean(), rtol=1e-5, atol=1e-6)


def test_the_terms_of_a_recipe_are_of_the_inside_of_regions_and_weigh_by_name(batch):
    logits, label, inside = batch
    terms = [
        {"loss": "dice"},
        {"loss": "cross_entropy", "options": {"class_weights": {"enhancing": 5}}},
        {"loss": "tversky", "options": {"include_background": True}},
    ]
    objective = build_objective(parsed(terms), LABELS, TARGETS)
    assert [term.needs for term in objective.terms] == [("logits", "label")] * 3
    dice, entropy, tversky = (term.loss.compare(logits, label) for term in objective.terms)
    expected = MonaiDice(sigmoid=True, smooth_nr=1.0, smooth_dr=1.0)(logits, inside)
    torch.testing.assert_close(dice, expected, rtol=1e-6, atol=1e-6)
    each = binary_cross_entropy_with_logits(logits, inside, reduction="none")
    weights = 1 + inside * torch.tensor([0.0, 0.0, 4.0]).view(1, 3, 1, 1, 1)
    means = (each * weights).sum(dim=(0, 2, 3, 4)) / weights.sum(dim=(0, 2, 3, 4))
    torch.testing.assert_close(entropy, means.mean())
    torch.testing.assert_close(tversky, made("tversky", include_background=True).compare(logits, label))


def parsed(terms):
    return config.parse({"dataset": "data", "objective": terms}, "recipe", COMPONENTS)


def test_voxels_without_annotation_count_in_no_region(batch):
    logits, label, inside = batch
    hidden = label.clone()
    hidden[:, :, :, :3] = -1
    loss = made("cross_entropy").compare(logits, hidden)
    shown = binary_cross_entropy_with_logits(logits[:, :, :, 3:], inside[:, :, :, 3:])
    torch.testing.assert_close(loss, shown)
    assert not torch.autograd.grad(loss, logits)[0][:, :, :, :3].any()


def test_levels_teachers_and_labels_of_a_channel_a_region_are_cut_to_each_region(batch):
    logits, label, inside = batch
    coarse = interpolate(logits, (5, 4, 4))
    loss = made("cross_entropy").compare((logits, coarse), label)
    shrunk = interpolate(inside, (5, 4, 4), mode="nearest-exact")
    expected = (
        binary_cross_entropy_with_logits(logits, inside) + binary_cross_entropy_with_logits(coarse, shrunk) / 2
    ) / 1.5
    torch.testing.assert_close(loss, expected)
    mask = torch.ones_like(label, dtype=torch.bool)
    teacher = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    consistency = made("consistency", names=("logits", "teacher", "mask")).compare(logits, teacher, mask)
    torch.testing.assert_close(consistency, (logits.sigmoid() - teacher.sigmoid()).square().mean())
    pseudo = confident_regions(teacher, mask, 0.6)
    sure = (teacher.sigmoid() - 0.5).abs() >= 0.1 - 1e-7
    assert torch.equal(pseudo >= 0, sure)
    each = binary_cross_entropy_with_logits(logits, (teacher >= 0).float(), reduction="none")
    found = made("cross_entropy", names=("logits", "pseudo_label")).compare(logits, pseudo)
    torch.testing.assert_close(found, torch.stack([each[:, r][sure[:, r]].mean() for r in range(3)]).mean())


def test_one_region_has_one_channel(batch):
    logits, label, inside = batch
    one = made("cross_entropy", TARGETS[:1])
    torch.testing.assert_close(
        one.compare(logits[:, :1], label), binary_cross_entropy_with_logits(logits[:, :1], inside[:, :1])
    )
    with pytest.raises(ValueError, match="3 channels; expected 1 regions"):
        one.compare(logits, label)


# Deciding and scoring


def test_the_last_region_that_is_there_is_painted():
    found = paint(torch.tensor([[1, 1, 0, 0, 1], [0, 1, 1, 0, 0], [0, 0, 0, 0, 1]], dtype=torch.bool), [2, 1, 3])
    assert found.tolist() == [2, 1, 1, 0, 3]


def test_an_ensemble_of_regions_predicts_the_mean_of_sigmoids():
    said = [torch.randn(2, 3, 4, 4) * 20 for _ in range(3)]

    class Says(torch.nn.Module):
        def __init__(self, logits):
            super().__init__()
            self.logits = logits

        def forward(self, image):
            return self.logits

    found = DeepEnsemble([Says(each) for each in said], regions=True).eval()(torch.zeros(2, 1, 4, 4))
    torch.testing.assert_close(found.sigmoid(), torch.stack(said).sigmoid().mean(dim=0))


def test_atlases_vote_for_a_region_with_all_of_its_classes():
    predictor = SimpleNamespace(regions=TARGETS, label_values=tuple(LABELS))
    shares = torch.softmax(torch.randn(4, 50, generator=torch.Generator().manual_seed(0)), dim=0)
    vote = VoteSweep(predictor=predictor, scans=(), image=shares, probabilities=shares)
    found = vote.logits(shares).sigmoid()
    torch.testing.assert_close(found, torch.stack([1 - shares[0], shares[1] + shares[3], shares[3]]))


@pytest.mark.parametrize("seed", range(3))
def test_scores_of_regions_are_those_of_simpleitk_and_monai_on_their_masks(seed):
    sitk = pytest.importorskip("SimpleITK")
    rng = np.random.default_rng(seed)
    truth = draw(rng)[1]
    guess = np.where(rng.random(truth.shape) < 0.2, draw(rng)[1], truth)
    rows = score_case("a", truth, guess, LABELS, (1.0, 1.0, 1.5), regions=TARGETS)
    assert [(row.label, row.name) for row in rows] == [(1, "core"), (2, "whole"), (4, "enhancing")]
    for row in rows:
        pair = [np.isin(each, TASK.values_of(row.label)).astype(np.uint8) for each in (truth, guess)]
        images = [sitk.GetImageFromArray(each) for each in pair]
        measured = sitk.LabelOverlapMeasuresImageFilter()
        measured.Execute(*images)
        assert row.dice == pytest.approx(measured.GetDiceCoefficient(1), abs=1e-6)
        assert row.iou == pytest.approx(measured.GetJaccardCoefficient(1), abs=1e-6)
        true, predicted = (torch.from_numpy(each)[None, None].float() for each in pair)
        assert row.dice == pytest.approx(float(DiceMetric()(predicted, true)), abs=1e-6)
        alone = score_case("a", *pair, {1: row.name}, (1.0, 1.0, 1.5))[0]
        assert replace(row, label=1) == alone


def test_a_region_in_neither_mask_is_absent_and_ignored_voxels_count_nowhere():
    truth = np.array([[2, 2, 1, 255, 255, 0]])
    guess = np.array([[2, 1, 1, 4, 2, 0]])
    core, whole, enhancing = score_case("a", truth, guess, LABELS, (1.0,) * 3, ignore=255, regions=TARGETS)
    assert (whole.voxels_truth, whole.voxels_predicted, whole.dice) == (3, 3, 1.0)
    assert (core.voxels_truth, core.voxels_predicted) == (1, 2)
    assert (enhancing.outcome, enhancing.dice) == ("absent", None)


def test_expected_dice_and_calibration_are_of_each_region():
    rng = np.random.default_rng(0)
    p = rng.random((3, 500)).astype(np.float32)
    labels, truth = rng.choice([0, 1, 2, 4], (2, 500))
    truth[:20] = 9
    reliability = Reliability()
    expectation = RegionExpectation(TARGETS, reliability, truth.reshape(5, 10, 10), 9)
    for part in (slice(0, 200), slice(200, 500)):
        expectation.add(expectation.shares(p[:, part]), labels[part], truth[part])
    voxels = 0
    for n, region in enumerate(TARGETS):
        mask = np.isin(labels, region.values)
        expected = 2 * p[n][mask].sum() / (p[n].sum() + mask.sum())
        assert expectation.dice()[region.label] == pytest.approx(expected, rel=1e-6)
        counted = (truth != 9) & (np.isin(truth, region.values) | (p[n] > 0.01))
        voxels += counted.sum()
    assert reliability.voxels.sum() == voxels
    assert expectation.true_plane(0, 1).tolist() == truth[100:200].tolist()


def test_evaluate_scores_unions_that_are_named_or_that_dataset_json_asks_for(tmp_path, monkeypatch, capsys):
    source = write_nested(tmp_path / "data")
    rng = np.random.default_rng(5)
    (tmp_path / "masks").mkdir()
    for path in (source / "labelsTr").iterdir():
        nib.save(nib.Nifti1Image(draw(rng)[1], np.eye(4)), tmp_path / "masks" / path.name)
    asked = evaluate(tmp_path / "masks", source / "labelsTr", tmp_path / "asked")
    assert sorted(each.name for each in asked.classes) == ["core", "enhancing", "whole"]
    single = evaluate(tmp_path / "masks", source / "labelsTr", tmp_path / "single", regions={})
    assert asked.as_dict() != single.as_dict()
    run = command_runner(monkeypatch, capsys)
    words = ["evaluate", tmp_path / "masks", source / "labelsTr", "--output", tmp_path / "named"]
    code, *_ = run(*words, "--region", "whole=[1,2,4]", "--region", "core=[1, 4]", "--region", "enhancing=4")
    assert code == 0
    for name in ("cases.csv", "summary.json"):
        assert (tmp_path / "named" / name).read_bytes() == (tmp_path / "asked" / name).read_bytes()
    for bad in ("whole", "whole=[1,x]", "whole=[0,1]"):
        code, _, told = run(*words[:-1], tmp_path / "bad", "--region", bad)
        assert (code, "bad-regions" in told, (tmp_path / "bad").exists()) == (2, True, False), bad
    alone = evaluate(tmp_path / "masks", source / "labelsTr", tmp_path / "alone", regions={"core": (1, 4)})
    of_core = [next(each for each in found.classes if each.name == "core") for found in (alone, asked)]
    assert of_core[0].metrics == of_core[1].metrics
    with pytest.raises(UserError, match="would be invisible"):
        evaluate(tmp_path / "masks", source / "labelsTr", tmp_path / "twice", regions={"a": (1, 4), "b": (1, 4)})
    assert read_regions(()) is None
    with pytest.raises(UserError, match="names core again"):
        read_regions(["core=1", "core=2"])


# Whole runs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("regions")


@pytest.fixture(scope="module")
def dataset(folder):
    return write_nested(folder / "data", labelled=4, unlabelled=2)


@pytest.fixture(scope="module")
def run(folder, dataset):
    return train(folder, dataset, "run", objective=SUPERVISED, data=DATA)


@pytest.fixture(scope="module")
def scan(dataset):
    return dataset / "imagesTr" / "case_04_0000.nii.gz"


def test_a_run_of_nnunets_regions_is_that_of_a_recipe_that_was_stopped_to_the_bit(folder, run):
    plain = write_nested(folder / "plain" / "data", labelled=4, unlabelled=2, about=PLAIN)
    how = {"objective": SUPERVISED, "data": DATA, "regions": REGIONS}
    with plug_pulled_at(5):
        train(folder, plain, "named", **how)
    with pytest.raises(UserError, match="changed"):
        train(folder, plain, "named", **how | {"regions": None}, resume=True)
    assert_same_run(run, train(folder, plain, "named", **how, resume=True))
    told = state_of(run)["task"]
    assert told["labels"] == LABELS
    assert told["regions"] == [{"label": each.label, "values": list(each.values)} for each in TARGETS]
    told = yaml.safe_load((run / "config.yaml").read_text())["regions"]
    assert list(told.items()) == [("whole", [1, 2, 4]), ("core", [1, 4]), ("enhancing", [4])]
    rows = (run / "cases.csv").read_text().splitlines()[1:]
    assert [row.split(",")[3] for row in rows] == ["core", "whole", "enhancing"]


def test_a_run_is_validated_from_its_folder_alone_and_on_other_scans_of_its_labels(folder, run):
    before = (run / "cases.csv").read_bytes()
    runs.validate(run)
    assert (run / "cases.csv").read_bytes() == before
    other = write_nested(folder / "other", labelled=1, about=PLAIN, seed=9)
    found = runs.validate(run, other)
    assert [each.name for each in found.summary.classes] == [each["name"] for each in summary_of(run)]


def test_a_run_of_a_version_without_regions_stays_one_of_labels(run, tmp_path):
    told = yaml.safe_load((run / "config.yaml").read_text())
    assert read_config(run).regions is not None
    del told["regions"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(told))
    assert read_config(tmp_path).regions is None


def summary_of(run):
    return json.loads((run / "summary.json").read_text())["classes"]


def test_masks_are_painted_by_the_probabilities_and_what_is_beside_them_is_of_regions(run, scan, tmp_path):
    beside = Beside(probabilities=True, entropy=True, split_labels=True, volumes=True)
    (path,) = runs.predict(run, [scan], tmp_path / "masks", beside=beside, rank=True)
    mask = np.asarray(nib.load(path).dataobj)
    maps = nib.load(tmp_path / "masks" / "probabilities" / path.name).get_fdata()
    model = load_model(run, "last")
    p = model.predictor.probabilities([load(scan)])
    assert list(fewmask.load(run).regions.items()) == [("whole", (1, 2, 4)), ("core", (1, 4)), ("enhancing", (4,))]
    assert maps.shape == (*mask.shape, 3)
    np.testing.assert_allclose(np.moveaxis(maps, -1, 0), p, atol=0.5 / 255 + 1e-6)
    painted = np.zeros_like(mask)
    for inside, region in zip(p >= 0.5, TARGETS, strict=True):
        painted[inside] = region.label
    assert (mask == painted).mean() > 0.9999
    assert len(np.unique(mask)) > 1
    entropy = nib.load(tmp_path / "masks" / "entropy" / path.name).get_fdata()
    doubt = -(p * np.log2(p) + (1 - p) * np.log2(1 - p)).mean(axis=0)
    np.testing.assert_allclose(entropy, doubt, atol=0.01)
    rows = (tmp_path / "masks" / "volumes.csv").read_text().splitlines()[1:]
    for row in rows:
        label, name, voxels = row.split(",")[1:4]
        union = np.isin(mask, TASK.values_of(int(label)))
        alone = np.asarray(nib.load(tmp_path / "masks" / f"{label}-{name}" / path.name).dataobj)
        assert int(voxels) == union.sum() == alone.sum()
        np.testing.assert_array_equal(alone, union)
    (part,) = runs.predict(run, [scan], tmp_path / "part", beside=Beside(labels=("core",)))
    np.testing.assert_array_equal(np.asarray(nib.load(part).dataobj), np.where(np.isin(mask, (1, 4)), mask, 0))


def test_masks_of_regions_are_scored_as_regions_without_a_dataset_json_too(run, dataset, tmp_path):
    runs.predict(run, [dataset / "imagesTr"], tmp_path / "masks")
    for folder in ("truth", "labelsTr"):
        shutil.copytree(dataset / "labelsTr", tmp_path / folder)
    found = evaluate(tmp_path / "masks", tmp_path / "truth", tmp_path / "scores")
    shutil.copy(dataset / "dataset.json", tmp_path / "labelsTr")
    asked = evaluate(tmp_path / "masks", tmp_path / "labelsTr", tmp_path / "asked")
    assert found.as_dict() == asked.as_dict()
    assert sorted(each.name for each in found.classes) == ["core", "enhancing", "whole"]


def test_a_record_forgets_regions_where_a_label_stands_for_itself(tmp_path):
    folder = MaskFolder(tmp_path)
    making = Making(scan="0" * 64, model="1" * 64, mirrored=False, labels={1: "whole", 2: "core"}, regions={1: (1, 2)})
    for made, regions in ((making, {"1": [1, 2]}), (replace(making, labels={1: "liver"}, regions={}), {})):
        folder.save("a.nii.gz", made, lambda stage: (stage / "a.nii.gz").write_bytes(b""))
        assert folder.read().regions == regions


def test_expected_dice_is_the_same_with_post_processing_that_changes_nothing(run, scan):
    predictor = load_model(run, "last").predictor
    told = []
    for steps in ((), (DropSmall(4, 1e-9),)):
        expectation = RegionExpectation(TARGETS)
        replace(predictor, postprocessing=steps).segment([load(scan)], expectation)
        told.append(expectation.dice())
    assert told[0] == pytest.approx(told[1], rel=1e-9)


class Session:
    """What onnxruntime would be, with the network itself."""

    def __init__(self, network):
        self.network = network.eval()

    def get_inputs(self):
        return [type("Input", (), {"name": "image"})]

    def run(self, _, given):
        with torch.no_grad():
            return [self.network(torch.from_numpy(given["image"].copy())).numpy()]


def test_other_programs_paint_as_predict_does(run, scan, tmp_path):
    content = read_content(run)
    told = json.loads(json.dumps(describe(content, ["a"])))
    assert told["regions"][1] == {"name": "core", "label": 1, "values": [1, 4]}
    predictor = content.predictors[0]
    own = predictor.segment([load(scan)])
    _, labels = runner.segment(told, [Session(predictor.network)], [scan])
    assert labels.dtype == own.dtype
    assert (labels == own).mean() > 0.9999
    other = torch.nn.Sequential(predictor.network, torch.nn.Flatten(0, 0))
    twice = told | {"networks": told["networks"] * 2}
    _, both = runner.segment(twice, [Session(predictor.network), Session(other)], [scan])
    assert (both == own).mean() > 0.9999
    logits = torch.from_numpy(predictor.logits([load(scan)]))
    for networks in (1, 2):
        image = MetaTensor(torch.zeros(1, *own.shape), meta={OWN_AFFINE: np.eye(4)})
        given = {"image": image, "pred": MetaTensor(torch.cat([logits] * networks))}
        decided = Decided("pred", "image", tuple(LABELS), [2, 1, 4], networks)(given)["pred"][0]
        assert (np.asarray(decided) == own).mean() > 0.9999
    write_export(run, tmp_path / "model.fewmask")
    one, two = (
        runs.predict(each, [scan], tmp_path / name)[0] for name, each in (("a", run), ("b", tmp_path / "model.fewmask"))
    )
    assert one.read_bytes() == two.read_bytes()
    assert "| 1, 4 | core |" in content.card


@pytest.mark.parametrize(
    ("objective", "sources", "network"),
    [
        ([{"loss": "dice"}, {"loss": "consistency", "on": "unlabelled"}], ["mean_teacher"], {}),
        (
            [{"loss": "dice"}, {"loss": "cross_entropy", "on": "unlabelled", "against": ["pseudo_label"]}],
            ["mean_teacher"],
            {},
        ),
        (
            [{"loss": "dice"}, {"loss": "dice", "on": "unlabelled", "against": ["peer_label"]}],
            ["cross_teaching"],
            {"members": 2},
        ),
        (
            [
                {"loss": "dice"},
                {"loss": "dice", "on": "unlabelled", "judges": "mixed_logits", "against": ["mixed_label"]},
                {"loss": "dice", "on": "unlabelled", "judges": "mixed_logits", "against": ["mixed_pseudo_label"]},
            ],
            ["mean_teacher", "copy_paste"],
            {},
        ),
        ([{"loss": "dice"}, {"loss": "ncut", "on": "unlabelled", "options": {"radius": 2}}], [], {}),
        ([{"loss": "cross_entropy", "options": {"class_weights": {"enhancing": 5}}}, {"loss": "balanced_ce"}], [], {}),
    ],
    ids=["consistency", "pseudo-labels", "peers", "copy-paste", "ncut", "weights"],
)
def test_methods_without_masks_and_weights_of_classes_train_regions(
    folder, dataset, request, monkeypatch, objective, sources, network
):
    name = request.node.callspec.id
    how = {
        "objective": objective,
        "sources": [{"source": source} for source in sources],
        "network": TINY["network"] | network,
        "data": DATA | {"validation": "none"},
        "max_steps": 2,
    }
    called = []
    for module in (mean_teacher, cross_teaching):
        counted = lambda *given: called.append(given) or confident_regions(*given)  # noqa: E731
        monkeypatch.setattr(module, "confident_regions", counted)
    run = train(folder, dataset, name, **how)
    assert bool(called) == bool(sources)
    assert "nan" not in (run / "history.csv").read_text()
    assert state_of(run)["step"] == 2


def test_reconstructions_and_segments_are_refused_with_regions(folder, dataset):
    wnet = {
        "network": {"name": "wnet", "options": {"channels": [4, 8, 8]}},
        "objective": [{"loss": "dice"}, {"loss": "reconstruction", "on": "all"}],
    }
    with pytest.raises(UserError, match="exclude each other"):
        train(folder, dataset, "wnet", data=DATA, **wnet)
    with pytest.raises(UserError, match="regions"):
        train(folder, dataset, "segments", segments=3, regions=REGIONS, objective=[{"loss": "ncut", "on": "all"}])


def test_folds_score_every_case_by_region_and_predict_together_also_once_exported(folder, dataset, scan, tmp_path):
    place = folder / "folds"
    recipe = runs.read_recipe(write_recipe(folder, dataset, objective=SUPERVISED, data=DATA, max_steps=2))
    runs.cross_validate(recipe, place, 2)
    rows = (place / "out-of-fold" / "cases.csv").read_text().splitlines()[1:]
    assert [row.split(",")[3] for row in rows] == ["core", "whole", "enhancing"] * 4
    model = load_model(place, "last")
    p = model.predictor.probabilities([load(scan)])
    assert p.shape[0] == 3
    each = [one.probabilities([load(scan)]) for one in model.predictor.predictors]
    np.testing.assert_allclose(p, np.mean(each, axis=0), atol=1e-6)
    own = model.predictor.segment([load(scan)])
    painted = np.zeros_like(own)
    for inside, region in zip(p >= 0.5, TARGETS, strict=True):
        painted[inside] = region.label
    assert (own == painted).mean() > 0.9999
    assert len(np.unique(own)) > 1
    assert_exports_paint(place, scan, own, tmp_path)


def assert_exports_paint(run, scan, own, folder):
    """The real programs of both exports, each started as its user starts it, write the mask that predict does."""
    write_export(run, folder / "onnx", "onnx")
    words = [sys.executable, folder / "onnx" / "predict.py", scan, "--output", folder / "onnx-masks"]
    subprocess.run(list(map(str, words)), check=True, cwd=folder)
    write_export(run, folder / "bundle", "bundle")
    (folder / "scans").mkdir()
    shutil.copy(scan, folder / "scans")
    run_bundle(folder / "bundle", folder / "scans", folder / "bundle-masks")
    for place in ("onnx-masks", "bundle-masks"):
        mask = nib.load(folder / place / scan.name)
        np.testing.assert_array_equal(mask.affine, nib.load(scan).affine)
        assert (np.asarray(mask.dataobj) == own).mean() > 0.9999


def test_nested_structures_are_learnt(folder):
    data = write_nested(folder / "many" / "data", labelled=8)
    how = {
        "objective": SUPERVISED,
        "data": DATA | {"batch_size": 8},
        "network": {"name": "unet", "options": {"channels": [8, 16, 32]}},
        "optimizer": {"learning_rate": 0.01},
        "augmentation": {"flip_axes": [0, 1]},
        "max_steps": 300,
        "validate_every": 300,
    }
    run = train(folder, data, "learnt", **how)
    summary = json.loads((run / "summary.json").read_text())
    dice = {each["name"]: each["metrics"]["dice"]["mean"] for each in summary["classes"]}
    assert dice.keys() == REGIONS.keys()
    assert min(dice.values()) > 0.8
