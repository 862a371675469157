"""Settings are a recipe with nothing open."""

import json
from dataclasses import replace

import pytest
from test_plan import CPU, GPU, MANY, recipe

from pipeline.planning.plan import make_plan
from pipeline.planning.settings import Settings, settle
from pipeline.recipe import Recipe
from pipeline.runs.timing import to_begin_with


@pytest.mark.parametrize("hardware", [CPU, GPU], ids=["cpu", "gpu"])
@pytest.mark.parametrize("network", ["unet", "dynunet", "segresnet"])
@pytest.mark.parametrize(
    "data", [{}, {"dimensions": 2}, {"normalization": ("ct",)}, {"normalization": ({"scheme": "ct", "low": -100.0},)}]
)
def test_a_plan_leaves_nothing_open(hardware, network, data):
    plan = make_plan(recipe(network=network, data=data), MANY, hardware)
    settings = settle(plan.recipe)
    assert isinstance(settings, Settings)
    assert settings.model_dump(mode="json") == plan.recipe.model_dump(mode="json")
    assert to_begin_with(plan.recipe) == settings


def test_with_a_time_budget_a_plan_is_filled_in_to_begin_with():
    hardware = replace(CPU, memory_bytes=2**36)
    plan = make_plan(
        recipe(network={"name": "dynunet", "members": "auto", "memory_format": "auto"}, time_budget="2h"),
        MANY,
        hardware,
    )
    with pytest.raises(ValueError, match="max_steps is still 'auto'"):
        settle(plan.recipe)
    for each in (plan.recipe, plan.wider, *(other for other, _ in plan.lighter)):
        settings = to_begin_with(each)
        assert (settings.network.members, settings.network.memory_format) == (1, "contiguous")
        assert settings.time_budget is None


@pytest.mark.parametrize("key", ["precision", "data.spacing_mm", "data.normalization", "network.recompute"])
def test_what_is_left_open_is_named(key):
    whole = Recipe.model_validate(make_plan(recipe(network="unet"), MANY, CPU).recipe.model_dump())
    *section, name = key.split(".")
    part = getattr(whole, section[0]) if section else whole
    changed = part.model_copy(update={name: "auto"})
    left = whole.model_copy(update={section[0]: changed}) if section else changed
    with pytest.raises(ValueError, match=f"{key} is still 'auto'"):
        settle(left)


def test_no_field_of_settings_can_be_left_open():
    schema = Settings.model_json_schema()
    parts = {"Settings": schema, **schema["$defs"]}
    open_fields = {
        f"{part}.{name}"
        for part in ("Settings", "DataSettings", "NetworkSettings", "AugmentationSettings", "WindowSettings")
        for name, about in parts[part]["properties"].items()
        if '"auto"' in json.dumps({key: value for key, value in about.items() if key != "default"})
    }
    assert open_fields == set()
