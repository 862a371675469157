"""Hints: what a misspelt name may have meant, also among very many names."""

from difflib import SequenceMatcher
from pathlib import Path

import pytest

from pipeline.data.check import Check
from pipeline.data.layouts.dataset import Dataset
from pipeline.data.layouts.folders import Folder
from pipeline.data.layouts.nnunet import NnUNet
from pipeline.errors import FEW, LISTED, Names, Problem, UserError, nearest, shown
from pipeline.types import Case

MANY = [f"case_{n:05d}_0000.nii.gz" for n in range(3000)]


@pytest.fixture
def compared(monkeypatch):
    """How often two names were compared letter by letter."""
    calls = []
    ratio = SequenceMatcher.ratio
    monkeypatch.setattr(SequenceMatcher, "ratio", lambda self: calls.append(1) or ratio(self))
    return calls


@pytest.mark.parametrize("names", [MANY[:40], MANY])
@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("case_00017.nii.gz", 17),
        ("case_00017_0000.nii", 17),
        ("case_00017_0000.nii.gz.gz", 17),
        ("Case_00017_0000.nii.gz", 17),
        ("scan_00017_0000.nii.gz", 17),
        ("case00017_0000.nii.gz", 17),
        ("case_00017_000.nii.gz", 17),
    ],
)
def test_the_name_that_is_meant_is_found_among_few_and_many(names, typed, meant):
    assert Names(names).nearest(typed) == MANY[meant]


def test_a_name_that_is_like_none_has_no_hint_and_a_list_is_cut():
    assert Names(MANY).nearest("brain.mha") is None
    assert Names([]).nearest("a") is None
    assert Names(["scan1", "scan1"]).nearest("scan1", besides="scan1") is None
    hint = nearest("brain.mha", MANY)
    assert hint.startswith(f"choose one of: {MANY[0]}, ")
    assert hint.endswith(f"{MANY[LISTED - 1]} and {len(MANY) - LISTED} more")


def test_long_values_are_shown_by_their_beginning():
    assert shown([1] * 1000, most=10) == "[1, 1, 1, …"


def test_a_dataset_of_which_every_file_is_missing_reads_each_folder_once_and_compares_a_name_with_few(
    tmp_path, compared, monkeypatch
):
    folder, count = tmp_path / "images", 1000
    folder.mkdir()
    for n in range(count):
        (folder / f"case_{n:05d}_0000.nii.gz").touch()
    listed, iterdir = [], Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: listed.append(self) or iterdir(self))
    cases = tuple(
        Case(id=f"c{n}", images=(folder / f"case_{n:05d}.nii.gz",), label=None, patient=f"c{n}") for n in range(count)
    )
    check = Check(Dataset(source=tmp_path, layout="folder", cases=cases))
    list(check)
    assert [problem.code for problem in check.problems] == ["missing-file"] * count
    assert {problem.remedy for problem in check.problems} == {
        f"did you mean 'case_{n:05d}_0000.nii.gz'?" for n in range(count)
    }
    assert len(listed) <= 4, "once, or once a thread"
    assert len(compared) <= 4 * count


@pytest.mark.parametrize("layout", [Folder, NnUNet])
def test_a_folder_of_which_no_name_fits_compares_a_name_with_few(tmp_path, compared, layout):
    images, labels = ("images", "labels") if layout is Folder else ("imagesTr", "labelsTr")
    count = 10 * FEW
    for n in range(count):
        for place, name in ((images, f"case_{n:05d}_0001.nii.gz"), (labels, f"Case_{n:05d}.nii.gz")):
            (tmp_path / place).mkdir(exist_ok=True)
            (tmp_path / place / name).touch()
    (tmp_path / "dataset.json").write_text('{"file_ending": ".nii.gz", "labels": {"a": 1}}')
    problems = layout().read(tmp_path, None).problems
    assert len(problems) >= count
    assert len(compared) <= 4 * len(problems)


def test_a_remedy_of_several_problems_stands_once():
    problems = [Problem(f"{n}.nii", "odd", "is odd", "turn it" if n < 2 else "leave it") for n in range(3)]
    assert str(UserError("Nothing was done.", problems)).splitlines() == [
        *("Nothing was done.", "  - 0.nii: is odd [odd]", "  - 1.nii: is odd [odd]", "    remedy: turn it"),
        *("  - 2.nii: is odd [odd]", "    remedy: leave it"),
    ]
