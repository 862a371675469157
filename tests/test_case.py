import json
from collections import Counter
from dataclasses import asdict, replace

import numpy as np
import pytest
from metrics_reference import slow_case

from pipeline.metrics import case as scoring
from pipeline.metrics.overlap import CHUNK
from pipeline.metrics.surface import surface_distances
from pipeline.reports.summary import HEADLINES, METRICS, summarise

LABELS = {0: "background", 1: "liver", 5: "spleen", 300: "lesion"}


def slow_scores(truth, prediction, labels, ignore):
    """Count voxel by voxel with sets, which is slow and hard to get wrong."""
    kept = [place for place in np.ndindex(truth.shape) if truth[place] != ignore]
    rows = []
    for value in sorted(set(labels) - {0, ignore}):
        true = {place for place in kept if truth[place] == value}
        predicted = {place for place in kept if prediction[place] == value}
        if not true and not predicted:
            rows.append((value, None, "absent", 0, 0))
            continue
        dice = 2 * len(true & predicted) / (len(true) + len(predicted))
        outcome = "missed" if not predicted else "false_positive" if not true else "scored"
        rows.append((value, dice, outcome, len(true), len(predicted)))
    return rows


def test_masks_of_booleans_are_masks_of_one_class():
    rng = np.random.default_rng(0)
    truth, prediction = rng.random((2, 5, 6, 7)) < 0.5
    expected = score_case("a", truth.astype(np.uint8), prediction.astype(np.uint8), {1: "organ"})
    assert score_case("a", truth, prediction, {1: "organ"}) == expected


def random_maps(rng, ignore=None):
    """Draw two maps of one shape, each with its own choice of classes, so that some are absent."""
    shape = tuple(rng.integers(1, 6, size=rng.integers(1, 4)))
    values = np.array(list(LABELS))
    true, predicted = (rng.choice(values, size=rng.integers(1, 5), replace=False) for _ in range(2))
    if ignore is not None:
        true = np.append(true, ignore)
    dtype = rng.choice(np.array(["int16", "uint16", "int32", "int64"]))
    return rng.choice(true, size=shape).astype(dtype), rng.choice(predicted, size=shape).astype("int32")


def score_case(case, truth, prediction, labels, ignore=None):
    return scoring.score_case(case, truth, prediction, labels, (1.0, 1.0, 1.0), ignore=ignore)


def only(results):
    (result,) = results
    return result


def test_overlap_alone_is_the_same_overlap_without_the_rest():
    rng = np.random.default_rng(4)
    for _ in range(50):
        truth, prediction = random_maps(rng)
        whole, quick = (
            scoring.score_case("a", truth, prediction, LABELS, (1.0, 2.0, 3.0), overlap_only=only_overlap)
            for only_overlap in (False, True)
        )
        nothing = {"hd95_mm": None, "assd_mm": None, "surface_dice": None}
        nothing |= dict.fromkeys(("lesions_truth", "lesions_found", "lesions_missed", "lesions_false"), 0)
        assert quick == [replace(result, **nothing) for result in whole]


@pytest.mark.parametrize("ignore", [None, 255])
def test_scores_equal_a_slow_count_over_random_maps(ignore):
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(200):
        truth, prediction = random_maps(rng, ignore)
        results = score_case("a", truth, prediction, LABELS, ignore)
        rows = [(r.label, r.dice, r.outcome, r.voxels_truth, r.voxels_predicted) for r in results]
        assert rows == slow_scores(truth, prediction, LABELS, ignore)
        assert all((r.case, r.name) == ("a", LABELS[r.label]) for r in results)
        outcomes |= {r.outcome for r in results}
    assert outcomes == {"scored", "absent", "missed", "false_positive"}


@pytest.mark.parametrize(
    ("truth", "prediction", "dice", "outcome"),
    [
        ([1, 1, 0, 0], [1, 0, 0, 0], 2 / 3, "scored"),
        ([1, 0], [0, 1], 0.0, "scored"),
        ([1, 1], [0, 0], 0.0, "missed"),
        ([0, 0], [1, 0], 0.0, "false_positive"),
        ([0, 0], [0, 0], None, "absent"),
    ],
)
def test_each_outcome_has_its_name_and_number(truth, prediction, dice, outcome):
    result = only(score_case("a", np.array(truth), np.array(prediction), {1: "liver"}))
    assert (result.dice, result.outcome) == (dice, outcome)
    assert (result.voxels_truth, result.voxels_predicted) == (sum(truth), sum(prediction))


