from pathlib import Path

import pytest

from pipeline.data.layouts import Dataset
from pipeline.data.splits import split_cases
from pipeline.errors import UserError
from pipeline.types import Case


def case(name, label=True, patient=None, role=None):
    return Case(
        id=name,
        images=(Path(f"{name}.nii"),),
        label=Path(f"{name}_mask.nii") if label else None,
        patient=patient or name,
        role=role,
    )


def dataset(*cases):
    return Dataset(source=Path("data"), layout="folder", cases=cases)


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
        "unlike": [],
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
    assert split_cases(cases, 0.2, 0).as_dict() == {
        "labelled": ["a"],
        "unlabelled": [],
        "validation": ["v"],
        "unlike": [],
    }


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
    assert "label a scan of one more patient" in problem.remedy


# Where labels do not teach


def test_masks_that_do_not_teach_validate_and_are_out_of_reach_of_the_training():
    split = split_cases(MANY, 0.2, seed=3, with_labels=False)
    assert split.labelled == ()
    assert len(split.unlabelled) == 16 + 3
    assert all(case.label is None for case in split.unlabelled)
    assert split.validation == split_cases(MANY, 0.2, seed=3).validation
    assert all(case.label for case in split.validation)


def test_dataset_without_masks_can_be_trained_on_where_labels_do_not_teach():
    bare = dataset(*(case(f"u{n}", label=False) for n in range(3)))
    assert split_cases(bare, 0.2, seed=0, with_labels=False).as_dict() == {
        "labelled": [],
        "unlabelled": ["u0", "u1", "u2"],
        "validation": [],
        "unlike": [],
    }


def test_the_only_labelled_patient_validates_where_labels_do_not_teach():
    few = dataset(case("a"), case("b", patient="a", label=False), case("u", label=False))
    split = split_cases(few, 0.2, seed=0, with_labels=False)
    assert split.as_dict() == {"labelled": [], "unlabelled": ["u"], "validation": ["a"], "unlike": []}


def test_nothing_to_train_on_is_refused_where_labels_do_not_teach():
    with pytest.raises(UserError, match="no case is left to train on"):
        split_cases(dataset(case("a")), 0.2, seed=0, with_labels=False)


# Classes that few masks have


def of(**classes):
    return {name: frozenset(values) for name, values in classes.items()}


def many_with(*rare, classes=(1,)):
    """The classes of many cases: those of all, and 9 in some."""
    return {c.id: frozenset({*classes} | ({9} if c.id in rare else set())) for c in MANY.cases if c.label}


@pytest.mark.parametrize("seed", range(30))
def test_class_of_one_patient_is_trained_on(seed):
    rare = split_cases(MANY, 0.2, seed).validation[0].id
    split = split_cases(MANY, 0.2, seed, classes=many_with(rare))
    assert rare not in {case.id for case in split.validation}
    assert len(split.validation) == 4, "another one is held out in its place"


@pytest.mark.parametrize("seed", range(30))
def test_of_two_patients_with_a_class_one_at_least_is_trained_on(seed):
    rare = [case.id for case in split_cases(MANY, 0.2, seed).validation[:2]]
    split = split_cases(MANY, 0.2, seed, classes=many_with(*rare))
    assert len({*rare} & {case.id for case in split.validation}) == 1


@pytest.mark.parametrize("fold", [None, (1, 5), (3, 5), (2, 2)])
@pytest.mark.parametrize("seed", range(10))
def test_draw_is_the_same_where_nothing_is_at_stake(seed, fold):
    known = many_with(*(case.id for case in MANY.cases), classes=(1, 2, 3))
    assert split_cases(MANY, 0.2, seed, fold=fold, classes=known) == split_cases(MANY, 0.2, seed, fold=fold)


def test_one_is_held_out_even_where_every_patient_has_a_class_of_its_own():
    cases = [case(name) for name in "abc"]
    split = split_cases(dataset(*cases), 0.5, 0, classes=of(a={1}, b={2}, c={3}))
    assert (len(split.validation), len(split.labelled)) == (1, 2)


def test_masks_that_do_not_teach_are_drawn_as_ever():
    known = many_with(split_cases(MANY, 0.2, 0).validation[0].id)
    ours = split_cases(MANY, 0.2, 0, with_labels=False, classes=None)
    assert ours.validation == split_cases(MANY, 0.2, 0).validation
    assert split_cases(MANY, 0.2, 0, classes=known).validation != ours.validation


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("folds", [2, 3, 5])
def test_no_fold_holds_out_all_masks_with_a_class(seed, folds):
    plain = [split_cases(MANY, 0, seed, fold=(n + 1, folds)).validation for n in range(folds)]
    rare = [case.id for case in plain[0][:2]]  # both in one fold, as drawn
    known = many_with(*rare) | {plain[1][0].id: frozenset({1, 7}), plain[1][1].id: frozenset({7})}
    parts = [split_cases(MANY, 0, seed, fold=(n + 1, folds), classes=known) for n in range(folds)]
    for split in parts:
        taught = set().union(*(known[case.id] for case in split.labelled))
        assert {1, 7, 9} <= taught
    assert sorted(case.id for split in parts for case in split.validation) == sorted(known)
    assert [len(split.validation) for split in parts] == [len(validation) for validation in plain]


@pytest.mark.parametrize("seed", range(5))
def test_class_of_one_patient_does_not_keep_folds_from_being_made(seed):
    known = many_with("c03")
    parts = [split_cases(MANY, 0, seed, fold=(n, 5), classes=known).validation for n in range(1, 6)]
    assert parts == [split_cases(MANY, 0, seed, fold=(n, 5)).validation for n in range(1, 6)]
