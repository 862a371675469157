"""Studies: the grid, the draws, trainings shared and resumed, and gains that an independent formula gives too."""

import json
import multiprocessing
import shutil

import numpy as np
import pytest
import yaml
from runs_fixtures import make_phantom, plug_pulled_at, write_recipe
from scipy import stats

from pipeline.data.layouts import read_dataset
from pipeline.errors import UserError
from pipeline.files import locked
from pipeline.outputs import Output
from pipeline.reports.crossed import crossed_interval
from pipeline.reports.files import write_cases_csv
from pipeline.reports.groups import Group, compare_groups
from pipeline.studies.grid import Cell, Study, read_study
from pipeline.studies.lists import draw_lists
from pipeline.studies.results import Gain, as_markdown, folder_of_cell, gather_cells, minutes_of, write_results
from pipeline.studies.running import run_study
from pipeline.types import CaseResult

SUPERVISED = {"objective": [{"loss": "dice"}]}


def write_study(folder, **changes):
    path = folder / "study.yaml"
    told = {
        "dataset": "data",
        "labelled": [2],
        "draws": [0, 1],
        "methods": [{"name": "control", "recipe": "plain.yaml"}, {"name": "cut", "recipe": "cut.yaml"}],
        "settings": {"max_steps": 2, "validate_every": 2},
    }
    path.write_text(yaml.safe_dump(told | changes))
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    make_phantom(folder / "data", labelled=6, unlabelled=1)
    write_recipe(folder, "nowhere", **SUPERVISED).rename(folder / "plain.yaml")
    write_recipe(folder, "nowhere").rename(folder / "cut.yaml")
    return folder


@pytest.fixture(scope="module")
def done(place):
    output = place / "out"
    return output, run_study(read_study(write_study(place, goal=4)), output)


# The grid


def test_cells_of_one_draw_come_together_so_that_pairs_are_whole_early(place):
    study = read_study(write_study(place, labelled=[2, 3], seeds=[0, 1], goal=4))
    names = [cell.name for cell in study.cells()]
    assert names[:5] == [
        "control/002-draw0-seed0",
        "cut/002-draw0-seed0",
        "control/003-draw0-seed0",
        "cut/003-draw0-seed0",
        "control/004-draw0-seed0",
    ]
    assert len(names) == len(set(names)) == 2 * 2 * (2 * 2) + 2


def test_a_study_is_the_same_from_whatever_folder_it_is_named(place, monkeypatch):
    path = write_study(place)
    read = []
    for folder in (place, place.parent):
        monkeypatch.chdir(folder)
        read.append(read_study(path.relative_to(folder)))
    assert read[0] == read[1] == read_study(path)


def test_places_in_the_path_of_a_dataset_name_the_list_of_a_draw(tmp_path, place):
    study = read_study(write_study(place, dataset="lists/a_{labelled:03}_{draw}.json"))
    assert study.list_of(7, 2) == place / "lists/a_007_2.json"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dataset": "a_{labelled}.json"}, "dataset: expected both {labelled} and {draw}"),
        ({"labelled": [2, 2]}, "labelled: expected each once"),
        ({"labelled": []}, "labelled"),
        ({"goal": 2}, "goal: expected more than the most of labelled"),
        ({"methods": [{"name": "a/b", "recipe": "supervised"}]}, "methods.0.name"),
        ({"methods": [{"name": n, "recipe": "supervised"} for n in "aA"]}, "methods: expected another name"),
        ({"methods": [{"name": "a", "recipe": "no.yaml"}]}, "neither a recipe's name nor a file"),
        ({"metods": []}, "there is no such key"),
        ({"draws": 3}, "draws"),
    ],
)
def test_a_mistake_in_the_file_is_named_with_its_place(place, changes, words):
    with pytest.raises(UserError, match=r"(?s)stud") as caught:
        read_study(write_study(place, **changes))
    assert words in str(caught.value)


