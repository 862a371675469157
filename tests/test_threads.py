"""The number of threads with which a step is the fastest is found, and found again when the machine has changed."""

from itertools import pairwise
from math import inf
from types import SimpleNamespace

import pytest
import torch
import yaml
from runs_fixtures import assert_same_run, make_phantom, plug_pulled_at, write_recipe

from pipeline import runs
from pipeline.decisions import Decisions
from pipeline.engines.handlers import DataWait
from pipeline.engines.steps import TrainingStep
from pipeline.errors import UserError
from pipeline.pacing.budget import Budget, Pace
from pipeline.pacing.course import Course
from pipeline.pacing.threads import LONGEST_REST, REST, STEPS, ThreadTrials
from pipeline.runs.timing import LONGEST, time_threads


def alone(threads):
    return 8 / threads


def beside_other_work(threads):
    return 5.0 + threads


def threads_of_parts(trials, threads, step_s, parts, **options):
    """Return the threads of each part, beginning with those of the first; ``step_s`` tells the seconds of a step."""
    seen = [threads]
    for _ in range(parts * STEPS):
        other = trials.after_step(threads, step_s(threads), **options)
        seen += [other] * (trials._times == [])
        threads = other
    return seen


def all_in_use(most):
    return ThreadTrials(most, step_s=alone(most), rest=REST)


def test_all_threads_stay_where_they_are_the_fastest():
    assert set(threads_of_parts(all_in_use(8), 8, alone, 100)) == {8}


def test_the_fewest_are_found_where_they_are_the_fastest():
    assert threads_of_parts(all_in_use(8), 8, beside_other_work, 5)[:6] == [8, 4, 2, 1, 1, 1]


def test_a_number_in_between_is_found():
    assert threads_of_parts(all_in_use(8), 8, lambda threads: 10 + abs(threads - 4), 4)[:5] == [8, 4, 2, 4, 4]


def test_other_work_that_comes_costs_threads_and_that_goes_gives_them_back():
    trials = all_in_use(8)
    assert threads_of_parts(trials, 8, beside_other_work, 4) == [8, 4, 2, 1, 1]
    assert threads_of_parts(trials, 1, alone, REST + 3) == [1] * REST + [2, 4, 8, 8]


def test_more_threads_are_tried_in_vain_less_and_less_often():
    trials = ThreadTrials(8, rest=REST)
    trials.after_step(1, 6.0)
    seen = threads_of_parts(trials, 1, beside_other_work, 2000)
    assert set(seen) == {1, 2}
    tried = [part for part, threads in enumerate(seen) if threads == 2]
    gaps = [b - a for a, b in pairwise(tried)]
    assert gaps[:5] == [REST + 1, 2 * REST + 1, 4 * REST + 1, 8 * REST + 1, 16 * REST + 1]
    assert max(gaps) == LONGEST_REST + 1


def test_where_nothing_is_known_all_is_tried_at_once():
    # A run that goes on does not know whether its last number was kept, or a trial.
    assert threads_of_parts(ThreadTrials(4), 1, alone, 4) == [1, 2, 4, 4, 4]
    assert threads_of_parts(ThreadTrials(4), 4, alone, 3)[:3] == [4, 2, 4]


def test_a_number_that_does_not_halve_is_come_back_to():
    assert threads_of_parts(ThreadTrials(6), 1, alone, 5)[:5] == [1, 2, 4, 6, 6]


def test_a_machine_that_is_slower_with_any_threads_is_tried_once():
    seen = threads_of_parts(all_in_use(8), 8, lambda threads: 3 * alone(threads), 50)
    assert seen.count(4) == 1


def test_a_single_thread_has_no_alternative():
    assert set(threads_of_parts(ThreadTrials(1), 1, lambda _: 3.0, 50)) == {1}


def test_a_trial_that_is_no_faster_to_speak_of_is_taken_back():
    trials = ThreadTrials(2)
    assert threads_of_parts(trials, 2, lambda threads: 1.0 if threads == 2 else 0.97, 2) == [2, 1, 2]


def test_one_long_step_is_no_reason_for_a_trial():
    times = iter([4.0, 4.0, 4.0, 60.0] * 20)
    assert set(threads_of_parts(ThreadTrials(2, step_s=4.0, rest=REST), 2, lambda _: next(times), 20)) == {2}


