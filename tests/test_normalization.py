"""How intensities are normalised: what the plan chooses, and that training, cache and prediction do the same."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_plan import CPU, facts, index, recipe

from pipeline.data.normalization import IntensityRange, Normalized
from pipeline.data.statistics import ChannelStatistics, Intensities
from pipeline.data.transforms import Grid, case_transforms, scan_transforms
from pipeline.data_section import HounsfieldWindow, ZScore
from pipeline.errors import UserError
from pipeline.nifti.volume import load
from pipeline.planning.normalization import choose_normalization, is_like_ct
from pipeline.planning.plan import make_plan
from pipeline.planning.settings import settle
from pipeline.runs.batches import build_ranges

AUTO_CT = HounsfieldWindow(scheme="ct")


def described(*regions, shape=(20, 20, 20)):
    """A scan of which each channel's foreground and nonzero intensities are given."""
    channels = tuple(
        ChannelStatistics(Intensities.of(np.array(nonzero)), None if inside is None else Intensities.of(inside))
        for nonzero, inside in regions
    )
    case = facts(shape, (1, 1, 1))
    return replace(case, intensities=channels)


HU = np.arange(-1000.0, 1001.0)
ORGAN = np.random.default_rng(0).normal(60, 20, 50_000)


def test_ct_is_clipped_to_its_foreground_and_everything_else_stands_on_its_own():
    scans = [described((HU, ORGAN), (HU, ORGAN))] * 3
    ct, mr = choose_normalization("auto", ("CT", "T1"), scans)
    assert mr == ZScore(scheme="zscore")
    low, high = np.quantile(ORGAN, (0.005, 0.995))
    assert (ct.low, ct.high, ct.mean, ct.std) == pytest.approx((low, high, ORGAN.mean(), ORGAN.std()), abs=0.5)


def test_scans_without_masks_are_clipped_to_what_they_hold():
    (ct,) = choose_normalization("auto", ("CT",), [described((HU, None))])
    assert (ct.low, ct.high) == pytest.approx((-990, 990), abs=2)
    (labelled,) = choose_normalization("auto", ("CT",), [described((HU, None)), described((HU, ORGAN))])
    assert labelled.low > 0


def test_own_numbers_stay_and_the_others_are_filled_in():
    given = (HounsfieldWindow(scheme="ct", low=-160.0, high=240.0),)
    (ct,) = choose_normalization(given, ("image",), [described((HU, ORGAN))])
    assert (ct.low, ct.high) == (-160, 240)
    assert ct.mean == pytest.approx(60, abs=1)


@pytest.mark.parametrize(
    ("values", "given"),
    [
        ([7.0] * 50, {}),
        ([0.001, 0.002] * 50, {}),  # Equal once they are rounded.
        ([0.0], {}),
        (ORGAN, {"low": 5000.0}),
        (ORGAN, {"high": -5000.0}),
        (ORGAN, {"low": 1e9 - 100}),
    ],
)
def test_a_window_that_is_filled_in_can_be_read_again(values, given):
    asked = HounsfieldWindow(scheme="ct", **given)
    (window,) = choose_normalization((asked,), ("CT",), [described((HU, np.array(values)))])
    assert HounsfieldWindow.model_validate(window.model_dump()) == window
    assert window.high > window.low
    assert all(getattr(window, key) == value for key, value in given.items())


@pytest.mark.parametrize(("value", "given"), [(1e12, {}), (1e9, {}), (-1e9, {"high": -1e9})])
def test_values_that_no_window_holds_are_told(value, given):
    asked = HounsfieldWindow(scheme="ct", **given)
    with pytest.raises(UserError, match=r"is ct, and the scans hold values from .*\n.*use zscore"):
        choose_normalization((asked,), ("CT",), [described((HU, np.array([value] * 9)))])


def test_every_channel_needs_a_scheme():
    with pytest.raises(UserError, match=r"data\.normalization: has 1 entries, and the scans have 2 channel"):
        choose_normalization((AUTO_CT,), ("a", "b"), [])


@pytest.mark.parametrize(("low", "expected"), [(-1024.0, True), (-400.0, False), (0.0, False)])
def test_undeclared_ct_is_seen_by_its_air(low, expected):
    assert is_like_ct([described((np.linspace(low, 900, 99), None))], 0) is expected
    assert is_like_ct([facts((8, 8, 8), (1, 1, 1))], 0) is False


def test_a_plan_resolves_it_and_a_run_builds_it():
    scan = described((HU, ORGAN))
    named = index(scan)
    plan = make_plan(recipe(data={"normalization": ("ct",)}), named, CPU).recipe
    (window,) = plan.data.normalization
    assert build_ranges(settle(plan)) == (IntensityRange(window.low, window.high, window.mean, window.std),)
    assert make_plan(plan, named, CPU).recipe == plan
    assert build_ranges(settle(make_plan(recipe(), named, CPU).recipe)) == (None,)


def test_a_range_clips_and_scales_every_scan_alike():
    image = torch.tensor([[-2000.0, -100.0, 0.0, 100.0, 3000.0]])
    result = Normalized("image", [IntensityRange(-100, 300, 50, 25)])({"image": image.clone()})["image"]
    assert result.tolist() == [[-6, -6, -2, 2, 10]]


def test_each_channel_has_its_own_way():
    image = torch.stack([torch.arange(8.0)] * 2).reshape(2, 2, 2, 2)
    result = Normalized("image", [IntensityRange(0, 4, 0, 2), None])({"image": image})["image"]
    assert result[0].max() == 2
    assert float(result[1].flatten()[1:].mean()) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="zip"):
        Normalized("image", [None])({"image": image})


def test_training_and_prediction_see_the_same_intensities(make_scan):
    scan = load(make_scan("a.nii", np.random.default_rng(0).integers(-1000, 1000, (9, 8, 7)).astype(np.int16)))
    grid, ranges = Grid("RAS", (1.5, 1.0, 1.0)), (IntensityRange(-200, 300, 40, 70),)
    taught = case_transforms(grid, [0, 1], ranges)({"image": scan})["image"]
    predicted = scan_transforms(grid, ranges)({"image": scan})["image"]
    assert torch.equal(taught.as_tensor(), predicted.as_tensor())
    assert float(taught.max()) == pytest.approx(260 / 70)


def test_the_number_of_threads_does_not_matter():
    image = torch.randn(1, 96, 96, 96).mul(300).add(1000)

    def normalized(threads):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        result = Normalized("image")({"image": image.clone()})["image"]
        torch.set_num_threads(before)
        return result

    assert torch.equal(normalized(1), normalized(4))
