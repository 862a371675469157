"""Exports: what is passed on predicts as the run does, and tells of no patient, file or machine."""

import getpass
import json
import os
import shutil
import socket
import subprocess
import sys
import zipfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from monai.bundle import ConfigParser
from nibabel.filebasedimages import ImageFileError
from runs_fixtures import TINY, command_runner, files_in, train, write_recipe

import fewmask
from pipeline import nifti, runs
from pipeline.archives import load_checkpoint
from pipeline.checkpoints import newest_checkpoint
from pipeline.data.phantom import write_phantom
from pipeline.data.transforms import Grid
from pipeline.errors import UserError
from pipeline.export import bundle_configuration, onnx_graph, runner
from pipeline.export.bundle import write_bundle
from pipeline.export.bundle_scripts.networks import Program
from pipeline.export.content import read_content
from pipeline.export.description import describe
from pipeline.export.destination import new_folder
from pipeline.export.writing import write_export
from pipeline.networks import NETWORKS
from pipeline.prediction.placement import place
from pipeline.prediction.postprocessing import POSTPROCESSING, name_of, postprocess
from pipeline.prediction.predictor import Ensemble, Predictor
from pipeline.runs.model_files import read_model_file
from pipeline.runs.models import load_model

# No word of a model's own has these in it.
MARK = "zyxwv"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp(f"export-{MARK}")


@pytest.fixture(scope="module")
def dataset(folder):
    """A phantom whose cases have names that can be searched for."""
    place = folder / "data"
    list(write_phantom(place, labelled=4, unlabelled=2, seed=0))
    for path in sorted(place.rglob("phantom_*")):
        path.rename(path.with_name(path.name.replace("phantom", f"{MARK}_patient")))
    listing = place / "dataset.json"
    listing.write_text(listing.read_text().replace("phantom_", f"{MARK}_patient_"))
    return place


@pytest.fixture(scope="module")
def run(folder, dataset):
    return train(folder, dataset, "run", max_steps=4)


@pytest.fixture(scope="module")
def crossed(folder, dataset):
    place = folder / "crossed"
    recipe = runs.read_recipe(write_recipe(folder, dataset, objective=[{"loss": "dice"}], max_steps=3))
    runs.cross_validate(recipe, place, 2)
    return place


@pytest.fixture(scope="module")
def model(folder, run):
    write_export(run, folder / "model.fewmask")
    return folder / "model.fewmask"


@pytest.fixture(scope="module")
def scan(dataset):
    return sorted((dataset / "imagesTs").iterdir())[0]


@pytest.fixture
def command(monkeypatch, capsys):
    return command_runner(monkeypatch, capsys)


def masks_of(places):
    return [np.asarray(nib.load(place).dataobj) for place in places]


def telling(dataset):
    """Every id, path, host and user name that an export must not hold."""
    ids = {path.name.split(".")[0] for path in dataset.rglob("*.nii.gz")}
    users = {getpass.getuser(), os.environ.get("USER", ""), Path.home().name} - {"", "root"}
    places = {str(dataset), str(dataset.parent), str(Path.cwd()), str(Path.home()), MARK, "/tmp", "site-packages"}
    return ids | users | (places - {"/"}) | {socket.gethostname()}


def members_of(place):
    """The bytes of a file, and of each file in it where it is an archive."""
    yield place.read_bytes()
    if zipfile.is_zipfile(place):
        with zipfile.ZipFile(place) as archive:
            yield from (archive.read(name) for name in archive.namelist())


def assert_tells_nobody(place, dataset):
    files = [place] if place.is_file() else [path for path in sorted(place.rglob("*")) if path.is_file()]
    for path in files:
        for content in members_of(path):
            for word in telling(dataset):
                assert word.encode() not in content, (path.name, word)
                assert word.encode("utf-16-le") not in content, (path.name, word)


# A model file


def test_model_file_predicts_what_the_run_does_to_the_bit(run, model, scan, tmp_path):
    masks = runs.predict(run, [scan], tmp_path / "run")
    others = runs.predict(model, [scan], tmp_path / "file")
    assert [path.read_bytes() for path in masks] == [path.read_bytes() for path in others]
    one = load_model(run, "last")
    other = load_model(model, "last")
    assert one.task == other.task
    np.testing.assert_array_equal(fewmask.load(model).predict(scan), *masks_of(masks))