def test_a_trial_that_is_lost_early_ends_early():
    trials = ThreadTrials(2, part_s=30.0, step_s=1.0)
    threads = [2]
    for step_s in [1.0] * 30 + [3.0] * 10 + [20.0] * 3:
        threads.append(trials.after_step(threads[-1], step_s))
    assert threads.index(1) == 40, "after parts of 30 s"
    assert threads[40:] == [1, 1, 2, 2], "as soon as four steps would have taken less"


def test_a_long_step_in_a_trial_is_weighed_against_all_of_it():
    trials, threads = ThreadTrials(2, part_s=10.0, step_s=0.1), [2]
    for step_s in [0.4] * 25 + [2.0] + [0.18] * 60:
        threads.append(trials.after_step(threads[-1], step_s))
    assert set(threads[25:]) == {1}


def test_late_in_a_training_threads_become_fewer_and_not_more():
    assert set(threads_of_parts(ThreadTrials(8), 1, alone, 40, more=False)) == {1}
    assert threads_of_parts(all_in_use(8), 8, beside_other_work, 3, more=False) == [8, 4, 2, 1]


def seconds_with_budget(tmp_path, step_s, seconds=1000.0, most=2):
    """Train without training; return the course and the time it took."""
    now = [0.0]
    keeper = Budget(seconds=seconds, clock=lambda: now[0])
    keeper.trials = ThreadTrials(most, keeper.trials.part_s, step_s(0.0, most), REST)
    steps, _ = keeper.fit(Pace(step_s(0.0, most)), 10**9)
    course, step = Course(steps, {}, {0: most}), 0
    while step < course.last:
        step += 1
        took = step_s(now[0] / seconds, course.threads_after(step - 1))
        now[0] += took
        if (threads := keeper.other_threads(step, took, course)) is not None:
            course.threads = {**course.threads, step: threads}
        if (corrected := keeper.corrected(step, course)) is not None:
            course.correct(step, corrected)
    return course, now[0]


@pytest.mark.parametrize("seconds", [100.0, 1000.0])
@pytest.mark.parametrize("begins", [0.05, 0.2, 0.5, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.94])
def test_a_budget_is_kept_beside_other_work_by_fewer_threads(tmp_path, begins, seconds):
    def step_s(now, threads):
        return (2.5 if threads == 2 else 0.75) if now >= begins else 1 / threads

    course, took = seconds_with_budget(tmp_path, step_s, seconds)
    assert course.threads_after(course.last) == 1
    assert took == pytest.approx(0.985 * seconds, rel=0.1)


def test_other_work_that_goes_gives_the_threads_back(tmp_path):
    def step_s(now, threads):
        return (2.5 if threads == 2 else 0.75) if 0.2 < now < 0.5 else 1 / threads

    course, took = seconds_with_budget(tmp_path, step_s)
    assert course.threads_after(course.last) == 2
    assert took == pytest.approx(985, abs=20)


def test_a_run_that_was_asked_to_end_in_a_trial_takes_it_back(tmp_path):
    keeper, course = Budget(seconds=100.0, clock=lambda: 0.0), Course(1000, {}, {0: 1})
    keeper.trials = ThreadTrials(2, step_s=1.0)
    threads = 1
    for step in range(1, 12):
        other = keeper.other_threads(step, 1.0 if threads == 1 else 9.0, course)
        if other is not None:
            course.threads, threads = {**course.threads, step: other}, other
        keeper.given_up = threads == 2
    assert course.threads == {0: 1, 7: 2, 8: 1}


def test_the_first_steps_of_a_command_say_nothing(tmp_path):
    keeper, course = Budget(seconds=100.0, clock=lambda: 0.0), Course(1000, {}, {0: 2})
    keeper.trials = ThreadTrials(2, step_s=1.0)
    seen = [keeper.other_threads(step, 9.0 if step <= 3 else 1.0, course) for step in range(1, 20)]
    assert set(seen) == {None}


