"""Enlarged: how many rows each class had and has, drawn rows beside real ones, and what they are worth.

Offers `enlarged_figure` (of rows) and `gains_figure` (of what a predictor gains by them, way by way).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pofx.drawing.style import ACCENT, BRANCH, INK, LINE, MUTED, REAL, blank, plain
from pofx.kinds import KINDS
from pofx.kinds.base import Space

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLASSES, EACH, DOTS = 3, 9, 400  # classes whose rows are shown, rows of each, dots where a row is a dot


@dataclass(frozen=True)
class Grown:
    """One class: its name, how many rows it had, and its real and drawn rows `(N, *event)`."""

    name: str
    real: Tensor
    drawn: Tensor


def enlarged_figure(classes: Sequence[Grown], space: Space) -> Figure:
    """Bars of rows before and after, and a few drawn rows beside real ones of the classes that grew most.

    Args:
        classes: in the order of the bars.
        space: of the rows; a kind that draws them shows them, numbers in two columns are dots.
    """
    grown = sorted((c for c in classes if len(c.drawn)), key=lambda c: -len(c.drawn))[:CLASSES]
    shown = [c for c in classes if c in grown]
    dots = _dots(space, shown)
    height = max(2.6, 0.26 * len(classes) + 1.1, 0.4 + (1.15 if dots is None else 0) * len(shown))
    figure = blank(8.6 if shown else 4.4, height)
    if not shown:
        _bars(figure.subplots(), classes)
        return figure
    halves: Any = figure.subfigures(1, 2, width_ratios=(1, 1.1))
    left, right = halves
    for part in halves:
        part.patch.set_alpha(0)
    _bars(left.subplots(), classes)
    if dots is not None:
        _scatter(right.subplots(1, len(shown), squeeze=False)[0], shown, space, dots)
    else:
        _strips(right.subplots(len(shown), 2, squeeze=False), shown, space)
    return figure


def _bars(axes: Any, classes: Sequence[Grown]) -> None:
    """Real rows, and drawn ones behind them, a bar for each class."""
    places, before, thick = range(len(classes)), [len(c.real) for c in classes], 0.7 if len(classes) > 4 else 0.42
    axes.barh(places, before, color=REAL, height=thick, label="real")
    axes.barh(places, [len(c.drawn) for c in classes], left=before, color=ACCENT, height=thick, label="drawn")
    for place, c in zip(places, classes, strict=True):
        text = f"  {len(c.real)} + {len(c.drawn)}" if len(c.drawn) else f"  {len(c.real)}"
        axes.text(len(c.real) + len(c.drawn), place, text, size=7.5, color=MUTED, va="center")
    axes.set_yticks(places, [c.name[:16] for c in classes])
    axes.set_xlim(0, 1.18 * max(len(c.real) + len(c.drawn) for c in classes))
    axes.set_xlabel("rows")
    axes.invert_yaxis()
    plain(axes, "rows of each class")
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(0, -0.16), ncols=2, labelcolor=INK)


def _dots(space: Space, shown: Sequence[Grown]) -> tuple[int, int] | None:
    """The two columns of numbers, of rows that are vectors, in which real rows differ most often; None: no such two."""
    if space.layout != "vector" or space.kind not in ("array", "table") or not shown:
        return None
    numbers = [i for i in range(space.size) if not space.variable(i).discrete]
    flat = torch.cat([c.real for c in shown]).flatten(1)
    wide = sorted(numbers, key=lambda i: -len(flat[:, i].unique()))[:2]
    return (min(wide), max(wide)) if len(wide) == 2 else None


def _scatter(panels: Sequence[Any], shown: Sequence[Grown], space: Space, dots: tuple[int, int]) -> None:
    """Drawn rows as dots, and real ones as rings over them."""
    for axes, c in zip(panels, shown, strict=True):
        fresh, known = (x.flatten(1)[:DOTS, list(dots)].double() for x in (c.drawn, c.real))
        axes.scatter(fresh[:, 0], fresh[:, 1], s=7, color=ACCENT, alpha=0.45, linewidths=0)
        axes.scatter(known[:, 0], known[:, 1], s=20, facecolor="none", edgecolor=INK, linewidths=0.9)
        axes.set(xlabel=str(space.variable(dots[0]).name), ylabel=str(space.variable(dots[1]).name))
        plain(axes, f"{c.name[:16]}: drawn")
        axes.title.set_color(ACCENT)
        axes.set_title("real: rings", fontsize=9, loc="right", color=INK)


def _strips(panels: Any, shown: Sequence[Grown], space: Space) -> None:
    """A few real rows and a few drawn ones side by side, as their kind draws them."""
    for row, c in zip(panels, shown, strict=True):
        for axes, x, words in zip(row, (c.real, c.drawn), ("real", "drawn"), strict=True):
            if len(x):
                KINDS[space.kind].draw(axes, x[:EACH], space)
            else:
                axes.set_axis_off()
            axes.set_title(f"{c.name[:16]}: {words}", fontsize=9, color=ACCENT if words == "drawn" else INK, loc="left")


def gains_figure(gains: Mapping[str, tuple[float, float, float]], seeds: Mapping[str, Sequence[float]]) -> Figure:
    """The gain of every way with its interval on one scale, and faint dots: the gain of each repeat by itself.

    Args:
        gains: way -> (value, low, high), the judged way first.
        seeds: way -> the gain of each repeat.
    """
    figure = blank(6.4, 0.36 * len(gains) + 1.1)
    axes = figure.subplots()
    for place, (way, (value, low, high)) in enumerate(gains.items()):
        tone = ACCENT if place == 0 else REAL
        axes.scatter(seeds.get(way, ()), [place + 0.22] * len(seeds.get(way, ())), s=9, color=BRANCH, linewidths=0)
        axes.plot([low, high], [place, place], color=tone, lw=2.2, solid_capstyle="butt")
        axes.plot(value, place, "o", color=tone, ms=5.5)
        axes.annotate(
            f"{value:+.3f}", (1.01, place), xycoords=("axes fraction", "data"), va="center", size=8.5, color=INK
        )
    axes.axvline(0, color=INK, lw=0.9, zorder=1.5)
    axes.set_yticks(range(len(gains)), list(gains))
    axes.set_ylim(len(gains) - 0.4, -0.6)
    axes.grid(axis="x", color=LINE, lw=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel("gain in balanced accuracy over real rows alone (line: 95 %, small dots: each repeat)")
    plain(axes)
    return figure
