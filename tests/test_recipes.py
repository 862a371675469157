"""The recipes that are shipped."""

from pathlib import Path

import pytest
from runs_fixtures import make_phantom, state_of

from pipeline import config, runs
from pipeline.errors import UserError
from pipeline.losses import LOSSES
from pipeline.runs.components import COMPONENTS

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
RECIPES = sorted(CONFIGS.glob("*.yaml"))


def parse(path, *overrides):
    return config.parse(config.read(path, overrides), str(path), COMPONENTS)


def test_there_are_recipes():
    assert {path.name for path in RECIPES} >= {"supervised.yaml", "semisupervised.yaml", "unsupervised.yaml"}
    assert {path.suffix for path in CONFIGS.iterdir()} == {".yaml"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
class TestEveryRecipe:
    def test_parses_with_a_dataset(self, path):
        recipe = parse(path, "dataset=scans")
        assert str(recipe.dataset) == "scans"

    def test_asks_for_a_dataset_and_nothing_else(self, path):
        with pytest.raises(UserError) as raised:
            parse(path)
        assert [problem.where for problem in raised.value.problems] == ["dataset"]
        assert "dataset=PATH" in str(raised.value)

    def test_names_its_usage(self, path):
        assert f"fewmask train {path.stem} dataset=PATH" in path.read_text()

    def test_states_what_a_reader_wants_to_see(self, path):
        raw = config.read(path)
        assert {"seed", "max_steps", "device", "data", "network", "objective"} <= set(raw)
        assert {"name", "options"} <= set(raw["network"]) <= {"name", "options", "members"}
        for term in raw["objective"]:
            assert {"loss", "on", "weight"} <= set(term)

    def test_survives_a_round_trip(self, path, tmp_path):
        recipe = parse(path, "dataset=/scans")
        (tmp_path / "copy.yaml").write_text(config.dump(recipe))
        assert parse(tmp_path / "copy.yaml") == recipe


def test_supervised_recipe_looks_at_labelled_scans_alone():
    assert {term.on for term in parse(CONFIGS / "supervised.yaml", "dataset=d").objective} == {"labelled"}


@pytest.mark.parametrize(
    ("name", "against"),
    [("ncut", {("image", "mask")}), ("semisupervised", {("mixed_label",), ("mixed_pseudo_label",)})],
)
def test_recipe_compares_unlabelled_scans_with_what_it_says(name, against):
    terms = parse(CONFIGS / f"{name}.yaml", "dataset=d").objective
    found = {term.against or LOSSES[term.loss].against for term in terms if term.on == "unlabelled"}
    assert found == against
    assert {LOSSES[term.loss].against for term in terms if term.on == "labelled"} == {("label",)}


@pytest.mark.parametrize("name", ["ncut", "semisupervised"])
def test_recipes_differ_in_what_they_do_with_unlabelled_scans_alone(name):
    supervised, semi = (config.read(CONFIGS / f"{name}.yaml") for name in ("supervised", name))
    shared = [term for term in semi.pop("objective") if term["on"] == "labelled"]
    assert shared == supervised.pop("objective")
    semi["data"].pop("unlabelled_batch_size")
    semi.pop("sources", None)
    assert semi == supervised


def test_recipe_with_atlases_differs_from_the_supervised_one_by_their_vote_alone():
    supervised, atlas = (config.read(CONFIGS / f"{name}.yaml") for name in ("supervised", "atlas"))
    assert atlas.pop("atlases") == {"weight": 0.4}
    assert atlas == supervised


def test_unsupervised_recipe_takes_cut_and_reconstruction_in_turn_and_no_label():
    recipe = parse(CONFIGS / "unsupervised.yaml", "dataset=d")
    assert [term.loss for term in recipe.objective] == ["ncut", "reconstruction"]
    assert {LOSSES[term.loss].against for term in recipe.objective} == {("image", "mask")}
    assert {term.on for term in recipe.objective} == {"all"}
    assert recipe.alternate
    assert recipe.segments


def test_the_recipe_of_nnunet_has_its_published_numbers():
    # nnunetv2 2.8.1, nnUNetTrainer, and its transforms' probabilities.
    recipe = parse(CONFIGS / "nnunet.yaml", "dataset=d")
    choice = recipe.optimizer
    assert (choice.name, choice.learning_rate, choice.weight_decay) == ("sgd", 1e-2, 3e-5)
    assert choice.options == {"momentum": 0.99, "nesterov": True}
    assert (choice.schedule.name, choice.schedule.options) == ("poly", {"power": 0.9})
    assert (choice.warmup, choice.clip_norm, choice.averaging) == (0, 12, 0)
    assert recipe.max_steps == 1000 * 250
    assert recipe.data.foreground_share == 0.33
    shares = {}
    for one in recipe.augmentation.more:
        what = one.augmentation + "".join(key for key in ("rotation_degrees", "scaling") if key in one.options)
        shares[what] = one.options.get("share", one.options.get("turned"))
    assert shares == {
        "deformrotation_degrees": 0.2,
        "deformscaling": 0.2,
        "noise": 0.1,
        "blur": 0.2,
        "brightness": 0.15,
        "contrast": 0.15,
        "low_resolution": 0.25,
        "gamma": 0.3,
    }
    strengths = recipe.augmentation.model_dump(exclude={"more", "flip_axes"})
    assert set(strengths.values()) == {0}


def test_the_recipe_of_nnunet_plans_trains_and_predicts(tmp_path):
    data = make_phantom(tmp_path / "data", unlabelled=0)
    tiny = ["max_steps=2", "data.patch_size=[16,16,16]", "data.batch_size=2", "data.spacing_mm=[2.5,2.5,2.5]"]
    request = [f"dataset={data}", "device=cpu", "network.options.channels=[4,8,8]", *tiny]
    runs.plan(runs.read_recipe(Path("nnunet"), request), tmp_path / "plan.yaml")
    runs.train(runs.read_recipe(tmp_path / "plan.yaml"), tmp_path / "run")
    rows = (tmp_path / "run" / "history.csv").read_text().splitlines()
    assert rows[0] == "step,loss,dice,cross_entropy"
    assert len(rows) == 3
    settings = config.parse(config.read(tmp_path / "run" / "config.yaml"), "run", COMPONENTS)
    assert settings.optimizer == parse(CONFIGS / "nnunet.yaml", "dataset=d").optimizer
    assert (settings.data.foreground_share, settings.augmentation.flip_axes) == (0.33, (0, 1, 2))
    state = state_of(tmp_path / "run")
    assert {len(held) for held in state["optimizer"]["state"].values()} == {1}  # The momentum, and no second moment.
