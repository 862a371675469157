"""Prediction plane by plane: the parts against MONAI's own, and the whole against the plain way to predict."""

import copy
import errno
import weakref
from dataclasses import replace
from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data.utils import dense_patch_slices
from monai.inferers import sliding_window_inference
from monai.inferers.utils import _get_scan_interval
from plain_prediction import plain
from torch import nn

from pipeline.data.normalization import IntensityRange
from pipeline.data.transforms import Grid, scan_transforms
from pipeline.engines.ensemble import DeepEnsemble
from pipeline.errors import UserError
from pipeline.metrics.calibration import Expectation, Reliability
from pipeline.networks import NETWORKS, recompute_blocks, to_channels_last
from pipeline.nifti.volume import load
from pipeline.prediction import deciding
from pipeline.prediction.images import network_image
from pipeline.prediction.network_facts import try_network
from pipeline.prediction.placement import place
from pipeline.prediction.postprocessing import FillHoles, KeepLargest
from pipeline.prediction.predictor import Ensemble, Predictor
from pipeline.prediction.resampling import samples
from pipeline.prediction.spool import Rows
from pipeline.prediction.stitching import Ring
from pipeline.prediction.sweep import Sweep
from pipeline.prediction.windows import importance, lay_windows

CODES = ["".join(code) for axes in permutations(("RL", "AP", "SI")) for code in product(*axes)]
SPACINGS = (0.5, 0.7, 0.9766, 1.0, 1.0005, 1.5, 2.0, 3.0, 5.0)
TARGETS = (0.0, 0.8, 1.0, 1.001, 1.5, 2.5, 5.004)


def turned(array, affine, code):
    """The same scan with its voxels stored in another order."""
    change = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(code))
    other = nib.orientations.apply_orientation(array, change)
    return other, affine @ nib.orientations.inv_ornt_aff(change, array.shape)


def draw_scan(rng, make_scan, largest=30, name="scan.nii"):
    """A scan of any shape, spacing and orientation, its intensities above 0 as in MRI."""
    shape, spacing = tuple(rng.integers(2, largest, 3)), rng.choice(SPACINGS, 3)
    voxels = (rng.gamma(2, 50, size=shape) + 5 * np.indices(shape)[0] + 1).astype(np.float32)
    kind = rng.choice(["float", "integers", "scaled"])
    voxels, affine = turned(voxels, np.diag([*spacing, 1.0]), rng.choice(CODES))
    path = make_scan(name, voxels.astype(np.int16) if kind == "integers" else voxels, affine)
    if kind == "scaled":
        image = nib.Nifti1Image(voxels.astype(np.int16), affine)
        image.header.set_slope_inter(0.5, 3)
        nib.save(image, path)
    return load(path)


def draw_grid(rng, dimensions=3):
    x, y, z = (float(length) for length in rng.choice(TARGETS, 3))
    return Grid(str(rng.choice(CODES)) if rng.random() < 0.3 else "RAS", (x, y, z if dimensions == 3 else 0.0))


# Parts


@pytest.mark.parametrize("seed", range(40))
def test_image_is_what_the_transforms_of_training_make(make_scan, seed):
    rng = np.random.default_rng(seed)
    scan, grid = draw_scan(rng, make_scan), draw_grid(rng)
    ranges = (IntensityRange(20, 200, 90.0, 40.0),) if seed % 4 == 0 else ()
    expected = scan_transforms(grid, ranges)({"image": [scan]})["image"]
    assert place(scan.header.forms, grid).shape == tuple(expected.shape[1:])
    np.testing.assert_allclose(network_image([scan], grid, ranges), expected.as_tensor(), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("voxels", [np.zeros((4, 5, 6)), np.full((4, 5, 6), 7.0), np.eye(30)[:, :, None]])
def test_scans_without_contrast_and_masks_are_normalised_as_in_training(make_scan, voxels):
    scan, grid = load(make_scan("a.nii", voxels.astype(np.float32))), Grid("RAS", (0.0, 0.0, 0.0))
    expected = scan_transforms(grid)({"image": [scan]})["image"].as_tensor()
    np.testing.assert_allclose(network_image([scan], grid), expected, atol=1e-6)


def test_samples_beyond_the_last_voxel_are_that_voxel():
    found = samples(6, 0.5, 2)
    np.testing.assert_array_equal(found.low + found.weight, [0, 0.5, 1, 1, 1, 1])
    backwards = samples(6, 0.5, 2, backwards=True)
    np.testing.assert_array_equal(backwards.low + backwards.weight, [1, 1, 1, 1, 0.5, 0])


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.7, 0.99])
@pytest.mark.parametrize("shape", [(30, 16, 9), (16, 16, 16), (5, 40, 17), (31, 33, 50)])
def test_windows_lie_where_monai_lays_them(shape, overlap):
    for patch in ((16, 16, 16), (10, 12, 7)):
        windows = lay_windows(shape, patch, overlap)
        padded = tuple(map(max, shape, patch))
        interval = _get_scan_interval(padded, patch, 3, (overlap,) * 3)
        expected = [tuple(part.start for part in parts) for parts in dense_patch_slices(padded, patch, interval)]
        assert sorted(windows.places()) == sorted(expected)
        along = [place[windows.slab] for place in windows.places()]
        assert along == sorted(along)