def test_trials_of_a_long_run_do_not_hide_its_pace(tmp_path):
    # From some time on one thread is the best, and faster than two were; two are tried again and again.
    course, took = seconds_with_budget(tmp_path, lambda now, threads: (2.0 if now < 0.1 else 3.2) * threads, 86400.0)
    assert len(course.threads) > 50
    first = min(course.corrections)
    assert first / course.max_steps == pytest.approx(2 / 3, abs=0.02)
    assert took == pytest.approx(0.985 * 86400, rel=0.01)


def test_what_is_written_down_is_repeated_before_anything_is_tried(tmp_path):
    keeper, course = Budget(seconds=1000.0), Course(1000, {}, {0: 8, 50: 4})
    keeper.trials = ThreadTrials(8, step_s=1.0, rest=REST)
    judged = []
    keeper.trials.after_step = lambda threads, step_s, more: judged.append((threads, step_s)) or threads
    for step in range(40, 60):
        keeper.other_threads(step, float(step), course)
    assert judged == [(4, float(step)) for step in range(51, 60)]


def test_threads_of_a_gpu_are_not_tried(tmp_path):
    keeper = Budget(seconds=1000.0)
    keeper.trials = ThreadTrials(8)
    assert {keeper.other_threads(step, 9.0, Course(100)) for step in range(100)} == {None}
    decided = Decisions(corrections=((3, 7),), threads=((0, 2),))
    assert decided.on("cuda") == Decisions(corrections=((3, 7),))
    assert decided.on("cpu") == decided


@pytest.fixture
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


class Timed:
    """A training whose steps take as long as is told of its threads, and that notes what was timed."""

    def __init__(self, seconds, device="cpu"):
        self.settings, self.seconds, self.seen = SimpleNamespace(device=device), seconds, []

    def step_s(self, warm, timed, at_most_s=inf):
        self.seen.append((torch.get_num_threads(), warm + timed, at_most_s))
        return self.seconds[torch.get_num_threads()]


@pytest.mark.parametrize(("seconds", "best"), [({4: 1.0, 2: 0.9}, 2), ({4: 1.0, 2: 0.97}, 4), ({4: 1.0, 2: 1.9}, 4)])
def test_half_of_the_threads_are_taken_where_they_are_faster(four_threads, tmp_path, seconds, best):
    training = Timed(seconds)
    assert time_threads(training, Budget(seconds=1e4)) == (best, seconds[best])
    assert [seen[0] for seen in training.seen] == [2, 4]
    assert training.seen[-1][2] == LONGEST * seconds[2]
    assert torch.get_num_threads() == 4


def test_all_threads_are_timed_alone_where_a_gpu_computes(four_threads, tmp_path):
    training = Timed({4: 1.0}, device="cuda")
    assert time_threads(training, Budget(seconds=1e4)) == (4, 1.0)
    assert [seen[0] for seen in training.seen] == [4]


@pytest.mark.parametrize(("step_s", "timed"), [(1.0, [2, 4]), (30.0, [2])])
def test_threads_are_timed_for_a_share_of_the_budget(four_threads, tmp_path, step_s, timed):
    now, training = [0.0], Timed({4: step_s, 2: step_s})
    budget = Budget(seconds=300.0, clock=lambda: now[0])
    budget.begin_timing()

    def step(warm, timed, at_most_s=inf):
        training.seen.append((torch.get_num_threads(), warm + timed, at_most_s))
        now[0] += step_s
        return step_s

    training.step_s = step
    assert time_threads(training, budget)[1] == step_s
    assert [seen[0] for seen in training.seen] == timed
    assert training.seen[0][2] == 10, "a third of a tenth"


def test_a_run_begins_with_the_threads_that_were_faster(four_threads, tmp_path, monkeypatch):
    update, seen = TrainingStep.__call__, []

    def watched(self, engine, batches):
        seen.append(torch.get_num_threads())
        return update(self, engine, batches)

    timed = "pipeline.runs.setup.Setup"
    monkeypatch.setattr(TrainingStep, "__call__", watched)
    monkeypatch.setattr(f"{timed}.step_s", lambda *_: float(torch.get_num_threads()))
    monkeypatch.setattr(f"{timed}.pace", lambda *_: seen.append(torch.get_num_threads()) or Pace(1.0))
    monkeypatch.setattr(Budget, "fit", lambda *_: (4, 2))
    monkeypatch.setattr(Budget, "other_threads", lambda *_: None)
    recipe = write_recipe(tmp_path, make_phantom(tmp_path / "data"), max_steps="auto", time_budget="1h")
    runs.train(runs.read_recipe(recipe), tmp_path / "run")
    assert seen == [2] * 5
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["decided"]["threads"] == [[0, 2]]
    assert torch.get_num_threads() == 4


