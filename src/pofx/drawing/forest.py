"""Forest: many numbers with their intervals under each other, each on a scale of its own.

Each row is a lane from the least to the largest number worth showing, whose ends are written beside it. On the lane:
the number, its interval, and a tick where it would lie if nothing were wrong. Rows that are worse than that by more
than their interval are red.

Offers `Row` and `forest`. Reference: forest plots, Lewis and Clarke 2001.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pofx.drawing.style import ACCENT, INK, LINE, MUTED, blank

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WORSE = "#c0392b"
NAME, START, END, TEXT, BETTER = 0.0, 3.25, 6.35, 6.95, 8.85  # inches from the left: where each column begins
WIDTH, STEP = 9.5, 0.27  # inches: of the figure, and of a row


@dataclass(frozen=True)
class Row:
    """One number.

    Attributes:
        name: as people read it.
        value, low, high: the number and its interval; NaN where it is not known.
        better: which way.
        honest: where it would lie if nothing were wrong; None: not known.
        ends: of its scale; None: as the numbers ask for.
        group: a heading, written above the first of a group's rows.
        measured: whether `honest` is a measurement too, about as noisy as the number.
    """

    name: str
    value: float
    low: float
    high: float
    better: Literal["lower", "higher"]
    honest: float | None = None
    ends: tuple[float, float] | None = None
    group: str = ""
    measured: bool = False

    @property
    def worse(self) -> bool:
        """Whether the interval lies wholly on the wrong side of where it should lie (measured: of the difference)."""
        if self.honest is None:
            return False
        wider = math.sqrt(2) if self.measured else 1.0
        if self.better == "lower":
            return self.value - wider * (self.value - self.low) > self.honest
        return self.value + wider * (self.high - self.value) < self.honest

    @property
    def colour(self) -> str:
        """Red where it is worse, blue where it is not, grey where there is nothing to compare with."""
        return MUTED if self.honest is None else WORSE if self.worse else ACCENT


def forest(rows: Sequence[Row], honest: str = "expected", caption: str = "") -> Figure:
    """Draw numbers with intervals.

    Args:
        rows: in the order of reading; those of a group stand together.
        honest: what the tick is called.
        caption: a line below.

    Raises:
        ValueError: no rows.
    """
    if not rows:
        raise ValueError("forest: got no rows; expected at least one number to draw.")
    heads = sum(1 for i, row in enumerate(rows) if row.group and (i == 0 or rows[i - 1].group != row.group))
    lines = caption.count("\n") + 1 if caption else 0
    height = STEP * (len(rows) + 1.25 * heads + 1.4) + 0.19 * lines
    figure = blank(WIDTH, height)
    figure.set_layout_engine("none")  # every place is known
    axes = figure.add_axes((0.012, 0.0, 0.976, 1.0))  # one plane in inches, y down
    axes.set(xlim=(0, WIDTH), ylim=(height, 0))
    axes.set_axis_off()
    y = _legend(axes, honest, any(row.worse for row in rows), any(row.honest is None for row in rows))
    for i, row in enumerate(rows):
        if row.group and (i == 0 or rows[i - 1].group != row.group):
            y += 1.25 * STEP
            axes.text(NAME, y, row.group, size=8.5, color=MUTED, va="center", style="italic")
            axes.plot([NAME, WIDTH], [y + STEP / 2] * 2, color=LINE, lw=0.7)
        y += STEP
        _lane(axes, row, y)
    if caption:
        axes.text(NAME, y + 0.75 * STEP, caption, size=7.5, color=MUTED, va="top", linespacing=1.4)
    return figure


def _legend(axes: Any, honest: str, worse: bool, unknown: bool) -> float:
    """What the marks mean, on one line, each in its colour; gives the line's place."""
    y, x = STEP * 0.7, START
    axes.plot([x, x + 0.3], [y, y], color=ACCENT, lw=2.2, solid_capstyle="butt")
    axes.plot(x + 0.15, y, "o", color=ACCENT, ms=5)
    axes.text(x + 0.38, y, "95 % interval", size=8, color=MUTED, va="center")
    _tick(axes, x + 1.42, y)
    axes.text(x + 1.52, y, honest, size=8, color=MUTED, va="center")
    x += 1.75 + 0.066 * len(honest)
    for shown, colour, words in ((worse, WORSE, "worse than that"), (unknown, MUTED, "nothing to compare with")):
        if shown:
            axes.plot(x, y, "o", color=colour, ms=5)
            axes.text(x + 0.1, y, words, size=8, color=MUTED, va="center")
            x += 0.3 + 0.062 * len(words)
    return y


def _lane(axes: Any, row: Row, y: float) -> None:
    """One row: name, scale, marks, number, direction."""
    axes.text(NAME, y, row.name, size=9, color=INK, va="center")
    better = "better \N{RIGHTWARDS ARROW}" if row.better == "higher" else "\N{LEFTWARDS ARROW} better"
    axes.text(BETTER, y, better, size=8, color=MUTED, va="center")
    if not math.isfinite(row.value):
        axes.text(START, y, "not known: too few rows", size=8, color=MUTED, va="center")
        return
    least, most = _ends(row)
    axes.plot([START, END], [y, y], color=LINE, lw=1, zorder=0)
    for x, end, side in ((START - 0.06, least, "right"), (END + 0.06, most, "left")):
        axes.text(x, y, _number(f"{end:.3g}"), size=7, color=MUTED, va="center", ha=side)

    def place(number: float) -> float:
        return START + (END - START) * (min(max(number, least), most) - least) / (most - least)

    if math.isfinite(row.low) and math.isfinite(row.high):
        axes.plot([place(row.low), place(row.high)], [y, y], color=row.colour, lw=2.2, solid_capstyle="butt")
    if row.honest is not None:
        _tick(axes, place(row.honest), y)
    axes.plot(place(row.value), y, "o", color=row.colour, ms=5, zorder=4)
    axes.text(TEXT, y, _words(row), size=8, color=INK, va="center")


def _tick(axes: Any, x: float, y: float) -> None:
    axes.plot([x, x], [y - 0.085, y + 0.085], color=INK, lw=1.3, zorder=3)


def _ends(row: Row) -> tuple[float, float]:
    """The scale: its own, or from 0 to a round number, and wide enough for all that is marked."""
    marks = [v for v in (row.value, row.low, row.high, row.honest) if v is not None and math.isfinite(v)]
    least, most = row.ends or (0.0, 0.0)
    low, high = min(least, *marks), max(most, *marks)
    step = 10.0 ** math.floor(math.log10((high - low) or 1.0)) / 2
    return (math.floor(low / step) * step if low < least else least), (
        math.ceil(high / step) * step if high > most else most if most > least else 1.0
    )


def _words(row: Row) -> str:
    """The number and its interval, with the decimals that the interval's width leaves a meaning."""
    if not math.isfinite(row.low + row.high):
        return _number(f"{row.value:.3g}")
    if float(row.value).is_integer() and row.low == row.high:
        return _number(f"{row.value:.0f}  [{row.low:.0f}, {row.high:.0f}]")
    width = (row.high - row.low) or abs(row.value) or 1.0
    places = min(max(1 - math.floor(math.log10(width)), 0), 8)
    value, low, high = (round(v, places) + 0.0 for v in (row.value, row.low, row.high))  # + 0: no minus before 0
    return _number(f"{value:.{places}f}  [{low:.{places}f}, {high:.{places}f}]")


def _number(text: str) -> str:
    """Numbers with a proper minus."""
    return text.replace("-", "\N{MINUS SIGN}")
