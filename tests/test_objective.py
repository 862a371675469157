from pathlib import Path

import pytest
import torch

from pipeline import config
from pipeline.losses import ImageLoss, LabelLoss
from pipeline.losses.objective import Objective, Term
from pipeline.runs.build import build_network
from pipeline.runs.components import COMPONENTS
from pipeline.runs.objectives import build_objective
from pipeline.types import Task

WITH_CUTS = Path(__file__).resolve().parents[1] / "configs" / "ncut.yaml"


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


def known(given=LOGITS, batches=BATCHES, **more):
    """The values of each stream: its batch and its logits."""
    return {kind: batches[kind] | {"logits": given[kind]} | more for kind in given}


STREAMS = known()


class Unasked(dict):
    """A stream that nothing may look at."""

    def __getitem__(self, name):
        raise AssertionError(f"{name} was asked for")


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
    assert Term(name="t", loss=Labelled(), on="labelled", weight=weight, ramp=ramp).weight_at(
        progress
    ) == pytest.approx(expected)


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
    total, values = Objective([Term(name="t", loss=loss, on=on)])(STREAMS, 0)
    assert total.item() == pytest.approx(expected)
    assert values["t"].item() == pytest.approx(expected)


def test_total_is_the_weighted_sum_and_values_are_without_weights():
    terms = [
        Term(name="a", loss=Labelled(), on="labelled", weight=0.5),
        Term(name="b", loss=Pictured(), on="unlabelled", weight=0.1, ramp=0.5),
    ]
    total, values = Objective(terms)(STREAMS, 0.25)
    assert {name: value.item() for name, value in values.items()} == {"a": 20, "b": 140}
    assert total.item() == pytest.approx(0.5 * 20 + 0.05 * 140)


def test_term_without_its_scans_is_absent():
    terms = [
        Term(name="a", loss=Labelled(), on="labelled"),
        Term(name="b", loss=Pictured(), on="unlabelled"),
        Term(name="c", loss=Pictured(), on="all"),
    ]
    total, values = Objective(terms)({"labelled": STREAMS["labelled"]}, 0)
    assert {name: value.item() for name, value in values.items()} == {"a": 20, "c": 50}
    assert total.item() == 70


def test_term_at_the_foot_of_its_ramp_is_absent_and_asks_for_nothing():
    terms = [
        Term(name="a", loss=Labelled(), on="labelled"),
        Term(name="b", loss=Pictured(), on="unlabelled", ramp=0.5),
    ]
    assert set(Objective(terms)(STREAMS | {"unlabelled": Unasked()}, 0.0)[1]) == {"a"}
    with pytest.raises(AssertionError, match="logits was asked for"):
        Objective(terms)(STREAMS | {"unlabelled": Unasked()}, 0.1)


def test_objective_of_no_streams_is_zero():
    total, values = Objective([Term(name="a", loss=Labelled(), on="labelled", ramp=1.0)])({}, 0)
    assert (total.item(), values) == (0, {})


def test_levels_of_a_loss_on_labels_weigh_1_a_half_a_quarter():
    levels = (logits(1.0), logits(2.0), logits(4.0))
    total, _ = Objective([Term(name="a", loss=Labelled(), on="labelled")])(known({"labelled": levels}), 0)
    assert total.item() == pytest.approx(2 * (1 * 1 + 0.5 * 2 + 0.25 * 4) / 1.75)


def test_loss_on_images_looks_at_the_finest_level_alone():
    levels = (logits(1.0), logits(2.0))
    total, _ = Objective([Term(name="a", loss=Pictured(), on="labelled")])(known({"labelled": levels}), 0)
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
    Objective([Term(name="a", loss=Watching(), on="labelled")])({"labelled": batch | {"logits": levels}}, 0)
    assert torch.equal(seen[0], labels)
    assert torch.equal(seen[1], labels[:, :, 1::2, 1::2])
    assert seen[1].dtype == torch.int64


def test_levels_of_both_kinds_of_scan_are_joined_level_by_level():
    given = {kind: (logits(1.0), logits(3.0)) for kind in ("labelled", "unlabelled")}
    total, _ = Objective([Term(name="a", loss=Labelled(), on="all")])(known(given), 0)
    one, _ = Objective([Term(name="a", loss=Labelled(), on="all")])(known({"labelled": given["labelled"]}), 0)
    assert total.shape == one.shape == ()


