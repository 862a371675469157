"""The Python interface: what it returns, and that it predicts what the command does."""

import doctest
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from runs_fixtures import ROOT, TINY, assert_same_run, files_in, make_phantom

import fewmask
from pipeline.prediction.predictor import Predictor
from pipeline.terminal import note

CODES = ("RAS", "LPS", "ASR", "SPL", "IAR")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_phantom(tmp_path_factory.mktemp("phantom") / "data")


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    scores = fewmask.train(TINY | {"dataset": str(dataset)}, folder, settings={"max_steps": 4, "seed": 5})
    assert scores.folder == folder
    assert set(scores.summary.as_dict()["classes"][0]["metrics"]) >= {"dice", "hd95_mm"}
    return folder


def reoriented(image, codes, rng):
    """A scan with its axes in another order and direction, a little oblique, in one of the ways to store it."""
    turn = ornt_transform(io_orientation(image.affine), axcodes2ornt(codes))
    voxels = nib.orientations.apply_orientation(np.asanyarray(image.dataobj), turn)
    affine = image.affine @ inv_ornt_aff(turn, image.shape)
    angle = rng.uniform(-0.2, 0.2)
    tilt = np.eye(4)
    tilt[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    made = nib.Nifti1Image(voxels.astype(rng.choice(["float32", "int16", "float64"])), tilt @ affine)
    if rng.random() < 0.4:  # A type that scales.
        made = nib.Nifti1Image(voxels.astype(np.float64), tilt @ affine)
        made.set_data_dtype(np.int16)
    form = rng.choice(["both", "qform", "sform"])
    made.set_qform(made.affine, 0 if form == "sform" else 1)
    made.set_sform(made.affine, 0 if form == "qform" else 1)
    return made


def test_what_is_loaded_predicts_what_the_command_writes_from_a_path_an_image_and_an_array(dataset, run, tmp_path):
    scans, rng = tmp_path / "scans", np.random.default_rng(0)
    scans.mkdir()
    originals = sorted((dataset / "imagesTr").iterdir())[:4]
    for codes in CODES:
        for path in originals:
            image = nib.load(path)
            name = f"{path.name.split('.')[0]}_{codes}.nii{'.gz' if rng.random() < 0.5 else ''}"
            nib.save(reoriented(image, codes, rng), scans / name)
    masks = fewmask.predict(str(run), str(scans), tmp_path / "masks")
    assert len(masks) == 20
    model = fewmask.load(run)
    values = set()
    for path in masks:
        written = np.asanyarray(nib.load(path).dataobj)
        scan = nib.load(scans / path.name)
        values |= set(np.unique(written).tolist())
        assert np.array_equal(model.predict(scans / path.name), written)
        assert np.array_equal(model.predict(str(scans / path.name)), written)
        assert np.array_equal(model.predict(scan), written)
        array = np.asanyarray(scan.dataobj)
        assert np.array_equal(model.predict(array, affine=scan.affine), written), path.name
        assert np.array_equal(model.predict(array.astype(np.float64), scan.affine.tolist()), written)
        shares = model.probabilities(scan)
        assert shares.shape == (len(model.labels), *written.shape)
        assert shares.sum(axis=0) == pytest.approx(1, abs=1e-5)
        sure = np.sort(shares, axis=0)[-1] - np.sort(shares, axis=0)[-2] > 1e-5
        assert np.array_equal(np.array(list(model.labels))[shares.argmax(axis=0)][sure], written[sure])
    assert len(values) > 1, "a model that finds nothing shows nothing"


def test_a_training_in_a_thread_prints_nothing_and_leaves_signals_and_threads_to_its_caller(dataset, tmp_path):
    """What a notebook or a service does; its own handlers answer signals while the training goes on."""
    script = tmp_path / "service.py"
    script.write_text(f"""
import signal, threading, time
import fewmask, torch

heard, done = [], []
for name in ("SIGINT", "SIGTERM", "SIGHUP"):
    signal.signal(getattr(signal, name), lambda number, _: heard.append(number))
before = [signal.getsignal(number) for number in range(1, 32)], torch.get_num_threads()


def work(name):
    done.append(fewmask.train({TINY | {"dataset": str(dataset), "max_steps": 40}!r}, {str(tmp_path)!r} + "/" + name))


thread = threading.Thread(target=work, args=["thread"])
thread.start()
while thread.is_alive():
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGTERM)
    time.sleep(0.2)
work("main")
after = [signal.getsignal(number) for number in range(1, 32)], torch.get_num_threads()
assert before == after, (before, after)
assert set(heard) == {{2, 15}} and len(done) == 2
""")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment, timeout=300)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert_same_run(tmp_path / "thread", tmp_path / "main")


