"""Rows: some x as their kind draws them, in a figure of a size that suits the kind.

Offers `rows_figure`; `title_of` and `counted`, which other pictures share; and `picture_strip`, pictures side by side.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from pofx.drawing.pixels import hang, pictured, pixels
from pofx.drawing.style import INK, LINE, blank, plain
from pofx.kinds import KINDS
from pofx.kinds.base import Space

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = {"image": 64, "text": 12, "series": 12, "music": 6, "video": 8, "shape": 8, "audio": 8}  # rows that a kind draws
WIDE, LETTERS = 7.2, 11.5  # inches, and letters of a title on one of them
COLUMNS, CHANNELS = 6, 4  # of a table, and of a series, that their kinds draw


def rows_figure(x: Tensor, space: Space, title: str = "") -> Figure:
    """Rows as their kind draws them: pictures in a grid, histograms of columns, strips of series, lines of text, ...

    Args:
        x: `(N, *event)`, N at least 1; a kind that shows rows one by one shows the first few.
        space: of x.
        title: what they are, in words; where not all is shown, the title says so.

    Raises:
        ValueError: there is no row.
    """
    if not len(x):
        raise ValueError("rows_figure: got no row to draw; expected at least one.")
    shown = x[: _most(space, len(x))]
    drawing = blank(*_size(len(shown), space))
    axes = drawing.subplots()
    KINDS[space.kind].draw(axes, shown, space)
    if space.kind == "array":
        _airy(axes, len(shown), space)
    if space.kind == "audio" and space.meta["view"] != "mel":
        axes.set_axis_on()
        axes.set(yticks=[], xlabel="seconds")
        axes.spines["left"].set_visible(False)
        plain(axes)
    if title:
        title_of(drawing, title + _left_out(shown, x, space))
    return drawing


def title_of(drawing: Figure, title: str) -> None:
    """What a whole figure shows, at its upper left; lines that are too long are broken."""
    longest = int(LETTERS * drawing.get_figwidth())
    title = "\n".join(part for line in title.split("\n") for part in textwrap.wrap(line, longest))
    drawing.suptitle(title, fontsize=10, color=INK, x=0.01, ha="left")


def counted(count: int, one: str, many: str = "") -> str:
    """A number with its noun.

    >>> counted(1, "row"), counted(3, "row")
    ('1 row', '3 rows')
    """
    return f"{count} {one if count == 1 else many or one + 's'}"


def picture_strip(axes: Any, x: Tensor, space: Space, words: Sequence[str], title: str, across: int) -> None:
    """Pictures `(K, H, W, C)` side by side from the left, words below each, in axes `across` pictures wide."""
    empty = across - len(x)
    shown = pixels(x, space)
    blanks = np.full((empty, *shown.shape[1:]), 255, dtype=np.uint8)
    hang(axes, np.concatenate([shown, blanks])[None], (), [*words, *[""] * empty], below=True)
    axes.set_title(title, fontsize=9, loc="left", color=INK)


def _airy(axes: Any, count: int, space: Space) -> None:
    """A grid behind the dots, which are the larger the fewer they are."""
    plain(axes)
    for dots in axes.collections:
        dots.set_sizes([float(np.clip(6000 / count, 3, 22))])
        dots.set_alpha(0.7 if count < 1000 else 0.4)
    axes.set_axisbelow(True)
    axes.grid(color=LINE, linewidth=0.5)
    if not axes.get_xlabel():  # a histogram of one column
        axes.set(yticks=[], xlabel=str(space.variable(0).name))
        axes.spines["left"].set_visible(False)
        plain(axes)


def _most(space: Space, count: int) -> int:
    if space.kind == "audio" and space.meta["view"] == "mel":
        return min(count, 16)
    return min(count, MOST.get(space.kind, count))


def _left_out(shown: Tensor, x: Tensor, space: Space) -> str:
    """What of the rows is not in the picture."""
    kind, words = space.kind, []
    if len(shown) < len(x):
        words.append(f"the first {len(shown)}")
    for name, most in (("columns", COLUMNS), ("channels", CHANNELS)):
        every = space.meta.get(name, ()) if kind in ("table", "series") else ()
        learnt = [c for c in every if not isinstance(c, dict) or c.get("form") != "blank"]
        if len(learnt) > most:
            words.append(f"{most} of {len(learnt)} {name}")
    return f" ({', '.join(words)})" if words else ""


def _size(count: int, space: Space) -> tuple[float, float]:
    """Inches."""
    if pictured(space):
        h, w = space.shape[:2]
        across = max(1, int(np.ceil(np.sqrt(count * h / w))))  # as the kind lays them out
        cell = min(WIDE / across, 0.7 if count > 1 else 3.0)
        return max(across * cell, 2.6), -(-count // across) * cell * h / w + 0.4
    if space.kind == "table":
        panels = max(1, min(COLUMNS, space.size))
        return max(2.3 * min(3, panels), 3.2), 1.75 * -(-panels // 3) + 0.35
    if space.kind == "video":
        t, h, w, _ = space.shape
        cell = min(10.0 / t, 8.0 * w / (count * h), 1.0)
        return max(t * cell, 2.6), count * cell * h / w + 0.4
    high = {
        "series": 1.6 * min(CHANNELS, len(space.meta.get("channels", "x"))) + 0.3,
        "text": 0.22 * count + 0.45,
        "music": 1.15 * count + 0.4,
        "audio": 0.55 * count + 0.8,
        "shape": 3.2,
        "array": 2.8 if space.size == 1 else 4.4,
    }.get(space.kind, 4.4)
    wide = {"text": 5.6, "shape": max(1.0 * count, 2.6), "array": 4.8}.get(space.kind, WIDE)
    return wide, high
