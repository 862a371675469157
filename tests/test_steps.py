import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from pipeline.data.annotation import FIRST_CLASS, UNANNOTATED
from pipeline.engines.averaging import WeightAverage
from pipeline.engines.schedules import Schedule
from pipeline.engines.steps import TrainingStep
from pipeline.errors import UserError
from pipeline.losses import LOSSES, LabelLoss, NCutLoss, ReconstructionLoss
from pipeline.losses.dice import DiceLoss
from pipeline.losses.objective import Objective, Term
from pipeline.networks import NETWORKS
from pipeline.pacing.course import Course


class NanAt(LabelLoss):
    """Dice, but NaN from a call on."""

    def __init__(self, call):
        super().__init__()
        self.call, self.calls, self.dice = call, 0, DiceLoss()

    def forward(self, logits, labels):
        self.calls += 1
        return self.dice(logits, labels) * (float("nan") if self.calls >= self.call else 1)


def make_batch(cases=("a", "b"), size=(8, 8), labelled=True):
    generator = torch.Generator().manual_seed(len(size))
    image = torch.randn(len(cases), 1, *size, generator=generator)
    annotation = FIRST_CLASS + (image > 0) if labelled else torch.full_like(image, UNANNOTATED)
    return {"image": image, "annotation": annotation.to(torch.uint8), "case": list(cases)}


def make_step(
    network=None,
    terms=None,
    *,
    max_steps=10,
    precision=torch.float32,
    rate=1e-2,
    warmup=0.0,
    seed=0,
    alternate=False,
    averaging=0.0,
    accumulate=1,
    fused=False,
    sources=(),
):
    torch.manual_seed(0)
    network = network or nn.Sequential(nn.Conv2d(1, 4, 3, padding="same"), nn.ReLU(), nn.Conv2d(4, 2, 1))
    return TrainingStep(
        network=network,
        objective=Objective(terms or [Term(name="dice", loss=DiceLoss(), on="labelled")]),
        optimizer=torch.optim.AdamW(network.parameters(), lr=rate, fused=fused),
        schedule=Schedule(rate, warmup),
        course=Course(max_steps),
        precision=precision,
        clip_norm=12.0,
        seed=seed,
        alternate=alternate,
        average=WeightAverage(network, averaging) if averaging else None,
        accumulate=accumulate,
        sources=sources,
    )


def at(iteration):
    return SimpleNamespace(state=SimpleNamespace(iteration=iteration))


def weights(step):
    return copy.deepcopy(step.network.state_dict())


def same(first, second):
    return all(torch.equal(first[key], second[key]) for key in first)


# Schedule


@pytest.mark.parametrize(("progress", "expected"), [(0.05, 0.5), (0.1, 1.0), (0.55, 0.5**0.9), (1.0, 0.0), (0.0, 0.0)])
def test_rate_rises_linearly_and_decays_polynomially_to_zero(progress, expected):
    assert Schedule(peak=1.0, warmup=0.1)(progress) == pytest.approx(expected)


@pytest.mark.parametrize(("warmup", "progress", "expected"), [(0.0, 0.0, 1.0), (1.0, 0.5, 0.5), (1.0, 1.0, 1.0)])
def test_rate_without_warm_up_and_with_nothing_else(warmup, progress, expected):
    assert Schedule(peak=1.0, warmup=warmup)(progress) == pytest.approx(expected)


def test_first_step_of_a_warm_up_has_a_rate_above_zero():
    step = make_step(warmup=0.5, rate=1.0)
    step(at(1), {"labelled": make_batch()})
    assert step.optimizer.param_groups[0]["lr"] == pytest.approx(0.2)


# One step


def test_step_changes_every_weight_and_returns_the_total_and_the_terms():
    step = make_step()
    before = weights(step)
    output = step(at(1), {"labelled": make_batch()})
    assert set(output) == {"loss", "dice"}
    assert all(isinstance(value, float) for value in output.values())
    assert output["loss"] == output["dice"]
    assert not any(torch.equal(before[key], value) for key, value in step.network.state_dict().items())


def test_steps_lower_the_loss():
    step, batches = make_step(max_steps=60, rate=0.05), {"labelled": make_batch()}
    losses = [step(at(n), batches)["loss"] for n in range(1, 61)]
    assert losses[-1] < 0.6 * losses[0]


def test_step_takes_labelled_and_unlabelled_scans_at_once():
    terms = [
        Term(name="dice", loss=DiceLoss(), on="labelled"),
        Term(name="ncut", loss=NCutLoss(radius=2), on="unlabelled", weight=0.1),
    ]
    output = make_step(terms=terms)(at(1), {"labelled": make_batch(), "unlabelled": make_batch("c", labelled=False)})
    assert output["loss"] == pytest.approx(output["dice"] + 0.1 * output["ncut"])


