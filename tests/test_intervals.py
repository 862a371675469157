"""Intervals: their level on drawn patients, their ends beside other ways to compute them, and when there is none."""

import importlib
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from pipeline.reports.intervals import FEWEST, TOO_FEW, describe, mean_interval, mean_of_means, median_interval

SPAN = (0.0, 1.0)
# The sizes of the reduced grid and its draws; `benchmarks/bench_intervals.py` is the whole one.
SIZES, DRAWS = (6, 15, 40), 300
# The least share that is called holding the level. At 0.95, 300 draws give less once in eighteen times.
LEAST = 0.93


@pytest.fixture(scope="module")
def bench():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).resolve().parents[1] / "benchmarks")
        yield importlib.import_module("bench_intervals")


def names(n):
    return [f"p{i:03d}" for i in range(n)]


def cohort(rng, n, classes=2, patients=None):
    values = np.clip(rng.normal(0.8, 0.1, size=(n, classes)), 0, 1)
    values[rng.random(values.shape) < 0.2] = np.nan
    values[0] = 0.5
    return values, [f"p{i if patients is None else rng.integers(patients)}" for i in range(n)]


# The level


@pytest.mark.parametrize("size", SIZES)
def test_interval_of_a_mean_holds_its_level_for_every_shape(bench, size):
    covered = {name: bench.cover_mean(shape, size, DRAWS, usual=False) for name, shape in bench.MEANS.items()}
    covered |= {name: bench.cover_table(table, size, DRAWS) for name, table in bench.TABLES.items()}
    assert {
        name: found["ours"]["coverage"] for name, found in covered.items() if found["ours"]["coverage"] < LEAST
    } == {}


@pytest.mark.parametrize("size", SIZES)
def test_interval_of_a_median_holds_its_level_for_every_shape(bench, size):
    covered = {name: bench.cover_median(shape, size, 4 * DRAWS) for name, shape in bench.MEDIANS.items()}
    assert {
        name: found["ours"]["coverage"] for name, found in covered.items() if found["ours"]["coverage"] < LEAST
    } == {}


def covered(bench, sizes, draws):
    """The share of draws in which the interval holds the mean, by number of patients and shape; None: none is given."""
    table = {}
    for n in sizes:
        rng = np.random.default_rng([n, draws])
        for name, shape in bench.MEANS.items():
            truth = bench.truth_of(shape, np.mean)
            found = [mean_interval(shape(rng, n)[:, None], names(n), SPAN) for _ in range(draws)]
            held = [low <= truth + 1e-9 and truth - 1e-9 <= high for low, high in filter(None, found)]
            assert len(held) in (0, draws)
            table[n, name] = float(np.mean(held)) if held else None
    return table


def test_two_to_forty_patients_have_an_interval_that_holds_or_none(bench):
    table = covered(bench, range(2, 41), 8)
    assert {n for n, _ in table if table[n, "normal"] is None} == set(range(2, FEWEST))
    known = {place: share for place, share in table.items() if share is not None}
    by_size = {n: np.mean([known[n, name] for name in bench.MEANS]) for n in range(FEWEST, 41)}
    by_shape = {name: np.mean([known[n, name] for n in range(FEWEST, 41)]) for name in bench.MEANS}
    assert {place: share for place, share in (by_size | by_shape).items() if share < LEAST} == {}


@pytest.mark.slow
def test_coverage_table_of_two_to_forty_patients(bench):
    table = covered(bench, range(2, 41), 400)
    print("\n| n | " + " | ".join(bench.MEANS) + " |")
    for n in range(2, 41):
        shares = [table[n, name] for name in bench.MEANS]
        told = ["too few to say" if share is None else f"{share:.3f}" for share in shares]
        print(f"| {n} | {' | '.join(told)} |")
    assert {place: share for place, share in table.items() if share is not None and share < LEAST} == {}


def test_without_failures_the_lower_end_is_that_of_the_failures_that_may_have_been_missed():
    for n in (6, 20, 100):
        low, _ = mean_interval(np.full((n, 1), 0.9), names(n), SPAN)
        assert low == pytest.approx(0.9 * 0.025 ** (1 / n), abs=1e-3)


def test_what_is_usual_would_not_pass_this(bench):
    found = bench.cover_mean(bench.MEANS["3 % fail"], 20, DRAWS)
    assert {name: found[name]["coverage"] < 0.7 for name in ("t", "Johnson's t", "bootstrap")} == dict.fromkeys(
        ("t", "Johnson's t", "bootstrap"), True
    )


