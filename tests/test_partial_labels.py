"""Cases in which some voxels, or some classes, are not annotated: what losses see of them."""

import numpy as np
import pytest
import torch
from reference import balanced_ce, dice_loss, softmax

from pipeline.losses import LOSSES, BalancedCELoss, CrossEntropyLoss, DiceLoss, LabelLoss
from pipeline.losses.objective import Objective, Term
from pipeline.losses.partial import merged

# Those with options that are not needed.
LABEL_LOSSES = sorted(name for name in LOSSES.names if issubclass(LOSSES[name], LabelLoss))


def draw(classes=4, batch=3, size=(6, 5), seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(batch, classes, *size, generator=generator, dtype=torch.float64)
    return logits, torch.randint(0, classes, (batch, *size), generator=generator)


@pytest.mark.parametrize(
    "loss", [DiceLoss(), BalancedCELoss(), CrossEntropyLoss()], ids=lambda loss: type(loss).__name__
)
@pytest.mark.parametrize("size", [(6, 5), (4, 3, 5)])
def test_voxels_that_nobody_annotated_might_as_well_be_cut_out(loss, size):
    logits, labels = draw(size=size)
    scribbled = torch.rand(labels.shape, generator=torch.Generator().manual_seed(1)) < 0.3
    sparse = labels.where(scribbled, -1)
    for case in range(len(logits)):  # one by one, since cases have other numbers of annotated voxels
        there = scribbled[case]
        cut = logits[case][:, there][None, ..., None]
        whole = logits[case : case + 1].clone().requires_grad_()
        value = loss(whole, sparse[case : case + 1])
        value.backward()
        assert value.item() == pytest.approx(loss(cut, labels[case][there][None, :, None]).item(), abs=1e-12)
        assert not whole.grad[0][:, ~there].any()
        assert whole.grad[0][:, there].any()


def test_whatever_a_network_says_where_nobody_annotated_changes_no_bit():
    logits, labels = draw()
    sparse = labels.where(torch.rand(labels.shape, generator=torch.Generator().manual_seed(1)) < 0.3, -1)
    other = logits.where((sparse >= 0)[:, None], 100 * torch.randn(logits.shape, dtype=logits.dtype))
    for name in LABEL_LOSSES:
        loss = LOSSES.build(name, {})
        assert loss(logits, sparse).item() == loss(other, sparse).item(), name


def marginal(p, annotated):
    """Probabilities of the annotated classes of one case alone, background's with those of all others."""
    kept = [k for k in range(1, len(p)) if annotated[k]]
    rest = [k for k in range(len(p)) if k not in kept]
    return np.stack([p[rest].sum(axis=0), *(p[k] for k in kept)]), kept


@pytest.mark.parametrize("softmax_on", [True, False])
def test_merged_cases_are_those_of_a_network_with_the_annotated_classes_alone(softmax_on):
    logits, labels = draw()
    p = softmax(logits.numpy())
    annotated = torch.tensor([[True] * 4, [True, False, True, False], [False, True, False, True]])
    given = logits if softmax_on else torch.from_numpy(p)
    dice, ce = [], []
    for case in range(3):
        small, kept = marginal(p[case], annotated[case])
        seen = np.zeros_like(labels[case].numpy())
        for new, old in enumerate(kept, start=1):
            seen[labels[case].numpy() == old] = new
        labels[case] = torch.from_numpy(np.array([0, *kept])[seen])
        dice += dice_loss(small[None], seen[None])
        ce.append(-np.log(np.take_along_axis(small, seen[None], axis=0)))
    value = DiceLoss(softmax=softmax_on, reduction="none")(given, labels, annotated)
    np.testing.assert_allclose(value.numpy(), dice, atol=1e-9)
    together = merged(given, annotated, softmax=softmax_on)
    assert CrossEntropyLoss(softmax=softmax_on)(together, labels).item() == pytest.approx(np.mean(ce), abs=1e-9)
    expected = balanced_ce(softmax(together.numpy()) if softmax_on else together.numpy(), labels.numpy())
    assert BalancedCELoss(softmax=softmax_on)(together, labels).item() == pytest.approx(
        expected, abs=1e-6
    )  # it adds 1e-6 to each count


def test_cases_with_every_class_annotated_are_left_as_they_are():
    logits, labels = draw()
    every = torch.ones(3, 4, dtype=torch.bool)
    assert merged(logits, every).equal(logits)
    assert DiceLoss()(logits, labels, every).item() == pytest.approx(DiceLoss()(logits, labels).item(), abs=1e-12)
    single = logits.float()
    assert merged(single, every).equal(single)


def test_a_structure_that_is_not_annotated_is_neither_wanted_nor_punished():
    logits = torch.zeros(1, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    labels = torch.zeros(1, 2, 2, dtype=torch.long)  # all of it background, or spleen that nobody marked
    annotated = torch.tensor([[True, True, False]])
    for loss in (DiceLoss(), CrossEntropyLoss()):
        objective = Objective([Term(name="term", loss=loss, on="labelled")])
        total, _ = objective({"labelled": {"logits": logits, "label": labels[:, None], "annotated": annotated}}, 1.0)
        (slope,) = torch.autograd.grad(total, logits)
        assert slope[0, 1].min() > 0, "the liver should go"
        torch.testing.assert_close(slope[0, 0], slope[0, 2])  # either of the others may come


@pytest.mark.parametrize("name", LABEL_LOSSES)
def test_every_loss_on_labels_is_blind_to_what_is_not_annotated(name):
    logits, labels = draw(classes=3)
    labels[labels == 2] = 0
    annotated = torch.tensor([[True, True, False]] * 3)
    objective = Objective([Term(name="term", loss=LOSSES.build(name, {}), on="labelled")])

    def value(swapped):
        given = logits.clone()
        if swapped:
            given[:, [0, 2]] = given[:, [2, 0]]
        levels = (given, given[..., ::2, ::2])
        known = {"logits": levels, "label": labels[:, None], "annotated": annotated}
        return objective({"labelled": known}, 1.0)[0].item()

    assert value(True) == pytest.approx(value(False), rel=1e-9)


def test_an_objective_asks_for_annotated_classes_only_where_labels_are_compared_and_a_batch_has_them():
    terms = [Term(name="a", loss=DiceLoss(), on="all"), Term(name="b", loss=DiceLoss(), on="all", against=("peer",))]
    batch = {"image": None, "annotation": None}
    plain = Objective(terms).needed({"labelled": batch, "unlabelled": batch}, 1.0)
    assert "annotated" not in {name for _, name in plain}
    partly = {"labelled": batch | {"annotated": None}, "unlabelled": batch}
    assert set(Objective(terms).needed(partly, 1.0)) - set(plain) == {("labelled", "annotated")}
    assert Objective(terms[1:]).needed(partly, 1.0) == Objective(terms[1:]).needed(
        {"labelled": batch, "unlabelled": batch}, 1.0
    )


def test_shapes_that_do_not_fit_are_refused():
    logits, _ = draw()
    for annotated in (torch.ones(3, 3, dtype=torch.bool), torch.ones(2, 4, dtype=torch.bool)):
        with pytest.raises(ValueError, match="annotated classes have shape"):
            merged(logits, annotated)
    with pytest.raises(ValueError, match="two classes or more"):
        merged(logits[:, :1], torch.ones(3, 1, dtype=torch.bool))