def test_model_file_holds_the_averaged_weights(run, model):
    state = newest_checkpoint(run, "last").state
    (member,) = read_model_file(model).members
    assert member.state["network"].keys() == state["network"].keys()
    for name, value in member.state["network"].items():
        assert torch.equal(value, state["average"][name])
    assert any(not torch.equal(state["average"][name], value) for name, value in state["network"].items())
    assert member.state.keys() == {"step", "best", "recipe", "task", "version", "network"}


def test_model_file_of_a_cross_validation_has_all_folds_and_their_postprocessing(crossed, scan, tmp_path):
    write_export(crossed, tmp_path / "all.fewmask")
    one = load_model(crossed, "last").predictor
    other = load_model(tmp_path / "all.fewmask", "last").predictor
    assert isinstance(other, Ensemble)
    assert len(other.predictors) == len(one.predictors) == 2
    assert other.postprocessing == one.postprocessing
    masks = [
        runs.predict(place, [scan], tmp_path / f"{place.stem}-masks") for place in (crossed, tmp_path / "all.fewmask")
    ]
    np.testing.assert_array_equal(*[masks_of(each)[0] for each in masks])


def test_model_file_and_checkpoint_tell_apart_and_a_checkpoint_predicts_too(run, scan, tmp_path):
    checkpoint = newest_checkpoint(run, "last").path
    predictor = load_model(checkpoint, "last").predictor
    assert isinstance(predictor, Predictor)
    masks = [runs.predict(place, [scan], tmp_path / place.stem) for place in (run, checkpoint)]
    np.testing.assert_array_equal(*[masks_of(each)[0] for each in masks])
    write_export(checkpoint, tmp_path / "bare.fewmask")
    assert "A checkpoint does not tell" in read_model_file(tmp_path / "bare.fewmask").card


def test_exported_file_can_be_exported_again_and_keeps_its_card(model, tmp_path):
    write_export(model, tmp_path / "again.fewmask")
    assert (tmp_path / "again.fewmask").read_bytes() == model.read_bytes()


def test_a_card_is_written_alone_and_taken_back_filled_in(run, model, tmp_path):
    card = tmp_path / "new" / "card.md"
    assert write_export(run, card, "card") == card.read_text().count("_to be filled in_") > 5
    assert card.read_text() == read_content(run).card
    card.write_text(card.read_text().replace("_to be filled in_", "CC-BY-4.0, café"))
    assert write_export(run, tmp_path / "a.fewmask", "model", card=card) == 0
    assert read_model_file(tmp_path / "a.fewmask").card == card.read_text()
    write_export(model, tmp_path / "torch", "torch", card=card)
    assert (tmp_path / "torch" / "README.md").read_text() == card.read_text()
    write_export(tmp_path / "a.fewmask", tmp_path / "again.md", "card")
    assert (tmp_path / "again.md").read_text() == card.read_text()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file"),
        (b" \n", "holds no text in UTF-8"),
        (b"caf\xe9", "holds no text in UTF-8"),
        (bytes(2_000_000), "is larger than 1 MB"),
        ("folder", "is a folder"),
    ],
)
def test_what_is_no_card_is_refused_before_anything_is_written(run, tmp_path, content, message):
    card = tmp_path / "card.md"
    if content == "folder":
        card.mkdir()
    elif content is not None:
        card.write_bytes(content)
    with pytest.raises(UserError) as raised:
        write_export(run, tmp_path / "a.fewmask", "model", card=card)
    (problem,) = raised.value.problems
    assert (problem.where, problem.code, problem.message) == (str(card), "bad-card", message)
    assert not (tmp_path / "a.fewmask").exists()


def test_model_file_tells_of_nobody(run, crossed, model, dataset, tmp_path):
    write_export(crossed, tmp_path / "crossed.fewmask")
    assert_tells_nobody(model, dataset)
    assert_tells_nobody(tmp_path / "crossed.fewmask", dataset)
    told = b"".join(path.read_bytes() for path in files_in(run))
    assert all(word.encode() in told for word in (MARK, str(dataset)))  # The search would find them.


