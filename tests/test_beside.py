"""What is written beside masks: maps, labels alone, volumes, tables of labels; by the command and from Python."""

import csv
import json
import re

import nibabel as nib
import numpy as np
import pytest
from commands import fewmask as command
from runs_fixtures import files_in, make_phantom, train

import fewmask
from pipeline import runs
from pipeline.errors import UserError
from pipeline.nifti.volume import load
from pipeline.reports.label_tables import colours_of, palette, write_label_tables
from pipeline.runs.beside import Beside
from pipeline.runs.volumes import volumes_in

sitk = pytest.importorskip("SimpleITK", reason="needs SimpleITK")

HOSTILE = {0: "background", 1: 'left "lung"\nlower', 5: "  ", 9: "été #2", 12: "a/b\\c"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("beside")


@pytest.fixture(scope="module")
def dataset(folder):
    return make_phantom(folder / "phantom", labelled=3, unlabelled=2)


@pytest.fixture(scope="module")
def run(folder, dataset):
    return train(folder, dataset, "run", max_steps=20, validate_every=20)


@pytest.fixture(scope="module")
def scans(dataset):
    return sorted((dataset / "imagesTs").glob("*.nii.gz"))


@pytest.fixture(scope="module")
def plain(folder, run, scans):
    return {path.name: np.asarray(nib.load(path).dataobj) for path in runs.predict(run, scans, folder / "plain")}


def test_command_writes_all_that_is_asked_for(folder, run, scans, plain, tmp_path):
    place = tmp_path / "masks"
    options = ["--probabilities", "--entropy", "--split-labels", "--volumes", "--label-tables"]
    done = command("predict", run, *scans, "--output", place, *options)
    assert done.returncode == 0, done.stderr
    names = [scan.name for scan in scans]
    found = {str(path.relative_to(place)) for path in files_in(place)}
    folders = ("probabilities", "entropy", "1-organ", "2-nodule")
    tables = {"volumes.csv", "labels.json", "labels-itksnap.txt", "labels.ctbl", "predictions.json", ".fewmask"}
    assert found == {*names, *(f"{each}/{name}" for each in folders for name in names), *tables}
    for name in names:
        labels = np.asarray(nib.load(place / name).dataobj)
        np.testing.assert_array_equal(labels, plain[name])
        p = np.asanyarray(nib.load(place / "probabilities" / name).dataobj)
        np.testing.assert_array_equal(np.take_along_axis(p, labels[..., None].astype(int), 3)[..., 0], p.max(axis=3))
        for label, each in ((1, "1-organ"), (2, "2-nodule")):
            np.testing.assert_array_equal(np.asarray(nib.load(place / each / name).dataobj), labels == label)
    assert any(mask.any() for mask in plain.values())
    scores = runs.evaluate(place, folder / "plain", tmp_path / "scores")
    assert (scores.n_cases, scores.mean_dice) == (2, 1.0), "what lies beside masks is none of them"


def test_what_is_missing_beside_a_mask_is_made_and_what_is_another_s_is_refused(run, scans, tmp_path):
    place = tmp_path / "masks"
    runs.predict(run, scans, place)
    masks = {path.name: path.stat().st_ino for path in place.glob("*.nii.gz")}
    runs.predict(run, scans, place, beside=Beside(entropy=True))
    assert {path.name: path.stat().st_ino for path in place.glob("*.nii.gz")} == masks, "the masks are the same"
    entropy = files_in(place / "entropy")
    runs.predict(run, scans, place)  # What is not asked for stays.
    assert files_in(place / "entropy") == entropy
    (place / "probabilities").mkdir()
    (place / "probabilities" / scans[0].name).write_bytes(b"a user's")
    (place / "volumes.csv").write_text("a user's")
    before = files_in(place)
    for beside, name in ((Beside(probabilities=True), scans[0].name), (Beside(volumes=True), "volumes.csv")):
        with pytest.raises(UserError, match=f"{name}: is there, and `predict` has not written it here"):
            runs.predict(run, scans, place, beside=beside)
    assert files_in(place) == before


@pytest.mark.parametrize("labels", [("organ",), ("2",), ("nodule", "1")])
def test_chosen_labels_alone_are_in_the_masks(run, scans, plain, tmp_path, labels):
    values = [{"organ": 1, "nodule": 2}.get(label) or int(label) for label in labels]
    for path in fewmask.predict(
        run, scans, tmp_path / "masks", beside=fewmask.Beside(labels=labels, split_labels=True)
    ):
        expected = np.where(np.isin(plain[path.name], values), plain[path.name], 0)
        np.testing.assert_array_equal(np.asarray(nib.load(path).dataobj), expected)
    split = {path.name for path in (tmp_path / "masks").iterdir() if path.is_dir()}
    assert split == {{1: "1-organ", 2: "2-nodule"}[value] for value in values}
    if len(values) == 1:
        with pytest.raises(UserError, match="was made with other --labels"):
            runs.predict(run, scans, tmp_path / "masks")


def test_labels_that_there_are_not_are_refused(run, scans, tmp_path):
    with pytest.raises(UserError, match=r"--labels orgn: is no label of the model.*\n.*did you mean 'organ'") as raised:
        runs.predict(run, scans, tmp_path / "masks", beside=Beside(labels=("orgn", "0", "nodule")))
    assert [problem.where for problem in raised.value.problems] == ["--labels orgn", "--labels 0"]
    with pytest.raises(UserError, match=r"--volumes: needs a folder(.|\n)*--entropy|--entropy(.|\n)*--volumes"):
        runs.predict(run, scans[:1], tmp_path / "mask.nii.gz", beside=Beside(volumes=True, entropy=True))
    assert not list(tmp_path.iterdir())


def test_volumes_are_those_of_the_masks_also_of_those_that_were_there(run, scans, tmp_path):
    place = tmp_path / "masks"
    runs.predict(run, scans[:1], place)
    runs.predict(run, scans, place, beside=Beside(volumes=True))
    with (place / "volumes.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["mask"], row["label"], row["name"]) for row in rows] == [
        (scan.name, label, name) for scan in scans for label, name in (("1", "organ"), ("2", "nodule"))
    ]
    for row in rows:
        voxels, ml = by_simpleitk(place / row["mask"], int(row["label"]))
        assert int(row["voxels"]) == voxels
        assert float(row["volume_ml"]) == pytest.approx(ml, rel=1e-5)
    assert any(int(row["voxels"]) for row in rows)


def by_simpleitk(path, label):
    """The voxels and the volume of a label as ITK counts them."""
    shapes = sitk.LabelShapeStatisticsImageFilter()
    shapes.Execute(sitk.Cast(sitk.ReadImage(str(path)), sitk.sitkUInt16))
    if label not in shapes.GetLabels():
        return 0, 0.0
    return shapes.GetNumberOfPixels(label), shapes.GetPhysicalSize(label) / 1000


@pytest.mark.parametrize("seed", range(20))
def test_volumes_on_oblique_grids_are_simpleitks(tmp_path, seed):
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0] * rng.uniform(0.3, 4, 3)
    affine = np.block([[turn, rng.normal(size=(3, 1)) * 50], [np.zeros((1, 3)), 1]])
    labels = {1: "a", 2: "b", 300: "c", 7: "none"}
    mask = rng.choice([0, 1, 2, 300], size=tuple(rng.integers(2, 30, 3))).astype(np.uint16)
    path = tmp_path / "mask.nii.gz"
    image = nib.Nifti1Image(mask, affine)
    if seed % 2:
        image.set_sform(None, 0)
        image.set_qform(affine, 1)
    nib.save(image, path)
    for volume in volumes_in(load(path), labels):
        voxels, ml = by_simpleitk(path, volume.label)
        assert volume.voxels == voxels
        assert volume.volume_ml == pytest.approx(ml, rel=1e-5)
    assert volumes_in(load(path), labels)[-1][3:] == (0, 0)


