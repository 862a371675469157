import json
import os
import time

import pytest

from pipeline.data.layouts import open_dataset, read_dataset, scans_in
from pipeline.data.layouts.patterns import first_groups
from pipeline.errors import UserError


def write_list(folder, content, name="list.json"):
    """Write a list; the files that it names need not be there, for a layout looks at names only."""
    folder.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def problems_of(source, root=None):
    with pytest.raises(UserError) as raised:
        open_dataset(source, root)
    return raised.value.problems


def only_problem(source, root=None):
    (problem,) = problems_of(source, root)
    assert problem.remedy
    return problem


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def roles(dataset):
    return {case.id: (case.role, case.label is not None) for case in dataset.cases}


PAIR = {"image": "a.nii.gz", "label": "a_mask.nii.gz"}


def test_a_decathlon_s_test_scans_train_without_masks(dataset_folder):
    folder = dataset_folder(labelled=2, unlabelled=1)
    dataset = open_dataset(folder)
    assert (dataset.layout, dataset.source) == ("decathlon", folder / "dataset.json")
    assert (dataset.channels, dataset.labels) == (("MRI",), {0: "background", 1: "blob"})
    assert roles(dataset) == {
        "case_000": ("training", True),
        "case_001": ("training", True),
        "case_002": ("training", False),
    }
    first = dataset.cases[0]
    assert first.images == (folder / "imagesTr" / "case_000.nii.gz",)
    assert first.label == folder / "labelsTr" / "case_000.nii.gz"
    assert first.patient == "case_000"


def test_the_public_decathlon_opens(hippocampus):
    dataset = open_dataset(hippocampus)
    assert dataset.labels == {0: "background", 1: "Anterior", 2: "Posterior"}
    assert sum(case.label is not None for case in dataset.cases) >= 100
    assert all(path.is_file() for case in dataset.cases for path in case.images)


def test_a_datalist_s_test_scans_are_not_trained_on(tmp_path):
    source = write_list(
        tmp_path,
        {
            "training": [PAIR],
            "validation": [{"image": "v.nii.gz", "label": "v_mask.nii.gz"}],
            "unlabeled": ["u.nii.gz", {"image": "u2.nii.gz"}],
            "unlabelled": ["u3.nii.gz"],
            "test": ["t.nii", {"image": "t2.nii.gz", "label": "t2_mask.nii.gz"}],
        },
    )
    dataset = open_dataset(source)
    assert dataset.layout == "datalist"
    assert roles(dataset) == {
        "a": ("training", True),
        "u": ("training", False),
        "u2": ("training", False),
        "u3": ("training", False),
        "v": ("validation", True),
        "t": ("test", False),
        "t2": ("test", True),
    }
    assert (dataset.channels, dataset.labels) == (None, None)


def test_an_empty_test_list_is_no_mistake(tmp_path):
    assert len(open_dataset(write_list(tmp_path, {"training": [PAIR], "test": []})).cases) == 1


def test_a_plain_folder_pairs_by_name(tmp_path):
    touch(tmp_path / "images", "a.nii.gz", "b.1.nii", "c.NII.GZ", "notes.txt", "._a.nii.gz")
    touch(tmp_path / "labels", "a.nii", "b.1.nii.gz")
    dataset = open_dataset(tmp_path)
    assert (dataset.layout, dataset.labels, dataset.channels) == ("folder", None, None)
    assert roles(dataset) == {"a": (None, True), "b.1": (None, True), "c": (None, False)}
    assert dataset.cases[1].label == tmp_path / "labels" / "b.1.nii.gz"


def test_a_plain_folder_needs_no_labels(tmp_path):
    touch(tmp_path / "images", "a.nii.gz")
    assert roles(open_dataset(tmp_path)) == {"a": (None, False)}


