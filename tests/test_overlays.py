"""The figure of cases: which they are, and that it shows the voxels where they are."""

import base64
import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
import resvg_py
from PIL import Image
from report_fixtures import LABELS, blob_case

from pipeline.reports.figures import figure_of_cases, standalone
from pipeline.reports.overlays import _edges, _png, _runs, chosen, overlay
from pipeline.reports.volumes import IGNORED, pack

NAMES = ["organ", "nodule"]


def drawn(*cases, names=NAMES):
    return overlay(cases, {about.case: 0.5 for about, _ in cases}, names)


def picture(drawing, zoom=2):
    """The drawing as pixels; the corner of the first square is at pixel (12, 0) times the zoom."""
    svg = standalone(drawing)
    image = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg, zoom=zoom)))).convert("RGB")
    return np.asarray(image)[30 * zoom :, 10 * zoom :]


def test_worst_median_and_best_are_chosen_and_all_of_two():
    ranked = {f"c{n}": n / 10 for n in range(7)} | {"none": None}
    assert chosen(ranked) == ["c0", "c3", "c6"]
    assert chosen({"a": 0.1, "b": 0.2, "none": None}) == ["a", "b"]
    assert chosen({"none": None}) == []


def test_png_is_one():
    grey = np.random.default_rng(0).integers(0, 256, (7, 5), dtype=np.uint8)
    with Image.open(io.BytesIO(_png(grey))) as image:
        np.testing.assert_array_equal(np.asarray(image), grey)


@pytest.mark.parametrize("seed", range(5))
def test_stripes_cover_the_voxels_and_edges_go_round_them(seed):
    mask = np.random.default_rng(seed).random((6, 8)) < 0.4
    stripes = re.findall(r"M(\S+) (\S+)H(\S+)v(\S+)H", _runs(mask, 0, 0, 2, 3))
    found = np.zeros((18, 16), bool)
    for left, top, right, high in (map(float, stripe) for stripe in stripes):
        found[int(top) : int(top + high), int(left) : int(right)] = True
    np.testing.assert_array_equal(found, mask.repeat(3, axis=0).repeat(2, axis=1))
    padded = np.pad(mask, 1).astype(int)
    edges = abs(np.diff(padded, axis=0)).sum(), abs(np.diff(padded, axis=1)).sum()
    path = _edges(mask, 0, 0, 2, 3)
    assert (path.count("h2.00"), path.count("v3.00")) == edges


def test_a_voxel_on_the_patients_right_in_front_is_seen_in_the_upper_left():
    truth = np.zeros((20, 20, 3), np.uint8)
    truth[17, 18, 1] = 1  # near the right and the front: the axes run to right, anterior and superior
    about, block = pack("a", np.zeros(truth.shape), truth, np.zeros_like(truth), np.diag([2.0, 2.0, 2.0, 1.0]))
    pixels = picture(drawn((about, block.decode())))
    square = pixels[: 2 * 140, 24 : 24 + 2 * 140].astype(int)
    rows, columns = np.nonzero(square[..., 0] - square[..., 2] > 60)  # orange on black
    # The third voxel from the left and the second from above, of twenty on 280 pixels.
    assert (columns.min(), columns.max()) == pytest.approx((28, 41), abs=2)
    assert (rows.min(), rows.max()) == pytest.approx((14, 27), abs=2)


def test_millimetres_are_square_and_a_single_slice_is_seen_from_where_it_is_one():
    truth = np.zeros((10, 1, 30), np.uint8)
    truth[2:8, 0, 3:27] = 1
    about, block = pack("a", None, truth, truth, np.diag([3.0, 1.0, 1.0, 1.0]))
    (fill,) = [
        node.get("d")
        for node in ElementTree.fromstring(str(drawn((about, block.decode())))).iter()
        if (node.get("class") or "").startswith("fill")
    ]
    stripes = np.array(re.findall(r"M(\S+) (\S+)H(\S+)v(\S+)H", fill), float)
    wide, high = stripes[0][2] - stripes[0][0], stripes[:, 3].sum()
    assert wide / high == pytest.approx(6 * 3 / 24, abs=0.01)


def test_legend_has_the_classes_that_are_there_in_their_own_colours():
    truth = np.zeros((8, 8, 4), np.uint8)
    truth[2:4, 2:4, 1] = 2
    truth[5, 5, 1] = IGNORED
    about, block = pack("a", None, truth, truth, np.eye(4))
    drawing = str(drawn((about, block.decode())))
    assert "nodule" in drawing
    assert ">organ<" not in drawing
    assert re.findall(r'class="key (k\d+)"', drawing) == ["k1"]


def test_figure_has_names_dice_and_needs_nothing_from_elsewhere():
    from pipeline.reports.volumes import Gallery

    gallery = Gallery(n_cases=4, labels=LABELS)
    ranked = {f"sub-{n:03d}<b>": 0.2 * n for n in range(4)} | {"without a picture": 0.9}
    for n, name in enumerate(list(ranked)[:4]):
        gallery.add(name, *blob_case(n))
    (figure,) = figure_of_cases(gallery, ranked, NAMES)
    text = standalone(figure.drawing)
    words = [node.text for node in ElementTree.fromstring(text).iter() if node.tag.endswith("}text")]
    assert {"sub-000<b>", "sub-001<b>", "sub-003<b>", "mean Dice 0.600"} <= set(words)
    assert words[0] == "The worst, the median and the best case"
    for link in re.findall(r'href="([^"]{30})', text):
        assert link.startswith("data:image/png;base64,")
    assert list(figure_of_cases(Gallery(n_cases=1, labels=LABELS), {"a": 0.5}, NAMES)) == []
    assert base64.b64decode(re.search(r"base64,([^\"]+)", text)[1]).startswith(b"\x89PNG")