def test_dataset_is_scored_with_a_model_file_beside_it(model, run, dataset, tmp_path):
    place = tmp_path / "model.fewmask"
    shutil.copy(model, place)
    scores = runs.validate(place, dataset)
    assert scores.folder == tmp_path / "model-validation" / "data"
    assert scores.summary.n_cases == 4
    assert "does not tell which scans the model was trained on" in scores.notes[0]
    assert {path.name for path in scores.folder.iterdir()} >= {"cases.csv", "summary.json", "report.html"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["validate", "MODEL"], "name a dataset with labels: --dataset DATASET"),
        (["predict", "MODEL", "SCAN", "--output", "OUT", "--checkpoint", "best"], "is one file"),
        (["export", "MODEL", "--output", "MODEL"], "is there already [in-the-way] remedy: name another --output"),
        (["export", "NOTHING", "--output", "OUT"], "there is no such run"),
        (["predict", "JUNK", "SCAN", "--output", "OUT"], "is damaged, or no checkpoint"),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_remedy(command, model, scan, tmp_path, words, said):
    (tmp_path / "junk.fewmask").write_bytes(b"PK" + bytes(100))
    named = {"MODEL": model, "SCAN": scan, "OUT": tmp_path / "out", "JUNK": tmp_path / "junk.fewmask"}
    before = model.read_bytes()
    code, _, err = command(*(named.get(word, word) for word in words))
    assert (code, "Traceback" in err) == (2, False), err
    assert said in " ".join(err.split())
    assert model.read_bytes() == before
    assert not (tmp_path / "out").exists()


def test_command_writes_a_model_file_and_predict_says_with_what(command, run, scan, tmp_path):
    code, out, _ = command("export", run, "--format", "model", "--output", tmp_path / "deep" / "m.fewmask")
    assert (code, "model card" in out) == (0, True)
    code, out, _ = command("predict", tmp_path / "deep" / "m.fewmask", scan, "--output", tmp_path / "masks")
    assert (code, "with m.fewmask" in " ".join(out.split())) == (0, True)


def altered(model, path, **changes):
    state = load_checkpoint(model)
    torch.save(state | changes, path)
    return path


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"members": []}, "members: "),
        ({"members": "none"}, "members: "),
        ({"steps": [{"step": "keep_largest", "options": {"label": 9}}]}, "changes the label 9"),
        ({"steps": [{"step": "run_this", "options": {}}]}, "steps.0.step"),
        ({"card": 3}, "card: "),
        ({"more": 1}, "more: "),
    ],
)
def test_altered_model_file_is_refused(model, tmp_path, changes, said):
    with pytest.raises(UserError, match="The model cannot be built") as refusal:
        load_model(altered(model, tmp_path / "bad.fewmask", **changes), "last")
    assert said in refusal.value.problems[0].message


def test_members_are_judged_as_checkpoints_are(model, tmp_path):
    (member,) = load_checkpoint(model)["members"]
    weights = member["network"]
    name = next(iter(weights))
    for changed, said in (
        (member | {"network": weights | {name: torch.zeros(1)}}, "is declared as"),
        (member | {"network": weights | {name: weights[name] * torch.nan}}, "not finite"),
        (member | {"recipe": "x: 1"}, "cannot read"),
        ({"step": 1}, "holds no run of ours"),
    ):
        with pytest.raises(UserError) as refusal:
            load_model(altered(model, tmp_path / "bad.fewmask", members=[changed]), "last")
        assert said in refusal.value.problems[0].message
    torn = model.read_bytes()[:-50]
    (tmp_path / "torn.fewmask").write_bytes(torn)
    with pytest.raises(UserError, match="is damaged"):
        load_model(tmp_path / "torn.fewmask", "last")


# The card


def test_card_tells_data_scores_limits_and_what_is_to_be_filled_in(run, model):
    card = read_model_file(model).card
    for part in (
        "# Segmentation of organ, nodule",
        "- Trained on: 3 scans with masks, 2 without",
        "Held out for validation, and not trained on: 1 scans",
        "| 1 | organ |",
        "at step 4",
        "not a medical device",
        "Licence of the weights: _to be filled in_",
        "RAS, voxels of 2.5 x 2.5 x 2.5 mm",
    ):
        assert part in card, card
    summary = (run / "summary.json").read_text()
    dice = next(line for line in card.splitlines() if line.startswith("| organ |")).split("|")[2].split()[0]
    assert f"{json.loads(summary)['classes'][0]['metrics']['dice']['mean']:.3f}" == dice


