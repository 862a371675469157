import csv
import json

import numpy as np
import pytest
from commands import fewmask
from runs_fixtures import TINY, make_phantom, train
from scipy import stats

from pipeline import runs
from pipeline.errors import UserError
from pipeline.reports.comparison import MASKS, TRAININGS, compare_results
from pipeline.reports.files import read_cases_csv, write_cases_csv
from pipeline.runs import compare, evaluate
from pipeline.runs.comparing import _group
from pipeline.types import CaseResult


def row(case, dice, label=1, outcome=None, patient=None, voxels=10):
    outcome = outcome or ("absent" if dice is None else "missed" if dice == 0 else "scored")
    return CaseResult(
        case=case,
        patient=patient or case,
        label=label,
        name=f"class {label}",
        outcome=outcome,
        voxels_truth=voxels,
        voxels_predicted=10,
        dice=dice,
        iou=dice,
        hd95_mm=None if dice is None else 10 * (1 - dice),
    )


def sides(rng, n=20, shift=0.05, noise=0.02, classes=(1, 2)):
    a, b = [], []
    for case in range(n):
        for label in classes:
            dice = rng.uniform(0.6, 0.85)
            a.append(row(f"c{case:02d}", dice, label))
            b.append(row(f"c{case:02d}", dice + shift + rng.normal(0, noise), label))
    return a, b


def compared(a, b):
    return compare_results(a, b, "one", "two")


def test_differences_are_those_of_the_pairs_and_the_test_is_scipys():
    a, b = sides(np.random.default_rng(0))
    found = compared(a, b)
    change = np.array([y.dice - x.dice for x, y in zip(a, b, strict=True)]).reshape(-1, 2)
    dice = found.means["dice"]
    assert dice.difference == pytest.approx(change.mean())
    assert dice.mean_b - dice.mean_a == pytest.approx(dice.difference)
    by_case = change.mean(axis=1)
    exact = stats.quantile_test(by_case, p=0.5).confidence_interval(0.95)
    assert (dice.median, dice.interval) == (pytest.approx(np.median(by_case)), pytest.approx((exact.low, exact.high)))
    assert found.wilcoxon.p_value == pytest.approx(stats.wilcoxon(change.mean(axis=1)).pvalue)
    assert [row.metrics["dice"].difference for row in found.classes] == pytest.approx(list(change.mean(axis=0)))
    assert found.means["hd95_mm"].difference == pytest.approx(-10 * change.mean())


@pytest.mark.parametrize(
    ("shift", "noise", "n", "verdict", "says"),
    [
        (0.05, 0.02, 20, "b_better", "two is better than one: from one to two the mean Dice goes from"),
        (-0.05, 0.02, 20, "a_better", "one is better than two: from one to two the mean Dice goes from"),
        (0.0, 0.05, 20, "not_shown", "No difference between one and two is shown"),
        (0.05, 0.01, 4, "too_few", "The patients that differ are too few to say whether one or two is better"),
        (0.05, 0.0, 5, "too_few", "The patients that differ are too few to say whether one or two is better"),
        (0.05, 0.01, 6, "b_better", "two is better than one"),
        (0.0, 0.0, 20, "not_shown", "no patient differs"),
    ],
)
def test_conclusion_is_one_sentence_with_the_figures_below_it(shift, noise, n, verdict, says):
    found = compared(*sides(np.random.default_rng(1), n, shift, noise))
    assert found.verdict == verdict
    assert says in found.conclusion
    dice = found.means["dice"]
    figures = f"{dice.mean_a:.4f} to {dice.mean_b:.4f} ({dice.difference:+.4f}"
    assert figures in found.conclusion
    if n < 6:
        assert (dice.interval, f"{n} patients" in dice.reasons["interval"]) == (None, True)
        assert "95 %" not in found.conclusion
        assert f"(too few to say; Wilcoxon p = {found.wilcoxon.p_value:.3f}; {n} patients)" in found.conclusion
        assert "--folds N" in found.conclusion
    else:
        assert f"95 % interval {dice.interval[0]:+.4f} to {dice.interval[1]:+.4f};" in found.conclusion
        assert found.conclusion.endswith(f"{n} patients).")


