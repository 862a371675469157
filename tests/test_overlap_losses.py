"""The losses that MONAI computes, compared with MONAI's own; and cross-entropy of the worst voxels, or by class."""

from __future__ import annotations

import csv
import math

import pytest
import torch
import torch.nn.functional as F
from monai import losses as monai
from runs_fixtures import make_phantom, train
from test_balanced_ce import draw

from pipeline import config
from pipeline.data.layouts import read_dataset
from pipeline.errors import UserError
from pipeline.losses import LOSSES, CrossEntropyLoss, FocalLoss, HausdorffLoss, TopKCrossEntropyLoss
from pipeline.runs.components import COMPONENTS
from pipeline.runs.objectives import build_objective

SIZES = [(9, 7), (6, 7, 5)]
BOTH = {"softmax": True, "to_onehot_y": True}
# Ours with its options, and MONAI's own.
SAME = [
    ("focal", {}, monai.FocalLoss(use_softmax=True, to_onehot_y=True)),
    ("focal", {"gamma": 0.0}, monai.FocalLoss(use_softmax=True, to_onehot_y=True, gamma=0.0)),
    ("tversky", {}, monai.TverskyLoss(**BOTH)),
    (
        "tversky",
        {"alpha": 0.3, "beta": 0.7, "include_background": False},
        monai.TverskyLoss(**BOTH, alpha=0.3, beta=0.7, include_background=False),
    ),
    ("generalized_dice", {}, monai.GeneralizedDiceLoss(**BOTH)),
    (
        "generalized_dice",
        {"weights": "simple", "include_background": False},
        monai.GeneralizedDiceLoss(**BOTH, w_type="simple", include_background=False),
    ),
    ("hausdorff", {}, monai.HausdorffDTLoss(**BOTH)),
    (
        "hausdorff",
        {"alpha": 1.0, "include_background": True},
        monai.HausdorffDTLoss(**BOTH, alpha=1.0, include_background=True),
    ),
]
OF_MONAI = ["focal", "tversky", "generalized_dice", "hausdorff", "cldice"]
NEW = [*OF_MONAI, "top_k_ce"]


@pytest.mark.parametrize("size", SIZES, ids=["2d", "3d"])
@pytest.mark.parametrize(("name", "options", "theirs"), SAME)
def test_equals_the_loss_of_monai_with_its_gradient(size, name, options, theirs):
    logits, labels = draw(size, 3, batch=2)
    ours, other = (logits.float().clone().requires_grad_() for _ in range(2))
    value = LOSSES.build(name, options)(ours, labels[:, None])
    expected = theirs(other, labels[:, None])
    assert value.item() == pytest.approx(expected.item(), rel=1e-6, abs=1e-6)
    value.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, other.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("size", SIZES, ids=["2d", "3d"])
@pytest.mark.parametrize("options", [{}, {"alpha": 1.0, "iterations": 2, "include_background": True}])
def test_cldice_equals_that_of_monai_case_by_case(size, options):
    logits, labels = draw(size, 3, batch=2)
    alpha, iterations = options.get("alpha", 0.5), options.get("iterations", 3)
    theirs = monai.SoftDiceclDiceLoss(iterations, alpha, include_background=options.get("include_background", False))
    y = F.one_hot(labels, 3).movedim(-1, 1).double()
    expected = [theirs(logits[n : n + 1].softmax(1), y[n : n + 1]).item() for n in range(2)]
    value = LOSSES.build("cldice", options | {"reduction": "none"})(logits, labels)
    assert value.tolist() == pytest.approx(expected, rel=1e-9)
    assert LOSSES.build("cldice", options)(logits, labels).item() == pytest.approx(sum(expected) / 2)


@pytest.mark.parametrize("name", NEW)
@pytest.mark.parametrize("size", SIZES, ids=["2d", "3d"])
def test_a_batch_without_annotation_gives_zero_and_a_zero_gradient(name, size):
    logits = draw(size, 3)[0].requires_grad_()
    value = LOSSES.build(name, {})(logits, torch.full((2, *size), -1))
    value.backward()
    assert value.item() == 0
    assert not logits.grad.any()


