from typing import Literal

import pytest

from pipeline.registry import Registry


def make_pump(size: int, *, depth: float = 1.5, mode: Literal["auto", "fast"] = "auto", rows: tuple[int, ...] = (1, 2)):
    """Pump water.

    And more of it.
    """
    if depth <= 0:
        raise ValueError(f"depth is {depth}; expected a number above 0")
    return size, depth, mode, rows


def make_tank(size: int = 1, **rest):
    """Keep water."""
    return size, rest


@pytest.fixture
def registry():
    store = Registry(name="machine", description="things that run")
    store.register("pump")(make_pump)
    store.register("tank")(make_tank)
    return store


def test_registered_component_is_found_by_its_name(registry):
    assert registry["pump"] is make_pump
    assert "pump" in registry
    assert registry.names == ("pump", "tank")


def test_second_component_of_a_name_is_refused_and_the_first_stays(registry):
    with pytest.raises(ValueError, match="'pump': there is one of that name already"):
        registry.register("pump")(make_tank)
    assert registry["pump"] is make_pump


@pytest.mark.parametrize("name", ["Pump", "a-b", "a b", "", "2d", "PUMP"])
def test_name_that_is_no_lower_case_identifier_is_refused(registry, name):
    with pytest.raises(ValueError, match="lower-case letters"):
        registry.register(name)(make_pump)


def test_unknown_name_says_the_nearest(registry):
    with pytest.raises(KeyError, match="did you mean 'pump'"):
        registry["pum"]
    assert registry.problems("pum", {}) == [("", "no machine is named 'pum'; did you mean 'pump'?")]


def test_summary_is_the_first_line_of_the_docstring(registry):
    assert registry.summary("pump") == "Pump water."


@pytest.mark.parametrize(
    "options",
    [{"size": 3}, {"size": 3, "depth": 2}, {"size": 3, "mode": "fast"}, {"size": 3, "rows": [4, 5]}],
)
def test_sound_options_have_no_problem(registry, options):
    assert registry.problems("pump", options) == []


@pytest.mark.parametrize(
    ("options", "option", "message"),
    [
        ({}, "size", "is not given"),
        ({"size": "3"}, "size", "expected a valid integer, not '3'"),
        ({"size": True}, "size", "expected a valid integer, not True"),
        ({"size": 3, "depth": "2"}, "depth", "expected a valid number, not '2'"),
        ({"size": 3, "depth": float("inf")}, "depth", "expected a finite number"),
        ({"size": 3, "mode": "slow"}, "mode", "expected 'auto' or 'fast', not 'slow'"),
        ({"size": 3, "rows": [1, "x"]}, "rows", "expected a valid integer, not 'x'"),
        ({"size": 3, "dept": 2}, "dept", "pump has no such option; did you mean 'depth'?"),
        ({"size": 3, 7: 2}, 7, "pump has no such option; choose one of: size, depth, mode, rows"),
        ({"size": 3, "depth": -1}, "", "pump: depth is -1; expected a number above 0"),
    ],
)
def test_wrong_option_is_named_with_what_was_expected(registry, options, option, message):
    ((found, text),) = registry.problems("pump", options)
    assert found == option
    assert message in text


def test_every_wrong_option_is_reported_at_once(registry):
    found = registry.problems("pump", {"size": "a", "depth": "b", "colour": 1})
    assert [option for option, _ in found] == ["colour", "size", "depth"]


def test_collected_keywords_are_no_options(registry):
    assert list(registry.options("tank")) == ["size"]
    assert registry.problems("tank", {"size": 2}) == []
    assert [option for option, _ in registry.problems("tank", {"rest": 1})] == ["rest"]


def test_what_the_program_gives_is_no_option():
    store = Registry(name="machine", description="things that run", given=frozenset({"size"}))
    store.register("pump")(make_pump)
    assert list(store.options("pump")) == ["depth", "mode", "rows"]
    assert [option for option, _ in store.problems("pump", {"size": 3})] == ["size"]
    assert store.build("pump", {"depth": 2.0}, size=9) == (9, 2.0, "auto", (1, 2))


def test_an_option_nobody_gives_is_told_with_what_the_program_gives():
    store = Registry(name="machine", description="things that run", given=frozenset({"size", "kind"}))
    store.register("pump")(lambda extent, size, kind: None)
    assert store.problems("pump", {}) == [("extent", "is not given, and the program gives kind, size alone")]
    store.register("tank")(lambda size: None)
    assert store.problems("tank", {"depth": 1}) == [("depth", "tank has no options")]


def test_component_that_needs_the_program_is_not_built_to_be_judged():
    store = Registry(name="machine", description="things that run", given=frozenset({"size"}))
    store.register("pump")(lambda size, depth=1.0: pytest.fail("was built"))
    assert store.problems("pump", {"depth": 2.0}) == []


def test_stores_do_not_share_components():
    assert Registry(name="a", description="").components is not Registry(name="b", description="").components