def test_a_mistake_in_a_recipe_is_told_before_anything_is_written(place, tmp_path):
    study = read_study(write_study(place, settings={"max_stepz": 2}))
    with pytest.raises(UserError, match="max_stepz"):
        run_study(study, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# The draws


def test_drawn_lists_share_their_validation_and_are_nested(place):
    lists = draw_lists(read_dataset(place / "data"), {1: (0, 1), 3: (0, 1)})
    ids = {key: [entry["id"] for entry in content["training"]] for key, content in lists.items()}
    assert len({json.dumps(content["validation"]) for content in lists.values()}) == 1
    for draw in (0, 1):
        assert set(ids[1, draw]) < set(ids[3, draw])
    assert ids[3, 0] != ids[3, 1]


def test_a_patient_without_its_mask_stays_as_an_unlabelled_scan(place):
    content = draw_lists(read_dataset(place / "data"), {2: (0,)})[2, 0]
    everyone = [entry["id"] for entry in content["training"] + content["unlabeled"] + content["validation"]]
    assert sorted(everyone) == sorted(
        case.id for case in read_dataset(place / "data").cases if case.role in (None, "training")
    )
    assert not any("label" in entry for entry in content["unlabeled"])


def test_patients_of_several_scans_are_told_by_the_settings_and_draws_keep_them_together(place, tmp_path):
    images, labels = tmp_path / "scans" / "images", tmp_path / "scans" / "labels"
    for folder, source in ((images, "imagesTr"), (labels, "labelsTr")):
        folder.mkdir(parents=True)
        for number, file in enumerate(sorted((place / "data" / source).iterdir())[:6]):
            shutil.copy(file, folder / f"{'ABC'[number // 2]}{number % 2}.nii.gz")
    settings = {"max_steps": 2, "validate_every": 2, "layout.options.patient": "^(.)"}
    told = {"dataset": str(tmp_path / "scans"), "labelled": [1], "draws": [0], "settings": settings}
    methods = [{"name": "control", "recipe": str(place / "plain.yaml")}]
    results = run_study(read_study(write_study(tmp_path, **told, methods=methods)), tmp_path / "out")
    assert len(results.trainings) == 1
    content = json.loads((tmp_path / "out" / "lists" / "001-draw0.json").read_text())
    parts = [{entry["id"][0] for entry in content[part]} for part in ("training", "unlabeled", "validation")]
    assert [len(part) for part in parts] == [1, 1, 1]
    assert set.union(*parts) == {"A", "B", "C"}


def test_more_masks_than_there_are_is_refused(place, tmp_path):
    with pytest.raises(UserError, match="asks for 9, and 5 patients with masks are left"):
        run_study(read_study(write_study(place, labelled=[9])), tmp_path / "out")


# A study of real trainings


def test_every_training_of_the_grid_is_done_and_compared(done, place):
    output, results = done
    assert [(row.method, row.labelled, row.draw) for row in results.trainings] == [
        ("control", 2, 0),
        ("cut", 2, 0),
        ("control", 4, 0),
        ("control", 2, 1),
        ("cut", 2, 1),
    ]
    control, cut = results.gains
    assert (control.method, control.gain, control.low) == ("control", None, None)
    assert cut.draws == 2
    dice = {(row.method, row.labelled, row.draw): row.dice for row in results.trainings}
    gains = [dice["cut", 2, draw] - dice["control", 2, draw] for draw in (0, 1)]
    assert cut.gain == pytest.approx(np.mean(gains))
    assert cut.worst == pytest.approx(min(gains))
    assert all(row.minutes > 0 for row in results.trainings)
    for name in ("trainings.csv", "gains.csv", "results.md", "results.png"):
        assert (output / name).stat().st_size > 0
    assert "| 2 | cut | 2 |" in (output / "results.md").read_text()


def scored(case, dice, voxels=100):
    """Return the result of a structure: ``voxels`` of it are true, and without any ``dice`` 0 is an invention."""
    outcome = "absent" if dice is None else "scored" if voxels else "false_positive"
    return CaseResult(
        case=case,
        label=1,
        name="organ",
        outcome=outcome,
        voxels_truth=voxels,
        voxels_predicted=0 if dice is None else 100,
        dice=dice,
    )


def gathered(output, results_of):
    """Return what is gathered of a study of two methods and three draws with such results."""
    methods = tuple({"name": name, "recipe": "supervised"} for name in ("control", "method"))
    study = Study(dataset="x", labelled=(3,), draws=(0, 1, 2), methods=methods)
    for cell in study.cells():
        folder = folder_of_cell(output, cell)
        folder.mkdir(parents=True)
        (folder / "summary.json").write_text("{}")
        write_cases_csv(folder / "cases.csv", results_of(cell))
    found = gather_cells(study, output)
    write_results(found, Output(output, "study"))
    return found


def test_a_structure_that_a_method_invents_costs_it_what_it_costs_in_a_comparison(tmp_path):
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.005, (3, 10))

    def results_of(cell):
        there = [scored(f"p{n}", 0.8 + noise[cell.draw, n] + 0.01 * (cell.method == "method")) for n in range(5)]
        absent = [scored(f"p{n}", None if cell.method == "control" else 0.0, voxels=0) for n in range(5, 10)]
        return there + absent

    control, method = gathered(tmp_path, results_of).gains
    groups = [
        Group(name=name, trainings=[results_of(Cell(name, 3, draw, 0)) for draw in range(3)], seeds=[0, 1, 2])
        for name in ("control", "method")
    ]
    dice = compare_groups(*groups).means["dice"]
    assert (control.dice, method.dice) == pytest.approx((dice.mean_a, dice.mean_b))
    assert method.gain == pytest.approx(dice.difference)
    assert (method.low, method.high) == pytest.approx(dice.interval)
    assert method.gain == pytest.approx(-0.495, abs=0.01)


