from pathlib import Path

import pytest
import torch

from pipeline import config
from pipeline.losses import LOSSES, ImageLoss, LabelLoss
from pipeline.losses.objective import Objective, Term
from pipeline.networks import NETWORKS
from pipeline.runs.build import build_network, build_objective
from pipeline.types import Task

SEMISUPERVISED = Path(__file__).resolve().parents[1] / "configs" / "semisupervised.yaml"


class Labelled(LabelLoss):
    """The mean of the logits times the mean of the labels."""

    def forward(self, logits, labels):
        return logits.mean() * labels.float().mean()


class Pictured(ImageLoss):
    """The mean of the logits times the mean of the image inside the mask."""

    def forward(self, logits, image, mask=None):
        return logits.mean() * image[mask].mean()


def batch(label, image=1.0, cases=1):
    shape = (cases, 1, 2, 2)
    mask = torch.ones(shape, dtype=torch.bool)
    mask[..., 0] = False
    picture = torch.full(shape, image)
    picture[..., 0] = 99
    return {"image": picture, "label": torch.full(shape, label), "mask": mask, "case": ["a"] * cases}


def logits(value, cases=1):
    return torch.full((cases, 3, 2, 2), value)


BATCHES = {"labelled": batch(2, image=5.0), "unlabelled": batch(-1, image=7.0)}
LOGITS = {"labelled": logits(10.0), "unlabelled": logits(20.0)}


@pytest.mark.parametrize(
    ("weight", "ramp", "progress", "expected"),
    [
        (0.3, 0.0, 0.0, 0.3),
        (0.3, 0.0, 1.0, 0.3),
        (0.4, 0.5, 0.0, 0.0),
        (0.4, 0.5, 0.25, 0.2),
        (0.4, 0.5, 0.5, 0.4),
        (0.4, 0.5, 0.9, 0.4),
        (2.0, 1.0, 0.75, 1.5),
        (0.0, 0.5, 0.9, 0.0),
    ],
)
def test_weight_grows_linearly_over_its_ramp_and_stays(weight, ramp, progress, expected):
    assert Term("t", Labelled(), "labelled", weight, ramp).weight_at(progress) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("loss", "on", "expected"),
    [
        (Labelled(), "labelled", 10 * 2),
        (Labelled(), "unlabelled", 20 * -1),
        (Labelled(), "all", 15 * 0.5),
        (Pictured(), "labelled", 10 * 5),
        (Pictured(), "unlabelled", 20 * 7),
        (Pictured(), "all", 15 * 6),
    ],
)
def test_term_looks_at_the_scans_that_it_names_and_compares_with_what_its_loss_needs(loss, on, expected):
    total, values = Objective([Term("t", loss, on)])(LOGITS, BATCHES, 0)
    assert total.item() == pytest.approx(expected)
    assert values["t"].item() == pytest.approx(expected)


def test_total_is_the_weighted_sum_and_values_are_without_weights():
    terms = [Term("a", Labelled(), "labelled", 0.5), Term("b", Pictured(), "unlabelled", 0.1, ramp=0.5)]
    total, values = Objective(terms)(LOGITS, BATCHES, 0.25)
    assert {name: value.item() for name, value in values.items()} == {"a": 20, "b": 140}
    assert total.item() == pytest.approx(0.5 * 20 + 0.05 * 140)


def test_term_without_its_scans_is_absent():
    terms = [Term("a", Labelled(), "labelled"), Term("b", Pictured(), "unlabelled"), Term("c", Pictured(), "all")]
    only = {"labelled": LOGITS["labelled"]}
    total, values = Objective(terms)(only, {"labelled": BATCHES["labelled"]}, 0)
    assert {name: value.item() for name, value in values.items()} == {"a": 20, "c": 50}
    assert total.item() == 70


def test_term_at_the_foot_of_its_ramp_is_absent_and_asks_for_no_batch():
    objective = Objective([Term("a", Labelled(), "labelled"), Term("b", Pictured(), "unlabelled", ramp=0.5)])
    assert objective.kinds_at(0.0) == {"labelled"}
    assert objective.kinds_at(0.1) == {"labelled", "unlabelled"}
    assert set(objective(LOGITS, BATCHES, 0.0)[1]) == {"a"}


def test_term_on_all_scans_asks_for_both_batches():
    assert Objective([Term("a", Pictured(), "all")]).kinds_at(0) == {"labelled", "unlabelled"}


def test_objective_of_no_logits_is_zero():
    total, values = Objective([Term("a", Labelled(), "labelled", ramp=1.0)])({}, {}, 0)
    assert (total.item(), values) == (0, {})


def test_levels_of_a_loss_on_labels_weigh_1_a_half_a_quarter():
    levels = (logits(1.0), logits(2.0), logits(4.0))
    total, _ = Objective([Term("a", Labelled(), "labelled")])({"labelled": levels}, BATCHES, 0)
    assert total.item() == pytest.approx(2 * (1 * 1 + 0.5 * 2 + 0.25 * 4) / 1.75)


def test_loss_on_images_looks_at_the_finest_level_alone():
    levels = (logits(1.0), logits(2.0))
    total, _ = Objective([Term("a", Pictured(), "labelled")])({"labelled": levels}, BATCHES, 0)
    assert total.item() == 5


