"""Files exchanged while a run is under way, before it goes on, and before it is validated: nothing is taught or scored
in silence, and a run with files that are still the same ends as one that nobody disturbed."""

import csv
import json
import shutil
from collections import Counter
from contextlib import contextmanager

import exchanges
import numpy as np
import pytest
from exchanges import OTHER, SAME, any_orientation, put_back, turned
from runs_fixtures import assert_same_run, files_in, make_phantom, plug_pulled_at, train, write_recipe

from pipeline import runs
from pipeline.engines.steps import TrainingStep
from pipeline.errors import UserError
from pipeline.outputs import Output, digest_of
from pipeline.runs import evaluating, prediction, scoring

SUPERVISED = [{"loss": "dice"}]
UNCACHED = "data.cache=off"


class Place:
    """A dataset, a run that nobody disturbed, and one that was stopped."""

    def __init__(self, folder):
        self.folder, self.dataset = folder, make_phantom(folder / "data", labelled=4, unlabelled=1)
        for path in self.dataset.rglob("*.nii.gz"):
            exchanges.store_without_packing(path)
        self.whole = train(folder, self.dataset, "whole")
        with plug_pulled_at(5):
            train(folder, self.dataset, "stopped")
        self.stopped, self.split = folder / "stopped", json.loads((self.whole / "split.json").read_text())

    def files(self, part):
        """The scan of a part's first case, and its mask where it has one."""
        name = f"{self.split[part][0]}.nii.gz"
        paths = [self.dataset / side / name for side in ("imagesTr", "imagesTs", "labelsTr")]
        return [path for path in paths if path.exists()]

    def everything(self):
        return {part: self.files(part) for part in ("labelled", "unlabelled", "validation")}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Place(tmp_path_factory.mktemp("exchanged"))


@contextmanager
def at_step(step, act):
    """Let something happen once a step of a training is done."""
    update = TrainingStep.__call__

    def wrapped(self, engine, batches):
        found = update(self, engine, batches)
        if engine.state.iteration == step:
            act()
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingStep, "__call__", wrapped)
        yield


@contextmanager
def after(module, name, act):
    """Let something happen once a function is done."""
    function = getattr(module, name)

    def wrapped(*args, **options):
        found = function(*args, **options)
        act()
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, name, wrapped)
        yield


