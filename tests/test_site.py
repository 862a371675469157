"""The site of the documentation: it is built without a warning, and asks nothing of any other place."""

import re
import subprocess
import sys
from importlib.util import find_spec

import pytest
from runs_fixtures import ROOT
from test_report_browser import CHROMIUM, FLAGS, sync_api

NEEDED = ("sphinx", "furo", "myst_parser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not all(map(find_spec, NEEDED)), reason="needs pip install fewmask[docs]"),
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: install it, or name it in CHROMIUM"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    (words,) = re.findall(r"-m sphinx (.*) site$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", *words.split(), folder], cwd=ROOT, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_pages_open_from_their_folder_and_nothing_sticks_out(site, browser, scheme, width):
    page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
    asked, troubles = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    wide = []
    # The first page leads on to another at once, so it may be gone when it is asked how wide it is.
    for path in sorted({*site.rglob("*.html")} - {site / "index.html"}):
        page.goto(path.as_uri())
        wide += page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth") * [path]
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert (troubles, wide) == ([], [])


def test_first_page_leads_to_the_pages_and_the_search_finds_without_a_server(site, browser):
    page = browser.new_page()
    page.goto((site / "index.html").as_uri())
    page.wait_for_url("**/docs/index.html")
    page.goto(f"{(site / 'search.html').as_uri()}?q=scribbles")
    page.wait_for_selector("#search-results li")
    assert "Scribbles" in page.inner_text("#search-results")