# As the formats' own pages have them.


def read_itk_snap(path):
    """IDX R G B A VIS MSH "LABEL", and comments that begin with #."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    found = {}
    for line in lines:
        fields = re.fullmatch(r'\s*(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s+([\d.]+)\s+([01])\s+([01])\s+"([^"]*)"', line)
        assert fields, line
        value, red, green, blue = map(int, fields.groups()[:4])
        assert value not in found
        found[value] = (fields[8], (red, green, blue), float(fields[5]), fields[6] + fields[7])
    return found


def read_slicer(path):
    """A head, then: label, a name without spaces, R, G, B, A, of which the last four are at most 255."""
    head, count, *lines = path.read_text(encoding="utf-8").splitlines()
    assert head.startswith("# Color table file")
    assert count == f"# {len(lines)} values"
    found = {}
    for line in lines:
        value, name, *rgba = line.split()
        assert len(rgba) == 4
        assert all(0 <= int(part) <= 255 for part in rgba)
        found[int(value)] = (name, tuple(map(int, rgba)))
    return found


@pytest.mark.parametrize("labels", [{0: "background", 1: "organ", 2: "left kidney"}, HOSTILE])
def test_tables_of_labels_are_read_by_the_rules_of_their_programs(tmp_path, labels):
    write_label_tables(tmp_path, labels)
    ours = {row["value"]: row for row in json.loads((tmp_path / "labels.json").read_text(encoding="utf-8"))["labels"]}
    snap, slicer = read_itk_snap(tmp_path / "labels-itksnap.txt"), read_slicer(tmp_path / "labels.ctbl")
    assert list(ours) == list(snap) == list(slicer) == list(labels)
    for value, name in labels.items():
        rgb = tuple(bytes.fromhex(ours[value]["colour"][1:])) if value else (0, 0, 0)
        seen = int(value != 0)
        assert ours[value]["name"] == name
        assert snap[value][1:] == (rgb, seen, f"{seen}{seen}")
        assert slicer[value][1] == (*rgb, 255 * seen)
        if labels is not HOSTILE:
            assert (snap[value][0], slicer[value][0]) == (name, name.replace(" ", "_"))
    if labels is HOSTILE:
        assert [snap[value][0] for value in (1, 9)] == ["left 'lung' lower", "été #2"]
        assert [slicer[value][0] for value in (1, 5, 9)] == ['left_"lung"_lower', "label_5", "été_#2"]


def test_colours_are_those_of_the_report_and_begin_anew():
    assert palette() == (
        *("#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#d55e00", "#f0e442", "#0072b2"),
        *("#7d4a1e", "#eeddff", "#2233aa", "#ffb3a7", "#2f5f5f"),
    )
    colours = colours_of(dict.fromkeys([0, *range(10, 24)], ""))
    assert colours[0] is None
    assert colours[10] == colours[22] == "#e69f00"
    assert len(set(colours.values())) == 13


def test_folders_of_labels_have_names_that_every_disk_takes(tmp_path):
    files = Beside(split_labels=True).files_with("a.nii", {label: name for label, name in HOSTILE.items() if label})
    folders = [file.removesuffix("/a.nii") for file in files]
    assert folders == ["1-left-lung-lower", "5", "9-été-2", "12-a-b-c"]
