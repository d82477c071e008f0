"""Signals: Ctrl-C is heard at once and obeyed between two steps, so that a checkpoint never holds half a step."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

PATIENT = 1.0  # seconds within which a terminal and a parent process may both pass on the same Ctrl-C


class Stop:
    """Within, the first Ctrl-C sets `asked`; a later one interrupts at once. Off the main thread it does nothing."""

    def __init__(self) -> None:
        self.asked, self.when = False, 0.0
        self.before: Any = None

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            self.before = signal.signal(signal.SIGINT, self._heard)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.before is not None:
            signal.signal(signal.SIGINT, self.before)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self.asked and time.monotonic() - self.when > PATIENT:
            raise KeyboardInterrupt
        self.when = self.when if self.asked else time.monotonic()
        self.asked = True
