"""The figures that the README states, trained anew: minutes each, so only `make test-slow` runs them."""

from pathlib import Path

import pytest
import torch

from pipeline import runs

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "listing", "least"),
    [
        ("supervised.yaml", "list_labelled_160_draw0.json", 0.87),
        ("semisupervised.yaml", "list_labelled_010_draw0.json", 0.83),
    ],
)
def test_shipped_recipe_reaches_its_figure_on_the_hippocampus(hippocampus, tmp_path, recipe, listing, least):
    torch.set_num_threads(2)
    scores = runs.train(runs.read_recipe(CONFIGS / recipe, [f"dataset={hippocampus / listing}"]), tmp_path / "run")
    assert scores.summary.n_cases == 40
    assert scores.summary.mean_dice >= least