@pytest.mark.parametrize("ignore", [None, 255])
def test_every_metric_equals_its_definition_on_random_pairs_with_empty_masks(ignore):
    rng = np.random.default_rng(4)
    outcomes = Counter()
    for n in range(300):
        truth, prediction = random_bodies(rng, flat=n % 4 == 0, ignore=ignore)
        spacing, tolerance = tuple(rng.uniform(0.3, 4, size=3)), rng.uniform(0.3, 6)
        results = scoring.score_case(
            "a", truth, prediction, {1: "organ", 7: "lesion"}, spacing, ignore=ignore, tolerance_mm=tolerance
        )
        truth, prediction = (np.where(truth == ignore, 0, labels) for labels in (truth, prediction))
        for result in results:
            expected = slow_case(truth, prediction, result.label, spacing, tolerance)
            known = {name: value for name, value in expected.items() if value is not None}
            assert {name: getattr(result, name) for name in known} == pytest.approx(known, rel=1e-6, abs=1e-6)
            assert all(getattr(result, name) is None for name in expected if name not in known)
            outcomes[result.outcome] += 1
    assert sum(outcomes.values()) == 600
    assert min(outcomes[name] for name in ("scored", "absent", "missed", "false_positive")) > 20


def random_bodies(rng, flat=False, ignore=None):
    """Draw two label maps with values 1 and 7, as boxes and specks, each of them empty now and then."""
    shape = (*rng.integers(2, 8, size=2), 1) if flat else tuple(rng.integers(1, 7, size=3))
    maps = []
    for _ in range(2):
        labels = np.zeros(shape, np.uint8)
        for value in (1, 7):
            if rng.random() < 0.75:
                start = rng.integers(0, shape)
                labels[tuple(slice(a, a + rng.integers(1, 5)) for a in start)] = value
            if rng.random() < 0.4:
                labels[rng.random(shape) < rng.uniform(0, 0.3)] = value
        maps.append(labels)
    if ignore is not None:
        maps[0][rng.random(shape) < 0.1] = ignore
    return maps


def scored(truth, prediction, spacing=(1.0, 2.0, 1.5), tolerance_mm=1.0, case="a"):
    return scoring.score_case(case, truth, prediction, {1: "organ", 7: "lesion"}, spacing, tolerance_mm=tolerance_mm)


def numbers(result):
    """The metrics of a result; that there is no number is a number of its own, so that results can be compared."""
    return {name: -99.0 if getattr(result, name) is None else getattr(result, name) for name in METRICS}


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_flips_change_nothing(axis):
    rng = np.random.default_rng(5)
    for _ in range(60):
        maps = random_bodies(rng)
        for one, other in zip(scored(*maps), scored(*(np.flip(m, axis) for m in maps)), strict=True):
            assert numbers(other) == pytest.approx(numbers(one), rel=1e-9)


@pytest.mark.parametrize("axes", [(1, 0, 2), (2, 1, 0), (1, 2, 0)])
def test_turning_a_scan_with_its_spacing_changes_nothing(axes):
    rng, spacing = np.random.default_rng(6), (1.0, 2.0, 1.5)
    for _ in range(60):
        maps = random_bodies(rng)
        turned = scored(*(m.transpose(axes) for m in maps), tuple(spacing[axis] for axis in axes))
        for one, other in zip(scored(*maps), turned, strict=True):
            assert numbers(other) == pytest.approx(numbers(one), rel=1e-9)


def test_swapping_the_values_of_two_classes_swaps_their_scores():
    rng, swap = np.random.default_rng(7), np.array([0, 7, 2, 3, 4, 5, 6, 1])
    for _ in range(60):
        maps = random_bodies(rng)
        one, other = scored(*maps), scored(*(swap[m] for m in maps))
        assert [numbers(r) for r in one] == [numbers(r) for r in reversed(other)]


def test_swapping_truth_and_prediction_swaps_precision_and_recall_and_the_sign_of_the_volume():
    rng = np.random.default_rng(8)
    for _ in range(60):
        truth, prediction = random_bodies(rng)
        for one, other in zip(scored(truth, prediction), scored(prediction, truth), strict=True):
            if one.outcome == "absent":
                continue
            back = numbers(one) | {"precision": one.recall, "recall": one.precision}
            back["volume_difference"] = -one.volume_difference
            assert numbers(other) == pytest.approx(back, rel=1e-9)


