"""Numbers that other libraries publish in their tests and docs, for the same inputs.

Only inputs and expected numbers are theirs. Where ours is defined otherwise, a docstring says what was
left out and why.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.losses import DeepSupervisionLoss, MultiScaleLoss

from pipeline.losses import CrossEntropyLoss, DiceLoss
from pipeline.metrics.case import score_case
from pipeline.metrics.surface import surface_distances

# MONAI's inputs: one axis of voxels stands for [H, W].
FOUR = [[1.0, -1.0, -1.0, 1.0]]
CORNER = [1, 0, 1, 1]
HALVES = [[1, 1, 1, 1], [1, 0, 1, 0]]
THREE = [[[-1.0, 0.0, 1.0], [1.0, 0.0, -1.0]], [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]]
ONES = [[1, 0, 0], [1, 1, 0]]
SURE = [[[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]], [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]]
SURER = [[[100.0, 100.0, 0.0], [0.0, 0.0, 1.0]], SURE[1]]
SURE_LABELS = [[0, 0, 1], [0, 1, 0]]


def row(values):
    """[B, K, N] or [B, N] as [B, K, 1, N] or [B, 1, 1, N], labels in float32 as MONAI has them."""
    tensor = torch.tensor(values, dtype=torch.float32)
    return tensor.unsqueeze(-2) if tensor.ndim == 3 else tensor[:, None, None]


@pytest.mark.parametrize(
    ("prepare", "given", "labels", "options", "expected"),
    [
        # One channel is MONAI's only class, and our foreground.
        (None, [FOUR], [CORNER], {"smooth": 1e-6, "include_background": False}, 0.307576),
        (None, [FOUR, FOUR], HALVES, {"smooth": 1e-4, "include_background": False}, 0.416657),
        (torch.tanh, [FOUR, FOUR], HALVES, {"smooth": 1e-4, "include_background": False}, 0.999963),
        # Theirs is without smoothing, ours with as little as changes no digit.
        (torch.clone, SURE, SURE_LABELS, {"smooth": 1e-12, "include_background": False}, 0.0),
        (torch.sigmoid, THREE, ONES, {"smooth": 1e-4}, 0.435050),
        (
            torch.sigmoid,
            THREE,
            ONES,
            {"smooth": 1e-4, "reduction": "none"},
            [(0.296529 + 0.415136) / 2, (0.599976 + 0.428559) / 2],
        ),
        (None, THREE, ONES, {"smooth": 1e-4}, 0.383713),
        # Theirs sums over cases and both classes, ours over cases of the mean over classes.
        (None, THREE, ONES, {"smooth": 1e-4, "reduction": "sum"}, 1.534853 / 2),
        (lambda x: x.log_softmax(dim=1), THREE, ONES, {"smooth": 1e-4}, -8.522593),
    ],
)
def test_dice_loss_of_monai(prepare, given, labels, options, expected):
    """Project-MONAI/MONAI, tests/losses/test_dice_loss.py, commit 01c9ad1.

    Left out, for ours has no such option: soft labels (2 cases), ``squared_pred``, ``jaccard``, ``batch`` (2), class
    weights, and a numerator smoothed otherwise than the denominator.
    """
    values = row(given)
    loss = DiceLoss(softmax=prepare is None, **options)
    result = loss(values if prepare is None else prepare(values), row(labels))
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-5, atol=1e-7)


class DiceCE(torch.nn.Module):
    """The sum that MONAI's class of this name is: without an activation, its Dice takes the numbers as they are."""

    def __init__(self, weight_ce=1.0, ignore=-1, **options):
        super().__init__()
        self.dice = DiceLoss(softmax=False, smooth=1e-5, **options)
        self.cross_entropy, self.weight_ce = CrossEntropyLoss(ignore=ignore), weight_ce

    def forward(self, values, labels):
        return self.dice(values, labels) + self.weight_ce * self.cross_entropy(values, labels)


@pytest.mark.parametrize(
    ("given", "options", "expected"),
    [
        (SURE, {}, 0.3133),
        (SURER, {"include_background": False}, 0.2088),
        (SURER, {"include_background": False, "weight_ce": 2.0}, 0.4176),
        # A weight of 0 for the background, and its voxels uncounted, are one mean.
        (SURER, {"include_background": False, "ignore": 0}, 0.3133),
    ],
)
def test_dice_ce_loss_of_monai(given, options, expected):
    """Project-MONAI/MONAI, tests/losses/test_dice_ce_loss.py, commit dd3ca76.

    Left out: one-hot targets (2 cases, the first with other words) and weighted binary cross-entropy.
    """
    assert DiceCE(**options)(row(given), row(SURE_LABELS)).item() == pytest.approx(expected, abs=1e-4, rel=1e-4)


