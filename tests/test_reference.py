"""The reference says what the code has."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
PINNED = f"tyro=={version('tyro')}" in (ROOT / "constraints.txt").read_text().split()
# In a process of its own, where no plugin of another test is registered.
CODE = "import sys; sys.path[:0] = sys.argv[1:]; import write_reference; print(write_reference.reference(), end='')"


@pytest.fixture(scope="module")
def written():
    words = [sys.executable, "-c", CODE, str(ROOT), str(ROOT / "docs")]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def test_keys_and_components_are_those_of_the_code(written):
    assert written.partition("## Commands")[0] == PAGE.partition("## Commands")[0], "python docs/write_reference.py"


@pytest.mark.skipif(not PINNED, reason="another version of tyro has other help texts")
def test_commands_say_the_same_of_themselves(written):
    assert written == PAGE, "python docs/write_reference.py"


def test_page_has_a_line_for_every_key_that_a_recipe_takes():
    from vile import recipe_keys

    for key in (key.split(" ")[-1] for key in recipe_keys()):
        place = key.replace("objective.0", "objective")
        name = place.rpartition(".")[2]
        assert any(line in PAGE for line in (f"### `{place}`", f"| `{name}` |", f"`{name}=")), key