@pytest.mark.parametrize("factor", [0.1, 3.7])
def test_distances_scale_with_the_spacing_and_shares_do_not(factor):
    rng = np.random.default_rng(9)
    for _ in range(60):
        maps, spacing = random_bodies(rng), tuple(rng.uniform(0.5, 3, size=3))
        tolerance = rng.uniform(0.5, 4)
        larger = scored(*maps, tuple(factor * s for s in spacing), factor * tolerance)
        for one, other in zip(scored(*maps, spacing, tolerance), larger, strict=True):
            assert other.volume_truth_ml == pytest.approx(factor**3 * one.volume_truth_ml)
            scaled = {name: v * factor if name.endswith("_mm") and v >= 0 else v for name, v in numbers(one).items()}
            assert numbers(other) == pytest.approx(scaled, rel=1e-6)


def test_deleting_a_structure_that_is_there_makes_no_headline_better():
    rng = np.random.default_rng(10)
    fell = Counter()
    for _ in range(100):
        pairs = [random_bodies(rng) for _ in range(3)]
        value = int(rng.choice([1, 7]))
        spared = [(t, np.where((p == value) & (t == value).any(), 0, p)) for t, p in pairs]
        before, after = (
            summarise([r for n, maps in enumerate(side) for r in scored(*maps, case=str(n))]).means
            for side in (pairs, spared)
        )
        for name in HEADLINES:
            if before[name].value is not None:
                loss = (after[name].value - before[name].value) * (1 if name.endswith("_mm") else -1)
                assert loss >= -1e-12, name
                fell[name] += loss > 1e-12
    assert all(fell[name] > 50 for name in HEADLINES), fell


def test_a_structure_as_thin_as_a_voxel_has_both_its_sides():
    mask = np.zeros((5, 5, 5), np.uint8)
    mask[2, 1:4, 1:4] = 1
    found = surface_distances(mask > 0, mask > 0, (1.0, 1.0, 1.0))
    assert 18 < found.truth.area_mm2 < 30
    (result, _) = scored(mask, np.roll(mask, 1, axis=0), (4.0, 1.0, 1.0))
    assert result.hd95_mm == 4.0


def test_penalty_is_the_diagonal_of_the_field_of_view_and_no_distance_is_longer():
    truth, prediction = np.zeros((2, 6, 7, 8), np.uint8)
    truth[0, 0, 0], prediction[-1, -1, -1] = 1, 1
    spacing, diagonal = (1.0, 2.0, 3.0), np.sqrt(6**2 + 14**2 + 24**2)
    far, missed = (scored(truth, labels, spacing)[0] for labels in (prediction, truth * 0))
    assert missed.hd95_mm == missed.assd_mm == pytest.approx(diagonal)
    assert 0.7 * diagonal < far.assd_mm <= far.hd95_mm <= diagonal


def test_noise_is_measured_by_the_transform_and_agrees_with_the_tree(monkeypatch):
    rng = np.random.default_rng(11)
    masks = [rng.random((12, 13, 14)) < 0.3 for _ in range(2)]
    spacing = (0.7, 1.1, 2.3)
    found = []
    for dense in (10**9, 0):
        monkeypatch.setattr("pipeline.metrics.surface.DENSE", dense)
        found.append(surface_distances(*masks, spacing))
    transform, tree = found
    assert (transform.hd95_mm, transform.assd_mm) == pytest.approx((tree.hd95_mm, tree.assd_mm), rel=1e-6)


def test_a_scan_of_one_voxel_is_scored():
    voxel = np.ones((1, 1, 1), np.uint8)
    assert scored(voxel, voxel)[0].hd95_mm == 0.0


def test_axes_beyond_three_are_refused():
    with pytest.raises(ValueError, match="three axes"):
        scored(np.zeros((2, 2, 2, 2), int), np.zeros((2, 2, 2, 2), int))


def test_an_array_longer_than_a_chunk_is_counted_to_its_end():
    truth = np.zeros(CHUNK + 3, dtype=np.uint8)
    truth[-4:] = 1
    result = only(score_case("a", truth, np.roll(truth, -1), {1: "liver"}))
    assert (result.dice, result.voxels_truth, result.voxels_predicted) == (0.75, 4, 4)