LEVELS = [
    [SURE],
    [[[[1.0, 1.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]]],
    [[[[1.0], [0.0]], [[1.0], [0.0]]]],
]


@pytest.mark.parametrize(
    ("loss", "levels", "options", "expected"),
    [
        (DiceCE, 0, {}, 0.606557),
        (DiceCE, 3, {}, 1.78144),
        (DiceCE, 3, {"weight_mode": "same"}, 3.5529),
        (DiceCE, 3, {"weight_mode": "two"}, 2.07973),
        (DiceCE, 3, {"weights": [0.1, 0.2, 0.3]}, 0.76924),
        (lambda: DiceLoss(softmax=False, smooth=1e-5), 0, {}, 0.166666),
        (lambda: DiceLoss(softmax=False, smooth=1e-5), 3, {}, 0.666665),
    ],
)
def test_deep_supervision_of_monai(loss, levels, options, expected):
    """Project-MONAI/MONAI, tests/losses/test_ds_loss.py, commit 021094f. Left out: focal loss, which is not here."""
    given = [torch.tensor(level) for level in LEVELS]
    labels = torch.tensor([[[[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]]])
    result = DeepSupervisionLoss(loss(), **options)(given[:levels] if levels else given[0], labels)
    assert result.item() == pytest.approx(expected, abs=1e-4, rel=1e-4)


def test_multi_scale_of_monai():
    """Project-MONAI/MONAI, tests/losses/test_multi_scale.py, commit 4af739c.

    Left out: scales that smooth the labels (2 cases), which are no classes then.
    """
    loss = DiceLoss(include_background=False, smooth=1e-5)
    result = MultiScaleLoss(loss, scales=None)(y_true=row([CORNER]), y_pred=row([FOUR]))
    assert result.item() == pytest.approx(0.307576, rel=1e-5)


# torchmetrics, of each of 4 samples the Dice of 5 classes


INDEX_DICE = [
    [0.1731, 0.1667, 0.2400, 0.2424, 0.1947],
    [0.2245, 0.2247, 0.2321, 0.1132, 0.1682],
    [0.2500, 0.2476, 0.1887, 0.1818, 0.2718],
    [0.1308, 0.1800, 0.1980, 0.1607, 0.1522],
]


def indices_of_torchmetrics():
    """Predictions and truths [4, 16, 16] of 5 classes."""
    generator = torch.Generator().manual_seed(42)
    return [torch.randint(0, 5, (4, 16, 16), generator=generator) for _ in range(2)]


def one_hot(labels, classes=5):
    return torch.nn.functional.one_hot(labels, classes).movedim(-1, 1).double()


@pytest.mark.parametrize(
    ("average", "expected"), [("micro", [0.2031, 0.1914, 0.2266, 0.1641]), ("macro", np.mean(INDEX_DICE, axis=1))]
)
def test_dice_loss_of_hard_predictions_is_one_minus_the_dice_score_of_torchmetrics(average, expected):
    """torchmetrics 1.8.2, torchmetrics/functional/segmentation/dice.py, the example with index tensors.

    Left out: its one-hot example, in which a voxel has several classes or none.
    """
    prediction, truth = indices_of_torchmetrics()
    loss = DiceLoss(softmax=False, smooth=1e-12, average=average, reduction="none")
    np.testing.assert_allclose(1 - loss(one_hot(prediction), truth), expected, atol=1e-4)


def test_a_batch_laid_end_to_end_is_the_global_score_of_torchmetrics():
    """torchmetrics 1.8.2, torchmetrics/functional/segmentation/dice.py: ``aggregation_level="global"``."""
    prediction, truth = (labels.flatten()[None, None] for labels in indices_of_torchmetrics())
    loss = DiceLoss(softmax=False, smooth=1e-12)
    assert 1 - loss(one_hot(prediction), truth).item() == pytest.approx(0.1965, abs=1e-4)


def test_dice_of_a_case_is_that_of_torchmetrics():
    """torchmetrics 1.8.2, torchmetrics/functional/segmentation/dice.py; of the background ours has no score."""
    prediction, truth = (labels.numpy() for labels in indices_of_torchmetrics())
    labels = {value: str(value) for value in range(5)}
    for guess, true, expected in zip(prediction, truth, INDEX_DICE, strict=True):
        scores = score_case("a", true[..., None], guess[..., None], labels, (1.0, 1.0, 1.0), overlap_only=True)
        assert [score.dice for score in scores] == pytest.approx(expected[1:], abs=1e-4)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (
            (4, 5, 16, 16),
            [
                [0.3617, 0.3128, 0.3366, 0.3242, 0.3263],
                [0.3646, 0.2893, 0.3297, 0.3073, 0.3770],
                [0.3756, 0.3168, 0.3505, 0.3400, 0.3155],
                [0.3579, 0.3317, 0.3797, 0.3523, 0.2957],
            ],
        ),
        ((4, 1, 16, 16), [[0.3617], [0.3128], [0.3366], [0.3242]]),
    ],
)
def test_iou_of_a_case_is_that_of_torchmetrics(shape, expected):
    """torchmetrics 1.8.2, torchmetrics/functional/segmentation/mean_iou.py, one mask a class."""
    drawn = [torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(seed)).bool() for seed in (42, 43)]
    prediction, truth = (masks.numpy() for masks in drawn)
    for place in np.ndindex(shape[:2]):
        pair = truth[place][..., None], prediction[place][..., None]
        (score,) = score_case("a", *pair, {1: "class"}, (1.0, 1.0, 1.0), overlap_only=True)
        assert score.iou == pytest.approx(expected[place[0]][place[1]], abs=1e-4)


