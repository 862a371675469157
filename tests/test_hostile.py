"""Hostile inputs: refused in plain words, or harmless; nothing executed, nothing outside, no bomb goes off."""

import pickle
import sys

import hostile
import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc to measure the memory of each input")


def test_no_hostile_input_is_executed_gets_out_or_goes_off(tmp_path):
    found = hostile.run(tmp_path)
    assert len(found) >= 300
    kinds = {item.name.split()[0] for item in found}
    assert kinds == {"checkpoint", "recipe", "override", "list", "table", "markup", "scan", "links"}
    # Nothing ran, and nothing was written elsewhere.
    assert [(item.name, item.events) for item in found if item.events] == []
    # Each was refused in plain words, or is harmless; what names code or a place outside is never the latter.
    assert [(item.name, item.outcome) for item in found if item.outcome not in ("refused", "accepted")] == []
    harmful = [item for item in found if any(word in item.name for word in ("gadget", "outside", "object"))]
    assert len(harmful) > 200
    assert [item.name for item in harmful if item.outcome != "refused"] == []
    many = [item for item in found if "many" in item.name]
    assert [item.outcome for item in many] == ["accepted"] * 3
    assert [item for item in many if item.cpu_s >= 5 * hostile.SECOND] == []
    sound = [item for item in found if "declared-sound" in item.name]  # Which others differ from by what they declare.
    assert [item.outcome for item in sound] == ["accepted"]
    bombs = [item for item in found if "bomb" in item.name]
    assert len(bombs) >= 25
    assert [item.name for item in bombs if item.outcome != "refused"] == []
    assert [item for item in bombs if item.cpu_s >= hostile.SECOND or item.peak_bytes >= hostile.BOMB_BYTES] == []


def test_hook_sees_a_payload_that_does_run(tmp_path):
    def one(folder, canary):
        inputs = []
        for name in ("system", "import", "open"):
            (folder / name).write_bytes(hostile.pickled(hostile.Call(*hostile.gadgets(canary)[name]), False, False))
            inputs.append(("unpickled", name, str(folder / name)))
        return inputs

    rows = hostile.run(tmp_path, one)
    assert [bool(row.events) for row in rows] == [True, True, True, True]
    assert rows[-1].name == "canary"


def test_pickles_of_the_corpus_are_real_pickles(tmp_path):
    call = hostile.Call("builtins", "bytearray", (3,))
    for stacked in (False, True):
        assert pickle.loads(hostile.pickled(call, stacked, False)) == {"format": 2, "network": bytearray(3)}  # noqa: S301
