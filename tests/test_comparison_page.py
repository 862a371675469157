"""The page of a comparison, as HTML and in a browser."""

from html import unescape

from report_fixtures import HOSTILE, result
from test_report_browser import browser, open_page, pytestmark, wait_for  # noqa: F401 - the fixtures and their marks
from test_report_page import page_of

from pipeline.reports.comparison import compare_results
from pipeline.reports.comparison_page import write_comparison
from pipeline.reports.page import Origin


def write(folder, names, labels=("organ", "nodule"), sides=("one", "two")):
    """Compare two sides whose cases differ, each in its own way; the last is missed by the first side."""
    a, b = [], []
    for n, name in enumerate(names):
        for label, title in enumerate(labels, 1):
            dice, lost = 0.6 + 0.01 * n, n == len(names) - 1
            a.append(result(name, label, 0.0 if lost else dice, "missed" if lost else "scored", title, hd95_mm=3.0))
            b.append(result(name, label, dice + 0.02 * label + 0.001 * n, name=title, hd95_mm=2.5))
    comparison = compare_results(a, b, *sides)
    write_comparison(folder, comparison, a, b, Origin(title="two against one", facts={"A": "one", "B": "two"}))
    return folder / "report.html", comparison


NAMES = [f"case_{n:02d}" for n in range(20)]


def test_the_conclusion_comes_first_and_matches_the_figures_below(tmp_path):
    path, comparison = write(tmp_path, NAMES)
    page, text = page_of(path), unescape(path.read_text())
    assert comparison.conclusion in text
    assert text.index(comparison.conclusion) < text.index("<table")
    dice = comparison.means["dice"]
    (row,) = [
        element[2]
        for element in page.all("tr")
        if "all classes" in element[2] and "Dice" in element[2] and "Surface" not in element[2]
    ]
    numbers = [f"{dice.mean_a:.3f}", f"{dice.mean_b:.3f}"]
    numbers += [f"{value:+.4f}" for value in (dice.difference, dice.median, *dice.interval)]
    for number in numbers:
        assert number in row
    assert "B is better" in text


def test_too_few_patients_are_told_so_on_every_part_of_the_page(tmp_path):
    path, comparison = write(tmp_path, NAMES[:4])
    page, text = page_of(path), unescape(path.read_text())
    assert comparison.verdict == "too_few"
    rows = [element[2] for element in page.all("tr") if "organ" in element[2] and "HD95" not in element[2]]
    assert all("too few to say" in row for row in rows)
    assert (
        "4 patients, and an interval needs 6; score more; <code>fewmask train --folds N</code> scores all with a mask"
        in text
    )
    assert "too few to say" in (tmp_path / "figures" / "difference.svg").read_text()


def test_rows_hold_both_sides_and_their_difference(tmp_path):
    data = page_of(write(tmp_path, NAMES)[0]).data
    keys = [metric["key"] for metric in data["metrics"]]
    assert keys == ["diceA", "diceB", "diceB − A", "hd95_mmA", "hd95_mmB", "hd95_mmB − A"]
    assert data["sorted_by"] in keys
    assert len(data["rows"]) == 40
    for row in data["rows"]:
        assert row[3][2] == row[3][1] - row[3][0]
    assert {row[2] for row in data["rows"]} == {"scored", "missed → scored"}
    assert {entry["key"] for entry in data["outcomes"]} == {"scored", "missed → scored"}


def test_figures_are_written_beside_it(tmp_path):
    write(tmp_path, NAMES)
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        f"{name}.{kind}" for name in ("difference", "paired") for kind in ("svg", "png")
    }


def test_better_is_smaller_where_the_metric_is_a_distance(tmp_path):
    page = page_of(write(tmp_path, NAMES)[0])
    (row,) = [element[2] for element in page.all("tr") if "organ" in element[2] and "HD95" in element[2]]
    assert "-0.500" in row
    assert row.strip().endswith("B")


def test_a_pair_of_empty_sides_opens(tmp_path):
    rows = [result("a", 1, None, "absent")]
    write_comparison(tmp_path, compare_results(rows, rows, "one", "two"), rows, rows, Origin(title="x"))
    assert "nothing to compare" in (tmp_path / "report.html").read_text()


def test_it_opens_sorts_and_filters(open_page, tmp_path):  # noqa: F811
    page = open_page(write(tmp_path, NAMES)[0])
    names = "[...document.querySelectorAll('#table tbody td:first-child')].map((cell) => cell.textContent)"
    assert page.evaluate(names)[0] == "case_00", "where B gained least"
    page.locator("#table thead button", has_text="Dice B − A").first.click()
    assert page.evaluate(names)[0] == "case_19"
    page.locator("#outcome-filter").select_option("missed → scored")
    assert set(page.evaluate(names)) == {"case_19"}
    page.locator("#outcome-filter").select_option("")
    page.locator("svg circle[data-case='7']").first.click(force=True)
    wait_for(page, "document.getElementById('filter').value === 'case_07'")
    assert set(page.evaluate(names)) == {"case_07"}


def test_hostile_names_stay_inert(open_page, tmp_path):  # noqa: F811
    page = open_page(write(tmp_path, HOSTILE, HOSTILE[1:3], (HOSTILE[0], HOSTILE[4]))[0])
    assert page.evaluate("DATA.cases.map((entry) => entry.id)") == HOSTILE
    assert page.evaluate("document.querySelectorAll('body img, body iframe, body a:not([href^=\"#\"])').length") == 0
    assert HOSTILE[0] in page.locator(".conclusion").inner_text()
