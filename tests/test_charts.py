import math
import xml.etree.ElementTree as ElementTree

import pytest
from report_fixtures import HOSTILE, result

from pipeline.reports import charts
from pipeline.reports.axes import shorten
from pipeline.reports.charts import Scale, curves, distribution, scale_around, scatter
from pipeline.reports.columns import METRICS
from pipeline.reports.paired_charts import differences, paired

METRIC = {metric.key: metric for metric in METRICS}
RESULTS = [
    *(result(f"c{n}", label, 0.6 + 0.03 * n - 0.1 * label) for n in range(9) for label in (1, 2)),
    result("lost", 1, 0.0, "missed"),
    result("lost", 2, None, "absent"),
]
PLACES = {name: n for n, name in enumerate([*(f"c{n}" for n in range(9)), "lost"])}


def elements(drawing, kind):
    tree = ElementTree.fromstring(str(drawing))
    return [node for node in tree.iter() if kind in node.get("class", "").split()]


def test_every_case_with_a_number_is_a_dot_and_every_failure_a_cross():
    drawing = distribution(RESULTS, METRIC["dice"], PLACES)
    assert len(elements(drawing, "dot")) == 18
    (cross,) = elements(drawing, "fail")
    assert cross.get("data-case") == str(PLACES["lost"])
    assert "lost: 0.000" in "".join(cross.itertext())


def test_dots_and_box_lie_where_their_values_are():
    values = [0.5, 0.6, 0.7, 0.8, 0.9]
    rows = [result(str(n), 1, value) for n, value in enumerate(values)]
    drawing = distribution(rows, METRIC["dice"], {str(n): n for n in range(5)})
    places = {int(dot.get("data-case")): float(dot.get("cx")) for dot in elements(drawing, "dot")}
    step = places[1] - places[0]
    assert [places[n] for n in range(5)] == pytest.approx([places[0] + n * step for n in range(5)], abs=0.2)
    (box,), (median,) = elements(drawing, "box"), elements(drawing, "median")
    assert float(box.get("x")) == places[1]
    assert float(box.get("width")) == pytest.approx(places[3] - places[1], abs=0.2)
    assert float(median.get("x1")) == places[2]


@pytest.mark.parametrize(("n", "boxes"), [(1, 0), (2, 0), (4, 0), (5, 1)])
def test_a_few_cases_are_points_and_no_box(n, boxes):
    rows = [result(str(case), 1, 0.5 + 0.05 * case) for case in range(n)]
    drawing = distribution(rows, METRIC["dice"], {str(case): case for case in range(n)})
    assert len(elements(drawing, "dot")) == n
    assert [len(elements(drawing, kind)) for kind in ("box", "median", "whisker")] == [boxes] * 3


def test_names_that_differ_at_their_ends_stay_different():
    names = ["left_upper_lobe_of_the_lung", "left_upper_lobe_of_the_liver", "right_upper_lobe_of_the_lung"]
    assert len({shorten(name, most) for name in names for most in [18]}) == 3
    for most in (8, 9, 18, 30):
        assert all(len(shorten(name * 3, most)) == most for name in names)
    assert shorten("organ", 8) == "organ"


def test_means_count_failures():
    text = "".join(ElementTree.fromstring(str(distribution(RESULTS, METRIC["dice"], PLACES))).itertext())
    assert f"mean {sum(0.5 + 0.03 * n for n in range(9)) / 10:.3f}" in text


@pytest.mark.parametrize("values", [[0.5], [0.5, 0.5], [0, 1], [1, 1e4], [-2, 2], [1e-9, 2e-9], [1e6, 1e6]])
def test_scales_hold_their_values_and_have_ticks(values):
    scale = scale_around(values, 0, 100)
    assert all(scale.low <= value <= scale.high for value in values)
    assert 2 <= len(scale.ticks) <= 9
    assert all(math.isfinite(scale(value)) for value in values)


def test_logarithmic_scale_gives_each_power_of_ten_the_same_room():
    scale = Scale(low=1, high=1000, start=0, end=300, log=True)
    assert [scale(value) for value in (1, 10, 100, 1000, 5000, 0)] == [0, 100, 200, 300, 300, 0]
    assert scale.ticks == [1, 10, 100, 1000]


def test_scatter_has_a_dot_a_structure_and_skips_those_without_a_size():
    rows = [
        result("a", 1, 0.5, voxels_truth=10),
        result("b", 1, 0.9, voxels_truth=500),
        result("c", 1, 0.0, "false_positive", voxels_truth=0),
    ]
    drawing = scatter(rows, METRIC["voxels_truth"], METRIC["dice"], {"a": 0, "b": 1, "c": 2})
    assert [dot.get("data-case") for dot in elements(drawing, "dot")] == ["0", "1"]


def test_long_curves_are_thinned_out_and_keep_their_ends():
    drawing = curves({"loss": [(n, 1 / n) for n in range(1, 100_001)], "dice": []}, "Loss", "loss")
    (line,) = elements(drawing, "curve")
    assert line.get("d").count("L") < charts.POINTS
    assert curves({"loss": []}, "Loss", "loss") == ""


def test_names_are_text():
    for name in HOSTILE:
        if "\x00" in name or "\x1b" in name or "\udcff" in name:
            continue  # no XML parser takes these; browsers do
        drawing = distribution([result(name, 1, 0.5, name=name)], METRIC["dice"], {name: 0})
        tree = ElementTree.fromstring(str(drawing))
        assert {node.tag.split("}")[1] for node in tree.iter()} <= {"svg", "text", "line", "circle", "title", "rect"}


def test_a_pair_lies_where_both_sides_say_and_above_the_diagonal_where_b_is_better():
    a = [result("c0", 1, 0.6), result("c1", 1, 0.8), result("lost", 1, 0.0, "missed")]
    b = [result("c0", 1, 0.7), result("c1", 1, 0.8), result("lost", 1, 0.9)]
    drawing = paired(a, b, {"c0": 0, "c1": 1, "lost": 2})
    (diagonal,) = elements(drawing, "gap")
    ends = {end: float(diagonal.get(end)) for end in ("x1", "y1", "x2", "y2")}
    slope = (ends["y2"] - ends["y1"]) / (ends["x2"] - ends["x1"])
    above = {
        dot.get("data-case"): ends["y1"] + slope * (float(dot.get("cx")) - ends["x1"]) - float(dot.get("cy"))
        for dot in elements(drawing, "dot")
    }
    assert above == {
        "0": pytest.approx(-slope * (ends["x2"] - ends["x1"]) * 0.1, abs=0.3),
        "1": pytest.approx(0, abs=0.3),
    }
    assert len(elements(drawing, "fail")) == 1


def test_differences_lie_beside_the_line_of_none_with_their_intervals():
    drawing = differences([("organ", 0.1, (0.05, 0.2)), ("nodule", None, None)], "Difference")
    (zero,), (dot,), (interval,) = (elements(drawing, kind) for kind in ("gap", "dot", "interval"))
    places = [float(zero.get("x1")), float(interval.get("x1")), float(dot.get("cx")), float(interval.get("x2"))]
    assert places == sorted(places)
    assert places[2] - places[0] == pytest.approx(2 * (places[1] - places[0]), abs=0.2)


def test_too_few_patients_have_words_in_place_of_the_interval():
    drawing = differences([("organ", 0.1, None)], "Difference")
    assert elements(drawing, "interval") == []
    assert len(elements(drawing, "dot")) == 1
    assert "too few to say" in "".join(ElementTree.fromstring(str(drawing)).itertext())