def test_a_list_of_files_is_one_scan_of_several_channels(tmp_path):
    source = write_list(
        tmp_path,
        {
            "channel_names": {"0": "T1", "10": "FLAIR", "2": "T2"},
            "training": [{"image": ["t1.nii", "t2.nii", "flair.nii"], "label": "m.nii", "id": "x", "patient": "p7"}],
        },
    )
    dataset = open_dataset(source)
    (case,) = dataset.cases
    assert dataset.channels == ("T1", "T2", "FLAIR")
    assert case.images == tuple(tmp_path / name for name in ("t1.nii", "t2.nii", "flair.nii"))
    assert (case.id, case.patient) == ("x", "p7")


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"0": "background", "1": "liver", "10": "spleen", "2": "tumour"}, [0, 1, 2, 10]),
        ({"background": 0, "liver": 1, "spleen": "10", "tumour": 2}, [0, 1, 2, 10]),
        ({"liver": 1, "spleen": 10, "tumour": 2}, [0, 1, 2, 10]),
        ({}, None),
        (None, None),
    ],
)
def test_labels_are_read_both_ways_round(tmp_path, labels, expected):
    dataset = open_dataset(write_list(tmp_path, {"labels": labels, "training": [PAIR]}))
    assert (list(dataset.labels) if dataset.labels else None) == expected
    if expected:
        assert dataset.labels == {0: "background", 1: "liver", 2: "tumour", 10: "spleen"}


@pytest.mark.parametrize(
    "labels", [{"liver": []}, {"liver": "one"}, {"liver": None}, ["background", "liver"], {"a": 1, "b": 1}]
)
def test_labels_that_say_nothing_clear_are_a_mistake(tmp_path, labels):
    source = write_list(tmp_path, {"labels": labels, "training": [PAIR]})
    problem = only_problem(source)
    assert (problem.code, problem.where) == ("bad-labels", f"{source} labels")
    assert '{"0": "background", "1": "liver"}' in problem.remedy


def test_a_root_says_where_the_files_of_a_list_are(tmp_path):
    (tmp_path / "data").mkdir()
    source = write_list(tmp_path / "lists", {"training": [{"image": "a.nii", "label": str(tmp_path / "data/m.nii")}]})
    (case,) = open_dataset(source, root=tmp_path / "data").cases
    assert (case.images, case.label) == ((tmp_path / "data" / "a.nii",), tmp_path / "data" / "m.nii")
    assert only_problem(source).code == "outside-root"


