"""What axe finds in the pages: nothing, in either theme, on a phone and on a screen, with all folded parts open."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import test_comparison_page
import test_groups_page
from report_fixtures import LABELS, make_report
from test_predictions_page import page as make_predictions
from test_report_browser import EIGHT, browser, pytestmark, wait_for  # noqa: F401 - the fixture and its marks


def axe():
    """The script of axe: the file that AXE names, or that of the package axe-playwright-python; None for none."""
    if "AXE" in os.environ:
        return Path(os.environ["AXE"])
    found = find_spec("axe_playwright_python")
    return Path(found.origin).with_name("axe.min.js") if found else None


pytestmark = [
    *pytestmark,
    pytest.mark.skipif(axe() is None, reason="needs axe: pip install axe-playwright-python, or name its file in AXE"),
]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    places = {name: folder / name for name in ("report", "eight", "comparison", "groups", "predictions")}
    for place in places.values():
        place.mkdir()
    names = [f"case_{n:02d}" for n in range(3)]
    make_report(places["report"], names, LABELS)
    make_report(places["eight"], names, EIGHT)
    test_comparison_page.write(places["comparison"], names)
    test_groups_page.write(places["groups"], *test_groups_page.groups(names=names))
    make_predictions(places["predictions"], names)
    return places


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "scheme", "width"),
    [
        ("report", "light", 1280),
        ("report", "dark", 390),
        ("comparison", "dark", 1280),
        ("groups", "light", 390),
        ("predictions", "dark", 1280),
        *(
            pytest.param(name, scheme, width, marks=SLOW)
            for name in ("eight", "comparison", "groups", "predictions")
            for scheme in ("light", "dark")
            for width in (390, 1280)
        ),
    ],
)
def test_axe_finds_nothing(browser, pages, name, scheme, width):  # noqa: F811
    # The pages' policy forbids scripts of others, axe too.
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    page.goto((pages[name] / "report.html").as_uri())
    wait_for(page, "document.querySelectorAll('#table tbody tr').length > 0")
    page.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
    page.evaluate(axe().read_text(encoding="utf-8"))
    found = page.evaluate("axe.run({ resultTypes: ['violations'] })")
    assert len(found["passes"]) > 30
    assert [(each["impact"], each["id"], each["nodes"][0]["html"]) for each in found["violations"]] == []
    context.close()


def test_axe_finds_what_is_wrong(browser, pages):  # noqa: F811
    page = browser.new_context(bypass_csp=True).new_page()
    page.goto((pages["report"] / "report.html").as_uri())
    page.evaluate(axe().read_text(encoding="utf-8"))
    page.evaluate("document.getElementById('note').parentElement.replaceWith(document.getElementById('note'))")
    page.evaluate("document.getElementById('note').placeholder = ''")
    page.evaluate("document.querySelector('.sub').style.color = '#aaa'")
    found = page.evaluate("axe.run({ runOnly: ['label', 'color-contrast'] })")
    assert {each["id"] for each in found["violations"]} == {"label", "color-contrast"}
    page.context.close()
