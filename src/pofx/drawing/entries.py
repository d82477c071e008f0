"""Entries: a number for each entry of some rows, as colours: which entries make a row unlikely.

Pictures stand above their maps, columns of tables in one map of rows by columns, letters of texts in colour; of every
other kind each row is drawn above the sums of its steps. Blue: likelier than usual, red: less likely than usual.
Offers `entries_figure` and `least_likely`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from pofx.drawing.letters import END, laid_out, letters, spelt
from pofx.drawing.pixels import pictured, pixels
from pofx.drawing.rows import title_of
from pofx.drawing.style import BRANCH, INK, LINE, MUTED, blank, plain
from pofx.drawing.values import columnar, names, short, spread_out, units, wordy
from pofx.kinds import KINDS
from pofx.kinds.base import Space, Variable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray[Any, np.dtype[Any]]
PICTURES, ROWS, TEXTS, OTHERS, CHANNELS = 8, 30, 8, 3, 4  # rows that are shown, and channels of a series
WRITTEN, NAMED, EDGED = (480, 16), 40, 80  # cells and columns with their values; named columns; columns with a frame
STRANGE = 0.5  # nats below the usual, from which the strangest entry of a row is framed
MISSING = "#d9d9d9"
GONE = 10.0  # how far beyond the colours an impossible entry is put


def entries_figure(
    values: Array, x: Tensor, observed: Tensor, space: Space, unit: str, usual: Array, who: str
) -> Figure:
    """A number for each entry of the least likely rows.

    Args:
        values: `(N, *event)`, lower is stranger; minus infinity: impossible.
        x, observed: the rows and which entries are known, `(N, *event)`.
        space: of x.
        unit: of the numbers.
        usual: `(*event)`, what the number of each entry usually is, the middle of the colours.
        who: whose usual values these are, in words.
    """
    excess = np.where(observed.numpy(), values - usual, np.nan)
    if pictured(space):
        return _pictures(excess, x, space, unit, who)
    if space.kind == "text":
        return _texts(values, x, observed, space, unit)
    if columnar(space):
        return _columns(excess, x, space, unit, who)
    return _steps(excess, x, space, unit, who)


def least_likely(values: Array, most: int) -> Array:
    """The rows whose numbers have the lowest sum, the lowest first; NaN counts as nothing."""
    return np.argsort(np.nansum(values.reshape(len(values), -1), 1), kind="stable")[:most]


def _pictures(excess: Array, x: Tensor, space: Space, unit: str, who: str) -> Figure:
    rows = least_likely(excess, PICTURES)
    h, w, channels = space.shape
    maps, colours = _coloured(excess[rows].sum(-1))
    cell = 1.15 if len(rows) > 1 else 2.2
    drawing = blank(max(cell * len(rows) + 1.3, 5.4), 2 * cell * h / w + 1.1, "compressed")
    grid = drawing.subplots(2, len(rows), squeeze=False)
    for k, r in enumerate(rows):
        grid[0, k].imshow(pixels(x[int(r)], space), interpolation="nearest")
        grid[0, k].set_title(f"row {r}", fontsize=8, color=MUTED)
        image = grid[1, k].imshow(maps[k], interpolation="nearest", **colours)
        for axes in grid[:, k]:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_color(LINE)
    for axes, word in zip(grid[:, 0], ("picture", "what its pixels\nadd to log p"), strict=True):
        axes.set_ylabel(word, fontsize=8, color=MUTED)
    _bar(drawing, image, list(grid[1]), _beyond(unit))
    title_of(drawing, f"red pixels make these rows unlikely\n{_least(len(rows), len(x))}; {who}")
    return drawing


def _columns(excess: Array, x: Tensor, space: Space, unit: str, who: str) -> Figure:
    rows = least_likely(excess, ROWS)
    shown, colours = _coloured(excess[rows])
    count, across = shown.shape
    written = count * across <= WRITTEN[0] and across <= WRITTEN[1]
    drawing = blank(float(np.clip((0.72 if written else 0.32) * across + 2.2, 5.4, 12)), max(0.26 * count + 1.5, 2.6))
    axes = drawing.subplots()
    image = axes.imshow(shown, aspect="auto", interpolation="nearest", **colours)
    for i, row in enumerate(shown):
        if np.nanmin(row, initial=0.0) < -STRANGE:
            _frame(axes, i, int(np.nanargmin(row)), across)
    if written:
        _write(axes, units(space, x[rows.copy()]), shown, image, space)
    few = spread_out(across, NAMED)
    axes.set_xticks(few, [names(space)[j] for j in few], rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(count), [f"row {r}" for r in rows])
    plain(axes)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    _bar(drawing, image, [axes], _beyond(unit))
    more = f"the {count} least likely of {len(excess)} rows" if count < len(excess) else "least likely row first"
    title_of(drawing, f"what each entry adds to log p: framed, the strangest of its row\n{more}; {who}")
    return drawing


def _frame(axes: Any, row: int, column: int, across: int) -> None:
    """Mark the strangest entry of a row."""
    from matplotlib.patches import Rectangle

    if across > EDGED:
        axes.plot(column, row, "x", color=INK, markersize=4)
        return
    box = Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=INK, linewidth=1.4, zorder=3)
    box.set_gid("strangest")
    axes.add_patch(box)


def _write(axes: Any, cells: Array, shown: Array, image: Any, space: Space) -> None:
    """The row's own values into the cells."""
    shade = image.cmap(image.norm(np.nan_to_num(shown)))[..., :3] @ np.array([0.299, 0.587, 0.114])
    for (i, j), value in np.ndenumerate(cells):
        missing = np.isnan(shown[i, j])
        word = "" if missing else _word(space.variable(j), value)
        colour = "white" if shade[i, j] < 0.5 and not missing else INK
        axes.text(j, i, word, ha="center", va="center", fontsize=6.5, color=colour, parse_math=False)