def test_card_of_a_cross_validation_has_the_scores_out_of_fold(crossed, tmp_path):
    write_export(crossed, tmp_path / "crossed.fewmask")
    card = read_model_file(tmp_path / "crossed.fewmask").card
    assert "4 scans with masks, each of which was held out of one network" in card
    assert "Out of fold: each case was segmented" in card
    assert "the mean of 2 networks" in card


def test_damaged_summary_is_refused(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "summary.json").write_text('{"n_cases": "many"}')
    with pytest.raises(UserError, match=r"summary\.json: is no summary of ours"):
        write_export(tmp_path / "run", tmp_path / "out.fewmask")
    (tmp_path / "run" / "summary.json").unlink()
    write_export(tmp_path / "run", tmp_path / "out.fewmask")
    assert "It was not validated" in read_model_file(tmp_path / "out.fewmask").card


# Programs of torch.export, and ONNX


@pytest.fixture(scope="module")
def odd_scans(folder, dataset):
    """Small scans of several orientations, voxel sizes, types and forms, one of them oblique."""
    place = folder / "odd"
    place.mkdir()
    source = nib.load(sorted((dataset / "imagesTs").iterdir())[0])
    voxels = np.asarray(source.dataobj)[4:-4, 6:-5, 3:-6].astype(np.float32)
    paths = []
    for n, (codes, size, dtype, turn) in enumerate(
        [
            ("RAS", (2.5, 2.5, 2.5), np.float32, 0),
            ("LPS", (2.0, 3.1, 2.5), np.int16, 0),
            ("SAR", (3.3, 1.7, 2.2), np.uint8, 0),
            ("AIL", (2.5, 2.5, 4.0), np.float64, 0),
            ("PIR", (1.9, 2.6, 2.4), np.int16, 0.3),
            ("ILA", (6.0, 6.0, 6.0), np.float32, 0),
        ]
    ):
        order = nib.orientations.axcodes2ornt(codes)
        values = np.clip(voxels, 0, 200).astype(dtype)
        if n == 3:  # Surrounded by a constant that is not 0.
            values = np.pad(values, 5, constant_values=-7)
        image = nib.Nifti1Image(values, np.diag([2.5, 2.5, 2.5, 1]))
        turned = image.as_reoriented(nib.orientations.ornt_transform(np.array([[0, 1], [1, 1], [2, 1]]), order))
        affine = turned.affine.copy()
        affine[:3, :3] = affine[:3, :3] / 2.5 * np.array(size)
        rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
        affine[:3, :3] = rotation @ affine[:3, :3]
        made = nib.Nifti1Image(np.asarray(turned.dataobj), affine)
        if n == 1:
            made.header.set_slope_inter(0.5, 3)
        nib.save(made, place / f"{codes}.nii.gz")
        paths.append(place / f"{codes}.nii.gz")
    return paths


def test_programs_are_opened_by_pytorch_alone_and_give_the_networks_numbers(crossed, dataset, tmp_path):
    write_export(crossed, tmp_path / "out", "torch")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["README.md", "model.json", "network-1.pt2", "network-2.pt2"]
    told = json.loads((tmp_path / "out" / "model.json").read_text())
    code = (
        "import sys, torch\n"
        "module = torch.export.load(sys.argv[1]).module()\n"
        "windows = torch.load(sys.argv[2])\n"
        "torch.save([module(windows[:n]).detach() for n in (1, 2, 5)], sys.argv[3])\n"
        "assert not {'monai', 'pipeline', 'nibabel'} & set(sys.modules)\n"
    )
    windows = torch.randn(5, 1, *told["networks"][0]["patch_size"], generator=torch.Generator().manual_seed(1))
    torch.save(windows, tmp_path / "windows.pt")
    words = [tmp_path / "out" / "network-2.pt2", tmp_path / "windows.pt", tmp_path / "logits.pt"]
    subprocess.run([sys.executable, "-c", code, *map(str, words)], check=True, cwd=tmp_path, env={"PATH": ""})
    network = load_model(crossed, "last").predictor.predictors[1].network.eval()
    with torch.no_grad():
        expected = [network(windows[:n]) for n in (1, 2, 5)]
    for found, own in zip(torch.load(tmp_path / "logits.pt"), expected, strict=True):
        torch.testing.assert_close(found, own, rtol=1e-5, atol=1e-5)
    assert_tells_nobody(tmp_path / "out", dataset)


