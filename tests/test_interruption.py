"""Signals: what is let through when, and what is left behind."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from pipeline.interruption import SIGNALS, Stopped, shield, stoppable, window

HANGS_UP = """
import os, signal, sys
from pipeline.interruption import stoppable, shield
with stoppable(), shield():
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGHUP)
    print("goes on to its end", flush=True)
print("never")
"""
IGNORES = """
import os, signal
from pipeline.interruption import stoppable
signal.signal(signal.SIGHUP, signal.SIG_IGN)
with stoppable():
    os.kill(os.getpid(), signal.SIGHUP)
print("goes on", flush=True)
"""
TWICE = """
import multiprocessing, os, signal, time
from pipeline.interruption import stoppable, shield
child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True)
with stoppable(), shield():
    child.start()
    os.kill(os.getpid(), signal.SIGTERM)
    print(child.pid, flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
"""


def ask(number=signal.SIGTERM):
    signal.raise_signal(number)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_signal_ends_with_the_code_that_a_shell_expects(number, code):
    with pytest.raises(Stopped) as raised, stoppable():
        ask(number)
    assert raised.value.code == code


def test_process_that_goes_on_after_a_stop_is_not_stopped_again():
    with pytest.raises(Stopped), stoppable():
        ask()
    with shield(), window():
        pass


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(Stopped), stoppable():
        ask()
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_shield_holds_a_signal_back_to_its_end():
    done = []
    with pytest.raises(Stopped), stoppable():
        with shield():
            with shield():
                ask()
                done.append("inner")
            done.append("outer")
        done.append("never")
    assert done == ["inner", "outer"]


def test_window_lets_a_signal_through_at_once_or_at_its_opening():
    done = []
    with pytest.raises(Stopped), stoppable(), shield(), window():
        ask()
        done.append("never")
    with pytest.raises(Stopped), stoppable(), shield():
        ask()
        with window():
            done.append("never")
    assert done == []


def test_shield_stands_again_behind_a_window():
    done = []
    with pytest.raises(Stopped), stoppable(), shield():
        with window():
            pass
        ask()
        done.append("to the end")
    assert done == ["to the end"]


def test_without_handlers_nothing_is_held_back():
    before = signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(ZeroDivisionError))
    try:
        with pytest.raises(ZeroDivisionError), shield():
            ask()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_other_threads_leave_signals_alone():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def look():
        with stoppable():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [before]


def test_second_signal_ends_at_once_with_every_child():
    done = subprocess.run([sys.executable, "-c", TWICE], capture_output=True, text=True, timeout=30)
    assert done.returncode == 130
    with pytest.raises(ProcessLookupError):
        for _ in range(100):  # Until init has collected it.
            os.kill(int(done.stdout), 0)
            time.sleep(0.05)


def test_terminal_that_hangs_up_several_times_asks_once():
    done = subprocess.run([sys.executable, "-c", HANGS_UP], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (129, "goes on to its end\n")


def test_signal_that_is_ignored_as_under_nohup_goes_on_being_ignored():
    done = subprocess.run([sys.executable, "-c", IGNORES], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (0, "goes on\n")
