"""The page as HTML: what is in it, and that nothing in it can act."""

import base64
import hashlib
import itertools
import json
import re
import zlib
from html.parser import HTMLParser

import numpy as np
import pytest
from report_fixtures import HOSTILE, blob_case, make_report, result

from pipeline.reports.axes import COLOURS
from pipeline.reports.columns import METRICS
from pipeline.reports.html import asset
from pipeline.reports.label_tables import palette
from pipeline.reports.page import Origin, as_json, rank, verdict, write_report
from pipeline.reports.summary import summarise
from pipeline.reports.volumes import Gallery
from pipeline.types import CaseResult


class Page(HTMLParser):
    """Elements with their attributes, and the text of each."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append([tag, dict(attrs), ""])
        self.open.append(self.elements[-1])

    def handle_endtag(self, tag):
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        for element in self.open:
            element[2] += data

    def all(self, tag):
        return [element for element in self.elements if element[0] == tag]

    def by_id(self, name):
        (found,) = [element for element in self.elements if element[1].get("id") == name]
        return found

    @property
    def data(self):
        return json.loads(self.by_id("data")[2])


def page_of(path):
    return Page(path.read_text(encoding="utf-8"))


def test_the_one_script_and_the_one_style_are_those_that_the_policy_names(tmp_path):
    page = page_of(make_report(tmp_path, ["a", "b"]))
    (policy,) = [meta[1]["content"] for meta in page.all("meta") if "http-equiv" in meta[1]]
    scripts = [element for element in page.all("script") if "type" not in element[1]]
    assert len(scripts) == len(page.all("style")) == 1
    for rule, element in (("script-src", scripts[0]), ("style-src", page.all("style")[0])):
        digest = base64.b64encode(hashlib.sha256(element[2].encode()).digest()).decode()
        assert f"{rule} 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert "http" not in policy


def test_nothing_is_loaded_and_no_attribute_acts(tmp_path):
    page = page_of(make_report(tmp_path, HOSTILE))
    for tag, attributes, _ in page.elements:
        assert tag not in {"iframe", "object", "embed", "form", "base", "img", "video", "audio"}
        assert not [name for name in attributes if name.startswith("on") or name in {"style", "srcdoc", "src"}], tag
        assert re.fullmatch(r"#[a-z-]+|data:,", attributes.get("href", "#a"))


def test_hostile_names_add_no_element_and_change_none(tmp_path):
    tame = [f"case {n:03d}" for n in range(len(HOSTILE))]
    hostile, quiet = (page_of(make_report(tmp_path, names, labels)) for names, labels in (
        (HOSTILE, {0: "background", 1: HOSTILE[0], 2: HOSTILE[1]}),
        (tame, {0: "background", 1: "organ", 2: "nodule"}),
    ))  # fmt: skip
    kinds = [sorted(element[0] for element in page.elements) for page in (hostile, quiet)]
    assert kinds[0] == kinds[1]
    assert len(HOSTILE) == len(set(HOSTILE)) == 100
    # The page carries every name as it is, and lone surrogates as their escapes.
    assert {case["id"] for case in hostile.data["cases"]} == set(HOSTILE)
    assert [entry["name"] for entry in hostile.data["classes"]] == HOSTILE[:2]


def test_json_cannot_end_its_element():
    text = str(as_json({"</script><!--": "&\u2028"}))
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"</script><!--": "&\u2028"}


def test_a_case_comes_back_out_of_the_page(tmp_path):
    image, truth, prediction, affine = blob_case(0)
    page = page_of(make_report(tmp_path, ["a"]))
    (about,) = page.data["volumes"]
    packed = zlib.decompress(base64.b64decode(page.by_id("volume-0")[2]))
    grey, *masks = np.frombuffer(packed, np.uint8).reshape(3, *reversed(about["shape"])).transpose(0, 3, 2, 1)
    np.testing.assert_array_equal(masks, [truth, prediction])
    assert np.corrcoef(grey.ravel(), image.ravel())[0, 1] > 0.97
    assert about["spacing_mm"] == pytest.approx(np.diag(affine)[:3])


def test_rows_hold_every_number_of_the_results_and_the_worst_case_comes_first(tmp_path):
    page = page_of(make_report(tmp_path, ["good", "bad"], dice={"good": 0.9, "bad": 0.2}))
    data = page.data
    assert [case["id"] for case in data["cases"]] == ["bad", "good"]
    keys = [metric["key"] for metric in data["metrics"]]
    case, place, outcome, values = data["rows"][0]
    assert (data["cases"][case]["id"], data["classes"][place]["name"], outcome) == ("good", "organ", "scored")
    assert dict(zip(keys, values, strict=True))["dice"] == 0.9


def test_ranking_is_by_the_mean_over_classes_and_cases_without_a_number_are_last():
    rows = [result("b", 1, 0.5), result("b", 2, 0.7), result("n", 1, None, "absent"), result("a", 1, 0.4)]
    assert list(rank(rows)) == ["a", "b", "n"]
    assert rank(rows)["b"] == pytest.approx(0.6)


def test_verdict_says_what_the_summary_holds():
    rows = [result("a", 1, 0.9), result("b", 1, 0.7), result("a", 2, 0.0, "missed"), result("b", 2, 0.8)]
    told = {card.question: (card.figure, card.text) for card in verdict(summarise(rows), rank(rows))}
    assert told["How good?"][0] == "0.600"
    assert told["Where does it fail?"][0] == "1 failure"
    assert "1 structure missed, 0 invented" in told["Where does it fail?"][1]
    assert told["What to look at?"][0] == "a"


def test_two_patients_are_too_few_to_say_how_sure(tmp_path):
    page = page_of(make_report(tmp_path, ["a", "b"]))
    rows = [element[2] for element in page.all("tr") if element[2].startswith(("organ", "nodule"))]
    assert len(rows) == 2
    assert all("too few to say" in row for row in rows)
    (card,) = [
        element for element in page.all("div") if element[1].get("class") == "card" and "How sure?" in element[2]
    ]
    assert "too few to say" in card[2]
    assert "2 patients, and an interval needs 6; score more; fewmask train --folds N scores all with a mask" in card[2]
    assert "95 % interval of" not in card[2]


def test_six_patients_have_an_interval_in_card_and_table(tmp_path):
    page = page_of(make_report(tmp_path, list("abcdef")))
    (card,) = [
        element for element in page.all("div") if element[1].get("class") == "card" and "How sure?" in element[2]
    ]
    assert "95 % interval of the mean Dice over 6 patients" in card[2]
    assert "too few" not in "".join(element[2] for element in page.all("tr"))


def test_columns_are_explained_where_they_stand(tmp_path):
    rows = [result(name, 1, 0.5, surface_dice=0.8, volume_difference=0.1) for name in "ab"]
    write_report(tmp_path, rows, summarise(rows), Origin(title="x", tolerance_mm=1.5))
    page = page_of(tmp_path / "report.html")
    notes = page.by_id("notes")[2]
    assert "2 (predicted − true) / (predicted + true)" in notes
    assert "Surface Dice (1.5 mm)" in notes
    (head,) = [element[2] for element in page.all("thead") if "Missed" in element[2]]
    assert "Surface Dice (1.5 mm)" in head
    assert "share of both surfaces within 1.5 mm of the other" in page.by_id("classes-note")[2]
    told = {metric["title"]: metric["note"] for metric in page.data["metrics"]}
    assert told["Surface Dice (1.5 mm)"] in notes


def lab(rgb):
    """CIE L*a*b* of sRGB, in which equal distances look equally far."""
    linear = np.array(rgb) / 255
    linear = np.where(linear <= 0.04045, linear / 12.92, ((linear + 0.055) / 1.055) ** 2.4)
    xyz = linear @ np.array([[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]])
    x, y, z = np.cbrt(xyz / [0.9505, 1, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_errors_have_colours_that_no_class_has_on_page_and_canvas():
    sheet, script = asset("report.css"), asset("viewer.js")
    hexes = dict(re.findall(r"--(\w+): #(\w{6});", sheet))
    colour = {name: tuple(bytes.fromhex(code)) for name, code in hexes.items()}
    classes = [colour[f"k{n}"] for n in range(COLOURS["k"])]
    errors = [colour[name] for name in ("missed", "extra", "swapped")]
    lines = [line for line in script.splitlines() if line.startswith(("const COLOURS", "const MISSED"))]
    painted = [tuple(map(int, found)) for line in lines for found in re.findall(r"\[(\d+), (\d+), (\d+)\]", line)]
    assert painted == classes + errors
    for n, error in enumerate(errors):
        others = [*classes, *errors[:n]]
        assert min(np.linalg.norm(lab(error) - lab(other)) for other in others) > 35


# Machado et al. 2009, doi:10.1109/TVCG.2009.113: linear RGB as it is seen without red- or green-sensitive cones.
EYES = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}


def seen(rgb, eyes):
    linear = np.array(rgb) / 255
    linear = np.where(linear <= 0.04045, linear / 12.92, ((linear + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.array(eyes) @ linear, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("eyes", [np.eye(3), *EYES.values()], ids=["all cones", *EYES])
def test_twelve_classes_are_told_apart_by_every_eye(eyes):
    colours = [seen(tuple(bytes.fromhex(code[1:])), eyes) for code in palette()]
    assert len(colours) == COLOURS["k"] == 12
    # The first seven are Okabe and Ito's, chosen for this; the others are no nearer to any than these to each other.
    least = min(np.linalg.norm(lab(a) - lab(b)) for a, b in itertools.combinations(colours[:7], 2))
    assert least > 15
    assert min(np.linalg.norm(lab(a) - lab(b)) for a, b in itertools.combinations(colours, 2)) > 15


def test_a_report_without_any_number_opens(tmp_path):
    rows = [result("a", 1, None, "absent")]
    write_report(tmp_path, rows, summarise(rows), Origin(title="empty"))
    assert "No class has a number" in (tmp_path / "report.html").read_text()
    write_report(tmp_path, [], summarise([]), Origin(title="nothing"))
    assert page_of(tmp_path / "report.html").data["rows"] == []


def test_cases_that_do_not_fit_are_the_best_and_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.reports.volumes.PAGE_BYTES", 50_000)
    monkeypatch.setattr("pipeline.reports.volumes.LEAST_BYTES", 24_000)
    page = page_of(make_report(tmp_path, list("abc"), dice={"a": 0.9, "b": 0.1, "c": 0.5}))
    assert [page.data["cases"][volume["case"]]["id"] for volume in page.data["volumes"]] == ["b", "c"]
    assert any("the 1 best cases have no picture" in element[2] for element in page.all("p"))


def test_every_field_that_is_a_number_has_a_column():
    keys = {metric.key for metric in METRICS}
    fields = {name for name, kind in CaseResult.__annotations__.items() if "float" in kind or "int" in kind} - {
        "label",
        "more",
    }
    assert fields == keys


def test_an_error_while_writing_leaves_the_old_page(tmp_path):
    path = make_report(tmp_path, ["a"])
    before = path.read_bytes()
    broken = Gallery(n_cases=1, labels={1: "organ"})
    broken.add("a", *blob_case(0))
    broken.spool.close()
    with pytest.raises(ValueError, match="closed"):
        write_report(tmp_path, [result("a", 1, 0.5)], summarise([result("a", 1, 0.5)]), Origin(title="x"), broken)
    assert path.read_bytes() == before
