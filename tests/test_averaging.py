import copy

import pytest
import torch
from test_steps import at, make_batch, make_step, same
from torch import nn

from pipeline.engines.averaging import WeightAverage


def follow(age, values):
    """Average a network of one number that goes through some values; return the averages."""
    network = nn.Linear(1, 1, bias=False)
    average = WeightAverage(network, age)
    found = []
    for step, value in enumerate(values, 1):
        nn.init.constant_(network.weight, value)
        average.update(network, step)
        found.append(average.network.weight.item())
    return found


def test_hand_made_table():
    # Age 1/4 has g = 2: rates 1, 3/4, 3/5.
    assert follow(0.25, [4, 8, 2]) == pytest.approx([4, 7, 4])


@pytest.mark.parametrize("age", [0.02, 0.05, 0.1, 0.25, 0.45])
@pytest.mark.parametrize("steps", [100, 1000])
def test_mean_age_is_its_share_of_any_number_of_steps(age, steps):
    mean_step = follow(age, range(1, steps + 1))[-1]
    assert (steps - mean_step) / steps == pytest.approx(age, abs=1 / steps)


def test_average_of_constant_weights_is_them():
    assert follow(0.1, [3.0] * 20) == [3.0] * 20


def test_running_statistics_are_averaged_and_counts_are_left():
    network = nn.BatchNorm1d(1)
    average = WeightAverage(network, 0.25)
    network(torch.tensor([[1.0], [3.0]]))
    average.update(network, 1)
    network(torch.tensor([[5.0], [7.0]]))
    before = average.network.running_mean.clone()
    average.update(network, 2)
    assert average.network.running_mean == pytest.approx(before + 0.75 * (network.running_mean - before))
    assert average.network.num_batches_tracked == 0


@pytest.mark.parametrize("age", [0.0, 0.5, -1.0, float("nan")])
def test_age_outside_its_range_is_refused(age):
    with pytest.raises(ValueError, match=r"above 0 and below 0\.5"):
        WeightAverage(nn.Linear(1, 1), age)


def test_step_keeps_the_average_and_answers_with_it():
    step, batches = make_step(averaging=0.25), {"labelled": make_batch()}
    assert step.validated is step.average.network
    step(at(1), batches)
    first = {key: value.clone() for key, value in step.network.state_dict().items()}
    assert same(first, step.validated.state_dict())
    step(at(2), batches)
    for key, value in step.validated.state_dict().items():
        assert value == pytest.approx(first[key] + 0.75 * (step.network.state_dict()[key] - first[key]), abs=1e-6)


def test_without_an_average_the_network_itself_answers():
    step = make_step()
    assert step.average is None
    assert step.validated is step.network


def test_average_is_restored_with_the_step():
    step, batches = make_step(averaging=0.1), {"labelled": make_batch()}
    for n in range(1, 4):
        step(at(n), batches)
    other = make_step(averaging=0.1)
    other.load_state_dict(copy.deepcopy(step.state_dict()))
    for each in (step, other):
        each(at(4), batches)
    assert same(step.validated.state_dict(), other.validated.state_dict())
    assert not same(step.validated.state_dict(), step.network.state_dict())
    with pytest.raises(KeyError):
        make_step(averaging=0.1).load_state_dict(make_step().state_dict())