def missing_of_torchmetrics():
    """Truths and predictions [3, 10, 10] of labels 0 to 3: two classes, a false positive, and nothing at all."""
    truth, prediction = np.zeros((2, 3, 10, 10), int)
    truth[0, :6, :6], prediction[0, :3, :3] = 1, 1
    truth[0, 6:, 6:], prediction[0, 8:, 8:] = 3, 3
    prediction[1, :2, :2] = 3
    return truth, prediction


def test_classes_that_are_missing_score_as_in_torchmetrics():
    """torchmetrics, tests/unittests/segmentation/test_dice.py, commit 005de6f: samples with missing classes.

    Where theirs is NaN ours is None. Left out: ``weighted``, and the mean over classes or samples, from which theirs
    drops what is NaN.
    """
    truth, prediction = missing_of_torchmetrics()
    labels = {1: "one", 2: "two", 3: "three"}
    scores = [
        [score.dice for score in score_case("a", *pair, labels, (1.0, 1.0, 1.0), overlap_only=True)]
        for pair in zip(truth[..., None], prediction[..., None], strict=True)
    ]
    assert scores == [[0.4, None, 0.4], [None, None, 0.0], [None, None, None]]
    means = [
        np.mean(found) for each in zip(*scores, strict=True) if (found := [one for one in each if one is not None])
    ]
    assert means == pytest.approx([0.4, 0.2])  # [nan, 0.4, nan, 0.2]
    (whole,) = [score_case("a", *(maps.reshape(3, 10, 10) for maps in (truth, prediction)), labels, (1.0,) * 3)]
    assert [score.dice for score in whole] == [pytest.approx(0.4), None, pytest.approx(0.3333, abs=1e-4)]


@pytest.mark.parametrize(("average", "expected"), [("micro", 0.3768), ("macro", 0.3667)])
def test_loss_with_missing_classes_is_one_minus_the_global_score_of_torchmetrics(average, expected):
    """As above. Left out: the class without a voxel, NaN there and 0 as a loss."""
    truth, prediction = (torch.from_numpy(maps).flatten()[None, None] for maps in missing_of_torchmetrics())
    truth, prediction = (maps.where(maps != 3, 2) for maps in (truth, prediction))
    loss = DiceLoss(softmax=False, include_background=False, average=average, smooth=1e-12)
    assert 1 - loss(one_hot(prediction, 3), truth).item() == pytest.approx(expected, abs=1e-4)


def test_loss_of_each_sample_with_missing_classes_is_one_minus_the_score_of_torchmetrics():
    """As above, ``micro``. Left out: the sample without a voxel, NaN there and 0 as a loss."""
    truth, prediction = (torch.from_numpy(maps) for maps in missing_of_torchmetrics())
    loss = DiceLoss(softmax=False, include_background=False, average="micro", smooth=1e-12, reduction="none")
    each = loss(one_hot(prediction, 4), truth)
    assert (1 - each)[:2].mean().item() == pytest.approx(0.2)
    assert each[2].item() == 0


# surface-distance


def pixels(size, *places):
    mask = np.zeros(size, bool)
    mask[places] = True
    return mask


def shifted_cubes():
    truth, prediction = np.zeros((2, 100, 100, 100), bool)
    truth[:50], prediction[:51] = True, True
    return truth, prediction