@pytest.mark.parametrize("slab", [0, 1, 2])
@pytest.mark.parametrize("shape", [(20, 23, 11), (5, 30, 9)])
def test_stitching_is_monais_sliding_window(shape, slab):
    torch.manual_seed(0)
    network, image = nn.Conv3d(2, 3, 3, padding=1), torch.randn(2, *shape)
    windows = lay_windows(shape, (12, 8, 10), 0.5, slab)
    ring, planes = Ring(windows, 3, 3, torch.device("cpu")), []
    with torch.no_grad():
        expected = sliding_window_inference(image[None], windows.patch, 4, network, overlap=0.5, mode="gaussian")[0]
        for place_ in windows.places():
            planes += ring.finished(place_[slab])
            ring.add(place_, network(windows.cut(image, [place_]))[0])
        planes += ring.finished(windows.padded[slab])
    assert len(ring._sums) == windows.patch[slab] < max(shape)
    torch.testing.assert_close(torch.stack(planes, slab + 1), expected, rtol=1e-5, atol=1e-5)


def test_slab_axis_is_the_one_of_which_a_window_is_the_smallest_part():
    assert lay_windows((30, 40, 90), (16, 16, 16), 0.5).slab == 2
    assert lay_windows((30, 40, 90), (16, 4, 32), 0.5).slab == 1
    assert lay_windows((30, 40, 9), (16, 16), 0.5).slab == 2
    assert importance(lay_windows((30, 40, 9), (16, 16), 0.5), 2).shape == (16, 16, 1)


# Heads


def small(name, dimensions, classes, channels=1):
    options = {
        "dynunet": {"channels": (4, 4, 8)},
        "unet": {"channels": (4, 8)},
        "segresnet": {"init_filters": 8, "blocks_down": (1, 1), "blocks_up": (1,)},
        "resenc": {"channels": (4, 4, 8), "blocks": (1,)},
        "wnet": {"channels": (4, 4, 8)},
    }[name]
    return NETWORKS[name](dimensions, channels, classes, **options).eval()


@pytest.mark.parametrize(
    ("name", "features"), [("dynunet", 4), ("resenc", 4), ("segresnet", 8), ("wnet", 4), ("unet", 9)]
)
@pytest.mark.parametrize("dimensions", [2, 3])
def test_last_layer_is_found_where_there_is_one(name, features, dimensions):
    with torch.no_grad():
        trial = try_network(small(name, dimensions, 9), 1, (16,) * dimensions, 9)
        assert trial.features == features
        assert (trial.head is not None) == (name != "unet")
        assert trial.voxel_bytes > 4 * features
        few = try_network(small(name, dimensions, 2), 1, (16,) * dimensions, 2)
        assert (few.head, few.features) == (None, 2), "classes are fewer than features"


class Body(nn.Module):
    """A network of a plugin, with something after its last layer."""

    def __init__(self, after=lambda answer: answer, twice=False):
        super().__init__()
        self.body, self.last, self.after, self.twice = nn.Conv3d(1, 2, 3, padding=1), nn.Conv3d(2, 5, 1), after, twice

    def forward(self, image):
        features = self.body(image)
        return self.after(self.last(features) if not self.twice else self.last(self.last(features)[:, :2]))


