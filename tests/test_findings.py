"""What a check leaves behind: the table, check.json, the index of a run, and what is noticed later."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from commands import fewmask
from damage import FILES, PACKED, WHOLE, mask, save, volume, write_json, write_sound
from runs_fixtures import make_phantom, train

from pipeline import runs
from pipeline.data import examining
from pipeline.data.check import Check, read_facts
from pipeline.data.layouts import read_dataset
from pipeline.data.transforms import Annotated
from pipeline.errors import Problem, UserError
from pipeline.metrics.case import score_case
from pipeline.reports.findings import MOST, findings_text
from pipeline.runs.checking import check, survey, write_report


def test_findings_of_one_code_stand_together_and_are_cut_short(tmp_path):
    many = [
        Problem(f"{tmp_path}/a/{n}.nii", "padding", "has [red]zeros", "none", case=f"c{n}") for n in range(MOST + 3)
    ]
    other = Problem("z.nii", "sheared", "is odd", "turn it", case="z")
    lines = findings_text([many[0], other, *many[1:]], [Problem("d", "unknown-key", "has a key", "drop it")], tmp_path)
    assert lines.splitlines() == [
        "unknown-key: 1 warning",
        "  d: has a key",
        "    remedy: drop it",
        "padding: 13 problems",
        *(f"  c{n}, a/{n}.nii: has [red]zeros" for n in range(MOST)),
        "    remedy: none",
        "  and 3 more",
        "sheared: 1 problem",
        "  z.nii: is odd",
        "    remedy: turn it",
    ]


def test_findings_with_other_remedies_have_each_its_own():
    found = [Problem(f"{n}.nii", "missing-file", "is gone", f"remedy {n // 2}") for n in range(3)]
    assert findings_text(found, [], Path("data")).splitlines()[1:] == [
        *("  0.nii: is gone", "  1.nii: is gone", "    remedy: remedy 0"),
        *("  2.nii: is gone", "    remedy: remedy 1"),
    ]


def test_check_json_holds_problems_warnings_and_the_sound_cases(tmp_path):
    made = write_sound("decathlon", tmp_path / "data")
    FILES["empty mask"].spoil(made.labels[0])
    PACKED["checksum wrong"].spoil(made.images[1])
    report = json.loads(write_report(survey(read_dataset(made.source)), tmp_path / "new").read_text())
    assert (report["sound"], report["layout"]) == (False, "decathlon")
    assert [(p["code"], p["case"]) for p in report["problems"]] == [("corrupt-gzip", "c1")]
    assert [(p["code"], p["case"]) for p in report["warnings"]] == [("empty-mask", "c0")]
    assert [row["case"] for row in report["cases"]] == ["c0", "c2", "c3"]
    assert report["labels"] == {"0": "background", "1": "organ", "2": "nodule"}


def test_check_on_the_command_line(tmp_path):
    made = write_sound("folder", tmp_path / "data")
    WHOLE["sheared"].spoil([made.images[0], made.labels[0]])
    save(made.labels[1], np.where(volume(3) > 900, 255, mask(0)))
    words = ("--layout", "folder", "--layout-option", "ignore=255", "--output", tmp_path)
    done = fewmask("check", made.source, *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert "sheared" in done.stdout
    assert "label value 255" in done.stdout
    strict = fewmask("check", made.source, *words, "--strict")
    assert strict.returncode == 2
    assert "1 problem(s) in 1 place(s)" in strict.stderr
    assert "1 0 1 0" not in strict.stdout


def test_a_repair_on_the_command_line(tmp_path):
    made = write_sound("bids", tmp_path / "data")
    FILES["voxel NaN"].spoil(made.images[0])
    done = fewmask("check", made.source, "--fix", "fill-nonfinite", "--output", tmp_path / "copy")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"fill-nonfinite: {made.images[0]}: gave 1 voxel(s) the smallest finite value" in done.stdout
    assert {path.name for path in (tmp_path / "copy").iterdir()} == {
        *(".fewmask", "dataset.json", "repairs.json", "check.json", "images", "labels")
    }
    refused = fewmask("check", made.source, "--fix", "fill-nonfinite", "--output", tmp_path / "copy")
    assert (refused.returncode, "folder-not-empty" in refused.stderr) == (2, True)


def test_check_loads_no_torch(tmp_path):
    made = write_sound("folder", tmp_path / "data")
    code = (
        "import sys; sys.argv = ['fewmask', 'check', sys.argv[1], '--output', sys.argv[2]]\n"
        "from pipeline.cli import main; main()\n"
        "assert not {'torch', 'monai', 'nibabel'} & set(sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", code, made.source, tmp_path], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


# The index


def test_an_index_is_read_as_it_was_written(tmp_path):
    index = check(write_sound("decathlon", tmp_path / "data").source)
    write_json(tmp_path / "index.json", index.as_rows())
    assert read_facts(tmp_path / "index.json") == index.facts
    for text in ("[]", "{}", '[{"case": "a"}]', "no JSON"):
        (tmp_path / "index.json").write_text(text)
        assert read_facts(tmp_path / "index.json") == {}


def test_known_files_are_not_read_again_unless_they_were_touched(tmp_path, monkeypatch):
    made = write_sound("folder", tmp_path / "data")
    known = check(made.source).facts
    save(made.images[1], volume(8))
    read = []
    examine = examining.examine_case
    monkeypatch.setattr(examining, "examine_case", lambda case, _: read.append(case.id) or examine(case, _))
    look = Check(read_dataset(made.source), known=known)
    list(look)
    assert read == ["c1"]
    assert look.seen["c1"].sha256 != known["c1"].sha256
    assert look.seen["c0"] == known["c0"]


@pytest.fixture
def read(monkeypatch):
    """The cases whose files are read."""
    read, examine = [], examining.examine_case
    monkeypatch.setattr(examining, "examine_case", lambda case, _: read.append(case.id) or examine(case, _))
    return read


def test_a_shared_cache_remembers_what_was_found(tmp_path, read):
    made, cache = write_sound("folder", tmp_path / "data"), tmp_path / "new" / "cache"
    first = check(made.source, cache=cache)
    everybody = sorted(read)
    read.clear()
    again = check(made.source, cache=cache)
    assert (again.facts, again.labels, again.channels) == (first.facts, first.labels, first.channels)
    assert read == []
    save(made.images[1], volume(8))
    assert check(made.source, cache=cache).facts["c1"] != first.facts["c1"]
    assert read == ["c1"]
    read.clear()
    check(made.source, cache=cache)
    assert read == []
    check(made.source)
    assert sorted(read) == everybody


def test_what_a_shared_cache_remembers_is_of_what_the_dataset_says_of_itself(tmp_path, read):
    made, cache = write_sound("decathlon", tmp_path / "data"), tmp_path / "cache"
    check(made.source, cache=cache)
    content = json.loads(made.source.read_text())
    content["labels"].popitem()
    made.source.write_text(json.dumps(content))
    with pytest.raises(UserError, match="label"):
        check(made.source, cache=cache)
    with pytest.raises(UserError, match="label"):  # A dataset with problems leaves nothing behind that could hide them.
        check(made.source, cache=cache)


def test_a_case_with_a_warning_is_looked_at_every_time(tmp_path, read):
    made, cache = write_sound("folder", tmp_path / "data"), tmp_path / "cache"
    save(made.images[2], volume(8)[..., :3])
    save(made.labels[2], mask(2)[..., :3])
    warned = check(made.source, cache=cache).warnings
    read.clear()
    assert check(made.source, cache=cache).warnings == warned
    assert set(read) == {problem.case for problem in warned}


@pytest.mark.parametrize("damage", ["", "[]", "no JSON"])
def test_damage_in_a_shared_cache_costs_a_look_and_no_more(tmp_path, read, damage):
    made, cache = write_sound("folder", tmp_path / "data"), tmp_path / "cache"
    first = check(made.source, cache=cache).facts
    (path,) = cache.iterdir()
    path.write_text(damage)
    assert check(made.source, cache=cache).facts == first
    read.clear()
    check(made.source, cache=cache)
    assert read == []


def test_a_cache_that_cannot_be_written_forbids_no_check(tmp_path):
    made = write_sound("folder", tmp_path / "data")
    (tmp_path / "file").touch()
    assert check(made.source, cache=tmp_path / "file" / "cache").facts == check(made.source).facts


def test_a_scan_is_known_again_in_another_file(tmp_path):
    made = write_sound("folder", tmp_path / "data")
    nib.save(nib.load(made.images[0]), made.images[3])
    made.images[3].rename(made.images[3].with_suffix(""))
    made.images[3].with_suffix("").write_bytes(nib.load(made.images[0]).to_bytes())
    (problem,) = survey(read_dataset(made.source)).problems
    assert (problem.code, problem.case) == ("scan-leaks", "c3")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("findings")
    dataset = make_phantom(folder / "data", labelled=3, unlabelled=1)
    return folder, dataset, train(folder, dataset, "run", "max_steps=2")


def test_validate_names_the_file_that_has_changed(trained, tmp_path):
    _, dataset, run = trained
    (held_out,) = json.loads((run / "split.json").read_text())["validation"]
    path = dataset / "labelsTr" / f"{held_out}.nii.gz"
    before = path.read_bytes()
    image = nib.load(path)
    try:
        nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj)[::-1].copy(), image.affine), path)
        with pytest.raises(UserError) as raised:
            runs.validate(run)
        assert [(p.code, p.where) for p in raised.value.problems] == [("file-changed", str(path))]
    finally:
        path.write_bytes(before)
    assert runs.validate(run).summary.n_cases == 1  # touched, and the same


def test_a_run_goes_on_with_a_copy_of_its_dataset(trained, tmp_path):
    folder, dataset, _ = trained
    shutil.copytree(dataset, tmp_path / "copy")
    train(folder, tmp_path / "copy", "run", "max_steps=2", resume=True)


# Voxels that nobody has annotated


def test_the_ignore_value_is_not_annotated_wherever_it_stands():
    labels = torch.tensor([[0.0, 1, 5, 255, -1]])
    coded = Annotated("annotation", [0, 1, 5, -1], ignore=255)({"annotation": FakeMeta(labels)})["annotation"]
    assert coded.tolist() == [[2, 3, 4, 1, 5]]
    coded = Annotated("annotation", [0, 1, 5, 255], ignore=-1)({"annotation": FakeMeta(labels)})["annotation"]
    assert coded.tolist() == [[2, 3, 4, 5, 1]]


class FakeMeta:
    """What MONAI's loader returns, as far as the transform looks."""

    def __init__(self, tensor):
        self.tensor = tensor

    def as_tensor(self):
        return self.tensor