@pytest.mark.parametrize("n", range(FEWEST))
def test_fewer_than_six_patients_have_no_interval(n):
    values = np.linspace(0.5, 0.9, n)
    assert mean_interval(values[:, None], names(n), SPAN) is None
    assert median_interval(values) is None


def test_six_patients_have_one():
    values = np.linspace(0.5, 0.9, 6)
    low, high = mean_interval(values[:, None], names(6), SPAN)
    assert 0.2 < low < 0.5 < 0.8 < high < 0.9
    assert median_interval(values) == (0.5, 0.9)


def test_too_few_patients_are_counted_and_told_what_to_do():
    found = describe([0.5, 0.7, None, 0.9], ["a", "a", "b", "c"], SPAN)
    assert (found.mean, found.interval) == (pytest.approx(0.7), None)
    assert found.reasons["interval"].startswith(f"{TOO_FEW}: 2 patients,")
    assert "--folds N" in found.reasons["interval"]


def test_mean_of_numbers_without_a_range_has_no_interval_and_a_reason():
    found = describe([float(n) for n in range(40)], names(40), None)
    assert found.interval is None
    assert "any size" in found.reasons["interval"]


# The ends


@pytest.mark.parametrize(("n", "failures"), [(6, 0), (6, 2), (12, 1), (30, 3), (30, 30)])
def test_interval_of_zeros_and_ones_is_that_of_clopper_and_pearson(n, failures):
    values = np.array([0.0] * failures + [1.0] * (n - failures))[:, None]
    exact = stats.binomtest(n - failures, n).proportion_ci(0.95, method="exact")
    assert mean_interval(values, names(n), SPAN) == pytest.approx((exact.low, exact.high), abs=0.012)


def test_ends_are_quantiles_of_the_weighed_means_with_one_more_patient():
    rng = np.random.default_rng(11)
    values = rng.uniform(0.6, 0.9, 8)
    weights = rng.dirichlet(np.ones(9), size=200_000)
    worst, best = (np.quantile(weights @ [*values, end], share) for end, share in ((0, 0.025), (1, 0.975)))
    assert mean_interval(values[:, None], names(8), SPAN) == pytest.approx((worst, best), abs=0.004)


def test_another_range_moves_the_ends():
    values = np.linspace(-0.1, 0.1, 20)[:, None]
    inner, outer = (mean_interval(values, names(20), span) for span in ((-1, 1), (-2, 2)))
    assert outer[0] < inner[0] < 0 < inner[1] < outer[1]
    scaled = mean_interval((values + 1) / 2, names(20), SPAN)
    assert inner == pytest.approx([2 * end - 1 for end in scaled], abs=1e-6)


def test_cases_of_few_patients_make_a_wider_interval_than_as_many_patients():
    rng = np.random.default_rng(2)
    values = np.repeat(rng.normal(0.8, 0.1, size=(8, 1)), 5, axis=0)
    together, apart = (mean_interval(values, [str(i // n) for i in range(40)], SPAN) for n in (5, 1))
    assert together[1] - together[0] > 1.8 * (apart[1] - apart[0])


def test_interval_is_the_same_again_and_in_any_order_of_the_cases():
    values, patients = cohort(np.random.default_rng(3), 30, patients=9)
    order = np.random.default_rng(4).permutation(30)
    again = mean_interval(values[order], [patients[i] for i in order], SPAN)
    assert mean_interval(values, patients, SPAN) == mean_interval(values, patients, SPAN)
    assert again == pytest.approx(mean_interval(values, patients, SPAN), abs=1e-12)


def test_numbers_all_alike_leave_room_for_patients_unlike_them():
    low, high = describe([1.0] * 10, names(10), SPAN).interval
    assert (low, high) == (pytest.approx(0.025 ** (1 / 10), abs=0.01), 1.0)


def test_median_lies_between_the_same_numbers_as_scipy_says():
    values = np.random.default_rng(5).normal(size=33)
    exact = stats.quantile_test(values, p=0.5).confidence_interval(0.95)
    assert median_interval(values) == (exact.low, exact.high)


def test_mean_of_means_weighs_classes_alike_and_leaves_out_those_without_a_number():
    values = np.array([[1.0, 0.0, np.nan], [0.5, np.nan, np.nan]])
    assert mean_of_means(values) == 0.375
    assert np.isnan(mean_of_means(np.full((2, 2), np.nan)))