@pytest.mark.parametrize(
    ("network", "found"),
    [
        (Body(), True),
        (Body(lambda answer: answer.contiguous()), True),
        (Body(lambda answer: answer.mul_(2)), False),
        (Body(lambda answer: answer * 2), False),
        (Body(lambda answer: answer.softmax(1)), False),
        (Body(twice=True), False),
        (DeepEnsemble([Body(), Body()]), False),
    ],
    ids=["plain", "same", "in place", "scaled", "softmax", "twice", "members"],
)
def test_last_layer_counts_only_where_nothing_comes_after_it(network, found):
    with torch.no_grad():
        assert (try_network(network.eval(), 1, (16, 16, 16), 5).head is not None) == found


def test_a_network_that_is_one_convolution_has_no_last_layer_to_take_away():
    network = nn.Conv3d(2, 5, 1).eval()
    with torch.no_grad():
        trial = try_network(network, 2, (16, 16, 16), 5)
    assert (trial.head, trial.features) == (None, 5)
    assert dict(network.named_children()) == {}


# The whole


def draw_predictor(rng, largest_class=12):
    dimensions = int(rng.choice([2, 3, 3]))
    classes = int(rng.choice([2, 3, largest_class]))
    name = str(rng.choice(["dynunet", "unet", "segresnet", "resenc", "wnet", "members", "recomputed", "channels last"]))
    torch.manual_seed(int(rng.integers(1 << 30)))
    if name == "members":
        network = DeepEnsemble([small("segresnet", dimensions, classes) for _ in range(2)]).eval()
    else:
        network = small({"recomputed": "dynunet", "channels last": "dynunet"}.get(name, name), dimensions, classes)
    if name == "recomputed":
        recompute_blocks(network)
    if name == "channels last":
        to_channels_last(network)
    patch = ((16, 16, 16), (24, 16, 12), (12, 32, 16))[rng.integers(3)][:dimensions]
    mirrors = tuple(range(dimensions))[: int(rng.integers(0, 3))]
    values = tuple(range(classes)) if rng.random() < 0.7 else (0, *(n * 37 + 5 for n in range(classes - 1)))
    return Predictor(
        network=network,
        grid=draw_grid(rng, dimensions),
        patch_size=patch,
        label_values=values,
        precision=torch.float32,
        mirrors=mirrors,
    )


