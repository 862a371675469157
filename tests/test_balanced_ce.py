from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference import balanced_ce, softmax

from pipeline.losses import BalancedCELoss

SHAPES = [(5, 4), (4, 3, 5)]


def draw(size, classes=3, batch=2, lowest=0, seed=0):
    """Random float64 logits [B, K, ...] and labels [B, ...]."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(batch, classes, *size, generator=generator, dtype=torch.float64)
    return logits, torch.randint(lowest, max(classes, 2), (batch, *size), generator=generator)


@pytest.mark.parametrize(
    ("foreground", "labels", "expected"),
    [
        # the mean of the background's mean log-loss and the foreground's
        ([0.5, 0.5, 0.5, 0.5], [0, 0, 0, 1], math.log(2)),
        ([0.5, 0.5, 0.5, 0.25], [0, 0, 0, 1], (math.log(2) + math.log(4)) / 2),
        ([0.75, 0.5, 0.5, 0.25], [0, 0, 1, 1], ((2 + 1) / 2 + (1 + 2) / 2) / 2 * math.log(2)),
        # one class only
        ([0.5, 0.75, 0.5, 0.75], [0, 0, 0, 0], 1.5 * math.log(2)),
        # three voxels are not annotated
        ([0.9, 0.9, 0.9, 0.25], [-1, -1, -1, 1], math.log(4)),
    ],
)
def test_hand_made_table(foreground, labels, expected):
    p = torch.tensor(foreground, dtype=torch.float64).view(1, 1, 2, 2)
    labels = torch.tensor(labels).view(1, 2, 2)
    assert BalancedCELoss(softmax=False)(p, labels).item() == pytest.approx(expected, abs=2e-6)
    assert BalancedCELoss()(p.logit(), labels).item() == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("classes", [1, 2, 4])
@pytest.mark.parametrize("lowest", [-1, 0])
def test_is_the_mean_over_classes_of_their_means(size, classes, lowest):
    logits, labels = draw(size, classes, lowest=lowest)
    expected = balanced_ce(softmax(logits.numpy()), labels.numpy())
    # 1e-6 in the weights keeps a class of n voxels from an equal share by 1e-6 / n
    assert BalancedCELoss()(logits, labels).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_equals_weighted_cross_entropy(size, reduction):
    logits, labels = draw(size, 4, lowest=-1)
    labels[labels == 2] = 0
    counts = torch.stack([(labels == k).sum() for k in range(4)])
    expected = F.cross_entropy(
        logits, labels, weight=1 / (counts + 1e-6).double(), ignore_index=-1, reduction=reduction
    )
    assert BalancedCELoss(reduction=reduction)(logits, labels).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("size", SHAPES)
def test_voxel_by_voxel_it_adds_up_to_the_mean(size):
    logits, labels = draw(size, lowest=-1)
    each = BalancedCELoss(reduction="none")(logits, labels[:, None])
    assert each.shape == labels.shape
    assert each[labels == -1].abs().max() == 0
    assert each[labels >= 0].min() > 0
    assert each.sum().item() == pytest.approx(BalancedCELoss()(logits, labels).item(), abs=1e-12)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("classes", [1, 3])
def test_gradient_is_that_of_the_value(reduction, classes):
    logits, labels = draw((3, 4), classes, lowest=-1)
    loss = BalancedCELoss(reduction=reduction)
    assert torch.autograd.gradcheck(lambda x: loss(x, labels), logits.requires_grad_())


def test_repeating_the_voxels_of_a_class_changes_nothing():
    logits, labels = draw((1, 6), lowest=-1)
    background = labels == 0
    more_logits = torch.cat([logits, logits], dim=2)
    more_labels = torch.cat([labels, labels.where(background, -1)], dim=1)
    expected = BalancedCELoss()(logits, labels).item()
    assert BalancedCELoss()(more_logits, more_labels).item() == pytest.approx(expected, abs=1e-6)


def test_weights_are_of_the_batch_not_of_a_case():
    logits, labels = torch.zeros(2, 2, 2, 2, dtype=torch.float64), torch.zeros(2, 2, 2, dtype=torch.long)
    labels[1] = 1
    logits[1, 1] = math.log(3)  # p = 3/4 of the foreground, which is all of case 1
    expected = (math.log(2) + math.log(4 / 3)) / 2
    assert BalancedCELoss()(logits, labels).item() == pytest.approx(expected, abs=1e-6)


def test_an_absent_class_contributes_nothing():
    logits, labels = draw((4, 4), classes=2)
    with_third = torch.cat([logits, torch.full_like(logits[:, :1], -1e4)], dim=1)
    assert BalancedCELoss()(with_third, labels).item() == pytest.approx(
        BalancedCELoss()(logits, labels).item(), abs=1e-9
    )


def test_ignored_and_negative_labels_count_nowhere():
    logits, labels = draw((4, 6))
    cropped = BalancedCELoss()(logits[..., :4], labels[..., :4])
    labels[..., 4], labels[..., 5] = 255, -100
    assert BalancedCELoss(ignore=255)(logits, labels).item() == pytest.approx(cropped.item(), abs=1e-12)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_nothing_annotated_gives_zero_with_zero_gradient(reduction):
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = BalancedCELoss(reduction=reduction)(logits, torch.full((2, 4, 4), -1))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.abs().max() == 0


@pytest.mark.parametrize(("logit", "expected"), [(1e4, 0.0), (-1e4, 1e4)])
def test_extreme_logits_give_the_exact_loss(logit, expected):
    one = torch.tensor([logit, -logit]).view(1, 1, 2, 1).requires_grad_()
    two = torch.tensor([[0.0, 0.0], [logit, -logit]]).view(1, 2, 2, 1).requires_grad_()
    for logits in (one, two):
        loss = BalancedCELoss()(logits, torch.tensor([[[1], [0]]]))
        loss.backward()
        assert loss.item() == pytest.approx(expected)
        assert torch.isfinite(logits.grad).all()
    assert one.grad[0, 0, 0, 0].item() == pytest.approx(0.0 if logit > 0 else -0.5)


def test_a_probability_of_zero_gives_a_finite_loss():
    p = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).view(1, 2, 2, 1).requires_grad_()
    loss = BalancedCELoss(softmax=False)(p, torch.tensor([[[1], [1]]]))
    loss.backward()
    assert 40 < loss.item() < 50
    assert torch.isfinite(p.grad).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_half_precision_is_computed_in_single(channels):
    logits, labels = draw((8, 8), channels)
    halved = logits.bfloat16().requires_grad_()
    with torch.autocast("cpu"):
        loss = BalancedCELoss()(halved, labels)
    loss.backward()
    assert loss.dtype == torch.float32
    expected = balanced_ce(softmax(halved.detach().double().numpy()), labels.numpy())
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_one_logit_channel_is_two_classes():
    logits, labels = draw((4, 4), classes=1)
    two = torch.cat([torch.zeros_like(logits), logits], dim=1)
    np.testing.assert_allclose(BalancedCELoss()(logits, labels), BalancedCELoss()(two, labels), atol=1e-12)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.full((1, 4, 4), 0.5), "expected whole numbers"),
        (torch.zeros(1, 2, 4, 4, dtype=torch.long), r"expected \(1, 1, 4, 4\) or \(1, 4, 4\)"),
        (torch.full((1, 4, 4), 2), "a label is 2; expected 0 to 1"),
    ],
)
def test_wrong_labels_are_refused_even_for_one_channel(labels, message):
    with pytest.raises(ValueError, match=message):
        BalancedCELoss()(torch.zeros(1, 1, 4, 4), labels)
