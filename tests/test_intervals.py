import numpy as np
import pytest

from pipeline.reports.intervals import describe, mean_interval, mean_of_means


def slow_interval(values, patients, resamples=20_000):
    """Draw patients with replacement, one after the other, and take percentiles of the means of means."""
    rng, names, means = np.random.default_rng(7), sorted(set(patients)), []
    rows = {name: [row for row, patient in zip(values, patients, strict=True) if patient == name] for name in names}
    for _ in range(resamples):
        drawn = np.array([row for name in rng.choice(names, len(names)) for row in rows[name]])
        classes = [column[np.isfinite(column)].mean() for column in drawn.T if np.isfinite(column).any()]
        means.append(np.mean(classes))
    return np.quantile(means, [0.025, 0.975])


def cohort(rng, n, classes=2, patients=None):
    values = np.clip(rng.normal(0.8, 0.1, size=(n, classes)), 0, 1)
    values[rng.random(values.shape) < 0.2] = np.nan
    values[0] = 0.5
    return values, [f"p{i if patients is None else rng.integers(patients)}" for i in range(n)]


@pytest.mark.parametrize("patients", [None, 6], ids=["a case each", "several cases each"])
def test_interval_is_that_of_a_plain_bootstrap_over_patients(patients):
    values, names = cohort(np.random.default_rng(0), 24, patients=patients)
    np.testing.assert_allclose(mean_interval(values, names), slow_interval(values, names, 4000), atol=0.006)


def test_interval_holds_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    intervals = [mean_interval(rng.normal(0.8, 0.1, size=(40, 1)), list(map(str, range(40)))) for _ in range(200)]
    assert 0.90 < np.mean([low <= 0.8 <= high for low, high in intervals]) < 0.99


def test_cases_of_few_patients_make_a_wider_interval_than_as_many_patients():
    rng = np.random.default_rng(2)
    values = np.repeat(rng.normal(0.8, 0.1, size=(8, 1)), 5, axis=0)
    together, apart = (mean_interval(values, [str(i // n) for i in range(40)]) for n in (5, 1))
    assert together[1] - together[0] > 1.8 * (apart[1] - apart[0])


def test_interval_is_the_same_again_and_in_any_order_of_the_cases():
    values, names = cohort(np.random.default_rng(3), 30, patients=9)
    order = np.random.default_rng(4).permutation(30)
    again = mean_interval(values[order], [names[i] for i in order])
    assert mean_interval(values, names) == mean_interval(values, names)
    assert again == pytest.approx(mean_interval(values, names), abs=1e-12)


def test_one_patient_has_no_interval():
    assert mean_interval(np.array([[0.5], [0.7]]), ["a", "a"]) is None
    found = describe([0.5, 0.7, None], ["a", "a", "b"])
    assert (found.mean, found.interval) == (0.6, None)
    assert "two" in found.reasons["interval"]


def test_numbers_all_alike_have_an_interval_of_no_width():
    assert describe([0.5] * 4, list("abcd")).interval == (0.5, 0.5)


def test_mean_of_means_weighs_classes_alike_and_leaves_out_those_without_a_number():
    values = np.array([[1.0, 0.0, np.nan], [0.5, np.nan, np.nan]])
    assert mean_of_means(values) == 0.375
    assert np.isnan(mean_of_means(np.full((2, 2), np.nan)))
