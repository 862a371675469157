"""Photograph a report for the documentation, in the light theme and 1200 pixels wide.

    make demo && python benchmarks/draw_report.py demo/run docs/report.png --height 1120

Needs Playwright and Chromium (CHROMIUM names it where it is not on the path). Only of phantoms: a report holds scans.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright


def main() -> None:
    """Open the page, wait for its pictures, and write the upper part of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder with a report.html")
    parser.add_argument("picture", type=Path, help="the PNG to write")
    parser.add_argument("--width", type=int, default=1200)
    parser.add_argument("--height", type=int, default=1000, help="pixels; 0 is the whole page")
    parser.add_argument("--scheme", choices=["light", "dark"], default="light")
    parser.add_argument("--at", default="", help="a selector to scroll to, such as #cases")
    given = parser.parse_args()
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        size = {"width": given.width, "height": given.height or 1000}
        page = browser.new_page(viewport=size, color_scheme=given.scheme)
        page.goto((given.run / "report.html").resolve().as_uri())
        page.wait_for_timeout(2000)
        if given.at:
            page.locator(given.at).first.scroll_into_view_if_needed()
            page.evaluate("(at) => document.querySelector(at).scrollIntoView()", given.at)
        page.screenshot(path=given.picture, full_page=not given.height)
        browser.close()


if __name__ == "__main__":
    main()
