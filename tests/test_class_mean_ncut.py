from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from reference import class_mean_ncut, softmax

from pipeline.losses import ClassMeanNCutLoss


def draw(size, classes=3, batch=2, channels=1, seed=0):
    """Random float64 logits [B, K, ...] and image [B, C, ...]."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(batch, classes, *size, generator=generator, dtype=torch.float64)
    return logits, torch.randn(batch, channels, *size, generator=generator, dtype=torch.float64)


G1 = math.exp(-1 / 2)  # neighbours, with sigma_1 = 1


@pytest.mark.parametrize(
    ("foreground", "intensities", "spatial", "expected"),
    [
        # without a kernel a hard labelling costs nothing, be it right or wrong
        ([0.0, 1.0, 1.0], [0.0, 9.0, 9.0], False, 0.0),
        ([1.0, 0.0, 1.0], [0.0, 9.0, 9.0], False, 0.0),
        # an even map costs 1, a class that is nowhere has ratio 0
        ([0.5, 0.5, 0.5], [0.0, 0.0, 0.0], False, 1.0),
        ([1.0, 1.0, 1.0], [0.0, 0.0, 0.0], True, 1.0),
        # a constant image makes every weight 1: N = 1, D = 1 + G1 for each class
        ([0.0, 1.0], [0.0, 0.0], True, 2 - 2 / (1 + G1)),
        # each class's mean is its own voxel, 3 apart: d = 9, w = exp(-81 / 81)
        ([0.0, 1.0], [0.0, 3.0], True, 2 - 2 / (1 + G1 * math.exp(-1))),
    ],
)
def test_hand_made_table(foreground, intensities, spatial, expected):
    loss = ClassMeanNCutLoss(radius=1, sigma_1=1.0, sigma_2=9.0, spatial=spatial, softmax=False)
    p, image = (torch.tensor(v, dtype=torch.float64).view(1, 1, 1, -1) for v in (foreground, intensities))
    # the constants 1e-5 and 1e-6 of the formula show in the fifth digit
    assert loss(p, image).item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("size", "radius"), [((6, 5), 2), ((4, 3, 5), 2), ((2, 6), 5)])
@pytest.mark.parametrize(("classes", "channels"), [(3, 1), (1, 2)])
@pytest.mark.parametrize("spatial", [True, False])
@pytest.mark.parametrize("batch", [True, False])
def test_agrees_with_the_oracle(size, radius, classes, channels, spatial, batch):
    logits, image = draw(size, classes, channels=channels)
    expected = class_mean_ncut(softmax(logits.numpy()), image.numpy(), radius, 1.5, 2.0, spatial, batch)
    options = {"radius": radius, "sigma_1": 1.5, "sigma_2": 2.0, "spatial": spatial, "batch": batch}
    loss = ClassMeanNCutLoss(**options, reduction="none")
    np.testing.assert_allclose(loss(logits, image), expected, atol=1e-9)
    np.testing.assert_allclose(loss(logits.float(), image.float()), expected, atol=2e-6)


def test_defaults_are_those_of_the_formula():
    logits, image = draw((7, 6))
    expected = np.mean(class_mean_ncut(softmax(logits.numpy()), image.numpy(), 5, 4.0, 10.0, True))
    assert ClassMeanNCutLoss()(logits, image).item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_reduction_is_over_cases(batch, reduction):
    logits, image = draw((4, 5), batch=3)
    each = ClassMeanNCutLoss(batch=batch, reduction="none")(logits, image)
    assert each.shape == ((1,) if batch else (3,))
    loss = ClassMeanNCutLoss(batch=batch, reduction=reduction)(logits, image)
    torch.testing.assert_close(loss, each.mean() if reduction == "mean" else each.sum())


@pytest.mark.parametrize("options", [{}, {"spatial": False}, {"batch": True}])
@pytest.mark.parametrize(("size", "classes", "masked"), [((3, 4), 1, False), ((3, 2, 3), 3, True)])
def test_gradient_is_that_of_the_value(options, size, classes, masked):
    logits, image = draw(size, classes)
    mask = torch.rand(2, *size, generator=torch.Generator().manual_seed(2)) < 0.7 if masked else None
    loss = ClassMeanNCutLoss(radius=2, sigma_1=1.5, sigma_2=2.0, **options)
    assert torch.autograd.gradcheck(lambda x: loss(x, image, mask), logits.requires_grad_())


@pytest.mark.parametrize("spatial", [True, False])
def test_a_mask_is_a_crop(spatial):
    logits, image = draw((5, 6, 7), channels=2)
    crop = (..., slice(1, 4), slice(2, 6), slice(0, 5))
    mask = torch.zeros(2, 1, 5, 6, 7, dtype=torch.bool)
    mask[crop] = True
    loss = ClassMeanNCutLoss(radius=2, sigma_2=2.0, spatial=spatial)
    logits.requires_grad_()
    inside, masked = loss(logits[crop], image[crop]), loss(logits, image.where(mask, math.nan), mask)
    torch.testing.assert_close(masked, inside)
    expected, given = (torch.autograd.grad(value, logits)[0] for value in (inside, masked))
    torch.testing.assert_close(given, expected)


@pytest.mark.parametrize("batch", [True, False])
def test_a_case_wholly_masked_out_is_left_out(batch):
    logits, image = draw((4, 5))
    alone = ClassMeanNCutLoss(batch=batch)(logits[:1], image[:1])
    mask = torch.zeros(2, 4, 5)
    mask[0] = 1
    loss = ClassMeanNCutLoss(batch=batch)(logits.requires_grad_(), image, mask)
    loss.backward()
    torch.testing.assert_close(loss, alone)
    assert logits.grad[1].abs().max() == 0


@pytest.mark.parametrize("batch", [True, False])
def test_everything_masked_out_gives_zero_with_zero_gradient(batch):
    logits = torch.randn(2, 3, 4, 5, requires_grad=True)
    with torch.autograd.set_detect_anomaly(True):  # no NaN on the way either
        loss = ClassMeanNCutLoss(batch=batch)(logits, torch.randn(2, 1, 4, 5), torch.zeros(2, 4, 5))
        loss.backward()
    assert loss.item() == 0
    assert logits.grad.abs().max() == 0


def test_the_order_of_classes_and_a_flip_of_both_are_immaterial():
    logits, image = draw((4, 5, 3), classes=4)
    loss = ClassMeanNCutLoss(radius=2, sigma_2=2.0)
    expected = loss(logits, image)
    torch.testing.assert_close(loss(logits[:, [2, 0, 3, 1]], image), expected)
    torch.testing.assert_close(loss(logits.flip([2, 4]), image.flip([2, 4])), expected)


def test_the_image_gets_no_gradient():
    logits, image = draw((4, 4))
    ClassMeanNCutLoss()(logits.requires_grad_(), image.requires_grad_()).backward()
    assert image.grad is None
    assert logits.grad.abs().max() > 0


@pytest.mark.parametrize("logit", [1e4, -1e4])
@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_extreme_logits_and_intensities_stay_finite(logit, scale):
    _, image = draw((4, 5))
    logits = torch.full((2, 1, 4, 5), logit, requires_grad=True)
    loss = ClassMeanNCutLoss()(logits, scale * image.float())
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("autocast", [True, False])
def test_half_precision_is_computed_in_single(autocast):
    logits, image = (v.bfloat16() for v in draw((6, 7)))
    expected = class_mean_ncut(softmax(logits.double().numpy()), image.double().numpy(), 2, 4.0, 1.0, True)
    logits.requires_grad_()
    with torch.autocast("cpu", enabled=autocast):
        loss = ClassMeanNCutLoss(radius=2, sigma_2=1.0)(logits, image)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(np.mean(expected), abs=1e-6)
    assert logits.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("option", ["radius", "sigma_1", "sigma_2"])
def test_wrong_options_are_refused(option):
    with pytest.raises(ValueError, match=f"{option} is 0; expected a finite number above 0"):
        ClassMeanNCutLoss(**{option: 0})


def test_an_image_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"the image has shape \(2, 1, 4\); expected \(2, C, 4, 5\)"):
        ClassMeanNCutLoss()(torch.zeros(2, 3, 4, 5), torch.zeros(2, 1, 4))