def test_batch_that_no_term_looks_at_costs_no_forward_pass():
    seen = []
    network = nn.Conv2d(1, 2, 1)
    network.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    make_step(network)(at(1), {"labelled": make_batch("ab"), "unlabelled": make_batch("cde", labelled=False)})
    assert seen == [2]


def test_step_at_the_foot_of_every_ramp_changes_nothing():
    step = make_step(terms=[Term(name="dice", loss=DiceLoss(), on="labelled", ramp=0.5)])
    before = weights(step)
    assert step(at(1), {"labelled": make_batch()}) == {"loss": 0.0}
    assert same(before, weights(step))
    assert step(at(2), {"labelled": make_batch()})["loss"] > 0


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16])
def test_step_runs_on_the_cpu_in_every_precision(precision):
    step = make_step(precision=precision)
    before = weights(step)
    output = step(at(1), {"labelled": make_batch()})
    assert output["loss"] == pytest.approx(make_step()(at(1), {"labelled": make_batch()})["loss"], abs=0.02)
    assert not same(before, weights(step))
    assert {value.dtype for value in step.network.state_dict().values()} == {torch.float32}


def test_network_works_in_the_precision_that_is_asked_for():
    seen = []
    step = make_step(precision=torch.bfloat16)
    step.network[-1].register_forward_hook(lambda *given: seen.append(given[-1].dtype))
    step(at(1), {"labelled": make_batch()})
    assert seen == [torch.bfloat16]


def test_gradient_is_clipped_to_its_largest_norm():
    step = make_step(terms=[Term(name="dice", loss=DiceLoss(), on="labelled", weight=1e6)])
    step(at(1), {"labelled": make_batch()})
    norms = [p.grad.norm() for p in step.network.parameters()]
    assert torch.stack(norms).norm().item() == pytest.approx(12.0, rel=1e-3)


def test_loss_that_is_nan_names_the_cases_and_leaves_the_weights_as_they_were():
    step = make_step(terms=[Term(name="bad", loss=NanAt(2), on="labelled")])
    step(at(1), {"labelled": make_batch()})
    before, optimizer = weights(step), copy.deepcopy(step.optimizer.state_dict()["state"])
    with pytest.raises(UserError) as raised:
        step(at(2), {"labelled": make_batch(["case_7", "case_3"])})
    (problem,) = raised.value.problems
    assert problem.code == "diverged"
    assert "step 2 (bad nan)" in problem.message
    assert "case_3, case_7" in problem.message
    assert same(before, weights(step))
    assert torch.equal(optimizer[0]["exp_avg"], step.optimizer.state_dict()["state"][0]["exp_avg"])


@pytest.mark.parametrize("at_step", [1, 2])
@pytest.mark.parametrize("alone", [True, False])
def test_what_may_have_made_a_loss_nan_is_to_be_looked_at(at_step, alone):
    names = ("bad",) if alone else ("bad", "worse")
    terms = [Term(name=name, loss=NanAt(at_step), on="labelled") for name in names]
    terms += [Term(name="dice", loss=LOSSES["dice"](), on="labelled")] * alone
    step = make_step(terms=terms)
    if at_step == 2:
        step(at(1), {"labelled": make_batch()})
    with pytest.raises(UserError) as raised:
        step(at(at_step), {"labelled": make_batch()})
    remedy = raised.value.problems[0].remedy
    assert ("look at bad, since the other terms are finite" in remedy) == alone
    assert ("since no update came before" in remedy) == (at_step == 1 and not alone)
    assert ("lower optimizer.learning_rate" in remedy) == (at_step == 2)


class RootOfZero(LabelLoss):
    """0, with an infinite gradient."""

    def forward(self, logits, labels):
        return (logits * 0).abs().sum().sqrt() + logits.sum() * 0


def test_gradient_that_is_not_finite_leaves_the_weights_as_they_were():
    step = make_step(terms=[Term(name="root", loss=RootOfZero(), on="labelled")])
    before = weights(step)
    with pytest.raises(UserError, match=r"gradient is not finite at step 1 \(root 0\)"):
        step(at(1), {"labelled": make_batch()})
    assert same(before, weights(step))


# Numbers that are late


