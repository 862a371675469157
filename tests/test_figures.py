"""The figures as files: each in two formats, whole in themselves, and those of the page."""

import re
import struct
import xml.etree.ElementTree as ElementTree

import pytest
from report_fixtures import HOSTILE, blob_case, result

from pipeline.reports.axes import legend
from pipeline.reports.comparison import compare_results
from pipeline.reports.figures import (
    OTHER_FIGURES,
    QUESTIONS,
    figure_of_cases,
    figures_of_cases,
    figures_of_comparison,
    figures_of_groups,
    figures_of_training,
    standalone,
    write_figures,
)
from pipeline.reports.groups import Group, compare_groups
from pipeline.reports.volumes import Gallery

CALIBRATION = {
    "ece": 0.031,
    "voxels": 300,
    "curve": [
        {"low": 0.6, "high": 0.67, "voxels": 100, "confidence": 0.65, "accuracy": 0.5},
        {"low": 0.93, "high": 1.0, "voxels": 200, "confidence": 0.98, "accuracy": 0.97},
    ],
}


def figures(names=("a", "b", "c"), labels=("organ", "nodule")):
    rows = [
        result(name, label + 1, 0.5 + 0.1 * label, name=labels[label], hd95_mm=2.0, volume_truth_ml=0.5 + n)
        for n, name in enumerate(names)
        for label in range(2)
    ]
    curves = {"dice": [(1, 0.9), (2, 0.5)], "loss": [(1, 1.0), (2, 0.6)]}
    return [
        *figures_of_cases(rows, {name: n for n, name in enumerate(names)}, CALIBRATION),
        *figures_of_training(curves, [(1, 0.4), (2, 0.6)]),
    ]


def test_each_figure_is_a_png_and_an_svg(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.reports.figures.ZOOM", 3)
    write_figures(tmp_path, figures())
    names = {"dice", "hd95_mm", "size", "reliability", "validation", "loss"}
    assert names < {*QUESTIONS, *OTHER_FIGURES}
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        f"{name}.{kind}" for name in names for kind in ("svg", "png")
    }
    for name in names:
        drawing = ElementTree.parse(tmp_path / "figures" / f"{name}.svg").getroot()
        image = (tmp_path / "figures" / f"{name}.png").read_bytes()
        assert image.startswith(b"\x89PNG")
        size = struct.unpack(">II", image[16:24])
        assert size == pytest.approx([3 * float(drawing.get(side)) for side in ("width", "height")], abs=2)
        assert size[0] > 1200


AXES = {
    "dice": ["Dice"],
    "hd95_mm": ["HD95 (mm)"],
    "surface_dice": ["Surface Dice (2 mm)"],
    "volume_difference": ["Volume difference"],
    "size": ["True volume (ml)", "Dice"],
    "reliability": ["probability of the label that was given", "share of right voxels"],
    "validation": ["step", "mean Dice"],
    "loss": ["step", "loss"],
    "difference": ["Dice of B − Dice of A"],
    "trainings": ["mean Dice of a training"],
    "paired": ["Dice of A", "Dice of B"],
    "cases": ["5 mm"],
}


def test_every_axis_has_its_title_and_unit_and_every_figure_a_title():
    sides = [
        [
            result(
                name, 1, dice + 0.1 * side, hd95_mm=2.0, surface_dice=0.8, volume_difference=0.1, volume_truth_ml=dice
            )
            for name, dice in (("a", 0.5), ("b", 0.6))
        ]
        for side in range(2)
    ]
    places = {"a": 0, "b": 1}
    drawn = [
        *figures_of_cases(sides[0], places, CALIBRATION, tolerance_mm=2.0),
        *figures_of_training({"dice": [(1, 0.9), (2, 0.5)]}, [(1, 0.4), (2, 0.6)]),
        *figures_of_comparison(compare_results(*sides, "one", "two"), *sides, places),
    ]
    groups = [Group(name=name, trainings=[side] * 3, seeds=range(3)) for name, side in zip("ab", sides, strict=True)]
    dice = [("A: a", [0.5, 0.6, 0.7]), ("B: b", [0.6, 0.7])]
    drawn += figures_of_groups(compare_groups(*groups), *sides, dice, places)
    gallery = Gallery(n_cases=2, labels={0: "background", 1: "organ", 2: "nodule"})
    for n, name in enumerate(places):
        gallery.add(name, *blob_case(n))
    drawn += figure_of_cases(gallery, {"a": 0.5, "b": 0.6}, ["organ", "nodule"])
    assert {figure.name for figure in drawn} == AXES.keys() == {*QUESTIONS, *OTHER_FIGURES}
    for figure in drawn:
        tree = ElementTree.fromstring(standalone(figure.drawing))
        words = [node.text for node in tree.iter() if node.tag.endswith("}text")]
        assert set(AXES[figure.name]) <= set(words), figure.name
        assert tree.get("aria-label") == words[0] != ""
        height = float(tree.get("viewBox").split()[3])
        assert all(-20 <= float(node.get("y")) <= height for node in tree.iter() if node.tag.endswith("}text"))


