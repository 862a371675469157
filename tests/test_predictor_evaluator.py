import numpy as np
import pytest
import torch
from ignite.engine import Events
from ignite.handlers import Timer
from monai.handlers import StatsHandler
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from scipy.spatial.transform import Rotation
from torch import nn

from pipeline.data.inspection import Declared, examine_case
from pipeline.data.transforms import Grid
from pipeline.engines.evaluator import SegmentationEvaluator
from pipeline.errors import UserError
from pipeline.nifti.volume import load
from pipeline.prediction.predictor import Predictor
from pipeline.types import Case

AFFINE = np.diag([2.0, 1.5, 3.0, 1.0])
RAS = Grid("RAS", (1.5, 1.5, 1.5))
OWN = Grid("RAS", (0.0, 0.0, 0.0))


class Threshold(nn.Module):
    """Answers with class 1 where the standardised image is above 0, for any number of axes."""

    def __init__(self, heads=False, factor=1.0):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))
        self.sizes, self.modes = [], []

    def forward(self, image):
        self.sizes.append(tuple(image.shape))
        self.modes.append(self.training)
        return torch.cat([-image[:, :1], image[:, :1]], dim=1) * self.factor


def ball(shape=(18, 20, 12)):
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    # Off the middle, so that a flip is seen.
    return np.exp(-3 * ((axes[0] - 0.3) ** 2 + (axes[1] + 0.2) ** 2 + axes[2] ** 2)).astype(np.float32) * 100 + 1


def predictor(grid=OWN, patch=(16, 16, 16), network=None, **options):
    return Predictor(
        network=network or Threshold(),
        grid=grid,
        patch_size=patch,
        label_values=(0, 7),
        precision=torch.float32,
        **options,
    )


def above_mean(voxels):
    return np.where(voxels > voxels.mean(), 7, 0)


# Predictor


def test_prediction_on_the_scans_own_grid_is_what_the_network_says(make_scan):
    voxels = ball()
    np.testing.assert_array_equal(predictor()([make_scan("a.nii.gz", voxels, AFFINE)]), above_mean(voxels))


def test_prediction_holds_the_values_of_the_dataset(make_scan):
    assert set(np.unique(predictor()([make_scan("a.nii.gz", ball(), AFFINE)]))) == {0, 7}


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SAL"])
@pytest.mark.parametrize("degrees", [0, 15])
@pytest.mark.parametrize("patch", [(16, 16, 16), (16, 16)], ids=["3d", "2d"])
def test_prediction_returns_to_the_files_own_axes(make_scan, codes, degrees, patch):
    affine = AFFINE.copy()
    affine[:3, :3] = Rotation.from_euler("zyx", [degrees, degrees, -degrees], degrees=True).as_matrix() @ AFFINE[:3, :3]
    affine[:3, 3] = 4, -30, 11
    change = ornt_transform(io_orientation(affine), axcodes2ornt(codes))
    stored = apply_orientation(ball(), change)
    path = make_scan("a.nii.gz", stored, affine @ inv_ornt_aff(change, ball().shape))
    grid = RAS if len(patch) == 3 else Grid("RAS", (1.5, 1.5, 0.0))
    labels = predictor(grid, patch)([path])
    assert labels.shape == stored.shape
    assert (labels == above_mean(stored)).mean() > 0.97


def test_scan_smaller_than_the_window_is_predicted(make_scan):
    voxels = ball((5, 6, 4))
    np.testing.assert_array_equal(predictor()([make_scan("a.nii", voxels, AFFINE)]), above_mean(voxels))


def test_windows_that_overlap_leave_no_seam(make_scan):
    voxels = ball((40, 20, 12))
    path = make_scan("a.nii", voxels, AFFINE)
    np.testing.assert_array_equal(predictor(overlap=0.75)([path]), predictor(overlap=0.0)([path]))


def test_network_of_slices_sees_slices_and_a_flat_file_is_flat(make_scan):
    network = Threshold()
    voxels = ball((18, 20, 1))[:, :, 0]
    labels = predictor(patch=(16, 16), network=network)([make_scan("a.nii", voxels, AFFINE)])
    np.testing.assert_array_equal(labels[:, :, 0], above_mean(voxels))
    assert {len(size) for size in network.sizes} == {4}


def test_one_file_a_channel_is_read_as_channels(make_scan):
    network = Threshold()
    paths = [make_scan(name, ball() * factor, AFFINE) for name, factor in (("a.nii", 1), ("b.nii", -1))]
    np.testing.assert_array_equal(predictor(network=network)(paths), above_mean(ball()))
    assert {size[1] for size in network.sizes} == {2}


@pytest.mark.parametrize("training", [True, False])
def test_network_predicts_in_evaluation_mode_and_gets_its_own_mode_back(make_scan, training):
    network = Threshold().train(training)
    predictor(network=network)([make_scan("a.nii", ball(), AFFINE)])
    assert set(network.modes) == {False}
    assert network.training is training


