"""Signals: Ctrl-C and SIGTERM (`kill`, `timeout`, a batch system) are heard at once and obeyed between two steps.

So a checkpoint never holds half a step, and none is lost.
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

PATIENT = 1.0  # seconds within which a terminal and a parent process may both pass on the same Ctrl-C


class Stop:
    """Within, the first Ctrl-C or SIGTERM sets `asked`; a later one interrupts at once.

    Off the main thread it does nothing. SIGTERM keeps a program's own handler, and ends a child process at once: so its
    parent stops those that wait for one another.
    """

    def __init__(self) -> None:
        self.asked, self.when = False, 0.0
        self.before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            free = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL and multiprocessing.parent_process() is None
            heard = (signal.SIGINT, signal.SIGTERM) if free else (signal.SIGINT,)
            self.before = {number: signal.signal(number, self._heard) for number in heard}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self.asked and time.monotonic() - self.when > PATIENT:
            raise KeyboardInterrupt
        self.when = self.when if self.asked else time.monotonic()
        self.asked = True
