"""The losses where MONAI puts its own: trainers, deep supervision, several scales, on scans that MONAI loads."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.losses import DeepSupervisionLoss, MultiScaleLoss
from monai.losses.multi_scale import make_gaussian_kernel
from monai.networks.layers import separable_filtering
from monai.networks.nets import UNet
from monai.transforms import Compose, EnsureChannelFirstd, EnsureTyped, LoadImaged, ScaleIntensityd
from test_losses import IMAGE_LOSSES, LABEL_LOSSES, build, draw

CASES = 4


@pytest.fixture
def loaded(make_scan):
    """A function that writes scans and masks as NIfTI and returns MONAI's own loader of batches of them."""

    def load(size, meta):
        rng, files = np.random.default_rng(0), []
        for case in range(CASES):
            mask = np.zeros(size, np.uint8)
            mask[tuple(slice(2, n - 3) for n in size)] = 1
            scan = (mask + rng.normal(0, 0.2, size)).astype(np.float32)
            paths = {"image": make_scan(f"scan_{case}.nii.gz", scan), "label": make_scan(f"mask_{case}.nii.gz", mask)}
            files.append({key: str(path) for key, path in paths.items()})
        keys = ["image", "label"]
        steps = [
            LoadImaged(keys),
            EnsureChannelFirstd(keys),
            ScaleIntensityd("image"),
            EnsureTyped(keys, track_meta=meta),
        ]
        return DataLoader(Dataset(files, Compose(steps)), batch_size=2)

    return load


def image_twice(batch, device, non_blocking, **_):
    """The image is the network's input, and what an image loss compares with."""
    image = batch["image"].to(device, non_blocking=non_blocking)
    return image, image


@pytest.mark.parametrize("name", [*LABEL_LOSSES, *IMAGE_LOSSES])
@pytest.mark.parametrize("size", [(16, 24), (16, 16, 8)], ids=["2d", "3d"])
@pytest.mark.parametrize("meta", [True, False], ids=["MetaTensor", "plain"])
def test_supervised_trainer_trains_with_every_loss_on_batches_that_monai_loads(loaded, name, size, meta):
    torch.manual_seed(0)
    loader = loaded(size, meta)
    batch = next(iter(loader))
    assert {type(batch[key]) for key in ("image", "label")} == {MetaTensor if meta else torch.Tensor}
    assert batch["label"].dtype == torch.float32
    classes = 1 if name == "reconstruction" else 2
    network = UNet(len(size), 1, classes, channels=(4, 8), strides=(2,))
    before = [weight.detach().clone() for weight in network.parameters()]
    losses = []
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=3,
        train_data_loader=loader,
        network=network,
        optimizer=torch.optim.Adam(network.parameters(), 1e-2),
        loss_function=build(name),
        **({"prepare_batch": image_twice} if name in IMAGE_LOSSES else {}),
    )
    took = IterationEvents.LOSS_COMPLETED
    trainer.add_event_handler(took, lambda engine: losses.append(engine.state.output["loss"].item()))
    trainer.run()
    assert len(losses) == 3 * CASES / 2
    assert all(map(math.isfinite, losses))
    assert losses[-1] < losses[0]
    assert all(not torch.equal(*pair) for pair in zip(before, network.parameters(), strict=True))


@pytest.mark.parametrize("name", [*LABEL_LOSSES, *IMAGE_LOSSES])
@pytest.mark.parametrize("size", [(8, 12), (8, 4, 12)], ids=["2d", "3d"])
@pytest.mark.parametrize("wrap", [MetaTensor, torch.Tensor], ids=["MetaTensor", "plain"])
def test_deep_supervision_loss_weighs_levels_as_it_says(name, size, wrap):
    finest, other = draw(name, size, dtype=torch.float32)
    levels = [F.avg_pool2d(finest, k) if len(size) == 2 else F.avg_pool3d(finest, k) for k in (1, 2, 4)]
    levels = [level.requires_grad_() for level in levels]
    other, loss = other.float(), build(name)
    total = DeepSupervisionLoss(loss, weight_mode="exp")([wrap(level) for level in levels], wrap(other))
    shrunk = [F.interpolate(other, level.shape[2:], mode="nearest-exact") for level in levels]
    expected = sum(0.5**n * loss(level, target) for n, (level, target) in enumerate(zip(levels, shrunk, strict=True)))
    assert total.item() == pytest.approx(expected.item(), rel=1e-6)
    for ours, theirs in zip(torch.autograd.grad(total, levels), torch.autograd.grad(expected, levels), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", IMAGE_LOSSES)
@pytest.mark.parametrize("size", [(8, 9), (6, 5, 7)], ids=["2d", "3d"])
@pytest.mark.parametrize("wrap", [MetaTensor, torch.Tensor], ids=["MetaTensor", "plain"])
def test_multi_scale_loss_smooths_what_an_image_loss_sees(name, size, wrap):
    answer, image = draw(name, size, dtype=torch.float32)
    loss = build(name)
    total = MultiScaleLoss(loss, scales=[0, 1])(wrap(image), wrap(answer.requires_grad_()))
    kernels = [make_gaussian_kernel(1)] * len(size)
    smooth = loss(separable_filtering(answer, kernels), separable_filtering(image, kernels))
    assert total.item() == pytest.approx((loss(answer, image) + smooth).item() / 2, rel=1e-5)
    total.backward()
    assert answer.grad.abs().max() > 0


@pytest.mark.parametrize("name", LABEL_LOSSES)
@pytest.mark.parametrize("scales", [None, [0]])
def test_multi_scale_loss_without_smoothing_is_a_label_loss(name, scales):
    logits, labels = draw(name)
    total = MultiScaleLoss(build(name), scales=scales)(MetaTensor(labels.double()), MetaTensor(logits))
    assert total.item() == pytest.approx(build(name)(logits, labels).item())


@pytest.mark.parametrize("name", LABEL_LOSSES)
def test_smoothed_labels_are_refused_since_they_are_no_classes(name):
    logits, labels = draw(name)
    with pytest.raises(ValueError, match="expected whole numbers, one class index a voxel"):
        MultiScaleLoss(build(name), scales=[1])(labels.double(), logits)
