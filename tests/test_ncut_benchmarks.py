"""What the N-cut benchmarks claim: the peers that they time compute the same, and the right partition costs least."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

from pipeline.losses import ClassMeanNCutLoss, NCutLoss


@pytest.fixture
def script(monkeypatch):
    """A function that imports one of the benchmarks."""
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[1] / "benchmarks")
    return importlib.import_module


@pytest.mark.parametrize("size", [(9, 12), (6, 7, 8)])
def test_the_peers_compute_what_ours_do(script, size):
    bench = script("bench_ncut")
    logits, image, _ = bench.inputs(size, 3)
    exact = NCutLoss(radius=3, sigma_intensity=0.75, normalize=False)
    torch.testing.assert_close(bench.unfold_ncut(logits, image, 3, 2.4, 0.75), exact(logits, image))
    means = ClassMeanNCutLoss(radius=3)
    torch.testing.assert_close(bench.convolved_class_mean(logits, image, 3), means(logits, image))


def test_the_right_partition_costs_least(script):
    ranking = script("rank_ncut")
    shares = ranking.rank(24, ranking.CONTRASTS["clear"])
    assert shares["exact"] == dict.fromkeys(ranking.WRONG, 1.0)
    # The common approximation prefers a half-plane, and without its kernel it sees no difference at all.
    assert shares["class means, spatial"]["half-plane"] < 0.5
    assert shares["class means, no kernel"]["random"] < 0.5
