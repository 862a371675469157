from pathlib import Path

import pytest

from pipeline import runs
from pipeline.durations import SECONDS, in_one_unit


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("20m", 1200),
        ("20min", 1200),
        ("20 minutes", 1200),
        ("1h30m", 5400),
        ("1h 30min", 5400),
        ("1H30M", 5400),
        ("1.5h", 5400),
        ("2d", 172_800),
        ("1day12hours", 129_600),
        ("1h0.5m", 3630),
        ("1d1h1m1s", 90_061),
    ],
)
def test_length_of_time_in_one_unit_is_as_long(text, seconds):
    found = in_one_unit(text)
    assert float(found[:-1]) * SECONDS[found[-1]] == seconds


@pytest.mark.parametrize(
    "text",
    ["", "20", "m", "30m1h", "1h1h", "1h30", "h1", "1h,30m", "-1h", "1e3s", "1 fortnight", "²s", "1h\n2", "NaNs"],
)
def test_what_is_no_length_of_time_stays_as_it_is(text):
    assert in_one_unit(text) == text


@pytest.mark.parametrize(("text", "kept"), [("1h30m", "90m"), ("20min", "20m"), ("2h", "2h")])
def test_recipe_takes_a_time_as_people_write_it(tmp_path, text, kept):
    assert runs.read_recipe(Path("supervised"), [f"time_budget={text}", f"dataset={tmp_path}"]).time_budget == kept