def test_absolute_paths_may_go_by_the_link_that_the_list_goes_by(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    names = {"image": str(tmp_path / "link" / "a.nii"), "label": str(tmp_path / "real" / "m.nii")}
    (case,) = open_dataset(write_list(tmp_path / "link", {"training": [names]})).cases
    assert (case.images, case.label) == ((tmp_path / "real" / "a.nii",), tmp_path / "real" / "m.nii")
    assert open_dataset(tmp_path / "real" / "list.json").cases == (case,)  # As a run names it.


def test_a_root_may_be_relative_and_a_link(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    source = write_list(tmp_path / "lists", {"training": [PAIR]})
    (case,) = open_dataset(source, root=(tmp_path / "link").relative_to(tmp_path)).cases
    assert case.images == (tmp_path / "real" / "a.nii.gz",)


@pytest.mark.parametrize("name", ["../a.nii.gz", "x/../../a.nii.gz", "/etc/passwd", "x/../a.nii.gz"])
@pytest.mark.parametrize("key", ["image", "label"])
def test_no_entry_leads_outside_the_root(tmp_path, name, key):
    source = write_list(tmp_path, {"training": [PAIR | {key: name}]})
    problem = only_problem(source)
    assert (problem.code, problem.where) == ("outside-root", f"{source} training.0")
    assert name in problem.message
    assert "root=" in problem.remedy


def test_every_mistake_of_a_list_is_in_one_error(tmp_path):
    source = write_list(
        tmp_path,
        {
            "labels": {"liver": "x"},
            "training": [
                "bare.nii.gz",
                {"label": "m.nii.gz"},
                7,
                {"image": [], "label": "m.nii.gz"},
                {"image": ["a.nii", 3], "label": "m.nii.gz"},
                {"image": "b.nii", "label": ["m.nii"]},
                {"image": "/etc/passwd", "label": "m.nii"},
                {"image": "twice.nii", "label": "m.nii"},
                {"image": "one/same.nii", "label": "m.nii"},
                {"image": "self.nii", "label": "./self.nii"},
                {"image": "c.nii", "label": ""},
            ],
            "validation": [{"image": "v.nii.gz"}, {"image": "twice.nii", "label": "m.nii"}],
            "unlabeled": ["two/same.nii"],
            "test": None,
        },
    )
    found = [(problem.where.removeprefix(f"{source}").strip(), problem.code) for problem in problems_of(source)]
    assert sorted(found) == sorted(
        [
            ("training.0", "missing-label"),
            ("training.1", "bad-entry"),
            ("training.2", "bad-entry"),
            ("training.3", "bad-entry"),
            ("training.4", "bad-entry"),
            ("training.5", "bad-entry"),
            ("training.6", "outside-root"),
            ("training.9", "label-is-image"),
            ("training.10", "missing-label"),
            ("validation.0", "missing-label"),
            ("test.0", "bad-entry"),
            ("labels", "bad-labels"),
            ("", "scan-twice"),
            ("", "id-twice"),
        ]
    )


def test_a_missing_label_names_the_list_for_scans_without_one(tmp_path):
    problem = only_problem(write_list(tmp_path, {"training": [PAIR, "b.nii.gz"]}))
    assert "b.nii.gz" in problem.message
    assert '"unlabeled"' in problem.remedy


@pytest.mark.parametrize(
    ("name", "section"), [("list.json", "unlabeled"), ("dataset.json", "test"), ("d.json", "test")]
)
def test_a_mask_in_a_list_that_trains_without_is_refused_not_used(tmp_path, name, section):
    source = write_list(
        tmp_path,
        {"modality": {"0": "CT"}, "training": [PAIR], section: [{"image": "b.nii", "label": "m.nii"}]},
        name,
    )
    problem = only_problem(source)
    assert (problem.code, problem.where) == ("unwanted-label", f"{source} {section}.0")
    assert "m.nii" in problem.message


def test_one_scan_in_two_lists_is_refused_with_both_lists(tmp_path):
    problem = only_problem(write_list(tmp_path, {"training": [PAIR], "validation": [PAIR]}))
    assert (problem.code, problem.case) == ("scan-twice", "a")
    assert "under training and validation" in problem.message


def test_an_id_tells_equal_names_apart(tmp_path):
    entries = [{"image": f"{side}/scan.nii", "label": f"{side}/mask.nii"} for side in ("one", "two")]
    problem = only_problem(write_list(tmp_path, {"training": entries}))
    assert (problem.code, problem.case) == ("id-twice", "scan")
    assert '"id"' in problem.remedy
    entries[1]["id"] = "other"
    assert set(roles(open_dataset(write_list(tmp_path, {"training": entries})))) == {"scan", "other"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"training": [], "training": [{}]}', "'training' stands twice"),
        ('{"training": [{"image": "a.nii", "image": "b.nii", "label": "m.nii"}]}', "'image' stands twice"),
        ("{'training': []}", "line 1"),
        ("", "line 1"),
        ("[" * 100_000, "nested too deeply"),
        ("[1, 2]", "no JSON object"),
        ('"text"', "no JSON object"),
    ],
)
def test_what_is_no_json_object_is_said_so(tmp_path, text, message):
    source = write_list(tmp_path, text)
    problem = only_problem(source)
    assert (problem.code, problem.where) == ("bad-json", str(source))
    assert message in problem.message


def test_bytes_that_are_no_text_are_no_json(tmp_path):
    (tmp_path / "list.json").write_bytes(b"\x1f\x8b\xff\xfe")
    assert only_problem(tmp_path / "list.json").code == "bad-json"


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    source = write_list(tmp_path, "\ufeff" + json.dumps({"training": [PAIR]}))
    assert len(open_dataset(source).cases) == 1


def test_a_list_without_entries_says_which_lists_it_may_have(tmp_path):
    problem = only_problem(write_list(tmp_path, {"pictures": [PAIR]}))
    assert problem.code == "no-cases"
    assert "training, unlabeled, validation, test" in problem.message
    assert "'pictures' of 1 scan(s)" in problem.message


def test_a_folder_of_lists_names_them(tmp_path):
    for name in ("few.json", "all.json"):
        write_list(tmp_path, {"training": [PAIR]}, name)
    problem = only_problem(tmp_path)
    assert problem.code == "no-dataset"
    assert problem.remedy == "name the list itself: all.json, few.json"


def test_a_folder_of_nothing_says_how_to_see_the_layouts(tmp_path):
    problem = only_problem(tmp_path)
    assert problem.code == "no-dataset"
    assert "fewmask components" in problem.remedy


def test_a_path_to_nothing_is_named(tmp_path):
    problem = only_problem(tmp_path / "gone")
    assert (problem.code, problem.where) == ("missing-dataset", str(tmp_path / "gone"))


def test_a_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert only_problem(tmp_path / "pipe").code == "no-dataset"


