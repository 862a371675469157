"""The garbage collector rests during imports, and is as it was behind them."""

import gc
import subprocess
import sys

import pytest

from pipeline.collector import resting_collector


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_rests_and_is_then_as_it_was(enabled):
    (gc.enable if enabled else gc.disable)()
    try:
        with resting_collector():
            assert not gc.isenabled()
        assert gc.isenabled() is enabled
        with pytest.raises(ImportError), resting_collector():
            raise ImportError
        assert gc.isenabled() is enabled
    finally:
        gc.enable()


def test_only_what_is_imported_next_is_left_out_of_collections():
    told = """
import gc
from pipeline import collector
def frozen_after(name):
    with collector.resting_collector():
        __import__(name)
    return gc.get_freeze_count()
collector.import_for_good()
first = frozen_after("colorsys")
print(first > 1000, frozen_after("wave") == first)
"""
    assert said_of(told) == ["True", "True"]


def said_of(program):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_a_command_leaves_its_imports_out_of_collections_and_a_library_does_not():
    told = "print(gc.isenabled(), gc.get_freeze_count() > 10_000)"
    assert said_of(f"import gc, fewmask; fewmask.losses; {told}") == ["True", "False"]
    command = f"import gc, sys; from pipeline.cli import main; sys.argv[1:] = ['components', '--quiet']; main(); {told}"
    assert said_of(command) == ["True", "True"]
