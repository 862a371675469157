from pathlib import Path

import pytest

from pipeline.data.layouts import Dataset
from pipeline.data.splits import split_cases
from pipeline.errors import UserError
from pipeline.types import Case


def case(name, label=True, patient=None, role=None):
    return Case(name, (Path(f"{name}.nii"),), Path(f"{name}_mask.nii") if label else None, patient or name, role)


def dataset(*cases):
    return Dataset(Path("data"), "folder", cases)


def patients(cases):
    return {case.patient for case in cases}


MANY = dataset(*(case(f"c{n:02d}") for n in range(20)), *(case(f"u{n}", label=False) for n in range(3)))


def test_a_validation_list_wins_over_the_draw():
    listed = dataset(
        *(case(f"c{n}", role="training") for n in range(9)),
        case("u", label=False, role="training"),
        case("v", role="validation"),
        case("t", role="test"),
    )
    split = split_cases(listed, 0.9, seed=0)
    assert split.as_dict() == {
        "labelled": [f"c{n}" for n in range(9)],
        "unlabelled": ["u"],
        "validation": ["v"],
    }


@pytest.mark.parametrize("role", [None, "training"])
@pytest.mark.parametrize(("fraction", "held_out"), [(0.2, 4), (0.01, 1), (0.5, 10), (0.99, 19)])
def test_the_share_is_of_labelled_patients_with_at_least_one_on_each_side(fraction, held_out, role):
    cases = dataset(*(case(c.id, c.label is not None, role=role) for c in MANY.cases))
    split = split_cases(cases, fraction, seed=3)
    assert len(split.validation) == held_out
    assert len(split.labelled) == 20 - held_out
    assert len(split.unlabelled) == 3
    assert all(case.label for case in split.validation + split.labelled)


def test_no_case_is_lost_or_used_twice():
    split = split_cases(MANY, 0.2, seed=1)
    used = [name for names in split.as_dict().values() for name in names]
    assert sorted(used) == sorted(case.id for case in MANY.cases)


def test_the_draw_depends_on_the_seed_alone():
    first = split_cases(MANY, 0.2, seed=5)
    assert first == split_cases(MANY, 0.2, seed=5)
    turned = split_cases(dataset(*MANY.cases[::-1]), 0.2, seed=5)
    assert set(turned.validation) == set(first.validation)
    assert len({frozenset(patients(split_cases(MANY, 0.2, seed).validation)) for seed in range(20)}) > 10


def test_every_patient_is_drawn_sooner_or_later():
    drawn = set().union(*(patients(split_cases(MANY, 0.2, seed).validation) for seed in range(60)))
    assert len(drawn) == 20


@pytest.mark.parametrize("seed", range(10))
def test_no_patient_is_on_both_sides(seed):
    cases = [case(f"p{n}_{visit}", visit < 2, f"p{n}") for n in range(6) for visit in range(3)]
    split = split_cases(dataset(*cases), 0.3, seed)
    taught = patients(split.labelled + split.unlabelled)
    assert patients(split.validation) & taught == set()
    assert len(patients(split.validation)) == 2
    assert len(split.validation) == 4, "both labelled visits of a held-out patient are scored"
    assert len(split.unlabelled) == 4, "the unlabelled visits of held-out patients are dropped"


def test_scans_of_a_listed_validation_patient_are_not_trained_on():
    cases = dataset(
        case("a", role="training"),
        case("b", role="training", patient="p"),
        case("u", label=False, role="training", patient="p"),
        case("v", role="validation", patient="p"),
    )
    assert split_cases(cases, 0.2, 0).as_dict() == {"labelled": ["a"], "unlabelled": [], "validation": ["v"]}


@pytest.mark.parametrize(
    ("cases", "message"),
    [
        ([case("u", label=False)], "0 labelled patient(s)"),
        ([case("a"), case("u", label=False)], "1 labelled patient(s)"),
        ([case("a", patient="p"), case("b", patient="p")], "1 labelled patient(s)"),
        ([case("a", role="validation"), case("u", label=False, role="training")], "no labelled case is left"),
        (
            [case("a", role="validation", patient="p"), case("b", role="training", patient="p")],
            "no labelled case is left",
        ),
        ([case("a", role="test"), case("b", role="test")], "0 labelled patient(s)"),
    ],
)
def test_too_few_labels_to_teach_and_to_test_are_an_error(cases, message):
    with pytest.raises(UserError) as raised:
        split_cases(dataset(*cases), 0.2, 0)
    (problem,) = raised.value.problems
    assert (problem.where, problem.code) == ("data", "too-few-labels")
    assert message in problem.message
    assert "label one more scan" in problem.remedy


# Where labels do not teach


def test_masks_that_do_not_teach_validate_and_are_out_of_reach_of_the_training():
    split = split_cases(MANY, 0.2, seed=3, labels_teach=False)
    assert split.labelled == ()
    assert len(split.unlabelled) == 16 + 3
    assert all(case.label is None for case in split.unlabelled)
    assert split.validation == split_cases(MANY, 0.2, seed=3).validation
    assert all(case.label for case in split.validation)


def test_dataset_without_masks_can_be_trained_on_where_labels_do_not_teach():
    bare = dataset(*(case(f"u{n}", label=False) for n in range(3)))
    assert split_cases(bare, 0.2, seed=0, labels_teach=False).as_dict() == {
        "labelled": [],
        "unlabelled": ["u0", "u1", "u2"],
        "validation": [],
    }


def test_the_only_labelled_patient_validates_where_labels_do_not_teach():
    few = dataset(case("a"), case("b", patient="a", label=False), case("u", label=False))
    split = split_cases(few, 0.2, seed=0, labels_teach=False)
    assert split.as_dict() == {"labelled": [], "unlabelled": ["u"], "validation": ["a"]}


def test_nothing_to_train_on_is_refused_where_labels_do_not_teach():
    with pytest.raises(UserError, match="no case is left to train on"):
        split_cases(dataset(case("a")), 0.2, seed=0, labels_teach=False)