def test_evidence_that_disagrees_is_called_mixed():
    values = [0.01] * 15 + [-0.9]
    a = [row(f"c{n}", 0.95 if value < 0 else 0.5) for n, value in enumerate(values)]
    b = [row(f"c{n}", x.dice + value) for n, (x, value) in enumerate(zip(a, values, strict=True))]
    found = compared(a, b)
    # Almost all patients gain a little, the interval of the median leaves out 0, and the mean falls.
    assert found.verdict == "mixed"
    assert found.means["dice"].interval[0] > 0 > found.means["dice"].difference


def test_swapping_the_sides_swaps_the_verdict_and_the_signs():
    a, b = sides(np.random.default_rng(2))
    there, back = compared(a, b), compared(b, a)
    assert (there.verdict, back.verdict) == ("b_better", "a_better")
    assert there.means["dice"].difference == pytest.approx(-back.means["dice"].difference)
    assert (there.better, there.worse) == (back.worse, back.better)


def test_cases_of_one_patient_are_one_observation():
    a, b = sides(np.random.default_rng(3), classes=(1,))
    grouped = [[row(x.case, x.dice, patient=f"p{n // 10}") for n, x in enumerate(side)] for side in (a, b)]
    found = compared(*grouped)
    assert (found.n_patients, found.wilcoxon.n, found.verdict) == (2, 2, "too_few")


def test_structures_that_changed_sides_are_named():
    a = [row("x", 0.0), row("y", 0.8), row("z", 0.7)]
    b = [row("x", 0.9), row("y", 0.0), row("z", 0.7)]
    found = compared(a, b)
    assert [(c.case, c.a, c.b) for c in found.changed] == [("x", "missed", "scored"), ("y", "scored", "missed")]
    assert (found.better, found.worse, found.equal) == (["x"], ["y"], ["z"])


@pytest.mark.parametrize("count", [2, 40])
def test_results_that_differ_by_rounding_show_no_difference(count):
    a = [row(f"c{n}", 0.6 + n / 100) for n in range(count)]
    b = [row(each.case, each.dice + 1e-12) for each in a]
    assert compared(a, b).verdict == "not_shown"
    assert compared(a, b).equal == [each.case for each in a]


def test_a_case_without_any_structure_is_neither_better_nor_equal():
    a = [row("x", None, voxels=0), row("y", 0.5)]
    found = compared(a, a)
    assert (found.better, found.worse, found.equal, found.n_cases) == ([], [], ["y"], 2)


def test_an_invention_is_not_forgiven_by_leaving_its_pair_out():
    a = [row("x", 0.8), row("y", None, voxels=0)]
    b = [row("x", 0.8), row("y", 0.0, outcome="false_positive", voxels=0)]
    found = compared(a, b)
    assert (found.means["dice"].n, found.means["dice"].difference, found.worse) == (2, -0.5, ["y"])
    assert found.means["hd95_mm"].difference == 5.0


@pytest.mark.parametrize(
    ("change", "codes"),
    [
        (lambda rows: rows[:-2], {"case-unpaired"}),
        (lambda rows: [*rows, row("extra", 0.5)], {"case-unpaired"}),
        (lambda rows: rows[:-1], {"class-unpaired"}),
        (lambda rows: [*rows[:-1], row("c02", 0.5, 2, voxels=11)], {"truth-differs"}),
    ],
)
def test_sides_of_other_cases_classes_or_masks_are_refused_by_name(change, codes):
    a, b = sides(np.random.default_rng(4), n=3)
    with pytest.raises(UserError) as raised:
        compared(a, change(b))
    assert {problem.code for problem in raised.value.problems} == codes
    assert any(name in str(raised.value) for name in ("c02", "extra"))


def test_scores_survive_their_file(tmp_path):
    rows = [row("=cmd", 0.1 + 0.2), row("'quoted", None), row('é,"x"\n', 0.0)]
    write_cases_csv(tmp_path / "cases.csv", rows)
    assert read_cases_csv(tmp_path / "cases.csv") == rows


