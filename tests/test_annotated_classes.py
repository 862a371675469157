"""Cases of which not every class is annotated: how lists say so, what is trained on them, and what is scored."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from commands import fewmask
from runs_fixtures import digest, make_phantom, plug_pulled_at, state_of, train

from pipeline import runs
from pipeline.data.layouts import read_dataset
from pipeline.data.relabelling import relabel
from pipeline.engines.sources import CopyPaste
from pipeline.errors import UserError
from pipeline.metrics.calibration import Expectation, Reliability
from pipeline.metrics.case import score_case
from pipeline.runs.checking import survey
from pipeline.studies.lists import draw_lists

OBJECTIVE = [
    {"loss": "dice"},
    {"loss": "balanced_ce"},
    {"loss": "ncut", "on": "all", "weight": 0.1, "options": {"radius": 2}},
]


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    return make_phantom(tmp_path_factory.mktemp("annotated") / "data", labelled=6, unlabelled=2)


def listed(folder, phantom, annotated, validation=2, name="list.json", **told):
    """Write a list of the phantom in which cases have some classes annotated; masks lose what is not."""
    about = json.loads((phantom / "dataset.json").read_text())
    names = {name: int(value) for value, name in about["labels"].items()}
    if not (folder / "data").exists():
        (folder / "data").symlink_to(phantom)
    entries = []
    for n, entry in enumerate(about["training"]):
        entry = {key: f"data/{path}" for key, path in entry.items()}
        if chosen := annotated.get(n):
            mask = nib.load(folder / entry["label"])
            values = np.asarray(mask.dataobj).astype(np.uint8)
            values[~np.isin(values, [names.get(one, one) for one in chosen])] = 0
            entry["label"] = f"mask-{n}.nii.gz"
            nib.save(nib.Nifti1Image(values, mask.affine), folder / entry["label"])
            entry["annotated"] = chosen
        entries.append(entry)
    content = {"labels": about["labels"], "channel_names": about["modality"]} | told
    content |= {"training": entries[validation:], "validation": entries[:validation]}
    (folder / name).write_text(json.dumps(content))
    return folder / name


def told(path, text):
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    return read_dataset(path)


LABELS = {"0": "background", "1": "liver", "2": "spleen", "3": "left kidney"}


@pytest.mark.parametrize(
    ("given", "values"),
    [
        (["liver", "spleen"], (1, 2)),
        ([2, "liver"], (1, 2)),
        ("left kidney", (3,)),
        (1, (1,)),
        ("liver; spleen", (1, 2)),
        (["background", "liver"], (1,)),
        (["liver", "spleen", "left kidney"], None),
        (None, None),
    ],
)
def test_a_list_names_the_annotated_classes_of_a_case(tmp_path, given, values):
    entry = {"image": "a.nii", "label": "b.nii", "annotated": given}
    dataset = told(tmp_path / "list.json", {"labels": LABELS, "training": [entry]})
    assert dataset.problems == ()
    assert dataset.cases[0].annotated == values


def test_regions_tables_and_values_without_declared_labels(tmp_path):
    labels = {"background": 0, "kidneys": [2, 3], "left kidney": 3, "liver": 1}
    entry = {"image": "a.nii", "label": "b.nii", "annotated": ["kidneys"]}
    assert told(tmp_path / "list.json", {"labels": labels, "training": [entry]}).cases[0].annotated == (2, 3)
    table = told(tmp_path / "list.csv", "image,label,annotated\na.nii,b.nii,1;2\nc.nii,d.nii,\n")
    assert [case.annotated for case in table.cases] == [(1, 2), None]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"label": "b.nii", "annotated": []}, "has [] under annotated"),
        ({"label": "b.nii", "annotated": True}, "has True under annotated"),
        ({"label": "b.nii", "annotated": [1.5]}, "under annotated"),
        ({"label": "b.nii", "annotated": ["livr"]}, "names 'livr' as annotated, which is no label"),
        ({"annotated": ["liver"]}, "has no label"),
    ],
)
def test_what_names_no_classes_is_a_problem_of_its_entry(tmp_path, entry, message):
    section = "training" if "label" in entry else "unlabeled"
    dataset = told(tmp_path / "list.json", {"labels": LABELS, section: [{"image": "a.nii"} | entry]})
    (problem,) = dataset.problems
    assert problem.code == "bad-entry"
    assert message in problem.message
    assert problem.remedy


def test_a_mask_with_voxels_of_a_class_that_is_not_annotated_is_refused(tmp_path, phantom):
    content = json.loads(listed(tmp_path, phantom, {}).read_text())
    content["training"][1]["annotated"] = ["organ"]
    (tmp_path / "list.json").write_text(json.dumps(content))
    found = survey(read_dataset(tmp_path / "list.json")).problems
    assert [(problem.code, problem.case) for problem in found] == [("unannotated-label", "phantom_003")]
    assert "voxels of 2 in its mask" in found[0].message
    # Known from an earlier check too, in which the list said something else.
    content["training"][1].pop("annotated")
    (tmp_path / "other.json").write_text(json.dumps(content))
    known = survey(read_dataset(tmp_path / "other.json")).seen
    assert [p.code for p in survey(read_dataset(tmp_path / "list.json"), known=known).problems] == ["unannotated-label"]


def test_chosen_labels_carry_what_is_annotated(tmp_path):
    entries = [
        {"image": f"{n}.nii", "label": f"l{n}.nii", "annotated": given} for n, given in enumerate([[1], [2, 3], [1, 2]])
    ]
    dataset = told(tmp_path / "list.json", {"labels": LABELS, "training": entries})
    chosen = relabel(dataset, {"kidney": (3,), "liver": ("liver",)})
    assert [case.annotated for case in chosen.cases] == [(2,), (1,), (2,)]
    assert chosen.problems == ()
    alone = relabel(dataset, {"organ": ("liver",)})
    assert [case.annotated for case in alone.cases] == [None, (), None]
    half = relabel(dataset, {"both": (2, 3)}).problems
    assert [(p.where, p.code, p.case) for p in half] == [("labels.both", "bad-labels", "2")]


def test_lists_of_a_study_keep_what_is_annotated(tmp_path, phantom):
    path = listed(tmp_path, phantom, {3: ["organ"], 4: ["nodule"]})
    made = draw_lists(read_dataset(path), {4: (0,)})[4, 0]
    assert sorted(entry.get("annotated", []) for entry in made["training"]) == [[], [], [1], [2]]


def scores(run):
    with (run / "cases.csv").open() as file:
        return {(row["case"], row["name"]): row for row in csv.DictReader(file)}


def test_a_training_on_both_kinds_scores_what_is_annotated_and_resumes_to_the_bit(tmp_path, phantom):
    path = listed(tmp_path, phantom, {1: ["nodule"], 2: ["organ"], 3: ["organ"], 4: ["nodule"]})
    how = {"objective": OBJECTIVE}
    whole = train(tmp_path, path, "whole", **how)
    rows = scores(whole)
    assert rows["phantom_001", "organ"]["outcome"] == "not_annotated"
    assert rows["phantom_001", "organ"]["dice"] == ""
    assert {row["outcome"] for key, row in rows.items() if key != ("phantom_001", "organ")} <= {"missed", "scored"}
    summary = json.loads((whole / "summary.json").read_text())
    assert [row["not_annotated"] for row in summary["classes"]] == [1, 0]
    assert [row["metrics"]["dice"]["n"] for row in summary["classes"]] == [1, 2]
    assert "not annotated" in (whole / "report.html").read_text()
    with plug_pulled_at(5):
        train(tmp_path, path, "stopped", **how)
    resumed = train(tmp_path, path, "stopped", resume=True, **how)
    assert digest(state_of(whole)) == digest(state_of(resumed))
    # A list that says something else of a case is another dataset.
    content = json.loads(path.read_text())
    content["training"][0]["annotated"] = ["organ", "nodule"]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="has other classes annotated than it had"):
        train(tmp_path, path, "stopped", resume=True, **how)


@pytest.mark.slow
def test_cases_with_every_class_named_train_to_the_bits_of_those_that_say_nothing(tmp_path, phantom):
    plain = train(tmp_path, listed(tmp_path, phantom, {}), "plain", objective=OBJECTIVE)
    named = listed(tmp_path, phantom, {n: ["organ", "nodule"] for n in range(6)}, name="named.json")
    assert digest(state_of(train(tmp_path, named, "named", objective=OBJECTIVE))) == digest(state_of(plain))


@pytest.mark.slow
def test_parts_of_a_batch_add_up_to_the_whole_where_cases_lack_classes(tmp_path, phantom):
    path = listed(tmp_path, phantom, {2: ["organ"], 4: ["nodule"]})
    data = {"spacing_mm": [2.5] * 3, "patch_size": [16] * 3, "batch_size": 4, "workers": 0}
    how = {"objective": [{"loss": "dice"}], "max_steps": 2}
    one, two, units = (
        torch.cat(
            [
                weight.flatten()
                for weight in state_of(train(tmp_path, path, name, data=data | more, **how))["network"].values()
            ]
        )
        for name, more in (("one", {}), ("two", {"accumulate": 2}), ("units", {"units": 2}))
    )
    torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(one, units, atol=1e-4, rtol=1e-3)


@pytest.mark.slow
def test_folds_train_and_score_out_of_fold(tmp_path, phantom):
    path = listed(tmp_path, phantom, {1: ["organ"], 4: ["nodule"]}, validation=0)
    content = json.loads(path.read_text())
    content.pop("validation")
    path.write_text(json.dumps(content))
    recipe = {"dataset": str(path), "max_steps": 1, "device": "cpu"}
    recipe |= {"data": {"spacing_mm": [4] * 3, "patch_size": [16] * 3, "batch_size": 1, "workers": 0}}
    recipe |= {"network": {"name": "unet", "options": {"channels": [4, 8]}}, "objective": [{"loss": "dice"}]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    list(runs.cross_validate(runs.read_recipe(tmp_path / "recipe.yaml"), tmp_path / "run", 2))
    rows = scores(tmp_path / "run" / "out-of-fold")
    assert {key for key, row in rows.items() if row["outcome"] == "not_annotated"} == {
        ("phantom_001", "nodule"),
        ("phantom_004", "organ"),
    }


def test_atlases_need_a_scan_of_which_every_class_is_annotated(tmp_path, phantom):
    path = listed(tmp_path, phantom, {n: ["organ"] for n in range(2, 6)})
    with pytest.raises(UserError, match=r"atlases\.weight") as raised:
        train(tmp_path, path, "run", atlases={"weight": 0.4}, objective=[{"loss": "dice"}])
    assert [problem.code for problem in raised.value.problems] == ["no-atlas"]
    assert not (tmp_path / "run").exists()


def test_regions_need_every_class_in_every_mask(tmp_path, phantom):
    path = listed(tmp_path, phantom, {2: ["organ"]})
    regions = {"whole": [1, 2], "nodule": [2]}
    with pytest.raises(UserError, match="not so in 1, such as phantom_002") as raised:
        train(tmp_path, path, "run", regions=regions, objective=[{"loss": "dice"}])
    assert [(problem.where, problem.code) for problem in raised.value.problems] == [("regions", "bad-regions")]


def test_a_class_that_is_not_annotated_has_no_score_and_spoils_no_other():
    truth, prediction = np.array([[[0, 1, 1, 0, 0]]]), np.array([[[0, 1, 1, 2, 2]]])
    labels = {0: "background", 1: "liver", 2: "spleen"}
    liver, spleen = score_case("a", truth, prediction, labels, (1.0, 1.0, 1.0), annotated=(1,))
    assert (liver.outcome, liver.dice) == ("scored", 1.0)
    assert (spleen.outcome, spleen.dice, spleen.hd95_mm, spleen.lesions_false) == ("not_annotated", None, None, 0)
    assert (spleen.voxels_truth, spleen.voxels_predicted) == (0, 2)
    assert score_case("a", truth, prediction, labels, (1.0, 1.0, 1.0))[1].outcome == "false_positive"


def test_voxels_that_may_be_right_do_not_count_in_the_calibration():
    shares = np.array([[0.2, 0.3, 0.9], [0.2, 0.6, 0.05], [0.6, 0.1, 0.05]], np.float32)
    labels, truth = np.array([2, 1, 0]), np.array([0, 0, 0])
    known, partly = Reliability(), Reliability()
    Expectation(label_values=(0, 1, 2), reliability=known).add(shares, labels, truth)
    Expectation(label_values=(0, 1, 2), reliability=partly, unknown=(2,)).add(shares, labels, truth)
    assert (known.voxels.sum(), partly.voxels.sum()) == (3, 2)


class Streams(dict):
    streams = None


def test_pasted_background_that_may_be_a_structure_counts_nowhere():
    label = torch.tensor([0, 1, 0, 1]).view(1, 1, 2, 2)
    given = {"image": torch.ones(1, 1, 2, 2), "label": label, "annotated": torch.tensor([[True, True, False]])}
    known = Streams(image=torch.zeros(1, 1, 2, 2), pseudo_label=torch.full((1, 1, 2, 2), 2))
    known.streams = {"labelled": given}
    torch.manual_seed(0)
    assert set(CopyPaste(lambda image: image)(known)["mixed_label"].flatten().tolist()) == {-1, 1}
    given["annotated"] = torch.tensor([[True, True, True]])
    assert 0 in CopyPaste(lambda image: image)(known)["mixed_label"]


def test_check_tells_how_many_cases_lack_classes(tmp_path, phantom):
    path = listed(tmp_path, phantom, {2: ["organ"], 4: ["nodule"]})
    done = fewmask("check", path)
    assert done.returncode == 0, done.stderr
    assert "not every class in 2 cases" in done.stdout
