"""The page in a browser: it opens without an error or a request, and does what its controls say."""

import csv
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image
from report_fixtures import HOSTILE, LABELS, blob_case, make_report, result
from test_predictions_page import page as make_predictions
from test_report_page import page_of

from pipeline.reports.page import Origin, write_report
from pipeline.reports.summary import summarise
from pipeline.reports.volumes import Gallery

sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright")

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: install it, or name it in CHROMIUM"),
    # One browser serves the whole file.
    pytest.mark.xdist_group("browser"),
]


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """A function that opens a file and returns its page, whose troubles must be none at the end of the test."""
    contexts, troubles = [], []

    def open_(path: Path, **options):
        context = browser.new_context(viewport={"width": 1200, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("dialog", lambda dialog: (troubles.append(dialog.message), dialog.dismiss()))
        page.on(
            "request",
            lambda request: (
                request.url == path.as_uri() or request.url.startswith("data:") or troubles.append(request.url)
            ),
        )
        page.goto(path.as_uri())
        wait_for(page, "document.querySelectorAll('#table tbody tr').length > 0")
        wait_for(page, "!document.getElementById('viewer') || state.volume !== null")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert troubles == []


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    names = [f"case_{n:02d}" for n in range(20)]
    return make_report(tmp_path_factory.mktemp("report"), names)


def wait_for(page, condition, argument=None):
    """Ask until it is so: Playwright's own wait polls with ``eval``, which the page's policy forbids."""
    for _ in range(400):
        if page.evaluate(condition, argument):
            return
        page.wait_for_timeout(25)
    raise AssertionError(f"never came true: {condition}")


def first_column(page):
    return page.locator("#table tbody tr td:nth-child(1)").all_inner_texts()


def pixels(page, plane=0):
    """What a canvas shows, as one string."""
    return page.locator("#planes canvas").nth(plane).evaluate("canvas => canvas.toDataURL()")


def test_page_opens_without_an_error_or_a_request_and_shows_the_worst_case(open_page, report):
    page = open_page(report)
    assert page.locator("#viewer-title").inner_text() == "case_00"
    wait_for(page, "document.querySelectorAll('#strip button').length === 12")
    assert page.locator("#table tbody tr").count() == 40


def test_worst_cases_with_long_names_stand_side_by_side(open_page, tmp_path):
    page = open_page(make_report(tmp_path, [f"hippocampus_of_a_long_name_{n:02d}" for n in range(8)]))
    wait_for(page, "document.querySelectorAll('#strip canvas').length === 8")
    edges = page.evaluate(
        "[...document.querySelectorAll('#strip button')].flatMap((button) => {"
        " const box = button.getBoundingClientRect(); return [box.left, box.right]; })"
    )
    assert edges == sorted(edges)


def test_names_that_differ_at_their_ends_are_told_apart_in_the_strip(open_page, tmp_path):
    names = [f"hippocampus_of_a_very_long_name_indeed_{n:02d}" for n in range(4)]
    page = open_page(make_report(tmp_path, names))
    wait_for(page, "document.querySelectorAll('#strip canvas').length === 4")
    shown = page.locator("#strip b").all_inner_texts()
    assert len(set(shown)) == 4
    assert [page.locator("#strip b").nth(n).get_attribute("title") for n in range(4)] == names


EIGHT = {0: "background"} | {
    n: f"{side} lobe of the lung, part {n}" for n, side in enumerate(["left"] * 4 + ["right"] * 4, 1)
}


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("labels", [LABELS, EIGHT], ids=["two classes", "eight classes"])
def test_nothing_is_cut_that_does_not_scroll(open_page, tmp_path, labels, width):
    page = open_page(make_report(tmp_path, [f"sub-{n:03d}_ses-01_acq-highres_T1w" for n in range(7)], labels))
    page.set_viewport_size({"width": width, "height": 900})
    page.locator("#notes summary").click()
    assert page.evaluate("document.documentElement.scrollWidth") == width
    cut = page.evaluate("""() => [...document.querySelectorAll('main *')].filter((element) =>
      element.scrollWidth > element.clientWidth + 1 && element.clientWidth > 0 && !element.matches('.sr')
      && !['visible', 'auto', 'scroll'].includes(getComputedStyle(element).overflowX)
    ).map((element) => element.outerHTML.slice(0, 80))""")
    assert cut == []
    # Words of a drawing may stand beside its frame, not beside its card.
    outside = page.evaluate("""() => [...document.querySelectorAll('figure svg text')].filter((text) => {
      const words = text.getBoundingClientRect(), card = text.closest('figure').getBoundingClientRect();
      return words.left < card.left || words.right > card.right || words.bottom > card.bottom || words.top < card.top;
    }).map((text) => text.textContent)""")
    assert outside == []


def test_a_column_tells_what_it_says(open_page, report):
    page = open_page(report)
    assert "both masks share" in page.locator("#table th button", has_text="Dice").first.get_attribute("title")
    assert page.locator("#notes dd").first.is_hidden()
    page.locator("#notes summary").click()
    assert "both masks share" in page.locator("#notes").inner_text()


def test_columns_sort_both_ways(open_page, report):
    page = open_page(report)
    dice = page.locator("#table th button", has_text="Dice").first
    column = 1 + page.evaluate("COLUMNS.findIndex((c) => c.title === 'Dice')")
    numbers = lambda: [float(text) for text in page.locator(f"#table tbody td:nth-child({column})").all_inner_texts()]  # noqa: E731
    assert numbers() == sorted(numbers())
    dice.click()
    assert numbers() == sorted(numbers(), reverse=True)
    assert page.locator("#table th[aria-sort='descending']").inner_text().startswith("Dice")
    page.locator("#table th button", has_text="Case").click()
    assert first_column(page) == sorted(first_column(page))


def test_filters_narrow_the_table(open_page, report):
    page = open_page(report)
    page.locator("#filter").fill("CASE_1")
    assert {name[:6] for name in first_column(page)} == {"case_1"}
    assert page.locator("#count").inner_text() == "20 of 40 rows"
    page.locator("#class-filter").select_option(label="nodule")
    assert page.locator("#count").inner_text() == "10 of 40 rows"


def test_a_row_brings_its_case(open_page, report):
    page = open_page(report)
    page.locator("#table td button", has_text="case_07").first.click()
    wait_for(page, "document.getElementById('viewer-title').textContent === 'case_07'")
    assert page.evaluate("document.activeElement.id") == "viewer"


def test_a_dot_of_a_figure_brings_its_case(open_page, report):
    page = open_page(report)
    place = page.evaluate("DATA.cases.findIndex((entry) => entry.id === 'case_11')")
    page.locator(f"svg circle[data-case='{place}']").first.click(force=True)
    wait_for(page, "document.getElementById('viewer-title').textContent === 'case_11'")


def test_slices_scroll_by_slider_key_and_wheel(open_page, report):
    page = open_page(report)
    slider = page.locator("#planes input").first
    start = int(slider.input_value())
    before = pixels(page)
    slider.fill(str(start - 1))
    assert pixels(page) != before
    page.locator("#viewer").focus()
    page.keyboard.press("ArrowUp")
    assert int(slider.input_value()) == start
    assert pixels(page) == before
    page.locator("#planes canvas").first.hover()
    page.mouse.wheel(0, -100)
    wait_for(page, f"state.at[2] === {start + 1}")


def test_the_wheel_belongs_to_the_page_until_the_viewer_is_used(open_page, report):
    page = open_page(report)
    page.locator("#planes canvas").first.hover()
    at = page.evaluate("state.at[2]")
    page.mouse.wheel(0, 200)
    page.wait_for_timeout(100)
    assert page.evaluate("state.at[2]") == at


def test_masks_are_switched_one_by_one_by_box_and_by_key(open_page, report):
    page = open_page(report)
    both = pixels(page)
    page.locator("#truth").uncheck()
    without_truth = pixels(page)
    page.locator("#viewer").focus()
    page.keyboard.press("p")
    bare = pixels(page)
    page.keyboard.press("t")
    without_prediction = pixels(page)
    assert len({both, without_truth, without_prediction, bare}) == 4
    page.keyboard.press("p")
    assert pixels(page) == both
    page.keyboard.press("e")
    assert pixels(page) != both
    assert page.locator("#error-key").is_visible()


def test_a_class_can_be_hidden(open_page, report):
    page = open_page(report)
    before = pixels(page)
    page.locator("#case-table input").nth(1).uncheck()
    assert pixels(page) != before


def test_keys_choose_plane_and_case(open_page, report):
    page = open_page(report)
    page.locator("#viewer").focus()
    for key, plane in (("c", 1), ("s", 2), ("a", 0)):
        page.keyboard.press(key)
        assert (
            page.evaluate("[...document.querySelectorAll('.plane')].findIndex((p) => p.classList.contains('active'))")
            == plane
        )
    page.keyboard.press("ArrowRight")
    wait_for(page, "document.getElementById('viewer-title').textContent === 'case_01'")
    page.keyboard.press("ArrowLeft")
    wait_for(page, "document.getElementById('viewer-title').textContent === 'case_00'")
    assert page.locator("#previous").is_disabled()


def test_keyboard_reaches_every_control_in_a_visible_way(open_page, report):
    page = open_page(report)
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        name, outline = page.evaluate(
            "[document.activeElement.id, getComputedStyle(document.activeElement).outlineStyle]"
        )
        assert outline != "none", name
        reached.add(name)
    assert {"theme", "viewer", "truth", "prediction", "errors", "opacity", "brightness", "contrast", "next"} <= reached
    assert {"zoom-in", "seen", "note", "in-figure", "save-figure", "save-notes"} <= reached


def test_right_is_on_the_left_and_millimetres_are_square(open_page, report):
    page = open_page(report)
    # The voxel one step to the patient's right is seen one step to the left, and a coronal voxel is 3 mm by 1 mm.
    step = page.evaluate("""() => {
      const canvas = stages[1].canvas, frame = canvas.getBoundingClientRect(), plane = PLANES[1];
      const at = (x, y) =>
        voxelAt(canvas, state.volume, plane, state.at, { clientX: frame.left + x, clientY: frame.top + y });
      const place = placeOf(canvas, state.volume, plane), ratio = canvas.width / frame.width;
      const w = place.width / ratio / state.volume.shape[0], h = place.height / ratio / state.volume.shape[2];
      const x = place.left / ratio, y = place.top / ratio;
      const [right, left, below] = [at(x + w / 2, y + h / 2), at(x + 3.5 * w, y + h / 2), at(x + w / 2, y + 1.5 * h)];
      return { right, left, below, aspect: h / w };
    }""")
    assert step["right"][0] - step["left"][0] == 3
    assert step["right"][2] - step["below"][2] == 1
    assert step["aspect"] == pytest.approx(3)
    assert page.evaluate("state.volume.shape") == [12, 14, 10]


def test_canvas_shows_the_voxels_that_were_packed(open_page, report):
    page = open_page(report)
    # With the fill alone and at full strength, a voxel has the colour of its class.
    page.evaluate("Object.assign(view, { truthStyle: 'fill', prediction: false, opacity: 100 }); redraw();")
    found = page.evaluate("""() => {
      const { canvas } = stages[0], { volume, at } = state, plane = PLANES[0], wrong = [];
      const { left, top, width, height } = placeOf(canvas, volume, plane);
      const all = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
      let seen = 0;
      for (let x = 0; x < volume.shape[0]; x++) for (let y = 0; y < volume.shape[1]; y++) {
        const label = volume.truth[x + volume.shape[0] * (y + volume.shape[1] * at[2])];
        if (!label || x === at[0] || y === at[1]) continue;
        const px = Math.floor(left + width * (1 - (x + .4) / volume.shape[0]));
        const py = Math.floor(top + height * (1 - (y + .4) / volume.shape[1]));
        const rgb = [...all.slice(4 * (py * canvas.width + px)).slice(0, 3)];
        seen++;
        if (String(rgb) !== String(colourOf(label))) wrong.push([x, y, label, rgb]);
      }
      return { seen, wrong };
    }""")
    assert found["seen"] > 10
    assert found["wrong"] == []


def test_theme_follows_the_system_and_the_button(open_page, report):
    backgrounds = []
    for scheme in ("light", "dark"):
        page = open_page(report, color_scheme=scheme)
        backgrounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert backgrounds[0] != backgrounds[1]
    page.locator("#theme").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == backgrounds[0]


def test_a_phone_needs_no_sideways_scrolling(open_page, report):
    page = open_page(report)
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert pixels(page) != pixels(page, 1)


def test_hostile_names_stay_inert_and_are_shown(open_page, tmp_path):
    page = open_page(make_report(tmp_path, HOSTILE, {0: "background", 1: HOSTILE[1], 2: HOSTILE[2]}))
    page.locator("#more").click()
    shown = set(
        page.evaluate("[...document.querySelectorAll('#table tbody td:first-child')].map((cell) => cell.textContent)")
    )
    assert shown == set(page.evaluate("DATA.cases.map((entry) => entry.id)"))
    assert len(shown) == 100
    for n in range(0, 100, 9):
        page.evaluate("(n) => look(n)", n)
        name = page.evaluate("(n) => DATA.cases[DATA.volumes[n].case].id", n)
        wait_for(page, "(name) => document.getElementById('viewer-title').textContent === name", name)
    assert page.evaluate("document.querySelectorAll('body img, body iframe, body a:not([href^=\"#\"])').length") == 0


def test_two_hundred_cases_of_hippocampus_size_are_under_25_mb(open_page, tmp_path):
    path = make_report(tmp_path, [f"hippocampus_{n:03d}" for n in range(200)], shape=(35, 51, 36))
    assert path.stat().st_size < 25_000_000
    page = open_page(path)
    assert page.evaluate("DATA.volumes.length") == 200
    page.evaluate("look(199)")
    assert page.locator("#viewer-title").inner_text() == "hippocampus_199"
    assert page.evaluate("state.volume.shape") == [35, 51, 36]


# The first screen, and what a reader keeps


@pytest.fixture(scope="module")
def failing(tmp_path_factory):
    """A report of ten cases, of which one is missed and one invented, both of the nodule."""
    rows = []
    names = [f"case_{n}" for n in range(10)]
    gallery = Gallery(n_cases=10, labels=LABELS)
    for n, name in enumerate(names):
        gallery.add(name, *blob_case(n))
        outcome = {3: "missed", 6: "false_positive"}.get(n, "scored")
        rows += [result(name, 1, 0.9), result(name, 2, 0.8 if outcome == "scored" else 0.0, outcome)]
    folder = tmp_path_factory.mktemp("failing")
    write_report(folder, rows, summarise(rows), Origin(title="A run", command="fewmask predict A SCANS"), gallery)
    return folder / "report.html"


def test_first_screen_leads_to_the_failures_and_to_the_worst_case(open_page, failing):
    page = open_page(failing)
    page.locator(".card a", has_text="2 failures").click()
    assert set(first_column(page)) == {"case_3", "case_6"}
    assert page.locator("#outcome-filter option:checked").inner_text() == "missed or invented"
    page.evaluate("look(4)")
    wait_for(page, "state.n === 4")
    page.locator(".card a", has_text="case_3").click()
    wait_for(page, "document.getElementById('viewer-title').textContent === 'case_3'")
    steps = page.locator(".steps li").all_inner_texts()
    assert steps[0].startswith("Look at case_3")
    assert steps[-1].endswith("fewmask predict A SCANS")
    fits = "document.querySelector('.steps').getBoundingClientRect().bottom + scrollY"
    assert page.evaluate(fits) < 900, "how good, how sure, where, what next: on one screen"


def test_a_slice_is_enlarged_around_the_cross_and_dragged(open_page, report):
    page = open_page(report)
    whole = pixels(page)
    page.locator("#zoom-in").click()
    assert page.locator("#zoom").inner_text() == "150 %"
    page.locator("#viewer").focus()
    for _ in range(3):
        page.keyboard.press("+")
    assert page.locator("#zoom").inner_text() == "400 %"
    # What is under the pointer is what the read-out names, enlarged too.
    box = page.locator("#planes canvas").first.bounding_box()
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.move(*middle)
    before = page.locator("#readout").inner_text()
    page.mouse.down()
    page.mouse.move(middle[0] + 140, middle[1])
    page.mouse.up()
    page.mouse.move(*middle)
    moved = page.locator("#readout").inner_text()
    across = [int(text.split("voxel ")[1].split(",")[0]) for text in (before, moved)]
    assert across[1] > across[0], "the patient's left is on the right: dragged to the right, it shows more of the right"
    page.keyboard.press("0")
    assert page.locator("#zoom").inner_text() == "100 %"
    assert page.locator("#zoom-out").is_disabled()
    page.evaluate("state.at = [...state.volume.focus]; redraw()")
    assert pixels(page) == whole


@pytest.mark.parametrize(("most", "mm"), [(37, 20), (20, 20), (9.9, 5), (0.3, 0.2), (1, 1)])
def test_scale_bar_has_a_round_length(open_page, report, most, mm):
    assert open_page(report).evaluate("(most) => roundLength(most)", most) == pytest.approx(mm)


def test_scale_bar_is_as_long_as_it_says(open_page, report):
    page = open_page(report)
    # White pixels in the row of the bar, against the millimetres of a voxel on the screen.
    length, told = page.evaluate("""() => {
      const { canvas } = stages[0], ratio = pixelRatio(), context = canvas.getContext("2d");
      const row = context.getImageData(0, canvas.height - 10 * ratio, canvas.width, 1).data;
      let white = 0;
      while (row[4 * (10 * ratio + white)] > 250) white++;
      const { perMm } = placeOf(canvas, state.volume, PLANES[0]);
      return [white / perMm, roundLength(canvas.width / 3 / perMm)];
    }""")
    assert length == pytest.approx(told, rel=0.03)


def test_a_picture_is_saved_with_names_and_a_legend(open_page, report, tmp_path):
    page = open_page(report)
    with page.expect_download() as waited:
        page.locator("#save-figure").click()
    assert waited.value.suggested_filename == "case_00.png"
    waited.value.save_as(tmp_path / "one.png")
    with Image.open(tmp_path / "one.png") as one:
        width, height = one.size
        colours = {colour for _, colour in one.convert("RGB").getcolors(width * height)}
    assert width == 12 + 3 * 492
    assert {(230, 159, 0), (86, 180, 233)} <= colours, "squares of the legend"
    for n in (1, 2):
        page.evaluate("(n) => look(n)", n)
        wait_for(page, f"state.n === {n}")
        page.locator("#in-figure").check()
    assert page.locator("#save-figure").inner_text() == "Save figure of 2 cases"
    with page.expect_download() as waited:
        page.locator("#save-figure").click()
    waited.value.save_as(tmp_path / "two.png")
    with Image.open(tmp_path / "two.png") as two:
        assert two.height - height == 34 + 480


def test_what_was_ticked_and_noted_is_kept_and_exported(open_page, failing, tmp_path):
    page = open_page(failing)
    page.locator("#seen").check()
    page.locator("#note").fill('=too "small", says Ann')
    page.locator("#note").blur()
    assert page.locator("#progress").inner_text() == "1 of 10 looked at; kept in this browser"
    assert page.locator("#table .mark").first.get_attribute("title") == 'looked at: =too "small", says Ann'
    page.reload()
    wait_for(page, "state.volume !== null")
    page.locator("#seen:checked").wait_for()
    with page.expect_download() as waited:
        page.locator("#save-notes").click()
    waited.value.save_as(tmp_path / "notes.csv")
    with (tmp_path / "notes.csv").open(encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 10
    assert rows[0] == {
        "case": "case_3",
        "mean_dice": "0.4500",
        "looked_at": "yes",
        "note": '\'=too "small", says Ann',
    }
    assert {row["looked_at"] for row in rows[1:]} == {""}


def test_letters_of_a_note_are_no_keys_of_the_viewer(open_page, report):
    page = open_page(report)
    page.locator("#note").press_sequentially("perfect +- 0")
    assert page.locator("#note").input_value() == "perfect +- 0"
    assert page.locator("#errors").is_checked() is False
    assert page.locator("#zoom").inner_text() == "100 %"


def test_notes_of_other_numbers_are_not_shown(open_page, failing, report):
    page = open_page(failing)
    page.locator("#seen").check()
    keys = {path: page_of(path).all("body")[0][1]["data-key"] for path in (failing, report)}
    assert len(set(keys.values())) == 2
    assert open_page(report).locator("#seen").is_checked() is False


@pytest.mark.parametrize("labels", [LABELS, EIGHT], ids=["two classes", "eight classes"])
def test_paper_cuts_nothing(open_page, tmp_path, labels):
    page = open_page(make_report(tmp_path, [f"sub-{n:03d}_ses-01_acq-highres_T1w" for n in range(7)], labels))
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 718, "height": 1016})  # A4 with margins of a centimetre
    outside = page.evaluate("""() => [...document.querySelectorAll('main *')].filter((element) => {
      const box = element.getBoundingClientRect();
      return box.width && !element.closest('.sr') && (box.right > 719 || box.left < 0);
    }).map((element) => element.outerHTML.slice(0, 80))""")
    assert outside == []


# Predictions without a truth


@pytest.fixture(scope="module")
def predictions(tmp_path_factory):
    names = [f"case_{n:02d}" for n in range(12)]
    return make_predictions(tmp_path_factory.mktemp("predictions"), names, {("case_04", 1): 50.0})


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_page_of_predictions_opens_without_an_error_and_without_sideways_scrolling(
    open_page, predictions, scheme, width
):
    page = open_page(predictions, color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    wait_for(page, "document.querySelectorAll('#strip button').length === 12")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.locator("#viewer-title").inner_text() == "case_11"
    assert "least sure first" in page.locator("#viewer-note").inner_text()
    assert page.locator("#truth").count() == page.locator("#errors").count() == 0


def test_prediction_is_filled_and_switched_by_box_and_by_key(open_page, predictions):
    page = open_page(predictions)
    shown = pixels(page)
    page.locator("#prediction").uncheck()
    bare = pixels(page)
    page.locator("#viewer").focus()
    for key in "te":  # Of a truth that is not there.
        page.keyboard.press(key)
    assert pixels(page) == bare != shown
    page.keyboard.press("p")
    assert pixels(page) == shown
    page.locator("#prediction-style").select_option("outline")
    assert pixels(page) not in (bare, shown)
    page.locator("#planes canvas").first.hover()
    wait_for(page, "document.getElementById('readout').textContent.includes('prediction:')")
    assert "truth" not in page.locator("#readout").inner_text()


def test_masks_that_are_unlike_the_others_can_be_filtered(open_page, predictions):
    page = open_page(predictions)
    page.locator("#outcome-filter").select_option(label="unlike the others")
    assert first_column(page) == ["case_04"]
    page.locator("#table td button").first.click()
    wait_for(page, "document.getElementById('viewer-title').textContent === 'case_04'")