def test_each_label_without_an_image_names_the_nearest(tmp_path):
    touch(tmp_path / "images", "patient_01.nii.gz", "patient_02.nii.gz")
    touch(tmp_path / "labels", "patient_O1.nii.gz", "patient_02.nii.gz", "xyz.nii.gz")
    first, second = problems_of(tmp_path)
    assert {first.code, second.code} == {"label-without-image"}
    assert first.where == str(tmp_path / "labels" / "patient_O1.nii.gz")
    assert first.remedy == "did you mean 'patient_01'?"
    assert "rename it" in second.remedy


@pytest.mark.parametrize("lone", ["patient_03", "patient_02 (copy)"])
def test_a_mask_is_not_taken_for_that_of_another_number(tmp_path, lone):
    touch(tmp_path / "images", "patient_01.nii.gz", "patient_02.nii.gz")
    touch(tmp_path / "labels", f"{lone}.nii.gz", "patient_02.nii.gz")
    assert only_problem(tmp_path).remedy.startswith("rename it")


def test_a_folder_without_scans_is_said_so(tmp_path):
    touch(tmp_path / "images", "notes.txt")
    problem = only_problem(tmp_path)
    assert (problem.code, problem.where) == ("no-scans", str(tmp_path / "images"))


@pytest.mark.parametrize("side", ["images", "labels"])
def test_one_name_with_both_suffixes_is_refused(tmp_path, side):
    touch(tmp_path / "images", "a.nii.gz")
    touch(tmp_path / side, "a.nii", "a.nii.gz")
    problem = only_problem(tmp_path)
    assert (problem.code, problem.where) == ("name-twice", str(tmp_path / side / "a"))


def test_scans_of_a_place_that_is_no_folder(tmp_path):
    with pytest.raises(UserError, match="no-folder"):
        scans_in(tmp_path / "gone")


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*$", "(.*)*\\d{9}$"])
def test_pattern_that_takes_for_ever_is_refused_in_bounded_time(tmp_path, monkeypatch, pattern):
    monkeypatch.setattr("pipeline.data.layouts.patterns.LONGEST_S", 0.5)
    touch(tmp_path, f"{'a' * 60}b.nii.gz", "c.nii.gz")
    began = time.monotonic()
    dataset = read_dataset(tmp_path, layout="scans", options={"patient": pattern})
    assert time.monotonic() - began < 20
    (problem,) = [problem for problem in dataset.problems if problem.code == "bad-pattern"]
    assert problem.where == pattern
    assert "takes more than 0.5 s to be looked for in 2 name(s)" in problem.message
    assert {case.patient for case in dataset.cases} == {case.id for case in dataset.cases}


@pytest.mark.parametrize("pattern", ["(", "(" * 5000, "a{5000000000}", "(?<=a*)"])
def test_what_is_no_pattern_is_refused(tmp_path, pattern):
    touch(tmp_path, "c.nii.gz")
    dataset = read_dataset(tmp_path, layout="scans", options={"patient": pattern})
    assert "bad-pattern" in [problem.code for problem in dataset.problems]


def test_pattern_gives_its_first_group_or_the_whole_match_or_nothing():
    names = ["p1_2", "q7", "x", "\udcff1", "müller3"]
    assert first_groups(r"([a-z]*)\d", names) == ["p", "q", None, "", "ller"]
    assert first_groups(r"\d", names) == ["1", "7", None, "1", "3"]
    assert first_groups(r"(z)?\d", names) == ["", "", None, "", ""]
    assert first_groups("a", []) == []


def test_pattern_is_looked_for_in_any_number_of_names():
    names = [f"patient_{n:06d}_{n % 7}" for n in range(60_000)]
    assert first_groups(r"(.+)_\d+$", names) == [name[:-2] for name in names]


def test_options_that_a_layout_inherits_are_judged_by_their_types(tmp_path):
    touch(tmp_path / "images", "a.nii.gz")
    for layout in ("datalist", "folder", "scans", "table", "bids", "cases", "nnunet", "decathlon"):
        for value in ([-1, 1], "1", 0.5, 2**40):
            with pytest.raises(UserError) as raised:
                read_dataset(tmp_path, layout=layout, options={"ignore": value})
            assert [(problem.where, problem.code) for problem in raised.value.problems] == [
                ("layout.options.ignore", "bad-layout")
            ]