@pytest.mark.parametrize(
    ("masks", "spacing", "average", "hausdorff", "overlap", "surface_dice", "dice"),
    [
        (
            (pixels((128, 128, 1), 50, 70, 0), pixels((128, 128, 1), 50, 72, 0)),
            (2.0, 1.0, 1.0),
            (1.5, 1.5),
            2.0,
            (0.5, 0.5),
            0.5,
            0.0,
        ),
        (
            (pixels((128, 128, 128), 50, 60, 70), pixels((128, 128, 128), 50, 60, 72)),
            (3.0, 2.0, 1.0),
            (1.5, 1.5),
            2.0,
            (0.5, 0.5),
            0.5,
            0.0,
        ),
        (shifted_cubes(), (2.0, 1.0, 1.0), (0.322, 0.339), 2.0, (0.842, 0.830), 0.836, 0.990),
    ],
    ids=["2 pixels", "2 voxels", "cubes"],
)
def test_surfaces_of_surface_distance(masks, spacing, average, hausdorff, overlap, surface_dice, dice):
    """google-deepmind/surface-distance 0.1, surface_distance_test.py, commit 1f805ce: at 1 mm, to 3 places."""
    found = surface_distances(*masks, spacing)
    sides = (found.truth, found.prediction)
    directed = [float(np.average(side.distances_mm, weights=side.areas_mm2)) for side in sides]
    near = {"abs": 5e-4}
    assert directed == pytest.approx(average, **near)
    assert max(side.percentile_mm(100) for side in sides) == pytest.approx(hausdorff, **near)
    assert found.hd95_mm == pytest.approx(hausdorff, **near)
    assert [side.area_within(1) / side.area_mm2 for side in sides] == pytest.approx(overlap, **near)
    assert found.surface_dice(1) == pytest.approx(surface_dice, **near)
    (score,) = score_case("a", *masks, {1: "one"}, spacing, tolerance_mm=1)
    assert (score.surface_dice, score.hd95_mm) == pytest.approx((surface_dice, hausdorff), **near)
    assert score.dice == pytest.approx(dice, **near)
    low, high = sorted(average)
    assert low - 5e-4 <= score.assd_mm <= high + 5e-4


def test_surfaces_of_two_shifted_squares_of_surface_distance():
    """google-deepmind/surface-distance 0.1, surface_distance_test.py, commit 1f805ce: piece by piece."""
    truth, prediction = np.zeros((2, 6, 6, 1), bool)
    truth[1:3, 1:3], prediction[1:4, 1:3] = True, True
    vertical, horizontal = 2.0, 1.0
    corner = math.hypot(vertical, horizontal) / 2
    found = surface_distances(truth, prediction, (vertical, horizontal, 1.0))
    expected = (
        ([0] * 5 + [horizontal] + [0] * 2, [corner, horizontal, corner, vertical] * 2),
        (
            [0] * 5 + [vertical] * 3 + [0] * 2,
            [corner, horizontal, corner, vertical, vertical, corner, horizontal, corner, vertical, vertical],
        ),
    )
    for side, (distances, areas) in zip((found.truth, found.prediction), expected, strict=True):
        pairs = sorted(zip(side.distances_mm.tolist(), side.areas_mm2.tolist(), strict=True))
        np.testing.assert_allclose(pairs, sorted(zip(distances, areas, strict=True)))


@pytest.mark.parametrize(
    ("size", "place", "spacing"),
    [((128, 128, 1), (50, 60, 0), (3.0, 2.0, 1.0)), ((128,) * 3, (50, 60, 70), (3.0, 2.0, 1.0))],
)
def test_empty_masks_of_surface_distance(size, place, spacing):
    """google-deepmind/surface-distance 0.1, surface_distance_test.py, commit 1f805ce.

    Theirs is infinitely far away where one mask is empty: ours by the diagonal of the scan. Where theirs is NaN for two
    empty masks ours is None; its infinite Hausdorff distance between them is None too.
    """
    empty, one = np.zeros(size, bool), pixels(size, *place)
    diagonal = math.hypot(*(n * step for n, step in zip(size, spacing, strict=True) if n > 1))
    for pair in ((one, empty), (empty, one)):
        (score,) = score_case("a", *pair, {1: "one"}, spacing)
        assert (score.dice, score.surface_dice) == (0.0, 0.0)
        assert (score.hd95_mm, score.assd_mm) == pytest.approx((diagonal, diagonal))
    (score,) = score_case("a", empty, empty, {1: "one"}, spacing)
    assert (score.dice, score.surface_dice, score.hd95_mm, score.assd_mm) == (None,) * 4