def test_ignored_voxels_are_neither_counted_as_foreground_nor_scored(tmp_path):
    made = write_sound("folder", tmp_path / "data")
    hidden = np.where(np.indices(mask(0).shape)[0] > 4, 255, mask(0)).astype(np.uint8)
    for path in made.labels:
        save(path, hidden)
    index = check(made.source, options={"ignore": 255})
    facts = index.facts["c0"]
    assert 255 not in index.labels
    assert facts.label_voxels[255] == (hidden == 255).sum()
    assert facts.intensities[0].foreground.voxels == ((hidden > 0) & (hidden < 255)).sum()
    guess = mask(0)
    guess[5:] = 1
    (result,) = score_case("c0", hidden, guess, index.labels, (1, 1, 1), ignore=index.ignore)
    assert result.dice == 1


def test_an_ignore_value_reaches_training_and_validation(tmp_path):
    dataset = make_phantom(tmp_path / "data", labelled=3, unlabelled=1)
    content = json.loads((dataset / "dataset.json").read_text()) | {"ignore": 255}
    write_json(dataset / "dataset.json", content)
    for path in (dataset / "labelsTr").iterdir():
        image = nib.load(path)
        labels = np.asanyarray(image.dataobj).copy()
        labels[: labels.shape[0] // 2] = 255
        nib.save(nib.Nifti1Image(labels, image.affine), path)
    run = train(tmp_path, dataset, "run", "max_steps=2")
    summary = json.loads((run / "summary.json").read_text())
    assert summary["n_cases"] == 1
    (held_out,) = json.loads((run / "split.json").read_text())["validation"]
    truth = np.asanyarray(nib.load(dataset / "labelsTr" / f"{held_out}.nii.gz").dataobj)
    counted = (run / "cases.csv").read_text()
    assert f",{int((truth == 1).sum())}," in counted