def test_memory_order_does_not_matter():
    truth, prediction = np.random.default_rng(0).choice(list(LABELS), size=(2, 4, 5, 6))
    assert score_case("a", np.asfortranarray(truth), prediction, LABELS) == score_case("a", truth, prediction, LABELS)


def test_renaming_the_values_renames_the_results_and_no_more():
    rng = np.random.default_rng(1)
    swap = np.arange(301)
    swap[[1, 5, 300]] = [5, 300, 1]
    renamed = {int(swap[value]): name for value, name in LABELS.items()}
    for _ in range(50):
        truth, prediction = random_maps(rng)
        before = {r.name: r.dice for r in score_case("a", truth, prediction, LABELS)}
        assert before == {r.name: r.dice for r in score_case("a", swap[truth], swap[prediction], renamed)}


def test_ignored_voxels_count_nowhere_even_where_the_prediction_is_unknown():
    truth, prediction = np.array([1, 255, 255, 0]), np.array([1, 1, 99, 0])
    result = only(score_case("a", truth, prediction, {1: "liver"}, ignore=255))
    assert (result.dice, result.voxels_predicted) == (1.0, 1)


def test_a_class_that_is_ignored_has_no_row():
    truth, prediction = np.array([1, 255]), np.array([1, 0])
    results = score_case("a", truth, prediction, {1: "liver", 255: "unsure"}, ignore=255)
    assert [result.name for result in results] == ["liver"]


def test_numbers_are_plain_so_that_json_takes_them():
    result = only(score_case("a", np.array([1, 1]), np.array([1, 0]), {np.int16(1): "liver"}))
    assert [type(v) for v in (result.label, result.dice, result.voxels_truth)] == [int, float, int]


@pytest.mark.parametrize("what", ["truth", "prediction"])
def test_values_without_a_class_are_named(what):
    maps = {"truth": np.array([0, 1, 1]), "prediction": np.array([0, 1, 1]), what: np.array([-3, 1, 44])}
    with pytest.raises(ValueError, match=rf"'a': the {what} holds \[-3, 44\]; the labels are \[0, 1\]"):
        score_case("a", maps["truth"], maps["prediction"], {1: "liver"})


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"truth is \(2, 3\) but prediction is \(3, 2\)"):
        score_case("a", np.zeros((2, 3), int), np.zeros((3, 2), int), {1: "liver"})


def test_maps_that_are_no_integers_are_refused():
    with pytest.raises(ValueError, match="prediction is float64; labels must be integers"):
        score_case("a", np.zeros(3, int), np.zeros(3), {1: "liver"})


def test_a_truth_that_is_all_background_is_no_perfect_score():
    results = score_case("a", np.zeros(8, int), np.zeros(8, int), LABELS)
    assert summarise(results).mean_dice is None


def test_deleting_a_structure_that_is_there_never_raises_the_mean():
    rng = np.random.default_rng(2)
    fell = 0
    for _ in range(100):
        maps = [random_maps(rng) for _ in range(3)]
        deleted = int(rng.choice([1, 5, 300]))
        spared = [
            (truth, np.where((prediction == deleted) & (truth == deleted).any(), 0, prediction))
            for truth, prediction in maps
        ]
        before, after = (
            summarise([r for i, pair in enumerate(pairs) for r in score_case(str(i), *pair, LABELS)])
            for pairs in (maps, spared)
        )
        if before.mean_dice is None:
            continue
        assert after.mean_dice is not None
        assert after.mean_dice <= before.mean_dice
        fell += after.mean_dice < before.mean_dice
    assert fell > 10


def test_inventing_a_structure_lowers_the_mean():
    truth = np.array([1, 1, 0, 0])
    honest = summarise(score_case("a", truth, truth, LABELS))
    invented = summarise(score_case("a", truth, np.array([1, 1, 0, 5]), LABELS))
    assert (honest.mean_dice, invented.mean_dice) == (1.0, 0.5)


def test_sizes_of_voxels_in_single_precision_give_numbers_that_json_has():
    truth = np.array([[[0, 1, 1]]])
    (row,) = scoring.score_case("a", truth, truth, {1: "a"}, np.array([0.5, 0.5, 2], np.float32))
    assert json.loads(json.dumps(asdict(row)))["volume_truth_ml"] == 0.001