def test_a_study_in_which_nothing_can_be_scored_has_trainings_without_a_figure_and_no_gain(tmp_path):
    found = gathered(tmp_path, lambda _: [scored(f"p{n}", None, voxels=0) for n in range(3)])
    assert [row.dice for row in found.trainings] == [None] * 6
    assert found.gains == ()
    assert "control,3,0,0,," in (tmp_path / "trainings.csv").read_text()


def test_patients_who_are_scored_in_one_training_alone_count_in_all(tmp_path):
    def results_of(cell):
        mine, other = ("p0", "p1") if cell.method == "control" else ("p1", "p0")
        return [scored(mine, None, voxels=0), scored(other, 0.0, voxels=0)]

    control, method = gathered(tmp_path, results_of).gains
    assert (control.dice, method.dice, method.gain) == (0.5, 0.5, 0.0)


def test_once_done_nothing_is_trained_again_and_a_draw_more_trains_alone(done, place, monkeypatch):
    output, results = done
    from pipeline.studies import running

    trained = []
    real = running.train
    monkeypatch.setattr(running, "train", lambda recipe, run, **how: trained.append(run) or real(recipe, run, **how))
    assert run_study(read_study(write_study(place, goal=4)), output).trainings == results.trainings
    assert trained == []
    run_study(read_study(write_study(place, goal=4, draws=[0, 1, 2])), output)
    assert [run.relative_to(output / "runs").as_posix() for run in trained] == [
        "control/002-draw2-seed0",
        "cut/002-draw2-seed0",
    ]


def test_a_study_whose_method_has_changed_is_refused_in_the_same_folder(done, place):
    output, _ = done
    other = [{"name": "control", "recipe": "cut.yaml"}, {"name": "cut", "recipe": "cut.yaml"}]
    with pytest.raises(UserError, match="holds a study that differs in control"):
        run_study(read_study(write_study(place, methods=other)), output)


def test_a_killed_study_goes_on_and_ends_as_one_that_was_not(done, place, tmp_path):
    study = read_study(write_study(place, goal=4))
    with plug_pulled_at(2):
        run_study(study, tmp_path / "out")
    again = run_study(study, tmp_path / "out")
    dice = {(row.method, row.labelled, row.draw): row.dice for row in again.trainings}
    _, whole = done
    assert dice == {(row.method, row.labelled, row.draw): row.dice for row in whole.trainings}


