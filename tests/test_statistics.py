"""Intensity statistics against NumPy over all voxels."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from pipeline.data.inspection import Declared, examine_case
from pipeline.data.statistics import MOST_VOXELS, PROBABILITIES, Intensities, channel_statistics, pool
from pipeline.types import Case


@pytest.mark.parametrize("size", [1, 2, 13, 1000, MOST_VOXELS])
@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.uint8])
def test_small_region_is_described_exactly(size, dtype):
    values = (np.random.default_rng(size).gamma(2, 20, size)).astype(dtype)
    found = Intensities.of(values)
    assert found.voxels == size
    np.testing.assert_allclose(found.quantiles, np.quantile(values.astype(float), PROBABILITIES), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose((found.mean, found.std), (values.astype(float).mean(), values.astype(float).std()), 1e-5)


def test_large_region_is_described_closely():
    values = np.random.default_rng(0).gamma(2, 20, 40 * MOST_VOXELS).astype(np.float32)
    found = Intensities.of(values)
    assert found.voxels == len(values)
    ranks = np.searchsorted(np.sort(values), found.quantiles[1:-1]) / len(values)
    assert np.abs(ranks - PROBABILITIES[1:-1]).max() < 0.005
    assert found.mean == pytest.approx(values.mean(), rel=0.02)


def test_large_grid_is_described_by_all_of_its_columns():
    grid = np.broadcast_to(np.arange(1.0, 257.0, dtype=np.float32), (128, 128, 256))
    found = Intensities.of(np.ascontiguousarray(grid).ravel())
    np.testing.assert_allclose(found.quantiles, np.quantile(grid, PROBABILITIES), atol=1)


def test_zeros_and_background_are_left_out():
    channel = np.zeros((4, 4, 4), np.int16)
    channel[0], channel[1] = 10, 20
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[1:] = 3
    ((both, none),) = ((s.nonzero, s.foreground) for s in channel_statistics([channel], None))
    assert (both.voxels, both.mean, none) == (32, 15, None)
    (found,) = channel_statistics([channel], labels)
    assert (found.foreground.voxels, found.foreground.quantiles[0], found.foreground.quantiles[-1]) == (48, 0, 20)
    (empty,) = channel_statistics([channel * 0], labels * 0)
    assert (empty.nonzero, empty.foreground) == (None, None)


def test_pooled_scans_weigh_the_same_whatever_their_size():
    rng = np.random.default_rng(0)
    parts = [rng.normal(centre, 5 + n, 3000).astype(np.float32) for n, centre in enumerate((0, 40, 45, 100))]
    pooled = pool([Intensities.of(part) for part in parts])
    together = np.concatenate(parts).astype(float)
    assert pooled.voxels == 12000
    assert (pooled.mean, pooled.std) == pytest.approx((together.mean(), together.std()), rel=1e-4)
    # The median lies in the gap between scans, where any value of the gap is one.
    inner = [n for n, p in enumerate(PROBABILITIES) if 0 < p < 1 and p not in (0.25, 0.5, 0.75)]
    ranks = [(together < pooled.quantiles[n]).mean() for n in inner]
    np.testing.assert_allclose(ranks, np.array(PROBABILITIES)[inner], atol=0.02)
    doubled = pool([Intensities.of(np.repeat(parts[0], 9)), *map(Intensities.of, parts[1:])])
    assert doubled.mean == pytest.approx(pooled.mean)


def test_pooling_one_scan_or_constant_scans_is_exact():
    one = Intensities.of(np.arange(1000.0))
    np.testing.assert_allclose(pool([one]).quantiles, one.quantiles, atol=0.5)
    constant = pool([Intensities.of(np.full(9, 7.0))] * 3)
    assert (constant.mean, constant.std, set(constant.quantiles)) == (7, 0, {7.0})
    with pytest.raises(ValueError, match="nothing"):
        pool([])


def test_check_keeps_them_for_every_channel(make_scan):
    rng = np.random.default_rng(0)
    images = [make_scan(f"{n}.nii.gz", rng.normal(100 * n, 1, (6, 7, 8)).astype(np.float32)) for n in (1, 2)]
    label = make_scan("label.nii.gz", np.eye(6, 7, dtype=np.uint8)[..., None].repeat(8, 2))
    facts, problems = examine_case(Case(id="a", images=tuple(images), label=label, patient="a"), Declared())
    assert problems == []
    assert [round(s.foreground.mean / 100) for s in facts.intensities] == [1, 2]
    assert [s.foreground.voxels for s in facts.intensities] == [48, 48]
    assert [s.nonzero.voxels for s in facts.intensities] == [336, 336]
    assert len(json.dumps(asdict(facts)["intensities"])) < 1500
