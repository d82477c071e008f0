"""Curves: how a number changes with what is asked, and the number itself where there is no curve.

Offers `dimension_figure`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pofx.drawing.style import ACCENT, BRANCH, MUTED, blank, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray[Any, np.dtype[Any]]
FAR = 6  # times more entries than dimensions: the axis counts in powers of ten


def dimension_figure(
    value: float, entries: int, curve: Mapping[float, float], asked: float, rows: Array | None = None
) -> Figure:
    """In how many directions x varies.

    Args:
        value: the number asked for.
        entries: of x, of which the dimension is one.
        curve: scale -> dimension; empty: the number stands alone.
        asked: the scale of `value`.
        rows: `(N,)`, the dimension near each row.
    """
    if not curve:
        return _alone(value, entries)
    several = rows is not None and len(rows) > 1
    drawing = blank(8.6 if several else 4.9, 3.5)
    panels = drawing.subplots(1, 2 if several else 1, squeeze=False)[0]
    _scales(panels[0], value, entries, curve, asked)
    if several:
        assert rows is not None
        _rows(panels[1], value, rows, asked)
    return drawing


def _scales(axes: Any, value: float, entries: int, curve: Mapping[float, float], asked: float) -> None:
    scales = sorted(curve)
    axes.axhline(entries, color=BRANCH, linestyle="--", linewidth=1)
    axes.text(scales[0], entries, f"all {entries} entries", fontsize=8, color=MUTED, va="bottom")
    axes.plot(scales, [curve[s] for s in scales], "o-", color=ACCENT, markersize=4, linewidth=1.4)
    axes.plot([asked], [value], "o", color=ACCENT, markersize=10)
    axes.axvline(asked, color=BRANCH, linewidth=0.8, zorder=0)
    axes.set_xscale("log")
    ticks = [s for s in scales if s == asked or not 0.77 < s / asked < 1.3]  # their words would touch
    axes.set_xticks(ticks, [f"{s:g}" for s in ticks])
    axes.minorticks_off()
    top = max(entries, *curve.values())
    if entries > FAR * max(curve.values()) and min(curve.values()) > 0:
        axes.set_yscale("log")
        axes.set_ylim(min(0.9, *curve.values()) * 0.8, 2 * top)
        axes.yaxis.set_major_formatter("{x:g}")
    else:
        axes.set_ylim(0, 1.15 * top)
    axes.set(
        xlabel="scale s, standard deviations: moves finer than s do not count", ylabel="directions in which x varies"
    )
    plain(axes, f"{value:.3g} of {entries} directions, at a scale of {asked:g}")


def _rows(axes: Any, value: float, rows: Array, asked: float) -> None:
    axes.hist(rows, bins=int(np.clip(len(rows) / 8, 5, 40)), color=BRANCH)
    axes.axvline(value, color=ACCENT, linewidth=1.6)
    axes.text(value, 1, " their mean", fontsize=8, color=ACCENT, va="top", transform=axes.get_xaxis_transform())
    axes.set(xlabel=f"directions near one row, at a scale of {asked:g}", ylabel="rows")
    plain(axes, f"the {len(rows)} rows, one by one")


def _alone(value: float, entries: int) -> Figure:
    """One number, in words and as a bar of the entries."""
    drawing = blank(4.9, 1.5)
    axes = drawing.subplots()
    axes.barh([0], [entries], color="#e8eaed")
    axes.barh([0], [value], color=ACCENT)
    axes.set(xlim=(0, 1.02 * max(entries, value)), yticks=[], xlabel="entries of a row")
    plain(axes, f"x varies in about {value:.3g} directions, of {entries} entries")
    axes.spines["left"].set_visible(False)
    return drawing