@pytest.mark.parametrize(
    "content",
    [None, "folder", b"no scan", b"\x1f\x8b broken", "cut", "bent"],
    ids=["none", "folder", "text", "gzip", "cut", "bent"],
)
def test_runner_names_a_scan_that_cannot_be_read_in_one_line(odd_scans, tmp_path, content):
    path = tmp_path / "scan.nii.gz"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        whole = odd_scans[0].read_bytes()
        bent = whole[:5000] + bytes([255] * 2000) + whole[7000:]
        path.write_bytes({"cut": whole[:2000], "bent": bent}.get(content, content))
    with pytest.raises(ImageFileError, match=r"scan\.nii\.gz: cannot be read: ."):
        runner.read(path)


def test_an_unknown_format_is_refused_with_the_nearest(crossed, tmp_path):
    with pytest.raises(UserError, match="onnx"):
        write_export(crossed, tmp_path / "out", "onx")


def test_description_tells_what_the_predictor_does(crossed, tmp_path):
    told = describe(read_content(crossed), ["a", "b"])
    predictor = load_model(crossed, "last").predictor
    assert [each["file"] for each in told["networks"]] == ["a", "b"]
    assert told["labels"] == {"0": "background", "1": "organ", "2": "nodule"}
    first = predictor.predictors[0]
    assert told["networks"][0] == {
        "file": "a",
        "orientation": "RAS",
        "spacing_mm": [2.5, 2.5, 2.5],
        "patch_size": [16, 16, 16],
        "overlap": first.overlap,
        "mirrored_axes": list(first.mirrors),
        "normalization": [{"scheme": "zscore"}],
    }
    assert [step["step"] for step in told["postprocessing"]] == [name_of(step) for step in predictor.postprocessing]


@pytest.fixture(scope="module")
def graphs(crossed, folder):
    for library in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(library, reason="needs the extra: pip install 'fewmask[onnx]'")
    write_export(crossed, folder / "graphs", "onnx")
    return folder / "graphs"


def test_runner_writes_the_masks_that_predict_writes(graphs, crossed, odd_scans, dataset, tmp_path):
    own = masks_of(runs.predict(crossed, odd_scans, tmp_path / "own"))
    python = os.environ.get("FEWMASK_BARE_PYTHON", sys.executable)
    words = [python, graphs / "predict.py", *odd_scans, "--output", tmp_path / "masks"]
    subprocess.run(list(map(str, words)), check=True, cwd=tmp_path, env={"OMP_NUM_THREADS": "1"})
    for scan, labels in zip(odd_scans, own, strict=True):
        image = nib.load(scan)
        mask = nib.load(tmp_path / "masks" / scan.name)
        np.testing.assert_array_equal(mask.affine, image.affine)
        assert mask.get_data_dtype() == labels.dtype
        found = np.asarray(mask.dataobj)
        assert (found == labels).mean() >= 0.9999, (scan.name, (found != labels).sum(), labels.size)
    assert max(len(np.unique(labels)) for labels in own) > 1
    assert_tells_nobody(graphs, dataset)


def test_runner_names_scans_that_it_cannot_segment_and_segments_the_others(graphs, odd_scans, tmp_path):
    cut, empty = tmp_path / "cut.nii.gz", tmp_path / "empty.nii"
    cut.write_bytes(odd_scans[0].read_bytes()[:-500])
    empty.touch()
    words = [sys.executable, graphs / "predict.py", cut, empty, odd_scans[0], "--output", tmp_path / "masks"]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, env={"OMP_NUM_THREADS": "1"})
    assert done.returncode == 1
    first, second = done.stderr.splitlines()
    assert first.startswith(f"error: {cut}: cannot be read: ")
    assert second.startswith(f"error: {empty}: cannot be read: ")
    assert [path.name for path in (tmp_path / "masks").iterdir()] == [odd_scans[0].name]


