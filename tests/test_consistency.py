"""Consistency with a teacher and entropy, beside the same in NumPy."""

import math

import numpy as np
import pytest
import torch

from pipeline.losses import ConsistencyLoss, EntropyLoss

SIZES = [(5, 4), (4, 5, 3)]


def drawn(size, classes=3, cases=2):
    generator = torch.Generator().manual_seed(sum(size) + classes)
    logits, teacher = (torch.randn(cases, classes, *size, generator=generator, dtype=torch.double) for _ in range(2))
    return logits, teacher, torch.rand(cases, 1, *size, generator=generator) < 0.7


def softmax(logits):
    wide = np.exp(logits - logits.max(axis=1, keepdims=True))
    return wide / wide.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("size", SIZES)
def test_consistency_is_the_mean_squared_difference_inside_the_mask(size):
    logits, teacher, mask = drawn(size)
    p, q = softmax(logits.numpy()), softmax(teacher.numpy())
    cases = [((p[n] - q[n]) ** 2)[:, mask[n, 0].numpy()].mean() for n in range(2)]
    found = ConsistencyLoss(reduction="none")(logits, teacher, mask)
    assert found.tolist() == pytest.approx(cases)
    assert float(ConsistencyLoss()(logits, teacher, mask)) == pytest.approx(np.mean(cases))
    assert float(ConsistencyLoss()(logits, teacher)) == pytest.approx(((p - q) ** 2).mean())
    assert float(ConsistencyLoss()(logits, logits, mask)) == 0


@pytest.mark.parametrize("size", SIZES)
def test_entropy_is_the_mean_entropy_inside_the_mask_as_a_share_of_the_largest(size):
    logits, _, mask = drawn(size)
    p = softmax(logits.numpy())
    voxels = -(p * np.log(p)).sum(axis=1) / math.log(3)
    cases = [voxels[n][mask[n, 0].numpy()].mean() for n in range(2)]
    assert EntropyLoss(reduction="none")(logits, mask).tolist() == pytest.approx(cases)
    assert float(EntropyLoss()(logits)) == pytest.approx(voxels.mean())
    assert float(EntropyLoss()(logits * 1e4, mask)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("loss", [ConsistencyLoss(), EntropyLoss()])
def test_nothing_inside_gives_0_with_a_zero_gradient_and_a_nan_outside_counts_nowhere(loss):
    logits, teacher, mask = drawn((5, 4))
    others = (teacher,) if isinstance(loss, ConsistencyLoss) else ()
    logits.requires_grad_()
    value = loss(logits, *others, torch.zeros_like(mask))
    value.backward()
    assert (float(value.detach()), float(logits.grad.abs().sum())) == (0, 0)
    broken = logits.detach().masked_fill(~mask, torch.nan).requires_grad_()
    value = loss(broken, *others, mask)
    assert float(value.detach()) == pytest.approx(float(loss(logits.detach(), *others, mask)))
    assert loss(logits.detach().masked_fill(mask, torch.nan), *others, mask).isnan()


def test_the_teacher_gets_no_gradient_and_the_gradients_are_right():
    logits, teacher, mask = drawn((3, 2))
    logits.requires_grad_()
    teacher.requires_grad_()
    ConsistencyLoss()(logits, teacher, mask).backward()
    assert teacher.grad is None
    fixed = teacher.detach()
    assert torch.autograd.gradcheck(lambda x: ConsistencyLoss()(x, fixed, mask), logits)
    assert torch.autograd.gradcheck(lambda x: EntropyLoss()(x, mask), logits)


def test_one_channel_is_two_classes_and_shapes_are_told():
    one = torch.zeros(1, 1, 2, 2)
    assert float(EntropyLoss()(one)) == pytest.approx(1)
    assert float(ConsistencyLoss()(one, one + 100)) == pytest.approx(0.25)
    with pytest.raises(ValueError, match="the teacher has shape"):
        ConsistencyLoss()(one, torch.zeros(1, 2, 2, 2))
    with pytest.raises(ValueError, match="the mask has shape"):
        EntropyLoss()(one, torch.zeros(1, 1, 3, 3))
