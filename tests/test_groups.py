"""Two methods compared by several trainings of each: numbers of SciPy, pairing, Holm, and how often it is wrong."""

import csv
import importlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from test_groups_page import NAMES, groups

from pipeline.commands import results as commands
from pipeline.errors import UserError
from pipeline.reports.comparison import compare_results
from pipeline.reports.crossed import crossed_interval
from pipeline.reports.files import write_cases_csv
from pipeline.reports.groups import Group, compare_groups
from pipeline.reports.groups_page import _typical
from pipeline.reports.html import coded
from pipeline.reports.pairs import holm
from pipeline.runs import compare


@pytest.fixture(scope="module")
def bench():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).resolve().parents[1] / "benchmarks")
        yield importlib.import_module("bench_groups")


def drawn(bench, difference=0.03, trainings=4, patients=12, seed=0, **changes):
    groups = bench.draw(np.random.default_rng(seed), trainings, patients, difference)
    return [replace(group, **changes) for group in groups]


def dice_of(group):
    """Dice as [trainings, patients], the mean over two classes."""
    return (
        np.array([[row.dice for row in results] for results in group.trainings])
        .reshape(len(group.trainings), -1, 2)
        .mean(axis=2)
    )


# The numbers


def test_paired_by_seed_the_interval_is_that_of_draws_and_patients(bench):
    a, b = drawn(bench)
    b = replace(b, trainings=[b.trainings[n] for n in (2, 0, 3, 1)], seeds=[2, 0, 3, 1])
    found = compare_groups(a, b)
    values = dice_of(b)[[1, 3, 0, 2]] - dice_of(a)
    dice = found.means["dice"]
    assert found.paired
    assert (found.n_a, found.n_b, found.n_patients) == (4, 4, 12)
    assert dice.difference == pytest.approx(values.mean())
    assert dice.interval == pytest.approx(crossed_interval(values))
    assert (dice.mean_a, dice.std_a) == pytest.approx((dice_of(a).mean(), dice_of(a).mean(axis=1).std(ddof=1)))
    assert (dice.p_value < 0.05) == (not dice.interval[0] <= 0 <= dice.interval[1])


def test_where_only_trainings_differ_the_test_is_welchs(bench):
    # All patients gain alike, so that the patients' part vanishes.
    level = drawn(bench)[0].trainings[0]
    rng = np.random.default_rng(3)
    shifts = [rng.normal(0, 0.01, 5), rng.normal(0.01, 0.02, 4)]
    groups = [
        Group(
            name=name,
            trainings=[[replace(row, dice=0.5 + shift) for row in level] for shift in these],
            seeds=[None] * len(these),
        )
        for name, these in zip("ab", shifts, strict=True)
    ]
    found = compare_groups(*groups)
    welch = stats.ttest_ind(shifts[1], shifts[0], equal_var=False)
    assert not found.paired
    assert found.means["dice"].p_value == pytest.approx(welch.pvalue)
    assert found.means["dice"].interval == pytest.approx(tuple(welch.confidence_interval(0.95)))


def test_where_only_patients_differ_the_test_is_students_of_pairs(bench):
    a, b = drawn(bench)
    groups = [replace(group, trainings=[group.trainings[0]] * 3, seeds=[0, 1, 2]) for group in (a, b)]
    found = compare_groups(*groups)
    paired = stats.ttest_rel(dice_of(b)[0], dice_of(a)[0])
    assert found.means["dice"].p_value == pytest.approx(paired.pvalue)
    assert found.means["dice"].interval == pytest.approx(tuple(paired.confidence_interval(0.95)))


def test_swapped_sides_swap_the_verdict_and_the_signs(bench):
    a, b = drawn(bench)
    there, back = compare_groups(a, b), compare_groups(b, a)
    assert (there.verdict, back.verdict) == ("b_better", "a_better")
    assert there.means["dice"].difference == pytest.approx(-back.means["dice"].difference)
    assert there.means["dice"].p_value == pytest.approx(back.means["dice"].p_value)