@pytest.fixture(scope="module")
def sliced(folder, dataset):
    """A run of slices, on a calibrated scale, three networks that are trained in turns, with post-processing."""
    window = {"scheme": "ct", "low": 0.0, "high": 150.0, "mean": 40.0, "std": 30.0}
    data = TINY["data"] | {"dimensions": 2, "spacing_mm": [2.5, 2.2], "patch_size": [16, 16], "normalization": [window]}
    steps = [{"step": "keep_largest_foreground"}, {"step": "fill_holes", "options": {"label": 1}}]
    network = TINY["network"] | {"members": 3}
    objective = [{"loss": "dice"}]
    how = {"data": data, "network": network, "postprocessing": steps, "objective": objective, "max_steps": 6}
    return train(folder, dataset, "sliced", **how)


def test_slices_windows_of_ct_and_postprocessing_are_predicted_alike(sliced, odd_scans, tmp_path):
    own = masks_of(runs.predict(sliced, odd_scans, tmp_path / "own"))
    write_export(sliced, tmp_path / "bundle", "bundle")
    run_bundle(tmp_path / "bundle", odd_scans[0].parent, tmp_path / "bundle-masks")
    places = [tmp_path / "bundle-masks"]
    if all(map(find_spec, onnx_graph.NEEDED)):
        write_export(sliced, tmp_path / "onnx", "onnx")
        words = [sys.executable, tmp_path / "onnx" / "predict.py", *odd_scans, "--output", tmp_path / "onnx-masks"]
        subprocess.run(list(map(str, words)), check=True, cwd=tmp_path)
        places.append(tmp_path / "onnx-masks")
    for folder in places:
        for scan, labels in zip(odd_scans, own, strict=True):
            found = np.asarray(nib.load(folder / scan.name).dataobj)
            assert (found == labels).mean() >= 0.9999, (folder.name, scan.name, (found != labels).sum())
    assert all(len(np.unique(labels)) > 1 for labels in own)


def test_places_of_the_data_stay_behind(run, tmp_path):
    state = newest_checkpoint(run, "last").state
    layout = {"name": "auto", "options": {"note": f"/scans/{MARK}"}}
    told = yaml.safe_load(state["recipe"]) | {"layout": layout, "dataset": f"/home/{MARK}/scans"}
    torch.save(state | {"recipe": yaml.safe_dump(told)}, tmp_path / "told.pt")
    assert MARK.encode() in (tmp_path / "told.pt").read_bytes()
    write_export(tmp_path / "told.pt", tmp_path / "out.fewmask")
    assert MARK.encode() not in (tmp_path / "out.fewmask").read_bytes()


def test_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "out") as folder:
        (folder / "half").write_text("half")
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
    with new_folder(tmp_path / "out") as folder:
        (folder / "whole").write_text("whole")
        assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "whole"]
    with pytest.raises(UserError, match="is there already"), new_folder(tmp_path / "out"):
        pass


def test_missing_library_is_named(run, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_graph, "NEEDED", ("onnx_of_nobody",))
    with pytest.raises(UserError, match=r"onnx_of_nobody: is not installed(.|\n)*pip install 'fewmask\[onnx\]'"):
        write_export(run, tmp_path / "out", "onnx")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("step", ["fill_holes", "keep_largest", "keep_largest_foreground", "drop_small"])
@pytest.mark.parametrize("shape", [(9, 8, 7), (12, 11, 1)])
def test_runner_postprocesses_as_predict_does(step, shape):
    rng = np.random.default_rng(0)
    options = {"drop_small": {"label": 2, "least_ml": 0.004}, "keep_largest_foreground": {}}.get(step, {"label": 2})
    changed = 0
    for share in (0.1, 0.3, 0.6, 0.8):
        labels = rng.choice(3, shape, p=[1 - share, share / 4, share * 3 / 4]).astype(np.uint8)
        expected = postprocess(labels, (1.0, 1.0, 1.0), [POSTPROCESSING.build(step, options)])
        found = labels.copy()
        runner.change(found, step, options, 0.001)
        if step.startswith("keep_largest") and (found != expected).any():  # Of equal ones either may be the first.
            assert (found > 0).sum() == (expected > 0).sum()
            continue
        np.testing.assert_array_equal(found, expected)
        changed += int((expected != labels).sum())
    assert changed


def test_runner_keeps_a_label_that_is_not_in_the_largest_component():
    labels = np.array([1, 2, 2, 0, 2, 0, 3, 0, 3], np.uint8).reshape(-1, 1, 1)
    runner.change(labels, "keep_largest_foreground", {}, 0.001)
    assert labels.ravel().tolist() == [1, 2, 2, 0, 0, 0, 3, 0, 3]