def test_captions_say_what_the_metric_is():
    rows = [result("a", 1, 0.5, surface_dice=0.8, volume_difference=0.1)]
    captions = {figure.name: figure.caption for figure in figures_of_cases(rows, {"a": 0}, tolerance_mm=0.5)}
    assert "share of both surfaces within 0.5 mm of the other" in captions["surface_dice"]
    assert "2 (predicted − true) / (predicted + true)" in captions["volume_difference"]


def test_a_file_needs_nothing_from_elsewhere(tmp_path):
    for figure in figures():
        text = standalone(figure.drawing)
        assert "var(" not in text
        assert "light-dark" not in text
        assert not re.search(r"href|url\(|<script|@import", text)
        style = ElementTree.fromstring(text).find("{http://www.w3.org/2000/svg}style").text
        used = set(re.findall(r'class="([^"]+)"', text))
        for name in {word for words in used for word in words.split()} - {"tick", "dot"}:
            assert f".{name}" in style, name


def test_a_png_shows_more_than_white(tmp_path):
    import matplotlib.image

    write_figures(tmp_path, figures())
    for path in (tmp_path / "figures").glob("*.png"):
        pixels = matplotlib.image.imread(path)[..., :3]
        assert 0.005 < (pixels.min(axis=2) < 0.8).mean() < 0.5, path.name
        assert pixels[0, 0].tolist() == [1, 1, 1]
        # Blue, which every figure of these has, is in no text or grid.
        assert ((pixels[..., 2] - pixels[..., 0]) > 0.3).any(), path.name


def test_figures_of_an_earlier_report_go_and_other_files_stay(tmp_path):
    write_figures(tmp_path, figures())
    (tmp_path / "figures" / "mine.png").write_text("kept")
    write_figures(tmp_path, figures()[:1])
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["dice.png", "dice.svg", "mine.png"]


def test_hostile_names_are_text(tmp_path):
    write_figures(tmp_path, figures(HOSTILE, HOSTILE[:2]))
    for path in (tmp_path / "figures").glob("*.svg"):
        tags = {node.tag.rpartition("}")[2] for node in ElementTree.parse(path).iter()}
        assert tags <= {"svg", "style", "rect", "line", "path", "circle", "text", "title"}


def test_the_reliability_curve_is_where_its_numbers_are():
    (figure,) = [figure for figure in figures() if figure.name == "reliability"]
    assert "0.031 over the 300 voxels" in figure.caption
    tree = ElementTree.fromstring(str(figure.drawing))
    first, second = [node for node in tree.iter() if node.get("class") == "dot"]
    # Surer than right is below the diagonal, and a larger bin is a larger dot.
    (diagonal,) = [node for node in tree.iter() if node.get("class") == "gap"]
    slope = (float(diagonal.get("y2")) - float(diagonal.get("y1"))) / (
        float(diagonal.get("x2")) - float(diagonal.get("x1"))
    )
    on_line = float(diagonal.get("y1")) + slope * (float(first.get("cx")) - float(diagonal.get("x1")))
    assert float(first.get("cy")) > on_line + 5
    assert float(second.get("r")) > float(first.get("r"))


def test_without_a_voxel_in_doubt_there_is_no_reliability():
    rows = [result("a", 1, 0.5)]
    empty = {"ece": None, "voxels": 0, "curve": []}
    assert "reliability" not in {figure.name for figure in figures_of_cases(rows, {"a": 0}, empty)}


def test_a_legend_breaks_into_rows_and_stops():
    assert legend([], "k", 0)[1] == 0
    one, two = legend(["organ"], "k", 0)[1], legend(["a long name of an organ"] * 4, "k", 0)[1]
    assert one == 16 < two
    assert str(legend([f"c{n}" for n in range(60)], "k", 0)[0]).count("<rect") == 15
