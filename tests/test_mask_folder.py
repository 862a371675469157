"""A folder of masks that was begun: what is done already, what is refused by name, and kills."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import nibabel as nib
import numpy as np
import pytest
from commands import fewmask as command
from runs_fixtures import files_in, make_phantom, train
from tracing import POSSIBLE, trace

import fewmask
from pipeline import runs
from pipeline.errors import IncompleteError, UserError
from pipeline.outputs import digest_of
from pipeline.prediction.predictor import Predictor
from pipeline.runs.beside import Beside
from pipeline.runs.mask_folder import RECORD, MaskFolder
from pipeline.shards import Shard, read_shard


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("begun")


@pytest.fixture(scope="module")
def dataset(folder):
    return make_phantom(folder / "phantom", labelled=3, unlabelled=3)


@pytest.fixture(scope="module")
def run(folder, dataset):
    return train(folder, dataset, "run", max_steps=2)


@pytest.fixture(scope="module")
def other_run(folder, dataset):
    return train(folder, dataset, "other", max_steps=2, seed=8)


@pytest.fixture(scope="module")
def scans(dataset):
    return sorted((dataset / "imagesTs").glob("*.nii.gz"))


@pytest.fixture(scope="module")
def expected(folder, run, scans):
    """The masks of one call that nothing came between."""
    return {path.name: path.read_bytes() for path in runs.predict(run, scans, folder / "expected")}


@pytest.fixture
def predicted(monkeypatch):
    """The names of the scans that a network has looked at."""
    seen, segment = [], Predictor.segment

    def watched(predictor, scans, *arguments):
        seen.append(scans[0].path.name)
        return segment(predictor, scans, *arguments)

    monkeypatch.setattr(Predictor, "segment", watched)
    return seen


def masks_in(place):
    return {path.name: path.read_bytes() for path in place.glob("*.nii.gz")}


def problems_of(raised):
    return [(problem.code, problem.where.rpartition("/")[2]) for problem in raised.value.problems]


def test_evaluate_knows_the_names_of_the_model_and_which_folder_was_predicted(folder, dataset, run, tmp_path, capsys):
    images, labels = dataset / "imagesTr", tmp_path / "labels"
    labels.mkdir()
    runs.predict(run, [images], tmp_path / "masks")
    for path in (dataset / "labelsTr").iterdir():
        shutil.copy(path, labels)
    summary = runs.evaluate(tmp_path / "masks", labels, tmp_path / "scores")
    assert [each.name for each in summary.classes] == ["organ", "nodule"]
    assert "masks that predict has made" not in capsys.readouterr().err
    runs.evaluate(labels, tmp_path / "masks", tmp_path / "swapped")
    assert f"{tmp_path / 'masks'} holds masks that predict has made" in capsys.readouterr().err
    (tmp_path / "masks" / RECORD).write_text("{")
    summary = runs.evaluate(tmp_path / "masks", labels, tmp_path / "unnamed")
    assert [each.name for each in summary.classes] == ["label 1", "label 2"]


def test_finished_masks_are_left_and_missing_ones_are_made(run, scans, expected, predicted, tmp_path):
    runs.predict(run, scans[:1], tmp_path / "masks")
    before = (tmp_path / "masks" / scans[0].name).stat()
    made = runs.predict(run, scans, tmp_path / "masks")
    assert [path.name for path in made] == [scan.name for scan in scans]
    assert predicted == [scan.name for scan in scans]
    after = (tmp_path / "masks" / scans[0].name).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert masks_in(tmp_path / "masks") == expected
    (tmp_path / "masks" / scans[1].name).unlink()
    predicted.clear()
    runs.predict(run, scans, tmp_path / "masks")
    assert predicted == [scans[1].name]
    assert masks_in(tmp_path / "masks") == expected


def test_a_scan_that_was_stored_anew_is_the_same_scan(run, scans, predicted, tmp_path):
    copy = tmp_path / scans[0].name
    shutil.copy(scans[0], copy)
    runs.predict(run, [copy], tmp_path / "masks")
    image = nib.load(scans[0])
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj).astype(np.float32), image.affine), copy)
    runs.predict(run, [copy], tmp_path / "masks")
    assert predicted == [scans[0].name]


def test_a_model_that_was_exported_goes_on_with_the_folder_of_its_run(run, scans, expected, predicted, tmp_path):
    runs.predict(run, scans[:2], tmp_path / "masks")
    fewmask.export(run, tmp_path / "model.fewmask")
    predicted.clear()
    runs.predict(tmp_path / "model.fewmask", scans, tmp_path / "masks")
    assert predicted == [scans[2].name]
    assert masks_in(tmp_path / "masks") == expected


def test_masks_of_another_checkpoint_scan_or_setting_are_refused_by_name(run, other_run, scans, predicted, tmp_path):
    place = tmp_path / "masks"
    runs.predict(run, scans[:2], place)
    before = files_in(place)
    predicted.clear()
    with pytest.raises(
        UserError, match=r"was made with other weights, or other post-processing \[made-otherwise\]\n.*--overwrite"
    ) as raised:
        runs.predict(other_run, scans, place)
    assert problems_of(raised) == [("made-otherwise", scan.name) for scan in scans[:2]]
    with pytest.raises(UserError, match="was made with mirror images"):
        runs.predict(run, scans, place, mirror=False)
    moved = tmp_path / scans[0].name
    image = nib.load(scans[0])
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine + np.diag([0.01, 0, 0, 0])), moved)
    with pytest.raises(UserError, match="was made of another scan") as raised:
        runs.predict(run, [moved, scans[2]], place)
    assert problems_of(raised) == [("made-otherwise", scans[0].name)]
    assert (files_in(place), predicted) == (before, [])


def test_overwrite_makes_those_anew_that_were_made_otherwise(run, other_run, scans, expected, predicted, tmp_path):
    place = tmp_path / "masks"
    runs.predict(other_run, scans[:1], place)
    runs.predict(run, scans[1:2], place)
    assert masks_in(place)[scans[0].name] != expected[scans[0].name]
    predicted.clear()
    runs.predict(run, scans, place, overwrite=True)
    assert predicted == [scans[0].name, scans[2].name]
    assert masks_in(place) == expected


def test_no_mask_that_a_person_changed_or_put_there_is_overwritten(run, scans, tmp_path):
    place = tmp_path / "masks"
    runs.predict(run, scans[:1], place)
    mask = place / scans[0].name
    mask.write_bytes(b"corrected by hand")
    shutil.copy(scans[1], place / scans[1].name)
    before = files_in(place)
    with pytest.raises(UserError) as raised:
        runs.predict(run, scans, place, overwrite=True)
    assert problems_of(raised) == [("mask-exists", scans[0].name), ("mask-exists", scans[1].name)]
    assert files_in(place) == before


def test_masks_that_the_record_does_not_tell_of_are_refused_and_may_be_overwritten(run, scans, expected, tmp_path):
    place = tmp_path / "masks"
    runs.predict(run, scans, place)
    (place / RECORD).unlink()
    with pytest.raises(UserError, match=f"is not what {RECORD} tells of"):
        runs.predict(run, scans, place)
    runs.predict(run, scans, place, overwrite=True)
    assert masks_in(place) == expected
    assert set(MaskFolder(place).read().masks) == set(expected)


@pytest.mark.parametrize(
    "content", ["{}", '{"format": 1, "masks": {"a.nii.gz": {}}}', "[", '{"format": 2, "masks": {}}']
)
def test_record_that_is_none_of_ours_is_refused_and_stays(run, scans, tmp_path, content):
    place = tmp_path / "masks"
    place.mkdir()
    (place / RECORD).write_text(content)
    with pytest.raises(UserError, match=f"{RECORD}: is there, and `predict` has not written it here"):
        runs.predict(run, scans, place)
    with pytest.raises(UserError, match="is no record of masks of this version"):
        MaskFolder(place).read()
    assert files_in(place) == {place / RECORD: content.encode()}


def test_record_tells_nothing_of_a_patient_but_the_names_of_masks(run, scans, dataset, tmp_path):
    place = tmp_path / "masks"
    runs.predict(run, scans, place, rank=True)
    record = json.loads((place / RECORD).read_text())
    assert list(record["masks"]) == [scan.name for scan in scans]
    for name, mask in record["masks"].items():
        assert set(mask) == {"scan", "model", "mirrored", "labels", "dice_expected", "files"}
        assert mask["files"] == {name: digest_of(place / name)}
        assert all(len(mask[key]) == 64 for key in ("scan", "model"))
    assert str(dataset) not in (place / RECORD).read_text()


def test_scans_are_ranked_with_those_that_were_there(run, scans, predicted, tmp_path):
    place = tmp_path / "masks"
    runs.predict(run, scans, place, rank=True)
    listed = (place / "annotate_next.csv").read_bytes()
    (place / "annotate_next.csv").unlink()
    (place / scans[2].name).unlink()
    predicted.clear()
    runs.predict(run, scans, place, rank=True)
    assert predicted == [scans[2].name]
    assert (place / "annotate_next.csv").read_bytes() == listed
    # A mask that was made without its expected Dice is made again, and is the same.
    runs.predict(run, scans[:1], tmp_path / "plain")
    mask = (tmp_path / "plain" / scans[0].name).read_bytes()
    predicted.clear()
    runs.predict(run, scans[:1], tmp_path / "plain", rank=True)
    assert (predicted, (tmp_path / "plain" / scans[0].name).read_bytes()) == ([scans[0].name], mask)


def test_tables_that_are_older_than_masks_are_told(run, other_run, scans, tmp_path, capsys):
    place = tmp_path / "masks"
    runs.predict(run, scans[:1], place, rank=True, beside=Beside(volumes=True))
    runs.predict(run, scans[:1], place)
    assert "older than some masks" not in capsys.readouterr().err
    runs.predict(other_run, scans[:1], place, overwrite=True)
    assert f"volumes.csv, annotate_next.csv in {place}: older than some masks" in capsys.readouterr().err
    runs.predict(other_run, scans[:1], place, rank=True, beside=Beside(volumes=True))
    assert "older than some masks" not in capsys.readouterr().err


def test_a_training_that_is_unfinished_is_told(folder, dataset, run, scans, tmp_path, capsys):
    begun = train(folder, dataset, "begun", max_steps=3, checkpoint_every=1)
    newest = max((begun / "checkpoints").glob("last-*.pt"))
    for path in (newest, newest.with_name(f"{newest.name}.sha256")):
        path.unlink()
    runs.predict(begun, scans[:1], tmp_path / "masks")
    assert f"{begun} was trained to step 2 of 3" in capsys.readouterr().err
    assert "This model was trained to step 2 of 3." in runs.validate(begun).notes
    assert not any("was trained to" in text for text in runs.validate(run).notes)
    runs.predict(run, scans[:1], tmp_path / "others")
    assert "was trained to step" not in capsys.readouterr().err


def test_scans_in_the_place_of_a_run_are_told(run, dataset, tmp_path):
    with pytest.raises(UserError, match=r"is a run's folder(.|\n)*the run comes first"):
        runs.predict(dataset, [run], tmp_path / "masks")


def test_scans_that_were_trained_on_with_their_masks_are_told(run, dataset, tmp_path, capsys):
    split = json.loads((run / "split.json").read_text())
    runs.predict(
        run, [dataset], tmp_path / "all", only=[*split["labelled"], *split["validation"], *split["unlabelled"]]
    )
    number = len(split["labelled"])
    total = number + len(split["validation"]) + len(split["unlabelled"])
    assert f"was trained on {number} of these {total} scans, with their masks" in capsys.readouterr().err
    runs.predict(run, [dataset], tmp_path / "others", only=split["validation"])
    assert "with their masks" not in capsys.readouterr().err


def test_what_failed_once_is_made_by_the_next_call(run, scans, expected, predicted, tmp_path, monkeypatch):
    watched = Predictor.segment

    def hungry(predictor, images, *arguments):
        if images[0].path.name == scans[1].name:
            raise MemoryError
        return watched(predictor, images, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "segment", hungry)
        with pytest.raises(IncompleteError):
            runs.predict(run, scans, tmp_path / "masks")
    predicted.clear()
    runs.predict(run, scans, tmp_path / "masks")
    assert predicted == [scans[1].name]
    assert masks_in(tmp_path / "masks") == expected


@pytest.mark.skipif(not POSSIBLE, reason="needs Linux on x86-64, to kill a child at each of its system calls")
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("every", [45, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_any_call_a_folder_holds_whole_masks_and_the_second_call_finishes(
    run, other_run, scans, expected, tmp_path, overwrite, every
):
    def begin(place):
        runs.predict(run, scans[:2], place, overwrite=overwrite)
        return b""

    wanted = {name: expected[name] for name in (scans[0].name, scans[1].name)}
    (tmp_path / "old").mkdir()
    if overwrite:
        runs.predict(other_run, scans[:2], tmp_path / "old")
    whole = [*wanted.values(), *masks_in(tmp_path / "old").values()]
    shutil.copytree(tmp_path / "old", tmp_path / "all")
    calls = trace(lambda: begin(tmp_path / "all")).calls
    assert len(calls) > 60
    # Between two files that get their names, what is there is least of one piece.
    numbers = sorted({*range(0, len(calls), every), *(n for n, call in enumerate(calls) if call.startswith("rename"))})
    kills = 0
    for number in numbers:
        place = tmp_path / str(number)
        shutil.copytree(tmp_path / "old", place)
        kills += trace(lambda place=place: begin(place), kill_at=number).code is None
        assert all(mask in whole for mask in masks_in(place).values()), number
        begin(place)
        assert masks_in(place) == wanted, number
        assert {path.name for path in place.iterdir()} == {*wanted, RECORD, ".fewmask"}, number
        shutil.rmtree(place)
    assert kills >= 0.9 * len(numbers)  # The calls are not quite the same ones each time.


def test_one_scan_is_written_to_the_file_that_is_named(run, scans, expected, tmp_path):
    for name in ("mask.nii.gz", "new/mask.nii"):
        done = command("predict", run, scans[0], "--output", tmp_path / name)
        assert done.returncode == 0, done.stderr
        mask = nib.load(tmp_path / name)
        beside = [path for path in (tmp_path / name).parent.iterdir() if path.is_file()]
        assert beside == [tmp_path / name]
        np.testing.assert_array_equal(mask.affine, nib.load(scans[0]).affine)
    assert (tmp_path / "mask.nii.gz").read_bytes() == expected[scans[0].name]


def test_file_that_is_named_is_refused_where_it_cannot_be_the_mask(run, scans, tmp_path):
    mask = tmp_path / "mask.nii.gz"
    with pytest.raises(UserError, match="is the name of one mask, and there are 3 scans"):
        runs.predict(run, scans, mask)
    with pytest.raises(UserError, match="--annotate-next: needs a folder"):
        runs.predict(run, scans[:1], mask, rank=True)
    with pytest.raises(UserError, match="--overwrite: needs a folder"):
        runs.predict(run, scans[:1], mask, overwrite=True)
    assert not list(tmp_path.iterdir())
    mask.write_bytes(b"precious")
    with pytest.raises(UserError, match="is there already"):
        runs.predict(run, scans[:1], mask)
    assert mask.read_bytes() == b"precious"


def test_shards_make_the_folder_of_one_call(run, scans, expected, predicted, tmp_path):
    place = tmp_path / "masks"
    for which in (2, 3, 4, 1):  # There are three scans.
        made = runs.predict(run, scans, place, shard=Shard(which, 4))
        assert [path.name for path in made] == [path.name for path in scans[which - 1 : which]]
    assert sorted(predicted) == sorted(path.name for path in scans)
    assert masks_in(place) == expected
    assert sorted(MaskFolder(place).read().masks) == sorted(expected)


@pytest.mark.slow
def test_tasks_of_an_array_write_into_one_folder_at_the_same_time(run, scans, expected, tmp_path):
    place = tmp_path / "masks"
    words = ["predict", run, *scans, "--output", place, "--shard", "array/2"]
    with ThreadPoolExecutor(2) as pool:
        tasks = [pool.submit(command, *words, SLURM_ARRAY_TASK_ID=task, SLURM_ARRAY_TASK_MIN="0") for task in "01"]
        assert [task.result().returncode for task in tasks] == [0, 0]
    assert masks_in(place) == expected
    assert sorted(MaskFolder(place).read().masks) == sorted(expected)


def test_a_shard_writes_nothing_that_would_tell_of_a_part(run, scans, tmp_path):
    with pytest.raises(UserError, match="a last call without --shard"):
        runs.predict(run, scans, tmp_path / "masks", rank=True, shard=Shard(1, 2))
    assert not (tmp_path / "masks").exists()


@pytest.mark.parametrize("text", ["", "0/3", "4/3", "1", "a/b", "-1/3", "1/0", "array/3", "1/3/5", "1/1000000"])
def test_what_is_no_shard_is_refused(text):
    with pytest.raises(UserError, match="--shard"):
        read_shard(text, {})


def test_a_task_outside_of_its_array_is_refused():
    with pytest.raises(UserError, match="array/2"):
        read_shard("array/2", {"JOB_COMPLETION_INDEX": "2"})
