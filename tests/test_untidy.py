"""Nothing that people have in their datasets is dropped in silence."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import untidy
from commands import fewmask
from runs_fixtures import train
from untidy import inputs, look_at, scan, silence

from pipeline import runs
from pipeline.config import read_options
from pipeline.data.layouts import read_dataset
from pipeline.data.layouts.patients import pattern_of
from pipeline.errors import UserError
from pipeline.runs.checking import survey, tell_warnings
from pipeline.runs.targets import _mask_name, scans_of
from pipeline.types import Case

INPUTS = inputs()


@pytest.mark.parametrize("item", INPUTS, ids=lambda item: item.name)
def test_everything_is_used_as_it_was_meant_or_named(tmp_path, item):
    unsaid, outcome = silence(item, tmp_path)
    findings = [str(finding) for finding in outcome.findings]
    assert unsaid == [], findings
    assert bool(outcome.problems) != item.sound, findings
    if item.code:
        assert item.code in {finding.code for finding in outcome.findings}, findings
        assert any(item.word in f"{f.where} {f.message} {f.remedy}" for f in outcome.findings), findings
    elif item.sound:
        assert findings == []
    if item.sound:
        facts = outcome.facts()
        assert {key: facts[key] for key in item.facts} == dict(item.facts)
    for finding in outcome.findings:
        assert len(finding.remedy) > 5
        assert "\n" not in finding.message + finding.remedy


def test_there_are_as_many_inputs_as_there_are_said_to_be():
    assert len(INPUTS) >= 300


def test_oracle_sees_what_is_dropped(tmp_path, monkeypatch):
    """Without the look at what is left over, files go unsaid."""
    monkeypatch.setattr("pipeline.data.layouts.opening.leftovers", lambda dataset: [])
    item = next(item for item in INPUTS if item.name == "folder: organ beside it")
    assert untidy.silence(item, tmp_path)[0] == ["organ/c1.nii.gz", "organ/c2.nii.gz", "organ/c3.nii.gz", "organ"]


# The inputs that people have sent, where this machine has them.

CASES = Path(__file__).resolve().parents[2] / "shared" / "cases"


@pytest.fixture
def sent(tmp_path):
    """A function that copies one of these inputs, since a folder beside tests is not ours to write to."""

    def copied(name):
        if not (CASES / name).is_dir():
            pytest.skip(f"needs the inputs in {CASES}")
        shutil.copytree(CASES / name, tmp_path / name)
        return tmp_path / name

    return copied


def test_two_kinds_of_masks_a_subject_are_asked_about(sent):
    place = sent("bids_two_masks")
    outcome = look_at(place)
    (problem,) = outcome.problems
    assert problem.code == "ambiguous-layout"
    assert "gmseg-manual in derivatives/labels (4), seg-manual in derivatives/labels (4)" in problem.message
    for kind in ("seg-manual", "gmseg-manual"):
        assert f"label_suffix={kind}" in problem.remedy
        chosen = look_at(place, options={"label_suffix": kind})
        assert (chosen.findings, chosen.facts()["masks"]) == ([], 4)
        assert {case.label.name for case in chosen.dataset.cases} == {
            f"sub-0{n}_T2starw_{kind}.nii.gz" for n in (1, 2, 3, 4)
        }


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("bids_label_entity", {"masks": 3, "channels": 1}),
        ("images_and_masks", {"masks": 3, "channels": 1}),
        ("folder_per_case", {"masks": 3, "channels": 4, "names": ("flair", "t1", "t1ce", "t2")}),
    ],
)
def test_what_was_dropped_is_read(sent, name, facts):
    outcome = look_at(sent(name))
    assert outcome.findings == []
    assert {key: outcome.facts()[key] for key in facts} == facts


def test_sections_and_keys_of_lists_count(sent):
    folder = sent("lists")
    for name in "01234567":
        scan(folder / "im" / f"a{name}.nii.gz")
        scan(folder / "la" / f"a{name}.nii.gz", masked=True)
    facts = {path.stem: look_at(path).facts() for path in folder.glob("*.json")}
    assert facts["pat2"]["patients"] == 4
    assert facts["unl"]["roles"] == {"training": 8}
    assert facts["val"]["roles"] == {"training": 5, "validation": 3}
    folds = look_at(folder / "fold.json")
    assert folds.facts()["roles"] == {"training": 6, "test": 1}
    assert [(p.code, p.where.rpartition("/")[2]) for p in folds.problems] == [("missing-file", "DOES_NOT_EXIST.nii.gz")]
    assert "fold-unused" in {finding.code for finding in folds.findings}
    chosen = look_at(folder / "fold.json", options={"fold": 0})
    assert chosen.facts()["roles"] == {"training": 4, "validation": 2, "test": 1}


# Links that lead nowhere.


def test_scan_that_git_annex_has_not_fetched_says_how_to_get_it(tmp_path):
    folder = untidy.bids_masks("derivatives/labels/sub-{}/anat", "sub-{}_dseg")(tmp_path)
    path = folder / "sub-01/anat/sub-01_T1w.nii.gz"
    path.unlink()
    path.symlink_to("../../.git/annex/objects/Xk/2f/MD5E-s5--aa.nii.gz/MD5E-s5--aa.nii.gz")
    (problem,) = look_at(folder).problems
    assert (problem.code, problem.where) == ("missing-file", str(path))
    assert f"run `git annex get sub-01_T1w.nii.gz` in {path.parent}" in problem.remedy


def test_link_that_leads_nowhere_says_where_it_leads(tmp_path):
    folder = untidy.pairs(tmp_path)
    (folder / "images/c1.nii.gz").unlink()
    (folder / "images/c1.nii.gz").symlink_to("/mnt/archive/c1.nii.gz")
    (problem,) = look_at(folder).problems
    assert problem.code == "missing-file"
    assert "is a link to /mnt/archive/c1.nii.gz, which is not there" in problem.remedy


def test_pointer_of_git_annex_is_called_that(tmp_path):
    folder = untidy.pairs(tmp_path)
    (folder / "labels/c1.nii.gz").write_bytes(b"/annex/objects/MD5E-s5--aa.nii.gz\n")
    (problem,) = look_at(folder).problems
    assert problem.code == "annex-pointer"
    assert "git annex get c1.nii.gz" in problem.remedy


# Remedies do what they say.

STEMS = [item for item in INPUTS if item.code == "shared-stems"]


@pytest.mark.parametrize("item", STEMS, ids=lambda item: item.name)
def test_pattern_of_the_remedy_makes_one_patient_of_a_stem(tmp_path, item):
    source = item.write(tmp_path)
    (finding,) = look_at(source).findings
    option = shlex.split(finding.remedy.partition(" keeps")[0])[1]
    mended = look_at(source, options=read_options([option]))
    assert mended.findings == []
    stems = {case.id: case.patient for case in mended.dataset.cases}
    assert len(set(stems.values())) < len(stems)
    assert all(name.startswith(patient) for name, patient in stems.items())
    apart = look_at(source, options=read_options(["patient=(.+)"]))
    assert (apart.findings, apart.facts()["patients"]) == ([], len(stems))


@pytest.mark.parametrize(
    ("ids", "stems"),
    [
        (["Pat 002-ED cine", "Pat 002-ES cine", "Pat 003-ED cine"], ["Pat 002", "Pat 002", "Pat 003"]),
        (["P2 visit 1", "P2 visit 2", "P3 visit 1"], ["P2", "P2", "P3"]),
        (["P2 pre", "P2 post"], ["P2", "P2"]),
        (["P2-1 T1w", "P2-2 T1w", "P3-1 T1w", "P4-1 T1w"], ["P2", "P2", "P3", "P4"]),
        (["002 (1)", "002 (2)", "003 (1)", "004 (1)"], ["002", "002", "003", "004"]),
        (["la_007 MR", "la_008 MR", "la_009 MR"], None),
        (["case 01", "case 02", "case 03"], None),
        (
            ["Herz 002 2024-02-01 Visit 1", "Herz 002 2024-03-01 Visit 2", "Herz 003 2024-02-01"],
            [*["Herz 002"] * 2, "Herz 003"],
        ),
        (["P2_2024-02-01_visit1", "P2_2024-02-01_visit2", "P2_2024-03-01_visit1", "P3_20240201"], [*["P2"] * 3, "P3"]),
        (["P2_01.02.2024", "P2_01.03.2024", "P3"], ["P2", "P2", "P3"]),
        (["2024-02-01 P2", "2024-03-01 P2", "2024-03-01 P3"], ["P2", "P2", "P3"]),
        (["KH17-MR1", "KH17-MR2", "KH18-MR1"], ["KH17", "KH17", "KH18"]),
        (["KH17_11.01.23", "KH17_20.02.23", "KH18_11.01.23"], ["KH17", "KH17", "KH18"]),
        (["MUE_2024-02-01", "MUE_2024-03-01", "KRA_2024-03-01", "BEL_2024-03-01"], ["MUE", "MUE", "KRA", "BEL"]),
        (["P2 V1 2024-02-01", "P2 V2 2024-03-01"], ["P2", "P2"]),
        (["scan_2024-02-01", "scan_2024-02-02"], None),
        (["heart1_2024-02-01", "heart1_2024-02-02"], None),
        (["north_2024-02-01", "north_2024-02-02", "south_2024-02-01"], None),
        (["site1_2024-02-01_01", "site1_2024-02-01_02", "site2_2024-02-01_03"], None),
        (["P1_20019901", "P1_20019902", "P2_20019901"], None),
    ],
)
def test_spaces_and_dates_part_the_scans_of_a_patient_too(ids, stems):
    pattern = pattern_of(ids)
    assert (pattern and [re.search(pattern, name)[1] for name in ids]) == stems


@pytest.mark.parametrize(("second", "warned"), [("training", False), ("validation", True), ("test", True)])
def test_stems_on_both_sides_of_a_list_are_warned_of(tmp_path, second, warned):
    names = ["p1_slice1", "p2_slice1", "p1_slice2", "p3_slice1"]
    untidy.pairs(tmp_path, names=names)
    rows = [{"image": f"images/{name}.nii.gz", "label": f"labels/{name}.nii.gz"} for name in names]
    content = {"training": rows[:2], "validation": rows[3:]}
    content.setdefault(second, []).append(rows[2])
    source = untidy.json_file(content)(tmp_path)
    codes = {finding.code for finding in look_at(source).findings}
    # Under training both are on one side, and nothing is drawn beside a validation list.
    assert ("shared-stems" in codes) == warned


def test_a_training_tells_the_first_warning_of_each_code_with_its_remedy(tmp_path, capsys):
    tell_warnings(look_at(untidy.folders(labels="organ")(tmp_path)).findings)
    said = capsys.readouterr().err
    assert "unused-files" in said
    assert "    remedy: " in said


def test_a_pattern_that_makes_one_patient_of_all_is_warned_of(tmp_path):
    untidy.pairs(tmp_path, names=["P010_a", "P021_a", "P032_a"])
    (finding,) = look_at(tmp_path, options={"patient": r"(P0)"}).findings
    assert (finding.code, "all of patient 'P0'" in finding.message) == ("one-patient", True)
    assert look_at(tmp_path, options={"patient": r"(P\d+)"}).findings == []


def test_masks_of_another_reader_are_not_dropped_without_a_word(tmp_path):
    untidy.pairs(tmp_path, labels=None, names=("c1", "c2", "c3"))
    for name in ("c1_seg_MM", "c2_seg_MM", "c1_seg_JD", "c3_seg_JD"):
        untidy.scan(tmp_path / "labels" / f"{name}.nii.gz", masked=True)
    (problem,) = look_at(tmp_path).problems
    assert "has several masks of 1 scan(s), such as c1, and masks end in _seg_JD (2), _seg_MM (2)" in problem.message
    assert "--layout-option label_suffix=_seg_JD or --layout-option label_suffix=_seg_MM" in problem.remedy
    chosen = look_at(tmp_path, options={"label_suffix": "_seg_MM"})
    assert [case.id for case in chosen.dataset.cases if case.label] == ["c1", "c2"]
    (finding,) = chosen.findings
    assert (finding.code, "c3_seg_JD" in finding.message, "c1" in finding.message) == ("unused-files", True, False)


def in_one_folder(folder, ending=" maske"):
    for name in ("c1 links", "c2 rechts", "c3"):
        untidy.scan(folder / f"{name}.nii.gz")
    for name in ("c1 links", "c2 rechts"):
        untidy.scan(folder / f"{name}{ending}.nii.gz", masked=True)


def test_masks_among_images_in_a_language_of_their_own_are_told_with_the_options_that_read_them(tmp_path):
    in_one_folder(tmp_path)
    found = look_at(tmp_path)
    (problem,) = [each for each in found.problems if each.code == "mask-as-image"]
    assert "by their names and values, masks of them:  maske (2)" in problem.message
    options = "--layout folder --layout-option images=. --layout-option 'label_suffix= maske'"
    trained = "layout=folder layout.options.images=. 'layout.options.label_suffix= maske'"
    assert options in problem.remedy
    assert trained in problem.remedy
    as_told = look_at(tmp_path, layout="folder", options={"images": ".", "label_suffix": " maske"})
    assert as_told.problems == []
    assert [case.id for case in as_told.dataset.cases if case.label] == ["c1 links", "c2 rechts"]


def test_masks_among_the_images_of_a_folder_are_told_too(tmp_path):
    in_one_folder(tmp_path / "images")
    (problem,) = [each for each in look_at(tmp_path).problems if each.code == "mask-as-image"]
    assert "--layout-option images=images " in problem.remedy


def test_a_folder_of_scans_to_predict_is_not_trained_on_and_the_way_is_said(tmp_path):
    in_one_folder(tmp_path)
    with pytest.raises(UserError, match=r"holds 5 scan\(s\) to predict, and none to train on") as caught:
        runs.read_recipe(tmp_path)
    assert "`fewmask check` names the options that say so" in str(caught.value)


def test_a_runs_folder_in_the_place_of_a_dataset_is_told_from_one(tmp_path):
    for name in ("config.yaml", "split.json"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match="is a run's folder") as caught:
        runs.read_recipe(tmp_path)
    own = tmp_path / "config.yaml"
    told = f"go on with it: {own} --output {tmp_path} --resume; train anew as it was: {own} --output NEW"
    assert told in str(caught.value)
    assert f"start={tmp_path}" in str(caught.value)


def test_an_option_of_another_layout_is_told_with_that_layout(tmp_path):
    in_one_folder(tmp_path)
    with pytest.raises(UserError) as caught:
        read_dataset(tmp_path, None, "auto", {"label_suffix": " maske"})
    (problem,) = caught.value.problems
    assert problem.message == "scans has no such option"
    assert "folder" in problem.remedy
    assert "--layout " in problem.remedy


def test_a_prediction_says_nothing_of_patients_who_could_be_on_both_sides(tmp_path, capsys):
    untidy.pairs(tmp_path, names=("p1_visit1", "p1_visit2", "p2_visit1"))
    assert len(scans_of(tmp_path / "no-run", [tmp_path], (None, "auto", {}), unlabelled=False)) == 3
    assert "shared-stems" not in capsys.readouterr().err
    assert [finding.code for finding in look_at(tmp_path).findings] == ["shared-stems"]


@pytest.mark.parametrize("option", ["labels=organ", "unlabelled=organ"])
def test_folder_that_nothing_uses_is_used_by_the_option_of_the_remedy(tmp_path, option):
    write = (
        untidy.folders(labels="organ")
        if option.startswith("labels")
        else untidy.and_also(untidy.folders(), "organ/u.nii.gz")
    )
    source = write(tmp_path)
    (finding,) = look_at(source).findings
    assert option in finding.remedy
    assert look_at(source, options=read_options([option])).findings == []


def test_strict_makes_problems_of_all_of_them(tmp_path):
    source = untidy.folders(labels="organ")(tmp_path)
    assert [problem.code for problem in survey(read_dataset(source), strict=True).problems] == ["unused-files"]


def test_warnings_are_in_the_output_and_in_the_report(tmp_path):
    source = untidy.folders(labels="organ")(tmp_path / "data")
    done = fewmask("check", source, "--output", tmp_path / "report")
    assert done.returncode == 0, done.stderr
    assert "unused-files" in done.stdout
    assert "1 unused-files" in done.stdout
    report = json.loads((tmp_path / "report" / "check.json").read_text())
    assert [row["code"] for row in report["warnings"]] == ["unused-files"]
    strict = fewmask("check", source, "--strict", "--output", tmp_path / "report")
    assert strict.returncode == 2


def test_folders_that_link_to_each_other_are_looked_at_once(tmp_path):
    source = untidy.folders()(tmp_path / "data")
    (source / "again").symlink_to(source)
    (source / "up").symlink_to(tmp_path)
    (source / "old").symlink_to(tmp_path / "old")
    untidy.scan(tmp_path / "old" / "x.nii.gz")
    (finding,) = look_at(source).findings
    assert (finding.code, finding.where) == ("unused-files", str(source / "old"))


# From such a folder to masks.

FOUR = ("{}_flair", "{}_t1", "{}_t1ce", "{}_t2")
SIDES = untidy.bids_masks("derivatives/l/sub-{}/anat", ["sub-{}_label-L_mask", "sub-{}_label-R_mask"])


@pytest.mark.parametrize(
    ("write", "options", "names"),
    [
        (untidy.case_folders(FOUR, masks=("{}_seg",)), {}, ["P1", "P2", "P3"]),
        (untidy.case_folders(("imaging",), masks=("segmentation",)), {}, ["P1", "P2", "P3"]),
        (untidy.folders(image="{}_0000", labels="masks"), {}, ["c1", "c2", "c3"]),
        (SIDES, {"label": "R"}, ["sub-01_T1w", "sub-02_T1w", "sub-03_T1w"]),
        (untidy.folders(images=".", labels=".", label="{}_seg"), {"label_suffix": "_seg"}, ["c1", "c2", "c3"]),
    ],
    ids=["four sequences", "one image", "numbered", "two sides", "flat"],
)
def test_masks_are_learnt_and_written_under_the_names_of_the_cases(tmp_path, write, options, names):
    (tmp_path / "data").mkdir()
    source = write(tmp_path / "data")
    layout = {"name": "folder" if "label_suffix" in options else "auto", "options": options}
    run = train(tmp_path, source, "run", max_steps=2, objective=[{"loss": "dice"}], layout=layout)
    assert json.loads((run / "summary.json").read_text())["n_cases"] == 1
    masks = runs.predict(run, [source], tmp_path / "masks", open_as=(None, layout["name"], options))
    assert sorted(path.name for path in masks) == [f"{name}.nii.gz" for name in names]


@pytest.mark.parametrize(
    "item", [item for item in INPUTS if item.code == "ambiguous-layout"], ids=lambda item: item.name
)
def test_way_that_a_question_names_is_an_answer(tmp_path, item):
    """Whoever does as the remedy says gets past that question, by ``check`` and by ``train``."""
    source = item.write(tmp_path)
    (problem,) = (found for found in look_at(source).problems if found.code == "ambiguous-layout")
    if "--layout-option" not in problem.remedy:
        assert "--layout folder" in problem.remedy
        assert "ambiguous-layout" not in {found.code for found in look_at(source, "folder").problems}
        return
    asked, _, train_way = problem.remedy.partition("; for train: ")
    option = shlex.split(asked.partition("--layout-option ")[2])[0]
    again = look_at(source, options=read_options([option])).problems
    assert problem not in again
    assert shlex.split(train_way)[0].rstrip(",;") == f"layout.options.{option}"


def test_predict_takes_the_options_of_a_layout(tmp_path):
    (tmp_path / "data").mkdir()
    source = SIDES(tmp_path / "data")
    words = ("predict", tmp_path / "no-run", source, "--output", tmp_path / "masks")
    assert "label=L or --layout-option label=R" in fewmask(*words).stderr
    assert "there is no such run" in fewmask(*words, "--layout-option", "label=L").stderr


def test_mask_is_called_after_its_case_where_its_file_is_not():
    def name(images, case):
        return _mask_name(Case(id=case, images=tuple(Path("d") / image for image in images), label=None, patient=case))

    assert name(["imaging.nii.gz"], "case_1") == "case_1.nii.gz"
    assert name(["X_flair.nii", "X_t1.nii"], "X") == "X.nii"
    assert name(["X_0000.nii.gz"], "X") == name(["X_0000.nii.gz", "X_0001.nii.gz"], "X") == "X.nii.gz"
    assert name(["sub-1_T1w.nii.gz"], "sub-1") == "sub-1_T1w.nii.gz"
    assert name(["scan.nii.gz"], "scan") == "scan.nii.gz"
    for unusable in ("../../x", "a/b", ".hidden", "a\x1b[2J", ""):
        assert name(["scan.nii.gz"], unusable) == "scan.nii.gz"
