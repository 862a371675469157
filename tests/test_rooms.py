"""The way of a recipe from the command line to the first step: it goes down through the rooms, and back into none."""

import sys

from runs_fixtures import make_phantom, write_recipe

from pipeline import cli
from pipeline.engines.steps import TrainingStep
from pipeline.recipe import Recipe

# In the order of docs/architecture.md.
STAGES = {
    "read": ("cli", "runs.requests", "config", "choices", "decisions", "needs", "plugins"),
    "plan": ("runs.origins", "runs.planning", "runs.splitting", "planning"),
    "run": (
        "runs.setup",
        "runs.build",
        "runs.refusals",
        "runs.batches",
        "runs.objectives",
        "runs.predictors",
        "runs.segments",
        "runs.announcing",
        "runs.training",
        "runs.tracking",
    ),
}
# What hands a recipe on, writes it down, or is the recipe.
BESIDE = (
    "commands.training",
    "runs.starting",
    "runs.leading",
    "runs.timing",
    "runs.resuming",
    "runs.restoring",
    "runs.folder",
    "recipe",
    "sections",
    "strict_yaml",
)


class FirstStepError(Exception):
    pass


def room_of(frame):
    return frame.f_globals.get("__name__", "").removeprefix("pipeline.")


def is_in(room, rooms):
    return any(room == each or room.startswith(f"{each}.") for each in rooms)


def has_recipe(frame):
    """Whether a function is given a recipe, an object that holds one, or the keys and values of one."""
    code = frame.f_code
    given = [frame.f_locals.get(name) for name in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]]
    return any(
        isinstance(value, Recipe)
        or any(isinstance(getattr(value, name, None), Recipe) for name in ("recipe", "settings"))
        or (isinstance(value, dict) and "objective" in value)
        for value in given
    )


def writes_it_down(frame):
    while frame is not None:
        if room_of(frame) == "runs.folder":
            return True
        frame = frame.f_back
    return False


def way_of_a_recipe(monkeypatch, words):
    """Return the rooms in which functions are given a recipe, in their order, up to the first step."""
    way = []

    def stop(*_):
        raise FirstStepError

    def look(frame, event, _):
        if event != "call" or not frame.f_globals.get("__name__", "").startswith("pipeline."):
            return
        room = room_of(frame)
        if has_recipe(frame) and not writes_it_down(frame) and way[-1:] != [room]:
            way.append(room)

    monkeypatch.setattr(TrainingStep, "__call__", stop)
    monkeypatch.setattr(sys, "argv", ["fewmask", *words])
    before = sys.getprofile()
    sys.setprofile(look)
    try:
        cli.main()
    except FirstStepError:
        return way
    finally:
        sys.setprofile(before)
    raise AssertionError("there was no step")


def test_a_recipe_climbs_back_to_no_room_that_it_has_left(tmp_path, monkeypatch, capsys):
    recipe = write_recipe(tmp_path, make_phantom(tmp_path / "data"))
    way = way_of_a_recipe(monkeypatch, ["train", str(recipe), "--output", str(tmp_path / "run")])
    stages = list(STAGES)
    passed = []
    for room in way:
        if is_in(room, BESIDE):
            continue
        (stage,) = [name for name, rooms in STAGES.items() if is_in(room, rooms)]
        passed.append(stage)
    assert [stages.index(stage) for stage in passed] == sorted(stages.index(stage) for stage in passed), way
    assert set(passed) == set(stages)
    assert "engines" not in {room.partition(".")[0] for room in way}