def test_values_hold_no_graph():
    given = {"labelled": logits(1.0).requires_grad_()}
    total, values = Objective([Term(name="a", loss=Labelled(), on="labelled")])(known(given), 0)
    assert total.requires_grad
    assert not values["a"].requires_grad


def test_loss_that_stands_twice_gets_a_number():
    objective = [{"loss": "dice"}, {"loss": "dice", "on": "all"}, {"loss": "ncut"}]
    recipe = config.parse({"dataset": "d", "objective": objective}, "recipe", COMPONENTS)
    assert build_objective(recipe).names == ("dice", "dice_2", "ncut")


def test_loss_in_mm_gets_the_spacing_of_the_scans():
    objective = [{"loss": "ncut", "options": {"spacing_mm": "data"}}]
    recipe = {"dataset": "d", "objective": objective, "data": {"spacing_mm": [1.0, 1.0, 2.5]}}
    (term,) = build_objective(config.parse(recipe, "recipe", COMPONENTS)).terms
    assert term.loss.spacing_mm == (1.0, 1.0, 2.5)


# The shipped recipe


def shipped(name=None, *overrides):
    raw = config.read(WITH_CUTS, ["dataset=d", "device=cpu", "data.dimensions=3", *overrides])
    recipe = config.parse(raw, "recipe", COMPONENTS)
    terms = build_objective(recipe).terms
    return recipe, Objective([term for term in terms if name in (None, term.name)])


def real_batch(labelled):
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 1, 16, 16, 16, generator=generator)
    label = (image > 0).long() + (image > 1) if labelled else torch.full(image.shape, -1)
    return {"image": image, "label": label, "mask": torch.ones_like(image, dtype=torch.bool)}


@pytest.mark.parametrize("network", ["shipped", "unet", "dynunet", "segresnet"])
@pytest.mark.parametrize("name", shipped()[1].names)
def test_each_term_of_the_recipe_with_cuts_reaches_every_parameter(name, network):
    given = "network.options.channels=[16, 32, 64, 128]" if network == "shipped" else f"network={network}"
    recipe, objective = shipped(name, given, *(["network.members=1"] if network == "shipped" else []))
    assert len(objective.terms) == 1
    net = build_network(recipe, Task({0: "background", 1: "a", 2: "b"}, ("MRI",))).train()
    kind = objective.terms[0].on
    each = real_batch(kind == "labelled")
    total, values = objective({kind: each | {"logits": net(each["image"])}}, 1.0)
    total.backward()
    assert set(values) == {name}
    missing = [key for key, p in net.named_parameters() if p.grad is None or not (p.grad.abs().max() > 0)]
    if name == "ncut" and network in (
        "shipped",
        "dynunet",
    ):  # The coarse heads of deep supervision are for losses on labels alone.
        missing = [key for key in missing if "deep_supervision_heads" not in key]
    assert missing == []


def test_unlabelled_term_of_the_recipe_with_cuts_needs_no_label():
    _, objective = shipped("ncut")
    assert [(term.on, term.needs) for term in objective.terms] == [("unlabelled", ("logits", "image", "mask"))]


# Other values than the loss's own choice


class Remade(ImageLoss):
    """The mean of the reconstruction."""

    judges = "reconstruction"

    def forward(self, reconstruction, image, mask=None):
        return reconstruction.mean()


def test_term_judges_the_value_that_its_loss_names():
    terms = [
        Term(name="a", loss=Pictured(), on="unlabelled"),
        Term(name="b", loss=Remade(), on="unlabelled", weight=2.0),
    ]
    streams = known({"unlabelled": LOGITS["unlabelled"]}, reconstruction=torch.full((1, 1, 2, 2), 3.0))
    total, values = Objective(terms)(streams, 0)
    assert {name: value.item() for name, value in values.items()} == {"a": 140, "b": 3}
    assert total.item() == 146


def test_term_judges_and_compares_with_the_values_that_a_recipe_names():
    streams = known({"unlabelled": LOGITS["unlabelled"]}, pseudo_label=torch.full((1, 1, 2, 2), 4), other=logits(3.0))
    term = Term(name="a", loss=Labelled(), on="unlabelled", judges="other", against=("pseudo_label",))
    assert Objective([term])(streams, 0)[0].item() == 12


def test_parts_of_an_objective_have_one_term_each():
    objective = Objective([Term(name="a", loss=Pictured(), on="all"), Term(name="b", loss=Remade(), on="all")])
    assert [part.names for part in objective.by_term()] == [("a",), ("b",)]