def draw_segmenter(rng):
    first = draw_predictor(rng)
    if rng.random() < 0.75:
        return first
    network = copy.deepcopy(first.network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    grid = Grid(first.grid.orientation, tuple(1.3 * mm for mm in first.grid.spacing_mm))
    other = replace(first, network=network, grid=grid)
    steps = (FillHoles(first.label_values[1]), KeepLargest(first.label_values[1]))
    return Ensemble((first, other), steps if rng.random() < 0.5 else ())


def compare(rng, make_scan, largest):
    """Predict both ways; return the voxels, and the margins of those that differ."""
    scan, segmenter = draw_scan(rng, make_scan, largest), draw_segmenter(rng)
    truth = rng.choice(segmenter.label_values, size=scan.shape)
    ours, theirs = Reliability(), Reliability()
    expectation = Expectation(label_values=segmenter.label_values, reliability=ours, truth=truth)
    labels, expected = segmenter.segment([scan], expectation), plain(segmenter).segment([scan])
    assert labels.dtype == expected.labels.dtype
    same = Expectation(label_values=segmenter.label_values, reliability=theirs, truth=truth)
    p = torch.from_numpy(expected.logits).flatten(1).softmax(0).numpy()
    same.add(same.shares(p), expected.labels.reshape(-1), truth.reshape(-1))
    differ = labels != expected.labels
    if not differ.any():  # Else masks differ, and what is expected of them.
        assert expectation.dice() == pytest.approx(same.dice(), abs=1e-4)
        assert ours.ece == pytest.approx(theirs.ece, abs=1e-3)
    ordered = np.sort(expected.logits, axis=0)
    scale = np.abs(expected.logits).max() + 1
    return (
        differ,
        (ordered[-1] - ordered[-2])[differ] / scale,
        isinstance(segmenter, Ensemble) and segmenter.postprocessing,
    )


@pytest.mark.parametrize("seed", range(24))
def test_labels_are_those_of_the_plain_way(make_scan, seed):
    differ, margins, mended = compare(np.random.default_rng(seed), make_scan, 20)
    assert differ.mean() <= 1e-3
    assert mended or (margins < 1e-5).all()


@pytest.mark.slow
def test_labels_are_those_of_the_plain_way_on_many_scans(make_scan):
    voxels = different = 0
    for seed in range(1000, 1240):
        differ, margins, mended = compare(np.random.default_rng(seed), make_scan, 44)
        voxels, different = voxels + differ.size, different + int(differ.sum())
        assert mended or (margins < 1e-5).all(), seed
    print(f"\n{different} of {voxels} voxels differ")
    assert different <= 1e-5 * voxels


class Pointwise(nn.Module):
    """Answers each voxel alone, so that its own bits do not depend on what else it is asked."""

    def __init__(self, classes=7):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.slopes = nn.Parameter(torch.randn(classes, generator=generator))
        self.bows = nn.Parameter(torch.randn(classes, generator=generator))

    def forward(self, image):
        shape = (1, -1, *[1] * (image.ndim - 2))
        one = image[:, :1]
        return self.slopes.view(shape) * one + self.bows.view(shape) * one * one


@pytest.mark.parametrize("patch", [(16, 12, 16), (16, 12)])
def test_windows_together_and_blocks_of_voxels_change_no_bit(make_scan, monkeypatch, patch):
    rng = np.random.default_rng(3)
    scan = draw_scan(rng, make_scan, 40)
    predictor = Predictor(
        network=Pointwise(),
        grid=Grid("RAS", (1.3, 0.9, 1.1)),
        patch_size=patch,
        label_values=tuple(range(7)),
        precision=torch.float32,
        mirrors=(0, 1),
    )
    expected = replace(predictor, windows=1).logits([scan])
    labels = predictor.segment([scan])
    for windows in (2, 3, 7, 100):
        np.testing.assert_array_equal(replace(predictor, windows=windows).logits([scan]), expected)
    for numbers in (7, 1000, 1 << 26):
        monkeypatch.setattr(deciding, "BLOCK", numbers)
        np.testing.assert_array_equal(predictor.segment([scan]), labels)


@pytest.mark.parametrize("patch", [(16, 12, 16), (16, 12)])
def test_slab_axis_changes_no_label(make_scan, patch):
    scan = draw_scan(np.random.default_rng(5), make_scan, 40)
    values = tuple(range(7))
    predictor = Predictor(
        network=Pointwise(),
        grid=Grid("RAS", (1.3, 0.9, 1.1)),
        patch_size=patch,
        label_values=values,
        precision=torch.float32,
        mirrors=(1,),
    )
    sweeps = [predictor.sweep([scan], slab=slab) for slab in range(3)]
    assert [sweep.slab for sweep in sweeps] == [0, 1, 2]
    first, *others = (deciding.decide([sweep]) for sweep in sweeps)
    for other in others:
        np.testing.assert_array_equal(other, first)


@pytest.mark.parametrize("code", CODES[::7])
def test_a_scan_stored_in_another_order_is_predicted_to_the_bit(make_scan, code):
    rng = np.random.default_rng(8)
    voxels = rng.gamma(2, 50, size=(14, 19, 11)).astype(np.float32)
    affine = np.diag([1.2, 0.8, 2.0, 1.0])
    values = tuple(range(7))
    for patch in ((8, 12, 8), (8, 12)):
        predictor = Predictor(
            network=Pointwise(),
            grid=Grid("RAS", (1.0, 1.1, 0.0)),
            patch_size=patch,
            label_values=values,
            precision=torch.float32,
            mirrors=(0,),
        )
        expected, _ = turned(predictor([make_scan("a.nii", voxels, affine)]), affine, code)
        np.testing.assert_array_equal(predictor([make_scan("b.nii", *turned(voxels, affine, code))]), expected)


# Air


def air_around(make_scan, air, shape=(45, 40, 37)):
    """A scan that is one value outside a box of noise, as many windows are then."""
    voxels = np.full(shape, air, np.float32)
    voxels[20:31, 22:33, 20:34] = np.random.default_rng(0).gamma(2, 50, size=(11, 11, 14))
    return load(make_scan("scan.nii", voxels, np.eye(4)))


@pytest.mark.parametrize(
    ("name", "patch", "scale"),
    [
        ("dynunet", (16, 16, 16), None),
        ("wnet", (16, 16), None),
        ("unet", (16, 16, 16), IntensityRange(low=-50, high=150, mean=40, std=30)),
    ],
)
def test_windows_of_air_go_through_the_network_once_and_change_no_label(make_scan, name, patch, scale):
    predictor = Predictor(
        network=small(name, len(patch), 5),
        grid=Grid("RAS", (0.0, 0.0, 0.0)),
        patch_size=patch,
        label_values=tuple(range(5)),
        precision=torch.float32,
        mirrors=(0,),
        ranges=() if scale is None else (scale,),
    )
    scan = air_around(make_scan, 0 if scale is None else -1000)
    places = len(predictor.sweep([scan]).windows)
    expected = plain(predictor).segment([scan])
    seen = []
    predictor.network.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    predictor.facts(1)
    seen.clear()
    labels = predictor.segment([scan])
    assert sum(seen) < 0.7 * 2 * places
    np.testing.assert_allclose(predictor.logits([scan]), expected.logits, atol=1e-5 * np.abs(expected.logits).max())
    differ = labels != expected.labels
    ordered = np.sort(expected.logits, axis=0)
    assert ((ordered[-1] - ordered[-2])[differ] < 1e-5).all()


@pytest.mark.parametrize("windows", [1, 2, 3, 7])
def test_another_constant_than_air_is_asked_about_too(make_scan, windows):
    voxels = np.zeros((40, 24, 24), np.float32)
    voxels[16:] = 7
    voxels[5, 5, 5] = 900
    scan = load(make_scan("scan.nii", voxels, np.eye(4)))
    predictor = Predictor(
        network=Hungry(99, None),
        grid=Grid("RAS", (0.0, 0.0, 0.0)),
        patch_size=(8, 8, 8),
        label_values=tuple(range(7)),
        precision=torch.float32,
        windows=windows,
    )
    found = predictor.logits([scan])
    image = network_image([scan], predictor.grid)
    expected = predictor.network(image[None])[0].detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


# Memory


class Hungry(Pointwise):
    """Has no memory for more than some windows at a time."""

    def __init__(self, most, error):
        super().__init__()
        self.most, self.error, self.calls = most, error, []

    def forward(self, image):
        self.calls.append(len(image))
        if len(image) > self.most:
            raise self.error
        return super().forward(image)


NO_MEMORY = [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: no")]


@pytest.mark.parametrize("error", NO_MEMORY, ids=["python", "cuda", "cpu"])
def test_windows_are_halved_where_memory_runs_out_and_it_is_said(make_scan, error):
    scan = load(make_scan("scan.nii", np.random.default_rng(3).gamma(2, 50, (40, 38, 36)).astype(np.float32)))
    told = []
    predictor = Predictor(
        network=Pointwise(),
        grid=Grid("RAS", (1.3, 0.9, 1.1)),
        patch_size=(8, 12, 16),
        label_values=tuple(range(7)),
        precision=torch.float32,
    )
    hungry = replace(predictor, network=Hungry(2, error), windows=8, tell=told.append)
    np.testing.assert_array_equal(hungry.segment([scan]), predictor.segment([scan]))
    assert hungry.network.calls.count(8) == 1
    assert hungry.network.calls.count(4) == 1
    assert told == [f"memory ran out; from now on {n} window(s) at a time" for n in (4, 2)]
    with pytest.raises(type(error)):
        replace(hungry, network=Hungry(0, error)).segment([scan])
    other = replace(hungry, network=Hungry(2, RuntimeError("shapes differ")))
    with pytest.raises(RuntimeError, match="shapes differ"):
        other.segment([scan])


def test_slab_goes_to_the_host_where_a_device_has_no_memory_for_one_window(make_scan, monkeypatch):
    scan, told, moved = draw_scan(np.random.default_rng(3), make_scan, 30), [], []
    network = Hungry(9, MemoryError())
    predictor = Predictor(
        network=network,
        grid=Grid("RAS", (0.0, 0.0, 0.0)),
        patch_size=(8, 8, 8),
        label_values=tuple(range(7)),
        precision=torch.float32,
    )
    expected = predictor.segment([scan])
    network.most = 0
    move = Ring.move

    def moving(ring, device):
        moved.append(device.type)
        network.most = 9
        move(ring, device)

    monkeypatch.setattr(Ring, "move", moving)
    # As if the ring lay on another device than the host's.
    monkeypatch.setattr("pipeline.prediction.sweep.HOST", torch.device("cpu", 0))
    found = replace(predictor, windows=1, tell=told.append).segment([scan])
    np.testing.assert_array_equal(found, expected)
    assert (moved, len(told)) == (["cpu"], 1)
    assert "on the host" in told[0]


def test_windows_together_are_as_many_as_there_is_memory_for(make_scan, monkeypatch):
    scan = draw_scan(np.random.default_rng(3), make_scan, 40)
    predictor = Predictor(
        network=Pointwise(),
        grid=Grid("RAS", (0.0, 0.0, 0.0)),
        patch_size=(8, 8, 8),
        label_values=tuple(range(7)),
        precision=torch.float32,
    )
    sweep = predictor.sweep([scan])
    where = (sweep.placement, sweep.windows, 1)
    one = replace(predictor, windows=1).footprint(scan.header.forms, 1).windows
    for free, together in ((1, 1), (4 * one, 2), (7 * one, 3), (1 << 60, 4)):
        monkeypatch.setattr("pipeline.prediction.predictor.free_bytes", lambda _, free=free: free)
        assert predictor.together(*where) == together


class Outputs(list):
    """A list that can be watched."""


@pytest.mark.parametrize(("patch", "most"), [((8, 8, 8), 0), ((20, 22), 6)])
def test_folds_hold_no_outputs_while_others_predict(make_scan, monkeypatch, patch, most):
    scan = load(make_scan("scan.nii", np.random.default_rng(7).gamma(2, 50, (20, 22, 30)).astype(np.float32)))
    watched, counts, tried = [], [], Sweep._tried

    def watching(sweep, *arguments, **options):
        counts.append(sum(len(outputs) for ref in watched if (outputs := ref()) is not None))
        outputs = Outputs(tried(sweep, *arguments, **options))
        watched.append(weakref.ref(outputs))
        return outputs

    monkeypatch.setattr(Sweep, "_tried", watching)
    one = Predictor(
        network=Pointwise(),
        grid=Grid("RAS", (0.0, 0.0, 0.0)),
        patch_size=patch,
        label_values=tuple(range(7)),
        precision=torch.float32,
        windows=3,
    )
    Ensemble((one, replace(one, network=Pointwise()), replace(one, network=Pointwise()))).segment([scan])
    # Three slices that go together are three planes: each of the two other networks may hold those of a call.
    assert max(counts) == most


def test_members_share_one_image_and_each_file_is_read_once(make_scan, monkeypatch):
    made = []
    monkeypatch.setattr(
        "pipeline.prediction.images.network_image", lambda *way: made.append(way) or network_image(*way)
    )
    scan = draw_scan(np.random.default_rng(3), make_scan, 20)
    one = Predictor(
        network=Pointwise(),
        grid=Grid("RAS", (1.0, 1.0, 1.0)),
        patch_size=(8, 8, 8),
        label_values=tuple(range(7)),
        precision=torch.float32,
    )
    Ensemble((one, one, replace(one, grid=Grid("RAS", (2.0, 1.0, 1.0))))).segment([scan])
    assert len(made) == 2


def test_answer_that_is_infinite_anywhere_is_refused(make_scan):
    class Endless(Pointwise):
        def forward(self, image):
            answer = super().forward(image).clone()
            answer[:, 3, 4, 4, 4] = -torch.inf  # A class that is nowhere the likeliest.
            return answer

    scan = draw_scan(np.random.default_rng(3), make_scan, 20)
    predictor = Predictor(
        network=Endless(),
        grid=Grid("RAS", (0.0, 0.0, 0.0)),
        patch_size=(8, 8, 8),
        label_values=tuple(range(7)),
        precision=torch.float32,
    )
    for segmenter in (predictor, Ensemble((predictor, predictor))):
        with pytest.raises(UserError, match="not finite"):
            segmenter.segment([scan])


class OfOneSize(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv3d(1, 2, 1)

    def forward(self, image):
        assert image.shape[-1] == 64, "takes 64 voxels"
        return self.layer(image)


def test_a_network_that_asserts_its_size_is_tried_with_the_whole_patch():
    with torch.no_grad():
        assert try_network(OfOneSize().eval(), 1, (64, 64, 64), 2).features == 1


def test_a_full_disk_of_temporary_files_is_told_as_such(monkeypatch):
    rows = Rows(2)
    rows._file.close()
    monkeypatch.setattr(rows, "_file", FullFile())
    with pytest.raises(UserError, match=r"probabilities: needs (.|\n)*No space left on device"):
        rows.add(np.zeros((2, 5), np.float32), (0, 0, slice(0, 5)))


class FullFile:
    def write(self, _):
        raise OSError(errno.ENOSPC, "No space left on device")
