"""The main job on a CUDA device: the same commands, the same files, masks that agree with those of the CPU."""

import csv
import math
import time
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from runs_fixtures import make_phantom, train, with_mortal, write_recipe
from test_loaders import cases, read
from test_loaders import same as batches_are_equal
from test_networks import OPTIONS, build
from test_steps import NanAt, at, make_batch, make_step, same, weights

from pipeline import runs
from pipeline.data.augmentation import AugmentationChain, Patch, standard
from pipeline.data.loaders import StepBatches, Stream
from pipeline.data.resident import Resident
from pipeline.data.transforms import Grid
from pipeline.errors import UserError
from pipeline.losses import LOSSES
from pipeline.losses.base import levels_of
from pipeline.losses.objective import Term
from pipeline.networks import recompute_blocks, to_channels_last
from pipeline.nifti.volume import load
from pipeline.plugins import load_plugins
from pipeline.prediction.predictor import Predictor
from pipeline.prediction.stitching import Ring

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def losses_of(run):
    with (run / "history.csv").open() as stream:
        return [float(row["loss"]) for row in csv.DictReader(stream)]


@pytest.fixture
def die_at_step_5(mortal, monkeypatch):
    """Let a training that has the mortal loss end at its fifth step, once."""
    load_plugins([mortal])
    monkeypatch.setattr(LOSSES["mortal"], "calls", 0)
    monkeypatch.setenv("DIE", "raise 5")


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.usefixtures("die_at_step_5")
def test_training_stops_resumes_and_predicts_on_cuda(tmp_path, mortal, precision):
    data, changes = make_phantom(tmp_path / "data"), with_mortal(mortal)
    settings = ("device=cuda", f"precision={precision}", "data.workers=2", "max_steps=6", "checkpoint_every=3")
    with pytest.raises(LOSSES["mortal"].stop):
        train(tmp_path, data, "run", *settings, **changes)
    run = train(tmp_path, data, "run", *settings, resume=True, **changes)
    assert losses_of(run) == pytest.approx(losses_of(train(tmp_path, data, "whole", *settings, **changes)), rel=1e-2)
    assert len(losses_of(run)) == 6
    assert all(map(math.isfinite, losses_of(run)))
    (mask,) = runs.predict(run, [data / "imagesTs" / "phantom_004.nii.gz"], tmp_path / "masks")
    scan = nib.load(data / "imagesTs" / "phantom_004.nii.gz")
    assert nib.load(mask).shape == scan.shape
    np.testing.assert_array_equal(nib.load(mask).affine, scan.affine)


@pytest.mark.usefixtures("die_at_step_5")
def test_training_of_the_cpu_goes_on_on_cuda(tmp_path, mortal):
    data, changes = make_phantom(tmp_path / "data"), with_mortal(mortal) | {"max_steps": 6, "checkpoint_every": 3}
    with pytest.raises(LOSSES["mortal"].stop):
        train(tmp_path, data, "run", "device=cpu", **changes)
    recipe = runs.read_recipe(write_recipe(tmp_path, data, **changes), ["device=cuda"])
    runs.train(recipe, tmp_path / "run", resume=True, allow_change=["device"])
    assert len(losses_of(tmp_path / "run")) == 6
    assert all(map(math.isfinite, losses_of(tmp_path / "run")))


def test_scaler_of_another_precision_is_not_restored():
    step = make_step(build("unet", channels=1, classes=2).cuda())
    step.load_state_dict(step.state_dict() | {"scaler": torch.amp.GradScaler("cuda").state_dict()})
    assert step.scaler.get_scale() == 1.0


def test_scan_that_the_device_has_no_memory_for_is_put_together_on_the_host(tmp_path, monkeypatch):
    scan = sorted((make_phantom(tmp_path / "data") / "imagesTr").iterdir())[0]
    network = build("unet", channels=1, classes=2).cuda()
    predictor = Predictor(
        network=network,
        grid=Grid("RAS", (0.0, 0.0, 0.0)),
        patch_size=(16, 16, 16),
        label_values=(0, 1),
        precision=torch.float32,
    )
    expected, places, told = predictor.logits([load(scan)]), [], []

    class Short(Ring):
        def __post_init__(self):
            places.append(self.device.type)
            if self.device.type == "cuda":
                raise torch.OutOfMemoryError("no memory is left")
            super().__post_init__()

    monkeypatch.setattr("pipeline.prediction.sweep.Ring", Short)
    found = replace(predictor, tell=told.append).logits([load(scan)])
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert places == ["cuda", "cpu"]
    assert "on the host" in told[0]


