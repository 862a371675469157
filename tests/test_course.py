from itertools import pairwise

import pytest

from pipeline.pacing.course import Course


def test_without_a_correction_the_share_is_the_quotient():
    assert [Course(7).share_done(step) for step in range(8)] == [step / 7 for step in range(8)]


@pytest.mark.parametrize("corrections", [{300: 1000}, {300: 800, 500: 600}, {1: 1199, 2: 2000}, {1198: 1300}])
def test_the_share_never_jumps_and_ends_at_one(corrections):
    course = Course(1200, corrections)
    shares = [course.share_done(step) for step in range(course.last + 1)]
    steps = [later - earlier for earlier, later in pairwise(shares)]
    assert shares[0] == 0
    assert shares[-1] == 1
    assert min(steps) > 0
    # Each step is as long as what is left asks for.
    for place, length in corrections.items():
        assert steps[place] == pytest.approx((1 - shares[place]) / (length - place))


def test_past_the_end_all_is_done():
    assert Course(10).share_done(11) == 1


def test_a_correction_changes_nothing_that_is_done():
    course = Course(100)
    before = [course.share_done(step) for step in range(41)]
    course.correct(40, 61)
    assert [course.share_done(step) for step in range(41)] == before
    assert course.last == 61
    assert course == Course(100, {40: 61})


@pytest.mark.parametrize(("step", "length"), [(0, 50), (50, 50), (100, 200), (60, 30), (-3, 20)])
def test_a_correction_that_cannot_be_is_refused_and_nothing_changes(step, length):
    course = Course(100)
    with pytest.raises(ValueError, match="not within"):
        course.correct(step, length)
    assert course == Course(100)


def test_a_correction_forgets_those_that_were_to_come():
    course = Course(100, {20: 80, 60: 70})
    course.correct(40, 44)
    assert course == Course(100, {20: 80, 40: 44})


def test_corrections_rise():
    with pytest.raises(ValueError, match="rising"):
        Course(100, {50: 90, 20: 80})