def rows(run):
    with (run / "cases.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def refused(call, *files):
    """Tell whether a call was refused by the name of a file, or of its case; any other end is an error."""
    try:
        call()
        return False
    except UserError as error:
        raised = error
    names = {str(path) for path in files} | {path.name.removesuffix(".nii.gz") for path in files}
    assert raised.problems
    assert {problem.where for problem in raised.problems} <= names, raised
    return True


# While it trains


@pytest.mark.parametrize("act", [exchanges.rolled, exchanges.gone], ids=lambda act: act.__name__)
def test_a_validation_mask_exchanged_while_a_run_trains_ends_it_by_name_and_loses_no_step(place, tmp_path, act):
    _, mask = place.files("validation")
    with put_back(mask):
        with at_step(4, lambda: act(mask, np.random.default_rng(0))), pytest.raises(UserError) as raised:
            train(tmp_path, place.dataset, "run")
        assert [(p.where, p.code) for p in raised.value.problems] == [(str(mask), "file-changed")]
        # The sixth step is validated once the mask is back.
        assert (tmp_path / "run" / "checkpoints" / "last-000006.pt").exists()
        assert len((tmp_path / "run" / "history.csv").read_text().splitlines()) == 7
    assert_same_run(train(tmp_path, place.dataset, "run", resume=True), place.whole)


@pytest.mark.parametrize(("part", "workers"), [("labelled", 0), ("unlabelled", 2)])
def test_a_scan_exchanged_while_a_run_trains_from_it_ends_it_by_name(place, tmp_path, part, workers):
    scan = place.files(part)[0]
    overrides = (UNCACHED, f"data.workers={workers}")
    with put_back(scan), at_step(1, lambda: exchanges.one_voxel_more(scan, np.random.default_rng(0))):
        with pytest.raises(UserError) as raised:
            train(tmp_path, place.dataset, "run", *overrides, max_steps=60)
        assert [(p.where, p.code) for p in raised.value.problems] == [(str(scan), "file-changed")]
        saved = [path.name for path in (tmp_path / "run" / "checkpoints").glob("last-*.pt")]
        assert saved
    with (tmp_path / "run" / "history.csv").open() as stream:
        assert int(list(csv.DictReader(stream))[-1]["step"]) == int(max(saved)[5:11])


def test_what_was_prepared_is_learnt_from_whatever_becomes_of_the_file(place, tmp_path):
    files = place.files("labelled")
    with put_back(*files), at_step(1, lambda: [exchanges.rolled(path, np.random.default_rng(0)) for path in files]):
        assert_same_run(train(tmp_path, place.dataset, "run"), place.whole)


def save_all_anew(files, first):
    """Do something else that leaves it the same to each file."""
    for number, path in enumerate(files, first):
        SAME[number % len(SAME)](path, np.random.default_rng(number))


@pytest.mark.parametrize("first", [0, 4])
def test_a_run_with_files_that_are_still_the_same_ends_as_one_that_nobody_disturbed(place, tmp_path, first):
    files = [path for paths in place.everything().values() for path in paths]
    with put_back(*files), at_step(2, lambda: save_all_anew(files, first)):
        assert_same_run(train(tmp_path, place.dataset, "run", UNCACHED), place.whole)


# Before it goes on


@pytest.mark.parametrize("part", ["labelled", "unlabelled", "validation"])
def test_a_run_does_not_go_on_with_another_file(place, tmp_path, part):
    shutil.copytree(place.stopped, tmp_path / "run")
    before = files_in(tmp_path / "run")
    for path, act in zip(place.files(part), [exchanges.one_voxel_more, exchanges.shifted], strict=False):
        with put_back(path):
            act(path, np.random.default_rng(0))
            assert refused(lambda: train(tmp_path, place.dataset, "run", resume=True), path, *place.files(part))
            assert files_in(tmp_path / "run") == before


@pytest.mark.parametrize("first", [1, 6])
def test_a_run_goes_on_to_the_bit_with_files_that_are_still_the_same(place, tmp_path, first):
    shutil.copytree(place.stopped, tmp_path / "run")
    files = [path for paths in place.everything().values() for path in paths]
    with put_back(*files):
        save_all_anew(files, first)
        assert_same_run(train(tmp_path, place.dataset, "run", resume=True), place.whole)
        # It has noted the files as they are now: nothing of it has changed.
        assert_same_run(train(tmp_path, place.dataset, "run", resume=True), place.whole)


def test_a_run_goes_on_with_scans_of_which_the_axes_were_turned(place, tmp_path):
    shutil.copytree(place.stopped, tmp_path / "run")
    rng = np.random.default_rng(0)
    files = place.everything()
    with put_back(*(path for paths in files.values() for path in paths)):
        for paths in files.values():
            orientation = any_orientation(rng)
            for path in paths:
                turned(path, orientation)
        train(tmp_path, place.dataset, "run", resume=True)
    assert (tmp_path / "run" / "history.csv").read_bytes() == (place.whole / "history.csv").read_bytes()
    for row, other in zip(rows(tmp_path / "run"), rows(place.whole), strict=True):
        assert float(row["dice"]) == pytest.approx(float(other["dice"]), abs=1e-3)


def test_an_index_of_another_version_is_refused_by_name(place, tmp_path):
    """An earlier one had one hash of the voxels as they are stored."""
    shutil.copytree(place.whole, tmp_path / "run")
    path = tmp_path / "run" / "index.json"
    old = [row | {"content": row["content"][0]} for row in json.loads(path.read_text())]
    for row in old:
        del row["sums"]
    flat = [row | {"affine": [[0] * 4] * 4} for row in json.loads(path.read_text())]
    before = files_in(tmp_path / "run")
    for text in (json.dumps(old), json.dumps(flat)):
        path.write_text(text)
        for call in (
            lambda: train(tmp_path, place.dataset, "run", resume=True),
            lambda: runs.validate(tmp_path / "run"),
            lambda: runs.validate(tmp_path / "run", place.dataset),
        ):
            with pytest.raises(UserError) as raised:
                call()
            assert [problem.where for problem in raised.value.problems] == [str(path)]
            assert files_in(tmp_path / "run") == before | {path: text.encode()}


def test_an_index_without_a_case_of_the_run_is_refused(place, tmp_path):
    shutil.copytree(place.whole, tmp_path / "run")
    path = tmp_path / "run" / "index.json"
    for part, call in (("validation", ()), ("labelled", (place.dataset,))):
        content = json.loads((place.whole / "index.json").read_text())
        path.write_text(json.dumps([row for row in content if row["case"] != place.split[part][0]]))
        Output(tmp_path / "run", "run").tell(path.name, digest_of(path))  # As if it had been written so.
        with pytest.raises(UserError, match="says nothing of 1 case"):
            runs.validate(tmp_path / "run", *call)


def test_a_split_or_an_index_that_somebody_has_changed_is_refused(place, tmp_path):
    """Each could be a run's, and the figures would be of cases that it was trained on."""
    split = place.split | {"labelled": place.split["validation"], "validation": place.split["labelled"]}
    index = json.loads((place.whole / "index.json").read_text())[::-1]
    for name, content in (("split.json", split), ("index.json", index)):
        run = tmp_path / name
        shutil.copytree(place.whole, run)
        (run / name).write_text(json.dumps(content))
        before = files_in(run)
        for other in ((), (place.dataset,)):
            with pytest.raises(UserError, match=f"{name}: was changed after it was written"):
                runs.validate(run, *other)
        assert files_in(run) == before


# Before it is validated


@pytest.mark.parametrize("act", [exchanges.mirrored, exchanges.forged], ids=lambda act: act.__name__)
def test_validation_scores_no_other_file(place, tmp_path, act):
    for number, path in enumerate(place.files("validation")):
        shutil.copytree(place.whole, tmp_path / str(number))
        before = files_in(tmp_path / str(number))
        with put_back(path):
            act(path, np.random.default_rng(0))
            assert refused(lambda run=tmp_path / str(number): runs.validate(run), path)
        assert files_in(tmp_path / str(number)) == before


def test_validation_does_not_go_on_without_a_mask_of_which_no_list_tells(place, tmp_path):
    dataset = shutil.copytree(place.dataset, tmp_path / "data")
    (dataset / "dataset.json").unlink()  # Then the masks are those that are there.
    run = train(tmp_path, dataset, "run", max_steps=1, objective=SUPERVISED)
    (held_out,) = json.loads((run / "split.json").read_text())["validation"]
    before = files_in(run)
    (dataset / "labelsTr" / f"{held_out}.nii.gz").unlink()
    with pytest.raises(UserError, match="its case had 2 files with the mask, and has 1") as raised:
        runs.validate(run)
    (problem,) = raised.value.problems
    assert (problem.code, problem.where) == ("file-changed", str(dataset / "imagesTr" / f"{held_out}.nii.gz"))
    assert files_in(run) == before


@pytest.mark.parametrize("act", [exchanges.of_type(np.float64), exchanges.packed_otherwise])
def test_validation_scores_a_file_that_is_still_the_same(place, tmp_path, act):
    shutil.copytree(place.whole, tmp_path / "run")
    files = place.files("validation")
    with put_back(*files):
        for path in files:
            act(path, np.random.default_rng(0))
        runs.validate(tmp_path / "run")
    assert (tmp_path / "run" / "cases.csv").read_bytes() == (place.whole / "cases.csv").read_bytes()


@pytest.mark.parametrize("own", [True, False])
def test_no_moment_is_left_between_the_look_at_a_file_and_its_score(place, tmp_path, own):
    shutil.copytree(place.whole, tmp_path / "run")
    before = files_in(tmp_path / "run")
    for path in place.files("validation"):
        with (
            put_back(path),
            after(scoring, "check_dataset", lambda p=path: exchanges.forged(p, np.random.default_rng(0))),
        ):
            assert refused(lambda: runs.validate(tmp_path / "run", *(() if own else (place.dataset,))), path)
    assert files_in(tmp_path / "run") == before


def test_segments_are_matched_to_no_other_mask(place, tmp_path):
    changes = {"segments": 3, "objective": [{"loss": "ncut", "on": "all", "options": {"radius": 2}}], "max_steps": 1}
    run = train(tmp_path, place.dataset, "run", **changes)
    for path in [
        next(place.dataset.glob(f"{side}/{json.loads((run / 'split.json').read_text())['validation'][0]}*"))
        for side in ("imagesTr", "labelsTr")
    ]:
        with put_back(path):
            exchanges.forged(path, np.random.default_rng(0))
            assert refused(lambda: runs.validate(run), path)


@pytest.fixture(scope="module")
def crossed(place):
    run = place.folder / "crossed"
    runs.cross_validate(
        runs.read_recipe(write_recipe(place.folder, place.dataset, objective=SUPERVISED, max_steps=2)), run, 2
    )
    return run


def test_folds_are_scored_on_no_other_file_and_go_on_with_none(place, crossed, tmp_path):
    recipe = write_recipe(place.folder, place.dataset, objective=SUPERVISED, max_steps=2)
    shutil.copytree(crossed, tmp_path / "run")
    before = files_in(tmp_path / "run")
    for path in place.files("labelled"):
        for act in (exchanges.forged, exchanges.rolled):
            with put_back(path):
                act(path, np.random.default_rng(0))
                assert refused(lambda: runs.validate(tmp_path / "run"), path)
        assert files_in(tmp_path / "run") == before
        with put_back(path):
            exchanges.rolled(path, np.random.default_rng(0))
            assert refused(
                lambda: runs.cross_validate(runs.read_recipe(recipe), tmp_path / "run", 2, resume=True), path
            )
        assert files_in(tmp_path / "run") == before
    with put_back(*place.files("labelled")):
        for path in place.files("labelled"):
            exchanges.of_type(np.float64)(path, np.random.default_rng(0))
        runs.validate(tmp_path / "run")
        runs.cross_validate(runs.read_recipe(recipe), tmp_path / "run", 2, resume=True)
    for name in ("out-of-fold", "fold-1", "fold-2"):
        assert (tmp_path / "run" / name / "cases.csv").read_bytes() == (crossed / name / "cases.csv").read_bytes()


# What a run was trained on


def anew(path, how, rng):
    voxels, affine, _ = exchanges.opened(path)
    if how == "as float64":
        exchanges.save(path, voxels.astype(np.float64), affine)
    elif how == "turned":
        turned(path, any_orientation(rng))
    elif how == "turned, as float64":
        turned(path, any_orientation(rng))
        anew(path, "as float64", rng)
    else:
        exchanges.save(path, voxels, np.eye(4))


@pytest.mark.parametrize("how", ["as float64", "turned, as float64", "without its affine"])
def test_validate_knows_a_scan_again_that_the_run_was_trained_on(place, tmp_path, how):
    for side in ("images", "labels"):
        shutil.copytree(place.dataset / f"{side}Tr", tmp_path / "other" / side)
    for number, path in enumerate(sorted((tmp_path / "other" / "images").iterdir())):
        for each in (path, tmp_path / "other" / "labels" / path.name):
            anew(each, how, np.random.default_rng(number))
            each.rename(each.with_name(f"other-{number}.nii.gz"))
    shutil.copytree(place.whole, tmp_path / "run")
    scores = runs.validate(tmp_path / "run", tmp_path / "other")
    assert scores.summary.n_cases == len(place.split["validation"])
    assert scores.notes == (f"{len(place.split['labelled'])} case(s) that the run was trained on are left out.",)


# Predictions, and masks from anywhere


def test_no_scan_is_predicted_that_was_not_checked(place, tmp_path):
    scans = [tmp_path / f"{name}.nii.gz" for name in "ab"]
    for scan, part in zip(scans, ("validation", "unlabelled"), strict=True):
        shutil.copy(place.files(part)[0], scan)
    with after(prediction, "checked_scans", lambda: exchanges.one_voxel_more(scans[1], np.random.default_rng(0))):
        assert refused(lambda: runs.predict(place.whole, scans, tmp_path / "masks", rank=True), scans[1])
    assert [path.name for path in (tmp_path / "masks").glob("*.nii.gz")] == ["a.nii.gz"]
    with after(prediction, "checked_scans", lambda: [exchanges.byteswapped(path, None) for path in scans]):
        runs.predict(place.whole, scans, tmp_path / "again")
    assert (tmp_path / "again" / "a.nii.gz").read_bytes() == (tmp_path / "masks" / "a.nii.gz").read_bytes()


@pytest.mark.parametrize("side", ["masks", "truth"])
def test_no_mask_is_evaluated_that_was_not_checked(place, tmp_path, side):
    for name in ("masks", "truth"):
        shutil.copytree(place.dataset / "labelsTr", tmp_path / name)
    path = sorted((tmp_path / side).iterdir())[1]

    def evaluate():
        runs.evaluate(tmp_path / "masks", tmp_path / "truth", tmp_path / "scores")

    with after(evaluating, "checked_pairs", lambda: exchanges.forged(path, np.random.default_rng(0))):
        assert refused(evaluate, path)
    assert not (tmp_path / "scores").exists()
    with after(
        evaluating,
        "checked_pairs",
        lambda: [exchanges.copied(path, None), exchanges.touched(path, np.random.default_rng(0))],
    ):
        evaluate()


# All of it, by chance


def moment_of_training(place, folder, happen):
    with at_step(2, happen):
        return train(folder, place.dataset, "run", UNCACHED)


def moment_of_resuming(place, folder, happen):
    shutil.copytree(place.stopped, folder / "run")
    happen()
    return train(folder, place.dataset, "run", UNCACHED, resume=True)


def moment_of_validation(place, folder, happen):
    shutil.copytree(place.whole, folder / "run")
    happen()
    runs.validate(folder / "run")
    return folder / "run"


MOMENTS = [moment_of_training, moment_of_resuming, moment_of_validation]


def exchange_by_chance(place, folder, seed):
    """Exchange a file at some moment, and say what came of it."""
    rng = np.random.default_rng([9, seed])
    moment, same = MOMENTS[seed % 3], seed % 2 == 0
    part = "validation" if moment is moment_of_validation else str(rng.choice(["labelled", "unlabelled", "validation"]))
    files = place.files(part)
    with put_back(*files):
        if same and rng.random() < 0.3:
            orientation = any_orientation(rng)
            happen = lambda: [turned(path, orientation) for path in files]  # noqa: E731
        else:
            path, act = files[rng.integers(len(files))], rng.choice(SAME if same else OTHER)
            happen = lambda: act(path, rng)  # noqa: E731
        done = None

        def call():
            nonlocal done
            done = moment(place, folder, happen)

        if refused(call, *files):
            return "false alarm" if same else "refused"
    if same:
        dice = [np.array([row["dice"] for row in rows(run)], float) for run in (done, place.whole)]
        return "gone on" if np.allclose(*dice, atol=1e-3) else "other scores"
    assert moment is moment_of_training  # The last steps may have drawn other cases.
    assert_same_run(done, place.whole)
    return "not read again"


@pytest.mark.parametrize("seed", range(3))
def test_a_few_exchanges_by_chance(place, tmp_path, seed):
    assert exchange_by_chance(place, tmp_path, seed) in ("refused", "gone on", "not read again")


@pytest.mark.slow
def test_200_exchanges_by_chance(place, tmp_path):
    folders = [tmp_path / str(seed) for seed in range(200)]
    for folder in folders:
        folder.mkdir()
    found = Counter(exchange_by_chance(place, folder, seed) for seed, folder in enumerate(folders))
    print(found)
    assert set(found) <= {"refused", "gone on", "not read again"}, found
    assert found["gone on"] == 100
    assert found["refused"] > 80
