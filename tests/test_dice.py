from __future__ import annotations

import monai.losses
import numpy as np
import pytest
import torch
from reference import dice_loss, softmax

from pipeline.losses import LOSSES, DiceLoss

SHAPES = [(5, 4), (4, 3, 5)]


def draw(size, classes=3, batch=2, lowest=0, seed=0):
    """Random float64 logits [B, K, ...] and labels [B, ...]."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(batch, classes, *size, generator=generator, dtype=torch.float64)
    return logits, torch.randint(lowest, max(classes, 2), (batch, *size), generator=generator)


@pytest.mark.parametrize(
    ("foreground", "labels", "expected"),
    [
        # background: p = 1 - foreground. Terms are 1 - (2 sum(p y) + 1) / (sum p + sum y + 1).
        ([1.0, 1.0, 0.0, 0.0], [1, 1, 0, 0], 0.0),
        ([0.0, 0.0, 1.0, 1.0], [1, 1, 0, 0], 1 - 1 / 5),
        ([1.0, 0.0, 0.0, 0.0], [1, 1, 0, 0], ((1 - 5 / 6) + (1 - 3 / 4)) / 2),
        ([0.5, 0.5, 0.5, 0.5], [1, 0, 0, 0], ((1 - 4 / 6) + (1 - 2 / 4)) / 2),
        # no foreground in the labels: only what is wrongly predicted costs
        ([0.0, 0.0, 0.0, 0.0], [0, 0, 0, 0], 0.0),
        ([1.0, 0.0, 0.0, 0.0], [0, 0, 0, 0], ((1 - 7 / 8) + (1 - 1 / 2)) / 2),
        # the last voxel is not annotated
        ([1.0, 1.0, 0.0, 1.0], [1, 1, 0, -1], 0.0),
    ],
)
def test_hand_made_table(foreground, labels, expected):
    p = torch.tensor(foreground).view(1, 1, 2, 2)
    loss = DiceLoss(softmax=False)(p, torch.tensor(labels).view(1, 2, 2))
    assert loss.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("classes", [1, 2, 4])
@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("smooth", [1.0, 1e-5])
@pytest.mark.parametrize("average", ["macro", "micro"])
def test_agrees_with_the_oracle(size, classes, background, smooth, average):
    logits, labels = draw(size, classes, batch=3, lowest=-1)
    expected = dice_loss(softmax(logits.numpy()), labels.numpy(), smooth, background, average == "micro")
    for reduction, value in [("none", expected), ("sum", np.sum(expected)), ("mean", np.mean(expected))]:
        loss = DiceLoss(include_background=background, average=average, smooth=smooth, reduction=reduction)
        np.testing.assert_allclose(loss(logits, labels).numpy(), value, atol=1e-9)


@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("background", [True, False])
def test_equals_monai_where_all_is_annotated(size, background):
    logits, labels = draw(size)
    peer = monai.losses.DiceLoss(
        include_background=background, softmax=True, to_onehot_y=True, smooth_nr=1, smooth_dr=1
    )
    ours = DiceLoss(include_background=background)
    assert ours(logits, labels).item() == pytest.approx(peer(logits, labels[:, None]).item(), abs=1e-9)


def test_one_ratio_of_all_channels_by_hand():
    # sum p y = 0.5 + 0.25 + 0.75, sum p = 3 voxels, sum y = 3 voxels: 1 - (2 * 1.5 + 1) / (3 + 3 + 1)
    p = torch.tensor([[0.5, 0.5, 0.0], [0.25, 0.25, 0.25], [0.25, 0.25, 0.75]]).view(1, 3, 1, 3)
    loss = DiceLoss(softmax=False, average="micro")(p, torch.tensor([[[0, 1, 2]]]))
    assert loss.item() == pytest.approx(3 / 7)
    # without the background 2 (0.25 + 0.75) + 1 of 0.75 + 1.25 + 2 + 1
    loss = DiceLoss(softmax=False, average="micro", include_background=False)(p, torch.tensor([[[0, 1, 2]]]))
    assert loss.item() == pytest.approx(1 - 3 / 5)


@pytest.mark.parametrize(
    "options",
    [{}, {"include_background": False}, {"reduction": "sum"}, {"average": "micro", "include_background": False}],
)
@pytest.mark.parametrize("classes", [1, 3])
def test_gradient_is_that_of_the_value(options, classes):
    logits, labels = draw((3, 4), classes, lowest=-1)
    assert torch.autograd.gradcheck(lambda x: DiceLoss(**options)(x, labels), logits.requires_grad_())


def test_softmax_off_takes_probabilities():
    logits, labels = draw((4, 4))
    assert DiceLoss(softmax=False)(logits.softmax(1), labels).item() == pytest.approx(
        DiceLoss()(logits, labels).item(), abs=1e-12
    )


def test_one_logit_channel_is_two_classes():
    logits, labels = draw((4, 4), classes=1)
    two = torch.cat([torch.zeros_like(logits), logits], dim=1)
    assert DiceLoss()(logits, labels).item() == pytest.approx(DiceLoss()(two, labels).item(), abs=1e-12)


def test_labels_are_read_with_and_without_a_channel_and_in_any_integer_type():
    logits, labels = draw((4, 4))
    expected = DiceLoss()(logits, labels).item()
    for given in (labels[:, None], labels.to(torch.uint8), labels.to(torch.int16)[:, None]):
        assert DiceLoss()(logits, given).item() == expected


def test_ignored_and_negative_labels_count_nowhere():
    logits, labels = draw((4, 6))
    cropped = DiceLoss()(logits[..., :4], labels[..., :4])
    labels[..., 4], labels[..., 5] = 255, -100
    logits[..., 4:] = 7.0
    assert DiceLoss(ignore=255)(logits, labels).item() == pytest.approx(cropped.item(), abs=1e-12)


@pytest.mark.parametrize("average", ["macro", "micro"])
def test_an_unannotated_case_is_left_out(average):
    logits, labels = draw((4, 4), batch=3)
    labels[1] = -1
    loss = DiceLoss(average=average, reduction="none")
    annotated = loss(logits[[0, 2]], labels[[0, 2]])
    logits.requires_grad_()
    each = loss(logits, labels)
    assert each[1].item() == 0
    torch.testing.assert_close(each[[0, 2]], annotated)
    torch.testing.assert_close(DiceLoss(average=average, reduction="sum")(logits, labels), annotated.sum())
    mean = DiceLoss(average=average)(logits, labels)
    torch.testing.assert_close(mean, annotated.mean())
    mean.backward()
    assert logits.grad[1].abs().max() == 0
    assert logits.grad[0].abs().max() > 0


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_nothing_annotated_gives_zero_with_zero_gradient(reduction):
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = DiceLoss(reduction=reduction)(logits, torch.full((2, 4, 4), -1))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.abs().max() == 0


@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_extreme_logits_stay_finite(scale):
    signs = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).view(1, 2, 2, 1)
    logits = (scale * signs).requires_grad_()
    loss = DiceLoss()(logits, torch.tensor([[[0], [1]]]))
    loss.backward()
    assert loss.item() == pytest.approx(0.0 if scale > 0 else 1 - 1 / 3, abs=1e-6)
    assert torch.isfinite(logits.grad).all()


def test_half_precision_is_summed_in_single():
    # 4096 voxels of probability 1/2 each: a bfloat16 sum would stop far below
    logits = torch.zeros(1, 2, 64, 64, dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu"):
        loss = DiceLoss()(logits, torch.zeros(1, 64, 64, dtype=torch.long))
    loss.backward()
    assert loss.dtype == torch.float32
    expected = ((1 - 4097 / (2048 + 4096 + 1)) + (1 - 1 / 2049)) / 2
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    assert logits.grad.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.full((2, 4, 4), 0.5), r"a label is 0\.5; expected whole numbers"),
        (torch.zeros(2, 4, 5, dtype=torch.long), r"\(2, 4, 5\); expected \(2, 1, 4, 4\) or \(2, 4, 4\)"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.long), r"\(2, 3, 4, 4\); expected \(2, 1, 4, 4\)"),
        (torch.full((2, 4, 4), 3), "a label is 3; expected 0 to 2 or ignore=-1"),
    ],
)
def test_wrong_labels_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        DiceLoss()(torch.zeros(2, 3, 4, 4), labels)


def test_logits_without_spatial_axes_are_refused():
    with pytest.raises(ValueError, match=r"logits have shape \(2, 3\); expected \[B, K, H, W\]"):
        DiceLoss()(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"smooth": 0.0}, "smooth is 0.0; expected a finite number above 0"),
        ({"smooth": float("nan")}, "smooth is nan"),
        ({"average": "weighted"}, "average is 'weighted'; expected one of macro, micro"),
        ({"reduction": "average"}, "reduction is 'average'; expected one of mean, sum, none"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DiceLoss(**options)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("dice", {"include_background": False, "smooth": 1, "average": "micro"}, {"smooth": "some", "average": "all"}),
        ("balanced_ce", {"ignore": 255}, {"ignore": "none"}),
        ("ncut", {"sigma_space": "auto", "sigma_intensity": 2.0}, {"sigma_intensity": "large"}),
        ("class_mean_ncut", {"radius": 3, "spatial": False}, {"radius": 2.5}),
    ],
)
def test_a_recipe_can_name_each_loss(name, good, bad):
    assert LOSSES.problems(name, good) == []
    assert LOSSES.build(name, good).against in (("label",), ("image", "mask"))
    assert {key.split(".")[0] for key, _ in LOSSES.problems(name, bad)} == set(bad)
