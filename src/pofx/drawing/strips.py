"""Strips: rows in a row: along a direction, or between two x.

Pictures stand side by side; series lie over each other, from dark to light; columns of a table are lines, a panel each;
every other kind draws itself. Offers `Strips`, `strips_figure` and `map_figure`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from pofx.drawing.pixels import hang, pictured, pixels
from pofx.drawing.style import INK, MUTED, blank, plain
from pofx.drawing.values import close_up, columnar, deviation, label_words, names, short, spread_out, units, wordy
from pofx.kinds import KINDS
from pofx.kinds.base import Space

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray[Any, np.dtype[Any]]
STRIPS, PANELS, ACROSS, CHANNELS = 6, 8, 4, 4  # strips, panels of columns, panels abreast, channels of a series
BESIDE = 6  # panels of one strip
CELLS = 6  # rows that another kind draws of a strip
LINES = ("#0b5cad", "#b8722c", "#117733", "#aa4499", "#5b6169", "#88ccee")  # told apart by colour-blind eyes


@dataclass(frozen=True)
class Strips:
    """K strips of T rows.

    Attributes:
        x: `(K, T, *event)`.
        space: of x.
        labels: of the strips.
        at: `(T,)`, the positions, and what they are.
        along: what the positions are, in words.
        ends: `(K, 2, *event)`, the rows asked for at both ends, where there are any.
        moved: for each strip the entry that was moved, where one was.
    """

    x: Tensor
    space: Space
    labels: Sequence[str]
    at: Array
    along: str
    ends: Tensor | None = None
    moved: Sequence[int] = field(default_factory=tuple)


def strips_figure(strips: Strips, title: str, together: bool = False) -> Figure:
    """Strips one below the other; of columns a panel each, `together`: with all strips in the same panels."""
    space = strips.space
    if pictured(space):
        return _pictures(strips, title)
    if space.kind == "series":
        return _series(strips, title)
    if columnar(space):
        title += "; circles: the two asked for" if strips.ends is not None else ""
        return _path(strips, title) if together and space.size == 2 else _columns(strips, title, together)
    count = min(len(strips.x), STRIPS)
    drawing = blank(7.0, 2.3 * count + 0.6)
    drawing.suptitle(title, fontsize=10, color=INK, x=0.01, ha="left")
    few = spread_out(strips.x.shape[1], CELLS)
    for k, axes in enumerate(drawing.subplots(count, 1, squeeze=False)[:, 0]):
        KINDS[space.kind].draw(axes, strips.x[k, few], space)
        words = ", ".join(f"{strips.at[t]:.2g}" for t in few)
        axes.set_title(f"{strips.labels[k]}\n{strips.along}: {words}", fontsize=8.5, loc="left", color=INK)
    return drawing


def _pictures(strips: Strips, title: str) -> Figure:
    shown, space = strips.x[: 2 * STRIPS], strips.space
    lines, across = shown.shape[:2]
    few = spread_out(across, 15)
    extra = 0 if strips.ends is None else 2
    cell = min(0.95, 10.5 / (len(few) + extra))
    high = cell * space.shape[0] / space.shape[1]
    drawing = blank(cell * (len(few) + extra) + 1.9, high * lines + 0.8, "compressed")
    words = [f"{strips.at[t]:.2g}" for t in few]
    if strips.ends is None:
        hang(drawing.subplots(), pixels(shown[:, few], space), strips.labels[:lines], words, below=True)
    else:
        panels = drawing.subplots(1, 3, width_ratios=(1, len(few), 1))
        for axes, end, word in ((panels[0], 0, "from"), (panels[2], 1, "to")):
            own = list(strips.labels[:lines]) if end == 0 else []
            hang(axes, pixels(strips.ends[:lines, end : end + 1], space), own, [word])
        hang(panels[1], pixels(shown[:, few], space), (), words, below=True)
    drawing.axes[min(1, len(drawing.axes) - 1)].set_xlabel(strips.along, fontsize=8.5, color=MUTED)
    drawing.suptitle(title, fontsize=10, color=INK, x=0.01, ha="left")
    return drawing


def _series(strips: Strips, title: str) -> Figure:
    """A line of panels for each strip, one for each channel: the positions lie over each other, dark to light."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    channels = [str(c) for c in strips.space.meta["channels"]][:CHANNELS]
    count, at = min(len(strips.x), STRIPS), strips.at
    drawing = blank(max(3.2 * len(channels) + 1.6, 6.4), 1.9 * count + 0.6)
    grid = drawing.subplots(count, len(channels), squeeze=False, sharex=True, sharey="col")
    scale = Normalize(float(at[0]), float(at[-1]))
    colours = colormaps["cividis"]
    values = strips.x.double().numpy()
    for k, line in enumerate(grid):
        for c, axes in enumerate(line):
            for t in range(len(at)):
                axes.plot(values[k, t, :, c], color=colours(0.9 * scale(at[t])), linewidth=1.2)
            if strips.ends is not None:
                for end in (0, 1):
                    axes.plot(strips.ends[k, end, :, c].double().numpy(), ":", color=INK, linewidth=1)
            name = strips.labels[k] if c == 0 else ""
            plain(axes, f"{name}   {short(channels[c])}" if len(channels) > 1 else name)
    for axes in grid[-1]:
        axes.set_xlabel("step", fontsize=8.5, color=MUTED)
    bar = drawing.colorbar(
        ScalarMappable(Normalize(at[0], at[-1] + (at[-1] - at[0]) / 9), colours), ax=grid, shrink=0.8
    )
    bar.ax.set_ylim(at[0], at[-1])
    bar.set_label(strips.along, size=8.5, color=MUTED)
    bar.ax.tick_params(labelsize=8, colors=MUTED)
    asked = "; dotted: the two asked for" if strips.ends is not None else ""
    drawing.suptitle(title + asked, fontsize=10, color=INK, x=0.01, ha="left")
    return drawing