def test_an_invention_of_one_training_costs_that_training_alone(bench):
    a, b = drawn(bench, trainings=3, patients=6)
    for group in (a, b):
        for results in group.trainings:
            results[1] = replace(results[1], dice=None, outcome="absent", voxels_truth=0)
    before = compare_groups(a, b)
    b.trainings[0][1] = replace(b.trainings[0][1], dice=0.0, outcome="false_positive")
    after = compare_groups(a, b)
    # Patient 0 had class 1 alone; now class 2 counts too: 0 for one training, 1 for the five that invented nothing.
    first = [results[0].dice for results in b.trainings]
    expected = [((one + extra) / 2 - one) / 6 for one, extra in zip(first, (0, 1, 1), strict=True)]
    assert after.means["dice"].mean_b - before.means["dice"].mean_b == pytest.approx(np.mean(expected))


def test_holm_is_that_of_its_definition():
    rng = np.random.default_rng(0)
    for _ in range(50):
        given = list(rng.random(6) ** 3)
        corrected = holm([*given, None])
        assert corrected[-1] is None
        # A hypothesis is rejected at a level if it and all smaller ones pass their own share of it.
        for level in (0.01, 0.05, 0.2):
            ranked = sorted(given)
            passed = [p <= level / (len(given) - rank) for rank, p in enumerate(ranked)]
            count = passed.index(False) if False in passed else len(passed)
            assert sorted(p for p, c in zip(given, corrected, strict=False) if c <= level) == ranked[:count]


def test_all_but_the_mean_dice_is_corrected(bench):
    found = compare_groups(*drawn(bench))
    tests = [row for row in found.means.values() if row.p_value is not None]
    tests += [row for one in found.classes for row in one.metrics.values() if row.p_value is not None]
    dice = found.means["dice"]
    assert (dice.p_holm, "chosen beforehand" in dice.reasons["p_holm"]) == (None, True)
    rest = [row for row in tests if row is not dice]
    assert [row.p_holm for row in rest] == holm([row.p_value for row in rest])
    assert any(row.p_holm > row.p_value for row in rest)
    for row in (*found.means.values(), *(row for one in found.classes for row in one.metrics.values())):
        nulls = {key for key in row.__slots__ if getattr(row, key) is None}
        assert nulls == set(row.reasons)


def test_two_runs_too_correct_all_but_the_mean_dice(bench):
    a, b = drawn(bench)
    found = compare_results(a.trainings[0], b.trainings[0], "one", "two")
    rest = [row for key, row in found.means.items() if key != "dice" and row.p_value is not None]
    rest += [row for one in found.classes for row in one.metrics.values() if row.p_value is not None]
    assert found.means["dice"].p_value == found.wilcoxon.p_value
    assert [row.p_holm for row in rest] == holm([row.p_value for row in rest])


# What is said


@pytest.mark.parametrize(
    ("trainings", "patients", "difference", "verdict", "says"),
    [
        (5, 12, 0.05, "b_better", "B is the better method: the mean Dice goes from"),
        (5, 12, 0.0, "not_shown", "No difference between the methods A and B is shown"),
        (
            2,
            12,
            0.05,
            "too_few",
            "Too few to speak of methods (3 trainings of each are the fewest), these trainings alone",
        ),
        (5, 5, 0.05, "too_few", "Too few to speak of methods (6 patients are the fewest)"),
    ],
)
def test_the_conclusion_speaks_of_methods_where_several_trainings_stand_behind_each(
    bench, trainings, patients, difference, verdict, says
):
    found = compare_groups(*drawn(bench, difference, trainings, patients))
    assert found.verdict == verdict
    assert says in found.conclusion
    assert f"({trainings} trainings of A)" in found.conclusion
    assert f"{patients} patients, paired by case and seed." in found.conclusion
    assert ("p =" in found.conclusion or "p <" in found.conclusion) == (verdict != "too_few")


def test_a_training_that_was_scored_on_other_cases_is_named(bench):
    a, b = drawn(bench)
    b.trainings[2].pop()
    with pytest.raises(UserError, match="training 3 of B"):
        compare_groups(a, b)


@pytest.mark.parametrize("repeats", [25])
def test_false_alarms_are_rare_and_a_known_difference_is_found(bench, repeats):
    # `python benchmarks/bench_groups.py` has 200 of each setting; docs/intervals.md has its table.
    methods, any_other, two_runs = bench.rates(5, 10, 0.0, repeats)
    assert methods <= 0.2
    assert any_other <= 0.2
    assert two_runs > 0.2, "two runs speak of themselves: of methods they would be wrong too often"
    assert bench.rates(5, 10, 0.03, repeats)[0] >= 0.75