def test_verbose_prints_what_the_command_prints(dataset, tmp_path, capfd):
    recipe = TINY | {"dataset": str(dataset), "max_steps": 2}
    fewmask.train(recipe, tmp_path / "told", verbose=True)
    assert "trained to step 2" in capfd.readouterr().err
    fewmask.train(recipe, tmp_path / "quiet")
    assert capfd.readouterr() == ("", "")


def test_a_model_says_its_labels_and_channels(run):
    model = fewmask.load(run)
    assert list(model.labels.values()) == ["background", "organ", "nodule"]
    assert len(model.channels) == 1


def test_what_a_model_cannot_take_is_refused_with_the_reason(run, dataset):
    model, array = fewmask.load(run), np.zeros((20, 20, 20), np.float32)
    for image, affine, code in [
        (array, None, "no-affine"),
        (array, np.eye(3), "no-affine"),
        (np.stack([array, array], -1), np.eye(4), "channel-count"),
        ([array, array], np.eye(4), "channel-count"),
        (array.astype(np.complex64), np.eye(4), None),
        (np.full_like(array, np.nan), np.eye(4), None),
        (array, np.zeros((4, 4)), None),
        (array, np.full((4, 4), np.nan), "no-affine"),
        (array, np.diag([1, 1, 0, 1]), "no-affine"),
        (array, np.array([[0, 1, 0, -9], [-1, 0, 0, 20], [0, 0, 1, 30], [0, 0, 0, 1]]).T, "no-affine"),
        (np.zeros((0, 5, 5)), np.eye(4), "not-nifti"),
        (array, "RAS", "no-affine"),
        (array[0], np.eye(4), "mixed-dimensions"),
        (dataset / "imagesTr" / "phantom_000.nii.gz", np.eye(4) * 3, "no-affine"),
        ([], np.eye(4), "no-scans"),
        ([[1, 2], [3, 4]], np.eye(4), "not-nifti"),
        (None, None, "not-nifti"),
        (np.array(["a"]), np.eye(4), "not-nifti"),
        ("nothing.nii.gz", None, "missing-file"),
    ]:
        with pytest.raises(fewmask.UserError) as raised:
            model.predict(image, affine)
        codes = [problem.code for problem in raised.value.problems]
        assert code is None or code in codes, codes
        assert all(problem.remedy for problem in raised.value.problems)


def test_an_affine_beside_a_file_is_taken_where_it_is_the_files_own(run, dataset):
    model, path = fewmask.load(run), dataset / "imagesTr" / "phantom_000.nii.gz"
    expected = model.predict(path)
    np.testing.assert_array_equal(model.predict(path, nib.load(path).affine), expected)
    np.testing.assert_array_equal(model.predict([path]), expected)


def test_a_model_is_loaded_to_the_device_that_is_named(run):
    assert fewmask.load(run, device="cpu").labels == fewmask.load(run).labels
    with pytest.raises(fewmask.UserError):
        fewmask.load(run, device="cuda:99")


def test_a_folder_that_is_no_run_is_not_loaded(dataset):
    with pytest.raises(fewmask.UserError, match="so it is no run"):
        fewmask.load(dataset)


def test_a_check_and_a_plan_write_nothing(dataset, run):
    before = files_in(dataset)
    look = fewmask.check(str(dataset))
    assert (look.problems, len(look.index().facts)) == ([], 6)
    with pytest.raises(fewmask.UserError):
        fewmask.check(dataset / "nowhere")
    recipe = fewmask.Recipe.model_validate_json(json.dumps(TINY | {"dataset": str(dataset), "device": "auto"}))
    plan = fewmask.plan(recipe, settings={"data.batch_size": 2})
    assert plan.recipe.data.batch_size == 2
    assert plan.recipe.device != "auto"
    assert all(choice.reason for choice in plan.choices)
    assert files_in(dataset) == before


