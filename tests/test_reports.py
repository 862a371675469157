import csv
import json
import math
import re
import stat
import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest
from rich.console import Console

from pipeline.files import atomic_write
from pipeline.reports.files import write_cases_csv
from pipeline.reports.summary import summarise
from pipeline.reports.tables import results_table
from pipeline.strict_json import write_json
from pipeline.types import CaseResult


def result(case, label, dice, outcome="scored", name=None):
    return CaseResult(
        case=case,
        label=label,
        name=name or f"class {label}",
        dice=dice,
        outcome=outcome,
        voxels_truth=10,
        voxels_predicted=12,
    )


RESULTS = [
    result("a", 1, 0.9),
    result("a", 2, None, "absent"),
    result("a", 3, None, "absent"),
    result("b", 1, 0.7),
    result("b", 2, 0.5),
    result("b", 3, None, "absent"),
    result("c", 1, 0.0, "missed"),
    result("c", 2, 0.0, "false_positive"),
    result("c", 3, None, "absent"),
]


def shown(table, width=140):
    console = Console(width=width, force_terminal=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def write_half(path):
    with atomic_write(path) as partial:
        partial.write_bytes(b"half")
        raise KeyboardInterrupt


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# Summary


def test_zeros_of_missed_and_invented_structures_are_in_the_mean():
    first, second, _ = summarise(RESULTS).classes
    assert (first.dice.n, first.missed, first.false_positive, first.absent) == (3, 1, 0, 0)
    assert (second.dice.n, second.missed, second.false_positive, second.absent) == (2, 0, 1, 1)
    assert first.dice.mean == pytest.approx(1.6 / 3)
    assert second.dice.mean == 0.25


def test_statistics_equal_those_of_numpy():
    rng = np.random.default_rng(0)
    for n in range(2, 30):
        numbers = rng.uniform(size=n)
        (row,) = summarise([result(str(i), 1, float(x)) for i, x in enumerate(numbers)]).classes
        expected = (numbers.mean(), np.median(numbers), numbers.std(ddof=1), numbers.min(), numbers.max())
        found = row.dice
        assert (found.mean, found.median, found.std, found.min, found.max) == pytest.approx(expected)
        assert (found.q1, found.q3) == pytest.approx(np.percentile(numbers, [25, 75]))
        assert set(found.reasons) == ({"interval"} if n < 6 else set())


def test_the_mean_weighs_classes_alike_and_names_those_it_leaves_out():
    summary = summarise(RESULTS)
    assert summary.mean_dice == pytest.approx((1.6 / 3 + 0.25) / 2)
    assert summary.classes_left_out == ["class 3"]
    assert summary.reasons == {}


def test_the_worst_cases_come_worst_first_and_are_five_at_most():
    results = [result(f"case {i}", label, i / 10) for i in range(7) for label in (1, 2)]
    worst = summarise([*results, result("none", 1, None, "absent")]).worst_cases
    assert [row.case for row in worst] == [f"case {i}" for i in range(5)]
    assert worst[3].mean_dice == pytest.approx(0.3)


def test_a_case_without_a_number_is_counted_and_named():
    summary = summarise([result("a", 1, 1.0), result("b", 1, None, "absent")])
    assert (summary.n_cases, summary.cases_left_out) == (2, ["b"])


@pytest.mark.parametrize(
    "results",
    [[], RESULTS, RESULTS[:1], [result("a", 1, None, "absent")]],
    ids=["nothing", "many", "one case", "one absent"],
)
def test_a_reason_stands_beside_every_null_and_beside_nothing_else(results):
    summary = summarise(results).as_dict()
    classes = summary["classes"]
    inner = [block for row in classes for block in (*row["metrics"].values(), row["lesions"])]
    for block in (summary, *summary["means"].values(), *inner):
        assert set(block["reasons"]) == {name for name, value in block.items() if value is None}
        assert all(block["reasons"].values())


def test_one_number_has_a_mean_and_no_spread():
    (row,) = summarise(RESULTS[:1]).classes
    assert (row.dice.mean, row.dice.std, row.dice.interval) == (0.9, None, None)
    assert "needs two" in row.dice.reasons["std"]


def test_a_result_given_twice_is_refused():
    with pytest.raises(ValueError, match=r"\('b', 1\)"):
        summarise([*RESULTS, result("b", 1, 0.1)])


# Files


def test_a_summary_survives_json(tmp_path):
    summary = summarise(RESULTS).as_dict()
    write_json(tmp_path / "summary.json", summary)
    text = (tmp_path / "summary.json").read_text()
    assert json.loads(text) == json.loads(json.dumps(summary))
    assert "NaN" not in text
    assert text.endswith("}\n")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_json_holds_no_nan_and_the_old_file_stands(tmp_path, bad):
    write_json(tmp_path / "a.json", {"old": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"deep": [bad]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"old": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_csv_has_a_header_and_an_empty_field_for_no_number(tmp_path):
    write_cases_csv(tmp_path / "cases.csv", RESULTS[:2])
    first, second = rows_of(tmp_path / "cases.csv")
    assert list(first) == [field.name for field in fields(CaseResult) if field.name != "more"]
    assert (first["case"], first["dice"], first["hd95_mm"], first["voxels_truth"]) == ("a", "0.9", "", "10")
    assert (second["dice"], second["outcome"]) == ("", "absent")


def test_csv_without_results_is_a_header(tmp_path):
    write_cases_csv(tmp_path / "cases.csv", [])
    assert (tmp_path / "cases.csv").read_text().count("\n") == 1


@pytest.mark.parametrize("start", list("=+-@\t\r\n＝"))
def test_no_text_in_a_csv_becomes_a_formula(tmp_path, start):
    hostile = f'{start}HYPERLINK("http://x","y"),1'
    write_cases_csv(tmp_path / "cases.csv", [result(hostile, 1, 0.5, name=hostile), result("a-b", -1, 0.5)])
    first, second = rows_of(tmp_path / "cases.csv")
    assert first["case"] == first["name"] == f"'{hostile}"
    assert (second["case"], second["label"]) == ("a-b", "-1")


def test_a_file_name_that_is_no_text_does_not_cost_the_report(tmp_path):
    odd = "scan\udcff é"
    write_cases_csv(tmp_path / "cases.csv", [result(odd, 1, 0.5)])
    write_json(tmp_path / "cases.json", [odd])
    assert rows_of(tmp_path / "cases.csv")[0]["case"] == "scan\\udcff é"
    assert json.loads((tmp_path / "cases.json").read_text(encoding="utf-8")) == [odd]


def test_an_error_half_way_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        write_half(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_new_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "mask.nii.gz"
    with atomic_write(path) as partial:
        partial.write_bytes(b"new")
        assert not path.exists()
        assert partial.parent == tmp_path
        assert partial.name.endswith(".nii.gz")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_has_the_permissions_of_any_other(tmp_path):
    write_json(tmp_path / "a.json", {})
    (tmp_path / "plain").touch()
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a.json", "plain")}
    assert len(modes) == 1


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "a"):
        pass


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no folder {tmp_path / 'gone'}"):
        write_json(tmp_path / "gone" / "a.json", {})


# Table


def test_the_table_shows_each_class_and_the_mean_last():
    text = shown(results_table(summarise(RESULTS)))
    cells = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]
    rows = [row for row in cells if row[0] in ("class 1", "class 2", "class 3", "all classes")]
    assert rows[0] == ["class 1", "3", "0.533 ± 0.473", "0.700", "0.000", "0.900", "0", "1", "0"]
    assert rows[2] == ["class 3", "0", "– ± –", "–", "–", "–", "3", "0", "0"]
    assert rows[3] == ["all classes", "0.392"]
    assert len(rows) == 4
    assert "left out of the mean, in no case: class 3" in text


def test_the_table_says_how_sure_the_mean_is():
    few = " ".join(shown(results_table(summarise(RESULTS))).split())
    assert "how sure? too few to say: 3 patients, and an interval needs 6" in few
    assert "--folds N" in few
    assert "95 %" not in few
    enough = summarise([result(str(n), 1, 0.8) for n in range(12)])
    low, high = enough.means["dice"].interval
    assert f"95 % interval of the mean over 12 patients: {low:.3f} to {high:.3f}" in shown(results_table(enough))
    absent = [result(f"without {n}", 1, None, "absent") for n in range(4)]
    some = summarise([*(result(str(n), 1, 0.8) for n in range(12)), *absent])
    assert (some.n_patients, some.means["dice"].n_patients) == (16, 12)
    assert "over 12 patients" in shown(results_table(some))
    assert "sure" not in shown(results_table(summarise([])))


def test_the_table_has_the_means_of_a_users_own_metrics():
    rows = [
        replace(result("a", 1, 0.8), more={"reach_mm": 2.0}),
        replace(result("b", 1, 0.8), more={"reach_mm": 3.0}),
        replace(result("a", 2, 0.8), more={"reach_mm": None}),
    ]
    assert "mean reach_mm: class 1 2.500, class 2 –" in shown(results_table(summarise(rows)))


def test_only_what_has_a_range_has_an_interval_of_its_mean():
    rows = [replace(result(str(n), 1, 0.8), hd95_mm=2.0, surface_dice=0.9, volume_difference=0.1) for n in range(8)]
    summary = summarise(rows)
    (found,) = summary.classes
    assert {name for name, metric in found.metrics.items() if metric.interval} == {
        "dice",
        "surface_dice",
        "volume_difference",
    }
    low, high = found.metrics["volume_difference"].interval
    assert -2 < low < 0.1 < high < 2
    assert low < -0.5, "a patient may be missed, which is -2"
    assert summary.means["hd95_mm"].interval is None
    assert "any size" in summary.means["hd95_mm"].reasons["interval"]


def test_names_in_the_table_are_neither_markup_nor_terminal_codes():
    hostile = "[red]x[/] :boom: \x1b[31m\\"
    text = shown(results_table(summarise([result("a", 1, 0.5, name=hostile)])))
    assert "[red]x[/] :boom: \N{REPLACEMENT CHARACTER}[31m\\" in text
    assert "\x1b" not in text


def test_an_empty_summary_has_a_table():
    assert "all classes" in shown(results_table(summarise([])))


def test_reports_and_metrics_load_no_torch():
    modules = "pipeline.reports.files, pipeline.reports.tables, pipeline.reports.summary, pipeline.metrics.case"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules or 'monai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
