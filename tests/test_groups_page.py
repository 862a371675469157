"""The page of two methods, as HTML and in a browser."""

from dataclasses import replace
from html import unescape

import pytest
from report_fixtures import HOSTILE, result
from test_report_browser import browser, first_column, open_page, pytestmark  # noqa: F401 - the fixtures and their marks
from test_report_page import page_of

from pipeline.reports.groups import Group, compare_groups
from pipeline.reports.groups_page import write_groups
from pipeline.reports.page import Origin

NAMES = [f"case_{n:02d}" for n in range(8)]


def training(seed, gain, names=NAMES, missed=()):
    """Results of two classes; the nodule of some cases is missed."""
    rows = []
    for n, name in enumerate(names):
        rows.append(result(name, 1, 0.7 + 0.01 * n + 0.002 * seed + gain, hd95_mm=3.0 - gain))
        outcome = "missed" if name in missed else "scored"
        dice = 0.0 if name in missed else 0.5 + 0.01 * n + gain + 0.001 * seed
        rows.append(result(name, 2, dice, outcome, hd95_mm=5.0))
    return rows


def groups(trainings=3, gain=0.05, names=NAMES, titles=("one", "two")):
    a = [training(seed, 0.0, names, names[:1] if seed == 1 else ()) for seed in range(trainings)]
    b = [training(seed, gain + 0.001 * seed, names) for seed in range(trainings)]
    return [
        Group(name=title, trainings=side, seeds=range(trainings)) for title, side in zip(titles, (a, b), strict=True)
    ]


def write(folder, a, b):
    comparison = compare_groups(a, b)
    write_groups(folder, comparison, a, b, Origin(title=f"{b.name} against {a.name}", tolerance_mm=1.0))
    return folder / "report.html", comparison


def test_conclusion_and_cards_say_what_the_comparison_holds(tmp_path):
    path, comparison = write(tmp_path, *groups())
    page, text = page_of(path), unescape(path.read_text())
    assert comparison.conclusion in text
    assert text.index(comparison.conclusion) < text.index("<table")
    cards = [" ".join(card[2].split()) for card in page.all("div") if card[1].get("class") == "card"]
    dice = comparison.means["dice"]
    assert cards[1].startswith(f"By how much? {dice.difference:+.4f}")
    assert f"A {dice.mean_a:.4f} ± {dice.std_a:.4f}, B {dice.mean_b:.4f} ± {dice.std_b:.4f}" in cards[1]
    assert "{:+.4f} to {:+.4f}".format(*dice.interval) in cards[2]
    assert "paired by case and seed" in cards[2]
    (row,) = [
        row[2]
        for row in page.all("tr")
        if row[2].startswith("all classes") and "Dice" in row[2][:20] and "S" not in row[2][:15]
    ]
    assert f"{dice.difference:+.4f}" in row


def test_structures_have_means_over_trainings_and_counts_of_failures(tmp_path):
    a, b = groups()
    data = page_of(write(tmp_path, a, b)[0]).data
    keys = [metric["key"] for metric in data["metrics"]]
    rows = {(data["cases"][row[0]]["id"], data["classes"][row[1]]["name"]): row for row in data["rows"]}
    assert len(rows) == 16
    numbers = dict(zip(keys, rows["case_03", "organ"][3], strict=True))
    assert numbers["diceA"] == pytest.approx(0.732)
    assert numbers["diceB − A"] == pytest.approx(0.051)
    assert numbers["failedA"] == numbers["failedB"] == 0
    failed = rows["case_00", "nodule"]
    assert failed[2] == "a"
    assert dict(zip(keys, failed[3], strict=True))["failedA"] == 1
    assert {row[2] for row in rows.values()} == {"scored", "a"}


def test_two_trainings_or_five_patients_are_too_few_on_every_part_of_the_page(tmp_path):
    for number, (trainings, names) in enumerate([(2, NAMES), (3, NAMES[:5])]):
        (tmp_path / str(number)).mkdir()
        path, comparison = write(tmp_path / str(number), *groups(trainings, names=names))
        page, text = page_of(path), unescape(path.read_text())
        assert comparison.verdict == "too_few"
        rows = [row[2] for row in page.all("tr") if row[2].startswith(("all", "organ", "nodule"))]
        assert rows
        assert all("too few to say" in row and row.strip().endswith("–") for row in rows)
        assert "too few to say" in (tmp_path / str(number) / "figures" / "difference.svg").read_text()
        assert ("--seeds 5" in text) == (trainings == 2)


def test_a_class_that_no_training_has_leaves_the_page_without_figures(tmp_path):
    a, b = (
        Group(name=name, trainings=[[result("a", 1, None, "absent")]] * 3, seeds=range(3)) for name in ("one", "two")
    )
    assert "nothing to compare" in write(tmp_path, a, b)[0].read_text()
    assert list((tmp_path / "figures").iterdir()) == []


def test_trainings_are_drawn_with_their_mean(tmp_path):
    a, b = groups()
    write(tmp_path, a, replace(b, trainings=b.trainings[:2], seeds=[7, 8]))
    drawing = (tmp_path / "figures" / "trainings.svg").read_text()
    assert drawing.count('<circle class="dot"') == 5
    assert "3 trainings" in drawing
    assert "2 trainings" in drawing


def test_it_opens_and_narrows_to_what_failed(open_page, tmp_path):  # noqa: F811
    page = open_page(write(tmp_path, *groups())[0])
    assert first_column(page)[0] != "case_00", "where B gained least; its gain is large where A missed one"
    page.locator("#outcome-filter").select_option("A fails")
    assert first_column(page) == ["case_00"]


def test_hostile_names_stay_inert(open_page, tmp_path):  # noqa: F811
    page = open_page(write(tmp_path, *groups(names=HOSTILE, titles=(HOSTILE[0], HOSTILE[4])))[0])
    assert page.evaluate("DATA.cases.map((entry) => entry.id)") == HOSTILE
    assert page.evaluate("document.querySelectorAll('body img, body iframe, body a:not([href^=\"#\"])').length") == 0
    assert HOSTILE[0] in page.locator(".conclusion").inner_text()
