"""A disk that is full or fails, at every single write."""

import faults
import pytest
from tracing import POSSIBLE


@pytest.mark.skipif(not POSSIBLE, reason="needs Linux on x86-64, to refuse system calls of a child")
def test_no_refused_write_loses_halves_or_hides_anything(tmp_path):
    outcomes = faults.run(tmp_path)
    assert {outcome.case for outcome in outcomes} == {"checkpoint", "cache", "report", "mask", "history"}
    assert {"write", "fsync", "rename"} <= {outcome.call for outcome in outcomes}
    assert len(outcomes) > 80
    assert [outcome for outcome in outcomes if outcome.lost or outcome.half] == []
    assert [outcome for outcome in outcomes if not outcome.said.startswith("refused WriteError")] == []
    assert [outcome for outcome in outcomes if not outcome.is_plain] == []