@pytest.mark.parametrize("name", NEW)
def test_voxels_without_annotation_have_no_gradient_and_what_is_predicted_there_changes_nothing(name):
    logits, labels = draw((8, 9), 3)
    labels[:, :, 6:] = -1
    labels[1, :2] = 255
    loss = LOSSES.build(name, {"ignore": 255})
    other = logits.clone()
    other[:, :, :, 6:] += 5
    other[1, :, :2] -= 3
    values = []
    for given in (logits, other):
        given.requires_grad_()
        value = loss(given, labels)
        value.backward()
        values.append(value.item())
        assert not given.grad[:, :, :, 6:].any()
        assert not given.grad[1, :, :2].any()
        assert given.grad.any()
    # The added logits are another number for each class only where nothing counts.
    assert values[0] == values[1]


@pytest.mark.parametrize("name", ["focal", "tversky", "generalized_dice", "top_k_ce"])
def test_padding_without_annotation_changes_nothing(name):
    logits, labels = draw((6, 5), 3)
    padded = F.pad(logits, (3, 2, 1, 0), value=2.0)
    value = LOSSES.build(name, {})(padded, F.pad(labels, (3, 2, 1, 0), value=-1))
    assert value.item() == pytest.approx(LOSSES.build(name, {})(logits, labels).item(), rel=1e-12)


def test_padding_changes_no_distance_of_a_structure_within_the_patch():
    logits = torch.full((1, 2, 9, 9), -4.0, dtype=torch.float64)
    logits[:, 0] = 4
    logits[0, :, 3:5, 3:6] *= -1
    labels = torch.zeros(1, 9, 9, dtype=torch.long)
    labels[0, 4:6, 2:6] = 1
    padded = F.pad(logits, (2, 2, 2, 2), value=2.0)
    value = HausdorffLoss()(padded, F.pad(labels, (2, 2, 2, 2), value=-1))
    assert value.item() == pytest.approx(HausdorffLoss()(logits, labels).item(), rel=1e-12)


@pytest.mark.parametrize("name", NEW)
def test_half_precision_is_computed_in_single_under_autocast_too(name):
    logits, labels = draw((8, 9), 3)
    half = (8 * logits).bfloat16().requires_grad_()
    expected = LOSSES.build(name, {})(half.detach().float(), labels)
    with torch.autocast("cpu"):
        value = LOSSES.build(name, {})(half, labels)
    value.backward()
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    assert half.grad.isfinite().all()


@pytest.mark.parametrize("name", NEW)
@pytest.mark.parametrize("sign", [1, -1])
def test_extreme_logits_give_finite_losses_and_gradients(name, sign):
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    labels[0, 1:3, 1:3] = 1
    right = F.one_hot(labels, 2).movedim(-1, 1) * 2.0 - 1
    logits = (sign * 1e4 * right).requires_grad_()
    value = LOSSES.build(name, {})(logits, labels)
    value.backward()
    assert math.isfinite(value.item())
    assert logits.grad.isfinite().all()
    if sign > 0:
        assert value.item() == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("focal", {"gamma": 0.5}, "gamma is 0.5; expected 0, or 1 or more"),
        ("tversky", {"alpha": 0.0, "beta": 0.0}, "expected one of them above 0"),
        ("tversky", {"smooth": 0.0}, "greater than or equal to 0.000001"),
        ("generalized_dice", {"weights": "cubic"}, "weights"),
        ("cldice", {"alpha": 1.5}, "less than or equal to 1"),
        ("top_k_ce", {"share": 0.0}, "greater than 0"),
        ("cross_entropy", {"class_weights": [1.0, -1.0]}, "greater than or equal to 0"),
    ],
)
def test_options_without_sense_are_refused(name, options, message):
    problems = LOSSES.problems(name, options)
    assert len(problems) == 1
    assert message in " ".join(problems[0])


