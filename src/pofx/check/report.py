"""What a check says: passed, failed or skipped, and why."""

from __future__ import annotations

from dataclasses import dataclass


class Failed(Exception):
    """A promise is broken; the message says by how much."""


class Skipped(Exception):
    """A check does not apply; the message says why."""


@dataclass(frozen=True)
class Check:
    """One promise and whether it is kept.

    Args:
        name: what is promised.
        passed: whether it holds; True also where it was skipped.
        detail: what was measured.
        skipped: why it does not apply, or "".
        seconds: how long the check took.
    """

    name: str
    passed: bool
    detail: str = ""
    skipped: str = ""
    seconds: float = 0.0

    @property
    def word(self) -> str:
        """The word that the table shows: ok, FAILED or skipped."""
        return "skipped" if self.skipped else "ok" if self.passed else "FAILED"


@dataclass(frozen=True)
class Report:
    """All checks of one model.

    Args:
        model: the model's name.
        checks: in the order in which they ran.
    """

    model: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return all(c.passed for c in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(c for c in self.checks if not c.passed)

    def __str__(self) -> str:
        wide = max((len(c.name) for c in self.checks), default=0)
        lines = [f"{c.word:8}{c.name:{wide}}  {c.skipped or c.detail}".rstrip() for c in self.checks]
        return "\n".join([self._headline(), *lines])

    def explain(self) -> str:
        """What failed, in words; one line where nothing did."""
        return "\n".join([self._headline(), *(f"{c.name}: {c.detail}" for c in self.failures)])

    def _headline(self) -> str:
        skipped = sum(bool(c.skipped) for c in self.checks)
        ran = len(self.checks) - skipped
        kept = ran - len(self.failures)
        return f"{self.model}: {kept} of {ran} promises kept" + (f", {skipped} do not apply." if skipped else ".")