def test_mistakes_of_a_recipe_are_told(tmp_path):
    with pytest.raises(fewmask.UserError, match=r"did you mean 'optimizer\.learning_rate'"):
        fewmask.train("supervised", tmp_path, settings={"dataset": "d", "optimizer.learning_rat": 1})
    with pytest.raises(fewmask.UserError, match="objective"):
        fewmask.train({"dataset": "d"}, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_settings_are_a_mapping_whose_numbers_may_be_numpys(dataset):
    recipe = TINY | {"dataset": str(dataset)}
    plan = fewmask.plan(recipe, settings={"max_steps": np.int64(7), "data.patch_size": np.array([16, 16, 16])})
    assert (plan.recipe.max_steps, plan.recipe.data.patch_size) == (7, (16, 16, 16))
    with pytest.raises(fewmask.UserError, match="The recipe given has 1 mistake"):
        fewmask.plan(recipe, settings={"max_steps": -7})


def test_what_is_returned_is_shown_on_a_line(dataset, run):
    look, plan = fewmask.check(dataset), fewmask.plan(TINY | {"dataset": str(dataset)})
    assert repr(look) == "Check(cases=6, problems=0, warnings=0)"
    assert repr(fewmask.load(run)).startswith("Model(labels={0: 'background', 1: 'organ', 2: 'nodule'}, channels=")
    assert max(map(len, map(repr, (look, plan, fewmask.load(run), fewmask.validate(run))))) < 300


def test_datasets_are_opened_as_the_commands_open_them(dataset, run, tmp_path):
    for place in ("images", "labels", "labels2"):
        (tmp_path / "data" / place).mkdir(parents=True)
    for number, image in enumerate(sorted((dataset / "imagesTr").iterdir())[:2]):
        (tmp_path / "data" / "images" / f"new{number}.nii.gz").write_bytes(image.read_bytes())
        for place in ("labels", "labels2"):
            mask = tmp_path / "data" / place / f"new{number}.nii.gz"
            mask.write_bytes((dataset / "labelsTr" / image.name).read_bytes())
    options = {"labels": "labels2"}
    with pytest.raises(fewmask.UserError, match="several folders of masks"):
        fewmask.predict(run, tmp_path / "data", tmp_path / "masks")
    masks = fewmask.predict(run, tmp_path / "data", tmp_path / "masks", layout="folder", layout_options=options)
    assert len(masks) == 2
    model = tmp_path / "model.fewmask"
    assert fewmask.export(run, model) == Path(model)
    with pytest.raises(fewmask.UserError, match="several folders of masks"):
        fewmask.validate(model, tmp_path / "data")
    assert fewmask.validate(model, tmp_path / "data", layout_options=options).summary.n_cases == 2


MISTYPED = {
    "a word for a switch": ("predict", {"mirror": "off"}, "mirror: is 'off'", "give bool"),
    "1 for a switch": ("predict", {"overwrite": 1}, "overwrite: is 1", "give bool"),
    "a name for a list of names": ("train", {"allow_change": "max_steps"}, "allow_change: is 'max_steps'", "['max_"),
    "a path for a list of paths": ("predict", {"plugins": Path("own.py")}, "plugins: is PosixPath('own.py')", "a list"),
    "a mapping for what is beside": ("predict", {"beside": {"volumes": True}}, "is {'volumes': True}", "give Beside"),
    "no such checkpoint": ("validate", {"checkpoint": "bset"}, "checkpoint: is 'bset'", "give one of 'last', 'best'"),
    "no such format": ("export", {"format": "onxx"}, "format: is 'onxx'", "give one of 'model', 'torch'"),
    "no number": ("evaluate", {"tolerance_mm": "2 mm"}, "tolerance_mm: is '2 mm'", "give float"),
    "names by text": ("evaluate", {"names": {"1": "organ"}}, "names: is {'1': 'organ'}", "Mapping[int, str] | None"),
    "metrics without a name": ("evaluate", {"metrics": [len]}, "metrics: is [<built-in", "Mapping[str, Callable["),
    "settings as of the command": ("train", {"settings": ["seed=1"]}, "settings: is ['seed=1']", "Mapping[str, Any]"),
}
ARGUMENTS = {
    "train": ("dataset", "out"),
    "validate": ("run",),
    "predict": ("run", "scans", "out"),
    "evaluate": ("masks", "labels", "out"),
    "export": ("run", "out"),
}


@pytest.mark.parametrize(("name", "given", "said", "remedy"), MISTYPED.values(), ids=MISTYPED)
def test_arguments_of_another_type_are_refused_at_once(name, given, said, remedy):
    with pytest.raises(fewmask.UserError) as error:
        getattr(fewmask, name)(*ARGUMENTS[name], **given)
    assert said in str(error.value)
    assert remedy in str(error.value)


def test_all_arguments_are_looked_at_and_images_are_for_a_model(run):
    image = np.zeros((4, 4, 4))
    with pytest.raises(fewmask.UserError) as error:
        fewmask.cross_validate(["a"], "out", "five", resume="no", shard=2)
    assert [problem.where for problem in error.value.problems] == ["source", "folds", "resume", "shard"]
    for scan in (image, nib.Nifti1Image(image, np.eye(4))):
        with pytest.raises(fewmask.UserError, match=r"scans: is (.|\n)*fewmask\.load\(run\)\.predict\(image\)"):
            fewmask.predict("run", scan, "out")
    with pytest.raises(fewmask.UserError, match=r"labels: is 'organ'(.|\n)*volumes: is 'off'"):
        fewmask.Beside(labels="organ", volumes="off")
    with pytest.raises(fewmask.UserError, match=r"device: is 'gpu'(.|\n)*give auto, cpu, cuda or cuda:N"):
        fewmask.load(run, device="gpu")
    with pytest.raises(
        TypeError, match=r"train\(\) got an unexpected keyword argument 'epochs': train\(source: .*settings"
    ):
        fewmask.train("dataset", "out", epochs=3)


def test_numbers_of_numpy_are_numbers(dataset, run, tmp_path):
    truth = dataset / "labelsTr"
    regions = {"both": list(np.unique([1, 2]))}
    scores = fewmask.evaluate(truth, truth, tmp_path / "scores", regions=regions, tolerance_mm=np.float32(2))
    assert scores.as_dict()["mean_dice"] == 1
    masks = fewmask.predict(run, dataset / "imagesTs", tmp_path / "masks", mirror=np.bool_(True), only=["phantom_004"])
    assert len(masks) == 1


def test_scans_are_ranked_for_annotation_where_asked_for(dataset, run, tmp_path):
    fewmask.predict(run, dataset / "imagesTs", tmp_path / "masks", annotate_next=True)
    assert (tmp_path / "masks" / "annotate_next.csv").read_text().startswith("rank,scan,mask")


def test_scores_of_a_run_and_of_masks(dataset, run, tmp_path):
    validated = fewmask.validate(run)
    assert validated.summary.as_dict()["n_cases"] == 1
    truth = str(dataset / "labelsTr")
    assert fewmask.evaluate(truth, truth, tmp_path / "scores").as_dict()["mean_dice"] == 1
    fewmask.evaluate(truth, truth, tmp_path / "others")
    assert "no patient differs" in str(
        fewmask.compare(tmp_path / "scores", tmp_path / "others", tmp_path / "compared").conclusion
    )


def test_names_are_there_and_no_others():
    assert set(dir(fewmask)) >= {"train", "plan", "check", "predict", "evaluate", "compare", "load", "Recipe"}
    for name in fewmask.__all__:
        assert getattr(fewmask, name) is not None
    assert fewmask.losses.DiceLoss().judges == "logits"
    assert fewmask.metrics.score_case is not None
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        fewmask.trian  # noqa: B018


def test_python_m_fewmask_is_the_command():
    done = subprocess.run([sys.executable, "-m", "fewmask", "--version"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, fewmask.__version__ in done.stdout) == (0, True)


def test_every_block_of_the_page_runs(dataset, tmp_path, monkeypatch):
    page = ROOT / "docs" / "python.md"
    monkeypatch.chdir(tmp_path)
    Path("scans").symlink_to(dataset)
    blocks = page.read_text(encoding="utf-8").replace("\n```\n", "\n\n")  # The fence that ends a block is no output.
    test = doctest.DocTestParser().get_doctest(blocks, {}, page.name, str(page), 0)
    assert doctest.DocTestRunner().run(test).failed == 0
    assert len(test.examples) > 15


@pytest.mark.parametrize("train", [fewmask.cross_validate, fewmask.train_seeds])
def test_several_trainings_are_refused_in_one_of_several_processes(tmp_path, monkeypatch, train):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(fewmask.UserError, match="2 processes were started for one training"):
        train({"objective": [{"loss": "dice"}]}, tmp_path / "run", 2)


@pytest.mark.parametrize("tolerance_mm", [-3.0, float("nan"), float("inf")])
def test_a_tolerance_that_is_none_is_refused_before_anything_is_scored(dataset, run, tmp_path, tolerance_mm):
    truth = dataset / "labelsTr"
    for call in (partial(fewmask.evaluate, truth, truth, tmp_path / "out"), partial(fewmask.validate, run)):
        with pytest.raises(fewmask.UserError, match="tolerance_mm: is "):
            call(tolerance_mm=tolerance_mm)
    with pytest.raises(fewmask.UserError, match="ignore: is 1"):
        fewmask.evaluate(truth, truth, tmp_path / "out", ignore=10**9)


def test_a_models_predictions_print_nothing(dataset, run, capsys, monkeypatch):
    model = fewmask.load(run)
    monkeypatch.setattr(Predictor, "segment", lambda self, scans: note("much memory") or np.zeros(scans[0].shape[:3]))
    model.predict(next((dataset / "imagesTs").iterdir()))
    assert capsys.readouterr() == ("", "")


def test_what_stands_beside_masks_may_have_numpys_numbers():
    beside = fewmask.Beside(labels=[np.int64(1), "nodule"], volumes=np.True_)
    assert (list(map(str, beside.labels)), bool(beside.volumes)) == (["1", "nodule"], True)
    with pytest.raises(fewmask.UserError, match=r"folds: is array(.|\n)*remedy: give int"):
        fewmask.cross_validate("recipe", "out", np.array([5]))
