"""The number of threads with which a step is the fastest is found, and found again when the machine has changed."""

import pytest
import yaml
from runs_fixtures import make_phantom, write_recipe

from pipeline import runs
from pipeline.engines.course import Course
from pipeline.errors import UserError
from pipeline.runs.budget import Budget, Pace
from pipeline.runs.threads import REST, ThreadTrials


def alone(threads):
    return 8 / threads


def beside_other_work(threads):
    return 5.0 + threads


def after_parts(trials, threads, step_s, parts, **options):
    """Return the threads of each part, beginning with those of the first."""
    seen = [threads]
    for _ in range(parts):
        seen.append(trials.after(seen[-1], step_s(seen[-1]), **options))
    return seen


def test_all_threads_stay_where_they_are_the_fastest():
    assert after_parts(ThreadTrials(8), 8, alone, 100).count(8) == 100


def test_the_fewest_are_found_where_they_are_the_fastest():
    assert after_parts(ThreadTrials(8), 8, beside_other_work, 5) == [8, 4, 2, 1, 1, 1]


def test_a_number_in_between_is_found():
    assert after_parts(ThreadTrials(8), 8, lambda threads: 10 + abs(threads - 4), 4) == [8, 4, 2, 4, 4]


def test_other_work_that_comes_costs_threads_and_that_goes_gives_them_back():
    trials = ThreadTrials(8)
    assert after_parts(trials, 8, alone, 30)[-1] == 8
    assert after_parts(trials, 8, beside_other_work, 4) == [8, 4, 2, 1, 1]
    seen = after_parts(trials, 1, alone, REST + 3)
    assert seen == [1] * REST + [2, 4, 8, 8]


def test_more_threads_are_tried_a_part_at_a_time():
    seen = after_parts(ThreadTrials(8), 1, beside_other_work, 110)
    assert set(seen) == {1, 2}
    assert seen.count(2) == 10


def test_a_number_that_does_not_halve_is_come_back_to():
    assert 6 in after_parts(ThreadTrials(6), 1, alone, REST + 3)


def test_a_machine_that_is_slower_with_any_threads_is_tried_once():
    trials = ThreadTrials(8)
    after_parts(trials, 8, alone, 30)
    assert after_parts(trials, 8, lambda threads: 3 * alone(threads), 50).count(4) == 1


def test_a_single_thread_has_no_alternative():
    assert set(after_parts(ThreadTrials(1), 1, lambda _: 3.0, 50)) == {1}


def test_a_trial_that_is_no_faster_to_speak_of_is_taken_back():
    assert after_parts(ThreadTrials(2), 2, lambda threads: 1.0 if threads == 2 else 0.97, 2) == [2, 1, 2]


def test_where_the_pace_has_to_be_known_no_trial_begins_and_one_that_is_lost_ends():
    assert set(after_parts(ThreadTrials(8), 8, beside_other_work, 40, settle=True)) == {8}
    trials = ThreadTrials(8)
    assert trials.after(8, 1.0) == 4
    assert trials.after(4, 2.0, settle=True) == 8


def seconds_with_budget(tmp_path, step_s, seconds=1000.0, most=2):
    """Train without training; return the course and the time it took."""
    now = [0.0]
    keeper = Budget(tmp_path, seconds, clock=lambda: now[0], trials=ThreadTrials(most))
    steps, _ = keeper.fit(Pace(step_s(0.0, most)), 10**9)
    course, step = Course(steps), 0
    while step < course.last:
        step += 1
        now[0] += step_s(now[0] / seconds, course.threads_after(step - 1) or most)
        if (threads := keeper.other_threads(step, course)) is not None:
            course.threads = {**course.threads, step: threads}
        if (corrected := keeper.corrected(step, course)) is not None:
            course.correct(step, corrected)
    return course, now[0]


def test_a_trial_that_is_lost_early_ends_early(tmp_path):
    now = [0.0]
    keeper, course = Budget(tmp_path, 100.0, clock=lambda: now[0], trials=ThreadTrials(2, step_s=1.0)), Course(1000)
    seen = [keeper.other_threads(0, course)]
    for step, step_s in enumerate([1.0, 1.0, 1.0, 1.0, 3.0, 3.0, 9.0, 9.0], start=1):
        now[0] += step_s
        if (threads := keeper.other_threads(step, course)) is not None:
            course.threads = {**course.threads, step: threads}
        seen.append(threads)
    # Four steps, then as many as take their time: two slow ones, and two of the trial.
    assert seen == [None, None, None, None, None, None, 1, None, 2]


@pytest.mark.parametrize("begins", [0.0, 0.2, 0.5, 0.65, 0.7, 0.75])
def test_a_budget_is_kept_beside_other_work_by_fewer_threads(tmp_path, begins):
    def step_s(now, threads):
        return (5.0 if threads == 2 else 1.5) if now >= begins else 2 / threads

    course, took = seconds_with_budget(tmp_path, step_s)
    assert course.threads_after(course.last) == 1
    assert took == pytest.approx(985, abs=20)


def test_a_validation_is_no_time_of_a_step(tmp_path):
    now = [0.0]
    keeper = Budget(tmp_path, 1000.0, clock=lambda: now[0], trials=ThreadTrials(2))
    course, seen = Course(1000), []
    keeper.other_threads(1, course)
    for step in range(2, 60):
        now[0] += 3.0
        seen.append(keeper.other_threads(step, course))
        course.threads |= {step: seen[-1]} if seen[-1] else {}
        now[0] += 100.0
        keeper.leave_out(100.0)
    assert [threads for threads in seen if threads] == [1, 2], "one trial to begin with"


def test_trials_end_with_the_wish_to_end(tmp_path):
    now = [0.0]
    keeper = Budget(tmp_path, 1000.0, given_up=True, clock=lambda: now[0], trials=ThreadTrials(2))
    for step in range(1, 100):
        now[0] += 5.0
        assert keeper.other_threads(step, Course(1000)) is None


def test_what_is_written_down_is_repeated_before_anything_is_tried(tmp_path):
    now = [0.0]
    keeper, course = Budget(tmp_path, 1000.0, clock=lambda: now[0], trials=ThreadTrials(2)), Course(1000, {}, {50: 1})
    tried = []
    for step in range(1, 100):
        now[0] += 5.0
        if keeper.other_threads(step, course) is not None:
            tried.append(step)
    assert min(tried) >= 50


def test_a_course_tells_the_threads_of_each_step():
    course = Course(100, {}, {20: 1, 60: 4})
    assert [course.threads_after(step) for step in (0, 19, 20, 59, 60, 100)] == [None, None, 1, 1, 4, 4]


@pytest.mark.parametrize("threads", [[[5, 0]], [[5, 5000]], [[-1, 1]], [5]])
def test_threads_that_cannot_be_are_refused(tmp_path, threads):
    recipe = write_recipe(tmp_path, make_phantom(tmp_path / "data"), threads=threads)
    with pytest.raises(UserError) as error:
        runs.read_recipe(recipe)
    assert "threads" in error.value.problems[0].where


def test_a_run_without_a_budget_decides_nothing(tmp_path):
    recipe = write_recipe(tmp_path, make_phantom(tmp_path / "data"))
    runs.train(runs.read_recipe(recipe), tmp_path / "run")
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["threads"] == []
