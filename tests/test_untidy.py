"""Nothing that people have in their datasets is dropped in silence."""

import pytest
import untidy
from untidy import inputs, silence

INPUTS = inputs()


@pytest.mark.parametrize("item", INPUTS, ids=lambda item: item.name)
def test_everything_is_used_as_it_was_meant_or_named(tmp_path, item):
    unsaid, outcome = silence(item, tmp_path)
    findings = [str(finding) for finding in outcome.findings]
    assert unsaid == [], findings
    assert bool(outcome.problems) != item.sound, findings
    if item.code:
        assert item.code in {finding.code for finding in outcome.findings}, findings
        assert any(item.word in f"{f.where} {f.message} {f.remedy}" for f in outcome.findings), findings
    elif item.sound:
        assert findings == []
    if item.sound:
        facts = outcome.facts()
        assert {key: facts[key] for key in item.facts} == dict(item.facts)
    for finding in outcome.findings:
        assert len(finding.remedy) > 5
        assert "\n" not in finding.message + finding.remedy


def test_there_are_as_many_inputs_as_there_are_said_to_be():
    assert len(INPUTS) >= 300


def test_oracle_sees_what_is_dropped(tmp_path, monkeypatch):
    """Without the look at what is left over, files go unsaid."""
    monkeypatch.setattr("pipeline.data.layouts.opening.leftovers", lambda dataset: [])
    item = next(item for item in INPUTS if item.name == "folder: organ beside it")
    assert untidy.silence(item, tmp_path)[0] == ["organ/c1.nii.gz", "organ/c2.nii.gz", "organ/c3.nii.gz", "organ"]