def test_a_calibration_that_fails_leaves_the_threads_as_they_were(four_threads, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.runs.setup.Setup.step_s", lambda *_: float(torch.get_num_threads()))
    recipe = write_recipe(tmp_path, make_phantom(tmp_path / "data"), max_steps="auto", time_budget="5s")
    with pytest.raises(UserError, match="does not fit its time"):
        runs.train(runs.read_recipe(recipe), tmp_path / "run")
    assert torch.get_num_threads() == 4


def test_a_training_that_is_killed_in_a_trial_ends_as_one_that_was_not(four_threads, tmp_path, monkeypatch):
    """With real trials: steps take a time that is made up, and everything else is as it is."""
    recipe = write_recipe(
        tmp_path, make_phantom(tmp_path / "data"), max_steps="auto", time_budget="1h", checkpoint_every=3
    )
    monkeypatch.setattr("pipeline.runs.setup.Setup.step_s", lambda *_: 1.0)
    monkeypatch.setattr("pipeline.runs.setup.Setup.pace", lambda *_: Pace(1.0))
    monkeypatch.setattr(Budget, "fit", lambda *_: (40, 20))
    monkeypatch.setattr(Budget, "corrected", lambda *_: None)
    monkeypatch.setattr("pipeline.pacing.budget.PART", 0.0)
    monkeypatch.setattr(DataWait, "step_s", property(lambda _: 9.0 if torch.get_num_threads() == 4 else 3.0))
    run = tmp_path / "run"
    with plug_pulled_at(14):
        runs.train(runs.read_recipe(recipe), run)
    assert yaml.safe_load((run / "config.yaml").read_text())["decided"]["threads"] == [[0, 4], [7, 2], [11, 1]]
    runs.train(runs.read_recipe(recipe), run, resume=True)
    decided = yaml.safe_load((run / "config.yaml").read_text())["decided"]["threads"]
    assert decided[:3] == [[0, 4], [7, 2], [11, 1]]
    assert len(decided) > 3, "a trial goes on after the resumption"
    again = tmp_path / "again"
    asked = runs.read_request(run / "config.yaml")
    runs.train(asked.recipe, again, decided=asked.decided)
    assert_same_run(again, run)


def test_a_course_tells_the_threads_of_each_step():
    course = Course(100, {}, {20: 1, 60: 4})
    assert [course.threads_after(step) for step in (0, 19, 20, 59, 60, 100)] == [None, None, 1, 1, 4, 4]


@pytest.mark.parametrize("threads", [[[5, 0]], [[5, 5000]], [[-1, 1]], [5], [[4, 1], [4, 2]], [[4, 1], [3, 2]]])
def test_threads_that_cannot_be_are_refused(tmp_path, threads):
    recipe = write_recipe(tmp_path, make_phantom(tmp_path / "data"), decided={"threads": threads})
    with pytest.raises(UserError) as error:
        runs.read_recipe(recipe)
    assert error.value.problems[0].where.startswith("decided.threads")


def test_a_run_without_a_budget_decides_nothing(tmp_path):
    recipe = write_recipe(tmp_path, make_phantom(tmp_path / "data"))
    runs.train(runs.read_recipe(recipe), tmp_path / "run")
    assert "decided" not in yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())


def test_the_last_correction_does_not_wait_for_a_pace_that_comes_too_late(tmp_path):
    now = [0.0]
    keeper, course = Budget(seconds=1000.0, clock=lambda: now[0]), Course(1000)
    keeper.fit(Pace(1.0), 10**9)
    for step, now[0] in ((900, 940.0), (905, 951.0), (910, 962.0)):
        steps = keeper.corrected(step, course)
    assert steps == 910 + int((985 - 962) / 2.2)
