"""Signals: SIGTERM stops a fit as Ctrl-C does; a program's own handler and child processes are left alone."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys

import numpy as np
import pytest

import pofx
from pofx.files import CHECKPOINT
from pofx.training.loop import Loop
from pofx.training.signals import Stop

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def status(do) -> int:
    """The wait status of a forked child that does something: 0 where it gave True."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = int(not do())
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


def test_sigterm_is_heard_and_gives_its_handler_back():
    def heard():
        with Stop() as stop:
            signal.raise_signal(signal.SIGTERM)
            once = stop.asked
        return once and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    assert status(heard) == 0


def test_a_fit_that_is_terminated_loses_no_step(tmp_path):
    x, folder = np.random.default_rng(0).normal(size=(200, 2)), tmp_path / "run"
    asked = {"budget": "60 steps", "folder": folder, "threads": 1, "precision": "32-true", "progress": False}

    def terminated():
        step = Loop.step
        Loop.step = lambda self, k: (k == 20 and signal.raise_signal(signal.SIGTERM), step(self, k))[1]
        with open(tmp_path / "words", "w") as sys.stderr:
            try:
                pofx.fit(x, "flow", **asked)
            except KeyboardInterrupt:
                return True
        return False

    assert status(terminated) == 0, "it ended at once, or went on"
    assert "stopped at step 21 of 60" in (tmp_path / "words").read_text() and (folder / CHECKPOINT).exists()
    assert pofx.fit(x, "flow", **asked, resume=True).record["plan"]["steps"] == 60


def test_a_handler_of_the_program_stays():
    def own():
        heard = []
        signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
        with Stop() as stop:
            signal.raise_signal(signal.SIGTERM)
        return heard == [signal.SIGTERM] and not stop.asked

    assert status(own) == 0


def _within() -> None:
    with Stop():
        os.kill(os.getpid(), signal.SIGTERM)
        os._exit(0)


def test_a_child_process_ends_at_once_when_its_parent_says_so():
    child = multiprocessing.get_context("fork").Process(target=_within)
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGTERM
