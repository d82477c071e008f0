"""Progress: a bar on a terminal with the loss in the family's own unit; a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from pofx.training.budget import Plan


class Progress:
    """A progress bar on standard error.

    Args:
        title: what is fitted.
        unit: of the loss.
        enabled: False shows nothing.
    """

    def __init__(self, title: str, unit: str, enabled: bool = True) -> None:
        self.title, self.unit, self.enabled = title, unit, enabled
        self.bar: Any = None
        self.task: Any = None
        self.steps, self.told = 0, time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def start(self, plan: Plan, k: int = 0) -> None:
        """Say what was planned, and begin at step k."""
        self.steps = plan.steps
        if not self.enabled:
            return
        words = f"{plan.steps} steps of {plan.batch} rows, {plan.threads} thread(s), {plan.precision} ({plan.reason})"
        print(f"{self.title}: {words}", file=sys.stderr)
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
            self.bar = Bar(*columns, console=Console(stderr=True))
            self.task = self.bar.add_task(self.title, total=plan.steps, completed=k)
            self.bar.start()

    def line(self, line: dict[str, Any]) -> None:
        """Show one line of history."""
        if not self.enabled:
            return
        loss = f"{self.title}  {line['loss']:.4g} {self.unit}" if "loss" in line else self.title
        if "valid" in line:
            loss += f"  valid {line['valid']:.4g}"
        if "warning" in line:
            self._say(f"{self.title}: {line['warning']}")
        if self.bar is not None:
            self.bar.update(self.task, completed=line["step"], description=loss)
        elif time.monotonic() - self.told > 10:
            self.told = time.monotonic()
            print(f"{loss}  step {line['step']}{f' of {self.steps}' if self.steps else ''}", file=sys.stderr)

    def _say(self, words: str) -> None:
        """A line that stays."""
        if self.bar is not None:
            self.bar.console.print(words, markup=False)
        else:
            print(words, file=sys.stderr)
