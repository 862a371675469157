import doctest
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
    assert all(f"\n**{part}.**" in text for part in ("Formula", "Units", "Empty masks", "Source"))
    assert f"]({page.name})" in (METRICS / "README.md").read_text(encoding="utf-8")


def test_every_metric_of_a_summary_has_a_page():
    from pipeline.reports.summary import METRICS as NAMES

    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert all(f"`{name}`" in text for name in NAMES)