def _word(v: Variable, value: float) -> str:
    return short((v.values or ())[int(value)], 11) if wordy(v) else f"{value:.6g}".replace("-", "−")


def _texts(values: Array, x: Tensor, observed: Tensor, space: Space, unit: str) -> Figure:
    from matplotlib.colors import Normalize

    known = np.where(observed.numpy(), values, np.nan)
    rows = least_likely(known, TEXTS)
    words = spelt(x[rows.copy()], space)
    lowest = np.nanmin(np.where(np.isfinite(known), known, np.nan)) if np.isfinite(known).any() else -1.0
    top = max(0.0, float(np.nanmax(known, initial=0.0)))
    numbers = [np.maximum(known[r], lowest) for r in rows]
    lines = laid_out(words, numbers)[0]
    drawing = blank(max(0.112 * len(lines[0]) + 2.0, 5.2), 0.19 * max(len(lines), 3) + 0.9)
    axes = drawing.subplots()
    norm = Normalize(min(float(lowest), top - 1.0), top)
    image = letters(axes, words, numbers, [f"row {r}" for r in rows], cmap="Oranges_r", norm=norm)
    _bar(drawing, image, [axes], unit.replace("an entry", "a symbol"))
    ends = f"; {END}: the end" if any(END in text for text in words) else ""
    least = _least(len(rows), len(x))
    title_of(drawing, f"what each symbol adds to log p: dark ones were not expected\n{least}{ends}")
    return drawing


def _steps(excess: Array, x: Tensor, space: Space, unit: str, who: str) -> Figure:
    """Each row as its kind draws it, above the sum of its entries at each place of its first axis."""
    rows = least_likely(excess, OTHERS)
    drawing = blank(7.2, 3.1 * len(rows) + 0.5)
    grid = drawing.subplots(2 * len(rows), 1, squeeze=False, height_ratios=[1.7, 1] * len(rows))[:, 0]
    names_of = space.meta.get("channels", ()) if space.kind == "series" else ()
    for k, r in enumerate(rows):
        above, below = grid[2 * k : 2 * k + 2]
        if names_of:
            _lines(above, x[int(r)], list(map(str, names_of)))
        else:
            KINDS[space.kind].draw(above, x[int(r)][None], space)
        above.set_title(f"row {r}", fontsize=9, loc="left", color=INK)
        sums = np.nansum(np.nan_to_num(excess[r].reshape(space.shape[0], -1), neginf=np.nan), 1)
        place = np.arange(len(sums))
        below.bar(place, sums, 1.0, color=np.where(sums < 0, "#b2182b", "#2166ac").tolist())
        below.axhline(0, color=BRANCH, linewidth=0.8)
        below.set_xlim(-0.5, len(sums) - 0.5)
        below.set_ylabel(_beyond(unit))
        below.sharey(grid[1])
        plain(below)
    grid[-1].set_xlabel("step")
    title_of(drawing, f"what each step adds to log p: red ones make a row unlikely; {_least(len(rows), len(x))}\n{who}")
    return drawing


def _beyond(unit: str) -> str:
    """What the colours say."""
    return f"{unit.split(' an ')[0]} above or\nbelow the usual"


def _lines(axes: Any, x: Tensor, channels: list[str]) -> None:
    """The first channels of one series, over the same steps as the bars."""
    for c, name in enumerate(channels[:CHANNELS]):
        axes.plot(x[:, c].double().numpy(), linewidth=1, label=short(name))
    axes.set_xlim(-0.5, len(x) - 0.5)
    plain(axes)
    if len(channels) > 1:
        axes.legend(frameon=False, fontsize=7, ncols=CHANNELS, loc="lower right", bbox_to_anchor=(1, 1))


def _least(shown: int, of: int) -> str:
    return f"the {shown} least likely of {of} rows" if shown < of else "least likely first"


def _coloured(excess: Array) -> tuple[Array, dict[str, Any]]:
    """What is drawn, with impossible entries beyond the colours, and the colours: the same on either side of 0."""
    from matplotlib import colormaps
    from matplotlib.colors import Normalize

    sizes = np.abs(excess[np.isfinite(excess)])
    half = max(float(np.quantile(sizes, 0.995)) if len(sizes) else 0.0, 1.0)  # less than a nat is nothing to look at
    shown = np.where(np.isinf(excess), np.sign(np.nan_to_num(excess)) * GONE * half, excess)
    return shown, {"norm": Normalize(-half, half), "cmap": colormaps["RdBu"].with_extremes(bad=MISSING)}


def _bar(drawing: Any, image: Any, beside: list[Any], label: str) -> None:
    bar = drawing.colorbar(image, ax=beside, pad=0.02, shrink=min(0.9, 2.6 / drawing.get_figheight()), aspect=15)
    bar.set_label(label, size=8, color=MUTED)
    bar.ax.tick_params(labelsize=7.5, colors=MUTED)
    bar.outline.set_visible(False)
