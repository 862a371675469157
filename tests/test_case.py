import numpy as np
import pytest

from pipeline.metrics import case as scoring
from pipeline.metrics.overlap import CHUNK
from pipeline.reports.summary import summarise

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


@pytest.mark.parametrize("ignore", [None, 255])
def test_scores_equal_a_slow_count_over_random_maps(ignore):
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(300):
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
    for _ in range(200):
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
    assert fell > 20


def test_inventing_a_structure_lowers_the_mean():
    truth = np.array([1, 1, 0, 0])
    honest = summarise(score_case("a", truth, truth, LABELS))
    invented = summarise(score_case("a", truth, np.array([1, 1, 0, 5]), LABELS))
    assert (honest.mean_dice, invented.mean_dice) == (1.0, 0.5)