def test_losses_agree_with_those_of_the_cpu():
    from pipeline.losses import BalancedCELoss, ClassMeanNCutLoss, DiceLoss, NCutLoss

    generator = torch.Generator().manual_seed(0)
    logits, image = (torch.randn(2, n, 12, 10, 8, generator=generator) for n in (3, 1))
    labels = torch.randint(-1, 3, (2, 1, 12, 10, 8), generator=generator)
    for loss, other in (
        (DiceLoss(), labels),
        (BalancedCELoss(), labels),
        (NCutLoss(radius=3), image),
        (ClassMeanNCutLoss(), image),
    ):
        expected, found = loss(logits, other), loss(logits.cuda(), other.cuda())
        torch.testing.assert_close(found.cpu(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("order", ["contiguous", "channels_last"])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("name", OPTIONS)
def test_networks_answer_and_learn_as_on_the_cpu(name, recompute, order):
    image, found = torch.randn(2, 2, 16, 16, 16, generator=torch.Generator().manual_seed(0)), []
    for device in ("cpu", "cuda"):
        network = build(name).to(device)
        if order == "channels_last" and device == "cuda":
            to_channels_last(network)
        if recompute and device == "cuda":
            recompute_blocks(network)
        levels = levels_of(network.train()(image.to(device)))
        sum(level.square().mean() for level in levels).backward()
        gradients = [p.grad.cpu() for p in network.parameters() if p.grad is not None]
        found.append([level.detach().cpu() for level in levels] + gradients)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-2, rtol=1e-2)


def test_step_never_waits_for_the_device():
    network = torch.nn.Sequential(torch.nn.Conv3d(1, 4, 3, padding="same"), torch.nn.Conv3d(4, 2, 1)).cuda()
    step = make_step(network, fused=True, precision=torch.bfloat16, averaging=0.02)
    batch = make_batch(size=(8, 8, 8))
    batch = {key: value.pin_memory() if isinstance(value, torch.Tensor) else value for key, value in batch.items()}
    for n in (1, 2):
        step(at(n), {"labelled": batch})
    torch.cuda.set_sync_debug_mode("error")
    try:
        outputs = [step(at(n), {"labelled": batch}) for n in (3, 4)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert [output.step for output in outputs] == [2, 3]
    assert step.settle()["loss"] < outputs[0]["loss"]


def test_batches_of_resident_cases_are_made_without_waiting_and_repeat():
    strengths = {"noise": 0.1, "blur": 1.0, "brightness": 0.2, "contrast": 0.2, "low_resolution": 1.0, "gamma": 0.2}
    steps = standard(flip_axes=(0, 1), rotation_degrees=20, scaling=0.1, elastic_mm=2.0, **strengths)
    augmentation, resident = AugmentationChain(steps, Patch((1.0, 1.0, 1.0))), Resident(read, "cuda")
    made = StepBatches({"labelled": Stream(cases(5), 4, 0)}, resident.get, (8, 8, 8), augmentation, 0)
    first = [made[n] for n in range(4)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        again = [made[n] for n in range(4)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for one, other in zip(first, again, strict=True):
        assert one["labelled"]["image"].is_cuda
        assert batches_are_equal(one, other)


def test_patches_of_resident_cases_are_those_of_the_cpu():
    still = AugmentationChain(standard(flip_axes=(0,), rotation_degrees=20, scaling=0.1), Patch((1.0, 1.0, 1.0)))
    streams = {"labelled": Stream(cases(5), 4, 0)}
    here, there = (StepBatches(streams, way, (8, 8, 8), still, 0) for way in (read, Resident(read, "cuda").get))
    for n in range(3):
        one, other = here[n]["labelled"], there[n]["labelled"]
        torch.testing.assert_close(other["image"].cpu(), one["image"], atol=1e-4, rtol=1e-4)
        assert (other["annotation"].cpu() != one["annotation"]).float().mean() < 0.01  # Ties of the nearest voxel.


def test_training_on_resident_scans_repeats(tmp_path):
    data, found = make_phantom(tmp_path / "data"), []
    for name in ("one", "other"):
        run = train(tmp_path, data, name, "device=cuda", "data.workers=auto")
        assert "resident: true" in (run / "config.yaml").read_text()
        found.append((run / "history.csv").read_bytes())
    assert found[0] == found[1]


def test_update_that_is_not_finite_is_left_out_on_the_device_and_told_a_step_later():
    step = make_step(
        terms=[Term(name="bad", loss=NanAt(2), on="labelled")], network=torch.nn.Conv2d(1, 2, 1).cuda(), fused=True
    )
    step(at(1), {"labelled": make_batch()})
    before = weights(step)
    step(at(2), {"labelled": make_batch()})
    assert same(before, weights(step))
    with pytest.raises(UserError, match="step 2"):
        step.settle()


def test_training_keeps_to_a_time_on_cuda(tmp_path):
    data = make_phantom(tmp_path / "data")
    start = time.monotonic()
    run = train(tmp_path, data, "run", "device=cuda", "max_steps=auto", "time_budget=45s")
    assert time.monotonic() - start < 60
    assert (run / "summary.json").exists()
