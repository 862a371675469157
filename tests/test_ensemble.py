import copy
from dataclasses import replace

import pytest
import torch
import yaml
from runs_fixtures import ROOT, assert_same_run, make_phantom, plug_pulled_at, state_of, train, write_recipe
from test_steps import at, make_batch, make_step, same
from torch import nn

from pipeline import runs
from pipeline.engines.ensemble import DeepEnsemble
from pipeline.errors import UserError
from pipeline.nifti.volume import load
from pipeline.pacing.budget import Budget, Pace
from pipeline.planning.memory import training_bytes
from pipeline.runs.models import load_model


def softmax(logits):
    return torch.from_numpy(logits).softmax(0).numpy()


class Fixed(nn.Module):
    """Answers with the same logits everywhere, its own weights."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, image):
        return self.logits.view(1, -1, 1, 1).expand(len(image), -1, *image.shape[2:])


def member():
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding="same"), nn.ReLU(), nn.Conv2d(4, 2, 1))


def three():
    torch.manual_seed(0)
    return DeepEnsemble(member() for _ in range(3))


def test_answers_with_the_mean_of_the_probabilities():
    # Class 1 has 0.9 and 0.2: the mean is 0.55, where the mean of the logits would say 0.6.
    ensemble = DeepEnsemble([Fixed([0.1, 0.9]), Fixed([0.8, 0.2])])
    with torch.no_grad():
        for network in ensemble.members:
            network.logits.log_()
        answer = ensemble.eval()(torch.zeros(2, 1, 3, 3))
    assert answer.shape == (2, 2, 3, 3)
    torch.testing.assert_close(answer.exp(), torch.tensor([0.45, 0.55]).view(1, 2, 1, 1).expand(2, 2, 3, 3))


def test_logits_that_no_float_has_a_probability_for_stay_finite():
    ensemble = DeepEnsemble([Fixed([0.0, 1e4]), Fixed([0.0, 2e4])]).eval()
    assert torch.isfinite(ensemble(torch.zeros(1, 1, 2, 2))).all()
    assert ensemble.bfloat16()(torch.zeros(1, 1, 2, 2)).dtype == torch.float32


def test_members_learn_in_turns_and_the_others_stay_as_they_are():
    step = make_step(three())
    for n in range(1, 7):
        before = copy.deepcopy(step.network.members)
        step(at(n), {"labelled": make_batch()})
        pairs = zip(before, step.network.members, strict=True)
        moved = [not same(old.state_dict(), new.state_dict()) for old, new in pairs]
        assert moved == [index == n % 3 for index in range(3)]
    assert {int(state["step"]) for state in step.optimizer.state.values()} == {2}


def test_a_member_learns_as_it_would_alone():
    ensemble = three()
    alone, together = make_step(copy.deepcopy(ensemble.members[1])), make_step(ensemble)
    for n in range(1, 7):
        batch = {"labelled": make_batch()}
        together(at(n), batch)
        if n % 3 == 1:
            alone(at(n), batch)
    assert same(alone.network.state_dict(), together.network.members[1].state_dict())


def test_average_holds_every_member():
    step = make_step(three(), averaging=0.25)
    for n in range(1, 7):
        step(at(n), {"labelled": make_batch()})
    image = make_batch()["image"]
    with torch.no_grad():
        each = [network.eval()(image).softmax(1) for network in step.validated.members]
        torch.testing.assert_close(step.validated.eval()(image).exp(), torch.stack(each).mean(0))
    assert not same(step.validated.state_dict(), step.network.state_dict())


def test_memory_grows_by_the_weights_alone():
    def needed(members):
        return training_bytes(member, (2, 1, 8, 8), 2, torch.float32, members=members)

    numbers = sum(parameter.numel() for parameter in member().parameters())
    assert needed(3) - needed(1) == pytest.approx(1.5 * 2 * 20 * numbers, abs=2)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_phantom(tmp_path_factory.mktemp("ensemble") / "phantom")


def of(members, **more):
    return {"network": {"name": "unet", "options": {"channels": [4, 8]}, "members": members}, **more}


def test_a_run_of_an_ensemble_is_resumed_to_the_bit_and_predicts_with_all(dataset, tmp_path):
    recipe = write_recipe(tmp_path, dataset, **of(2))
    for run in ("whole", "stopped"):
        if run == "stopped":
            with plug_pulled_at(5):
                runs.train(runs.read_recipe(recipe), tmp_path / run)
        runs.train(runs.read_recipe(recipe), tmp_path / run, resume=run == "stopped")
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")
    predictor = load_model(tmp_path / "whole", "last").predictor
    scan = load(sorted((dataset / "imagesTr").iterdir())[0])
    both = predictor.logits([scan])
    each = [replace(predictor, network=network).logits([scan]) for network in predictor.network.members]
    mean = sum(softmax(logits) for logits in each) / 2
    # Logarithms are what is mirrored and brought to the scan's grid, so it is not the mean to the bit.
    assert abs(softmax(both) - mean).mean() < 0.5 * abs(softmax(each[0]) - mean).mean()


def test_members_that_a_time_budget_chose_stay_when_the_run_goes_on_or_is_repeated(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.runs.setup.Setup.step_s", lambda *_: 1.0)
    monkeypatch.setattr("pipeline.runs.setup.Setup.pace", lambda *_: Pace(1.0))
    monkeypatch.setattr(Budget, "fit", lambda *_: (6, 3))
    monkeypatch.setattr(Budget, "corrected", lambda *_: None)
    recipe = write_recipe(tmp_path, dataset, **of("auto", max_steps="auto", time_budget="6h"))
    run = tmp_path / "run"
    runs.train(runs.read_recipe(recipe), run)
    assert yaml.safe_load((run / "config.yaml").read_text())["network"]["members"] == 3
    monkeypatch.setattr("pipeline.planning.plan.usual_steps", lambda *_: 10**9)
    runs.train(runs.read_recipe(recipe), run, resume=True)
    runs.train(runs.read_recipe(run / "config.yaml"), tmp_path / "again")
    assert_same_run(tmp_path / "again", run)
    runs.train(runs.read_recipe(recipe), tmp_path / "short")
    assert yaml.safe_load((tmp_path / "short" / "config.yaml").read_text())["network"]["members"] == 1


def test_members_that_reconstruct_learn_from_their_own_reconstruction(dataset, tmp_path):
    network = {"name": "wnet", "options": {"channels": [4, 4, 8]}, "members": 2}
    objective = [{"loss": "dice"}, {"loss": "reconstruction", "on": "all", "weight": 0.3}]
    before, after = (
        state_of(train(tmp_path, dataset, f"{steps}", max_steps=steps, network=network, objective=objective))["network"]
        for steps in (2, 4)
    )
    decoders = {name for name in after if "decoder" in name}
    assert {name.split(".")[1] for name in decoders} == {"0", "1"}
    assert not any(torch.equal(before[name], after[name]) for name in decoders)
    with pytest.raises(UserError, match="the network unet makes none"):
        train(tmp_path, dataset, "unet", **of(2), objective=objective)


def test_segments_are_not_for_an_ensemble(dataset, tmp_path):
    recipe = write_recipe(tmp_path, dataset, **of(2, segments=3))
    with pytest.raises(UserError, match="expected 1 for members"):
        runs.read_recipe(recipe)


@pytest.mark.parametrize(
    ("members", "refusal"), [(4, "expected at most 3 for members"), (10, "less than or equal to 9"), (0, "members")]
)
def test_networks_without_a_step_or_too_many_for_a_checkpoint_are_refused(dataset, tmp_path, members, refusal):
    with pytest.raises(UserError, match=refusal):
        runs.read_recipe(write_recipe(tmp_path, dataset, **of(members, max_steps=3)))
    runs.read_recipe(write_recipe(tmp_path, dataset, **of(3, max_steps=3)))


def test_an_ensemble_is_what_the_recipes_ask_for():
    for name in ("supervised", "semisupervised"):
        recipe = yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text())
        assert recipe["network"]["members"] == "auto"
