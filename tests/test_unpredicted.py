"""The warning at the first validation of classes that are predicted nowhere."""

import pytest
from runs_fixtures import make_phantom, train

from pipeline.data.layouts import read_dataset
from pipeline.runs.unpredicted import note_on_unpredicted
from pipeline.terminal import listening
from pipeline.types import CaseResult


def row(case, name, truth, predicted):
    return CaseResult(
        case=case,
        label=int(name[1:]),
        name=name,
        outcome="scored" if truth and predicted else "missed",
        voxels_truth=truth,
        voxels_predicted=predicted,
        dice=0.0,
    )


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([row("a", "c1", 9, 0), row("b", "c1", 9, 0)], "none of 2 validation cases so far: c1."),
        ([row("a", "c1", 9, 0), row("b", "c1", 9, 1)], None),  # Found somewhere.
        ([row("a", "c1", 0, 0)], None),  # Nowhere to be found.
        ([row("a", "c1", 9, 0), row("a", "c2", 9, 9), row("b", "c1", 9, 0), row("b", "c2", 9, 0)], "so far: c1."),
        ([row("a", f"c{n}", 9, 0) for n in range(1, 9)], "so far: c1, c2, c3, c4, c5 and 3 more."),
        ([], None),
    ],
)
def test_classes_that_are_true_somewhere_and_predicted_nowhere_are_named(rows, told):
    found = note_on_unpredicted(rows)
    assert (found is None) == (told is None)
    if told:
        assert told in found
        for key in ("data.foreground_share", "class_weights"):
            assert key in found


def test_a_training_says_so_once_at_its_first_validation(tmp_path):
    data = make_phantom(tmp_path / "data", unlabelled=0)
    # Its other classes weigh nothing, so that all becomes background.
    weights = {name: 0.0 for value, name in read_dataset(data).labels.items() if value}
    objective = [{"loss": "cross_entropy", "options": {"class_weights": weights}}]
    how = {"objective": objective, "optimizer": {"learning_rate": 0.1, "warmup": 0.0, "averaging": 0.0}}
    said = []
    with listening(said.append):
        train(tmp_path, data, "run", **how)
    assert sum("validation Dice" in line for line in said) == 2
    assert sum("predicted in none of" in line for line in said) == 1