def test_a_coarse_level_is_compared_with_labels_of_its_own_resolution():
    seen = []

    class Watching(Labelled):
        def forward(self, logits, labels):
            seen.append(labels)
            return super().forward(logits, labels)

    labels = torch.arange(-1, 15).reshape(1, 1, 4, 4)
    batch = {"image": torch.zeros(1, 1, 4, 4), "label": labels, "mask": torch.ones(1, 1, 4, 4, dtype=torch.bool)}
    levels = (torch.ones(1, 3, 4, 4), torch.ones(1, 3, 2, 2))
    Objective([Term("a", Watching(), "labelled")])({"labelled": levels}, {"labelled": batch}, 0)
    assert torch.equal(seen[0], labels)
    assert torch.equal(seen[1], labels[:, :, 1::2, 1::2])
    assert seen[1].dtype == torch.int64


def test_levels_of_both_kinds_of_scan_are_joined_level_by_level():
    given = {kind: (logits(1.0), logits(3.0)) for kind in ("labelled", "unlabelled")}
    total, _ = Objective([Term("a", Labelled(), "all")])(given, BATCHES, 0)
    one, _ = Objective([Term("a", Labelled(), "all")])({"labelled": given["labelled"]}, BATCHES, 0)
    assert total.shape == one.shape == ()


def test_values_hold_no_graph():
    given = {"labelled": logits(1.0).requires_grad_()}
    total, values = Objective([Term("a", Labelled(), "labelled")])(given, BATCHES, 0)
    assert total.requires_grad
    assert not values["a"].requires_grad


def test_loss_that_stands_twice_gets_a_number():
    objective = [{"loss": "dice"}, {"loss": "dice", "on": "all"}, {"loss": "ncut"}]
    recipe = config.parse({"dataset": "d", "objective": objective}, "recipe", LOSSES, NETWORKS)
    assert build_objective(recipe).names == ("dice", "dice_2", "ncut")


def test_loss_in_mm_gets_the_spacing_of_the_scans():
    objective = [{"loss": "ncut", "options": {"spacing_mm": "data"}}]
    recipe = {"dataset": "d", "objective": objective, "data": {"spacing_mm": [1.0, 1.0, 2.5]}}
    (term,) = build_objective(config.parse(recipe, "recipe", LOSSES, NETWORKS)).terms
    assert term.loss.spacing_mm == (1.0, 1.0, 2.5)


# The shipped recipe


def shipped(name=None, *overrides):
    raw = config.read(SEMISUPERVISED, ["dataset=d", "device=cpu", "data.dimensions=3", *overrides])
    recipe = config.parse(raw, "recipe", LOSSES, NETWORKS)
    terms = build_objective(recipe).terms
    return recipe, Objective([term for term in terms if name in (None, term.name)])


def real_batch(labelled):
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 1, 16, 16, 16, generator=generator)
    label = (image > 0).long() + (image > 1) if labelled else torch.full(image.shape, -1)
    return {"image": image, "label": label, "mask": torch.ones_like(image, dtype=torch.bool)}


@pytest.mark.parametrize("network", ["shipped", "unet", "dynunet", "segresnet"])
@pytest.mark.parametrize("name", shipped()[1].names)
def test_each_term_of_the_semisupervised_recipe_reaches_every_parameter(name, network):
    given = "network.options.channels=[16, 32, 64, 128]" if network == "shipped" else f"network={network}"
    recipe, objective = shipped(name, given, *(["network.members=1"] if network == "shipped" else []))
    assert len(objective.terms) == 1
    net = build_network(recipe, Task({0: "background", 1: "a", 2: "b"}, ("MRI",))).train()
    batches = {kind: real_batch(kind == "labelled") for kind in objective.kinds_at(1.0)}
    total, values = objective({kind: net(each["image"]) for kind, each in batches.items()}, batches, 1.0)
    total.backward()
    assert set(values) == {name}
    missing = [key for key, p in net.named_parameters() if p.grad is None or not (p.grad.abs().max() > 0)]
    if name == "ncut" and network in (
        "shipped",
        "dynunet",
    ):  # The coarse heads of deep supervision are for losses on labels alone.
        missing = [key for key in missing if "deep_supervision_heads" not in key]
    assert missing == []


def test_unlabelled_term_of_the_semisupervised_recipe_needs_no_label():
    _, objective = shipped("ncut")
    assert objective.kinds_at(1.0) == {"unlabelled"}


# What a network answers with


class Remade(ImageLoss):
    """The mean of the reconstruction."""

    output = "reconstruction"

    def forward(self, reconstruction, image, mask=None):
        return reconstruction.mean()


def test_term_judges_the_answer_that_its_loss_names():
    terms = [Term("a", Pictured(), "unlabelled"), Term("b", Remade(), "unlabelled", 2.0)]
    remade = {"unlabelled": torch.full((1, 1, 2, 2), 3.0)}
    total, values = Objective(terms)(LOGITS, BATCHES, 0, remade)
    assert {name: value.item() for name, value in values.items()} == {"a": 140, "b": 3}
    assert total.item() == 146


def test_objective_says_which_answers_it_judges():
    objective = Objective([Term("a", Pictured(), "all"), Term("b", Remade(), "all", ramp=0.5)])
    assert objective.outputs_at(0.0) == {"logits"}
    assert objective.outputs_at(0.1) == {"logits", "reconstruction"}


def test_parts_of_an_objective_have_one_term_each():
    objective = Objective([Term("a", Pictured(), "all"), Term("b", Remade(), "all")])
    assert [part.names for part in objective.parts()] == [("a",), ("b",)]
