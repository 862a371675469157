import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.metrics.calibration import Expectation, Reliability, fit_dice_curve
from pipeline.reports.files import write_cases_csv
from pipeline.reports.summary import summarise
from pipeline.runs.annotation import AnnotateNext, annotate_next
from pipeline.types import CaseResult, Task


def scan(rng, shape=(12, 13, 14), classes=3):
    logits = rng.normal(0, 2, size=(classes, *shape)).astype(np.float32)
    return logits, logits.argmax(0)


def softmax(logits):
    powers = np.exp(logits.astype(np.float64))
    return powers / powers.sum(0)


def draw(rng, p):
    return (rng.random(p.shape[1:]) < p.cumsum(0)).argmax(0)


def expected_dice(labels, logits, values, reliability=None, truth=None, ignore=None, part=None):
    """Of a whole scan, in parts."""
    expectation = Expectation(label_values=values, reliability=reliability, truth=truth, ignore=ignore)
    p, flat = softmax(logits).astype(np.float32).reshape(len(logits), -1), labels.reshape(-1)
    true = None if truth is None else truth.reshape(-1)
    for start in range(0, flat.size, part or flat.size):
        here = slice(start, start + (part or flat.size))
        expectation.add(expectation.shares(p[:, here]), flat[here], None if true is None else true[here])
    return expectation.dice()


def test_expected_dice_is_its_formula():
    logits, labels = scan(np.random.default_rng(0))
    p = softmax(logits)
    found = expected_dice(np.array([0, 4, 9])[labels], logits, (0, 4, 9))
    for n, value in ((1, 4), (2, 9)):
        mask = labels == n
        assert found[value] == pytest.approx(2 * p[n][mask].sum() / (p[n].sum() + mask.sum()), rel=1e-5)


def test_expected_dice_is_the_mean_dice_against_truths_drawn_from_the_probabilities():
    rng = np.random.default_rng(1)
    logits, labels = scan(rng)
    drawn = [draw(rng, softmax(logits)) for _ in range(200)]
    dice = np.mean([2 * ((t == 1) & (labels == 1)).sum() / ((t == 1).sum() + (labels == 1).sum()) for t in drawn])
    assert expected_dice(labels, logits, (0, 1, 2))[1] == pytest.approx(dice, abs=0.003)


def test_classes_with_one_label_count_as_one_and_one_that_is_predicted_nowhere_is_0():
    logits, labels = scan(np.random.default_rng(2))
    merged = np.where(labels == 0, 0, 5)
    p = softmax(logits)[1:].sum(0)
    expected = 2 * p[merged == 5].sum() / (p.sum() + (merged == 5).sum())
    assert expected_dice(merged, logits, (0, 5, 5))[5] == pytest.approx(expected, rel=1e-5)
    assert expected_dice(np.zeros_like(labels), logits, (0, 1, 2)) == {1: 0.0, 2: 0.0}


def test_pieces_of_a_scan_make_no_difference():
    logits, labels = scan(np.random.default_rng(3))
    whole = expected_dice(labels, logits, (0, 1, 2))
    assert expected_dice(labels, logits, (0, 1, 2), part=100) == pytest.approx(whole)


def slow_ece(confidence, correct, bins=15):
    total = 0.0
    for n in range(bins):
        inside = (confidence >= n / bins) & ((confidence < (n + 1) / bins) | (n == bins - 1))
        if inside.any():
            total += inside.sum() * abs(correct[inside].mean() - confidence[inside].mean())
    return total / len(confidence)


def test_calibration_error_is_its_formula_over_voxels_in_doubt():
    rng = np.random.default_rng(4)
    logits, labels = scan(rng)
    truth = rng.integers(0, 3, size=labels.shape)
    truth[0] = 255
    found = Reliability()
    expected_dice(labels, logits, (0, 1, 2), found, truth, ignore=255)
    p = softmax(logits)
    counted = ((truth != 0) | (p[0] < 0.99)) & (truth != 255)
    confidence, correct = p.max(0)[counted], (labels == truth)[counted]
    assert found.voxels.sum() == counted.sum() < counted.size - truth[0].size
    assert found.ece == pytest.approx(slow_ece(confidence, correct), abs=1e-6)
    curve = found.as_dict()["curve"]
    assert sum(point["voxels"] for point in curve) == counted.sum()
    assert sum(point["voxels"] * point["accuracy"] for point in curve) == pytest.approx(correct.sum())


def test_a_network_that_means_what_it_says_has_no_error_and_a_boastful_one_has():
    rng = np.random.default_rng(5)
    logits, labels = scan(rng, (40, 40, 40))
    truth = draw(rng, softmax(logits))
    honest, boastful = Reliability(), Reliability()
    expected_dice(labels, logits, (0, 1, 2), honest, truth)
    expected_dice(labels, 3 * logits, (0, 1, 2), boastful, truth)
    assert honest.ece < 0.01
    assert boastful.ece > 0.1


def test_far_background_does_not_make_a_network_look_calibrated():
    rng = np.random.default_rng(6)
    logits, labels = scan(rng)
    truth = rng.integers(0, 3, size=labels.shape)
    near, far = Reliability(), Reliability()
    expected_dice(labels, logits, (0, 1, 2), near, truth)
    around = np.full((3, *(3 * n for n in labels.shape)), -9, np.float32)
    around[0] = 9
    block = tuple(slice(0, n) for n in labels.shape)
    around[(slice(None), *block)] = logits
    wide = np.zeros(around.shape[1:], int)
    wide[block] = truth
    expected_dice(around.argmax(0), around, (0, 1, 2), far, wide)
    assert far.ece == pytest.approx(near.ece, abs=1e-9)