@pytest.mark.parametrize("codes", ["RAS", "LIP", "SAR"])
def test_runner_places_a_scan_where_predict_does(codes):
    rng = np.random.default_rng(1)
    for _ in range(60):
        shape = tuple(int(n) for n in rng.integers(1, 40, 3))
        size = rng.choice([0.5, 0.7, 0.9, 1.0, 1.25, 2.5, 3.0], 3)
        target = tuple(float(n) for n in rng.choice([0.0, 0.6, 1.0, 1.5, 2.0], 3))
        order = rng.permutation(3)
        affine = np.eye(4)
        affine[:3, :3] = 0
        affine[order, range(3)] = size * rng.choice([-1, 1], 3)
        image = nib.Nifti1Image(np.zeros(shape, np.uint8), affine)
        found = runner.Grid(image, codes, list(target))
        scan = nifti.scan_of(np.zeros(shape, np.uint8), affine, "scan")
        placement = place(scan.header.forms, Grid(codes, target))
        turned = tuple(axis in found.turned for axis in range(3))
        assert (tuple(found.axes), turned) == (placement.axes, placement.turned)
        assert (tuple(found.shape), tuple(found.native)) == (placement.shape, placement.native)
        np.testing.assert_allclose(found.steps, placement.steps_in, rtol=1e-12)


# MONAI bundles


@pytest.fixture(scope="module")
def bundle(crossed, folder):
    write_export(crossed, folder / "bundle", "bundle")
    return folder / "bundle"


