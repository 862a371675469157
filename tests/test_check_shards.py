"""Shares of a check: what each finds by itself, and a check of all cases that does not read them again."""

import json
import shutil

import pytest
from damage import FILES, PACKED, WHOLE, write_json, write_sound

from pipeline.commands import datasets
from pipeline.data import examining
from pipeline.data.layouts import read_dataset
from pipeline.errors import UserError
from pipeline.runs.checking import check, examine, report_of, survey
from pipeline.shards import WHOLE as ALL
from pipeline.shards import Shard

# What only a comparison of cases can find in the dataset below.
COMPARED = {"scan-leaks", "small-scan"}
# What is wrong with single cases of it.
BY_THEMSELVES = {("c0", "empty-mask"), ("c1", "corrupt-gzip"), ("c2", "unannotated-label"), ("", "unknown-key")}


@pytest.fixture
def source(tmp_path):
    """A list of five cases: four have something wrong, one of them against the others; and one is a copy."""
    made = write_sound("decathlon", tmp_path / "data")
    FILES["empty mask"].spoil(made.labels[0])
    PACKED["checksum wrong"].spoil(made.images[1])
    WHOLE["small"].spoil((made.images[3], made.labels[3]))
    shutil.copy(made.images[2], made.images[2].with_name("copy.nii"))
    content = json.loads(made.source.read_text())
    content["training"][2]["annotated"] = ["organ"]
    write_json(made.source, content | {"test": ["imagesTr/copy.nii"], "colour": "blue"})
    return made.source


@pytest.fixture
def read(monkeypatch):
    """The cases whose files are read."""
    read, examine_case = [], examining.examine_case
    monkeypatch.setattr(examining, "examine_case", lambda case, _: read.append(case.id) or examine_case(case, _))
    return read


def findings_of(look):
    return {tuple(problem.as_row().values()) for problem in look.findings}


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shares_together_find_what_is_wrong_with_single_cases(source, read, count):
    whole = survey(read_dataset(source))
    assert {(problem.case, problem.code) for problem in whole.findings if problem.code not in COMPARED} == BY_THEMSELVES
    assert {problem.code for problem in whole.findings} >= COMPARED
    read.clear()
    looks = [survey(read_dataset(source), shard=Shard(place, count)) for place in range(1, count + 1)]
    assert sorted(read) == ["c0", "c1", "c2", "c3", "copy"]
    alone = {found for found in findings_of(whole) if not COMPARED & {*found}}
    assert set().union(*map(findings_of, looks)) == (findings_of(whole) if count == 1 else alone)
    assert sorted(name for look in looks for name in look.sound) == sorted(whole.sound)


def test_a_check_of_all_reads_again_only_what_had_findings(source, read, tmp_path):
    plain = report_of(survey(read_dataset(source)))
    for place in (3, 1, 2):
        survey(read_dataset(source), cache=tmp_path / "cache", shard=Shard(place, 3))
    read.clear()
    assert report_of(survey(read_dataset(source), cache=tmp_path / "cache")) == plain
    assert sorted(read) == ["c0", "c1", "c2"]
    (source.parent / "imagesTr" / "c3.nii.gz").touch()
    read.clear()
    again = survey(read_dataset(source), cache=tmp_path / "cache")
    assert findings_of(again) == findings_of(survey(read_dataset(source)))
    assert read[:4] == ["c0", "c1", "c2", "c3"]


def test_a_training_does_not_read_again_what_shares_have_checked(tmp_path, read):
    made, cache = write_sound("folder", tmp_path / "data"), tmp_path / "cache"
    facts = check(made.source).facts
    for place in (1, 2):
        survey(read_dataset(made.source), cache=cache, shard=Shard(place, 2))
    read.clear()
    assert check(made.source, cache=cache).facts == facts
    assert read == []


def test_tasks_of_an_array_write_reports_of_their_own(source, tmp_path, capsys, monkeypatch):
    for index in "01":
        monkeypatch.setenv("JOB_COMPLETION_INDEX", index)
        with pytest.raises(SystemExit) as ended:
            datasets.check(source, cache=tmp_path / "cache", output=tmp_path / "out", shard="array/2")
        assert ended.value.code == 2
        assert (
            f"1 problem(s) in 1 place(s); see {tmp_path}/out/check-{int(index) + 1}-of-2.json"
            in capsys.readouterr().err
        )
    reports = [json.loads((tmp_path / "out" / f"check-{place}-of-2.json").read_text()) for place in (1, 2)]
    assert [report["shard"] for report in reports] == ["1/2", "2/2"]
    assert [[row["case"] for row in report["cases"]] for report in reports] == [["c0", "c2", "copy"], ["c3"]]


def test_a_share_says_that_nothing_was_compared(tmp_path, capsys):
    made = write_sound("folder", tmp_path / "data")
    for shard, count in (("2/7", 1), ("7/7", 0)):
        datasets.check(made.source, shard=shard)
        told = capsys.readouterr().out
        assert f"{count} of 4 cases" in told
        assert "without --shard" in told
        assert "Next" not in told


def test_no_copy_is_made_of_a_share(tmp_path):
    made = write_sound("folder", tmp_path / "data")
    with pytest.raises(UserError, match="leave --shard out"):
        examine(tmp_path / "copy", made.source, None, "auto", {}, ["fill-nonfinite"], shard=Shard(1, 2))
    assert not (tmp_path / "copy").exists()
    assert examine(None, made.source, None, "auto", {}, shard=ALL)[0].shard == ALL