def test_network_gets_its_mode_back_after_an_error(make_scan):
    class Broken(Threshold):
        def forward(self, image):
            raise ZeroDivisionError

    network = Broken().train()
    with pytest.raises(ZeroDivisionError):
        predictor(network=network)([make_scan("a.nii", ball(), AFFINE)])
    assert network.training


def test_answer_that_is_not_finite_is_refused_with_the_name_of_the_scan(make_scan):
    path = make_scan("a.nii", ball(), AFFINE)
    with pytest.raises(UserError, match="not finite") as raised:
        predictor(network=Threshold(factor=float("nan")))([path])
    assert [problem.where for problem in raised.value.problems] == [str(path)]


class Leaning(torch.nn.Module):
    """Is surer of class 1 the farther along its first two axes a voxel lies."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = 0

    def forward(self, image):
        self.seen += 1
        slope = [
            torch.linspace(0, 1, side).view(-1, *[1] * (image.ndim - 3 - n)) for n, side in enumerate(image.shape[2:4])
        ]
        lean = slope[0] + 10 * slope[1]
        return torch.cat([torch.zeros_like(image), image * 0 + lean], dim=1)


@pytest.mark.parametrize(
    ("mirrors", "patch", "ranges", "images"),
    [
        ((), (16, 16, 16), (1, 10), 1),
        ((0,), (16, 16, 16), (0, 10), 2),
        ((0, 1), (16, 16, 16), (0, 0), 4),
        ((0, 1, 2), (16, 16, 16), (0, 0), 8),
        ((0, 1, 2), (16, 16), (0, 0), 4),
    ],
)
def test_mean_over_mirror_images_leans_to_no_side(make_scan, mirrors, patch, ranges, images):
    network = Leaning()
    path = make_scan("a.nii", ball((16, 16, 4)), AFFINE)
    found = predictor(patch=patch, network=network, mirrors=mirrors, windows=4)
    found.facts(1)
    network.seen = 0
    logits = found.logits([load(path)])[1]
    assert np.ptp(logits[:, 0, 0]) == pytest.approx(ranges[0], abs=1e-5)
    assert np.ptp(logits[0, :, 0]) == pytest.approx(ranges[1], abs=1e-5)
    assert logits.mean() == pytest.approx(5.5, abs=1e-4)
    assert network.seen == images


def test_prediction_is_the_same_twice(make_scan):
    path = make_scan("a.nii", ball(), AFFINE)
    np.testing.assert_array_equal(predictor(RAS)([path]), predictor(RAS)([path]))


# Evaluator


@pytest.fixture
def cases(make_scan):
    made = []
    for name, shift in (("a", 0), ("b", 3)):
        voxels = ball()
        truth = np.roll(above_mean(voxels), shift, axis=0).astype(np.uint8)
        paths = make_scan(f"{name}.nii", voxels, AFFINE), make_scan(f"{name}_label.nii", truth, AFFINE)
        made.append(Case(id=name, images=(paths[0],), label=paths[1], patient=name))
    return made


def evaluator(cases, **options):
    facts = {case.id: examine_case(case, Declared())[0] for case in cases}
    return SegmentationEvaluator(predictor(), cases, facts, {0: "background", 7: "ball"}, **options)


def test_every_case_is_scored_once_and_in_order(cases):
    engine = evaluator(cases)
    engine.run()
    assert [(result.case, result.label, result.name) for result in engine.results] == [
        ("a", 7, "ball"),
        ("b", 7, "ball"),
    ]
    first, second = (result.dice for result in engine.results)
    assert first == 1
    assert 0.3 < second < 0.9


def test_overlap_alone_measures_no_surface_and_no_calibration(cases, monkeypatch):
    whole = evaluator(cases)
    whole.run()
    monkeypatch.setattr("pipeline.metrics.case.surface_distances", lambda *_: pytest.fail("a surface was measured"))
    monkeypatch.setattr("pipeline.engines.evaluator.Expectation", lambda *_: pytest.fail("calibration was measured"))
    quick = evaluator(cases, overlap_only=True)
    quick.run()
    assert [result.dice for result in quick.results] == [result.dice for result in whole.results]
    assert {result.hd95_mm for result in quick.results} == {None}


def test_second_run_replaces_the_results_of_the_first(cases):
    engine = evaluator(cases)
    engine.run()
    first = list(engine.results)
    engine.run()
    assert engine.results == first


def test_handlers_of_ignite_and_monai_attach_to_the_evaluator(cases, capsys):
    engine = evaluator(cases)
    timer = Timer(average=True)
    timer.attach(engine, step=Events.ITERATION_COMPLETED)
    StatsHandler(name="scores", output_transform=lambda results: results[0].dice, tag_name="dice").attach(engine)
    engine.run()
    assert timer.step_count == 2
    assert "dice: 1.0000" in capsys.readouterr().out


def test_case_without_a_mask_cannot_be_scored(cases):
    with pytest.raises(ValueError, match="case a has no label"):
        evaluator([Case(id="a", images=cases[0].images, label=None, patient="a")]).run()


def test_label_of_a_case_is_its_own_value_not_its_class(cases):
    engine = evaluator(cases)
    engine.run()
    assert {result.label for result in engine.results} == {7}