@pytest.mark.parametrize("parts", [1, 2])
def test_late_numbers_are_those_of_the_step_before(parts, request):
    on_time = make_step(accumulate=parts)
    outputs = [on_time(at(n), {"labelled": make_batch()}) for n in (1, 2, 3)]
    assert [output.step for output in outputs] == [1, 2, 3]
    assert on_time.settle() == {}
    request.getfixturevalue("late")
    step = make_step(accumulate=parts)
    found = [step(at(n), {"labelled": make_batch()}) for n in (1, 2, 3)]
    found.append(step.settle())
    assert [output.step for output in found] == [0, 1, 2, 3]
    assert found == [{}, *outputs]
    assert (step.settle(), step.settle().step) == (outputs[-1], 3)
    assert same(weights(step), weights(on_time))
    step.load_state_dict(on_time.state_dict())
    assert step.settle() == {}


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize("last", [True, False])
def test_late_number_that_is_not_finite_names_the_step_that_it_is_of(last):
    step = make_step(terms=[Term(name="bad", loss=NanAt(2), on="labelled")])
    step(at(1), {"labelled": make_batch()})
    step(at(2), {"labelled": make_batch(["case_7", "case_3"])})
    with pytest.raises(UserError, match=r"step 2 \(bad nan\); cases of this step: case_3, case_7"):
        step.settle() if last else step(at(3), {"labelled": make_batch()})


@pytest.mark.usefixtures("late")
def test_late_step_at_the_foot_of_every_ramp_tells_a_loss_of_0():
    step = make_step(terms=[Term(name="dice", loss=DiceLoss(), on="labelled", ramp=0.5)])
    step(at(1), {"labelled": make_batch()})
    assert step.settle() == {"loss": 0.0}


# State


def run_steps(step, first, last):
    for n in range(first, last + 1):
        step(at(n), {"labelled": make_batch()})
    return step


def dropping():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding="same"), nn.Dropout(0.5), nn.Conv2d(8, 2, 1))


def test_state_resumes_a_training_to_the_last_bit_dropout_included(tmp_path):
    whole = run_steps(make_step(dropping()), 1, 6)
    half = run_steps(make_step(dropping()), 1, 3)
    torch.save(half.state_dict(), tmp_path / "state.pt")
    resumed = make_step(dropping())
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    torch.rand(7)  # Whatever else was drawn in between.
    assert same(weights(run_steps(resumed, 4, 6)), weights(whole))


def test_optimizers_state_is_part_of_the_state():
    whole = run_steps(make_step(), 1, 4)
    half = run_steps(make_step(), 1, 2)
    resumed = make_step()
    resumed.network.load_state_dict(half.network.state_dict())
    assert not same(weights(run_steps(resumed, 3, 4)), weights(whole))


def test_restored_optimizer_keeps_its_own_settings_and_takes_what_was_learnt():
    resumed = make_step()
    resumed.optimizer.param_groups[0]["weight_decay"] = 0.25
    resumed.load_state_dict(run_steps(make_step(), 1, 2).state_dict())
    assert resumed.optimizer.param_groups[0]["weight_decay"] == 0.25
    assert {float(moments["step"]) for moments in resumed.optimizer.state.values()} == {2.0}


def test_seed_decides_what_dropout_drops():
    outputs = [make_step(dropping(), seed=seed)(at(1), {"labelled": make_batch()}) for seed in (0, 0, 1)]
    assert outputs[0] == outputs[1] != outputs[2]


# Networks

OPTIONS = {
    "unet": {"channels": [4, 8, 8]},
    "dynunet": {"channels": [4, 4, 8, 8]},
    "segresnet": {"init_filters": 8, "blocks_down": [1, 1, 1], "blocks_up": [1, 1]},
    "wnet": {"channels": [4, 4, 8]},
}


@pytest.mark.parametrize("size", [(16, 16), (16, 16, 16)], ids=["2d", "3d"])
@pytest.mark.parametrize("name", OPTIONS)
def test_every_network_trains_a_step_of_both_kinds_of_scans(name, size):
    network = NETWORKS.build(name, OPTIONS[name], spatial_dims=len(size), in_channels=1, out_channels=2)
    terms = [
        Term(name="dice", loss=DiceLoss(), on="labelled"),
        Term(name="ncut", loss=NCutLoss(radius=2), on="unlabelled", weight=0.1),
    ]
    step = make_step(network, terms)
    before = weights(step)
    output = step(at(1), {"labelled": make_batch("ab", size), "unlabelled": make_batch("c", size, labelled=False)})
    assert set(output) == {"loss", "dice", "ncut"}
    assert not same(before, weights(step))


# Terms in turn


def make_wnet_step(*terms, ramp=0.0, alternate=True, **options):
    torch.manual_seed(0)
    network = NETWORKS.build("wnet", OPTIONS["wnet"], spatial_dims=2, in_channels=1, out_channels=3)
    every = {
        "ncut": Term(name="ncut", loss=NCutLoss(radius=2), on="all"),
        "reconstruction": Term(name="reconstruction", loss=ReconstructionLoss(), on="all", weight=0.5, ramp=ramp),
    }
    return make_step(network, [every[term] for term in terms], alternate=alternate, **options)


