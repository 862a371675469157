import doctest
import importlib
import re
from pathlib import Path

import pytest

METRICS = Path(__file__).resolve().parents[1] / "docs" / "metrics"
PAGES = sorted(path for path in METRICS.glob("*.md") if path.name != "README.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_worked_numbers_are_what_the_code_gives(page):
    # The fence that ends a block is no output.
    blocks = page.read_text(encoding="utf-8").replace("\n```\n", "\n\n")
    test = doctest.DocTestParser().get_doctest(blocks, {}, page.name, str(page), 0)
    assert doctest.DocTestRunner().run(test).failed == 0
    assert len(test.examples) >= 4


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_has_formula_units_empty_masks_and_source(page):
    text = page.read_text(encoding="utf-8")
    assert all(f"\n**{part}.**" in text for part in ("Formula", "Units", "Empty masks", "Source", "Elsewhere"))
    assert f"]({page.name})" in (METRICS / "README.md").read_text(encoding="utf-8")


def test_every_metric_of_a_summary_has_a_page():
    from pipeline.reports.summary import METRICS as NAMES

    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert all(f"`{name}`" in text for name in NAMES)


def rows_beside_peers(page):
    """The cells of a page's table of ours beside others, by mask."""
    lines = page.read_text(encoding="utf-8").splitlines()
    start = next((n for n, line in enumerate(lines) if line.startswith("| Masks | Ours | MONAI |")), len(lines))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start + 2 :] if line[:1] == "|"]
    return {row[0]: row[1:] for row in rows}


@pytest.mark.filterwarnings("ignore")  # MONAI warns of its own arguments, and of empty masks.
@pytest.mark.parametrize("metric", ["hd95_mm", "assd_mm", "surface_dice", "volume_difference"])
def test_numbers_beside_monais_are_what_both_give(monkeypatch, metric):
    monkeypatch.syspath_prepend(METRICS.parents[1] / "benchmarks")
    peers = importlib.import_module("compare_metrics")
    page = METRICS / f"{metric.removesuffix('_mm').removesuffix('_difference')}.md"
    told = rows_beside_peers(page)
    assert len(told) >= 3
    for name, cells in told.items():
        pair, exact = peers.pairs()[name], peers.BALLS.get(name, {}).get(metric)
        found = [peers.ours(*pair)[metric], peers.monais(*pair)[metric]]
        assert [float(cell) for cell in cells[:2]] == pytest.approx(found, abs=6e-4, nan_ok=True), name
        assert cells[3:] in ([], ["" if exact is None else f"{exact:.3f}"]), name


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("metric", ["dice", "iou", "precision", "recall"])
def test_metrics_that_are_said_to_equal_monais_do_where_the_class_is_in_both_masks(monkeypatch, metric):
    monkeypatch.syspath_prepend(METRICS.parents[1] / "benchmarks")
    peers = importlib.import_module("compare_metrics")
    assert "where the class is in both masks" in (METRICS / f"{metric}.md").read_text(encoding="utf-8")
    both = [pair for pair in peers.pairs().values() if pair[0].any() and pair[1].any()]
    assert len(both) > 4
    for pair in both:
        assert peers.ours(*pair)[metric] == pytest.approx(peers.monais(*pair)[metric], abs=1e-6)


ROOT = METRICS.parents[1]
TEXTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def anchors(path):
    """Return the anchors of a page's headings, as forges make them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    links = [link.partition("#") for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8"))]
    own = [(place, anchor) for place, _, anchor in links if not place.startswith(("http", "mailto"))]
    missing = [place for place, _ in own if not (path.parent / place).exists()]
    assert missing == []
    pages = [(path.parent / place if place else path, anchor) for place, anchor in own if anchor]
    assert [(page.name, anchor) for page, anchor in pages if anchor not in anchors(page)] == []
