"""The reference says what the code has."""

import importlib.util
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PINNED = f"tyro=={version('tyro')}" in (ROOT / "constraints.txt").read_text().split()


@pytest.fixture(scope="module")
def writer():
    spec = importlib.util.spec_from_file_location("write_reference", ROOT / "docs" / "write_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def page():
    return (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")


def test_keys_and_components_are_those_of_the_code(writer):
    written = "\n".join([*writer.recipe(), "## Components", *writer.components()])
    assert written in page(), "python docs/write_reference.py"


@pytest.mark.skipif(not PINNED, reason="another version of tyro has other help texts")
def test_commands_say_the_same_of_themselves(writer):
    assert page() == writer.reference(), "python docs/write_reference.py"


def test_page_has_a_line_for_every_key_that_a_recipe_takes(writer):
    from vile import recipe_keys

    text = page()
    for key in (key.split(" ")[-1] for key in recipe_keys()):
        place = key.replace("objective.0", "objective")
        name = place.rpartition(".")[2]
        assert any(line in text for line in (f"### `{place}`", f"| `{name}` |", f"`{name}=")), key