def test_nothing_in_doubt_has_no_error_but_a_reason():
    found = Reliability().as_dict()
    assert (found["ece"], found["curve"]) == (None, [])
    assert found["reasons"]["ece"]


# Predicted Dice


def test_dice_curve_rises_and_undoes_a_boast():
    rng = np.random.default_rng(7)
    expected = rng.uniform(0.7, 1, 200)
    curve = fit_dice_curve(expected, 2 * expected - 1 + rng.normal(0, 0.05, 200))
    values = [curve(x) for x in np.linspace(0.6, 1.1, 60)]
    assert (np.diff(values) >= 0).all()
    assert curve(0.85) == pytest.approx(0.7, abs=0.04)


def test_dice_curve_through_ties_and_falling_pairs_is_their_mean():
    curve = fit_dice_curve([0.9] * 10, list(np.linspace(0.5, 0.7, 10)))
    assert 0.5 <= curve(0.9) <= 0.7
    assert fit_dice_curve(list(np.linspace(0, 1, 10)), list(np.linspace(1, 0, 10)))(0.3) == pytest.approx(0.5)


def test_too_few_cases_change_nothing():
    assert fit_dice_curve([0.9] * 9, [0.1] * 9)(0.8) == 0.8


def test_annotate_next_ranks_the_worst_first_and_names_the_weakest_structure(tmp_path):
    ranking = AnnotateNext({1: "organ", 2: "=lesion"}, {})
    for name, dice in (("a", 0.9), ("b", 0.2), ("c", 0.5)):
        ranking.add(tmp_path / f"{name}.nii", tmp_path / "masks" / f"{name}.nii", {1: dice, 2: dice / 2})
    ranking.write(tmp_path / "annotate_next.csv")
    with (tmp_path / "annotate_next.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["rank"], row["mask"]) for row in rows] == [("1", "b.nii"), ("2", "c.nii"), ("3", "a.nii")]
    assert {row["weakest"] for row in rows} == {"'=lesion"}
    assert float(rows[0]["dice_predicted"]) == pytest.approx(0.15)


def test_scans_with_one_predicted_dice_keep_the_order_of_what_the_network_expects(tmp_path):
    flat = fit_dice_curve([0.1 * n for n in range(10)], [0.4] * 10)
    ranking = AnnotateNext({1: "organ"}, {1: flat})
    for name, dice in (("a", 0.8), ("b", 0.3), ("c", 0.5)):
        ranking.add(tmp_path / f"{name}.nii", tmp_path / "masks" / f"{name}.nii", {1: dice})
    ranking.write(tmp_path / "annotate_next.csv")
    with (tmp_path / "annotate_next.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["mask"] for row in rows] == ["b.nii", "c.nii", "a.nii"]
    assert [float(row["dice_predicted"]) for row in rows] == pytest.approx([0.4] * 3)


@pytest.mark.parametrize(
    ("place", "which", "segments", "found"),
    [
        (".", "last", None, 0.5),
        ("out-of-fold", "last", None, 0.5),
        ("validation/best", "best", None, 0.5),
        (".", "best", None, 0.9),
        (".", "last", 3, 0.9),
    ],
)
def test_annotate_next_learns_from_the_cases_that_were_scored(tmp_path, capsys, place, which, segments, found):
    told = {"voxels_truth": 1, "voxels_predicted": 1, "dice": 0.5, "dice_expected": 0.9}
    rows = [CaseResult(case=f"a{n}", label=1, name="organ", outcome="scored", **told) for n in range(10)]
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    write_cases_csv(tmp_path / place / "cases.csv", rows)
    task = Task({0: "background", 1: "organ"}, ("MR",))
    model = SimpleNamespace(task=task, settings=SimpleNamespace(segments=segments))
    ranking = annotate_next(tmp_path, which, model)
    ranking.add(tmp_path / "b.nii", tmp_path / "masks" / "b.nii", {1: 0.9})
    assert ranking.rows[0]["dice_predicted"] == pytest.approx(found)
    assert ("too few scores to learn from" in capsys.readouterr().err) == (found == 0.9)


def test_summary_says_how_far_the_expected_dice_goes_with_the_found(tmp_path):
    rng = np.random.default_rng(8)
    pairs = [(x, x - 0.1 + rng.normal(0, 0.01)) for x in rng.uniform(0.6, 0.9, 30)]
    rows = [
        CaseResult(
            case=str(n),
            label=1,
            name="organ",
            outcome="scored",
            voxels_truth=1,
            voxels_predicted=1,
            dice=found,
            dice_expected=expected,
        )
        for n, (expected, found) in enumerate(pairs)
    ]
    agreement = summarise(rows).expected_dice
    assert (agreement.n, agreement.bias) == (30, pytest.approx(0.1, abs=0.01))
    assert agreement.pearson == pytest.approx(np.corrcoef(np.array(pairs).T)[0, 1])
    assert agreement.spearman > 0.95
    assert agreement.reasons == {}
    assert json.dumps(summarise(rows[:5]).as_dict()["expected_dice"]["reasons"]).count("fewer") == 2


def test_a_label_without_any_probability_has_an_expected_dice_of_0():
    expectation = Expectation(label_values=(0, 1, 2), reliability=None, truth=None, ignore=None)
    p = np.array([[1, 0.5], [0, 0.5], [0, 0]], np.float32)
    expectation.add(expectation.shares(p), np.array([0, 1]))
    assert expectation.dice()[2] == 0