def run_bundle(place, scans, output, python=sys.executable):
    """Run a bundle with MONAI's own command line, where this program cannot be imported."""
    pytest.importorskip("fire", reason="needs MONAI's command line: pip install fire")
    words = [python, "-m", "monai.bundle", "run", "--config_file", "configs/inference.json"]
    words += ["--dataset_dir", str(scans), "--output_dir", str(output), "--device", "$torch.device('cpu')"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run(words, check=True, cwd=place, env=environment | {"OMP_NUM_THREADS": "1"}, capture_output=True)


def test_bundle_runs_in_monais_command_line_and_predicts_as_predict_does(bundle, crossed, odd_scans, dataset, tmp_path):
    own = masks_of(runs.predict(crossed, odd_scans, tmp_path / "own"))
    run_bundle(bundle, odd_scans[0].parent, tmp_path / "masks")
    for scan, labels in zip(odd_scans, own, strict=True):
        mask = nib.load(tmp_path / "masks" / scan.name)
        np.testing.assert_allclose(mask.affine, nib.load(scan).affine, atol=1e-4)
        found = np.asarray(mask.dataobj)
        assert (found == labels).mean() >= 0.9999, (scan.name, (found != labels).sum(), labels.size)
    assert_tells_nobody_of(bundle, dataset)


def test_metadata_has_what_monais_schema_of_2024_07_25_requires(bundle):
    told = json.loads((bundle / "configs" / "metadata.json").read_text())
    required = "schema version monai_version pytorch_version numpy_version required_packages_version task description"
    assert set(required.split()) | {"authors", "copyright", "network_data_format"} <= told.keys()
    for tensors in (told["network_data_format"][side] for side in ("inputs", "outputs")):
        (tensor,) = tensors.values()
        assert {"type", "format", "num_channels", "spatial_shape", "dtype", "value_range"} <= tensor.keys()
        assert all(isinstance(side, int) for side in tensor["spatial_shape"])
    assert told["network_data_format"]["outputs"]["pred"]["num_channels"] == 6
    assert "pipeline" not in "".join(path.read_text() for path in (bundle / "scripts").glob("*.py"))


def test_entries_beside_an_image_are_left_alone_as_monai_label_needs_it(bundle, odd_scans, monkeypatch):
    """Its `image_path` has a name that MONAI's Spacingd takes for one of the image's headers."""
    monkeypatch.syspath_prepend(bundle)
    prepare = ConfigParser(json.loads((bundle / "configs" / "inference.json").read_text())).get_parsed_content(
        "preprocessing"
    )
    path = str(odd_scans[0])
    found = prepare({"image": path, "image_path": path})
    assert found["image_path"] == path
    torch.testing.assert_close(found["image"], prepare({"image": path})["image"])


def assert_tells_nobody_of(bundle, dataset):
    names = {str(path.relative_to(bundle)) for path in bundle.rglob("*") if path.is_file()}
    assert names - {name for name in names if "__pycache__" in name} == {
        "configs/inference.json",
        "configs/metadata.json",
        "docs/README.md",
        "models/model.pt",
        *(f"scripts/{name}.py" for name in ("__init__", "arrays", "inference", "networks", "transforms")),
    }
    for name in names:
        if "__pycache__" not in name:
            assert_tells_nobody(bundle / name, dataset)


# PyTorch 2.10 says so of a program that it reads.
@pytest.mark.filterwarnings("ignore:The given buffer is not writable:UserWarning")
@pytest.mark.parametrize(
    ("name", "options", "monais"),
    [
        ("unet", {"channels": (4, 8), "num_res_units": 2}, "UNet"),
        ("unet", {"channels": (4, 8, 8), "strides": ((2, 2, 1), (2, 2, 2)), "num_res_units": 0}, "UNet"),
        ("dynunet", {"channels": (4, 8, 8)}, "DynUNet"),
        ("dynunet", {"channels": (4, 8, 8), "residual": True, "deep_supervision": False}, "DynUNet"),
        ("segresnet", {"init_filters": 8, "blocks_down": (1, 1), "blocks_up": (1,)}, "SegResNet"),
        ("resenc", {"channels": (4, 8, 8), "blocks": (1, 2)}, None),
        ("wnet", {"channels": (4, 8, 8)}, None),
    ],
)
def test_network_is_monais_own_class_where_it_is_one_and_else_a_program(crossed, tmp_path, name, options, monais):
    content = read_content(crossed)
    predictor = content.predictors[0]
    network = NETWORKS.build(name, options, spatial_dims=3, in_channels=1, out_channels=3).eval()
    model = replace(content.model, predictor=replace(predictor, network=network))
    write_bundle(tmp_path / "bundle", replace(content, model=model))
    definition = json.loads((tmp_path / "bundle" / "configs" / "inference.json").read_text())["network_def"]
    windows = torch.randn(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(2))
    if monais is None:
        assert definition["_target_"] == "scripts.networks.Program"
        made = Program(str(tmp_path / "bundle" / "models" / "network-1.pt2"))
    else:
        assert definition["_target_"] == f"monai.networks.nets.{monais}"
        made = ConfigParser(definition).get_parsed_content().eval()
        made.load_state_dict(torch.load(tmp_path / "bundle" / "models" / "model.pt"))
    with torch.no_grad():
        torch.testing.assert_close(made(windows), network(windows), rtol=1e-4, atol=1e-5)


def test_networks_that_see_scans_in_different_ways_make_no_bundle(crossed, tmp_path):
    content = read_content(crossed)
    first, second = content.predictors
    ensemble = replace(content.model.predictor, predictors=(first, replace(second, mirrors=())))
    with pytest.raises(UserError, match="mirrored_axes: differs between the networks"):
        write_bundle(tmp_path / "out", replace(content, model=replace(content.model, predictor=ensemble)))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("largest", "written"), [(2, "int16"), (40_000, "int32")])
def test_a_bundle_writes_labels_in_a_type_that_holds_them(largest, written):
    told = {"labels": {"0": "background", str(largest): "organ"}, "networks": [0], "postprocessing": []}
    save = bundle_configuration._postprocessing(told)[-1]
    assert save["output_dtype"] == f"$numpy.{written}"


def test_a_model_of_a_training_that_ended_early_is_as_finished_as_the_run(tmp_path):
    dataset = tmp_path / "scans"
    list(write_phantom(dataset, labelled=4, unlabelled=0))
    recipe = {"max_steps": 200, "validate_every": 2, "patience": 1, "optimizer": {"learning_rate": 1e-7}}
    run = train(tmp_path, dataset, "run", **recipe, objective=[{"loss": "dice"}])
    write_export(run, tmp_path / "model.fewmask")
    models = [load_model(place, "last") for place in (run, tmp_path / "model.fewmask")]
    assert models[0].step < 200
    assert [(model.planned, model.unfinished) for model in models] == [(models[0].step, "")] * 2
