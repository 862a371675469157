from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from test_balanced_ce import SHAPES, draw

from pipeline.losses import CrossEntropyLoss


@pytest.mark.parametrize(
    ("foreground", "labels", "expected"),
    [
        ([0.5, 0.5, 0.5, 0.5], [0, 0, 0, 1], math.log(2)),
        ([0.5, 0.5, 0.5, 0.25], [0, 0, 0, 1], (3 * math.log(2) + math.log(4)) / 4),
        ([0.75, 0.5, 0.5, 0.5], [0, 0, 0, 0], (2 + 3) / 4 * math.log(2)),
        # three voxels are not annotated
        ([0.9, 0.9, 0.9, 0.25], [-1, -1, -1, 1], math.log(4)),
        ([0.9, 0.9, 0.9, 0.9], [-1, -1, -1, -1], 0.0),
    ],
)
def test_hand_made_table(foreground, labels, expected):
    p = torch.tensor(foreground, dtype=torch.float64).view(1, 1, 2, 2)
    labels = torch.tensor(labels).view(1, 2, 2)
    assert CrossEntropyLoss(softmax=False)(p, labels).item() == pytest.approx(expected, abs=1e-9)
    assert CrossEntropyLoss()(p.logit(), labels).item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("ignore", [-1, 2])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_equals_cross_entropy_of_pytorch_with_its_gradient(size, ignore, reduction):
    logits, labels = draw(size, 4)
    labels[0, 0] = ignore
    ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
    loss = CrossEntropyLoss(ignore=ignore, reduction=reduction)(ours, labels[:, None])
    expected = F.cross_entropy(theirs, labels, ignore_index=ignore, reduction=reduction)
    assert torch.allclose(loss, expected, rtol=0, atol=1e-12)
    loss.sum().backward()
    expected.sum().backward()
    assert torch.allclose(ours.grad, theirs.grad, rtol=0, atol=1e-12)


def test_batch_without_annotation_gives_zero_and_a_zero_gradient():
    logits = draw((5, 4))[0].requires_grad_()
    loss = CrossEntropyLoss()(logits, torch.full((2, 5, 4), -1))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


def test_extreme_logits_and_bfloat16_give_finite_losses():
    logits = torch.tensor([1e4, -1e4], dtype=torch.bfloat16).view(1, 2, 1, 1).requires_grad_()
    loss = CrossEntropyLoss()(logits, torch.tensor([[[1]]]))
    loss.backward()
    assert loss.item() == pytest.approx(2e4, rel=1e-2)
    assert loss.dtype == torch.float32
    assert torch.isfinite(logits.grad).all()


def test_label_outside_the_classes_and_an_unknown_reduction_are_refused():
    with pytest.raises(ValueError, match="a label is 5"):
        CrossEntropyLoss()(torch.zeros(1, 3, 2, 2), torch.full((1, 2, 2), 5))
    with pytest.raises(ValueError, match="reduction is 'max'"):
        CrossEntropyLoss(reduction="max")