def test_a_training_that_another_process_has_is_left_to_it(place, tmp_path):
    study = read_study(write_study(place, draws=[0]))
    cell = next(study.cells())
    held = folder_of_cell(tmp_path / "out", cell)
    held.mkdir(parents=True)
    begun = multiprocessing.Event()
    over = multiprocessing.Event()
    other = multiprocessing.get_context("fork").Process(target=hold, args=(held, begun, over))
    other.start()
    begun.wait(30)
    results = run_study(study, tmp_path / "out")
    over.set()
    other.join(30)
    assert [row.method for row in results.trainings] == ["cut"]
    assert results.gains == ()
    assert [row.method for row in run_study(study, tmp_path / "out").trainings] == ["control", "cut"]


def hold(folder, begun, over):
    with locked(folder):
        begun.set()
        over.wait(60)


def test_failed_trainings_are_told_at_once_and_after_all_others_are_done(place, tmp_path, monkeypatch, capsys):
    from pipeline.studies import running

    real = running.train

    def train(recipe, run, **how):
        if "cut" in run.parts:
            raise UserError("The training diverged.", [])
        return real(recipe, run, **how)

    monkeypatch.setattr(running, "train", train)
    with pytest.raises(UserError, match=r"2 of 4 trainings failed") as caught:
        run_study(read_study(write_study(place)), tmp_path / "out")
    assert "diverged" in str(caught.value)
    assert minutes_of(tmp_path / "out").keys() == {row.name for row in read_study(write_study(place)).cells()}
    told = capsys.readouterr().err
    assert told.index("cut/002-draw0-seed0 failed: The training diverged.") < told.index("3 of 4")
    assert len(list((tmp_path / "out/runs/control").iterdir())) == 2


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("times.csv", "a,b,c\n", "times.csv: is no table of times"),
        ("times.csv", "a,soon\n", "times.csv: is no table of times"),
        ("study.yaml", "labelled: [x]\n", "study.yaml has"),
        ("study.yaml", "- 1\n", "no mapping of keys to values"),
    ],
)
def test_a_file_of_the_study_that_was_altered_is_named(done, place, tmp_path, name, text, words):
    copy = tmp_path / "out"
    shutil.copytree(done[0], copy)
    (copy / name).write_text(text)
    with pytest.raises(UserError) as caught:
        run_study(read_study(write_study(place, goal=4, draws=[0, 1, 2])), copy)
    assert words in str(caught.value)


# The interval over draws and patients


@pytest.mark.parametrize("draws", [3, 5, 10])
@pytest.mark.parametrize("parts", [(1, 1, 1), (0, 0, 1), (1, 0, 1), (0.3, 0.3, 1)])
def test_interval_over_draws_and_patients_holds_its_level(draws, parts):
    rng = np.random.default_rng(0)
    of_draw, of_patient, noise = parts
    hits = []
    for _ in range(600):
        table = noise * rng.normal(size=(draws, 10)) + of_draw * rng.normal(size=(draws, 1))
        low, high = crossed_interval(table + of_patient * (rng.exponential(size=(1, 10)) - 1))
        hits.append(low <= 0 <= high)
    assert np.mean(hits) >= 0.92


def test_interval_of_draws_that_differ_alone_is_students():
    means = np.array([0.3, 0.1, 0.5, 0.2])
    expected = stats.t.interval(0.95, 3, means.mean(), stats.sem(means))
    assert crossed_interval(np.repeat(means[:, None], 8, axis=1)) == pytest.approx(expected)


def test_interval_of_two_draws_is_none_and_of_equal_numbers_a_point():
    assert crossed_interval(np.random.default_rng(0).normal(size=(2, 40))) is None
    assert crossed_interval(np.full((3, 3), 0.25)) == (0.25, 0.25)


def test_the_table_is_whole_without_numbers_that_are_not_known():
    row = Gain(
        method="cut",
        labelled=5,
        draws=1,
        dice=0.5,
        spread=None,
        gain=0.01,
        low=None,
        high=None,
        worst=0.01,
        of_gap=None,
        minutes=2,
    )
    head, rule, line = as_markdown([row]).splitlines()
    assert [text.count("|") for text in (head, rule, line)] == [10, 10, 10]
    assert line == "| 5 | cut | 1 | 50.00 | +1.00 |  | +1.00 |  | 2.0 |"