# The command


def write_group(folder, group):
    for seed, results in zip(group.seeds, group.trainings, strict=True):
        place = folder / f"seed-{seed}"
        place.mkdir(parents=True)
        write_cases_csv(place / "cases.csv", results)
    return folder


def test_folders_of_seeds_stand_for_their_trainings_and_so_do_names_behind_with(bench, tmp_path, capsys):
    a, b = drawn(bench, trainings=3)
    one, two = write_group(tmp_path / "one", a), write_group(tmp_path / "two", b)
    commands.compare((one, two), output=tmp_path / "out")
    content = json.loads((tmp_path / "out/compare.json").read_text())
    assert content["conclusion"] in " ".join(capsys.readouterr().out.split())
    assert (content["a"], content["n_a"], content["n_b"]) == ("one", 3, 3)
    assert not content["paired"]  # These folders have no recipes, and so no seeds.
    rows = list(csv.DictReader((tmp_path / "out/compare.csv").read_text().splitlines()))
    assert len(rows) == 2 * 3 * 12 * 2
    commands.compare(tuple(sorted(one.iterdir())), runs_b=tuple(sorted(two.iterdir())), output=tmp_path / "again")
    listed = json.loads((tmp_path / "again/compare.json").read_text())
    assert (listed["means"], listed["n_a"]) == (content["means"], 3)
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == [
        *(".fewmask", "compare.csv", "compare.json", "figures", "report.html"),
    ]
    assert content["conclusion"].replace(">", "&gt;").replace("<", "&lt;") in (tmp_path / "out/report.html").read_text()


def test_table_of_the_terminal_fits_eighty_columns(bench, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    sides = []
    for group in drawn(bench, trainings=3):
        far = [[replace(row, hd95_mm=100 * row.hd95_mm) for row in results] for results in group.trainings]
        sides.append(write_group(tmp_path / group.name, replace(group, trainings=far)))
    commands.compare(tuple(sides), output=tmp_path / "out")
    lines = capsys.readouterr().out.splitlines()
    (head,) = [line for line in lines if line.strip().startswith("metric")]
    assert head.split()[-1] == "p"
    assert "surface_dice" in "".join(lines)
    assert max(map(len, lines[: lines.index(head) + 10])) <= 80


def test_words_that_leave_the_sides_open_and_a_training_named_twice_are_refused(bench, tmp_path):
    one, two = (write_group(tmp_path / name, group) for name, group in zip(("one", "two"), drawn(bench), strict=True))
    with pytest.raises(UserError, match="4 are named, and none behind --with"):
        commands.compare(tuple(sorted(one.iterdir())), output=tmp_path / "out")
    with pytest.raises(UserError, match=r"seed-1.*is named twice"):
        compare([one, one / "seed-1"], two, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_runs_are_told_that_they_are_two_trainings_and_masks_that_they_are_masks(bench, tmp_path):
    one, two = (write_group(tmp_path / name, group) for name, group in zip(("one", "two"), drawn(bench), strict=True))
    found = compare(one / "seed-0", two / "seed-0", tmp_path / "out")
    assert found.scope == "This is about these two sets of masks."
    for folder in (one, two):
        (folder / "seed-0" / "config.yaml").touch()
    found = compare(one / "seed-0", two / "seed-0", tmp_path / "out")
    assert found.scope.startswith("This is about these two trainings: another seed of either may turn it.")
    assert str(coded(found.scope)) in (tmp_path / "out/report.html").read_text()


def test_the_structure_that_was_missed_is_named_whatever_the_order_of_the_rows():
    a = groups()[0]
    a = replace(a, trainings=[a.trainings[0], a.trainings[1][::-1], a.trainings[2]])
    rows = _typical(a, {(n, label): {"dice": (0.5, 0.5)} for n in NAMES for label in (1, 2)}, 0)
    assert [(row.case, row.label) for row in rows if row.outcome == "missed"] == [(NAMES[0], 2)]
