"""Folds and seeds that several calls train, and folds that are joined afterwards: the same as in one call."""

import multiprocessing
import shutil

import pytest
import yaml
from commands import fewmask
from runs_fixtures import make_phantom, state_of, write_recipe

import fewmask as api
from pipeline import runs
from pipeline.errors import UserError
from pipeline.files import locked
from pipeline.shards import Shard

WHOLE = {"out-of-fold/cases.csv", "out-of-fold/summary.json", "split.json", "postprocessing.json"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("apart")


@pytest.fixture(scope="module")
def recipe(folder):
    dataset = make_phantom(folder / "phantom", labelled=5)
    return write_recipe(folder, dataset, objective=[{"loss": "dice"}], max_steps=3, postprocessing=[])


@pytest.fixture(scope="module")
def crossed(folder, recipe):
    runs.cross_validate(runs.read_recipe(recipe), folder / "crossed", 3)
    return folder / "crossed"


@pytest.fixture(scope="module")
def apart(folder, recipe):
    places = [folder / f"apart-{fold}" for fold in (2, 3, 1)]
    for place in places:
        runs.train(runs.read_recipe(recipe, [f"data.fold=[{place.name[-1]},3]"]), place)
    return places


def same(run, other):
    """Whether two cross-validations have the same weights, split, scores and post-processing."""
    weights = [state_of(place / f"fold-{fold}")["network"] for place in (run, other) for fold in (1, 2, 3)]
    for one, two in zip(weights[:3], weights[3:], strict=True):
        assert all(value.equal(two[name]) for name, value in one.items())
    return all((run / name).read_bytes() == (other / name).read_bytes() for name in WHOLE)


def hold(folder, begun, over):
    with locked(folder):
        begun.set()
        over.wait(120)


def test_shares_of_the_folds_are_the_whole(recipe, crossed, tmp_path, capsys):
    run = tmp_path / "run"
    for place, scored in ((2, 0), (1, 1)):
        assert len(runs.cross_validate(runs.read_recipe(recipe), run, 3, resume=True, shard=Shard(place, 2))) == scored
        assert ("fold-1, fold-3: not trained yet" in capsys.readouterr().err) == (not scored)
    assert same(run, crossed)


def test_a_fold_that_another_call_trains_is_left_to_it(recipe, crossed, tmp_path, capsys):
    run = tmp_path / "run"
    (run / "fold-2").mkdir(parents=True)
    begun = multiprocessing.Event()
    over = multiprocessing.Event()
    other = multiprocessing.get_context("fork").Process(target=hold, args=(run / "fold-2", begun, over))
    other.start()
    begun.wait(30)
    assert runs.cross_validate(runs.read_recipe(recipe), run, 3) == []
    over.set()
    other.join(30)
    told = " ".join(capsys.readouterr().err.split())
    assert "fold-2 is being trained by another call" in told
    assert "fold-2: not trained yet; the call that ends last scores all" in told
    assert len(runs.cross_validate(runs.read_recipe(recipe), run, 3, resume=True)) == 1
    assert same(run, crossed)


def test_shares_of_the_seeds_are_the_whole(recipe, tmp_path):
    for place in (2, 1):
        found = api.train_seeds(recipe, tmp_path / "seeds", 2, resume=True, shard=f"{place}/2")
    assert [row.seed for row in found] == [3, 4]
    assert (tmp_path / "seeds" / "seeds.csv").read_text().count("\n") == 3


def test_shares_are_of_folds_or_seeds(recipe, tmp_path):
    done = fewmask("train", recipe, "--output", tmp_path / "run", "--shard", "1/2")
    assert (done.returncode, "add --folds or" in done.stderr) == (2, True)
    assert not (tmp_path / "run").exists()


def test_folds_trained_apart_and_joined_are_those_trained_together(apart, crossed, folder):
    done = fewmask("join", *apart, "--output", folder / "joined")
    assert done.returncode == 0, done.stderr
    assert "fewmask predict" in done.stdout
    assert same(folder / "joined", crossed)
    assert (folder / "joined" / "out-of-fold" / "report.html").is_file()
    assert not any(path.name.startswith(".partial") for path in folder.iterdir())
    for name in ("joined", "crossed"):
        scan = next((folder / "phantom" / "imagesTs").iterdir())
        runs.predict(folder / name, [scan], folder / f"masks-{name}")
    (joined,) = (folder / "masks-joined").glob("*.nii.gz")
    assert joined.read_bytes() == (folder / "masks-crossed" / joined.name).read_bytes()


def without_scores(place):
    (place / "summary.json").unlink()


def with_another_rate(place):
    """As if another learning rate had been given: the file, and the list that has its hash."""
    told = yaml.safe_load((place / "config.yaml").read_text())
    told["optimizer"]["options"]["learning_rate"] = 0.5
    (place / "config.yaml").write_text(yaml.safe_dump(told))


@pytest.mark.parametrize(
    ("chosen", "alter", "message"),
    [
        ([0, 1], None, r"is fold 2 of 3, and 2 are given(.|\n)*all K folds once, each trained with data.fold=\[N,K\]"),
        ([0, 1, 1], None, "is fold 3, as"),
        ([0, 1, 2], without_scores, "is not trained to its end"),
        (
            [0, 1, 2],
            with_another_rate,
            r"another optimizer.options.learning_rate(.|\n)*config.yaml data.fold=\[1,3\]",
        ),
    ],
)
def test_what_are_not_all_folds_of_one_recipe_is_refused(apart, tmp_path, chosen, alter, message):
    places = [apart[number] for number in chosen]
    if alter:
        places[0] = shutil.copytree(places[0], tmp_path / "altered")
        alter(places[0])
    with pytest.raises(UserError, match=message):
        runs.join(places, tmp_path / "joined")
    assert not (tmp_path / "joined").exists()


def test_folds_of_which_one_was_planned_otherwise_are_joined(recipe, crossed, folder, tmp_path, capsys):
    """As where the voxels of the training cases of a fold are larger, in the median."""
    places = [tmp_path / f"fold-{number}" for number in (1, 2, 3)]
    for number, place in enumerate(places, 1):
        strides = [[2, 2, 2]] if number == 3 else [[2, 2, 1]]
        words = [f"augmentation.elastic_mm={number // 3}", f"network.options.strides={strides}"]
        words += [f"max_steps={2 + number // 3}", f"validate_every={1 + number // 3}"]
        words += [f"data.fold=[{number},3]"]
        runs.train(runs.read_recipe(recipe, words), place)
    capsys.readouterr()
    joined = tmp_path / "joined"
    assert len(runs.join(places, joined)) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "they differ in augmentation.elastic_mm, max_steps, network.options.strides" in told
    config = yaml.safe_load((joined / "config.yaml").read_text())
    assert (config["augmentation"]["elastic_mm"], config["network"]["options"]["strides"]) == ("auto", "auto")
    assert config["data"]["fold"] is None
    assert (joined / "out-of-fold" / "summary.json").is_file()
    scan = next((folder / "phantom" / "imagesTs").iterdir())
    runs.predict(joined, [scan], tmp_path / "masks")
    assert len(list((tmp_path / "masks").glob("*.nii.gz"))) == 1


def test_a_fold_with_other_post_processing_is_told_how_to_be_without(apart, tmp_path):
    place = shutil.copytree(apart[1], tmp_path / "fold")
    told = yaml.safe_load((place / "config.yaml").read_text())
    told["postprocessing"] = [{"step": "keep_largest", "options": {"label": 1}}]
    (place / "config.yaml").write_text(yaml.safe_dump(told))
    with pytest.raises(UserError) as caught:
        runs.join([apart[0], place, apart[2]], tmp_path / "joined")
    (problem,) = caught.value.problems
    assert problem.message == "has another post-processing"
    assert f"fewmask train {place} --resume 'postprocessing=[]' --allow-change postprocessing" in problem.remedy


def test_folds_trained_by_themselves_are_told_how_they_can_be_joined(apart, tmp_path):
    single = shutil.copytree(apart[0], tmp_path / "single")
    told = yaml.safe_load((single / "config.yaml").read_text())
    told["data"] |= {"fold": None, "split": "splits.json", "split_fold": 0}
    (single / "config.yaml").write_text(yaml.safe_dump(told))
    with pytest.raises(UserError) as caught:
        runs.join([apart[1], single], tmp_path / "joined")
    said = str(caught.value)
    assert "data.fold=[N,K] in the place of data.split_fold, where K is how many the file of data.split has" in said
    assert "has another" not in said


def test_a_run_that_is_no_fold_and_a_folder_that_is_there_are_refused(crossed, apart, tmp_path):
    with pytest.raises(UserError, match="is no fold"):
        runs.join([crossed, *apart[:2]], tmp_path / "joined")
    with pytest.raises(UserError, match="is there, and is not empty"):
        api.join(apart, crossed)