def changed(step, before):
    """Parts of a W-Net of which every weight, or no weight, has changed."""
    moved = {key: not torch.equal(before[key], value) for key, value in step.network.state_dict().items()}
    parts = {part: {value for key, value in moved.items() if key.startswith(part)} for part in ("encoder", "decoder")}
    return {part: values.pop() if len(values) == 1 else values for part, values in parts.items()}


UNLABELLED = {"unlabelled": make_batch("ab", labelled=False)}


def test_cut_updates_the_encoder_alone():
    step = make_wnet_step("ncut", "reconstruction", ramp=1.0)  # At the first step the second term weighs nothing.
    before = weights(step)
    assert set(step(at(1), UNLABELLED)) == {"loss", "ncut"}
    assert changed(step, before) == {"encoder": True, "decoder": False}


def test_reconstruction_updates_encoder_and_decoder():
    step = make_wnet_step("reconstruction")
    before = weights(step)
    assert set(step(at(1), UNLABELLED)) == {"loss", "reconstruction"}
    assert changed(step, before) == {"encoder": True, "decoder": True}


def test_terms_in_turn_are_the_updates_one_after_the_other():
    both = make_wnet_step("ncut", "reconstruction")
    output = both(at(1), UNLABELLED)
    apart = make_wnet_step("ncut")
    first = apart(at(1), UNLABELLED)
    apart.objective = make_wnet_step("reconstruction").objective
    second = apart(at(1), UNLABELLED)
    assert same(weights(both), weights(apart))
    assert output["ncut"] == first["ncut"]
    assert output["reconstruction"] == second["reconstruction"]
    assert output["loss"] == pytest.approx(output["ncut"] + 0.5 * output["reconstruction"])


def test_terms_at_once_are_one_update_of_their_sum():
    at_once, in_turn = (make_wnet_step("ncut", "reconstruction", alternate=value) for value in (False, True))
    output, other = at_once(at(1), UNLABELLED), in_turn(at(1), UNLABELLED)
    assert output["ncut"] == other["ncut"]
    # The second update in turn meets an encoder that the first has changed.
    assert output["reconstruction"] != other["reconstruction"]
    assert at_once.optimizer.state_dict()["state"][0]["step"] == 1
    assert in_turn.optimizer.state_dict()["state"][0]["step"] == 2


def test_decoder_works_for_a_reconstruction_alone():
    seen = []
    step = make_wnet_step("ncut", "reconstruction", ramp=0.5)
    step.network.decoder.register_forward_hook(lambda *_: seen.append(1))
    step(at(1), UNLABELLED)
    assert seen == []
    step(at(2), UNLABELLED)
    assert seen == [1]


def test_training_in_turn_resumes_to_the_last_bit(tmp_path):
    def run(step, first, last):
        for n in range(first, last + 1):
            step(at(n), UNLABELLED)
        return step

    whole = run(make_wnet_step("ncut", "reconstruction"), 1, 5)
    torch.save(run(make_wnet_step("ncut", "reconstruction"), 1, 2).state_dict(), tmp_path / "state.pt")
    resumed = make_wnet_step("ncut", "reconstruction")
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert same(weights(run(resumed, 3, 5)), weights(whole))


# A batch in parts


@pytest.mark.parametrize("parts", [2, 4])
def test_parts_of_a_batch_add_up_to_the_whole(parts):
    terms = [
        Term(name="dice", loss=DiceLoss(), on="labelled"),
        Term(name="ncut", loss=NCutLoss(radius=2), on="unlabelled", weight=0.1),
    ]
    seen = []
    steps = [make_step(terms=terms, accumulate=n) for n in (1, parts)]
    steps[1].network.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    batches = {"labelled": make_batch("abcd"), "unlabelled": make_batch("efghijkl", labelled=False)}
    outputs = [step(at(1), batches) for step in steps]
    assert seen == [4 // parts, 8 // parts] * parts
    assert outputs[1] == pytest.approx(outputs[0], abs=1e-6)
    for whole, added in zip(*(step.network.parameters() for step in steps), strict=True):
        assert torch.allclose(whole.grad, added.grad, rtol=1e-4, atol=1e-7)
        # AdamW's first step is as long for a small gradient as for a large one, so rounding shows.
        assert torch.allclose(whole, added, atol=1e-4)


def test_loss_of_any_part_that_is_not_finite_stops_the_training():
    step = make_step(terms=[Term(name="dice", loss=NanAt(2), on="labelled")], accumulate=2)
    before = weights(step)
    with pytest.raises(UserError, match="not finite at step 1"):
        step(at(1), {"labelled": make_batch("ab")})
    assert same(before, step.network.state_dict())