def _columns(strips: Strips, title: str, together: bool) -> Figure:
    """Columns against the position: a panel for each of those that change most."""
    values, space = units(strips.space, strips.x), strips.space
    if together:
        shown = range(min(len(values), len(LINES)))
        chosen = _changing(values, space, -1, PANELS)
        across = min(len(chosen), ACROSS)
        grid = _grid(across, -(-len(chosen) // across), title)
        for axes, j in zip(grid.flat, chosen, strict=False):
            _column(axes, strips, values, shown, j)
        for axes in grid[-1]:
            axes.set_xlabel(strips.along, fontsize=8.5, color=MUTED)
        return _without_empty(grid)
    count = min(len(values), STRIPS)
    moved = list(strips.moved) or [-1] * count
    each = [_changing(values[k : k + 1], space, moved[k], BESIDE) for k in range(count)]
    grid = _grid(max(map(len, each)), count, title)
    for k, line in enumerate(grid):
        for axes, j in zip(line, each[k], strict=False):
            _column(axes, strips, values, [k], j, moved[k])
            axes.set_xlabel(names(space)[moved[k]] if moved[k] >= 0 else strips.along, fontsize=8, color=MUTED)
        line[0].set_ylabel(f"{strips.labels[k]} is moved" if moved[k] >= 0 else strips.labels[k], fontsize=9, color=INK)
    return _without_empty(grid)


def _grid(across: int, lines: int, title: str) -> Any:
    drawing = blank(max(2.2 * across + 0.4, 4.4), 1.95 * lines + 0.4)
    drawing.suptitle(title, fontsize=10, color=INK, x=0.01, ha="left")
    return drawing.subplots(lines, across, squeeze=False)


def _without_empty(grid: Any) -> Figure:
    for axes in grid.flat:
        axes.set_visible(axes.has_data())
    return grid[0, 0].figure


def _column(axes: Any, strips: Strips, values: Array, rows: Sequence[int], column: int, moved: int = -1) -> None:
    """One column of some strips, against the position, or against the column that was moved."""
    space, v = strips.space, strips.space.variable(column)
    ends = [] if strips.ends is None else [units(space, strips.ends[r])[:, column] for r in rows]
    every = np.concatenate([values[list(rows), :, column].ravel(), *ends])
    place = close_up(axes.yaxis, v, every)
    for k, r in enumerate(rows):
        x, y, own, mark = strips.at, values[r, :, column], LINES[r % len(LINES)], ".-"
        if moved >= 0:  # quantiles may fall together
            x, first = np.unique(values[r, :, moved], return_index=True)
            y = y[first]
            if wordy(space.variable(moved)):
                x, mark = close_up(axes.xaxis, space.variable(moved), x)(x), "o"
                axes.tick_params(axis="x", rotation=60)
        axes.plot(x, place(y), mark, color=own, markersize=5, linewidth=1.3)
        if ends:
            axes.plot(strips.at[[0, -1]], place(ends[k]), "o", mfc="none", mec=own, markersize=8)
    every = place(every)
    # at least two deviations from bottom to top, so that a small change looks small
    half = 0.5 * np.ptp(every) + 0.4 if wordy(v) else max(0.58 * float(np.ptp(every)), deviation(v))
    middle = (every.max() + every.min()) / 2
    axes.set_ylim(middle - half, middle + half)
    plain(axes, names(space)[column])


def _changing(values: Array, space: Space, moved: int, most: int) -> list[int]:
    """The columns but the moved one that change most, in deviations, in their own order."""
    change = np.array([np.ptp(values[..., j]) / deviation(space.variable(j)) for j in range(space.size)])
    others = [j for j in np.argsort(-change, kind="stable").tolist() if j != moved] or [moved]
    return sorted(others[:most])


def _path(strips: Strips, title: str) -> Figure:
    """Ways through the plane of two columns."""
    values, space = units(strips.space, strips.x), strips.space
    drawing = blank(4.8, 4.4)
    axes = drawing.subplots()
    for k in range(len(values)):
        own = LINES[k % len(LINES)]
        axes.plot(*values[k].T, ".-", color=own, markersize=6, linewidth=1.2)
        if strips.ends is not None:
            ends = units(space, strips.ends[k])
            axes.plot(*ends.T, "o", markerfacecolor="none", markeredgecolor=own, markersize=10)
            for word, end in zip(("from", "to"), ends, strict=True):
                axes.annotate(word, end, (7, 5), textcoords="offset points", fontsize=8, color=own)
    axes.set(xlabel=names(space)[0], ylabel=names(space)[1])
    label_words(axes.xaxis, space.variable(0))
    label_words(axes.yaxis, space.variable(1))
    plain(axes, title)
    return drawing


def map_figure(x: Tensor, space: Space, at: Array, labels: Sequence[str]) -> Figure:
    """Rows `(T, T, *event)` over a plane: the first axis upward, the second to the right."""
    words = [f"{a:.2g}" for a in at]
    if pictured(space):
        side = min(8.0, 0.75 * len(at))
        drawing = blank(side + 1.0, side * space.shape[0] / space.shape[1] + 0.9, "compressed")
        axes = drawing.subplots()
        hang(axes, pixels(x.flip(0), space), words[::-1], words, below=True)
        _axes_of_map(axes, labels, "a map of rows: what lies where on the two main axes")
        return drawing
    if columnar(space):
        return _sheets(x, space, at, labels)
    few = spread_out(len(at), 5)
    drawing = blank(9.0, 9.0)
    grid = drawing.subplots(len(few), len(few), squeeze=False)
    for axes, (i, j) in zip(grid.flat, ((i, j) for i in few[::-1] for j in few), strict=True):
        KINDS[space.kind].draw(axes, x[i, j][None], space)
        axes.set_title(f"{words[j]}, {words[i]}", fontsize=7, color=MUTED)
    drawing.supxlabel(labels[1], fontsize=8.5, color=MUTED)
    drawing.supylabel(labels[0], fontsize=8.5, color=MUTED)
    return drawing


def _axes_of_map(axes: Any, labels: Sequence[str], title: str) -> None:
    axes.set_xlabel(labels[1], fontsize=8.5, color=MUTED)
    axes.set_ylabel(labels[0], fontsize=8.5, color=MUTED)
    axes.tick_params(labelcolor=MUTED, labelsize=7.5)
    axes.set_title(title, fontsize=10, loc="left", color=INK)


def _sheets(x: Tensor, space: Space, at: Array, labels: Sequence[str]) -> Figure:
    """A heat map of each column over the plane."""
    values = units(space, x)
    chosen = _changing(values.reshape(1, -1, space.size), space, -1, PANELS)
    across = min(len(chosen), ACROSS)
    lines = -(-len(chosen) // across)
    drawing = blank(2.6 * across, 2.4 * lines + 0.4)
    grid = drawing.subplots(lines, across, squeeze=False, sharex=True, sharey=True)
    step = (at[-1] - at[0]) / (len(at) - 1) / 2
    for axes in grid.flat[len(chosen) :]:
        axes.set_visible(False)
    for axes, j in zip(grid.flat, chosen, strict=False):
        box = (at[0] - step, at[-1] + step, at[0] - step, at[-1] + step)
        image = axes.imshow(values[..., j], origin="lower", extent=box, cmap="cividis", interpolation="nearest")
        bar = drawing.colorbar(image, ax=axes, shrink=0.8, pad=0.02)
        bar.ax.tick_params(labelsize=7, colors=MUTED)
        label_words(bar.ax.yaxis, space.variable(j))
        plain(axes, names(space)[j])
    drawing.supxlabel(labels[1], fontsize=8.5, color=MUTED)
    drawing.supylabel(labels[0], fontsize=8.5, color=MUTED)
    return drawing