def test_focal_of_gamma_0_is_cross_entropy_over_the_number_of_classes():
    logits, labels = draw((6, 5), 4)
    assert FocalLoss(gamma=0)(logits, labels).item() == pytest.approx(CrossEntropyLoss()(logits, labels).item() / 4)


# The worst voxels


@pytest.mark.parametrize("share", [0.1, 0.33, 1.0])
def test_top_k_is_the_mean_of_the_worst_annotated_voxels(share):
    logits, labels = draw((7, 9), 3)
    labels[0, :3] = -1
    each = F.cross_entropy(logits, labels, ignore_index=-1, reduction="none")[labels >= 0]
    worst = each.sort(descending=True).values[: math.ceil(share * len(each))]
    loss = TopKCrossEntropyLoss(share=share)
    assert loss(logits, labels).item() == pytest.approx(worst.mean().item(), rel=1e-12)
    by_voxel = TopKCrossEntropyLoss(share=share, reduction="none")(logits, labels)
    assert by_voxel.shape == labels.shape
    assert by_voxel.count_nonzero() == len(worst)
    assert by_voxel.sum().item() == pytest.approx(worst.sum().item())


# Weights by class


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_class_weights_are_those_of_pytorch(reduction):
    logits, labels = draw((7, 9), 3)
    labels[1, :3] = -1
    weights = [0.2, 1.0, 3.5]
    loss = CrossEntropyLoss(class_weights=weights, reduction=reduction)
    ours, other = (logits.clone().requires_grad_() for _ in range(2))
    expected = F.cross_entropy(other, labels, torch.tensor(weights).double(), ignore_index=-1, reduction=reduction)
    value = loss(ours, labels)
    torch.testing.assert_close(value, expected)
    value.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(ours.grad, other.grad)


def test_a_batch_in_which_no_class_weighs_anything_gives_zero():
    logits = draw((4, 5), 2)[0].requires_grad_()
    value = CrossEntropyLoss(class_weights=[0.0, 1.0])(logits, torch.zeros(2, 4, 5, dtype=torch.long))
    value.backward()
    assert value.item() == 0
    assert not logits.grad.any()


def parsed(options):
    objective = [{"loss": "cross_entropy", "options": options}]
    return config.parse({"dataset": "d", "objective": objective}, "recipe", COMPONENTS)


def test_weights_by_name_are_in_the_order_of_the_values():
    labels = {0: "background", 2: "liver", 7: "tumour"}
    (term,) = build_objective(parsed({"class_weights": {"tumour": 5, "background": 0.5}}), labels).terms
    assert term.loss.class_weights == (0.5, 1.0, 5)
    with pytest.raises(UserError, match=r"no label is called 'tumor'(.|\n)*did you mean 'tumour'"):
        build_objective(parsed({"class_weights": {"tumor": 5}}), labels)


def test_a_training_takes_every_one_of_them_and_weights_by_name(tmp_path):
    data = make_phantom(tmp_path / "data")
    objective = [{"loss": name, "weight": 0.1} for name in NEW]
    name = read_dataset(data).labels[1]
    objective.append({"loss": "cross_entropy", "options": {"class_weights": {name: 3.0}}})
    run = train(tmp_path, data, "run", objective=objective, max_steps=2)
    last = list(csv.DictReader((run / "history.csv").read_text().splitlines()))[-1]
    assert set(last) == {"step", "loss", *NEW, "cross_entropy"}
    assert all(0 < float(last[name]) < 1e3 for name in NEW)


def test_weights_that_are_not_one_for_each_class_are_refused_before_the_first_step(tmp_path):
    objective = [{"loss": "cross_entropy", "options": {"class_weights": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]}}]
    with pytest.raises(UserError) as caught:
        train(tmp_path, make_phantom(tmp_path / "data"), "run", objective=objective)
    (problem,) = caught.value.problems
    assert problem.where == "objective.0.options"
    assert "class_weights are 6; expected" in problem.message
