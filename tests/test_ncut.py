from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from reference import ncut, softmax

import pipeline.losses.ncut
from pipeline.losses import NCutLoss

FAR = 1e3  # a contrast that leaves no weight, for a sigma of 1


def draw(size, classes=3, batch=2, channels=1, seed=0):
    """Random float64 logits [B, K, ...] and image [B, C, ...]."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(batch, classes, *size, generator=generator, dtype=torch.float64)
    return logits, torch.randn(batch, channels, *size, generator=generator, dtype=torch.float64)


def oracle(logits, image, radius, sigma_space=None, mask=None, **options):
    """J of each case, not normalised."""
    p, inside = softmax(logits.numpy()), np.ones((len(image), *image.shape[2:]), dtype=bool)
    inside = inside if mask is None else mask.numpy().reshape(inside.shape).astype(bool)
    sigma_space = 0.8 * radius if sigma_space is None else sigma_space
    cases = zip(p, image.numpy(), inside, strict=True)
    return [ncut(*case, radius, sigma_space, **options) for case in cases]


W1 = math.exp(-1)  # neighbours, with sigma_space = 1


@pytest.mark.parametrize(
    ("foreground", "intensities", "expected"),
    [
        # two voxels alike: w = [[1, W1], [W1, 1]]; each class holds one of them
        ([0.0, 1.0], [0.0, 0.0], 2 - 2 / (1 + W1)),
        # unlike: nothing is cut
        ([0.0, 1.0], [0.0, FAR], 0.0),
        # all in one class, or evenly in both
        ([1.0, 1.0], [0.0, 0.0], 1.0),
        ([0.5, 0.5], [0.0, FAR], 1.0),
        # three in a row with reach one, the cut behind the first: D = 1 + W1 and 2 + 3 W1, N = 1 and 2 + 2 W1
        ([0.0, 1.0, 1.0], [5.0, 5.0, 5.0], 2 - 1 / (1 + W1) - (2 + 2 * W1) / (2 + 3 * W1)),
        # an intensity step of sigma adds a factor exp(-1)
        ([0.0, 1.0], [0.0, 1.0], 2 - 2 / (1 + math.exp(-2))),
    ],
)
def test_hand_made_table(foreground, intensities, expected):
    loss = NCutLoss(radius=1.5, sigma_space=1.0, sigma_intensity=1.0, softmax=False)
    p, image = (torch.tensor(v, dtype=torch.float64).view(1, 1, 1, -1) for v in (foreground, intensities))
    assert loss(p, image).item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("size", "radius"),
    [
        ((6, 7), 3),
        ((6, 7), 2.3),
        ((6, 7), 5),
        ((5, 4, 6), 2),
        ((5, 4, 6), 1.8),
        ((3, 5, 2), 9),
        ((2, 9), 5.5),
    ],
)
@pytest.mark.parametrize(("classes", "channels"), [(3, 1), (1, 2)])
@pytest.mark.parametrize("sigma", ["auto", 1.7])
def test_agrees_with_the_oracle(size, radius, classes, channels, sigma):
    logits, image = draw(size, classes, channels=channels)
    expected = oracle(logits, image, radius, sigma_intensity=None if sigma == "auto" else sigma)
    loss = NCutLoss(radius=radius, sigma_intensity=sigma, normalize=False, reduction="none")
    np.testing.assert_allclose(loss(logits, image), expected, atol=1e-9)
    single = loss(logits.float(), image.float())
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single, expected, atol=2e-6)


@pytest.mark.parametrize("size", [(6, 7), (5, 4, 6)])
@pytest.mark.parametrize("channel", [True, False])
def test_agrees_with_the_oracle_inside_a_mask(size, channel):
    logits, image = draw(size, channels=2, seed=1)
    mask = torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(1)) < 0.7
    expected = oracle(logits, image, 2.5, mask=mask)
    image[~mask.expand_as(image)] = math.nan
    loss = NCutLoss(radius=2.5, normalize=False, reduction="none")
    np.testing.assert_allclose(loss(logits, image, mask if channel else mask[:, 0].int()), expected, atol=1e-9)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("normalize", [True, False])
def test_reduction_is_over_cases(reduction, normalize):
    logits, image = draw((4, 5), batch=3)
    each = NCutLoss(reduction="none", normalize=False)(logits, image) / (2 if normalize else 1)
    loss = NCutLoss(reduction=reduction, normalize=normalize)(logits, image)
    torch.testing.assert_close(loss, each.mean() if reduction == "mean" else each.sum())


@pytest.mark.parametrize("size", [(3, 4), (3, 2, 3)])
@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_gradient_is_that_of_the_value(size, classes, masked, reduction):
    logits, image = draw(size, classes)
    mask = torch.rand(2, *size, generator=torch.Generator().manual_seed(2)) < 0.7 if masked else None
    loss = NCutLoss(radius=2.5, reduction=reduction)
    assert torch.autograd.gradcheck(lambda x: loss(x, image, mask), logits.requires_grad_())


def test_gradient_of_given_probabilities_needs_no_sum_to_one():
    logits, image = draw((3, 4))
    p = logits.sigmoid().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: NCutLoss(softmax=False)(x, image), p)


def test_the_image_gets_no_gradient():
    logits, image = draw((4, 4))
    NCutLoss()(logits.requires_grad_(), image.requires_grad_()).backward()
    assert image.grad is None
    assert logits.grad.abs().max() > 0


def test_a_mask_is_a_crop():
    logits, image = draw((5, 6, 7))
    crop = (..., slice(1, 4), slice(2, 6), slice(0, 5))
    mask = torch.zeros(2, 1, 5, 6, 7, dtype=torch.bool)
    mask[crop] = True
    outside = image.where(mask, math.nan)
    logits.requires_grad_()
    inside = NCutLoss(radius=3)(logits[crop], image[crop])
    masked = NCutLoss(radius=3)(logits, outside, mask)
    torch.testing.assert_close(masked, inside)
    expected, given = (torch.autograd.grad(loss, logits)[0] for loss in (inside, masked))
    torch.testing.assert_close(given, expected)


@pytest.mark.parametrize(("scale", "shift"), [(1000.0, 0.0), (1e-3, 0.0), (-1.0, 0.0), (1.0, 300.0)])
def test_auto_sigma_makes_scale_and_shift_immaterial(scale, shift):
    logits, image = draw((5, 6), channels=2)
    changed = image.clone()
    changed[:, 0] = changed[:, 0] * scale + shift
    torch.testing.assert_close(NCutLoss()(logits, changed), NCutLoss()(logits, image))


def test_noise_of_a_large_scan_is_that_of_a_sample(monkeypatch):
    noise = torch.randn(1, 1, 64, 50, 30, generator=torch.Generator().manual_seed(0))
    inside = torch.rand(noise.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    whole = pipeline.losses.ncut.noise_sigma(noise, inside).item()
    monkeypatch.setattr(pipeline.losses.ncut, "NOISE_VOXELS", 9000)
    sample = pipeline.losses.ncut.noise_sigma(noise, inside).item()
    assert sample != whole
    assert sample == pytest.approx(whole, rel=0.03) == pytest.approx(2.5, rel=0.03)


@pytest.mark.parametrize(("size", "spacing"), [((6, 7), (2.0, 0.7)), ((5, 4, 6), (1.0, 3.0, 0.8))])
def test_distances_are_in_mm_with_a_spacing(size, spacing):
    logits, image = draw(size)
    expected = oracle(logits, image, 2.9, 2.0, spacing=spacing)
    loss = NCutLoss(radius=2.9, sigma_space=2.0, spacing_mm=spacing, normalize=False, reduction="none")
    np.testing.assert_allclose(loss(logits, image), expected, atol=1e-9)


def test_in_mm_another_grid_of_the_same_scan_costs_about_the_same():
    grid = torch.meshgrid(*(torch.arange(-8.0, 8.0) + 0.5,) * 3, indexing="ij")
    ball = (sum(axis**2 for axis in grid) < 30).double()[None, None]
    image = ball + 0.3 * torch.randn(ball.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def cost(step, unit):
        spacing = (1.0, 1.0, float(step)) if unit == "mm" else None
        loss = NCutLoss(radius=4.0, sigma_intensity=0.75, spacing_mm=spacing, softmax=False)
        return loss(ball[..., ::step], image[..., ::step]).item()

    assert cost(2, "mm") == pytest.approx(cost(1, "mm"), rel=0.1)
    assert cost(2, "voxel") > 1.3 * cost(1, "voxel")


def test_the_seed_decides_which_offsets_are_drawn():
    logits, image = draw((8, 8, 8))
    loss, costs = NCutLoss(offsets=24), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        costs.append(loss(logits, image).item())
    assert costs[0] == costs[1] != costs[2]
    assert costs[0] == pytest.approx(NCutLoss()(logits, image).item(), abs=0.05)


@pytest.mark.parametrize("seed", range(4))
def test_24_offsets_of_125_point_where_all_do(seed):
    grid = torch.meshgrid(*(torch.arange(-10.0, 10.0) + 0.5,) * 3, indexing="ij")
    ball = (sum(axis**2 for axis in grid) < 40).float()[None, None]
    generator = torch.Generator().manual_seed(seed)
    image = ball + 0.3 * torch.randn(ball.shape, generator=generator)
    logits = 3 * torch.cat([1 - ball, ball, 0 * ball], dim=1) + torch.randn(1, 3, *ball.shape[2:], generator=generator)
    logits.requires_grad_()
    torch.manual_seed(seed)
    exact, drawn = (
        torch.autograd.grad(NCutLoss(offsets=offsets)(logits, image), logits)[0].flatten() for offsets in ("all", 24)
    )
    assert torch.cosine_similarity(exact, drawn, dim=0) >= 0.97


@pytest.mark.parametrize("contrast", [1.0, 50.0])
def test_auto_sigma_follows_the_noise_not_the_contrast(contrast):
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(1, 1, 60, 60, generator=generator, dtype=torch.float64)
    noise[..., 30:] += contrast
    sigma = pipeline.losses.ncut.noise_sigma(noise, torch.ones_like(noise, dtype=torch.bool))
    assert sigma.item() == pytest.approx(2.5, rel=0.1)


@pytest.mark.parametrize("sign", [1, -1])
def test_without_noise_sigma_is_a_hundredth_of_the_range_inside(sign):
    image = torch.full((1, 1, 8, 8), 100.0)
    image[..., 4:] = 130.0
    image[..., 7] = 0.0
    sigma = pipeline.losses.ncut.noise_sigma(sign * image, image > 0)
    assert sigma.item() == pytest.approx(0.3)


def test_a_constant_image_leaves_the_spatial_term():
    logits, image = draw((5, 6))
    flat = torch.full_like(image, 4.0)
    expected = np.mean(oracle(logits, flat, 3.0, sigma_intensity=1.0)) / 2
    assert NCutLoss(radius=3)(logits, flat).item() == pytest.approx(expected, abs=1e-9)


def test_the_order_of_classes_is_immaterial():
    logits, image = draw((5, 6), classes=4)
    torch.testing.assert_close(NCutLoss()(logits[:, [2, 0, 3, 1]], image), NCutLoss()(logits, image))


@pytest.mark.parametrize("axes", [[2], [3], [4], [2, 4], [2, 3, 4]])
def test_a_flip_of_both_is_immaterial(axes):
    logits, image = draw((4, 5, 3))
    torch.testing.assert_close(
        NCutLoss(radius=3)(logits.flip(axes), image.flip(axes)), NCutLoss(radius=3)(logits, image)
    )


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_even_and_one_class_maps_cost_one(classes):
    _, image = draw((5, 6))
    even = torch.zeros(2, classes, 5, 6)
    one = even.clone()
    one[:, 1] = 1e4
    for logits in (even, one):
        assert NCutLoss()(logits, image).item() == pytest.approx(1.0, abs=1e-6)
        assert NCutLoss(normalize=False)(logits, image).item() == pytest.approx(classes - 1, abs=1e-6)


def test_following_the_edge_costs_less_than_crossing_it():
    _, image = draw((8, 8), batch=1)
    image[..., 4:] += 20.0
    along = torch.zeros(1, 1, 8, 8)
    along[..., 4:] = 1
    costs = [NCutLoss(softmax=False)(p, image).item() for p in (along, along.transpose(2, 3))]
    assert costs[0] < 0.05 < costs[1]


@pytest.mark.parametrize("logit", [1e4, -1e4, 90.0, 100.0])
def test_extreme_logits_stay_finite(logit):
    _, image = draw((4, 5))
    for logits in (torch.full((2, 1, 4, 5), logit), torch.tensor([logit, 0.0, -logit]).view(1, 3, 1, 1)):
        logits = logits.expand(2, -1, 4, 5).clone().requires_grad_()
        loss = NCutLoss()(logits, image)
        loss.backward()
        assert loss.item() == pytest.approx(1.0, abs=1e-5)
        assert torch.isfinite(logits.grad).all()


def test_an_image_of_denormal_weights_is_exact():
    logits, image = draw((5, 6))
    sharp = image * 10  # squared differences of about 100: exp(-100) is denormal in float32
    expected = np.mean(oracle(logits, sharp, 4.0, sigma_intensity=1.0)) / 2
    loss = NCutLoss(sigma_intensity=1.0)
    assert loss(logits.float(), sharp.float()).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("autocast", [True, False])
def test_half_precision_is_computed_in_single(autocast):
    logits, image = (v.bfloat16() for v in draw((6, 7)))
    expected = np.mean(oracle(logits.double(), image.double(), 4.0)) / 2
    logits.requires_grad_()
    with torch.autocast("cpu", enabled=autocast):
        loss = NCutLoss()(logits, image)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    assert logits.grad.dtype == torch.bfloat16


def test_a_case_wholly_masked_out_is_left_out():
    logits, image = draw((4, 5))
    alone = NCutLoss()(logits[:1], image[:1])
    mask = torch.zeros(2, 4, 5)
    mask[0] = 1
    image[1] = math.nan
    loss = NCutLoss()(logits.requires_grad_(), image, mask)
    loss.backward()
    torch.testing.assert_close(loss, alone)
    assert logits.grad[1].abs().max() == 0
    assert logits.grad[0].abs().max() > 0
    assert NCutLoss(reduction="none")(logits, image, mask)[1].item() == 0


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_everything_masked_out_gives_zero_with_zero_gradient(reduction):
    logits = torch.randn(2, 3, 4, 5, requires_grad=True)
    loss = NCutLoss(reduction=reduction)(logits, torch.randn(2, 1, 4, 5), torch.zeros(2, 4, 5))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.abs().max() == 0


def test_a_radius_within_the_voxel_joins_nothing():
    # every voxel is alone: N_k = sum p^2, D_k = sum p
    logits, image = draw((4, 5), batch=1)
    p = softmax(logits.numpy())[0].reshape(3, -1)
    expected = 3 - ((p**2).sum(1) / p.sum(1)).sum()
    assert NCutLoss(radius=1, normalize=False)(logits, image).item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"radius": 0}, "radius is 0; expected a finite number above 0"),
        ({"radius": math.inf}, "radius is inf"),
        ({"sigma_space": -1.0}, "sigma_space is -1.0"),
        ({"sigma_intensity": 0.0}, "sigma_intensity is 0.0"),
        ({"spacing_mm": (1.0, 0.0)}, r"spacing_mm\[1\] is 0.0"),
        ({"offsets": 0}, "offsets is 0"),
        ({"reduction": "max"}, "reduction is 'max'"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        NCutLoss(**options)


@pytest.mark.parametrize(
    ("image", "mask", "message"),
    [
        ((2, 1, 4, 6), None, r"the image has shape \(2, 1, 4, 6\); expected \(2, C, 4, 5\)"),
        ((1, 1, 4, 5), None, r"expected \(2, C, 4, 5\)"),
        ((2, 4, 5), None, r"expected \(2, C, 4, 5\)"),
        (
            (2, 1, 4, 5),
            (2, 2, 4, 5),
            r"the mask has shape \(2, 2, 4, 5\); expected \(2, 1, 4, 5\) or \(2, 4, 5\)",
        ),
        ((2, 1, 4, 5), (4, 5), r"the mask has shape \(4, 5\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(image, mask, message):
    with pytest.raises(ValueError, match=message):
        NCutLoss()(torch.zeros(2, 3, 4, 5), torch.zeros(image), None if mask is None else torch.ones(mask))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), "data"])
def test_a_spacing_that_does_not_fit_is_refused(spacing):
    logits, image = draw((4, 5))
    with pytest.raises(ValueError, match=r"spacing_mm is .*; expected 2 numbers, one for each axis of the scan"):
        NCutLoss(spacing_mm=spacing)(logits, image)
