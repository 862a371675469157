"""A training keeps to its time, and is repeated from what it wrote down."""

import json
import re
import time
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from runs_fixtures import TINY, assert_same_run, make_phantom, plug_pulled_at, state_of, write_recipe
from test_plan import CPU, GPU, MANY, recipe
from torch import nn

from pipeline import runs
from pipeline.bounds import seconds_of
from pipeline.commands import training
from pipeline.engines.schedules import Schedule
from pipeline.engines.steps import TrainingStep
from pipeline.errors import UserError
from pipeline.losses.dice import DiceLoss
from pipeline.losses.objective import Objective, Term
from pipeline.pacing.budget import AIM, Budget, Pace
from pipeline.pacing.course import Course
from pipeline.planning.plan import DEFAULT_STEPS, DEFAULT_STEPS_CUDA, make_plan
from pipeline.runs import planning, timing
from pipeline.runs.folder import RunFolder
from pipeline.runs.setup import Setup
from pipeline.runs.timing import time_steps


class Clock:
    """Goes on by what it is told."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def budget(seconds=1000.0, **fields):
    clock = Clock()
    return Budget(seconds=seconds, began=clock.now, clock=clock, **fields), clock


def run_with(tmp_path, pace, times, seconds=1000.0, every=10**9):
    """Train without training: ``times`` says how many times as long as timed a step takes at a moment, from 0 to 1.

    All else takes twice as long at most. Return the course and the time it took.
    """
    keeper, clock = budget(seconds)

    def passes(timed_s, most=9.0):
        clock.now += timed_s * min(most, times((clock.now - keeper.began) / seconds))

    clock.now += 20
    steps, every = keeper.fit(pace, every)
    course, step = Course(steps), 0
    while step < course.last:
        step += 1
        passes(pace.step_s)
        if (corrected := keeper.corrected(step, course)) is not None:
            course.correct(step, corrected)
        if step % every == 0 and step < course.last:
            before = clock.now
            passes(pace.validation_s, most=2.0)
            keeper.leave_out(clock.now - before)
    passes(pace.tail_s, most=2.0)
    return course, clock.now - keeper.began


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("1.5m", 90), ("2h", 7200), ("0.5d", 43200)])
def test_durations(text, seconds):
    assert seconds_of(text) == seconds


def test_steps_validations_and_the_end_fill_the_time():
    pace = Pace(0.5, 10.0, 30.0)
    steps = pace.steps_in(1030.0, validate_every=100)
    assert steps * 0.5 + steps / 100 * 10 == pytest.approx(1000, abs=1)


def test_validations_that_cost_much_are_further_apart():
    assert Pace(1.0, 1.0).validate_every(250) == 250
    assert Pace(1.0, 100.0).validate_every(250) == 2000


def test_at_the_pace_that_was_timed_nothing_is_corrected(tmp_path):
    course, took = run_with(tmp_path, Pace(1.0, 0.0, 15.0), lambda _: 1.0)
    assert not course.corrections
    assert took == pytest.approx(1000 * AIM, abs=1)


@pytest.mark.parametrize("factor", [0.6, 1.3, 2.0])
def test_another_pace_is_corrected_and_the_time_kept(tmp_path, factor):
    course, took = run_with(tmp_path, Pace(1.0, 9.0, 15.0), lambda _: factor, every=90)
    assert 1 <= len(course.corrections) <= 2
    assert abs(took - 1000) < 50


@pytest.mark.parametrize("begins", [0.05, 0.2, 0.35, 0.5, 0.6, 0.7, 0.8, 0.97])
@pytest.mark.parametrize("factor", [0.6, 1.6, 5.0])
def test_other_work_that_comes_or_goes_at_any_time_costs_ten_percent_at_most(tmp_path, begins, factor):
    course, took = run_with(tmp_path, Pace(1.0, 9.0, 15.0), lambda now: factor if now >= begins else 1.0, every=90)
    assert len(course.corrections) <= 2
    assert abs(took - 1000) < 100


def test_a_slower_machine_is_slower_at_the_end_too(tmp_path):
    _, took = run_with(tmp_path, Pace(1.0, 9.0, 100.0), lambda now: 2.5 if now > 0.05 else 1.0, every=90)
    assert abs(took - 1000) < 50


@pytest.mark.parametrize("begins", [0.6, 0.602, 0.604, 0.606, 0.608])
def test_the_last_correction_waits_until_the_new_pace_is_known(tmp_path, begins):
    course, took = run_with(tmp_path, Pace(1.0, 9.0, 15.0), lambda now: 2.5 if now > begins else 1.1, every=90)
    assert len(course.corrections) == 2
    assert abs(took - 1000) < 50


def test_an_end_that_has_become_long_is_kept_free(tmp_path):
    _, took = run_with(tmp_path, Pace(1.0, 9.0, 110.0), lambda now: 5.0 if now > 0.55 else 1.1, every=90)
    assert took < 1100


def test_what_is_off_by_little_is_corrected_near_the_end(tmp_path):
    course, took = run_with(tmp_path, Pace(1.0, 9.0, 15.0), lambda now: 1.25 if now > 0.7 else 1.1, every=90)
    assert len(course.corrections) == 2
    assert abs(took - 1000 * AIM) < 15


def test_validations_are_not_counted_twice(tmp_path):
    course, _ = run_with(tmp_path, Pace(1.0, 9.0, 15.0), lambda _: 1.0, seconds=1e5, every=180)
    assert not course.corrections


def test_other_work_of_a_moment_is_made_up_for(tmp_path):
    _, took = run_with(tmp_path, Pace(1.0, 9.0, 15.0), lambda now: 3.0 if 0.6 < now < 0.62 else 1.0, every=90)
    assert abs(took - 1000 * AIM) < 15


def test_a_time_that_is_too_short_says_how_much_is_needed(tmp_path):
    keeper, clock = budget(30.0)
    clock.now += 20
    with pytest.raises(UserError, match="of 30 s for this training 20 are gone") as raised:
        keeper.fit(Pace(2.0, 0.0, 5.0), 250)
    assert "1.2m or more" in str(raised.value)


def test_what_is_spent_is_not_forgotten(tmp_path):
    keeper, clock = budget()
    keeper.fit(Pace(1.0, 7.0, 12.0), 250)
    clock.now += 300
    folder = RunFolder(tmp_path)
    folder.write_budget(keeper)
    again = folder.read_budget(began=clock.now)
    assert (again.seconds, again.spent_s, again.pace, again.validate_every) == (1000, 300, Pace(1.0, 7.0, 12.0), 250)
    assert RunFolder(tmp_path / "elsewhere").read_budget(0.0) is None


def test_corrections_that_are_written_down_count_after_a_kill(tmp_path):
    keeper, clock = budget()
    course = Course(100, {34: 60, 45: 80})
    for step in range(46, 80):
        clock.now += 50
        assert keeper.corrected(step, course) is None


def test_a_run_that_was_asked_to_end_is_not_lengthened_again(tmp_path):
    keeper, clock = budget()
    course = Course(985)
    for step in range(1, 900):
        clock.now += 1.0
        if step == 500:
            keeper.give_up()
            course.correct(step, 900)
        assert keeper.corrected(step, course) is None
    assert Budget.from_dict(keeper.as_dict(), began=0.0).given_up


def test_the_pace_is_not_judged_by_a_validation_or_the_first_step_after_a_resume(tmp_path):
    keeper, clock = budget(spent_s=400.0)
    course = Course(300 + 470)
    for step in range(301, 400):
        clock.now += 15.0 if step == 301 else 1.0  # Which loads the first batches.
        assert keeper.corrected(step, course) is None
        if step == 301:
            clock.now += 100.0
            keeper.leave_out(100.0)


def test_steps_that_are_made_again_after_a_failure_are_no_pace(tmp_path):
    keeper, clock = budget()
    course = Course(800, {200: 400})
    for step in (*range(301, 340), *range(332, 345)):
        clock.now += 10.0
        assert keeper.corrected(step, course) is None


def test_timing_steps_leaves_the_step_as_it_was():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.Conv3d(4, 2, 1))
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)
    terms = [
        Term(name="dice", loss=DiceLoss(), on="labelled"),
        Term(name="late", loss=DiceLoss(), on="labelled", ramp=1.0),
    ]
    step = TrainingStep(
        network=network,
        objective=Objective(terms),
        optimizer=optimizer,
        schedule=Schedule(0.1, 0.1),
        course=Course(9),
        precision=torch.float32,
        clip_norm=12.0,
        seed=0,
    )
    before = {key: value.clone() for key, value in network.state_dict().items()}
    batch = {"image": torch.randn(1, 1, 8, 8, 8), "annotation": torch.full((1, 1, 8, 8, 8), 2, dtype=torch.uint8)}
    seen = []

    def load():
        for _ in range(100):
            seen.append(step.course.share_done(10**6))
            yield {"labelled": batch | {"case": ["a"]}}

    assert time_steps(step, load) > 0
    assert set(seen) == {0.5}, "where every term has its weight"
    assert len(seen) < 20
    assert all(torch.equal(network.state_dict()[key], before[key]) for key in before)
    assert not optimizer.state
    assert step.course == Course(9)
    step(SimpleNamespace(state=SimpleNamespace(iteration=1)), {"labelled": batch | {"case": ["a"]}})
    for at_most_s, steps in ((0.0, 1), (1e9, 2 + 5)):
        seen.clear()
        assert time_steps(step, load, 2, 5, at_most_s) > 0
        assert len(seen) == steps, "one at least"


# What is chosen by timing.


class Trial:
    """A training whose steps take what is told of its memory format and width, with sources half more a member."""

    def __init__(self, recipe, seconds):
        self.settings, self.seconds = recipe, seconds
        self.timed = []

    def step_s(self, *_):
        network = self.settings.network
        key = (network.memory_format, network.options["channels"][0])
        self.timed.append(key)
        more = 0.5 * (network.members - 1) if self.settings.sources and network.members != "auto" else 0
        return self.seconds[key] * (1 + more)


def chosen_recipe(tmp_path, seconds, budget_s, channels="auto", memory_format="auto", hardware=CPU, **more):
    """Return the recipe that is chosen, and what was timed on the way."""
    network = {"name": "dynunet", "options": {"channels": channels}, "memory_format": memory_format, **more}
    plan = make_plan(recipe(network=network, time_budget="1h"), MANY, hardware)
    first = Trial(timing.to_begin_with(plan.recipe), seconds)

    def make(other):
        trial = Trial(other, seconds)
        trial.timed = first.timed
        return trial

    threads, first_s = timing.time_threads(first, budget(budget_s)[0])
    assert threads == 1
    found, step_s = timing.choose(first, first_s, plan, budget(budget_s)[0], make)
    network = found.settings.network
    assert step_s == seconds[network.memory_format, network.options["channels"][0]]
    return found.settings, first.timed


def chosen(*args, **kwargs):
    """Return the memory format and width that are chosen, and what was timed on the way."""
    found, timed = chosen_recipe(*args, **kwargs)
    return found.network.memory_format, found.network.options["channels"][0], timed


ROOMY = replace(CPU, memory_bytes=2**36)
PLAIN, LAST = ("contiguous", 16), ("channels_last", 16)
WIDE, WIDE_LAST = ("contiguous", 32), ("channels_last", 32)


@pytest.mark.parametrize(("last_s", "expected"), [(0.9, "channels_last"), (0.97, "contiguous"), (2.0, "contiguous")])
def test_memory_format_is_the_faster_one_if_that_is_worth_it(tmp_path, last_s, expected):
    assert chosen(tmp_path, {PLAIN: 1.0, LAST: last_s}, 600) == (expected, 16, [PLAIN, LAST])


def test_nothing_is_tried_where_that_would_take_much_of_the_time(tmp_path):
    assert chosen(tmp_path, {PLAIN: 1.0, LAST: 0.1}, 200) == ("contiguous", 16, [PLAIN])


def test_what_is_given_is_not_tried(tmp_path):
    found = chosen(tmp_path, {("contiguous", 8): 1.0}, 10**6, [8, 8, 8], "contiguous", ROOMY)
    assert found == ("contiguous", 8, [("contiguous", 8)])
    found = chosen(tmp_path, {("channels_last", 8): 1.0}, 10**6, [8, 8, 8], "channels_last", ROOMY)
    assert found == ("channels_last", 8, [("channels_last", 8)])


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (1.1, (*WIDE_LAST, [PLAIN, LAST, WIDE_LAST])),
        (0.9, (*LAST, [PLAIN, LAST, WIDE_LAST])),
        (0.4, (*LAST, [PLAIN, LAST])),
    ],
)
def test_network_is_wider_where_that_leaves_steps_enough(tmp_path, steps, expected):
    seconds = {PLAIN: 1.2, LAST: 1.0, WIDE_LAST: 4.0}
    assert chosen(tmp_path, seconds, steps * 4.0 * DEFAULT_STEPS * 3 / 4 / AIM, hardware=ROOMY) == expected


def test_network_is_not_wider_than_the_memory(tmp_path):
    poor = replace(CPU, memory_bytes=2**29)
    assert chosen(tmp_path, {PLAIN: 1.0, LAST: 2.0}, 10**6, hardware=poor)[:2] == PLAIN


@pytest.mark.parametrize(("shares", "expected"), [(0.9, 1), (1.9, 1), (2.1, 2), (3.1, 3), (99, 3)])
@pytest.mark.parametrize(("hardware", "steps"), [(CPU, DEFAULT_STEPS), (GPU, DEFAULT_STEPS_CUDA)])
def test_each_network_of_an_ensemble_has_three_quarters_of_the_steps_of_a_training_without_a_budget(
    tmp_path, shares, expected, hardware, steps
):
    hardware = replace(hardware, memory_bytes=2**36)
    options = {"channels": [8, 8, 8], "memory_format": "contiguous", "members": "auto", "hardware": hardware}
    found, timed = chosen_recipe(tmp_path, {("contiguous", 8): 1.0}, shares * steps * 3 / 4 / AIM, **options)
    assert (found.network.members, timed) == (expected, [("contiguous", 8)])


@pytest.mark.parametrize(("shares", "expected"), [(1.9, (1, 1.0)), (2.9, (1, 1.0)), (3.1, (2, 1.5)), (6.1, (3, 2.0))])
def test_networks_of_a_teacher_who_predicts_with_all_of_them_are_timed_together(shares, expected):
    network = {"name": "dynunet", "options": {"channels": [8, 8, 8]}, "memory_format": "contiguous"}
    plan = make_plan(recipe(network=network, sources=({"source": "mean_teacher"},)), MANY, ROOMY)
    seconds = {("contiguous", 8): 1.0}
    time = budget(shares * 100 / AIM)[0]
    first = Trial(plan.recipe, seconds)
    found, step_s = timing.several_networks(first, 1.0, 3, 100, time, lambda other: Trial(other, seconds))
    assert (found.settings.network.members, step_s) == expected


def test_members_that_are_given_stay_and_segments_have_one(tmp_path):
    assert chosen_recipe(tmp_path, {PLAIN: 1.0, LAST: 2.0}, 10**3, members=2)[0].network.members == 2
    network = {"name": "dynunet", "members": "auto"}
    assert make_plan(recipe(network=network, time_budget="2d"), MANY, ROOMY).most_members == 3
    assert make_plan(recipe(network=network), MANY, ROOMY).most_members == 1
    assert make_plan(recipe(["all"], network=network, time_budget="2d", segments=3), MANY, ROOMY).most_members == 1


@pytest.mark.parametrize(
    ("members", "times", "expected"),
    [
        (1, 0.99, (16, 1)),
        (1, 1.01, (32, 1)),
        (2, 1.99, (16, 2)),
        (2, 2.01, (32, 2)),
        (3, 2.99, (16, 3)),
        (3, 3.01, (32, 3)),
        ("auto", 1.99, (16, 3)),
        ("auto", 2.01, (32, 2)),
        ("auto", 3.01, (32, 3)),
    ],
)
def test_network_is_wider_where_two_of_them_have_steps_enough_or_all_that_are_given(tmp_path, members, times, expected):
    seconds = {PLAIN: 1.0, LAST: 2.0, WIDE: 4.0}
    enough = 4.0 * DEFAULT_STEPS * 3 / 4 / AIM
    network = chosen_recipe(tmp_path, seconds, times * enough, hardware=ROOMY, members=members)[0].network
    assert (network.options["channels"][0], network.members) == expected


# A time that is short.


class Machine:
    """A training on a machine on which a step takes time by its voxels, and scans and validations theirs."""

    def __init__(self, recipe, clock, voxel_s=0.0, scan_s=0.0, case_s=0.0, made=None):
        self.settings, self.clock, self.case_s = recipe, clock, case_s
        self.voxel_s, self.scan_s, self.made = voxel_s, scan_s, [] if made is None else made
        self.is_prepared = False
        self.made.append(self)

    @property
    def one_s(self):
        data = self.settings.data
        return self.voxel_s * data.batch_size * torch.Size(data.patch_size).numel()

    def prepare(self, so_far=lambda *_: None):
        for scan in range(0 if self.is_prepared else 100):
            self.clock.now += self.scan_s
            so_far(scan + 1, 100)
        self.is_prepared = True

    def step_s(self, warm=3, timed=8, at_most_s=float("inf")):
        began = self.clock.now
        for _ in range(warm + timed):
            self.clock.now += self.one_s
            if self.clock.now - began >= at_most_s:
                break
        return self.one_s

    def pace(self, step_s, at_most_s=float("inf")):
        self.clock.now += self.case_s
        return Pace(step_s, 20 * self.case_s, 30 * self.case_s)

    def decide(self, recipe, decided):
        self.settings, self.decided = recipe, decided


def fitted(tmp_path, seconds, spent=5.0, **machine):
    """Return the training that a budget is given, all that were made for it, and the seconds until it begins."""
    plan = make_plan(recipe(network="dynunet", time_budget=f"{seconds}s"), MANY, CPU)
    keeper, clock = budget(seconds)
    clock.now += spent
    first = Machine(timing.to_begin_with(plan.recipe), clock, **machine)
    more = machine | {"made": first.made}
    found = timing._fit(first, plan, keeper, lambda other: Machine(other, clock, **more))
    return found, first.made, clock.now - keeper.began - spent


@pytest.mark.parametrize("seconds", [20, 60, 240, 900, 3600])
@pytest.mark.parametrize("whole_s", [0.1, 1.0, 10.0, 60.0])
def test_timing_takes_a_tenth_of_the_budget_and_the_steps_that_are_under_way(tmp_path, seconds, whole_s):
    voxel_s = whole_s / (4 * 40 * 56 * 56)  # About the plan's own batch.
    made = []
    with suppress(UserError):  # Too short for any training.
        fitted(tmp_path, seconds, voxel_s=voxel_s, made=made)
    taken = made[0].clock.now - 105.0
    assert 0 < taken <= 0.1 * seconds + 2 * whole_s
    assert len(made) <= 4


def test_what_is_too_slow_is_made_smaller_until_many_steps_fit(tmp_path):
    plan = make_plan(recipe(network="dynunet"), MANY, CPU).recipe.data
    voxel_s = 1.0 / (plan.batch_size * torch.Size(plan.patch_size).numel())
    for seconds, smaller in ((600, False), (200, True), (60, True)):
        found, _, _ = fitted(tmp_path, seconds, voxel_s=voxel_s)
        data = found.settings.data
        assert (data.patch_size != plan.patch_size or data.batch_size < plan.batch_size) == smaller
        assert found.settings.max_steps >= 200
        # The levels of the network fit the patch.
        strides = found.settings.network.options["strides"]
        shrunk = [torch.Size(along).numel() for along in zip(*strides, strict=True)]
        assert all(side % factor == 0 for side, factor in zip(data.patch_size, shrunk, strict=True))


def test_batches_become_smaller_before_patches_and_what_is_given_stays():
    lighter = make_plan(recipe(network="dynunet", time_budget="1m"), MANY, CPU).lighter
    sizes = [(other.data.batch_size, torch.Size(other.data.patch_size).numel()) for other, _ in lighter]
    assert len(sizes) >= 3
    assert sizes[0][0] == 2
    assert all(b < a or (bv < av and a == b) for (a, av), (b, bv) in pairwise(sizes))
    assert [share for _, share in lighter] == sorted({share for _, share in lighter}, reverse=True)
    assert lighter[-1][1] < 0.3
    given = recipe(network="dynunet", time_budget="1m", data={"batch_size": 4, "patch_size": (40, 56, 56)})
    assert make_plan(given, MANY, CPU).lighter == ()
    assert make_plan(recipe(network="dynunet"), MANY, CPU).lighter == ()
    both = make_plan(recipe(["labelled", "unlabelled"], network="dynunet", time_budget="1m"), MANY, CPU)
    assert min(other.data.unlabelled_batch_size for other, _ in both.lighter) == 1


def test_scans_that_take_longer_than_the_budget_are_not_all_waited_for(tmp_path):
    with pytest.raises(UserError, match="preparing 100 scans takes about 200 s") as raised:
        fitted(tmp_path, 60, scan_s=2.0, voxel_s=1e-9)
    assert "data.patch_size" in str(raised.value)
    fitted(tmp_path, 600, scan_s=2.0, voxel_s=1e-9)


def test_a_budget_that_is_spent_before_anything_begins_is_told_at_once(tmp_path):
    with pytest.raises(UserError, match="of 20 s for this training 25 are gone, nothing of this training has begun"):
        fitted(tmp_path, 20, spent=25.0, scan_s=1.0, voxel_s=1e-9)


def test_a_run_says_what_it_is_doing_with_its_time(dataset, scripted, tmp_path, capsys):
    train(write_recipe(tmp_path, dataset, max_steps="auto", time_budget="1h"), tmp_path / "run")
    told = capsys.readouterr().err
    assert "time budget 1h: preparing the scans" in told
    assert "time budget 1h: timing steps and a validation, 360 s at most" in told


def test_a_validation_is_timed_for_so_long_at_most(dataset, tmp_path, monkeypatch):
    from pipeline.runs import setup

    seen = []

    def score(_, cases, *__, overlap_only, **___):
        seen.append((len(cases), overlap_only))
        time.sleep(0.2)

    monkeypatch.setattr(setup, "score", score)
    prepared = planning.prepare(runs.read_recipe(write_recipe(tmp_path, dataset, data=TINY["data"] | {"fold": [1, 2]})))
    folder = RunFolder(tmp_path / "run")
    whole = setup.Setup(folder=folder, settings=prepared.plan.recipe, index=prepared.index, split=prepared.split)
    assert len(whole.split.validation) == 2
    pace = whole.pace(1.0)
    assert seen == [(1, True), (2, True), (2, False)]
    assert (pace.validation_s, pace.tail_s) == pytest.approx((0.2, 0.2 + setup.REPORT_S), rel=0.5)
    seen.clear()
    pace = whole.pace(1.0, at_most_s=0.3)
    assert seen == [(1, True)]
    assert (pace.validation_s, pace.tail_s) == pytest.approx((0.4, 0.6 + setup.REPORT_S), rel=0.5)


def test_what_was_made_smaller_for_the_time_is_so_in_a_resumed_run(dataset, tmp_path, monkeypatch):
    def step_s(self, *_):
        return 60.0 * self.settings.data.batch_size

    monkeypatch.setattr("pipeline.runs.setup.Setup.step_s", step_s)
    monkeypatch.setattr("pipeline.runs.setup.Setup.pace", lambda *_: Pace(1.0))
    monkeypatch.setattr(Budget, "fit", lambda *_: (4, 2))
    monkeypatch.setattr(Budget, "corrected", lambda *_: None)
    options = {
        "max_steps": "auto",
        "time_budget": "1h",
        "network": {"name": "dynunet", "options": {"channels": "auto"}},
    }
    path = write_recipe(tmp_path, dataset, data={"spacing_mm": [2.5, 2.5, 2.5], "workers": 0}, **options)
    run = train(path, tmp_path / "run")
    data = yaml.safe_load((run / "config.yaml").read_text())["data"]
    assert (data["batch_size"], data["unlabelled_batch_size"]) == (1, 1)
    monkeypatch.setattr("pipeline.runs.setup.Setup.step_s", lambda *_: 1e-3)
    train(path, run, resume=True)
    assert_same_run(train(run / "config.yaml", tmp_path / "again"), run)


def test_an_ensemble_is_not_larger_than_the_memory():
    def plan(memory_bytes, members, **more):
        network = {"name": "dynunet", "options": {"channels": [8, 16, 32]}, "members": members}
        return make_plan(recipe(network=network, **more), MANY, replace(CPU, memory_bytes=memory_bytes))

    two = plan(2**36, 2).memory_bytes
    assert plan(2**36, 1).memory_bytes < two < plan(2**36, 3).memory_bytes
    # A step may take half of a CPU's memory.
    assert [plan(2 * two + more, "auto", time_budget="2d").most_members for more in (0, -2)] == [2, 1]


def test_network_is_not_wider_than_on_a_gpu_and_only_for_a_budget():
    timed = recipe(network="dynunet", time_budget="2d")
    assert make_plan(timed, MANY, replace(GPU, memory_bytes=2**36)).wider is None
    assert make_plan(recipe(network="segresnet", time_budget="2d"), MANY, ROOMY).wider is None
    assert make_plan(recipe(network="dynunet"), MANY, ROOMY).wider is None
    wider = make_plan(timed, MANY, ROOMY).wider.network.options["channels"]
    assert wider == make_plan(recipe(network="dynunet"), MANY, GPU).recipe.network.options["channels"][: len(wider)]


# Whole runs.


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_phantom(tmp_path_factory.mktemp("budget") / "phantom")


@pytest.fixture
def scripted(monkeypatch):
    """A machine on which nine steps fit, after three steps seven, and after five ten."""
    monkeypatch.setattr("pipeline.runs.setup.Setup.step_s", lambda *_: 1.0)
    monkeypatch.setattr("pipeline.runs.setup.Setup.pace", lambda *_: Pace(1.0))
    monkeypatch.setattr(Budget, "fit", lambda *_: (9, 3))
    monkeypatch.setattr(Budget, "corrected", lambda _, step, course: {3: 7, 5: 10}.get(step))


def train(recipe, run, **options):
    asked = runs.read_request(recipe)
    runs.train(asked.recipe, run, decided=asked.decided, **options)
    return run


def test_a_run_with_a_budget_is_repeated_by_its_own_recipe(dataset, scripted, tmp_path, monkeypatch):
    recipe = write_recipe(tmp_path, dataset, max_steps="auto", time_budget="1h")
    run = train(recipe, tmp_path / "run")
    written = yaml.safe_load((run / "config.yaml").read_text())
    assert (written["max_steps"], written["time_budget"]) == (9, None)
    assert written["decided"] == {"corrections": [[3, 7], [5, 10]], "threads": [[0, 1]]}
    assert state_of(run)["step"] == 10
    assert json.loads((run / "budget.json").read_text())["seconds"] == 3600
    monkeypatch.setattr(Budget, "corrected", lambda *_: pytest.fail("a budget that nobody gave"))
    assert_same_run(train(run / "config.yaml", tmp_path / "again"), run)


def test_a_run_tells_its_budget_what_each_validation_took(dataset, scripted, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(Budget, "leave_out", lambda _, seconds: told.append(seconds))
    run = train(write_recipe(tmp_path, dataset, max_steps="auto", time_budget="1h"), tmp_path / "run")
    assert len(told) == len((run / "validation.csv").read_text().splitlines()) - 1 > 0
    assert all(seconds > 0 for seconds in told)


def test_the_recipe_of_a_run_can_be_given_another_time(dataset, scripted, tmp_path):
    decided = {"corrections": [[2, 4]], "threads": [[1, 2]]}
    recipe = write_recipe(tmp_path, dataset, max_steps=6, decided=decided)
    training.train(recipe, output=tmp_path / "run", time_budget="1h")
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    decided = {"corrections": [[3, 7], [5, 10]], "threads": [[0, 1]]}
    assert (written["max_steps"], written["decided"]) == (9, decided)


@pytest.fixture
def threads_of_steps(monkeypatch):
    """How many threads each step has had."""
    update, seen = TrainingStep.__call__, []

    def watched(self, engine, batches):
        seen.append(torch.get_num_threads())
        return update(self, engine, batches)

    monkeypatch.setattr(TrainingStep, "__call__", watched)
    return seen


def decide_threads(monkeypatch, decisions):
    monkeypatch.setattr(Budget, "other_threads", lambda _, step, step_s, course: decisions.get(step))


def test_threads_that_were_decided_on_the_way_are_repeated(dataset, scripted, threads_of_steps, tmp_path, monkeypatch):
    decide_threads(monkeypatch, {2: 2, 6: 3})
    recipe = write_recipe(tmp_path, dataset, max_steps="auto", time_budget="1h")
    run = train(recipe, tmp_path / "run")
    assert threads_of_steps == [1, 1, 2, 2, 2, 2, 3, 3, 3, 3]
    assert torch.get_num_threads() == 1
    assert yaml.safe_load((run / "config.yaml").read_text())["decided"]["threads"] == [[0, 1], [2, 2], [6, 3]]
    monkeypatch.setattr(Budget, "other_threads", lambda *_: pytest.fail("a budget that nobody gave"))
    threads_of_steps.clear()
    assert_same_run(train(run / "config.yaml", tmp_path / "again"), run)
    assert threads_of_steps == [1, 1, 2, 2, 2, 2, 3, 3, 3, 3]


def test_a_stopped_run_goes_on_with_the_threads_that_it_had(dataset, scripted, threads_of_steps, tmp_path, monkeypatch):
    decide_threads(monkeypatch, {2: 3, 5: 2, 7: 1})
    recipe = write_recipe(tmp_path, dataset, max_steps="auto", time_budget="1h")
    whole = train(recipe, tmp_path / "whole")
    with plug_pulled_at(6):
        train(recipe, tmp_path / "stopped")
    assert torch.get_num_threads() == 1
    # That of step 5 is written down, and the checkpoint is of step 4.
    decide_threads(monkeypatch, {7: 1})
    threads_of_steps.clear()
    assert_same_run(train(recipe, tmp_path / "stopped", resume=True), whole)
    assert threads_of_steps == [3, 2, 2, 1, 1, 1]


def test_a_run_with_a_budget_that_is_stopped_goes_on_as_it_was(dataset, scripted, tmp_path, monkeypatch):
    recipe = write_recipe(tmp_path, dataset, max_steps="auto", time_budget="1h")
    whole = train(recipe, tmp_path / "whole")
    with plug_pulled_at(6):
        train(recipe, tmp_path / "stopped")
    # Its corrections after steps 3 and 5 are written down, and its checkpoint is of step 4.
    monkeypatch.setattr(Budget, "corrected", lambda *_: None)
    assert state_of(tmp_path / "stopped")["step"] == 4
    assert_same_run(train(recipe, tmp_path / "stopped", resume=True), whole)


def test_what_was_chosen_by_timing_stays_however_fast_the_machine_is_later(dataset, tmp_path, monkeypatch):
    def machine(last_s):
        def step_s(self, *_):
            return last_s if self.settings.network.memory_format == "channels_last" else 1.0

        monkeypatch.setattr("pipeline.runs.setup.Setup.step_s", step_s)

    monkeypatch.setattr("pipeline.runs.setup.Setup.pace", lambda *_: Pace(1.0))
    monkeypatch.setattr(Budget, "fit", lambda *_: (4, 2))
    monkeypatch.setattr(Budget, "corrected", lambda *_: None)
    recipe = write_recipe(tmp_path, dataset, max_steps="auto", time_budget="1h")
    machine(0.5)
    run = train(recipe, tmp_path / "run")
    assert yaml.safe_load((run / "config.yaml").read_text())["network"]["memory_format"] == "channels_last"
    machine(2.0)
    train(recipe, run, resume=True)
    assert_same_run(train(run / "config.yaml", tmp_path / "again"), run)
    plain = train(recipe, tmp_path / "plain")
    assert yaml.safe_load((plain / "config.yaml").read_text())["network"]["memory_format"] == "contiguous"


def test_a_run_cannot_go_on_with_another_budget(dataset, scripted, tmp_path):
    run = train(write_recipe(tmp_path, dataset, max_steps="auto", time_budget="1h"), tmp_path / "run")
    for other in ({"time_budget": "2h"}, {"max_steps": 9, "time_budget": None}):
        with pytest.raises(UserError, match="another run"):
            train(write_recipe(tmp_path, dataset, **({"max_steps": "auto"} | other)), run, resume=True)
    without = train(write_recipe(tmp_path, dataset), tmp_path / "without")
    with pytest.raises(UserError, match="not started with that"):
        train(write_recipe(tmp_path, dataset, max_steps="auto", time_budget="1h"), without, resume=True)


def test_the_budget_of_a_start_that_was_killed_does_not_bind_a_run_without_one(dataset, tmp_path):
    run = tmp_path / "run"
    RunFolder(run).take()
    RunFolder(run).write_budget(Budget(seconds=60.0))
    train(write_recipe(tmp_path, dataset), run)
    assert not (run / "budget.json").exists()


def test_corrections_that_cannot_be_are_refused(dataset, tmp_path):
    with pytest.raises(UserError, match=r"decided\.corrections"):
        train(write_recipe(tmp_path, dataset, decided={"corrections": [[8, 9]]}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_stop_file_lets_a_run_finish_its_schedule_soon(dataset, tmp_path, monkeypatch):
    from pipeline.engines.steps import TrainingStep

    update, rates = TrainingStep.__call__, []

    def watched(self, engine, batches):
        output = update(self, engine, batches)
        rates.append(self.optimizer.param_groups[0]["lr"])
        if engine.state.iteration == 20:
            (tmp_path / "run" / "stop").touch()
        return output

    monkeypatch.setattr(TrainingStep, "__call__", watched)
    run = train(write_recipe(tmp_path, dataset, max_steps=100, validate_every=50), tmp_path / "run")
    assert state_of(run)["step"] == 22
    assert yaml.safe_load((run / "config.yaml").read_text())["decided"]["corrections"] == [[20, 22]]
    assert not (run / "stop").exists()
    assert rates[20] > rates[21] > 0
    assert rates[21] < 0.6 * rates[19], "half of what was left of the schedule is one step now"
    monkeypatch.setattr(TrainingStep, "__call__", update)
    assert_same_run(train(run / "config.yaml", tmp_path / "again"), run)


def test_a_run_that_was_asked_to_end_and_is_killed_goes_on_to_that_end(dataset, tmp_path, monkeypatch):
    from pipeline.engines.steps import TrainingStep

    update = TrainingStep.__call__

    def watched(self, engine, batches):
        if engine.state.iteration == 20:
            (tmp_path / "run" / "stop").touch()
        if engine.state.iteration == 22:
            raise KeyError("the plug")
        return update(self, engine, batches)

    recipe = write_recipe(tmp_path, dataset, max_steps=100, validate_every=50)
    monkeypatch.setattr(TrainingStep, "__call__", watched)
    with pytest.raises(KeyError, match="the plug"):
        train(recipe, tmp_path / "run")
    monkeypatch.setattr(TrainingStep, "__call__", update)
    run = train(recipe, tmp_path / "run", resume=True)
    assert state_of(run)["step"] == 22
    assert_same_run(train(run / "config.yaml", tmp_path / "again"), run)
    assert train(recipe, run, resume=True) == run, "what is done is done"


def test_a_run_with_corrections_to_come_can_be_asked_to_end(dataset, tmp_path):
    recipe = write_recipe(tmp_path, dataset, max_steps=100, validate_every=50, decided={"corrections": [[40, 60]]})
    run = tmp_path / "run"
    run.mkdir()
    (run / "stop").touch()
    train(recipe, run)
    assert yaml.safe_load((run / "config.yaml").read_text())["decided"]["corrections"] == [[1, 2]]


def test_a_stopped_run_with_a_budget_stays_stopped(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.runs.setup.Setup.step_s", lambda *_: 1e-3)
    monkeypatch.setattr("pipeline.runs.setup.Setup.pace", lambda *_: Pace(1e-3))
    monkeypatch.setattr(Budget, "fit", lambda *_: (60, 60))
    run = tmp_path / "run"
    run.mkdir()
    (run / "stop").touch()
    train(write_recipe(tmp_path, dataset, max_steps="auto", time_budget="1h"), run)
    assert yaml.safe_load((run / "config.yaml").read_text())["decided"]["corrections"] == [[1, 2]]
    assert json.loads((run / "budget.json").read_text())["given_up"]


def test_a_run_is_lengthened_though_its_workers_have_reached_the_end(dataset, tmp_path, monkeypatch):
    from pipeline.data.loaders import StepLoader

    begin, begun = StepLoader.__iter__, []

    def counted(self):
        begun.append(1)
        assert len(begun) < 20, "begins anew, and finds nothing"
        return begin(self)

    monkeypatch.setattr(StepLoader, "__iter__", counted)
    monkeypatch.setattr("pipeline.runs.setup.Setup.step_s", lambda *_: 1.0)
    monkeypatch.setattr("pipeline.runs.setup.Setup.pace", lambda *_: Pace(1.0))
    monkeypatch.setattr(Budget, "fit", lambda *_: (6, 3))
    monkeypatch.setattr(Budget, "corrected", lambda _, step, course: {5: 9}.get(step))
    recipe = runs.read_recipe(write_recipe(tmp_path, dataset, max_steps="auto", time_budget="1h"), ("data.workers=2",))
    runs.train(recipe, tmp_path / "run")
    assert state_of(tmp_path / "run")["step"] == 9


def test_patience_ends_a_run_soon_after_validations_that_bring_nothing(dataset, tmp_path):
    # A network without a learning rate is never better than at its first validation.
    options = {"max_steps": 60, "validate_every": 4, "patience": 2, "optimizer": {"learning_rate": 1e-30}}
    run = train(write_recipe(tmp_path, dataset, **options), tmp_path / "run")
    assert yaml.safe_load((run / "config.yaml").read_text())["decided"]["corrections"] == [[12, 13]]
    assert state_of(run)["step"] == 13
    summary = json.loads((run / "summary.json").read_text())
    assert "decided when the training ended" in summary["notes"][0]
    assert_same_run(train(run / "config.yaml", tmp_path / "again"), run)
    train(write_recipe(tmp_path, dataset, **options), run, resume=True)
    assert state_of(run)["step"] == 13


def test_patience_lets_a_run_that_gets_better_go_on(dataset, tmp_path, monkeypatch):
    from pipeline.runs import training

    scores = iter([0.1, 0.05, 0.2, 0.15, 0.3, 0.2, 0.25])
    monkeypatch.setattr(training, "summarise", lambda _: SimpleNamespace(mean_dice=next(scores)))
    run = train(write_recipe(tmp_path, dataset, max_steps=28, validate_every=4, patience=3), tmp_path / "run")
    assert state_of(run)["step"] == 28


def test_smaller_patches_are_cut_from_scans_that_are_prepared_for_them(tmp_path):
    data = TINY["data"] | {"crop_to_body": True, "patch_size": [32, 32, 32]}
    data |= {"spacing_mm": [1.0, 1.0, 1.0]}
    for number in range(4):  # A small body in much air.
        image, mask = np.zeros((2, 40, 40, 40), np.float32)
        body = (slice(5 + 3 * number, 19 + 3 * number),) * 3
        image[body] = np.random.default_rng(number).normal(100, 10, (14, 14, 14))
        mask[tuple(slice(part.start + 3, part.start + 7) for part in body)] = 1
        for folder, voxels in (("images", image), ("labels", mask.astype(np.uint8))):
            (tmp_path / "data" / folder).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "data" / folder / f"c{number}.nii.gz")
    supervised = {"data": data, "objective": [{"loss": "dice"}]}
    prepared = planning.prepare(runs.read_recipe(write_recipe(tmp_path, tmp_path / "data", **supervised)))
    settings = timing.to_begin_with(prepared.plan.recipe)
    lighter = settings.model_copy(update={"data": settings.data.model_copy(update={"patch_size": (16, 16, 16)})})
    parts = {"index": prepared.index, "split": prepared.split}
    first = Setup(folder=RunFolder(tmp_path / "run"), settings=settings, **parts)
    first.prepare()
    timed = first.with_settings(lighter)
    resumed = Setup(folder=RunFolder(tmp_path / "run"), settings=lighter, **parts)
    batches = [next(iter(each.loader())) for each in (timed, resumed)]
    assert torch.equal(*(batch["labelled"]["image"] for batch in batches))
    assert first.with_settings(settings.model_copy(update={"max_steps": 9})).cache is first.cache


def test_validations_are_no_steps_in_the_forecast(tmp_path, monkeypatch, capsys):
    score = Setup.score

    def slow(self, **how):
        time.sleep(5)
        return score(self, **how)

    monkeypatch.setattr(Setup, "score", slow)
    dataset = make_phantom(tmp_path / "data")
    supervised = {"objective": [{"loss": "dice"}], "validate_every": 10, "checkpoint_every": 10}
    runs.train(runs.read_recipe(write_recipe(tmp_path, dataset, max_steps=22, **supervised)), tmp_path / "run")
    (told,) = re.findall(r"step 20/22  ([\d.e-]+) s a step", capsys.readouterr().err)
    assert float(told) < 0.25, "a validation of 5 s was counted in"