@pytest.mark.parametrize("text", ["", "case,dice\na,0.5\n", "\0"])
def test_a_table_that_is_none_is_refused(tmp_path, text):
    (tmp_path / "two").mkdir()
    for folder in (tmp_path, tmp_path / "two"):
        (folder / "cases.csv").write_text(text + "x")
    with pytest.raises(UserError, match=r"bad-scores|no-cases"):
        compare(tmp_path, tmp_path / "two", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_scores_of_two_tolerances_are_refused_by_names_without_places(tmp_path):
    a, b = sides(np.random.default_rng(5))
    places = [tmp_path / side / "scores" for side in "ab"]
    for place, rows, tolerance in zip(places, (a, b), (1.0, 3.0), strict=True):
        place.mkdir(parents=True)
        write_cases_csv(place / "cases.csv", rows)
        (place / "summary.json").write_text(json.dumps({"tolerance_mm": tolerance}))
    with pytest.raises(UserError) as raised:
        compare(*places, tmp_path / "out")
    (problem,) = raised.value.problems
    assert (problem.code, problem.where) == ("tolerance-differs", "b/scores")
    assert str(tmp_path) not in str(raised.value)
    (places[1] / "summary.json").write_text('{"tolerance_mm": 1.0}')
    found = compare(*places, tmp_path / "out")
    assert (found.a, found.b) == ("a/scores", "b/scores")


def test_command_writes_what_it_says(tmp_path):
    a, b = sides(np.random.default_rng(5))
    for name, rows in (("one", a), ("two", b)):
        (tmp_path / name).mkdir()
        write_cases_csv(tmp_path / name / "cases.csv", rows)
    done = fewmask("compare", tmp_path / "one", tmp_path / "two", "--output", tmp_path / "out", COLUMNS="120")
    content = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert done.returncode == 0, done.stderr
    assert content["conclusion"] in done.stdout
    with (tmp_path / "out" / "compare.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    change = [float(r["dice_b"]) - float(r["dice_a"]) for r in rows]
    assert np.mean(change) == pytest.approx(content["means"]["dice"]["difference"])


def test_one_training_is_not_compared_with_itself(tmp_path):
    (tmp_path / "one").mkdir()
    write_cases_csv(tmp_path / "one" / "cases.csv", sides(np.random.default_rng(5))[0])
    with pytest.raises(UserError, match="named-twice"):
        compare(tmp_path / "one", tmp_path / "one", tmp_path / "out")


def test_command_refuses_a_folder_without_scores(tmp_path):
    done = fewmask("compare", tmp_path / "one", tmp_path / "two", "--output", tmp_path / "out")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no-scores" in done.stderr


def test_a_side_without_runs_is_refused(tmp_path):
    done = fewmask("compare", "--with", tmp_path / "a", tmp_path / "b", "--output", tmp_path / "out")
    assert (done.returncode, "is not given for one of the sides" in done.stderr) == (2, True), done.stderr


def test_every_validation_of_a_run_is_a_trainings_and_an_evaluation_in_its_folder_is_not(tmp_path):
    dataset = make_phantom(tmp_path / "scans", unlabelled=0)
    supervised = {"objective": [{"loss": "dice"}], "data": TINY["data"] | {"split_seed": 0}}
    trained = [train(tmp_path, dataset, f"run{seed}", seed=seed, **supervised) for seed in (1, 2, 3)]
    for run in trained:
        runs.validate(run, which="best")
        evaluate(dataset / "labelsTr", dataset / "labelsTr", run / "scored")
    best = [run / "validation" / "best" for run in trained]
    assert compare(best[0], best[1], tmp_path / "best").scope == TRAININGS
    assert compare(trained[0] / "scored", trained[1] / "scored", tmp_path / "scored").scope == MASKS
    compare(best[:2], best[2:], tmp_path / "groups")
    assert [_group("best", best).seeds, _group("masks", [trained[0] / "scored"]).seeds] == [[1, 2, 3], [None]]
