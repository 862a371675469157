"""The page of predictions without a truth: what it says, that nothing in it acts, and how it looks in a browser."""

import csv

import numpy as np
import pytest
from report_fixtures import HOSTILE, blob_case
from runs_fixtures import make_phantom, train
from scipy.stats import median_abs_deviation
from test_report_page import page_of

from pipeline import runs
from pipeline.reports.page import Origin
from pipeline.reports.predictions import Structure, rank, robust_z, scores_of, write_predictions
from pipeline.reports.volumes import Gallery
from pipeline.runs.beside import Beside

LABELS = {1: "organ", 2: "nodule"}


def structures_of(names, volumes=None, labels=LABELS):
    """Structures of 1 ml and a little more each, and less sure the later they come."""
    found = []
    for n, name in enumerate(names):
        for label, title in labels.items():
            ml = (volumes or {}).get((name, label), 1 + 0.01 * (n % 5))
            dice = 0.9 - 0.02 * n if ml else 0.0
            found.append(
                Structure(case=name, label=label, name=title, voxels=round(ml * 100), volume_ml=ml, dice_expected=dice)
            )
    return found


def page(folder, names, volumes=None, labels=LABELS, pictures=True):
    gallery = Gallery(n_cases=len(names), labels={0: "background", **labels})
    for n, name in enumerate(names if pictures else ()):
        image, _, prediction, affine = blob_case(n)
        gallery.add(name, image, np.zeros_like(prediction), prediction, affine)
    write_predictions(folder / "report.html", structures_of(names, volumes, labels), Origin(title="masks"), gallery)
    return folder / "report.html"


@pytest.mark.parametrize("seed", range(20))
def test_robust_z_is_by_the_median_absolute_deviation(seed):
    values = np.random.default_rng(seed).gamma(2, 5, size=8 + seed)
    expected = (values - np.median(values)) / median_abs_deviation(values, scale="normal")
    np.testing.assert_allclose(robust_z(values.tolist()), expected, rtol=1e-4)


@pytest.mark.parametrize("values", [[], [1.0] * 7, list(range(7)), [1.0] * 8, [1, 1, 1, 1, 1, 2, 3, 9]])
def test_too_few_volumes_or_equal_ones_are_not_compared(values):
    assert robust_z(values) == [None] * len(values)


def test_volumes_are_compared_among_the_masks_that_have_the_structure():
    names = [f"m{n}" for n in range(9)]
    volumes = {("m3", 1): 50.0, ("m0", 2): 0.0, ("m1", 2): 0.0}
    scores = scores_of(structures_of(names, volumes))
    assert scores["m3", 1] > 3.5
    assert all(abs(z) < 3.5 for (name, label), z in scores.items() if label == 1 and name != "m3")
    assert {name: z for (name, label), z in scores.items() if label == 2} == dict.fromkeys(names[2:])


def test_least_sure_mask_comes_first_and_one_without_a_structure_is_less_sure():
    ranked = rank(structures_of(["a", "b", "c"], {("a", 2): 0.0}))
    assert list(ranked) == ["a", "c", "b"]
    assert ranked["a"] == pytest.approx(0.45)


def test_page_names_the_least_sure_and_those_that_are_unlike_the_others(tmp_path):
    names = [f"m{n}" for n in range(9)]
    found = page_of(page(tmp_path, names, {("m3", 1): 50.0, ("m5", 2): 0.0}))
    cards = [card[2].split("\n") for card in found.all("div") if card[1].get("class") == "card"]
    said = [" ".join(part.strip() for part in card).strip() for card in cards]
    assert said[0] == "How many? 9 masks none of them is empty"
    assert said[1].startswith("What to look at? m5 the least sure mask")
    assert said[3] == "Which are unlike the others? 1 volume m3"
    data = found.data
    assert [case["id"] for case in data["cases"]][:2] == ["m5", "m8"]
    assert len(data["volumes"]) == 9
    outcomes = {(data["cases"][row[0]]["id"], data["classes"][row[1]]["name"]): row[2] for row in data["rows"]}
    assert outcomes["m3", "organ"] == "unlike"
    assert outcomes["m5", "nodule"] == "absent"
    assert sorted(outcomes.values()).count("present") == 16
    assert "Truth" not in [each[2] for each in found.all("legend")]


def test_page_of_few_masks_says_that_it_does_not_compare_them(tmp_path):
    text = page(tmp_path, ["a", "b"], {("a", 1): 900.0}, pictures=False).read_text(encoding="utf-8")
    assert "too few to say" in text
    assert "compared with each other from 8 masks on" in text
    assert '"unlike",' not in page_of(tmp_path / "report.html").by_id("data")[2].partition('"rows"')[2]


def test_hostile_names_are_text(tmp_path):
    found = page_of(page(tmp_path, HOSTILE, labels={1: HOSTILE[1], 2: HOSTILE[2]}))
    assert {case["id"] for case in found.data["cases"]} == set(HOSTILE)
    assert not found.all("img") + found.all("iframe")
    assert len([each for each in found.all("script") if each[1].get("type") is None]) == 1


@pytest.fixture(scope="module")
def predicted(tmp_path_factory):
    """A folder of predictions with its report, of which one mask was there before."""
    folder = tmp_path_factory.mktemp("page")
    data = make_phantom(folder / "phantom", labelled=3, unlabelled=8)
    run = train(folder, data, "run", max_steps=20, validate_every=20)
    scans = sorted((data / "imagesTs").glob("*.nii.gz"))
    runs.predict(run, scans[:1], folder / "masks", beside=Beside(report=True))
    runs.predict(run, scans, folder / "masks", beside=Beside(report=True))
    return folder / "masks"


def test_report_of_a_prediction_has_every_mask_its_volumes_and_its_picture(predicted):
    data = page_of(predicted / "report.html").data
    with (predicted / "volumes.csv").open(newline="") as stream:
        rows = {(row["mask"].removesuffix(".nii.gz"), row["name"]): row for row in csv.DictReader(stream)}
    assert len(data["rows"]) == len(rows) == 16
    for place, label, _, (dice, ml, _, voxels) in data["rows"]:
        row = rows[data["cases"][place]["id"], data["classes"][label]["name"]]
        assert (voxels, ml) == (int(row["voxels"]), pytest.approx(float(row["volume_ml"])))
        assert 0 <= dice <= 1
    means = [case["dice"] for case in data["cases"]]
    assert means == sorted(means)
    assert sorted(volume["case"] for volume in data["volumes"]) == list(range(8))


def test_report_says_nothing_of_where_the_files_are(predicted):
    assert str(predicted.parent) not in (predicted / "report.html").read_text(encoding="utf-8")
