"""The files that a run has written about itself, read as input: one message with the file and what to do."""

import json
import os

import pytest

from pipeline.errors import UserError
from pipeline.runs.stored import (
    BUDGET,
    CONFIG,
    FOLDS,
    INDEX,
    POSTPROCESSING,
    SPLIT,
    SUMMARY,
    read_config,
    read_index,
    read_own,
)

PACE = {"step_s": 0.5, "validation_s": 9.0, "tail_s": 14}
SOUND = {
    SPLIT: {"labelled": ["a"], "unlabelled": [], "validation": ["b"], "unlike": ["c"]},
    FOLDS: {"folds": 5},
    POSTPROCESSING: {"steps": [{"step": "drop_small", "options": {"label": 1, "least_ml": 0.5}}]},
    BUDGET: {"seconds": 60.0, "spent_s": 1, "pace": PACE, "validate_every": 5, "given_up": False},
    SUMMARY: {"tolerance_mm": 1.0, "dataset": None, "checkpoint": "last"},
}


@pytest.mark.parametrize("name", SOUND)
def test_what_was_written_is_read(tmp_path, name):
    (tmp_path / name).write_text(json.dumps(SOUND[name]))
    assert read_own(tmp_path, name) == SOUND[name]


def test_other_keys_of_a_summary_are_for_others(tmp_path):
    (tmp_path / SUMMARY).write_text('{"classes": []}')
    assert read_own(tmp_path, SUMMARY) == {"tolerance_mm": None, "dataset": None, "checkpoint": None}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (SPLIT, {"labelled": "a"}),
        (SPLIT, {"labelled": [1]}),
        (SPLIT, {"labelled": ["a", "a"]}),
        (SPLIT, {"validation": ["a"]}),
        (SPLIT, {"validation": None}),
        (SPLIT, {"later": 1}),
        (FOLDS, {"folds": 1}),
        (FOLDS, {"folds": 5.0}),
        (FOLDS, {"folds": "5"}),
        (FOLDS, {"folds": True}),
        (FOLDS, {"folds": 10**400}),
        (POSTPROCESSING, {"steps": {}}),
        (POSTPROCESSING, {"steps": [{"step": "run", "options": {"label": 1}}]}),
        (POSTPROCESSING, {"steps": [{"step": "fill_holes", "options": {"label": 0}}]}),
        (POSTPROCESSING, {"steps": [{"step": "fill_holes", "options": {"label": 2**40}}]}),
        (POSTPROCESSING, {"steps": [{"step": "drop_small", "options": {"label": 1}}]}),
        (POSTPROCESSING, {"steps": [{"step": "fill_holes", "options": {"label": 1, "least_ml": 1.0}}]}),
        (BUDGET, {"seconds": 0}),
        (BUDGET, {"seconds": 1e308}),
        (BUDGET, {"pace": PACE | {"step_s": 0}}),
        (BUDGET, {"pace": PACE | {"step_s": -1}}),
        (BUDGET, {"pace": {}}),
        (BUDGET, {"validate_every": 0}),
        (BUDGET, {"given_up": "no"}),
        (SUMMARY, {"tolerance_mm": "wide"}),
    ],
)
def test_value_that_no_run_writes_is_named_with_its_file(tmp_path, name, change):
    (tmp_path / name).write_text(json.dumps(SOUND[name] | change))
    refused(
        lambda: read_own(tmp_path, name), tmp_path / name, next(iter(change)) if change != {"validation": ["a"]} else ""
    )


def refused(read, path, text=""):
    with pytest.raises(UserError) as raised:
        read()
    (problem,) = raised.value.problems
    assert (problem.code, problem.where) == ("damaged-run", str(path))
    assert "bring the file back" in problem.remedy
    assert text in problem.message or "each case once" in problem.message


READERS = {
    SPLIT: lambda run: read_own(run, SPLIT),
    INDEX: read_index,
    CONFIG: read_config,
    SUMMARY: lambda run: read_own(run, SUMMARY),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"\xff\xfe\x00",
        b"\x89PNG\r\n\x1a\n",
        b"PK\x03\x04",
        b"[" * 100_000,
        b'{"a": ' * 100_000,
        b'{"a": NaN}',
        b'{"a": 1, "a": 1}',
        b"[1, 2]",
        b"null",
        b'"text"',
        b"9" * 5000,
        b" " * 9_000_000,
    ],
    ids=lambda content: repr(content[:12]),
)
def test_file_of_another_kind_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    refused(lambda: READERS[name](tmp_path), tmp_path / name)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    "make", [lambda path: None, lambda path: path.mkdir(), os.mkfifo, lambda path: path.symlink_to("/dev/zero")]
)
def test_what_is_no_file_is_not_waited_for(tmp_path, name, make):
    make(tmp_path / name)
    refused(lambda: READERS[name](tmp_path), tmp_path / name)


@pytest.mark.parametrize(
    "change",
    [
        lambda row: row.pop("stamps"),
        lambda row: row.pop("content"),
        lambda row: row.update(stamps=row["stamps"][:1]),
        lambda row: row.update(shape=[1, 2]),
        lambda row: row.update(spacing_mm=[1, "2", 3]),
        lambda row: row.update(channels=1.5),
        lambda row: row.update(label_voxels={"one": 1}),
        lambda row: row.update(later=1),
        lambda row: row.update(case="case_1"),
        lambda row: row["intensities"][0].update(nonzero=[1]),
    ],
)
def test_index_that_does_not_tell_all_of_a_case_is_refused(world, tmp_path, change):
    rows = json.loads((world.base / "done" / INDEX).read_text())
    assert rows[0]["case"] == "case_0"
    change(rows[0])
    (tmp_path / INDEX).write_text(json.dumps(rows))
    refused(lambda: read_index(tmp_path), tmp_path / INDEX)


@pytest.mark.parametrize(
    ("line", "other"),
    [
        ("max_steps: 6", "max_steps: many"),
        ("max_steps: 6", "max_stepss: 6"),
        ("seed: 3", "seed: -3"),
        ("seed: 3", "seed: 3\nseed: 3"),
        ("seed: 3", "seed: &a 3"),
        ("dataset: ", "datasets: "),
    ],
)
def test_config_of_another_version_is_refused(world, tmp_path, line, other):
    text = (world.base / "done" / CONFIG).read_text()
    assert line in text
    (tmp_path / CONFIG).write_text(text)
    assert read_config(tmp_path).max_steps == 6
    (tmp_path / CONFIG).write_text(text.replace(line, other, 1) + ("x: *a\n" if "&a" in other else ""))
    refused(lambda: read_config(tmp_path), tmp_path / CONFIG)
