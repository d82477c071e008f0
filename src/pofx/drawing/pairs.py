"""Pairs: rows and what became of them: translated, or restored from a measurement.

Offers `paired_figure` and `restored_figure`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from pofx.drawing.pixels import hang, pictured, pixels
from pofx.drawing.style import ACCENT, BRANCH, INK, LINE, MUTED, blank, plain
from pofx.drawing.values import columnar, label_words, names, short, units
from pofx.kinds import KINDS
from pofx.kinds.base import Space

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray[Any, np.dtype[Any]]
PICTURES, CELLS, ACROSS, CHANNELS = 12, 6, 4, 4  # pictures abreast; rows that another kind draws; panels; channels
RESTORED, DRAWS, POINTS = 4, 3, 30  # rows and draws of what is restored; rows of a panel of a column


def paired_figure(before: Tensor, old: Space, after: Tensor, new: Space, words: tuple[str, str]) -> Figure:
    """Rows above what became of them.

    Args:
        before: `(N, *event)` of the Space `old`; a label `()` each is written as a word.
        after: `(N, *event)` of the Space `new`.
        words: of both lines.
    """
    columns = columnar(old) and columnar(new) and old.size == new.size
    return _moved(before, old, after, new, words) if columns else _stacked(before, old, after, new, words)


def _stacked(before: Tensor, old: Space, after: Tensor, new: Space, words: tuple[str, str]) -> Figure:
    most = PICTURES if pictured(new) else CELLS
    rows = list(range(min(len(after), most)))
    wide = max(0.85 * len(rows), 4.0) + 1.2 if pictured(new) else 7.0
    label = not old.shape
    heights = [_height(s, len(rows)) for s in ((new,) if label else (old, new))]
    drawing = blank(
        wide, sum(heights) + 0.4, "compressed" if pictured(new) and (label or pictured(old)) else "constrained"
    )
    panels = drawing.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, x, space, word in zip(panels[::-1], (after, before), (new, old), words[::-1], strict=False):
        if pictured(space):
            hang(axes, pixels(x[rows][None], space), [word])
        else:
            KINDS.get(space.kind, KINDS["array"]).draw(axes, x[rows], space)
            axes.set_title(word, fontsize=9, loc="left", color=INK)
    if label:
        values = old.variables[0].values
        said = [short(values[int(c)] if values else f"{float(c):.3g}") for c in before[rows]]
        if pictured(new):
            hang(panels[0], pixels(after[rows][None], new), [words[1]], said)
            panels[0].set_title(f"{words[0]}:", fontsize=8, loc="left", color=MUTED)
        else:
            panels[0].set_title(f"{words[0]}: {', '.join(said)}", fontsize=9, loc="left", color=INK)
    return drawing


def _height(space: Space, count: int) -> float:
    return 0.85 * space.shape[0] / space.shape[1] + 0.1 if pictured(space) else 2.4 if count > 1 else 1.6


def _moved(before: Tensor, old: Space, after: Tensor, new: Space, words: tuple[str, str]) -> Figure:
    """Each column before against the same after; what is left as it was lies on the line."""
    a, b = units(old, before), units(new, after)
    chosen = list(range(old.size))[: 2 * ACROSS]
    across = min(len(chosen), ACROSS)
    lines = -(-len(chosen) // across)
    drawing = blank(2.7 * across + 0.3, 2.6 * lines + 0.3)
    grid = drawing.subplots(lines, across, squeeze=False)
    for axes in grid.flat[len(chosen) :]:
        axes.set_visible(False)
    alike = [v.name for v in old.variables] == [v.name for v in new.variables]
    for axes, j in zip(grid.flat, chosen, strict=False):
        axes.plot(a[:, j], b[:, j], ".", color=ACCENT, markersize=4, alpha=0.6)
        axes.set(xlabel=f"{words[0]}: {names(old)[j]}", ylabel=f"{words[1]}: {names(new)[j]}")
        ends = max(a[:, j].min(), b[:, j].min()), min(a[:, j].max(), b[:, j].max())
        if alike and ends[0] < ends[1]:  # else nothing could be left as it was
            axes.plot(ends, ends, color=BRANCH, linewidth=0.8, zorder=0)
        label_words(axes.xaxis, old.variable(j))
        label_words(axes.yaxis, new.variable(j))
        plain(axes)
        axes.grid(color=LINE, linewidth=0.4)
    return drawing


def restored_figure(y: Tensor, draws: Tensor, mean: Tensor, spread: Tensor, space: Space) -> Figure:
    """What x may have been.

    Args:
        y: `(N, *measured)`, shown where it is a picture.
        draws: `(M, N, *event)` of x.
        mean, spread: `(N, *event)`, over all draws.
        space: of x.
    """
    if pictured(space):
        return _uncertain(y, draws, mean, spread, space)
    if columnar(space) and space.size <= 3 * ACROSS:
        return _intervals(draws, spread, space)
    if space.kind == "series" or columnar(space):
        return _bands(draws, spread, space)
    shown = min(len(draws), DRAWS)
    drawing = blank(7.0, 2.2 * shown + 0.3)
    for k, axes in enumerate(drawing.subplots(shown, 1, squeeze=False)[:, 0]):
        KINDS[space.kind].draw(axes, draws[k, :CELLS], space)
        axes.set_title(f"draw {k + 1} of {len(draws)}", fontsize=9, loc="left", color=INK)
    return drawing


def _uncertain(y: Tensor, draws: Tensor, mean: Tensor, spread: Tensor, space: Space) -> Figure:
    """A line for each row: what was measured, draws, their mean, and where they differ."""
    seen = _as_pictures(y, space)
    rows, some = min(len(mean), RESTORED), min(len(draws), DRAWS)
    heads = ["measured"] * (seen is not None) + [f"draw {k + 1}" for k in range(some)] + ["mean", "spread"]
    high = 1.25 * space.shape[0] / space.shape[1]
    drawing = blank(1.25 * len(heads) + 0.9, high * rows + 0.4, "compressed")
    grid = drawing.subplots(rows, len(heads), squeeze=False)
    loose = spread.double().square().mean(-1).sqrt().numpy()
    most = max(float(loose[:rows].max()), 1e-9)
    image: Any = None
    for r, line in enumerate(grid):
        shown = [] if seen is None else [seen[r]]
        shown += [*pixels(draws[:some, r], space), pixels(mean[r], space)]
        for axes, picture in zip(line, shown, strict=False):
            hang(axes, picture[None, None])
        image = line[-1].imshow(loose[r], cmap="magma", vmin=0, vmax=most, interpolation="nearest")
        line[-1].set_axis_off()
    for axes, head in zip(grid[0], heads, strict=True):
        axes.set_title(head, fontsize=9, color=INK)
    bar = drawing.colorbar(image, ax=grid, shrink=min(1.0, 0.5 + 0.5 / rows), pad=0.02)
    bar.set_label(f"standard deviation, levels of {space.meta.get('white', 255)}", size=8.5, color=MUTED)
    bar.ax.tick_params(labelsize=8, colors=MUTED)
    return drawing


def _as_pictures(y: Tensor, space: Space) -> Array | None:
    """Measurements as bytes `(N, H, W, 3)`; None where they are no pictures."""
    channels = space.shape[-1]
    if y.ndim == 3 and min(y.shape[1:]) > 1:
        y = y.unsqueeze(-1)
    if y.ndim != 4 or y.shape[-1] not in (1, channels) or min(y.shape[1:3]) < 2:
        return None
    return pixels(y.expand(*y.shape[:-1], channels), space)


def _intervals(draws: Tensor, spread: Tensor, space: Space) -> Figure:
    """A panel for each column: of each row the draws, their mean, and one deviation either way."""
    values, loose = units(space, draws), units(space, draws).std(0)
    if values.shape[0] > 1 and not any(v.discrete for v in space.variables):
        loose = spread.double().reshape(len(spread), space.size).numpy()  # of pairs of opposite noise, which is nearer
    rows, across = min(values.shape[1], POINTS), min(space.size, ACROSS)
    lines = -(-space.size // across)
    drawing = blank(2.6 * across + 0.3, 2.1 * lines + 0.3)
    grid = drawing.subplots(lines, across, squeeze=False)
    for axes in grid.flat[space.size :]:
        axes.set_visible(False)
    place = np.arange(rows)
    for j, axes in enumerate(grid.flat[: space.size]):
        middle = values[:, :rows, j].mean(0)
        axes.plot(
            np.tile(place, len(values)), values[:, :rows, j].ravel(), ".", color=BRANCH, markersize=3, label="draws"
        )
        axes.errorbar(
            place, middle, loose[:rows, j], fmt="o", color=ACCENT, markersize=4, linewidth=1.4,
            label="mean, one deviation",
        )  # fmt: skip
        axes.set(xlim=(-0.6, rows - 0.4))
        axes.xaxis.get_major_locator().set_params(integer=True)
        label_words(axes.yaxis, space.variable(j))
        plain(axes, names(space)[j])
    grid[-1, 0].set_xlabel("row", fontsize=8.5, color=MUTED)
    drawing.legend(
        *grid[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False, fontsize=8
    )
    return drawing


def _bands(draws: Tensor, spread: Tensor, space: Space) -> Figure:
    """A panel for each row, and for each channel of a series: mean and deviation over the entries, and some draws."""
    series = space.kind == "series"
    channels = [str(c) for c in space.meta["channels"]][:CHANNELS] if series else [""]
    shape = (*draws.shape[:2], space.shape[0], -1)
    values = units(space, draws).reshape(shape)
    loose = spread.double().numpy().reshape(shape[1:])
    rows = min(values.shape[1], RESTORED)
    drawing = blank(max(3.4 * len(channels), 6.0), 1.9 * rows + 0.4)
    grid = drawing.subplots(rows, len(channels), squeeze=False, sharex=True)
    at = np.arange(values.shape[2])
    for r, line in enumerate(grid):
        for c, axes in enumerate(line):
            middle, half = values[:, r, :, c].mean(0), loose[r, :, c]
            axes.fill_between(at, middle - half, middle + half, color="#c5d8ec", linewidth=0, label="one deviation")
            axes.plot(at, values[:DRAWS, r, :, c].T, color=BRANCH, linewidth=0.7, zorder=1)
            axes.plot(at, middle, color=ACCENT, linewidth=1.5, label="mean")
            axes.plot([], [], color=BRANCH, label=f"{min(len(values), DRAWS)} draws")
            plain(axes, f"row {r}" + (f"   {short(channels[c])}" if len(channels) > 1 else ""))
    for axes in grid[-1]:
        axes.set_xlabel("step" if series else "entry", fontsize=8.5, color=MUTED)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside upper right", ncols=3, frameon=False, fontsize=8)
    return drawing
